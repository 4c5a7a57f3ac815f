"""Many slow downloads at once under real gunicorn, with the configuration that comes with it."""

import contextlib
import hashlib
import os
import re
import resource
import socket

import pytest
import requests

from tests.conftest import KEY
from tests.e2e.shipped import our_server
from tests.running import PATIENCE, wait_until

MIB = 1024 * 1024
SIZE = 16 * MIB  # more than the buffers of two sockets hold
SLOW = 300


@pytest.fixture
def settings(tmp_path):
    """Return the settings of a server with a release of zeros, which takes no room on the disk."""
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / "app-1.0.0").touch()
    os.truncate(tmp_path / "releases" / "app-1.0.0", SIZE)
    versions = {"1.0.0": hashlib.sha256(bytes(SIZE)).hexdigest()}
    return {"appname": "app", "key": KEY, "releases": tmp_path / "releases", "versions": versions}


def begin(port) -> socket.socket:
    """Begin a download; no more is read of it than its first bytes."""
    connection = socket.socket()
    connection.settimeout(PATIENCE)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(b"GET /api/releases/1.0.0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return connection


def workers(server) -> list[str]:
    return re.findall(r"Booting worker with pid: (\d+)", server.output())


def test_hundreds_of_slow_downloads_hold_up_nobody(settings, tmp_path):
    with our_server(settings, tmp_path) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(begin(server.port)) for _ in range(SLOW)]
        assert {connection.recv(12) for connection in slow} == {b"HTTP/1.1 200"}
        for _ in range(20):
            assert requests.get(f"{server.url}/api/latest", timeout=PATIENCE).content == b'{"version":"1.0.0"}'
        fast = requests.get(f"{server.url}/api/releases/1.0.0", timeout=PATIENCE)
        assert hashlib.sha256(fast.content).hexdigest() == settings["versions"]["1.0.0"]
        assert "ended after" not in server.output()  # none was dropped for the others
        slow[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)  # it goes on, in the end
        first = slow[0].makefile("rb")
        head = b"".join(iter(first.readline, b"\r\n"))
        assert f"Content-Length: {SIZE}".encode() in head
        assert len(first.read(SIZE)) == SIZE
        first.close()


def test_the_configuration_makes_room_for_the_files_and_connections_of_its_threads(settings, tmp_path):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip(f"no process may have more than {hard} open files here")

    def as_shells_have_it():
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    as_shells_have_it()
    try:
        server = our_server(settings, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    with server:
        wait_until(lambda: len(workers(server)) == 2, "the start of two workers")
        for pid in workers(server):
            with open(f"/proc/{pid}/limits") as limits:
                soft = next(line for line in limits if line.startswith("Max open files")).split()[3]
            assert int(soft) >= 1600

"""Clients that stop reading, under a real gunicorn: they are dropped, and nobody else is."""

import contextlib
import os
import re
import socket
import time

import pytest
import requests

from tests.e2e.test_gunicorn import APP, WORKERS, served
from tests.running import PATIENCE, Gunicorn, wait_until

KIB, MIB = 1024, 1024 * 1024
SIZE = 32 * MIB  # more than the buffers of two sockets hold
STALLED = 1  # seconds
ONE_PIECE = {"stream_threshold": SIZE // KIB}

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux drops who stalls")


@pytest.fixture
def start(tmp_path):
    """Return a function that makes a gunicorn which serves a release of zeros, and drops who stalls for a second."""
    folder = tmp_path / "releases"
    folder.mkdir()
    (folder / "app-1.0.0").touch()
    os.truncate(folder / "app-1.0.0", SIZE)

    def start(kind, **settings):
        env = served(folder, **{"stall_timeout": STALLED} | settings)
        return Gunicorn(APP, tmp_path / "log", *WORKERS[kind], "--workers", "1", env=env)

    return start


@contextlib.contextmanager
def begun(server):
    """Ask for the release, read its first bytes and then nothing; give the socket."""
    with socket.socket() as client:
        client.settimeout(PATIENCE)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /api/releases/1.0.0 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        yield client


def rest(client) -> int:
    """Return how many more bytes come until the connection ends."""
    buffer, got = bytearray(MIB), 0
    with contextlib.suppress(ConnectionResetError):
        while count := client.recv_into(buffer):
            got += count
    return got


@pytest.mark.parametrize("kind", WORKERS)
def test_who_stalls_is_dropped_without_an_error_in_the_log_and_said_to_have_left(start, kind):
    with start(kind) as server, begun(server) as client:
        told = wait_until(lambda: re.search(r"aborted (\{.*\})", server.output()), "the end of the stream")
        line = wait_until(lambda: re.search(r"GET /api/releases/1.0.0 200 (\d+) bytes", server.output()), "its line")
        assert re.fullmatch(rf'{{"version": "1.0.0", "sent": {line[1]}, "size": {SIZE}}}', told[1])
        assert rest(client) <= int(line[1]) < SIZE
        assert requests.get(f"{server.url}/api/latest", timeout=PATIENCE).status_code == 200
        server.stop()
        assert "Traceback" not in server.output()
        assert "ERROR" not in server.output()
        assert "error" not in server.output()


@pytest.mark.parametrize("settings", [{}, ONE_PIECE], ids=["streamed", "in one piece"])
def test_the_thread_of_who_stalls_is_free_again_and_who_reads_beside_it_gets_all(start, settings):
    with start("gthread", **settings) as server, contextlib.ExitStack() as stack:
        for _ in range(7):  # of eight threads
            stack.enter_context(begun(server))
        whole = requests.get(f"{server.url}/api/releases/1.0.0", timeout=PATIENCE).content
        assert whole == bytes(SIZE)
        stack.enter_context(begun(server))  # and now there is none left
        with requests.Session() as session:
            for _ in range(20):
                assert session.get(f"{server.url}/api/latest", timeout=PATIENCE).status_code == 200


@pytest.mark.parametrize("kind", WORKERS)
def test_who_reads_slowly_is_not_dropped(start, kind):
    with start(kind) as server, begun(server) as client:
        until, got = time.monotonic() + 3 * STALLED, 12
        while time.monotonic() < until:
            got += len(client.recv(16 * KIB))
            time.sleep(0.05)  # some 300 KiB/s: in one second less than the kernel wants to have room for
        got += rest(client)
        wait_until(lambda: f"200 {SIZE} bytes" in server.output(), "the end of the stream")
        assert "aborted" not in server.output()
        assert got > SIZE


def test_nobody_is_dropped_where_that_is_switched_off(start):
    with start("gthread", stall_timeout=0) as server, begun(server), begun(server) as client:
        assert rest(client) >= SIZE
        wait_until(lambda: f"200 {SIZE} bytes" in server.output(), "the end of the stream")
        assert "aborted" not in server.output()

"""Programs that embed our client are updated by the original's server."""

import os
import sys
from pathlib import Path

import pytest

from patchify.keys import SigningKey
from tests.interop.programs import Client
from tests.running import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test builds

PROGRAM = (Path(__file__).parent / "our_client.py").read_text()
PADDING = "#" * 3_000_000  # larger than what the server sends in one piece


@pytest.fixture
def our_releases(publish, monkeypatch):
    """Return the server configuration of two releases of our program."""
    monkeypatch.setenv("PYTHONPATH", os.fspath(ROOT))
    versions = ("1.0.0", "2.0.0")
    return publish({each: f'{PROGRAM}\n{PADDING}\nVERSION = "{each}"\nmain(VERSION)\n'.encode() for each in versions})


@pytest.fixture
def run(our_releases, tmp_path, key):
    """Return a function that starts version 1.0.0 of our program against a server of theirs."""

    def run(server, verifying_key=key.verifying_key) -> Client:
        first = our_releases["releases"] / "app-1.0.0"
        return Client(first, tmp_path / "installed", server.url, verifying_key.to_hex(), sys.executable)

    return run


def test_our_client_updates_itself_from_their_server_and_keeps_its_pid(our_releases, their_server, run):
    with run(their_server(our_releases)) as client:
        client.wait_for("there is nothing newer than version 2.0.0")
        assert client.started() == [("1.0.0", client.pid), ("2.0.0", client.pid)]
        assert client.program.read_bytes() == (our_releases["releases"] / "app-2.0.0").read_bytes()
        client.stop()
        assert client.popen.returncode == 0
        assert "stopped 2.0.0" in client.output()


def test_our_client_refuses_their_answers_under_another_key(our_releases, their_server, run):
    with run(their_server(our_releases), SigningKey.generate().verifying_key) as client:
        client.wait_for("WARNING FailedSignatureVerificationError")
        assert client.started() == [("1.0.0", client.pid)]
        assert "Downloading" not in client.output()
        assert client.program.read_bytes() == (our_releases["releases"] / "app-1.0.0").read_bytes()


def test_our_client_refuses_a_file_that_is_not_the_signed_one_until_it_is_there_again(our_releases, their_server, run):
    server = their_server(our_releases)
    published = our_releases["releases"] / "app-2.0.0"
    good = published.read_bytes()
    published.write_bytes(good.replace(b"#", b"%"))  # their server checks its files at its start only
    with run(server) as client:
        client.wait_for("WARNING FailedHashVerificationError")
        assert client.started() == [("1.0.0", client.pid)]
        assert client.program.read_bytes() == (our_releases["releases"] / "app-1.0.0").read_bytes()
        published.write_bytes(good)
        client.wait_for("running 2.0.0")
        assert client.started() == [("1.0.0", client.pid), ("2.0.0", client.pid)]

"""Programs that embed the original's client are updated by our server."""

import pytest

from patchify.keys import SigningKey
from tests.interop.programs import Client, our_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test builds


@pytest.fixture
def run(their_releases, tmp_path, key):
    """Return a function that starts version 1.0.0 of their client against a server of ours."""

    def run(server, verifying_key=key.verifying_key) -> Client:
        first = their_releases["releases"] / "app-1.0.0"
        return Client(first, tmp_path / "installed", server.url, verifying_key.to_hex())

    return run


def test_their_client_updates_itself_from_our_server_and_keeps_its_pid(their_releases, tmp_path, run):
    with our_server(their_releases, tmp_path / "server.log") as server, run(server) as client:
        client.wait_for("running 2.0.0")
        assert client.started() == [("1.0.0", client.pid), ("2.0.0", client.pid)]
        assert client.program.read_bytes() == (their_releases["releases"] / "app-2.0.0").read_bytes()
        client.wait_for("The current version 2.0.0 is the latest available")


def test_their_client_refuses_our_answers_under_another_key(their_releases, tmp_path, run):
    another = SigningKey.generate().verifying_key
    with our_server(their_releases, tmp_path / "server.log") as server, run(server, another) as client:
        client.wait_for("Failed signature verification")
        assert client.started() == [("1.0.0", client.pid)]
        assert "Downloading" not in client.output()
        assert client.program.read_bytes() == (their_releases["releases"] / "app-1.0.0").read_bytes()


def test_their_client_refuses_a_release_that_is_not_the_signed_one(their_releases, tmp_path, run):
    with our_server(their_releases, tmp_path / "server.log", "lying") as server, run(server) as client:
        client.wait_for("Failed hash verification for downloaded version 2.0.0")
        assert client.started() == [("1.0.0", client.pid)]
        assert client.program.read_bytes() == (their_releases["releases"] / "app-1.0.0").read_bytes()

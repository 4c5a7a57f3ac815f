"""Programs that embed the original's client are updated by our server."""

import pytest

from patchify.keys import SigningKey
from patchify.publishing.local import LocalPublisher
from patchify.publishing.publisher import Publication
from patchify.releases import EVERYBODY, Schedule
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.server.storage import FolderStorage
from patchify.versions import parse_version
from tests.interop.programs import Client, ask, our_server
from tests.running import wait_until

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


def test_their_client_follows_a_catalogue_and_gets_what_is_for_everybody(their_releases, tmp_path, run):
    catalogue = f"sqlite:///{tmp_path / 'catalogue.db'}"
    SqlCatalogue(catalogue).create()
    config = {**their_releases, "catalogue": catalogue, "releases": tmp_path / "published"}
    del config["versions"]
    config["releases"].mkdir()
    publisher = LocalPublisher(SqlCatalogue(catalogue), FolderStorage(config["releases"], config["appname"]))
    tenth = Schedule.parse("10")
    for version, schedule in (("1.0.0", EVERYBODY), ("2.0.0", tenth)):
        publication = Publication(version=parse_version(version), schedule=schedule)
        publisher.publish(their_releases["releases"] / f"app-{version}", publication)
    with our_server(config, tmp_path / "server.log") as server, run(server) as client:
        client.wait_for("The current version 1.0.0 is the latest available")  # it knows of no cohorts
        publisher.rollout("2.0.0", "stable", EVERYBODY)
        client.wait_for("The current version 2.0.0 is the latest available")
        assert client.started() == [("1.0.0", client.pid), ("2.0.0", client.pid)]
        assert client.program.read_bytes() == (their_releases["releases"] / "app-2.0.0").read_bytes()
        publisher.withdraw("2.0.0")
        wait_until(lambda: ask(server.port, "latest").body == b'{"version":"1.0.0"}', "the withdrawal")
        assert ask(server.port, "hashes/2.0.0").status == 404


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

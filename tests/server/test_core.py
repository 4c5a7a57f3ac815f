import hashlib
import io
import json
import logging
import tarfile
import threading
from datetime import UTC, datetime

import pytest
from semver import Version

from patchify import signals
from patchify.errors import (
    CatalogueError,
    InvalidVersionError,
    ReleaseError,
    ReleaseInvalidError,
    ReleaseMissingError,
    VersionNotFoundError,
)
from patchify.files import BLOCK
from patchify.keys import SigningKey, decode_signature
from patchify.messages import UpdateDocument
from patchify.releases import Placement, Release, ReleaseState
from patchify.server import Config, Core
from patchify.server import core as core_module
from patchify.server import hashes as hashes_module
from patchify.server.catalogue import Snapshot
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.versions import parse_version
from tests.conftest import KEY
from tests.running import PATIENCE

CONTENTS = {"1.0.0": b"one", "1.1.0": b"one point one", "2.0.0-rc.1": b"two"}


def test_the_catalogue_can_be_asked_without_flask(core, tmp_path):
    made = core(CONTENTS)
    assert made.latest_version() == Version.parse("2.0.0-rc.1")
    assert made.versions() == {version: hashlib.sha256(data).hexdigest() for version, data in CONTENTS.items()}
    assert made.release_file("1.0.0") == tmp_path / "releases" / "app-1.0.0"
    assert made.release_file(Version(1)) == made.release_file("1.0.0")
    assert made.release_file("3.0.0") is None
    with pytest.raises(InvalidVersionError):
        made.release_file("3")


def test_without_versions_the_latest_is_0_0_0(core):
    made = core({})
    assert str(made.latest_version()) == "0.0.0"
    assert made.latest_document.body == b'{"version":"0.0.0"}'


def test_every_document_is_signed_over_its_bytes(core, key):
    made = core(CONTENTS)
    for document in (made.latest_document, *(made.hash_document(version) for version in CONTENTS)):
        assert key.verifying_key.verify(document.body, decode_signature(document.signature))


def test_a_document_is_signed_once(core, monkeypatch):
    made, signed = core(CONTENTS), []
    sign = SigningKey.sign
    monkeypatch.setattr(SigningKey, "sign", lambda key, body: signed.append(body) or sign(key, body))
    assert made.latest_document is made.latest_document
    assert made.hash_document("1.0.0") is made.hash_document("1.0.0")
    assert len(signed) == 1


def test_there_is_no_document_of_what_does_not_exist(core):
    made = core(CONTENTS)
    with pytest.raises(VersionNotFoundError):
        made.hash_document("1.0.0+b1")
    with pytest.raises(InvalidVersionError):
        made.hash_document("one")


def test_a_release_is_opened_with_what_is_known_of_it(core):
    release, file = core(CONTENTS).open_release("1.1.0")
    with file:
        assert hashlib.sha256(file.read()).hexdigest() == release.sha256


def test_a_missing_file_stops_the_start_and_is_named(publish, tmp_path):
    settings = publish(CONTENTS)
    (tmp_path / "releases" / "app-1.1.0").unlink()
    with pytest.raises(ReleaseMissingError, match=r"^release 1\.1\.0: /.*/app-1\.1\.0 is missing"):
        Core(Config(**settings))


def test_a_missing_folder_stops_the_start(publish, tmp_path):
    with pytest.raises(ReleaseMissingError):
        Core(Config(**publish(CONTENTS) | {"releases": tmp_path / "nowhere"}))


def test_a_wrong_hash_stops_the_start_and_both_hashes_are_named(publish):
    settings = publish(CONTENTS)
    settings["versions"]["1.0.0"] = "ab" * 32
    with pytest.raises(ReleaseInvalidError) as caught:
        Core(Config(**settings))
    found = hashlib.sha256(b"one").hexdigest()
    assert str(caught.value).endswith(f"app-1.0.0 has SHA-256 {found}, but {'ab' * 32} is configured")
    assert isinstance(caught.value, ReleaseError)


def test_a_failed_start_keeps_no_thread(publish, tmp_path):
    settings = publish({f"1.0.{number}": bytes([number]) * BLOCK for number in range(20)})
    (tmp_path / "releases" / "app-1.0.7").write_bytes(b"")
    with pytest.raises(ReleaseInvalidError):
        Core(Config(**settings))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("patchify")]


def test_the_start_is_logged_and_signalled_with_what_was_checked(core, caplog, key):
    caplog.set_level(logging.INFO, "patchify")
    heard = []

    def receiver(sender, **facts):
        heard.append((sender, facts))

    with signals.releases_checked.connected_to(receiver):
        made = core(CONTENTS)
    assert heard == [(made, {"releases": 3, "size": 19})]
    (line,) = caplog.messages
    assert line.startswith("app: releases checked: 3 (19 bytes in ")
    assert line.endswith(f"latest is 2.0.0-rc.1, public key {key.verifying_key.to_hex()}")


def test_progress_is_told_up_to_all_bytes(publish):
    sizes = [BLOCK * 3 + 1, BLOCK, 5]
    told = []
    settings = publish({f"1.0.{number}": bytes(size) for number, size in enumerate(sizes)})
    Core(Config(**settings), lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {sum(sizes)}
    assert max(done for done, _ in told) == sum(sizes)
    assert len({done for done, _ in told}) == len(told) == 6


def test_a_long_check_tells_the_log(publish, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "patchify")
    monkeypatch.setattr(core_module, "_REPORT_EVERY", 0)
    Core(Config(**publish({"1.0.0": bytes(2 * BLOCK)})))
    assert caplog.messages[:2] == [
        f"checking releases: {BLOCK} of {2 * BLOCK} bytes",
        f"checking releases: {2 * BLOCK} of {2 * BLOCK} bytes",
    ]


def test_several_files_are_hashed_at_once(publish, monkeypatch):
    monkeypatch.setattr(core_module.os, "cpu_count", lambda: 2)
    meeting = threading.Barrier(2)  # breaks if one file waits for the other to be done
    Core(
        Config(**publish({"1.0.0": b"a", "2.0.0": b"b"})),
        lambda done, total: meeting.wait(PATIENCE),
    )


def test_what_a_progress_callable_raises_stops_the_start(publish):
    def stop(done, total):
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        Core(Config(**publish(CONTENTS)), stop)


def test_a_second_start_hashes_only_what_is_new(core, caplog, settled, tmp_path):
    caplog.set_level(logging.INFO, "patchify")
    told = []
    core({"1.0.0": b"one", "2.0.0": b"two"})
    (tmp_path / "releases" / "app-2.0.0").unlink()
    settings = {version: hashlib.sha256(data).hexdigest() for version, data in (("1.0.0", b"one"), ("3.0.0", b"three"))}
    (tmp_path / "releases" / "app-3.0.0").write_bytes(b"three")
    config = Config(appname="app", key=KEY, releases=tmp_path / "releases", versions=settings)
    Core(config, lambda done, total: told.append((done, total)))
    assert sorted(told) in ([(3, 8), (8, 8)], [(5, 8), (8, 8)])
    first, second = caplog.messages
    assert ", hashed: 2, remembered: 0)" in first
    assert ", hashed: 1, remembered: 1)" in second
    known = json.loads((tmp_path / "releases" / ".hashes.json").read_text())
    assert known["files"].keys() == {"app-1.0.0", "app-3.0.0"}


def test_a_start_that_fails_has_not_hashed_the_rest_for_nothing(publish, settled, caplog):
    caplog.set_level(logging.INFO, "patchify")
    settings = publish(CONTENTS)
    wrong = settings | {"versions": settings["versions"] | {"1.0.0": "ab" * 32}}
    with pytest.raises(ReleaseInvalidError):
        Core(Config(**wrong))
    Core(Config(**settings))
    known = json.loads((settings["releases"] / ".hashes.json").read_text())["files"]
    assert known.keys() == {f"app-{version}" for version in CONTENTS}


def test_a_folder_that_nobody_may_write_to_stops_no_start(publish, settled, caplog, monkeypatch):
    def fail(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(hashes_module, "write_durably", fail)
    made = Core(Config(**publish(CONTENTS)))
    assert len(caplog.messages) == 1
    assert "cannot be written (Read-only file system)" in caplog.text
    assert str(made.latest_version()) == "2.0.0-rc.1"


# A catalogue that others change ---------------------------------------------------------------------------------------


class Changing:
    """A catalogue that a test changes."""

    def __init__(self, *releases):
        self.revision = 1_000_000
        self.change(*releases)

    def change(self, *releases):
        self.revision += 1
        self.made = Snapshot(releases, self.revision)

    def snapshot(self):
        return self.made


def published(version, data: bytes, state=ReleaseState.LIVE, channel="stable", **members):
    moment = datetime(2026, 11, 23, 18, tzinfo=UTC)
    placement = Placement(channel, state, since=moment, changed=moment)
    digest = hashlib.sha256(data).hexdigest()
    return Release(parse_version(version), digest, size=len(data), placements=(placement,), **members)


@pytest.fixture
def kept(publish):
    """Return a function that makes a `Core` of files and of a catalogue that is given."""
    return lambda contents, catalogue: Core(Config(**publish(contents) | {"versions": None, "catalogue": catalogue}))


def test_a_change_of_the_catalogue_is_in_every_answer(kept):
    catalogue = Changing(published("1.0.0", b"one"))
    made = kept({"1.0.0": b"one", "2.0.0": b"two"}, catalogue)
    assert made.latest_document.body == b'{"version":"1.0.0"}'
    with pytest.raises(VersionNotFoundError):
        made.hash_document("2.0.0")
    before = UpdateDocument.parse(made.update_document("stable", "any").body)
    catalogue.change(published("1.0.0", b"one", ReleaseState.WITHDRAWN), published("2.0.0", b"two"))
    assert made.latest_version() == Version(2)
    assert made.versions() == {"2.0.0": hashlib.sha256(b"two").hexdigest()}
    assert json.loads(made.hash_document("2.0.0").body)["hash"] == hashlib.sha256(b"two").hexdigest()
    made.open_release("2.0.0")[1].close()
    after = UpdateDocument.parse(made.update_document("stable", "any").body)
    assert [str(each.version) for each in (*before.releases, *after.releases, *after.withdrawn)] == [
        "1.0.0",
        "2.0.0",
        "1.0.0",
    ]
    assert after.serial > before.serial
    with pytest.raises(VersionNotFoundError):
        made.open_release("1.0.0")
    assert made.release_file("1.0.0") is None


def test_what_a_catalogue_has_is_signed_once_as_long_as_it_does_not_change(kept):
    made = kept({}, Changing(published("1.0.0", b"one")))
    assert made.latest_document is made.latest_document
    assert made.hash_document("1.0.0") is made.hash_document("1.0.0")
    assert made.update_document("stable", "any") is made.update_document("stable", "any")


def test_a_file_that_is_missing_or_too_short_stops_no_start_and_the_others_are_served(kept, tmp_path, caplog):
    gone = published("1.0.0", b"one"), published("2.0.0", b"two"), published("3.0.0", b"three")
    withdrawn = published("0.1.0", b"zero", ReleaseState.WITHDRAWN)
    made = kept({"2.0.0": b"tw", "3.0.0": b"three"}, Changing(*gone, withdrawn))
    folder = tmp_path / "releases"
    assert caplog.messages == [
        f"release 2.0.0 cannot be served: {folder}/app-2.0.0 has 2 bytes, and 3 were published",
        f"release 1.0.0 cannot be served: {folder}/app-1.0.0 has 0 bytes, and 3 were published",
    ]
    with made.open_release("3.0.0")[1] as file:
        assert file.read() == b"three"
    with pytest.raises(ReleaseMissingError):
        made.open_release("1.0.0")
    (folder / "app-1.0.0").write_bytes(b"one")
    made.open_release("1.0.0")[1].close()


def test_the_bytes_of_a_catalogues_release_are_hashed_before_they_go_out(kept):
    made = kept({"1.0.0": b"eno"}, Changing(published("1.0.0", b"one")))
    with pytest.raises(ReleaseInvalidError):
        made.open_release("1.0.0")


def test_the_build_that_is_named_is_opened_and_no_other(kept):
    builds = published("1.0.0", b"any"), published("1.0.0", b"linux", platform="linux-x86_64")
    made = kept({"1.0.0": b"any", "1.0.0@linux-x86_64": b"linux"}, Changing(*builds))
    for platform, data in ((None, b"any"), ("linux-x86_64", b"linux"), ("any", b"any")):
        with made.open_release("1.0.0", platform)[1] as file:
            assert file.read() == data
    with pytest.raises(VersionNotFoundError):
        made.open_release("1.0.0", "windows-arm64")


@pytest.mark.parametrize(
    ("channel", "state", "found"),
    [
        ("stable", ReleaseState.LIVE, b"linux"),
        ("stable", ReleaseState.PAUSED, b"linux"),
        ("stable", ReleaseState.DRAFT, b"any"),
        ("stable", ReleaseState.WITHDRAWN, None),
        ("beta", ReleaseState.LIVE, b"any"),
    ],
)
def test_hash_and_file_of_a_version_are_those_of_one_build_in_the_configured_channel(publish, channel, state, found):
    builds = (
        published("1.0.0", b"any"),
        published("1.0.0", b"linux", state, channel=channel, platform="linux-x86_64"),
        published("2.0.0", b"two", channel="beta"),
    )
    contents = {"1.0.0": b"any", "1.0.0@linux-x86_64": b"linux", "2.0.0": b"two"}
    settings = {"versions": None, "catalogue": Changing(*builds), "platform": "linux-x86_64"}
    made = Core(Config(**publish(contents) | settings))
    for version, data in (("1.0.0", found), ("2.0.0", None)):
        if data is None:
            for ask in (made.hash_document, made.open_release):
                with pytest.raises(VersionNotFoundError):
                    ask(version)
            assert made.release_file(version) is None
        else:
            release, file = made.open_release(version)
            with file:
                assert file.read() == data
            assert json.loads(made.hash_document(version).body)["hash"] == release.sha256
            assert made.release_file(version) == made.storage.path(release)


def test_a_url_is_the_catalogue_of_its_database(kept, tmp_path):
    url = f"sqlite:///{tmp_path}/catalogue.db"
    with pytest.raises(CatalogueError):
        kept({}, url)
    catalogue = SqlCatalogue(url)
    catalogue.create()
    with catalogue.transaction() as transaction:
        transaction.put(published("1.0.0", b"one"))
    made = kept({"1.0.0": b"one"}, url)
    assert made.latest_version() == Version(1)
    assert made.update_document("stable", "linux-x86_64").body.startswith(b'{"kind":"patchify/update/1"')


def test_what_is_known_of_a_configured_release_is_read_from_its_file(core, tmp_path):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("app"))
    made = core({"1.0.0": b"one", "2.0.0": archive.getvalue()}, channel="beta", platform="linux-x86_64")
    found = UpdateDocument.parse(made.update_document("beta", "linux-x86_64").body).releases
    one = core({"1.0.0": b"one"}).catalogue.snapshot().find("1.0.0")
    assert (one.size, one.format) == (3, "file")
    assert one.published.timestamp() == int((tmp_path / "releases" / "app-1.0.0").stat().st_mtime)
    assert [(str(each.version), each.format, each.path) for each in found] == [
        (version, form, f"files/{made.versions()[version]}")
        for version, form in (("2.0.0", "tar.gz"), ("1.0.0", "file"))
    ]
    assert made.latest_version() == Version(2)

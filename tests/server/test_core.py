import hashlib
import logging
import threading

import pytest
from semver import Version

from patchify import signals
from patchify.errors import (
    InvalidVersionError,
    ReleaseError,
    ReleaseInvalidError,
    ReleaseMissingError,
    VersionNotFoundError,
)
from patchify.files import BLOCK
from patchify.keys import SigningKey, decode_signature
from patchify.server import Config, Core
from patchify.server import core as core_module
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

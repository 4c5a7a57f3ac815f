"""Publishing into a folder and a catalogue: bytes, files, what is verified and pruned."""

import errno
import hashlib
import logging
import os
import stat
from datetime import timedelta

import pytest

from patchify.errors import (
    CatalogueUnavailableError,
    DifferentBytesError,
    FileChangedError,
    PublicationError,
    StorageUnavailableError,
    UnreadableFileError,
)
from patchify.publishing import Publication, staging
from patchify.releases import Schedule
from patchify.versions import parse_version

V1, V2 = parse_version("1.0.0"), parse_version("2.0.0")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def names(storage):
    return sorted(os.listdir(storage.folder))


@pytest.fixture
def build(tmp_path):
    file = tmp_path / "build"
    file.write_bytes(b"content")
    return file


# publish --------------------------------------------------------------------------------------------------------------


def test_a_published_file_is_in_its_place_and_the_catalogue_says_all_of_it(publisher, catalogue, storage, build, clock):
    seen = []
    publication = Publication(version=V1, notes="first", critical=True, pause_above=3, schedule=Schedule.parse("10"))
    release = publisher.publish(build, publication, seen.append)
    assert (release.sha256, release.size, release.format) == (sha256(b"content"), 7, "file")
    assert (release.notes, release.critical, release.floor, release.published) == ("first", True, None, clock.time)
    placed = release.placed("stable")
    assert (str(placed.schedule), placed.pause_above, placed.pause_after) == ("10%", 3, 20)
    assert (placed.since, placed.changed) == (clock.time, clock.time)
    assert publisher.releases() == [release] == list(catalogue.snapshot().releases.values())
    with storage.open(release) as file:
        assert file.read() == b"content"
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o644
    assert seen == [7]
    assert os.listdir(storage.incoming) == []
    assert stat.S_IMODE(storage.incoming.stat().st_mode) == 0o700


def test_builds_for_platforms_have_files_of_their_own(put, storage):
    put("1.0.0")
    put("1.0.0", platform="linux-x86_64")
    assert names(storage) == [".incoming", "app-1.0.0", "app-1.0.0@linux-x86_64"]


def test_the_same_bytes_may_come_again_and_replace_a_damaged_file(publisher, put, catalogue, storage):
    release = put("1.0.0", b"one")
    storage.path(release).write_bytes(b"damaged")
    assert publisher.verify()
    assert put("1.0.0", b"one") == release
    assert publisher.verify() == []
    assert catalogue.changes == 1


def test_other_bytes_for_the_same_version_are_refused_and_change_nothing(publisher, put, storage):
    release = put("1.0.0", b"one")
    with pytest.raises(DifferentBytesError) as caught:
        put("1.0.0", b"two", channel="beta", force=True)
    assert (caught.value.published, caught.value.given) == (sha256(b"one"), sha256(b"two"))
    assert publisher.releases() == [release]
    assert publisher.verify() == []
    assert os.listdir(storage.incoming) == []


def test_a_format_is_found_out_and_one_that_is_given_must_be_right(put):
    assert put("1.0.0", format="file").format == "file"
    with pytest.raises(PublicationError, match=r"version 2.0.0 is of the format 'file', not 'tar.gz'"):
        put("2.0.0", format="tar.gz")
    header = b"name".ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"00000000000\0" * 2
    block = bytearray(header.ljust(512, b"\0"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert put("3.0.0", bytes(block)).format == "tar"
    assert put("4.0.0", bytes(block), format="file").format == "file"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "No such file or directory"),
        (os.mkdir, "it is not a regular file"),
        (os.mkfifo, "it is not a regular file"),
    ],
)
def test_what_is_no_file_is_not_published(publisher, tmp_path, make, said):
    make(tmp_path / "it")
    with pytest.raises(UnreadableFileError, match=f"it cannot be published: {said}"):
        publisher.publish(tmp_path / "it", Publication(version=V1))
    assert publisher.releases() == []


def test_a_version_too_long_for_the_name_of_a_file_is_refused_before_anything_is_read(publisher, storage, build):
    longest = parse_version(f"1.0.0-{'a' * (255 - len('app-1.0.0-'))}")
    assert publisher.publish(build, Publication(version=longest)).version == longest
    longer = Publication(version=parse_version(f"{longest}a"))
    seen = []
    with pytest.raises(PublicationError, match="the release's file name would have 256 bytes; 255 are the most"):
        publisher.publish(build, longer, seen.append)
    assert seen == []
    with pytest.raises(PublicationError, match="256 bytes"):
        publisher.commit(build, sha256(b"content"), 7, longer)


def test_an_empty_file_is_not_published(publisher, storage, build):
    build.write_bytes(b"")
    with pytest.raises(UnreadableFileError, match="its file is empty"):
        publisher.publish(build, Publication(version=V1))
    assert names(storage) == [".incoming"]


@pytest.mark.parametrize(
    "change", [lambda file: file.write_bytes(b"more content"), lambda file: file.write_bytes(b"CONTENT")]
)
def test_a_file_that_changes_while_it_is_published_is_refused(publisher, storage, build, change):
    os.utime(build, (1, 1))
    with pytest.raises(FileChangedError, match="it changed while it was read"):
        publisher.publish(build, Publication(version=V1), lambda done: change(build))
    assert publisher.releases() == []
    assert os.listdir(storage.incoming) == []


def test_a_file_that_cannot_be_read_to_its_end_is_refused(publisher, storage, build, monkeypatch):
    class Failing(staging.FileIO):
        def readinto(self, block):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(staging, "FileIO", Failing)
    with pytest.raises(UnreadableFileError, match="Input/output error"):
        publisher.publish(build, Publication(version=V1))
    assert os.listdir(storage.incoming) == []


def test_a_disk_that_is_full_leaves_nothing_behind_and_later_may_be_better(publisher, storage, build, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(staging.os, "fsync", full)
    with pytest.raises(StorageUnavailableError) as caught:
        publisher.publish(build, Publication(version=V1))
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value) == f"{storage.incoming} cannot be changed now: No space left on device"
    assert os.listdir(storage.incoming) == []


def test_a_folder_that_cannot_be_used_is_said_to_be(publisher, storage, build):
    storage.incoming.write_bytes(b"a file")
    with pytest.raises(StorageUnavailableError, match="incoming cannot be changed now"):
        publisher.publish(build, Publication(version=V1))


def test_an_incoming_folder_that_goes_away_is_said_to(publisher, build, monkeypatch, storage):
    monkeypatch.setattr(type(storage), "make_incoming", lambda self: self.incoming)
    with pytest.raises(StorageUnavailableError, match="No such file or directory"):
        publisher.stage(build)


def test_a_place_that_cannot_be_had_is_said_to_be(publisher, storage, build):
    (storage.folder / "app-1.0.0").mkdir()
    with pytest.raises(StorageUnavailableError, match=r"app-1\.0\.0 cannot be changed now"):
        publisher.publish(build, Publication(version=V1))
    assert publisher.releases() == []


def test_ctrl_c_while_it_copies_leaves_nothing_behind(publisher, storage, build):
    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publisher.publish(build, Publication(version=V1), interrupt)
    assert os.listdir(storage.incoming) == []


def test_a_catalogue_that_fails_publishes_nothing_and_the_next_attempt_does(publisher, catalogue, storage, build):
    catalogue.failure = CatalogueUnavailableError("memory", "locked")
    with pytest.raises(CatalogueUnavailableError):
        publisher.publish(build, Publication(version=V1))
    assert publisher.releases() == []
    catalogue.failure = None
    build.write_bytes(b"built anew")
    publisher.publish(build, Publication(version=V1))
    assert publisher.verify() == []


# commit ---------------------------------------------------------------------------------------------------------------


def test_what_was_staged_by_somebody_else_is_published_by_its_hash_and_size(publisher, storage):
    staged = storage.make_incoming() / "upload"
    staged.write_bytes(b"sent")
    release = publisher.commit(staged, sha256(b"sent"), 4, Publication(version=V1))
    assert (release.sha256, release.size) == (sha256(b"sent"), 4)
    assert not staged.exists()


def test_what_is_staged_must_have_its_size_and_be_there(publisher, storage):
    staged = storage.make_incoming() / "upload"
    staged.write_bytes(b"sent")
    with pytest.raises(FileChangedError, match="it has 4 bytes, not 5"):
        publisher.commit(staged, sha256(b"sent"), 5, Publication(version=V1))
    with pytest.raises(StorageUnavailableError, match="No such file or directory"):
        publisher.commit(staged.with_name("none"), sha256(b""), 5, Publication(version=V1))
    assert publisher.releases() == []


def test_what_is_done_is_logged(publisher, put, caplog):
    caplog.set_level(logging.INFO, "patchify.publishing")
    put("1.0.0", b"one")
    publisher.pause(V1)
    publisher.pause(V1)
    assert caplog.messages == [
        f"published 1.0.0 in stable: 3 bytes, SHA-256 {sha256(b'one')}",
        "changed 1.0.0: paused in stable (100%)",
    ]


# verify ---------------------------------------------------------------------------------------------------------------


def test_verify_tells_of_each_file_that_is_missing_or_wrong(publisher, put, storage):
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        put(version, version.encode())
    (storage.folder / "app-1.0.0").unlink()
    (storage.folder / "app-2.0.0").write_bytes(b"2.0.1")
    seen = []
    problems = publisher.verify(seen.append)
    assert [each.partition(":")[0] for each in problems] == ["release 2.0.0", "release 1.0.0"]
    assert seen == [5, 10]


def test_a_release_that_is_withdrawn_everywhere_needs_no_file_but_a_right_one_if_any(publisher, put, storage):
    release = put("1.0.0")
    put("1.0.0", channel="beta")
    storage.path(release).unlink()
    publisher.withdraw(V1, "beta")
    assert len(publisher.verify()) == 1
    publisher.withdraw(V1)
    assert publisher.verify() == []
    storage.path(release).write_bytes(b"wrong")
    assert len(publisher.verify()) == 1


# prune ----------------------------------------------------------------------------------------------------------------


def test_prune_removes_withdrawn_and_unknown_files_and_uploads_that_were_given_up(publisher, put, storage, clock):
    put("1.0.0", b"one")
    put("2.0.0")
    publisher.withdraw(V1)
    for name in ("app-3.0.0", "app-1.0.0@linux-x86_64", "app-notes.txt", "other-1.0.0", "app-4.0.0@any", "app-1.0.0@A"):
        (storage.folder / name).write_bytes(b"12")
    (storage.folder / "app-5.0.0").mkdir()
    old, new = storage.incoming / "old.part", storage.incoming / "new.part"
    for path, age in [(old, timedelta(hours=25)), (new, timedelta(hours=23))]:
        path.write_bytes(b"1234")
        os.utime(path, ((clock.time - age).timestamp(),) * 2)

    before = names(storage)
    planned = publisher.prune(dry_run=True)
    assert names(storage) == before
    found = publisher.prune()
    assert found == planned
    assert [(each.path.name, each.size, each.why) for each in found] == [
        ("app-1.0.0", 3, "withdrawn"),
        ("app-1.0.0@linux-x86_64", 2, "not in the catalogue"),
        ("app-3.0.0", 2, "not in the catalogue"),
        ("old.part", 4, "given up"),
    ]
    left = [".incoming", "app-1.0.0@A", "app-2.0.0", "app-4.0.0@any", "app-5.0.0", "app-notes.txt", "other-1.0.0"]
    assert names(storage) == left
    assert os.listdir(storage.incoming) == ["new.part"]
    assert publisher.verify() == []
    assert publisher.prune() == []
    assert len(publisher.releases()) == 2


def test_prune_forgets_old_releases_only_if_told_how_many_to_keep(publisher, put, storage):
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        put(version)
    assert publisher.prune() == []
    planned = publisher.prune(2, dry_run=True)
    assert len(publisher.releases()) == 3
    assert publisher.prune(2) == planned
    assert [(each.path.name, each.why) for each in planned] == [("app-1.0.0", "superseded")]
    assert [str(each) for each in publisher.releases()] == ["3.0.0", "2.0.0"]
    assert names(storage) == [".incoming", "app-2.0.0", "app-3.0.0"]


def test_prune_where_nothing_was_ever_published_finds_nothing(publisher):
    assert publisher.prune() == []


def test_prune_of_a_folder_that_is_not_there_says_so(publisher, storage):
    storage.folder.rmdir()
    with pytest.raises(StorageUnavailableError, match="releases cannot be changed now: No such file or directory"):
        publisher.prune()


def test_prune_of_a_file_that_cannot_be_removed_says_which(publisher, storage, monkeypatch):
    path = storage.folder / "app-9.0.0"
    path.write_bytes(b"")

    def refuse(self, *, missing_ok):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(type(path), "unlink", refuse)
    with pytest.raises(StorageUnavailableError, match=r"app-9\.0\.0 cannot be changed now: Permission denied"):
        publisher.prune()

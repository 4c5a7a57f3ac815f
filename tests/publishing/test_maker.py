"""Forms are made, tried and put into the catalogue; what is not worth it is remembered. The catalogue is in memory."""

import hashlib
import io
import json
import os
import random
import sys
import tarfile
from io import FileIO
from uuid import UUID

import hdiffpatch
import pytest
from backports import zstd

from patchify import forms, releases, trees
from patchify.client.archive import unpack
from patchify.errors import FormGivenUpError, StorageUnavailableError
from patchify.publishing import Publication, compressing, maker, making
from patchify.publishing.background import TAKEN, WORD, is_unfinished
from patchify.publishing.given_up import NAME
from patchify.publishing.local import LocalPublisher
from patchify.publishing.maker import LOCK, NO_HDIFFPATCH, Maker
from patchify.publishing.making import Limits
from patchify.reports import Batch, Event, Report
from patchify.server.fleet import Fleet
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.versions import parse_version

NOISE = random.Random(1).randbytes(30_000)


def content(version):
    """Return bytes that can be compressed by half, and are like those of other versions."""
    return NOISE + f"version {version}".encode() + bytes(len(NOISE))


def packed(data, mode):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name in ("app/run", "app/data"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o755 if name == "app/run" else 0o640
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def told():
    return []


@pytest.fixture
def make(catalogue, storage, clock, told):
    """Return a function that makes what is missing within limits."""

    def make(version=None, *, again=False, **limits):
        return Maker(catalogue, storage, Limits(**limits), told.append, clock).make(version, again=again)

    return make


@pytest.fixture
def release(catalogue):
    return lambda version: catalogue.snapshot().releases[(version, "any")]


@pytest.fixture
def bytes_of(storage):
    return lambda form: storage.form_path(form.sha256).read_bytes()


def test_a_release_gets_a_compressed_file_and_patches(put, make, release, bytes_of, publisher, storage, told):
    for version in ("1.0.1", "1.0.2", "1.0.3"):
        put(version, content(version))
    assert make() == 3
    found = release("1.0.3").forms
    assert zstd.decompress(bytes_of(found.compressed)) == content("1.0.3")
    assert [each.base for each in found.patches] == [sha256(content("1.0.2")), sha256(content("1.0.1"))]
    for patch, version in zip(found.patches, ("1.0.2", "1.0.1"), strict=True):
        assert hdiffpatch.apply(content(version), bytes_of(patch)) == content("1.0.3")
        assert patch.size == len(bytes_of(patch)) < 100
    assert told[0].startswith(f"1.0.3 compressed: {found.compressed.size:,} bytes, 50.")
    assert told[1].startswith(f"1.0.2 → 1.0.3: {found.patches[0].size:,} bytes, 0.")
    assert " % of the whole, in " in told[1]
    assert release("1.0.2").forms == forms.Forms(), "nobody is offered it any more"
    assert publisher.verify() == []
    assert os.listdir(storage.incoming) == []
    assert make() == 0


def test_forms_of_a_version_are_made_if_it_is_named(put, make, release):
    for version in ("1.0.1", "1.0.2", "1.0.3"):
        put(version, content(version))
    assert make("1.0.2") == 2
    assert len(release("1.0.2").forms.patches) == 1
    assert release("1.0.3").forms == forms.Forms()


def test_what_is_published_into_an_older_line_gets_forms(put, make, release):
    put("1.0.1", content("1.0.1"))
    put("2.0.1", content("2.0.1"))
    make()
    put("1.0.2", content("1.0.2"), force=True)
    assert make() == 3, "and a patch from it to the newest"
    found = release("1.0.2").forms
    assert found.compressed
    assert [each.base for each in found.patches] == [sha256(content("1.0.1"))]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_folders_are_patched_by_what_is_in_them(put, make, release, bytes_of, mode, tmp_path):
    put("1.0.1", packed(content("1.0.1"), "w:gz"))
    put("1.0.2", packed(content("1.0.2"), mode))
    make()
    trees_of = {}
    for version, how in (("1.0.1", "w:gz"), ("1.0.2", mode)):
        (tmp_path / "archive").write_bytes(packed(content(version), how))
        with FileIO(tmp_path / "archive") as archive:
            unpack(archive, tmp_path / version, max_bytes=10**6, progress=lambda done: None)
        pieces = []
        trees.pack(tmp_path / version, pieces.append)
        trees_of[version] = b"".join(pieces)
        assert release(version).forms.tree == forms.Tree(sha256(trees_of[version]), len(trees_of[version]))
    (patch,) = release("1.0.2").forms.patches
    assert patch.base == sha256(trees_of["1.0.1"])
    assert hdiffpatch.apply(trees_of["1.0.1"], bytes_of(patch)) == trees_of["1.0.2"]
    assert (release("1.0.2").forms.compressed is None) == (mode != "w")


def test_long_files_get_the_hashes_of_their_segments(put, make, release, bytes_of, monkeypatch):
    for module in (maker, making):
        monkeypatch.setattr(module, "LEAST_SEGMENTED", 20_000)
    monkeypatch.setattr(compressing, "SEGMENT", 16_384)
    put("1.0.1", content("1.0.1"))
    assert make() == 2
    found = release("1.0.1").forms
    assert len(bytes_of(found.segments)) == 4 * forms.DIGEST
    assert len(bytes_of(found.compressed.segments)) == 2 * forms.DIGEST
    assert bytes_of(found.segments)[: forms.DIGEST] == hashlib.sha256(content("1.0.1")[:16_384]).digest()


def test_what_is_not_worth_it_is_told_and_remembered(put, make, release, storage, told, catalogue):
    put("1.0.1", NOISE)
    put("1.0.2", random.Random(2).randbytes(30_000))
    assert make() == 0
    assert [each.partition(",")[0] for each in told] == [
        "1.0.2 compressed: not kept: compressed it has 100 % of its size or more",
        "1.0.1 → 1.0.2: not kept: 30",
    ]
    assert told[1].endswith("% of the whole: not much smaller")
    assert storage.forms() == {}
    del told[:]
    assert make() == 0
    assert told == []
    assert make(again=True) == 0
    assert len(told) == 2

    put("1.0.3", NOISE + b"3")
    with catalogue.transaction() as transaction:
        transaction.remove(release("1.0.1"))
        transaction.remove(release("1.0.2"))
    make()
    remembered = json.loads((storage.folder / maker.FORMS / NAME).read_text())
    assert list(remembered) == [f"compressed {sha256(NOISE + b'3')}"], "of what is not there any more, nothing"


def test_what_is_remembered_may_be_damaged(put, make, storage):
    put("1.0.1", NOISE)
    make()
    (storage.folder / maker.FORMS / NAME).write_text("[")
    assert make() == 0


def test_a_patch_that_is_given_up_at_its_limit_is_not_tried_again(put, make, told, monkeypatch):
    def give_up(*_):
        raise FormGivenUpError("given up after 600 s")

    monkeypatch.setattr(maker, "make_patch", give_up)
    put("1.0.1", content("1.0.1"))
    put("1.0.2", content("1.0.2"))
    make()
    make()
    assert told[1:] == ["1.0.1 → 1.0.2: not kept: given up after 600 s"]


def test_a_patch_whose_process_was_ended_is_tried_again(put, make, told, monkeypatch):
    def end(*_):
        raise maker.PatchEndedError("its process ended by signal 9")

    put("1.0.1", content("1.0.1"))
    put("1.0.2", content("1.0.2"))
    with monkeypatch.context() as patch:
        patch.setattr(maker, "make_patch", end)
        assert make() == 1
    assert told[1] == "1.0.1 → 1.0.2: not made: its process ended by signal 9"
    assert make() == 1


def test_without_hdiffpatch_there_are_no_patches_and_everything_else(put, make, release, told, monkeypatch):
    monkeypatch.setitem(sys.modules, "hdiffpatch", None)
    put("1.0.1", content("1.0.1"))
    put("1.0.2", content("1.0.2"))
    assert make() == 1
    assert told[0] == NO_HDIFFPATCH
    assert release("1.0.2").forms.compressed is not None
    assert make(patches=0) == 0
    assert len(told) == 2, "who wants no patches need not know"


@pytest.mark.parametrize("what", ["missing", "wrong"])
def test_a_file_that_is_missing_or_wrong_is_no_matter_of_the_other_releases(what, put, make, release, storage, told):
    for version in ("1.0.1", "1.0.2", "1.0.3"):
        put(version, content(version))
    path = storage.path(release("1.0.2"))
    if what == "missing":
        path.unlink()
    else:
        path.write_bytes(content("1.1.9"))
    assert make() == 2
    assert [each.base for each in release("1.0.3").forms.patches] == [sha256(content("1.0.1"))]
    why = "is missing" if what == "missing" else "has SHA-256"
    assert told[1].startswith(f"1.0.2 → 1.0.3: not made: release 1.0.2: {path} {why}")
    put("1.0.2", content("1.0.2"))
    assert make() == 1, "it was not given up"


def test_an_archive_that_is_damaged_is_given_up(put, make, told):
    put("1.0.1", packed(content("1.0.1"), "w:gz")[:-1000])
    make()
    assert told[0].startswith("1.0.1 tree: not kept: ")
    make()
    assert len(told) == 1


@pytest.mark.parametrize("what", ["withdrawn", "removed", "steered"])
def test_what_is_steered_while_a_form_is_made_is_not_lost(
    what, put, make, release, storage, told, catalogue, publisher
):
    put("1.0.1", content("1.0.1"))
    version = parse_version("1.0.1")
    compress = maker.compress

    def meanwhile(source, target):
        if what == "withdrawn":
            publisher.withdraw(version)
        elif what == "removed":
            with catalogue.transaction() as transaction:
                transaction.remove(release("1.0.1"))
        else:
            publisher.promote(version, "stable", "beta")
        return compress(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maker, "compress", meanwhile)
        made = make()
    if what == "steered":
        assert made == 1
        assert release("1.0.1").placed("beta")
        assert release("1.0.1").forms.compressed
    else:
        assert told == ["1.0.1 compressed: not wanted any more"]
        assert storage.forms() == {}


def test_a_disk_that_fails_ends_it_and_nothing_is_lost(put, make, release, storage, monkeypatch):
    put("1.0.1", content("1.0.1"))

    def fail(*_):
        raise StorageUnavailableError("x", OSError(28, "No space left on device"))

    with monkeypatch.context() as patch:
        patch.setattr(storage, "place_form", fail)
        with pytest.raises(StorageUnavailableError):
            make()
    assert release("1.0.1").forms == forms.Forms()
    assert os.listdir(storage.incoming) == []
    assert make() == 1


def test_what_cannot_be_stored_of_one_release_is_no_matter_of_the_others(put, make, release, told, monkeypatch):
    put("1.0.1", packed(content("1.0.1"), "w:gz"), platform="linux-x86_64")
    put("1.0.1", content("1.0.1"))

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(maker.Bases, "measure", fail)
        with pytest.raises(StorageUnavailableError, match="No space left"):
            make()
    assert release("1.0.1").forms.compressed
    assert [each for each in told if each.startswith("1.0.1 for linux-x86_64 tree: not made: ")]
    assert make() == 1


def test_what_cannot_be_remembered_is_an_error_of_the_storage_and_no_matter_of_the_others(
    put, make, release, monkeypatch
):
    put("1.0.1", NOISE, platform="linux-x86_64")
    put("1.0.1", content("1.0.1"))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(maker.GivenUp, "add", fail)
    with pytest.raises(StorageUnavailableError, match="No space left"):
        make()
    assert release("1.0.1").forms.compressed


def test_what_a_maker_left_that_was_killed_is_removed(put, make, storage):
    put("1.0.1", content("1.0.1"))
    (storage.make_incoming() / "making-old").mkdir()
    (storage.incoming / "making-old" / "compressed").write_bytes(b"half")
    make()
    assert os.listdir(storage.incoming) == []


# One at a time --------------------------------------------------------------------------------------------------------


def test_who_comes_second_leaves_word_and_the_first_makes_that_too(put, release, catalogue, storage, clock):
    other = []

    def tell(line):
        if not other:
            other.append(line)
            put("1.0.2", content("1.0.2"))
            Maker(catalogue, storage, Limits(), other.append, clock).make_wanted()

    put("1.0.1", content("1.0.1"))
    Maker(catalogue, storage, Limits(), tell, clock).make("1.0.1")
    assert len(other) == 1, "it left at once"
    assert len(release("1.0.2").forms.patches) == 1
    assert not {WORD, TAKEN} & set(os.listdir(storage.folder / maker.FORMS))


def test_a_word_stays_until_all_is_made(put, release, catalogue, storage, clock, monkeypatch):
    def fail(*_):
        raise StorageUnavailableError("x", OSError(28, "No space left on device"))

    put("1.0.1", content("1.0.1"))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "place_form", fail)
        with pytest.raises(StorageUnavailableError):
            Maker(catalogue, storage, Limits(), now=clock).make_wanted()
    assert is_unfinished(storage.folder)
    Maker(catalogue, storage, Limits(), now=clock)._follow_word()
    assert release("1.0.1").forms.compressed
    assert not is_unfinished(storage.folder)


def test_who_is_called_by_hand_waits_for_the_other(put, make, release, storage, told, monkeypatch):
    waited = []

    class Lock(maker.FileLock):
        def acquire(self, timeout=None, **options):
            if not waited:
                waited.append(timeout)
                raise maker.Timeout(self.lock_file)
            return super().acquire(timeout=timeout, **options)

    monkeypatch.setattr(maker, "FileLock", Lock)
    put("1.0.1", content("1.0.1"))
    assert make() == 1
    assert told[0] == "another process makes forms just now; this one goes on when it is done"


def test_the_lock_is_free_afterwards(put, make, storage):
    put("1.0.1", content("1.0.1"))
    make()
    with maker.FileLock(storage.folder / maker.FORMS / LOCK, timeout=0):
        pass


def test_a_folder_that_is_not_there_is_told(catalogue, storage):
    storage.folder.rmdir()
    for way in (Maker(catalogue, storage, Limits()).make, Maker(catalogue, storage, Limits()).make_wanted):
        with pytest.raises(StorageUnavailableError, match="is its disk mounted"):
            way()


# What is not needed any more ------------------------------------------------------------------------------------------


def test_prune_keeps_what_a_release_has_and_removes_all_other_forms(put, make, release, publisher, storage):
    put("1.0.1", content("1.0.1"))
    put("1.0.2", content("1.0.2"))
    make()
    wanted = {sha for sha, _ in release("1.0.2").forms.files(release("1.0.2").size)}
    storage.form_path("a" * 64).write_bytes(b"left")
    assert [(each.path.name, each.why) for each in publisher.prune(dry_run=True)] == [
        ("a" * 64, "a form of no release")
    ]
    publisher.prune()
    assert set(storage.forms()) == wanted
    assert publisher.prune() == []

    publisher.withdraw(parse_version("1.0.2"))
    planned = publisher.prune(dry_run=True)
    assert publisher.prune() == planned
    assert {each.path.name for each in planned} == wanted | {"app-1.0.2"}
    assert storage.forms() == {}
    assert release("1.0.2").forms == forms.Forms(), "no release names what is not there"


def test_patches_from_what_is_live_nowhere_go_if_that_is_asked_for(put, make, release, publisher, storage):
    for version in ("1.0.1", "1.0.2", "1.0.3"):
        put(version, content(version))
    make()
    gone = release("1.0.3").forms.patches[1]
    publisher.pause(parse_version("1.0.1"))
    assert publisher.prune(patches=True) == []
    assert gone in release("1.0.3").forms.patches, "it may be resumed"
    publisher.withdraw(parse_version("1.0.1"))
    assert [each.why for each in publisher.prune()] == ["withdrawn"]
    assert publisher.prune(patches=True, dry_run=True) == []
    assert publisher.prune(patches=True) == []
    assert gone.sha256 in storage.forms(), "clients may just have been told of it"
    assert [each.path.name for each in publisher.prune()] == [gone.sha256]
    assert gone not in release("1.0.3").forms.patches
    assert len(release("1.0.3").forms.patches) == 1
    assert publisher.verify() == []


def test_prune_of_old_releases_takes_their_forms_along(put, make, release, publisher, storage):
    put("1.0.1", content("1.0.1"))
    make()
    put("1.0.2", content("1.0.2"))
    planned = publisher.prune(1, dry_run=True)
    assert [each.why for each in planned] == ["superseded"]
    assert publisher.prune(1) == planned
    assert len(storage.forms()) == 1, "clients may just have been told of it"
    assert [each.why for each in publisher.prune()] == ["a form of no release"]
    assert storage.forms() == {}


def test_folders_that_were_given_up_are_pruned(publisher, storage, clock):
    folder = storage.make_incoming() / "making-old"
    folder.mkdir()
    (folder / "patch").write_bytes(b"half")
    os.utime(folder, (0, 0))
    (found,) = publisher.prune()
    assert (found.path, found.size, found.why) == (folder, 4, "given up")
    assert not folder.exists()


def test_verify_hashes_forms_too(put, make, release, publisher, storage):
    put("1.0.1", content("1.0.1"))
    make()
    form = release("1.0.1").forms.compressed
    seen = []
    assert publisher.verify(seen.append) == []
    assert seen[-1] == release("1.0.1").size + form.size
    storage.form_path(form.sha256).write_bytes(b"x")
    (problem,) = publisher.verify()
    assert form.sha256 in problem


# What runs in the field -----------------------------------------------------------------------------------------------


def test_patches_from_what_most_installations_run_are_made_first(tmp_path, storage, clock, told):
    database = SqlCatalogue(f"sqlite:///{tmp_path / 'catalogue.db'}", now=clock)
    database.create()
    publisher = LocalPublisher(database, storage, clock)
    for version in ("1.0.1", "1.0.2", "1.0.3"):
        (tmp_path / "build").write_bytes(content(version))
        publisher.publish(tmp_path / "build", Publication(version=parse_version(version)))
    running = parse_version("1.0.1")
    report = Report(Event.CHECKED, releases.now(), running, None)
    Fleet(database).record(Batch("a" * 32, "app", "linux-x86_64", "stable", str(UUID(int=1)), (report,)))
    Maker(database, storage, Limits(), told.append, clock).make()
    assert [line.partition(":")[0] for line in told] == ["1.0.3 compressed", "1.0.1 → 1.0.3", "1.0.2 → 1.0.3"]

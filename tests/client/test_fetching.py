"""How a release comes here: real installations, patches and compressed files, and a server that is not real."""

import io
import logging
import os
import random
import stat
import sys
import tarfile
from collections import Counter
from pathlib import Path

import hdiffpatch
import pytest
from backports import zstd
from semver import Version

from patchify import trees
from patchify.client import Config, archive, points, staging
from patchify.client.fetching import Fetcher
from patchify.client.reports import _in_our_words
from patchify.client.source import Offer
from patchify.client.state import Release
from patchify.errors import (
    FailedHashVerificationError,
    HttpError,
    HttpRequestFailedError,
    InvalidBodyError,
    NotEnoughSpaceError,
    ServerBusyError,
    TooMuchDataError,
    UnableToReadFileError,
    UnableToWriteDownloadError,
)
from patchify.forms import Compressed, Forms, Patch, Tree, path_of
from patchify.reports import Event
from tests.client import installations
from tests.client.fakes import FakeTransport, sha256
from tests.client.installations import Installation, script, tree

TWO, THREE = Version(2), Version(3)
MIB = 1024 * 1024
SHARED = b"# " + random.Random(6).randbytes(10_000).hex().encode()  # what does not change; it can be halved


def diff(old: bytes, new: bytes) -> bytes:
    return hdiffpatch.diff(old, new, hdiffpatch.COMPRESSION_NONE)


def finish(folder: Path, number: int) -> None:
    """Let a tree have more in it, and times that do not change."""
    (folder / "lib" / "shared").write_bytes(SHARED)
    for path in sorted(folder.rglob("*")):
        os.utime(path, (10**9, 10**9 + number), follow_symlinks=False)


class Place:
    """An installation of version 1, the releases 2 and 3 in every form, and somebody who fetches them."""

    def __init__(self, folder: Path, kind: str, key, **config) -> None:
        self.made = Installation(folder / "place", kind)
        self.installer = self.made.installer
        self.folder = folder
        self.kind = kind
        if kind == "file":
            self.made.path.write_bytes(self.packed(1))
        else:  # its times are those of the release that it was installed from
            finish(self.made.path, 1)
        self.transport = FakeTransport(key, {"2.0.0": self.packed(2), "3.0.0": self.packed(3)})
        self.heard: list[tuple[str, dict]] = []
        self.told: list[tuple[Event, str, str]] = []
        self.config = Config(version="1.0.0", api="https://x/", key=key.verifying_key, **config)
        self.shown: list[list[tuple[int, int]]] = []
        self.start_anew()

    def start_anew(self) -> None:
        self.fetcher = Fetcher(self.config, self.installer, self.transport, self, self.hear)

    # as `Notifier.announce` and `Reporter`

    def hear(self, signal, **facts) -> None:
        self.heard.append((signal.name, facts))

    def tell(self, event, release, reason="") -> None:
        assert _in_our_words(reason) == reason  # else it would be cut
        self.told.append((event, str(release), reason))

    # What there is

    def _tree(self, number: int) -> Path:
        folder = self.folder / f"tree-{number}" / "app"
        if not folder.exists():
            tree(folder, number)
            finish(folder, number)
        return folder

    def packed(self, number: int) -> bytes:
        """Return the whole file of a release; it compresses."""
        if self.kind == "file":
            return script(number) + SHARED
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as file:
            file.add(self._tree(number), "app-of-another-name")
        return packed.getvalue()

    def basis(self, number: int) -> bytes:
        """Return what patches apply to and make."""
        if self.kind == "file":
            return self.packed(number)
        found = []
        trees.pack(self._tree(number), found.append)
        return b"".join(found)

    def patch(self, old: int, new: int, data: bytes | None = None, *, step: bool = False) -> Patch:
        """Publish a patch and return it, made well or not."""
        data = diff(self.basis(old), self.basis(new)) if data is None else data
        self.transport.files[sha256(data)] = data
        made = self.basis(new)
        to = {"result": sha256(made), "result_size": len(made)} if step else {}
        return Patch(sha256(self.basis(old)), sha256(data), len(data), **to)

    def compressed(self, number: int, data: bytes | None = None) -> Compressed:
        data = zstd.compress(self.packed(number)) if data is None else data
        self.transport.files[sha256(data)] = data
        return Compressed(sha256(data), len(data))

    def offer(self, number: int, *patches: Patch, compressed: Compressed | None = None, **changes) -> Offer:
        data, made = self.packed(number), self.basis(number)
        return Offer(
            **{
                "version": Version(number),
                "size": len(data),
                "sha256": sha256(data),
                "path": path_of(sha256(data)),
                "format": "file" if self.kind == "file" else "tar",
                "forms": Forms(
                    compressed=compressed,
                    tree=None if self.kind == "file" else Tree(sha256(made), len(made)),
                    patches=patches,
                ),
                **changes,
            }
        )

    # What is done

    def fetch(self, offer: Offer) -> Release:
        release = Release(offer.version, sha256(self.packed(offer.version.major)))

        def begin():
            self.shown.append([])
            return lambda done, total: self.shown[-1].append((done, total))

        self.fetcher.fetch(release, offer, begin)
        assert self.installer.is_staged(release.sha256)
        return release

    def install(self, offer: Offer) -> None:
        """Fetch a release and put it in place for good."""
        release = self.fetch(offer)
        assert not [name for name in self.names() if name.startswith("form-")]
        update = self.installer.prepare(release, Version(offer.version.major - 1))
        assert self.installer.swap(update, 1)
        assert self.installer.confirm()
        assert self.installer.installed() == release.sha256
        said = (self.made.path if self.kind == "file" else self.made.path / "run").read_bytes()
        assert said.startswith(script(offer.version.major))

    def names(self) -> list[str]:
        return sorted(path.name for path in self.installer.folder.iterdir())

    @property
    def downloaded(self) -> list[str]:
        """The hashes of what was asked for, by their names here."""
        return [path.removeprefix("files/") for path, _ in self.transport.downloaded]

    @property
    def ways(self) -> list[str]:
        return [facts["way"] for name, facts in self.heard if name == "release-downloaded"]

    @property
    def failures(self) -> list[tuple[str, str, str]]:
        return [
            (facts["sha256"], facts["reason"], facts["next"]) for name, facts in self.heard if name == "patch-failed"
        ]


@pytest.fixture
def make_place(tmp_path, key):
    with_lock = []

    def make(kind, **config) -> Place:
        place = Place(tmp_path, kind, key, **config)
        lock = place.installer.lock()
        lock.__enter__()
        with_lock.append(lock)
        return place

    yield make
    for lock in with_lock:
        lock.__exit__(None, None, None)


@pytest.fixture(params=installations.KINDS)
def place(request, make_place):
    return make_place(request.param)


# Each way -------------------------------------------------------------------------------------------------------------


def test_a_release_comes_by_a_patch(place, caplog):
    caplog.set_level(logging.INFO)
    patch = place.patch(1, 2)
    offer = place.offer(2, patch, compressed=place.compressed(2))
    place.install(offer)
    assert place.downloaded == [patch.sha256]
    assert place.heard == [("release-downloaded", {"version": TWO, "way": "patch", "size": patch.size})]
    assert place.told == [(Event.DOWNLOADED, "2.0.0", f"patch ({patch.size} bytes)")]
    share = 100 * patch.size / offer.size
    said = f"version 2.0.0 came by a patch of {patch.size:,} bytes ({share:.2f} % of {offer.size:,})"
    assert said in caplog.text
    ((*_, last),) = place.shown
    assert last == (patch.size, patch.size)


def test_a_release_comes_by_a_chain_of_patches(place):
    one, two = place.patch(1, 2, step=True), place.patch(2, 3)
    place.install(place.offer(3, two, one))
    assert place.downloaded == [one.sha256, two.sha256]
    assert place.heard == [("release-downloaded", {"version": THREE, "way": "chain", "size": one.size + two.size})]
    (shown,) = place.shown
    assert shown == sorted(shown)
    assert shown[-1] == (one.size + two.size, one.size + two.size)


def test_a_release_comes_compressed(place):
    compressed = place.compressed(2)
    place.install(place.offer(2, compressed=compressed))
    assert place.downloaded == [compressed.sha256]
    assert place.heard == [("release-downloaded", {"version": TWO, "way": "zstd", "size": compressed.size})]


def test_a_release_comes_whole(place, caplog):
    caplog.set_level(logging.INFO)
    offer = place.offer(2)
    place.install(offer)
    assert place.transport.calls == ["file"] * place.transport.pieces
    assert place.heard == [("release-downloaded", {"version": TWO, "way": "whole", "size": offer.size})]
    assert f"version 2.0.0 came by the whole file of {offer.size:,} bytes" in caplog.messages


@pytest.mark.parametrize("path", [None, "releases/2.0.0"], ids=["the original", "an earlier server"])
def test_what_has_no_name_by_its_hash_comes_as_it_always_has(make_place, path):
    place = make_place("file")
    place.install(place.offer(2, path=path, size=None if path is None else len(place.packed(2)), forms=Forms()))
    assert place.transport.calls == ["release"] * place.transport.pieces
    assert place.ways == ["whole"]


def test_after_an_update_by_a_patch_the_next_one_comes_by_a_patch(place):
    place.install(place.offer(2, place.patch(1, 2)))
    place.install(place.offer(3, place.patch(2, 3)))
    assert place.ways == ["patch", "patch"]
    assert place.installer.recall().version == TWO
    assert place.installer.installed() == sha256(place.packed(2))


def facts(folder: Path) -> dict[str, tuple]:
    """Return what a program may depend on of a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        time = None if path.is_dir() and not path.is_symlink() else int(status.st_mtime)
        found[str(path.relative_to(folder))] = (stat.filemode(status.st_mode), time, what)
    return found


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_a_patch_makes_is_what_the_archive_unpacks_to(make_place, kind, tmp_path):
    place = make_place(kind)
    release = place.fetch(place.offer(2, place.patch(1, 2)))
    (tmp_path / "whole.tar").write_bytes(place.packed(2))
    with io.FileIO(tmp_path / "whole.tar") as file:
        archive.unpack(file, tmp_path / "whole", max_bytes=10**8, progress=lambda done: None)
    folder = place.installer.version_path(release)
    assert facts(folder) == facts(tmp_path / "whole")
    assert not (place.installer.folder / f"staged-{release.sha256}").exists()
    place.installer.make_ready(release)  # it is as its manifest says


# Which way is possible ------------------------------------------------------------------------------------------------


def test_a_program_that_is_no_basis_gets_no_patch(place):
    program = place.made.path if place.kind == "file" else place.made.path / "run"
    program.write_bytes(program.read_bytes() + b"# changed by itself\n")
    place.install(place.offer(2, place.patch(1, 2)))
    assert place.ways == ["whole"]
    assert place.failures == []
    assert place.downloaded == [sha256(place.packed(2))]


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_a_program_of_ours_has_written_beside_itself_does_no_harm(make_place, kind):
    place = make_place(kind)
    place.install(place.offer(2))
    (place.made.path / "lib" / "cache").write_text("written by the program")
    place.install(place.offer(3, place.patch(2, 3)))
    assert place.ways == ["whole", "patch"]
    assert not (place.made.path / "lib" / "cache").exists()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("damaged")])
def test_without_its_manifest_all_that_is_in_a_folder_counts(make_place, damage):
    place = make_place("folder")
    place.install(place.offer(2))
    (manifest,) = place.installer.versions.glob("2.0.0-*.manifest")
    damage(manifest)
    assert place.installer.basis() == (sha256(place.basis(2)), len(place.basis(2)))
    (place.made.path / "lib" / "cache").write_text("written by the program")
    assert place.installer.basis() != (sha256(place.basis(2)), len(place.basis(2)))


def test_without_the_package_patches_are_not_used_and_that_is_said_once(place, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(sys.modules, "hdiffpatch", None)
    monkeypatch.setattr(type(place.installer), "basis", lambda self: pytest.fail("nobody needs to know"))
    place.install(place.offer(2, place.patch(1, 2), compressed=place.compressed(2)))
    place.install(place.offer(3, place.patch(2, 3)))
    assert place.ways == ["zstd", "whole"]
    assert caplog.text.count("patches are not used: pip install 'patchify-updater[patches]'") == 1
    assert place.failures == []


def test_nothing_is_said_where_there_are_no_patches(make_place, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(sys.modules, "hdiffpatch", None)
    place = make_place("file")
    place.install(place.offer(2))
    assert "patches" not in caplog.text


def test_without_zstd_the_whole_comes(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.delattr("backports.zstd")
    offer = place.offer(2, compressed=place.compressed(2))
    place.install(offer)
    assert place.ways == ["whole"]
    assert place.failures == []
    assert place.downloaded == [offer.sha256]


def test_no_memory_for_patches_means_no_patches(make_place, monkeypatch, caplog):
    place = make_place("file", patch_memory=0)
    monkeypatch.setattr(type(place.installer), "basis", lambda self: pytest.fail("nobody needs to know"))
    place.install(place.offer(2, place.patch(1, 2)))
    assert place.ways == ["whole"]
    assert "patches" not in caplog.text


def test_what_takes_more_memory_than_allowed_comes_whole(make_place):
    place = make_place("file", patch_memory=1)
    place.made.path.write_bytes(place.basis(1) + bytes(MIB))
    data = diff(place.made.path.read_bytes(), place.basis(2))
    place.transport.files[sha256(data)] = data
    patch = Patch(sha256(place.made.path.read_bytes()), sha256(data), len(data))
    place.install(place.offer(2, patch))
    assert place.ways == ["whole"]
    assert place.failures == []
    assert place.downloaded == [sha256(place.packed(2))]


def test_a_program_that_cannot_be_read_as_a_basis_gets_the_whole(make_place, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    place = make_place("folder")

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(trees, "measure", fail)
    place.install(place.offer(2, place.patch(1, 2)))
    assert place.ways == ["whole"]
    assert "patches are not used: unable to read" in caplog.text


# What fails -----------------------------------------------------------------------------------------------------------


def bad(place) -> tuple[str, ...]:
    return place.installer.memory().bad_files


def test_a_patch_that_makes_something_else_is_remembered_told_of_and_not_used_again(place, caplog):
    wrong = place.patch(1, 2, diff(place.basis(1), place.basis(3)))
    compressed = place.compressed(2)
    place.install(place.offer(2, wrong, compressed=compressed))
    reason = "makes something else than what is signed"
    assert place.downloaded == [wrong.sha256, compressed.sha256]
    assert place.heard == [
        ("patch-failed", {"version": TWO, "sha256": wrong.sha256, "reason": reason, "next": "zstd"}),
        ("release-downloaded", {"version": TWO, "way": "zstd", "size": compressed.size}),
    ]
    assert place.told == [
        (Event.PATCH_FAILED, "2.0.0", reason),
        (Event.DOWNLOADED, "2.0.0", f"zstd ({compressed.size} bytes)"),
    ]
    assert bad(place) == (wrong.sha256,)
    assert (
        f"{wrong.sha256}, of which release 2.0.0 was to be made, {reason}; it is tried by the compressed" in caplog.text
    )


def test_what_was_of_no_use_is_not_tried_at_the_next_check(place):
    wrong = place.patch(1, 2, b"no patch")
    place.transport.once["file"] = HttpRequestFailedError("https://x/", "no network")
    offer = place.offer(2, wrong)
    with pytest.raises(HttpRequestFailedError):
        place.fetch(offer)
    assert bad(place) == ()
    whole = sha256(place.packed(2))
    place.transport.before["file"] = lambda: (
        place.downloaded[-1] == whole
        and place.transport.always.update(file=HttpRequestFailedError("https://x/", "no network"))
    )
    with pytest.raises(HttpRequestFailedError):
        place.fetch(offer)
    assert place.downloaded == [wrong.sha256, wrong.sha256, whole]
    place.transport.before.clear()
    place.transport.always.clear()
    place.start_anew()
    place.install(offer)
    assert place.downloaded[3:] == [whole]
    assert [each[1:] for each in place.failures] == [("cannot be applied (HDiffPatchError)", "whole")]


def test_each_way_is_tried_once_until_the_whole(place):
    patch, one, two = (
        place.patch(1, 3, b"no patch, and it is long"),
        place.patch(1, 2, b"1", step=True),
        place.patch(2, 3, b"2"),
    )
    compressed = place.compressed(3, zstd.compress(b"something else entirely, that is long enough"))
    place.install(place.offer(3, patch, one, two, compressed=compressed))
    assert place.downloaded == [
        one.sha256,
        two.sha256,
        patch.sha256,
        compressed.sha256,
        sha256(place.packed(3)),
    ]
    assert [(each[0], each[2]) for each in place.failures] == [
        (one.sha256, "patch"),
        (patch.sha256, "zstd"),
        (compressed.sha256, "whole"),
    ]
    assert bad(place) == (one.sha256, patch.sha256, compressed.sha256)
    assert place.ways == ["whole"]


def test_a_compressed_file_that_makes_something_else_is_of_no_use(place):
    data = place.packed(2)
    compressed = place.compressed(2, zstd.compress(data[:-1] + b"?"))
    place.install(place.offer(2, compressed=compressed))
    assert place.failures == [(compressed.sha256, "came to nothing (FailedHashVerificationError)", "whole")]
    assert bad(place) == (compressed.sha256,)
    assert place.ways == ["whole"]


def test_what_arrives_with_another_hash_is_of_no_use(place):
    patch = place.patch(1, 2)
    place.transport.files[patch.sha256] = bytes(patch.size)
    place.install(place.offer(2, patch))
    assert place.failures == [(patch.sha256, "has another hash than the one that is signed", "whole")]
    assert place.downloaded == [patch.sha256, sha256(place.packed(2))]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (HttpError("https://x/", 404), "came to nothing (HttpError (HTTP status 404))"),
        (InvalidBodyError("https://x/", "is a file of 5 bytes"), "came to nothing (InvalidBodyError)"),
    ],
    ids=["missing", "a captive portal"],
)
def test_what_cannot_be_had_is_passed_by_but_not_remembered(place, error, reason):
    patch = place.patch(1, 2)
    place.transport.once["file"] = error
    place.install(place.offer(2, patch))
    assert place.failures == [(patch.sha256, reason, "whole")]
    assert bad(place) == ()


def unanswered(place, sha256: str, error: Exception) -> None:
    """Let a server answer so whenever one file is asked for."""
    place.transport.before["file"] = lambda: (
        place.transport.once.update(file=error) if place.downloaded[-1] == sha256 else None
    )


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_file_that_makes_a_server_fail_holds_up_no_release(place, status):
    patch = place.patch(1, 2)
    unanswered(place, patch.sha256, ServerBusyError("https://x/", status, None))
    place.install(place.offer(2, patch))
    reason = f"cannot be had (ServerBusyError (HTTP status {status}))"
    assert place.failures == [(patch.sha256, reason, "whole")]
    assert bad(place) == ()


@pytest.mark.parametrize(
    "error",
    [ServerBusyError("https://x/", 503, None), HttpRequestFailedError("https://x/", "timed out")],
    ids=["busy", "a connection that is cut"],
)
def test_a_file_of_which_not_a_byte_comes_is_passed_by_at_the_second_attempt(place, error):
    patch = place.patch(1, 2)
    unanswered(place, patch.sha256, error)
    with pytest.raises(type(error)):
        place.fetch(place.offer(2, patch))
    assert place.failures == []
    place.install(place.offer(2, patch))
    assert [(sha256, following) for sha256, _, following in place.failures] == [(patch.sha256, "whole")]
    assert bad(place) == ()


def test_a_file_that_comes_in_pieces_is_waited_for(place):
    patch = place.patch(1, 2)
    pieces = iter(range(1, 100))
    place.transport.before["file"] = lambda: (
        place.transport.once.update(file=HttpRequestFailedError("https://x/", "cut")) if next(pieces) % 2 == 0 else None
    )
    for _ in range(3):
        with pytest.raises(HttpRequestFailedError):
            place.fetch(place.offer(2, patch))
    place.transport.before.clear()
    place.install(place.offer(2, patch))
    assert place.ways == ["patch"]
    assert place.failures == []


@pytest.mark.parametrize("status", [500, 429])
def test_a_server_that_asks_to_wait_is_asked_for_nothing_else(place, status):
    patch = place.patch(1, 2)
    unanswered(place, patch.sha256, ServerBusyError("https://x/", status, 30))
    for _ in range(3):
        with pytest.raises(ServerBusyError):
            place.fetch(place.offer(2, patch))
    assert set(place.downloaded) == {patch.sha256}


@pytest.mark.skipif(os.name != "posix", reason="a process forks")
def test_a_patch_that_ends_the_process_is_not_applied_again(place, monkeypatch):
    patch = place.patch(1, 2)
    offer = place.offer(2, patch)
    pid = os.fork()
    if pid == 0:  # killed for its memory, or by a fault in the C++ code
        hdiffpatch.apply = lambda *_: os._exit(9)
        try:
            place.fetch(offer)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    place.start_anew()
    monkeypatch.setattr(hdiffpatch, "apply", lambda *_: pytest.fail("again"))
    place.install(offer)
    assert place.downloaded == [offer.sha256]
    assert place.ways == ["whole"]


def test_patches_that_were_applied_are_good_again(place):
    one, two = place.patch(1, 2, step=True), place.patch(2, 3)
    place.install(place.offer(3, two, one))
    assert bad(place) == ()


def test_the_patch_of_a_chain_that_is_wrong_is_the_only_bad_one(place):
    one, two = place.patch(1, 2, step=True), place.patch(2, 3, b"no patch")
    place.install(place.offer(3, two, one))
    assert bad(place) == (two.sha256,)


@pytest.mark.parametrize(
    ("error", "name"), [(MemoryError(), "MemoryError"), (ImportError(), "ImportError")], ids=["memory", "import"]
)
def test_what_is_wrong_with_this_machine_is_no_fault_of_a_patch(place, monkeypatch, error, name):
    def fail(*_):
        raise error

    patch = place.patch(1, 2)
    monkeypatch.setattr(hdiffpatch, "apply", fail)
    place.install(place.offer(2, patch))
    assert place.failures == [(patch.sha256, f"cannot be applied ({name})", "whole")]
    assert bad(place) == ()


@pytest.mark.parametrize("where", ["read_basis", "stage_basis"])
def test_too_little_memory_for_a_patch_is_enough_for_the_whole(place, monkeypatch, where):
    def fail(*_):
        raise MemoryError

    patch = place.patch(1, 2)
    monkeypatch.setattr(type(place.installer), where, fail)
    place.install(place.offer(2, patch))
    assert place.failures == [(patch.sha256, "takes more memory than there is", "whole")]
    assert bad(place) == ()


def test_what_is_larger_than_may_be_comes_in_no_form(make_place):
    place = make_place("file", max_release=1)
    patch = place.patch(1, 2)
    with pytest.raises(TooMuchDataError, match="max_release"):
        place.fetch(place.offer(2, patch, size=MIB + 1))
    assert place.downloaded == []


def test_that_it_cannot_be_remembered_keeps_nobody_from_the_next_way(place, monkeypatch):
    def fail(change):
        raise UnableToWriteDownloadError("memory.json", "disk full")

    monkeypatch.setattr(place.installer, "remember", fail)
    place.install(place.offer(2, place.patch(1, 2, b"no patch")))
    assert place.ways == ["whole"]


def test_a_program_that_changes_while_it_is_updated_gets_the_next_way(place):
    patch = place.patch(1, 2)
    program = place.made.path if place.kind == "file" else place.made.path / "run"

    def change():
        if place.downloaded == [patch.sha256]:
            program.write_bytes(b"#!/bin/sh\n# changed by itself\n")

    place.transport.before["file"] = change
    place.fetch(place.offer(2, patch))
    assert place.failures == [(patch.sha256, "does not apply to what the program is by now", "whole")]
    assert place.ways == ["whole"]
    assert bad(place) == ()


def test_a_tree_that_cannot_be_unpacked_is_left_to_the_whole(make_place):
    place = make_place("folder")
    data = b"".join([place.basis(2)[:512], bytes(1024)])  # a root, and no file
    patch = place.patch(1, 2, diff(place.basis(1), data))
    offer = place.offer(2, patch)
    offer = place.offer(2, forms=Forms(tree=Tree(sha256(data), len(data)), patches=(patch,)), size=offer.size)
    place.install(offer)
    assert place.failures == [(patch.sha256, "came to nothing (UnsafeArchiveError)", "whole")]


# What is interrupted --------------------------------------------------------------------------------------------------


def test_a_file_of_a_form_is_gone_on_with_by_the_next_process(place):
    patch = place.patch(1, 2)
    place.transport.before["file"] = lambda: (
        len(place.transport.calls) == 5
        and place.transport.once.update(file=HttpRequestFailedError("https://x/", "the cable was pulled"))
    )
    offer = place.offer(2, patch)
    with pytest.raises(HttpRequestFailedError):
        place.fetch(offer)
    path = place.installer.form_path(patch.sha256)
    there = path.stat().st_size
    assert 0 < there < patch.size
    place.installer = place.made.another()
    place.start_anew()
    sent = []
    place.transport.before["file"] = lambda: sent.append(path.stat().st_size)
    place.install(offer)
    assert sent[0] == there
    assert place.ways == ["patch"]
    assert place.failures == []


def test_what_is_there_of_the_whole_is_gone_on_with_if_the_rest_is_the_least(place):
    offer = place.offer(2, place.patch(1, 2), compressed=place.compressed(2))
    there = offer.size - 1
    path = place.installer.folder / f"staged-{offer.sha256}.part"
    path.write_bytes(place.packed(2)[:there])
    sent = []
    place.transport.before["file"] = lambda: sent.append(path.stat().st_size)
    place.install(offer)
    assert place.ways == ["whole"]
    assert sent == [there]


def test_a_little_of_the_whole_does_not_keep_a_patch_away(place):
    offer = place.offer(2, place.patch(1, 2))
    (place.installer.folder / f"staged-{offer.sha256}.part").write_bytes(place.packed(2)[:100])
    place.install(offer)
    assert place.ways == ["patch"]


def test_a_damaged_beginning_from_before_is_no_fault_of_the_file(place, caplog):
    patch = place.patch(1, 2)
    place.installer.form_path(patch.sha256).write_bytes(b"??")
    place.install(place.offer(2, patch))
    assert place.downloaded == [patch.sha256, patch.sha256]
    assert place.ways == ["patch"]
    assert "what was there of it was damaged" in caplog.text


def test_what_is_not_needed_for_the_release_on_its_way_goes(place):
    patch = place.patch(1, 2)
    others = [place.installer.form_path(each * 32) for each in ("aa", "bb")]
    for each in others:
        each.write_bytes(b"of another release")
    place.transport.once["file"] = HttpRequestFailedError("https://x/", "no network")
    with pytest.raises(HttpRequestFailedError):
        place.fetch(place.offer(2, patch))
    assert [name for name in place.names() if name.startswith("form-")] == [f"form-{patch.sha256}.part"]
    place.install(place.offer(2))  # its patches were withdrawn meanwhile
    assert [name for name in place.names() if name.startswith("form-")] == []


def test_what_has_begun_to_come_goes_unless_it_is_wanted(place):
    patch, gone = place.patch(1, 2), place.patch(1, 3)
    for each in (patch, gone):
        place.installer.form_path(each.sha256).write_bytes(b"?")
    for each in (2, 3):
        (place.installer.folder / f"staged-{sha256(place.packed(each))}.part").write_bytes(b"?")
    place.installer.drop({patch.sha256, sha256(place.packed(2))})
    left = [name for name in place.names() if name.endswith(".part")]
    assert left == [f"form-{patch.sha256}.part", f"staged-{sha256(place.packed(2))}.part"]


def test_a_full_disk_is_no_fault_of_a_patch(place, monkeypatch):
    patch = place.patch(1, 2)

    def full(self, data, at=None):
        raise UnableToWriteDownloadError(self._path, "disk full")

    with monkeypatch.context() as context:
        context.setattr(staging.PartFile, "write", full)
        with pytest.raises(UnableToWriteDownloadError):
            place.fetch(place.offer(2, patch))
    assert place.heard == []
    assert bad(place) == ()
    place.install(place.offer(2, patch))
    assert place.ways == ["patch"]


def test_where_a_compressed_file_and_what_it_makes_do_not_fit_the_whole_is_tried(place, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    offer = place.offer(2, compressed=place.compressed(2))
    monkeypatch.setattr(staging, "_free", lambda folder: offer.size + MIB)
    place.install(offer)
    assert place.ways == ["whole"]
    assert place.failures == []
    assert "is tried by the whole file" in caplog.text


def test_what_is_there_of_a_compressed_file_takes_no_space_anew(place, monkeypatch):
    compressed = place.compressed(2)
    offer = place.offer(2, compressed=compressed)
    place.installer.form_path(compressed.sha256).write_bytes(place.transport.files[compressed.sha256])
    monkeypatch.setattr(staging, "_free", lambda folder: offer.size + MIB)
    place.install(offer)
    assert place.ways == ["zstd"]


def test_where_nothing_fits_that_is_said(place, monkeypatch):
    monkeypatch.setattr(staging, "_free", lambda folder: 0)
    monkeypatch.setattr(FakeTransport, "file", lambda self, path, digest, size, part, *_, **__: part.reserve(size))
    with pytest.raises(NotEnoughSpaceError):
        place.fetch(place.offer(2, place.patch(1, 2), compressed=place.compressed(2)))
    assert place.heard == []


def test_a_file_that_cannot_be_read_back_is_no_fault_of_it(place, monkeypatch):
    patch = place.patch(1, 2)
    place.transport.before["file"] = lambda: place.installer.form_path(patch.sha256).unlink(missing_ok=True)
    with pytest.raises(UnableToReadFileError):
        place.fetch(place.offer(2, patch))
    assert place.heard == []


def test_a_whole_file_that_is_wrong_is_fetched_once_more(place):
    place.transport.files[sha256(place.packed(2))] = b"something else"
    with pytest.raises(FailedHashVerificationError):
        place.fetch(place.offer(2))
    assert len(place.downloaded) == 2
    assert len(place.shown) == 2


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_crash_while_the_tree_is_unpacked_leaves_nothing_that_counts(make_place, kind, monkeypatch):
    place = make_place(kind)
    patch = place.patch(1, 2)
    offer = place.offer(2, patch)

    class Killed(BaseException):
        pass

    def kill(point):
        if point == "unpacked":
            raise Killed

    monkeypatch.setattr(points, "hook", kill)
    with pytest.raises(Killed):
        place.fetch(offer)
    monkeypatch.undo()
    assert not place.installer.is_staged(offer.sha256)
    place.install(offer)
    assert Counter(place.ways) == {"patch": 1}

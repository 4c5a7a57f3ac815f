"""What is particular to a program that is a folder; the steps that all kinds have in common are in `test_installer`."""

import ctypes
import errno
import gzip
import hashlib
import lzma
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from backports import zstd
from semver import Version

from patchify.client import folder_installer as module
from patchify.client import points
from patchify.client.folder_installer import FolderInstaller
from patchify.client.kinds import installer_for
from patchify.client.restarter import Launch
from patchify.client.state import Phase, Release
from patchify.errors import (
    DamagedVersionError,
    FailedHashVerificationError,
    MissingExtraError,
    UnableToBackUpError,
    UnableToReadFileError,
    UnableToSwapError,
    UnableToUnpackError,
    UnsafeArchiveError,
)
from tests.client.installations import ONE, Installation, packed, sha256, tree

COMPRESSIONS = {"plain": bytes, "gz": gzip.compress, "xz": lzma.compress, "zstd": zstd.compress}
ERRORS = pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES])


@pytest.fixture(params=["folder", "link"])
def made(request, tmp_path):
    """An installation whose lock is held, of a plain folder or of a link to a folder of the user's."""
    made = Installation(tmp_path / "place", request.param)
    with made.installer.lock():
        yield made


def failing(error):
    def fail(*_, **__):
        raise OSError(error, os.strerror(error))

    return fail


def stage(made, data: bytes) -> Release:
    """Put any archive there, as after a download."""
    release = Release(made.release(2).version, sha256(data))
    part = made.installer.part(release.sha256)
    part.write(data)
    made.installer.stage(release.version, part, release.sha256)
    return release


def snapshot(folder) -> dict[str, object]:
    """Return everything there is in and of a folder."""
    found = {}
    for path in [Path(folder), *Path(folder).rglob("*")]:
        status = path.lstat()
        what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[os.path.relpath(path, folder)] = (status.st_ino, status.st_mode, status.st_mtime_ns, what)
    return found


# The first update -----------------------------------------------------------------------------------------------------


def test_a_plain_folder_is_untouched_until_it_becomes_a_link_in_one_step(tmp_path, monkeypatch):
    made = Installation(tmp_path, "folder")
    before = snapshot(made.path)
    seen = []

    def look(point):
        seen.append(point)
        assert made.looks_like == (2 if {"placed", "place-synced"} & set(seen) else 1)
        assert made.path.is_symlink() == ("placed" in seen)
        if "placed" not in seen:
            assert snapshot(made.path) == before

    monkeypatch.setattr(points, "hook", look)
    with made.installer.lock():
        update = made.swap()
    assert made.number == 2
    assert os.readlink(made.path) == f".app.patchify/versions/2.0.0-{update.release.sha256}"
    kept = made.kept_path(update.replaces)
    assert snapshot(kept) == before  # the very same folder
    assert kept.name == f"1.0.0-{update.replaces.sha256}"


def test_a_folder_that_a_link_leads_to_stays_where_it_is(tmp_path):
    made = Installation(tmp_path, "link")
    real = os.path.realpath(made.path)
    before = snapshot(real)
    with made.installer.lock():
        update = made.swap()
        assert made.number == 2
        assert os.readlink(made.kept_path(update.replaces)) == real
        made.installer.give_back("was killed", failed=True)
        assert made.number == 1
        assert os.path.realpath(made.path) == real
        assert made.installer.installed() == update.replaces.sha256
        made.swap()
        made.installer.confirm()
        made.confirm(3)
        assert not os.path.lexists(made.kept_path(update.replaces))
    assert snapshot(real) == before  # it is the user's: nothing of it is ever removed


def test_all_of_it_can_be_moved_elsewhere_together(tmp_path):
    made = Installation(tmp_path / "here", "folder")
    with made.installer.lock():
        made.swap()
    made.place.rename(tmp_path / "there")
    moved = Installation.__new__(Installation)
    moved.__dict__.update(made.__dict__, place=tmp_path / "there", path=tmp_path / "there" / "app")
    moved.installer = moved.another()
    assert moved.number == 2
    with moved.installer.lock():
        assert moved.installer.recover().on_trial
        moved.installer.give_back("was killed", failed=True)
    assert moved.number == 1


@pytest.mark.parametrize("without", ["the call", "a file system that does it"])
def test_where_no_folder_can_be_exchanged_the_folder_stays_and_it_says_what_to_do(tmp_path, monkeypatch, without):
    made = Installation(tmp_path, "folder")
    before = snapshot(made.path)

    def refuse(*_):
        ctypes.set_errno(errno.EINVAL)
        return -1

    library = type("Library", (), {} if without == "the call" else {"renameat2": staticmethod(refuse)})()
    with made.installer.lock():
        update = made.prepare()
        with monkeypatch.context() as patch:
            patch.setattr(module.ctypes, "CDLL", lambda *_, **__: library)
            with pytest.raises(UnableToSwapError, match=r"make .*app a symbolic link to a folder beside it") as caught:
                made.installer.swap(update, 1)
        assert caught.value.errno == (errno.ENOSYS if without == "the call" else errno.EINVAL)
        assert snapshot(made.path) == before
        assert made.installer.recover().update == update
        made.path.rename(tmp_path / "app-1")
        made.path.symlink_to("app-1")
        with monkeypatch.context() as patch:
            patch.setattr(module.ctypes, "CDLL", lambda *_, **__: library)
            made.confirm()
    assert made.number == 2


def test_a_plain_folder_whose_description_is_gone_is_not_exchanged(tmp_path):
    made = Installation(tmp_path, "folder")
    with made.installer.lock():
        update = made.prepare()
        module._manifest_of(made.kept_path(update.replaces)).unlink()
        with pytest.raises(UnableToSwapError, match="the manifest of the program is missing"):
            made.installer.swap(update, 1)
        assert made.number == 1
        made.swap()
        assert made.number == 2


def test_what_a_crash_before_the_exchange_left_is_no_obstacle(tmp_path, monkeypatch):
    made = Installation(tmp_path, "folder")

    def crash(point):
        if point == "placing":
            raise KeyboardInterrupt

    with made.installer.lock():
        update = made.prepare()
        with monkeypatch.context() as patch:
            patch.setattr(points, "hook", crash)
            with pytest.raises(KeyboardInterrupt):
                made.installer.swap(update, 1)
        assert made.kept_path(update.replaces).is_symlink()
        made.another().recover()
        assert made.installer.swap(update, 1)
        assert made.number == 2
        made.installer.give_back("was killed", failed=True)
        assert made.number == 1


@pytest.mark.parametrize(("mode", "others"), [(0o755, 0o011), (0o750, 0o010), (0o700, 0)])
def test_who_could_start_the_program_still_can_and_nobody_else(made, mode, others):
    os.chmod(made.path, mode)
    with_umask = os.umask(0o077)
    try:
        made.confirm()
        made.confirm(3)
    finally:
        os.umask(with_umask)
    for folder in (made.folder, made.installer.versions):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 | others
    assert {path.name for path in made.folder.iterdir() if path.is_file() and path.stat().st_mode & 0o077} == set()


# What a release may be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_release_is_a_tar_archive_in_any_usual_compression(made, tmp_path, name):
    release = stage(made, packed(tree(tmp_path / "new", 2), COMPRESSIONS[name]))
    made.installer.swap(made.installer.prepare(release, ONE), 1)
    assert made.number == 2
    assert made.names().count(f"staged-{release.sha256}") == 0  # unpacked, it is not needed any more


def test_zstd_needs_an_extra_and_says_so(made, tmp_path, monkeypatch):
    release = stage(made, packed(tree(tmp_path / "new", 2), zstd.compress))
    monkeypatch.setitem(sys.modules, "backports", None)
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    with pytest.raises(MissingExtraError):
        made.installer.prepare(release, ONE)
    assert made.number == 1


def test_executables_and_links_inside_are_kept(made):
    update = made.swap()
    folder = made.kept_path(update.release)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {"run": 0o755, "lib": 0o755}
    assert os.readlink(folder / "lib" / "data") == "data.1"
    assert stat.S_IMODE((folder / "lib" / "data.1").stat().st_mode) == 0o644


@pytest.mark.parametrize("data", [b"", b"no archive", b"\x1f\x8bno archive", packed.__doc__ or b"\0" * 10_000])
def test_what_is_no_archive_is_refused_and_leaves_nothing(made, data):
    release = stage(made, data)
    with pytest.raises(UnsafeArchiveError):
        made.installer.prepare(release, ONE)
    assert made.number == 1
    assert os.listdir(made.installer.versions) == []
    made.confirm()
    assert made.number == 2


def test_a_release_that_unpacks_to_too_much_is_refused(tmp_path):
    made = Installation(tmp_path / "place", "folder")
    big = tree(tmp_path / "new", 2)
    (big / "zeros").write_bytes(b"\0" * 3_000_000)
    for limits in ({"max_ratio": 1}, {"max_unpacked": 2}):
        made.installer = FolderInstaller(made.path, **limits)
        with made.installer.lock():
            release = stage(made, packed(big))
            with pytest.raises(UnsafeArchiveError, match="unpacks to more than"):
                made.installer.prepare(release, ONE)
    made.installer = FolderInstaller(made.path, max_unpacked=4, max_ratio=10_000)
    with made.installer.lock():
        made.installer.swap(made.installer.prepare(release, ONE), 1)
    assert made.number == 2


@ERRORS
def test_a_disk_that_fails_while_unpacking_leaves_nothing_but_the_download(made, monkeypatch, error):
    release = made.download(2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchmod", failing(error))
        with pytest.raises(UnableToUnpackError) as caught:
            made.installer.prepare(release, ONE)
    assert caught.value.errno == error
    assert os.listdir(made.installer.versions) == []
    assert made.installer.is_staged(release.sha256)
    made.confirm()
    assert made.number == 2


# What is kept ---------------------------------------------------------------------------------------------------------


def test_a_release_that_is_unpacked_is_there(made):
    release = made.release(2)
    assert not made.installer.is_staged(release.sha256)
    made.download(2)
    assert made.installer.is_staged(release.sha256)
    made.prepare(2)
    assert not made.installer.staged_path(release.sha256).exists()
    assert made.installer.is_staged(release.sha256)
    made.prepare(2)  # it is verified, not unpacked again


def test_whether_a_release_is_there_may_not_be_told(made, monkeypatch):
    made.prepare()
    monkeypatch.setattr(os, "listdir", failing(errno.EIO))
    monkeypatch.setattr(os, "scandir", failing(errno.EIO))
    with pytest.raises(UnableToReadFileError):
        made.installer.is_staged("a" * 64)


@pytest.mark.parametrize("point", ["unpacked", "described"])
def test_what_a_crash_left_of_unpacking_is_unpacked_again(made, monkeypatch, point):
    release = made.download(2)
    archive = made.installer.staged_path(release.sha256)
    kept = archive.with_name("kept")
    shutil.copy(archive, kept)
    made.prepare(2)
    folder = made.kept_path(release)
    if point == "unpacked":
        module._manifest_of(folder).unlink()  # as if it had not been written yet
    else:
        shutil.rmtree(folder)  # as if a cleaning was interrupted
    kept.replace(archive)
    (made.installer.versions / ".unpacking").mkdir()
    made.installer.swap(made.installer.prepare(release, ONE), 1)
    assert made.number == 2
    assert not (made.installer.versions / ".unpacking").exists()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "run").unlink(), "'run' is missing"),
        (lambda folder: (folder / "run").chmod(0o644), "'run' may be executed no more"),
        (lambda folder: (folder / "lib" / "data").unlink(), "'lib/data' is missing"),
        (lambda folder: (folder / "run").write_bytes(b"#!/bin/sh\nexit 1"), "'run' has 16 bytes instead of"),
        (lambda folder: shutil.rmtree(folder / "lib"), "'lib' is missing"),
        (lambda folder: module._manifest_of(folder).unlink(), "its manifest is missing"),
        (lambda folder: module._manifest_of(folder).write_bytes(b"x"), "the manifest itself is damaged"),
    ],
    ids=["gone", "mode", "link", "program", "folder", "no manifest", "manifest"],
)
@pytest.mark.parametrize("which", ["new", "previous"])
def test_a_damaged_version_is_neither_put_in_place_nor_back(made, which, damage, problem):
    if which == "new":
        update = made.prepare()
        folder = made.kept_path(update.release)
    else:
        update = made.swap()
        folder = made.kept_path(update.replaces)
    damage(folder)
    swap, give_back = (lambda: made.installer.swap(update, 1)), (lambda: made.installer.give_back("died", failed=True))
    with pytest.raises(DamagedVersionError) as caught:
        (swap if which == "new" else give_back)()
    assert caught.value.problem.startswith(problem)
    assert caught.value.path == folder
    assert str(caught.value.version) == ("2.0.0" if which == "new" else "1.0.0")
    assert made.number == (1 if which == "new" else 2)
    made.swap() if which == "new" else made.confirm(3)
    assert made.number == (2 if which == "new" else 3)


def test_what_a_program_has_written_into_its_own_files_keeps_nothing_broken_in_its_place(made, caplog):
    update = made.swap()
    for release in (update.replaces, update.release):
        (made.kept_path(release) / "lib" / "data.1").write_bytes(b"some more")
    made.installer.give_back("was killed", failed=True)
    assert made.installer.installed() == update.replaces.sha256
    assert "'lib/data.1' has 9 bytes" in caplog.text
    assert "put back all the same" in caplog.text
    with pytest.raises(DamagedVersionError):  # that which failed is not tried again like this, but unpacked anew
        made.installer.swap(update, 1)
    assert made.installer.installed() == update.replaces.sha256


def test_what_the_program_writes_beside_itself_is_no_damage(made):
    update = made.swap()
    for folder in (made.kept_path(update.replaces), made.kept_path(update.release)):
        (folder / "__pycache__").mkdir()
        (folder / "log").write_bytes(b"log")
    made.installer.give_back("was killed", failed=True)
    assert made.number == 1
    assert made.installer.swap(update, 1)
    assert made.number == 2


def test_the_version_that_is_current_is_never_unpacked_over(made):
    made.confirm(2)
    release = made.installer.state().good
    archive = made.archive(2)
    module._manifest_of(made.kept_path(release)).unlink()
    made.installer.staged_path(release.sha256).write_bytes(archive)
    with pytest.raises(UnableToUnpackError):
        made.installer.prepare(release, release.version)
    assert made.number == 2


def test_a_version_under_another_name_than_it_runs_as_can_be_updated_and_put_back(made):
    made.confirm(2)
    update = made.prepare(3, ONE)  # a build that does not know its own version
    made.installer.swap(update, 1)
    made.installer.give_back("was killed", failed=True)
    assert made.number == 2
    assert made.installer.recover().update.phase is Phase.STAGED
    made.installer.swap(update, 1)
    assert made.number == 3


def test_the_archive_is_verified_before_it_is_unpacked(made, monkeypatch):
    release = made.download(2)
    made.installer.staged_path(release.sha256).write_bytes(packed(tree(made.place / "evil", 9)))
    monkeypatch.setattr(module, "unpack", failing(errno.EIO))
    with pytest.raises(FailedHashVerificationError) as caught:
        made.installer.prepare(release, ONE)
    assert caught.value.expected == release.sha256
    assert not made.installer.is_staged(release.sha256)


def test_what_cannot_be_removed_is_no_obstacle(made, monkeypatch):
    made.confirm(2)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        for name in ("unlink", "rmdir"):
            patch.setattr(os, name, failing(errno.EACCES))
        made.installer._tidy(made.installer.state())
    made.installer.versions.joinpath("other-" + "a" * 64).mkdir()
    made.installer._tidy(made.installer.state())
    assert made.number == 2
    assert not made.installer.versions.joinpath("other-" + "a" * 64).exists()


# Steps that fail ------------------------------------------------------------------------------------------------------


@ERRORS
@pytest.mark.parametrize("call", ["symlink", "replace"])
def test_a_link_that_cannot_be_replaced_leaves_the_program_and_no_draft(made, monkeypatch, error, call):
    made.confirm(2)
    update = made.prepare(3)
    real = getattr(os, call)

    def fail(source, target, **options):
        if ".draft" in f"{source}{target}":
            raise OSError(error, os.strerror(error))
        return real(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(UnableToSwapError) as caught:
            made.installer.swap(update, 1)
    assert caught.value.errno == error
    assert made.number == 2
    assert ".draft" not in made.names()
    assert made.installer.recover().update == update
    made.installer.swap(update, 1)
    assert made.number == 3


@ERRORS
def test_a_program_that_cannot_be_described_is_not_replaced(made, monkeypatch, error):
    release = made.download(2)
    made.installer.make_ready(release)
    with monkeypatch.context() as patch:
        patch.setattr(module.manifest, "describe", failing(error))
        with pytest.raises(UnableToBackUpError) as caught:
            made.installer.prepare(release, ONE)
    assert caught.value.errno == error
    assert made.number == 1
    assert made.installer.state().update is None


def test_a_link_that_cannot_be_read_just_now_is_not_taken_for_a_folder(made, monkeypatch):
    update = made.swap()
    with monkeypatch.context() as patch:
        patch.setattr(os, "readlink", failing(errno.EIO))
        for use in (made.installer.recover, made.installer.installed, made.installer.confirm):
            with pytest.raises(UnableToReadFileError):
                use()
        assert made.installer.identity() is None
    assert made.installer.recover().on_trial.release == update.release
    assert made.number == 2


def test_a_link_that_leads_nowhere_is_a_program_that_is_gone(made):
    made.confirm(2)
    made.kept_path(made.installer.state().good).rename(made.place / "hidden")
    with pytest.raises(UnableToReadFileError) as caught:
        made.installer.installed()
    assert caught.value.errno == errno.ENOENT


def test_a_file_in_the_place_of_the_folder_says_so(tmp_path):
    (tmp_path / "app").write_bytes(b"")
    with pytest.raises(UnableToReadFileError) as caught:
        FolderInstaller(tmp_path / "app").installed()
    assert caught.value.errno == errno.ENOTDIR


# How it is started ----------------------------------------------------------------------------------------------------


def launch(program, *arguments, script="", directory="/"):
    return Launch(str(program), tuple(map(str, (program, *arguments))), directory, frozenset(), 1, str(script))


def test_what_is_started_is_what_is_current(made):
    update = made.swap()
    version = made.kept_path(update.release)
    later = made.another()
    for root in (made.path, version):  # as the user knows it, and as a frozen program knows itself
        found = later.launch(
            launch(root / "run", root / "main.py", "serve", f"--file={root}/x", script=root / "main.py")
        )
        assert (found.program, found.script) == (f"{made.path}/run", f"{made.path}/main.py")
        assert found.arguments == (f"{made.path}/run", f"{made.path}/main.py", "serve", f"--file={root}/x")
    outside = launch("/usr/bin/python3", f"{made.path}er/main.py", script=f"{made.path}er/main.py")
    assert later.launch(outside) == outside


def test_a_release_is_run_where_it_waits(made):
    release = made.prepare().release
    folder = made.installer.version_path(release)
    real = os.path.realpath(made.path)
    frozen = made.installer.trial_launch(launch(f"{real}/run", "serve"), release, ("--version",))
    assert frozen == (f"{folder}/run", "--version")
    assert subprocess.run(frozen, capture_output=True, check=True).stdout == b"2\n"
    started = launch("/usr/bin/python3", "-X", "dev", f"{made.path}/main.py", "serve", script=f"{made.path}/main.py")
    expected = ("/usr/bin/python3", "-X", "dev", f"{folder}/main.py", "--version")
    assert made.installer.trial_launch(started, release, ("--version",)) == expected
    started = launch("/usr/bin/python3", "main.py", "serve", script="main.py", directory=str(made.path))
    assert made.installer.trial_launch(started, release, ()) == ("/usr/bin/python3", f"{folder}/main.py")
    started = launch(f"{made.path}/bin/python", f"{made.path}/main.py", script=f"{made.path}/main.py")
    assert made.installer.trial_launch(started, release, ()) == (f"{folder}/bin/python", f"{folder}/main.py")


def test_the_files_of_the_version_that_runs_are_found_after_the_swap(tmp_path):
    made = Installation(tmp_path, "link")
    with made.installer.lock():
        made.confirm(2)
        made.installer = made.another()  # version 2 runs
        kept = [made.installer.kept(f"{root}/lib/data") for root in (made.path, os.path.realpath(made.path))]
        kept += [f"{made.installer.kept(str(made.path))}/lib/data"]  # as an entry of sys.path
        made.swap(3)
    assert {Path(path).read_bytes() for path in kept} == {b"data 2"}
    assert made.installer.kept("/usr/lib/python3") == "/usr/lib/python3"


def test_the_files_of_the_users_own_folder_are_found_after_the_swap(tmp_path):
    made = Installation(tmp_path, "link")
    kept = [made.installer.kept(f"{made.path}/lib/data"), f"{made.installer.kept(str(made.path))}/lib/data"]
    with made.installer.lock():
        made.swap()
    assert {Path(path).read_bytes() for path in kept} == {b"data 1"}


def test_the_kind_is_that_of_what_stands_at_the_path(tmp_path):
    for kind in ("file", "folder", "link"):
        made = Installation(tmp_path / kind, kind)
        assert type(installer_for(made.path)) is type(made.installer)
        assert type(installer_for(str(made.path))) is type(made.installer)
        with made.installer.lock():
            made.swap()
        assert type(installer_for(made.path)) is type(made.installer)


def test_another_folder_has_another_hash(made):
    found = made.installer.installed()
    assert found == made.another().installed()
    assert len(found) == len(hashlib.sha256().hexdigest())
    made.replace()
    assert made.installer.installed() != found


def test_the_folder_of_before_the_first_update_is_never_deleted(tmp_path):
    made = Installation(tmp_path / "place", "folder")
    (made.path / "user.db").write_bytes(b"precious")
    with made.installer.lock():
        for number in (2, 3, 4):
            made.confirm(number, Version(number - 1))
    [kept] = made.installer.versions.glob("*/user.db")
    assert kept.read_bytes() == b"precious"
    assert len([each for each in made.installer.versions.iterdir() if each.is_dir()]) == 3  # with versions 3 and 4


# Leftovers ------------------------------------------------------------------------------------------------------------


def test_what_another_thread_writes_at_this_moment_is_no_leftover(made):
    for name in (".reports.jsonl.new", ".memory.json.new", ".reports.jsonl.old", ".memory.json.old", ".state.json.new"):
        (made.folder / name).write_bytes(b"draft")
        if name.endswith("old"):
            os.utime(made.folder / name, (0, 0))
    made.installer.part("a" * 64).close()
    assert {name for name in made.names() if name.startswith(".")} == {".reports.jsonl.new", ".memory.json.new"}

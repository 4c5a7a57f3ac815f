"""What is particular to a program that is one file; the steps that all kinds have in common are in `test_installer`."""

import errno
import os
import stat
from pathlib import Path

import pytest
from semver import Version

from patchify.client import file_installer as module
from patchify.client.file_installer import FileInstaller
from patchify.client.restarter import Launch
from patchify.errors import (
    FileOperationError,
    UnableToBackUpError,
    UnableToReadFileError,
    UnableToSetPermissionsError,
    UnableToSwapError,
    UnableToWriteDownloadError,
    UnableToWriteStateError,
)
from tests.client.installations import ONE, Installation, script, sha256

posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners are those of POSIX")
root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
NO_LINKS = pytest.mark.parametrize("error", [errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP])


@pytest.fixture
def made(tmp_path):
    """An installation whose lock is held."""
    made = Installation(tmp_path, "file")
    with made.installer.lock():
        yield made


@pytest.fixture
def installer(made):
    return made.installer


@pytest.fixture
def program(made):
    return made.path


def failing(error):
    def fail(*_, **__):
        raise OSError(error, os.strerror(error))

    return fail


def previous(installer):
    return installer.previous_path(sha256(script(1)))


# The path -------------------------------------------------------------------------------------------------------------


def test_a_symbolic_link_is_followed_and_stays_one(made, tmp_path):
    link = tmp_path / "bin" / "app"
    link.parent.mkdir()
    link.symlink_to(made.path)
    assert FileInstaller(link).folder == made.folder
    made.installer = FileInstaller(link)
    made.swap()
    assert link.is_symlink()
    assert link.read_bytes() == made.path.read_bytes() == script(2)
    assert made.installer.folder == tmp_path / ".app.patchify"
    assert os.listdir(link.parent) == ["app"]


def test_a_link_that_leads_to_another_program_later_is_followed_no_more(made, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(script(9))
    link = tmp_path / "link"
    link.symlink_to(made.path)
    made.installer = FileInstaller(link)
    update = made.prepare()
    link.unlink()
    link.symlink_to(other)
    made.installer.swap(update, 1)
    assert (made.number, other.read_bytes()) == (2, script(9))


def test_a_program_without_a_folder_in_its_path_is_found(program, monkeypatch):
    monkeypatch.chdir(program.parent)
    assert FileInstaller(os.path.relpath(program)).path == program.resolve()


def test_a_program_that_is_a_folder_says_so(tmp_path):
    with pytest.raises(UnableToReadFileError):
        FileInstaller(tmp_path).installed()


def launch(*arguments, script=""):
    return Launch("/usr/bin/python3", ("python3", *arguments), "/", frozenset(), 1, script)


def test_what_is_started_stands_where_it_stood(made):
    started = launch("-X", "dev", str(made.path), "serve", script=str(made.path))
    assert made.installer.launch(started) is started


def test_a_release_is_run_where_it_waits_with_its_interpreter_if_it_has_one(made, installer):
    release = made.prepare().release
    staged = str(installer.staged_path(release.sha256))
    started = launch("-X", "dev", str(made.path), "serve", script=str(made.path))
    assert installer.trial_launch(started, release, ("--version",)) == ("python3", "-X", "dev", staged, "--version")
    assert installer.trial_launch(launch("serve"), release, ("--version",)) == (staged, "--version")


def test_the_program_is_found_as_the_previous_one_after_the_swap(made, installer, tmp_path):
    made.prepare()
    (tmp_path / "link").symlink_to(made.path)
    for path in (made.path, tmp_path / "link"):
        kept = installer.kept(str(path))
        assert kept == str(previous(installer))
    made.swap()
    assert Path(kept).read_bytes() == script(1)
    assert installer.kept("/usr/lib/python3/json") == "/usr/lib/python3/json"


def test_the_program_is_kept_early_until_it_is_prepared(made, installer):
    with installer.lock():
        installer.keep()
        kept = Path(installer.kept(str(made.path)))
        assert kept.read_bytes() == made.path.read_bytes()
        installer.part("11" * 32).close()  # tidies up
        installer.forget()
        assert kept.exists()
        installer.keep()
    made.prepare()
    made.swap()
    assert kept.read_bytes() == script(1)


# Hashing --------------------------------------------------------------------------------------------------------------


def test_progress_of_hashing_the_program_is_told(installer):
    seen = []
    assert installer.installed(lambda done, total: seen.append((done, total))) == sha256(script(1))
    assert seen == [(len(script(1)), len(script(1)))]


def test_a_program_is_hashed_once_until_it_is_written_to(made, installer):
    seen = []
    for _ in range(2):
        assert installer.installed(lambda done, total: seen.append(done)) == sha256(script(1))
    assert seen == [len(script(1))]
    made.damage(made.path)
    assert installer.installed() == sha256(b"damaged")


def test_a_program_that_is_written_to_while_it_is_hashed_is_hashed_again(made, installer):
    installer.installed(lambda done, total: made.damage(made.path))
    assert installer.installed() == sha256(b"damaged")


# Mode and ownership ---------------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize(
    ("before", "after"),
    [(0o755, 0o755), (0o700, 0o700), (0o644, 0o755), (0o600, 0o700), (0o640, 0o750), (0o555, 0o555), (0o4755, 0o4755)],
)
def test_the_mode_is_kept_and_who_may_read_may_start(made, before, after):
    made.path.chmod(before)
    made.swap()
    assert stat.S_IMODE(made.path.stat().st_mode) == after
    made.installer.give_back("was killed", failed=True)
    assert stat.S_IMODE(made.path.stat().st_mode) == before


@root
@pytest.mark.parametrize("linking", [True, False])
def test_the_owner_is_kept(made, monkeypatch, linking):
    os.chown(made.path, 1234, 4321)
    made.path.chmod(0o4711)
    if not linking:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
    made.swap()
    for path in (made.path, previous(made.installer)):
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)
        assert stat.S_IMODE(path.stat().st_mode) == 0o4711


# The previous version -------------------------------------------------------------------------------------------------


def test_the_draft_of_a_backup_is_never_left_behind(made):
    made.prepare()
    made.prepare()  # now previous and program are one file, and renaming one over the other does nothing
    assert ".draft" not in made.names()


def test_the_backup_is_the_same_file_where_that_is_possible(made, installer):
    made.prepare()
    assert previous(installer).stat().st_ino == made.path.stat().st_ino


@NO_LINKS
def test_and_a_copy_where_it_is_not(made, installer, monkeypatch, error):
    release = made.download(2)
    made.path.chmod(0o750)
    seen = []
    monkeypatch.setattr(os, "link", failing(error))
    monkeypatch.setattr(module, "BLOCK", 7)
    installer.prepare(release, ONE, lambda done, total: seen.append(done / total))
    assert previous(installer).read_bytes() == script(1)
    assert previous(installer).stat().st_ino != made.path.stat().st_ino
    assert stat.S_IMODE(previous(installer).stat().st_mode) == 0o750
    assert len(seen) > 3
    assert seen[-1] == 1


@NO_LINKS
def test_without_hard_links_a_failed_release_is_tried_again_as_well(made, installer, monkeypatch, error):
    monkeypatch.setattr(os, "link", failing(error))
    made.swap()
    assert made.number == 2
    update = installer.give_back("was killed", failed=True).update
    assert made.number == 1
    assert installer.swap(update, 1)
    assert made.number == 2
    installer.confirm()
    assert installer.recall().version == ONE
    assert made.number == 1


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_the_whole_copy(made, installer, monkeypatch):
    class Slow(module.FileIO):
        def write(self, data):
            return super().write(data[:3])

    made.download(2)
    monkeypatch.setattr(module, "FileIO", Slow)
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    made.swap()
    assert made.number == 2
    installer.give_back("was killed", failed=True)
    assert made.number == 1


def test_a_link_in_the_place_of_a_staged_or_previous_file_is_not_followed(made, installer, tmp_path):
    update = made.prepare()
    steps = (
        (installer.staged_path(update.release.sha256), lambda: installer.swap(update, 1)),
        (previous(installer), lambda: installer.give_back("was killed", failed=True)),
    )
    for path, step in steps:
        path.rename(tmp_path / "real")
        path.symlink_to(tmp_path / "real")
        with pytest.raises(UnableToReadFileError) as caught:
            step()
        assert caught.value.errno == errno.ELOOP
        path.unlink()
        (tmp_path / "real").rename(path)
        step()
    assert made.number == 1


def test_a_folder_that_stands_where_a_file_is_to_go_is_no_end(made, installer):
    for name in ("previous-folder", "staged-folder", ".folder"):
        (made.folder / name).mkdir()
        (made.folder / name / "file").write_bytes(b"")
    made.confirm()
    assert made.number == 2


# Operations that fail -------------------------------------------------------------------------------------------------


class Breaking:
    """Lets the nth call of one function fail."""

    def __init__(self, patch, owner, name, error, *, nth=1):
        self.calls = 0
        original = getattr(owner, name)

        def call(*arguments, **options):
            self.calls += 1
            if self.calls == nth:
                raise OSError(error, os.strerror(error))
            return original(*arguments, **options)

        patch.setattr(owner, name, call)


STEPS = {
    "giving the owner": ("prepare", "fchown", 1, UnableToSetPermissionsError),
    "giving the mode": ("prepare", "fchmod", 1, UnableToSetPermissionsError),
    "syncing the staged file": ("prepare", "fsync", 1, UnableToWriteDownloadError),
    "naming the backup": ("prepare", "replace", 1, UnableToBackUpError),
    "syncing the folder of the backup": ("prepare", "fsync", 2, UnableToBackUpError),
    "syncing the state": ("prepare", "fsync", 3, UnableToWriteStateError),
    "naming the state": ("prepare", "replace", 2, UnableToWriteStateError),
    "syncing the folder of the state": ("prepare", "fsync", 4, UnableToWriteStateError),
    "opening the staged file": ("prepare", "open", 1, UnableToReadFileError),
    "looking at the staged file": ("prepare", "fstat", 1, UnableToReadFileError),
    "ordering the swap": ("swap", "replace", 1, UnableToWriteStateError),
    "opening the staged file again": ("swap", "open", 3, UnableToReadFileError),
    "swapping": ("swap", "replace", 2, UnableToSwapError),
}


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("name", STEPS)
def test_what_fails_is_told_leaves_the_program_alone_and_may_succeed_later(made, monkeypatch, name, error):
    operation, call, nth, kind = STEPS[name]
    release = made.download(2)
    if call == "fchown":
        if os.name != "posix" or os.geteuid():
            pytest.skip("only root can give files away")
        os.chown(made.path, 1234, -1)
    update = made.prepare() if operation == "swap" else None
    with monkeypatch.context() as patch:
        broken = Breaking(patch, os, call, error, nth=nth)
        with pytest.raises(FileOperationError) as caught:
            made.installer.swap(update, 1) if update else made.installer.prepare(release, ONE)
    assert type(caught.value) is kind
    assert caught.value.errno == error
    assert broken.calls >= nth
    assert made.number == 1
    assert not [each for each in made.names() if each.startswith(".")]
    later = made.another()
    later.recover()
    made.swap()
    assert made.number == 2


@pytest.mark.parametrize("call", ["fchmod", "fsync"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_copy_that_fails_leaves_no_draft(made, monkeypatch, call, error):
    release = made.download(2)
    (made.folder / ".draft").write_bytes(b"what a crash left")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", failing(errno.EPERM))
        Breaking(patch, os, call, error, nth=2)  # the first is for the staged file
        with pytest.raises(UnableToBackUpError) as caught:
            made.installer.prepare(release, ONE)
    assert caught.value.errno == error
    assert ".draft" not in made.names()
    assert made.number == 1


def test_after_a_sync_that_failed_the_staged_file_is_not_trusted(made, monkeypatch):
    release = made.download(2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(UnableToWriteDownloadError):
            made.installer.prepare(release, ONE)
    assert not made.installer.is_staged(release.sha256)


@pytest.mark.parametrize(("name", "nth"), [("replace", 2), ("fsync", 3)])  # after those of the state
def test_giving_back_that_fails_is_told_and_can_be_tried_again(made, monkeypatch, name, nth):
    made.swap()
    with monkeypatch.context() as patch:
        Breaking(patch, os, name, errno.EIO, nth=nth)
        with pytest.raises(UnableToSwapError):
            made.installer.give_back("was killed", failed=True)
    made.installer.give_back("was killed", failed=True)
    assert made.number == 1
    assert made.installer.state().update.failures == 1


def test_a_version_may_be_any_semver(made, installer):
    release = made.download(2)
    odd = type(release)(Version.parse("2.0.0-rc.1.x-y+build.7-z"), release.sha256)
    update = installer.prepare(odd, ONE)
    installer.swap(update, 1)
    assert installer.state().on_trial.release == odd


# Leftovers ------------------------------------------------------------------------------------------------------------


def test_what_another_thread_writes_at_this_moment_is_no_leftover(made, installer):
    for name in (".reports.jsonl.new", ".memory.json.new", ".reports.jsonl.old", ".memory.json.old", ".state.json.new"):
        (made.folder / name).write_bytes(b"draft")
        if name.endswith("old"):
            os.utime(made.folder / name, (0, 0))
    installer.part("a" * 64).close()
    assert {name for name in made.names() if name.startswith(".")} == {".reports.jsonl.new", ".memory.json.new"}

import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
from collections import Counter

import pytest
from semver import Version

from patchify.client import installer as module
from patchify.client.installer import FileInstaller
from patchify.client.state import Staged, load, save
from patchify.errors import (
    FailedHashVerificationError,
    FileOperationError,
    UnableToBackUpError,
    UnableToCreateDownloadError,
    UnableToCreateFolderError,
    UnableToLockError,
    UnableToReadFileError,
    UnableToSetPermissionsError,
    UnableToSwapError,
    UnableToWriteDownloadError,
    UnableToWriteStateError,
    UpdateInProgressError,
)
from tests.running import PATIENCE, ROOT

OLD, NEW, THIRD = b"#!/bin/sh\necho one\n", b"#!/bin/sh\necho two, which is longer\n", b"#!/bin/sh\necho three\n"
TWO = Version(2)
posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners are those of POSIX")
root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def nothing(done, total):
    pass


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "app"
    path.write_bytes(OLD)
    path.chmod(0o755)
    return path


@pytest.fixture
def installer(program):
    made = FileInstaller(program)
    yield made
    made.retire()


def download(installer, data=NEW, version=TWO):
    """Put a release into the folder, as after a download."""
    with installer.lock():
        part = installer.part(sha256(data))
        part.write(data)
        installer.stage(version, part, sha256(data))
    return sha256(data)


def prepare(installer, data=NEW, version=TWO):
    digest = download(installer, data, version)
    with installer.lock():
        return installer.prepare(version, digest, nothing)


def names(installer):
    return sorted(path.name for path in installer.folder.iterdir())


def failing(error):
    def fail(*_, **__):
        raise OSError(error, os.strerror(error))

    return fail


# The story ------------------------------------------------------------------------------------------------------------


def test_a_release_is_staged_prepared_and_swapped_in(installer, program):
    staged = prepare(installer)
    assert staged == Staged(TWO, sha256(NEW), sha256(OLD))
    assert program.read_bytes() == OLD
    assert load(installer.folder / "state.json") == staged
    with installer.lock():
        installer.swap(staged)
    assert program.read_bytes() == NEW
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"two, which is longer\n"


def test_the_previous_program_is_kept_and_the_rest_cleaned_up(installer, program):
    with installer.lock():
        installer.swap(prepare(installer))
        assert installer.recover() is None
    assert installer.previous.read_bytes() == OLD
    assert os.access(installer.previous, os.X_OK)
    assert names(installer) == ["lock", "previous", "state.json"]


def test_a_second_update_replaces_the_previous(installer, program):
    for version, data in ((2, NEW), (3, THIRD)):
        staged = prepare(installer, data, Version(version))
        with installer.lock():
            installer.swap(staged)
            installer.recover()
    assert (installer.previous.read_bytes(), program.read_bytes()) == (NEW, THIRD)


def test_progress_goes_from_the_first_byte_to_the_last(installer):
    digest = download(installer)
    seen = []
    with installer.lock():
        installer.prepare(TWO, digest, lambda done, total: seen.append((done, total)))
    total = len(NEW) + 2 * len(OLD)
    assert {each for _, each in seen} == {total}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] <= total


def test_progress_of_hashing_the_program_is_told(installer):
    seen = []
    assert installer.installed(lambda done, total: seen.append((done, total))) == sha256(OLD)
    assert seen == [(len(OLD), len(OLD))]


def test_a_program_is_hashed_once_until_it_is_written_to(installer, program):
    seen = []
    for _ in range(2):
        assert installer.installed(lambda done, total: seen.append(done)) == sha256(OLD)
    assert seen == [len(OLD)]
    damage(program, THIRD)
    assert installer.installed() == sha256(THIRD)


def test_a_program_that_is_written_to_while_it_is_hashed_is_hashed_again(installer, program):
    installer.installed(lambda done, total: damage(program, THIRD))
    assert installer.installed() == sha256(THIRD)


def test_identity_changes_with_the_file(installer, program):
    before = installer.identity()
    assert installer.identity() == before
    with installer.lock():
        installer.swap(prepare(installer))
    assert installer.identity() != before
    program.unlink()
    assert installer.identity() is None


def test_a_symbolic_link_is_followed_and_stays_one(tmp_path, program):
    link = tmp_path / "bin" / "app"
    link.parent.mkdir()
    link.symlink_to(program)
    installer = FileInstaller(link)
    with installer.lock():
        installer.swap(prepare(installer))
    assert link.is_symlink()
    assert link.read_bytes() == program.read_bytes() == NEW
    assert installer.folder == tmp_path / ".app.patchify"
    assert os.listdir(link.parent) == ["app"]


def test_a_program_without_a_folder_in_its_path_is_found(program, monkeypatch):
    monkeypatch.chdir(program.parent)
    assert FileInstaller(os.path.relpath(program)).executable == program.resolve()


# Mode and ownership ---------------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize(
    ("before", "after"),
    [(0o755, 0o755), (0o700, 0o700), (0o644, 0o755), (0o600, 0o700), (0o640, 0o750), (0o555, 0o555), (0o4755, 0o4755)],
)
def test_the_mode_is_kept_and_who_may_read_may_start(installer, program, before, after):
    program.chmod(before)
    with installer.lock():
        installer.swap(prepare(installer))
    assert stat.S_IMODE(program.stat().st_mode) == after


@root
@pytest.mark.parametrize("linking", [True, False])
def test_the_owner_is_kept(installer, program, monkeypatch, linking):
    os.chown(program, 1234, 4321)
    program.chmod(0o4711)
    if not linking:
        monkeypatch.setattr(module.os, "link", failing(errno.EPERM))
    staged = prepare(installer)
    with installer.lock():
        installer.swap(staged)
    for path in (program, installer.previous):
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)
        assert stat.S_IMODE(path.stat().st_mode) == 0o4711


@posix
def test_the_folder_is_the_owners_alone(installer):
    before = os.umask(0)
    try:
        with installer.lock():
            assert stat.S_IMODE(installer.folder.stat().st_mode) == 0o700
    finally:
        os.umask(before)


# The folder and the lock ------------------------------------------------------------------------------------------------


def test_a_folder_that_is_a_link_is_refused(installer, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    installer.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnableToCreateFolderError, match="not a folder"), installer.lock():
        pass
    assert not os.listdir(tmp_path / "elsewhere")


def test_a_folder_that_is_a_file_is_refused(installer):
    installer.folder.write_bytes(b"")
    for use in (installer.lock().__enter__, installer.elect):
        with pytest.raises(UnableToCreateFolderError, match="not a folder"):
            use()


@posix
@pytest.mark.parametrize("mode", [0o777, 0o722, 0o770, 0o720])
def test_a_folder_that_others_can_change_is_refused(installer, mode):
    installer.folder.mkdir()
    installer.folder.chmod(mode)
    with pytest.raises(UnableToCreateFolderError, match="another user"), installer.lock():
        pass
    installer.folder.chmod(0o755)
    with installer.lock():
        pass


@root
def test_a_folder_of_another_user_is_refused(installer):
    installer.folder.mkdir(mode=0o700)
    os.chown(installer.folder, 1234, -1)
    with pytest.raises(UnableToCreateFolderError, match="another user"), installer.lock():
        pass


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_made_is_an_error(installer, monkeypatch, error):
    with monkeypatch.context() as patch:
        patch.setattr(module.Path, "mkdir", failing(error))
        with pytest.raises(UnableToCreateFolderError) as caught, installer.lock():
            pass
    assert caught.value.errno == error
    prepare(installer)


def test_a_lock_that_cannot_be_used_is_an_error(installer):
    with installer.lock():
        pass
    for name, use in (("lock", installer.lock().__enter__), ("poll.lock", installer.elect)):
        path = installer.folder / name
        path.unlink(missing_ok=True)
        path.mkdir()
        with pytest.raises(UnableToLockError) as caught:
            use()
        assert caught.value.path == path
        path.rmdir()


def test_two_installers_of_one_process_keep_each_other_out(installer, program):
    other = FileInstaller(program)
    with installer.lock():
        with pytest.raises(UpdateInProgressError, match="another process"), other.lock():
            pass
        assert names(installer) == ["lock"]
    with other.lock():
        pass


def test_one_is_elected_until_it_retires(installer, program):
    other = FileInstaller(program)
    assert installer.elect()
    assert installer.elect()
    assert not other.elect()
    installer.retire()
    assert other.elect()
    assert not installer.elect()
    other.retire()
    other.retire()


def test_being_elected_does_not_keep_others_from_updating(installer, program):
    assert installer.elect()
    with FileInstaller(program).lock():
        pass


PROGRAM = """
import sys
from pathlib import Path
from patchify.client.installer import FileInstaller
from patchify.errors import UpdateInProgressError

installer = FileInstaller(Path(sys.argv[1]))
try:
    with installer.lock(float(sys.argv[2])):
        print("locked, elected:", installer.elect(), flush=True)
        sys.stdin.read()
except UpdateInProgressError:
    print("kept out", flush=True)
"""


def another_process(program, patience=0):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, program, str(patience)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_another_process_keeps_us_out_until_it_ends(installer, program):
    with another_process(program) as process:
        assert process.stdout.readline() == "locked, elected: True\n"
        with pytest.raises(UpdateInProgressError), installer.lock():
            pass
        assert not installer.elect()
        process.kill()
    with installer.lock():
        assert installer.elect()


def test_we_keep_another_process_out(installer, program):
    with installer.lock(), another_process(program) as process:
        assert process.communicate(timeout=PATIENCE)[0] == "kept out\n"


def test_who_has_patience_gets_its_turn(installer, program):
    with installer.lock():
        process = another_process(program, PATIENCE)
    with process:
        assert process.communicate(timeout=PATIENCE)[0] == "locked, elected: True\n"


def test_of_many_threads_with_an_installer_each_only_one_gets_in(program):
    results = Counter()
    together = threading.Barrier(8)
    done = threading.Barrier(8)

    def contend():
        installer = FileInstaller(program)
        together.wait(PATIENCE)
        try:
            with installer.lock():
                results["in"] += 1
                done.wait(PATIENCE)
        except UpdateInProgressError:
            results["out"] += 1
            done.wait(PATIENCE)

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == {"in": 1, "out": 7}


FORKING = """
import os, sys
from pathlib import Path
from patchify.client.installer import FileInstaller
from patchify.errors import UpdateInProgressError

installer = FileInstaller(Path(sys.argv[1]))

def locked():
    try:
        with installer.lock():
            return True
    except UpdateInProgressError:
        return False

def child():
    pid = os.fork()
    if not pid:
        installer.renew_locks()
        print(locked(), installer.elect(), flush=True)
        installer.retire()
        os._exit(0)
    os.waitpid(pid, 0)

with installer.lock():
    assert installer.elect()
    child()
    child()
installer.retire()
child()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_after_a_fork_the_locks_are_the_parents(program):
    ended = subprocess.run(
        [sys.executable, "-c", FORKING, program],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ended.stdout, ended.stderr) == ("False False\nFalse False\nTrue True\n", "")


# What is left over ----------------------------------------------------------------------------------------------------


def test_leftovers_of_other_releases_and_of_crashes_go_when_a_download_begins(installer):
    download(installer)
    for name in ("staged-" + "a" * 64, f"staged-{'b' * 64}.part", ".draft", ".state.json.abc", "previous"):
        (installer.folder / name).write_bytes(b"left")
    with installer.lock():
        installer.part(sha256(THIRD)).close()
    assert names(installer) == ["lock", "previous", f"staged-{sha256(THIRD)}.part"]


def test_what_belongs_to_the_release_stays(installer):
    digest = download(installer)
    with installer.lock():
        installer.part(digest).close()
        assert installer.is_staged(digest)
    assert f"staged-{digest}.part" in names(installer)


def test_a_leftover_that_cannot_be_removed_is_no_obstacle(installer):
    with installer.lock():
        (installer.folder / "staged-folder").mkdir()
        (installer.folder / "staged-folder" / "file").write_bytes(b"")
    prepare(installer)


def test_a_folder_that_cannot_be_listed_is_no_obstacle_either(installer, monkeypatch):
    with installer.lock():
        pass
    monkeypatch.setattr(module.Path, "iterdir", failing(errno.EIO))
    assert prepare(installer)


def test_the_draft_of_a_backup_is_never_left_behind(installer, program):
    prepare(installer)
    prepare(installer)  # now previous and program are one file, and renaming one over the other does nothing
    assert ".draft" not in names(installer)


# Backing up -----------------------------------------------------------------------------------------------------------


def test_the_backup_is_the_same_file_where_that_is_possible(installer, program):
    prepare(installer)
    assert installer.previous.stat().st_ino == program.stat().st_ino


@pytest.mark.parametrize("error", [errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP])
def test_and_a_copy_where_it_is_not(installer, program, monkeypatch, error):
    digest = download(installer)
    program.chmod(0o750)
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "link", failing(error))
        patch.setattr(module, "BLOCK", 7)
        with installer.lock():
            installer.prepare(TWO, digest, lambda done, total: seen.append((done, total)))
    assert installer.previous.read_bytes() == OLD
    assert installer.previous.stat().st_ino != program.stat().st_ino
    assert stat.S_IMODE(installer.previous.stat().st_mode) == 0o750
    assert seen[-1] == (len(NEW) + 2 * len(OLD),) * 2


# Swapping and undoing -------------------------------------------------------------------------------------------------


def test_swapping_what_another_process_swapped_already_is_no_error(installer, program):
    staged = prepare(installer)
    other = FileInstaller(program)
    with other.lock():
        other.swap(staged)
    with installer.lock():
        installer.swap(staged)
    assert program.read_bytes() == NEW


def test_a_program_that_somebody_else_replaced_is_not_swapped_away(installer, program):
    staged = prepare(installer)
    other = program.with_name("other")
    other.write_bytes(THIRD)
    other.replace(program)
    with installer.lock(), pytest.raises(UnableToSwapError, match="somebody else"):
        installer.swap(staged)
    assert program.read_bytes() == THIRD
    with installer.lock():
        again = installer.prepare(TWO, staged.sha256, nothing)
        installer.swap(again)
        assert installer.previous.read_bytes() == THIRD
    assert program.read_bytes() == NEW


def damage(path, data):
    """Change a file in place, at another time than it was last written."""
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))


def test_a_staged_file_that_was_changed_is_never_swapped_in(installer, program):
    staged = prepare(installer)
    damage(installer.folder / f"staged-{staged.sha256}", NEW[::-1])
    with installer.lock(), pytest.raises(FailedHashVerificationError) as caught:
        installer.swap(staged)
    assert (caught.value.version, caught.value.found) == ("2.0.0", sha256(NEW[::-1]))
    assert program.read_bytes() == OLD
    assert not installer.is_staged(staged.sha256)


def test_nor_prepared(installer, program):
    digest = download(installer)
    damage(installer.folder / f"staged-{digest}", NEW[:-1])
    with installer.lock(), pytest.raises(FailedHashVerificationError):
        installer.prepare(TWO, digest, nothing)
    assert not installer.is_staged(digest)
    assert prepare(installer)


def test_a_link_in_the_place_of_the_staged_file_is_not_followed(installer, tmp_path):
    digest = download(installer)
    path = installer.folder / f"staged-{digest}"
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(NEW)
    path.symlink_to(tmp_path / "elsewhere")
    with installer.lock(), pytest.raises(UnableToReadFileError):
        installer.prepare(TWO, digest, nothing)


@pytest.mark.parametrize("linking", [True, False])
def test_undoing_puts_the_old_program_back(installer, program, monkeypatch, linking):
    if not linking:
        monkeypatch.setattr(module.os, "link", failing(errno.EPERM))
    program.chmod(0o711)
    staged = prepare(installer)
    with installer.lock():
        installer.swap(staged)
        installer.undo(staged)
        assert installer.recover() is None
    assert program.read_bytes() == OLD
    assert stat.S_IMODE(program.stat().st_mode) == 0o711
    assert names(installer) == ["lock", "previous", "state.json"]
    staged = prepare(installer)
    with installer.lock():
        installer.swap(staged)
    assert program.read_bytes() == NEW


def test_what_another_process_put_in_place_is_not_undone(installer, program):
    program.write_bytes(NEW)
    with installer.lock():
        installer.undo(Staged(TWO, sha256(NEW), sha256(NEW)))
    assert program.read_bytes() == NEW


def test_a_previous_that_is_not_what_was_replaced_is_not_put_back(installer, program):
    staged = prepare(installer)
    with installer.lock():
        installer.swap(staged)
        damage(installer.previous, THIRD)
        with pytest.raises(FailedHashVerificationError):
            installer.undo(staged)
    assert program.read_bytes() == NEW


# Recovering -----------------------------------------------------------------------------------------------------------


def test_nothing_staged_is_nothing_to_recover(installer):
    with installer.lock():
        assert installer.recover() is None
    assert names(installer) == ["lock"]


def test_what_waits_is_found_again_by_the_next_process(installer, program):
    staged = prepare(installer)
    other = FileInstaller(program)
    with other.lock():
        assert other.recover() == staged
        other.swap(staged)
    assert program.read_bytes() == NEW


def test_what_was_swapped_in_is_forgotten(installer, program):
    staged = prepare(installer)
    with installer.lock():
        installer.swap(staged)
        assert installer.recover() is None
        assert load(installer.folder / "state.json") is None


def test_what_does_not_fit_the_program_any_more_is_forgotten(installer, program):
    staged = prepare(installer)
    damage(program, THIRD)
    with installer.lock():
        assert installer.recover() is None
        assert not installer.is_staged(staged.sha256)
    assert program.read_bytes() == THIRD


def test_what_is_not_there_any_more_is_forgotten(installer, program):
    staged = prepare(installer)
    (installer.folder / f"staged-{staged.sha256}").unlink()
    with installer.lock():
        assert installer.recover() is None
        assert load(installer.folder / "state.json") is None
    assert program.read_bytes() == OLD


def test_a_damaged_state_says_nothing_is_staged(installer):
    prepare(installer)
    (installer.folder / "state.json").write_bytes(b"\0" * 100)
    with installer.lock():
        assert installer.recover() is None


# Operations that fail -------------------------------------------------------------------------------------------------


class Breaking:
    """Lets the nth call of one function fail, if what it is called with fits."""

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
    "opening the staged file again": ("swap", "open", 1, UnableToReadFileError),
    "swapping": ("swap", "replace", 1, UnableToSwapError),
}


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("name", STEPS)
def test_what_fails_is_told_leaves_the_program_alone_and_may_succeed_later(
    installer, program, monkeypatch, name, error
):
    operation, call, nth, kind = STEPS[name]
    digest = download(installer)
    if call == "fchown":
        if os.name != "posix" or os.geteuid():
            pytest.skip("only root can give files away")
        os.chown(program, 1234, -1)
    with installer.lock():
        staged = installer.prepare(TWO, digest, nothing) if operation == "swap" else None
        with monkeypatch.context() as patch:
            broken = Breaking(patch, module.os, call, error, nth=nth)
            with pytest.raises(FileOperationError) as caught:
                installer.swap(staged) if staged else installer.prepare(TWO, digest, nothing)
    assert type(caught.value) is kind
    assert caught.value.errno == error
    assert broken.calls >= nth
    assert program.read_bytes() == OLD
    assert not [each for each in names(installer) if each.startswith(".")]
    later = FileInstaller(program)
    with later.lock():
        later.recover()
    staged = prepare(later)
    with later.lock():
        later.swap(staged)
    assert program.read_bytes() == NEW


@pytest.mark.parametrize("call", ["fchmod", "fsync"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_copy_that_fails_leaves_no_draft(installer, program, monkeypatch, call, error):
    digest = download(installer)
    (installer.folder / ".draft").write_bytes(b"what a crash left")
    with installer.lock(), monkeypatch.context() as patch:
        patch.setattr(module.os, "link", failing(errno.EPERM))
        Breaking(patch, module.os, call, error, nth=2)  # the first is for the staged file
        with pytest.raises(UnableToBackUpError) as caught:
            installer.prepare(TWO, digest, nothing)
    assert caught.value.errno == error
    assert ".draft" not in names(installer)
    assert program.read_bytes() == OLD


def test_after_a_sync_that_failed_the_staged_file_is_not_trusted(installer, monkeypatch):
    digest = download(installer)
    with installer.lock(), monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", failing(errno.EIO))
        with pytest.raises(UnableToWriteDownloadError):
            installer.prepare(TWO, digest, nothing)
    assert not installer.is_staged(digest)


def test_a_swap_that_may_not_be_durable_is_a_swap(installer, program, monkeypatch, caplog):
    staged = prepare(installer)
    monkeypatch.setattr(module, "sync_folder", failing(errno.EIO))
    with installer.lock():
        installer.swap(staged)
    assert program.read_bytes() == NEW
    assert "durable" in caplog.text


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_an_undo_that_fails_is_told(installer, program, monkeypatch, name):
    staged = prepare(installer)
    with installer.lock():
        installer.swap(staged)
        with monkeypatch.context() as patch:
            Breaking(patch, module.os, name, errno.EIO)
            with pytest.raises(UnableToSwapError):
                installer.undo(staged)
        installer.undo(staged)
    assert program.read_bytes() == OLD


def test_a_program_that_is_gone_cannot_be_updated_and_says_so(installer, program):
    digest = download(installer)
    program.unlink()
    with installer.lock():
        for use in (lambda: installer.prepare(TWO, digest, nothing), installer.installed):
            with pytest.raises(UnableToReadFileError) as caught:
                use()
            assert caught.value.errno == errno.ENOENT


def test_a_program_that_is_a_folder_says_so(tmp_path):
    with pytest.raises(UnableToReadFileError):
        FileInstaller(tmp_path).installed()


def test_a_download_that_cannot_be_made_is_an_error(installer):
    with installer.lock():
        (installer.folder / f"staged-{sha256(NEW)}.part").mkdir()
        with pytest.raises(UnableToCreateDownloadError):
            installer.part(sha256(NEW))


def test_forgetting_needs_the_state_to_be_written(installer, monkeypatch):
    staged = prepare(installer)
    monkeypatch.setattr(module.os, "fsync", failing(errno.ENOSPC))
    with installer.lock(), pytest.raises(UnableToWriteStateError):
        installer.forget()
    assert installer.is_staged(staged.sha256)
    assert load(installer.folder / "state.json") == staged


def test_a_state_of_something_that_was_never_there_is_forgotten(installer):
    with installer.lock():
        save(installer.folder / "state.json", Staged(TWO, sha256(NEW), sha256(OLD)))
        assert installer.recover() is None

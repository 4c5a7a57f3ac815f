import errno
import os
import stat
import subprocess
import sys
import threading
from collections import Counter

import pytest
from filelock import FileLock

from patchify.client import locks as module
from patchify.client.locks import GUARDIAN, Locks, guardian_lock, watched
from patchify.errors import UnableToCreateFolderError, UnableToLockError, UpdateInProgressError
from tests.running import PATIENCE, ROOT

posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners are those of POSIX")
root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / ".app.patchify"


@pytest.fixture
def locks(folder):
    made = Locks(folder, folder.with_name("app"))
    yield made
    made.retire()


def held(locks, patience=0) -> bool:
    try:
        with locks.hold(patience):
            return True
    except UpdateInProgressError:
        return False


# The folder -----------------------------------------------------------------------------------------------------------


@posix
def test_the_folder_and_the_locks_are_the_owners_alone(folder, locks):
    before = os.umask(0)
    try:
        with locks.hold():
            assert locks.elect()
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            for name in ("lock", "poll.lock"):
                assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_folder_that_is_a_link_is_refused(folder, locks, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnableToCreateFolderError, match="not a folder"), locks.hold():
        pass
    assert not os.listdir(tmp_path / "elsewhere")


def test_a_folder_that_is_a_file_is_refused(folder, locks):
    folder.write_bytes(b"")
    for use in (locks.hold().__enter__, locks.elect):
        with pytest.raises(UnableToCreateFolderError, match="not a folder"):
            use()


@posix
@pytest.mark.parametrize("mode", [0o777, 0o722, 0o770, 0o720])
def test_a_folder_that_others_can_change_is_refused(folder, locks, mode):
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(UnableToCreateFolderError, match="another user"), locks.hold():
        pass
    folder.chmod(0o755)
    assert held(locks)


@root
def test_a_folder_of_another_user_is_refused(folder, locks):
    folder.mkdir(mode=0o700)
    os.chown(folder, 1234, -1)
    with pytest.raises(UnableToCreateFolderError, match="another user"), locks.hold():
        pass


@pytest.mark.parametrize("call", ["mkdir", "fsync"])
@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_made_is_an_error(locks, monkeypatch, error, call):
    def fail(*_, **__):
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        for use in (locks.hold().__enter__, locks.elect):
            if call == "mkdir" or use != locks.elect:  # by then it is there
                with pytest.raises(UnableToCreateFolderError) as caught:
                    use()
                assert caught.value.errno == error
    assert held(locks)


def test_where_the_program_is_there_can_be_no_folder_without_one(tmp_path):
    locks = Locks(tmp_path / "gone" / ".app.patchify", tmp_path / "gone" / "app")
    with pytest.raises(UnableToCreateFolderError) as caught, locks.hold():
        pass
    assert caught.value.errno == errno.ENOENT


# The locks ------------------------------------------------------------------------------------------------------------


def test_a_lock_that_cannot_be_used_is_an_error(folder, locks):
    assert held(locks)
    for name, use in (("lock", locks.hold().__enter__), ("poll.lock", locks.elect)):
        path = folder / name
        path.unlink(missing_ok=True)
        path.mkdir()
        with pytest.raises(UnableToLockError) as caught:
            use()
        assert caught.value.path == path
        path.rmdir()


def test_two_of_one_process_keep_each_other_out(folder, locks):
    other = Locks(folder, folder.with_name("app"))
    with locks.hold():
        with pytest.raises(UpdateInProgressError, match=r"another process is updating .*app"), other.hold():
            pass
        assert os.listdir(folder) == ["lock"]
    assert held(other)


def test_who_has_it_may_take_it_again(folder, locks):
    other = Locks(folder, folder.with_name("app"))
    with locks.hold():
        assert held(locks)
        assert not held(other)
    assert held(other)


def test_it_is_released_after_an_error(folder, locks):
    with pytest.raises(ZeroDivisionError), locks.hold():
        raise ZeroDivisionError
    assert held(Locks(folder, folder.with_name("app")))


def test_one_is_elected_until_it_retires(folder, locks):
    other = Locks(folder, folder.with_name("app"))
    assert locks.elect()
    assert locks.elect()
    assert not other.elect()
    locks.retire()
    assert other.elect()
    assert not locks.elect()
    other.retire()
    other.retire()


def test_being_elected_does_not_keep_others_from_updating(folder, locks):
    assert locks.elect()
    assert held(Locks(folder, folder.with_name("app")))


PROGRAM = """
import sys
from pathlib import Path
from patchify.client.locks import Locks
from patchify.errors import UpdateInProgressError

locks = Locks(Path(sys.argv[1]), Path("app"))
try:
    with locks.hold(float(sys.argv[2])):
        print("locked, elected:", locks.elect(), flush=True)
        sys.stdin.read()
except UpdateInProgressError:
    print("kept out", flush=True)
"""


def another_process(folder, patience=0):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, folder, str(patience)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_another_process_keeps_us_out_until_it_ends(folder, locks):
    with another_process(folder) as process:
        assert process.stdout.readline() == "locked, elected: True\n"
        assert not held(locks)
        assert not locks.elect()
        process.kill()
    with locks.hold():
        assert locks.elect()


def test_we_keep_another_process_out(folder, locks):
    with locks.hold(), another_process(folder) as process:
        assert process.communicate(timeout=PATIENCE)[0] == "kept out\n"


def test_who_has_patience_gets_its_turn(folder, locks):
    with locks.hold():
        process = another_process(folder, PATIENCE)
    with process:
        assert process.communicate(timeout=PATIENCE)[0] == "locked, elected: True\n"


def test_of_many_threads_with_locks_of_their_own_only_one_gets_in(folder):
    results = Counter()
    together = threading.Barrier(8)
    done = threading.Barrier(8)

    def contend():
        locks = Locks(folder, folder.with_name("app"))
        together.wait(PATIENCE)
        try:
            with locks.hold():
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


def test_threads_with_the_same_locks_wait_for_each_other_but_not_for_ever(locks, monkeypatch):
    monkeypatch.setattr(module, "_THREADS_PATIENCE", 0.05)
    results = []
    inside, leave = threading.Event(), threading.Event()

    def holding():
        with locks.hold():
            inside.set()
            leave.wait(PATIENCE)

    def trying():
        try:
            with locks.hold():
                results.append("in")
        except UpdateInProgressError as error:
            results.append(str(error))

    thread = threading.Thread(target=holding)
    thread.start()
    assert inside.wait(PATIENCE)
    trying()
    leave.set()
    thread.join(PATIENCE)
    trying()
    assert results == [f"another thread is updating {locks._program}", "in"]


@posix
def test_the_lock_of_the_guardian_is_the_owners_alone(folder):
    folder.mkdir()
    assert not watched(folder)
    assert stat.S_IMODE((folder / GUARDIAN).stat().st_mode) == 0o600
    (folder / GUARDIAN).unlink()
    with guardian_lock(folder):
        assert watched(folder)
        assert stat.S_IMODE((folder / GUARDIAN).stat().st_mode) == 0o600


@posix
def test_locks_that_others_could_take_are_the_owners_alone_from_now_on(folder):
    folder.mkdir()
    for name in ("lock", "poll.lock", GUARDIAN):
        (folder / name).touch()
        (folder / name).chmod(0o644)
    (folder.parent / "mine").touch(0o644)
    Locks(folder, folder.with_name("app"))
    guardian_lock(folder)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    (folder / GUARDIAN).unlink()
    (folder / GUARDIAN).symlink_to(folder.parent / "mine")
    guardian_lock(folder)
    assert stat.S_IMODE((folder.parent / "mine").stat().st_mode) == 0o644


def test_whether_a_trial_is_watched_is_whether_the_guardian_has_its_lock(folder):
    assert not watched(folder.parent / "gone" / "deeper")
    folder.mkdir()
    assert not watched(folder)
    with FileLock(folder / GUARDIAN):
        assert watched(folder)
    assert not watched(folder)
    (folder / GUARDIAN).unlink()
    (folder / GUARDIAN).mkdir()
    assert not watched(folder)


FORKING = """
import os, sys
from pathlib import Path
from patchify.client.file_installer import FileInstaller
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
def test_after_a_fork_the_locks_are_the_parents(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", FORKING, tmp_path / "app"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ended.stdout, ended.stderr) == ("False False\nFalse False\nTrue True\n", "")

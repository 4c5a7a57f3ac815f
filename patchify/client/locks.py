"""Who may touch an installation, and which of a program's processes acts by itself: two locks, for all processes.

They lie in the folder beside the program, which is made here too, and refused if another user could write to it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from patchify.client.points import reach
from patchify.errors import UnableToCreateFolderError, UnableToLockError, UpdateInProgressError
from patchify.files import sync_folder

_THREADS_PATIENCE = 5.0  # seconds at least that a thread waits for another of this process: those are brief
_MODE = 0o600  # who can open the file can lock it
GUARDIAN = "guardian.lock"
"""Held, in the same folder, by the process that watches a trial."""


def guardian_lock(folder: Path) -> FileLock:
    """Return the lock of whoever watches the trials of the installation with this folder; it is not yet taken."""
    return _lock(folder / GUARDIAN)


def watched(folder: Path) -> bool:
    """Return whether a process watches the trial of the installation with this folder."""
    lock = guardian_lock(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False


class Locks:
    """The locks of one installation.

    Args:
        folder: Patchify's own folder beside the program; made when it is needed.
        program: What is locked, to be named in errors.
    """

    def __init__(self, folder: Path, program: Path) -> None:
        self._folder = folder
        self._program = program
        self.renew()

    def renew(self) -> None:
        """Make fresh locks, of which none is held: after a fork the old ones are the parent's."""
        self._lock = _lock(self._folder / "lock")
        self._threads = threading.RLock()  # the lock of the file is one for all of them
        self._election = _lock(self._folder / "poll.lock")

    @contextlib.contextmanager
    def hold(self, patience: float = 0) -> Iterator[None]:
        """Keep every other updater of this program out, and every other thread, waiting up to so many seconds.

        Raises:
            UpdateInProgressError: another process has it, or another thread.
            UnableToCreateFolderError, UnableToLockError: the folder or the file cannot be used.
        """
        self.make_folder()
        threads = self._threads
        if not threads.acquire(timeout=max(patience, _THREADS_PATIENCE)):
            raise UpdateInProgressError(f"another thread is updating {self._program}")
        try:
            with self._file_lock(patience):
                yield
        finally:
            threads.release()

    @contextlib.contextmanager
    def _file_lock(self, patience: float) -> Iterator[None]:
        lock = self._lock
        try:
            lock.acquire(timeout=patience, poll_interval=0.1)
        except Timeout:
            raise UpdateInProgressError(f"another process is updating {self._program}") from None
        except OSError as error:
            raise UnableToLockError(self._folder / "lock", error) from error
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def remembering(self) -> Iterator[None]:
        """Keep others from changing what is remembered, for a moment. Raises as `hold`."""
        self.make_folder()
        path = self._folder / "memory.lock"
        try:
            with _lock(path).acquire(timeout=_THREADS_PATIENCE, poll_interval=0.01):
                yield
        except Timeout:
            raise UpdateInProgressError(f"another process changes what is remembered of {self._program}") from None
        except OSError as error:
            raise UnableToLockError(path, error) from error

    def elect(self) -> bool:
        """Return whether this process is the elected one, and stay it until `retire` or the end of the process."""
        if self._election.is_locked:
            return True
        self.make_folder()
        try:
            self._election.acquire(timeout=0)
        except Timeout:
            return False
        except OSError as error:
            raise UnableToLockError(self._folder / "poll.lock", error) from error
        return True

    def retire(self) -> None:
        """Let another process be elected."""
        self._election.release(force=True)

    def make_folder(self) -> None:
        """Create the folder if it is not there; refuse one that another user could write to."""
        try:
            with contextlib.suppress(FileExistsError):
                self._folder.mkdir(mode=0o700)
                sync_folder(self._folder.parent)
                reach("folder-made")
            found = self._folder.lstat()
        except OSError as error:
            raise UnableToCreateFolderError(self._folder, error) from error
        if not stat.S_ISDIR(found.st_mode):
            raise UnableToCreateFolderError(self._folder, "it is there, but is not a folder")
        if os.name == "posix" and (found.st_uid != os.geteuid() or found.st_mode & 0o022):
            raise UnableToCreateFolderError(self._folder, "it belongs to, or can be changed by, another user")


def _lock(path: Path) -> FileLock:
    with contextlib.suppress(OSError):  # it is not there, or another user's
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_mode & 0o777 & ~_MODE:
            path.chmod(_MODE)
    return FileLock(path, mode=_MODE, thread_local=False)

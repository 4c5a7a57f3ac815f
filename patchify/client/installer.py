"""What is replaced, and how: stage beside the program, back up, swap by one rename, undo, recover.

This one replaces a single executable file. Beside ``app`` stands the folder ``.app.patchify`` (mode 0700, so on the
same file system) with the lock, the state, what is staged and the previous version. At every instant there is a
runnable program at the path that the user starts. All calls but `identity` are made under `lock`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from semver import Version

from patchify.client.staging import PartFile
from patchify.client.state import Staged, Verdict, judge, load, save
from patchify.errors import (
    FailedHashVerificationError,
    UnableToBackUpError,
    UnableToCreateFolderError,
    UnableToLockError,
    UnableToReadFileError,
    UnableToSetPermissionsError,
    UnableToSwapError,
    UnableToWriteDownloadError,
    UpdateInProgressError,
)
from patchify.files import BLOCK, Progress, hash_file, sync_folder

_log = logging.getLogger(__name__)

_Identity = tuple[int, int, int, int]

Fraction = Callable[[int, int], None]
"""Called with the bytes done and the bytes there are."""


class Installer(Protocol):
    """The seam: how a release becomes the program."""

    def lock(self, patience: float = 0) -> contextlib.AbstractContextManager[None]:
        """Keep every other updater of this program out, in all processes, waiting up to so many seconds."""

    def elect(self) -> bool:
        """Return whether this updater is the one, of all processes of this program, that acts by itself."""

    def retire(self) -> None:
        """Leave acting by itself to another one."""

    def renew_locks(self) -> None:
        """Hold none of the locks any more: after a fork they are the parent's."""

    def identity(self) -> object:
        """Return a value that changes when somebody replaces the program."""

    def recover(self) -> Staged | None:
        """Finish or forget what a crash interrupted; return what is staged and waits."""

    def installed(self, progress: Fraction = ...) -> str:
        """Return the hash of what stands at the program's path."""

    def part(self, sha256: str) -> PartFile:
        """Open the file to download to; leftovers of other releases are removed."""

    def is_staged(self, sha256: str) -> bool:
        """Return whether this release was downloaded whole before."""

    def stage(self, version: Version, part: PartFile, sha256: str) -> None:
        """Give a complete download its name."""

    def prepare(self, version: Version, sha256: str, progress: Fraction) -> Staged:
        """Make a staged release ready to be swapped in at any moment."""

    def swap(self, staged: Staged) -> None:
        """Put it in the place of the program."""

    def undo(self, staged: Staged) -> None:
        """Put the previous program back."""

    def forget(self) -> None:
        """Write that nothing is staged, and remove what was."""


class FileInstaller:
    """Replaces one executable file.

    Args:
        executable: The program; a symbolic link is followed once, here.
    """

    def __init__(self, executable: Path) -> None:
        self.executable = Path(os.path.realpath(executable))
        self.folder = self.executable.parent / f".{self.executable.name}.patchify"
        self.previous = self.folder / "previous"
        self._state = self.folder / "state.json"
        self._hashes: dict[_Identity, str] = {}  # what was hashed here already
        self.renew_locks()

    def renew_locks(self) -> None:
        """Make fresh locks, of which none is held: after a fork the old ones are the parent's."""
        self._lock = FileLock(self.folder / "lock", thread_local=False)
        self._election = FileLock(self.folder / "poll.lock", thread_local=False)

    @contextlib.contextmanager
    def lock(self, patience: float = 0) -> Iterator[None]:
        """Keep every other updater of this program out.

        Raises:
            UpdateInProgressError: another process has it.
            UnableToCreateFolderError, UnableToLockError: the folder or the file cannot be used.
        """
        self._make_folder()
        try:
            self._lock.acquire(timeout=patience, poll_interval=0.1)
        except Timeout:
            raise UpdateInProgressError(f"another process is updating {self.executable}") from None
        except OSError as error:
            raise UnableToLockError(self.folder / "lock", error) from error
        try:
            yield
        finally:
            self._lock.release()

    def elect(self) -> bool:
        """Return whether this process is the elected one, and stay it until `retire` or the end of the process."""
        if self._election.is_locked:
            return True
        self._make_folder()
        try:
            self._election.acquire(timeout=0)
        except Timeout:
            return False
        except OSError as error:
            raise UnableToLockError(self.folder / "poll.lock", error) from error
        return True

    def retire(self) -> None:
        """Let another process be elected."""
        self._election.release(force=True)

    def identity(self) -> object:
        """Return what tells one file at the program's path from another; None if there is none."""
        try:
            return _identity(self.executable.stat())
        except OSError:
            return None

    def recover(self) -> Staged | None:
        """Finish or forget what was interrupted, and return what waits to be swapped in.

        Raises:
            UnableToReadFileError, UnableToWriteStateError: nothing was forgotten.
        """
        staged = load(self._state)
        if staged is None:
            return None
        verdict = judge(staged, self.installed())
        if verdict is Verdict.WAITING and self.is_staged(staged.sha256):
            return staged
        _log.info("%s: staged release %s is %s", self.executable, staged.version, verdict.name.lower())
        self.forget()
        return None

    def forget(self) -> None:
        """Write that nothing is staged, and remove what was."""
        save(self._state, None)
        self._clean(keep="")

    def installed(self, progress: Fraction = lambda done, total: None) -> str:
        """Return the SHA-256 of what stands at the program's path. Raises `UnableToReadFileError`."""
        try:
            with FileIO(self.executable) as file:
                return self._hash(file, progress)
        except OSError as error:
            raise UnableToReadFileError(self.executable, error) from error

    def part(self, sha256: str) -> PartFile:
        """Open the file to download to. Raises `UnableToCreateDownloadError`."""
        self._clean(keep=sha256)
        return PartFile(self.folder / f"staged-{sha256}.part")

    def is_staged(self, sha256: str) -> bool:
        """Return whether this release is there, whole; its bytes are verified when it is prepared and when swapped.

        Raises:
            UnableToReadFileError: that cannot be told.
        """
        path = self._staged(sha256)
        try:
            return path.is_file()
        except OSError as error:
            raise UnableToReadFileError(path, error) from error

    def stage(self, version: Version, part: PartFile, sha256: str) -> None:
        """Give a complete download its name. Raises as `PartFile.finish`."""
        part.finish(str(version), sha256, self._staged(sha256))

    def prepare(self, version: Version, sha256: str, progress: Fraction = lambda done, total: None) -> Staged:
        """Verify what is staged, give it the program's mode and owner, keep the program as previous, write the state.

        Raises:
            FailedHashVerificationError: it is not the release any more; it was removed.
            UnableToReadFileError, UnableToSetPermissionsError, UnableToWriteDownloadError, UnableToBackUpError,
                UnableToWriteStateError: the program is untouched.
        """
        path = self._staged(sha256)
        try:
            new, old = path.stat().st_size, self.executable.stat().st_size
        except OSError as error:
            raise UnableToReadFileError(path, error) from error
        whole = new + 2 * old  # hash the new one, hash the old one, perhaps copy it
        with self._verified(path, str(version), sha256, lambda done, _: progress(done, whole)) as file:
            try:
                _adopt(file.fileno(), self.executable.stat())
            except OSError as error:
                raise UnableToSetPermissionsError(path, error) from error
            try:
                os.fsync(file.fileno())
            except OSError as error:  # what could not be written will not be reported again: do not trust it
                with contextlib.suppress(OSError):
                    path.unlink()
                raise UnableToWriteDownloadError(path, error) from error
        replaces = self.installed(lambda done, _: progress(new + done, whole))
        try:
            self._clone(self.executable, self.previous, lambda done: progress(new + old + done, whole))
        except OSError as error:
            raise UnableToBackUpError(self.previous, error) from error
        staged = Staged(version, sha256, replaces)
        save(self._state, staged)
        return staged

    def swap(self, staged: Staged) -> None:
        """Put the staged release in the place of the program, by one rename; no error if another process just did.

        Raises:
            FailedHashVerificationError, UnableToReadFileError, UnableToSwapError: the program is untouched.
        """
        path = self._staged(staged.sha256)
        verdict = judge(staged, self.installed())
        if verdict is Verdict.SWAPPED:
            return
        if verdict is Verdict.STALE:
            raise UnableToSwapError(self.executable, "it was replaced by somebody else while the update waited")
        with self._verified(path, str(staged.version), staged.sha256):
            pass
        try:
            os.replace(path, self.executable)
        except OSError as error:
            raise UnableToSwapError(self.executable, error) from error
        try:
            sync_folder(self.executable.parent)
        except OSError as error:  # it is done all the same; a power cut might bring the old program back, no worse
            _log.warning("the swap of %s may not be durable yet: %s", self.executable, error)

    def undo(self, staged: Staged) -> None:
        """Put the previous program back, if it is still the one that was replaced, and forget what was staged.

        Raises:
            FailedHashVerificationError, UnableToReadFileError, UnableToSwapError: the new program stays.
        """
        if staged.replaces == staged.sha256:  # it was not swapped in by this process
            return
        with self._verified(self.previous, f"before {staged.version}", staged.replaces):
            pass
        try:
            self._clone(self.previous, self.executable)
        except OSError as error:
            raise UnableToSwapError(self.executable, error) from error
        self.forget()

    def _staged(self, sha256: str) -> Path:
        return self.folder / f"staged-{sha256}"

    def _clone(self, source: Path, target: Path, progress: Progress = lambda done: None) -> None:
        """Make ``target`` the same file as ``source``, or a copy where there are no hard links, by one rename."""
        draft = self.folder / ".draft"
        draft.unlink(missing_ok=True)
        try:
            try:
                os.link(source, draft)
            except OSError:
                _copy(source, draft, progress)
            os.replace(draft, target)
        finally:  # it is still there if this failed, or if the two were one file before: then a rename does nothing
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        sync_folder(target.parent)

    def _clean(self, keep: str) -> None:
        """Remove what is staged of other releases, and drafts that a crash left, as far as possible."""
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                if path.name.startswith(("staged-", ".")) and not (keep and path.name.startswith(f"staged-{keep}")):
                    with contextlib.suppress(OSError):
                        path.unlink()

    @contextlib.contextmanager
    def _verified(
        self, path: Path, version: str, sha256: str, progress: Fraction = lambda done, total: None
    ) -> Iterator[FileIO]:
        """Open a file whose hash is right; one whose hash is wrong is removed."""
        try:
            file = FileIO(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)))
        except OSError as error:
            raise UnableToReadFileError(path, error) from error
        with file:
            try:
                found = self._hash(file, progress)
            except OSError as error:
                raise UnableToReadFileError(path, error) from error
            if found != sha256:
                with contextlib.suppress(OSError):
                    path.unlink()
                raise FailedHashVerificationError(version, expected=sha256, found=found)
            yield file

    def _hash(self, file: FileIO, progress: Fraction) -> str:
        """Return the hash of a file; one that was hashed before, and was not written to since, is not read again."""
        before = os.fstat(file.fileno())
        known = self._hashes.get(_identity(before))
        if known is not None:
            return known
        found = hash_file(file, lambda done: progress(done, before.st_size))
        if _identity(os.fstat(file.fileno())) == _identity(before):
            self._hashes[_identity(before)] = found
        return found

    def _make_folder(self) -> None:
        """Create the folder if it is not there; refuse one that another user could write to."""
        try:
            with contextlib.suppress(FileExistsError):
                self.folder.mkdir(mode=0o700)
                sync_folder(self.folder.parent)
            found = self.folder.lstat()
        except OSError as error:
            raise UnableToCreateFolderError(self.folder, error) from error
        if not stat.S_ISDIR(found.st_mode):
            raise UnableToCreateFolderError(self.folder, "it is there, but is not a folder")
        if os.name == "posix" and (found.st_uid != os.geteuid() or found.st_mode & 0o022):
            raise UnableToCreateFolderError(self.folder, "it belongs to, or can be changed by, another user")


def _identity(found: os.stat_result) -> _Identity:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _adopt(descriptor: int, program: os.stat_result) -> None:
    """Give a file the owner, group and mode of the program, and let everybody start it who may read it."""
    if os.name != "posix":  # pragma: no cover - Windows keeps the access list of the folder
        return
    found = os.fstat(descriptor)
    if (found.st_uid, found.st_gid) != (program.st_uid, program.st_gid):
        os.fchown(descriptor, program.st_uid, program.st_gid)
    mode = stat.S_IMODE(program.st_mode)
    os.fchmod(descriptor, mode | (mode & 0o444) >> 2)


def _copy(source: Path, target: Path, progress: Progress) -> None:
    with FileIO(source) as old, FileIO(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
        done = 0
        while block := old.read(BLOCK):
            rest = memoryview(block)
            while rest:
                rest = rest[new.write(rest) :]
            done += len(block)
            progress(done)
        _adopt(new.fileno(), os.fstat(old.fileno()))
        os.fsync(new.fileno())

"""A program that is one executable file: a PyInstaller one-file program, a zipapp, a script, a binary of any kind."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from patchify.client.installer import Fraction, Installer, as_error, ignore
from patchify.client.points import reach
from patchify.client.reports import QUEUE
from patchify.client.restarter import Launch
from patchify.client.staging import PartFile
from patchify.client.state import Release
from patchify.client.ways import Basis
from patchify.errors import (
    FailedHashVerificationError,
    UnableToBackUpError,
    UnableToObtainExecutableError,
    UnableToReadFileError,
    UnableToSetPermissionsError,
    UnableToSwapError,
    UnableToWriteDownloadError,
)
from patchify.files import BLOCK, Progress, hash_file, is_being_written, sync_folder

_Identity = tuple[int, int, int, int]


class FileInstaller(Installer):
    """Replaces one executable file.

    A release that is put in place stays in Patchify's folder, too, until it is confirmed, and so does the one that it
    replaces: as hard links, which take no space, or as copies where there are none.

    Args:
        executable: The program; a symbolic link is followed once, here.
    """

    formats = frozenset({"file"})

    def __init__(self, executable: Path) -> None:
        with as_error(UnableToObtainExecutableError, executable):
            path = os.path.realpath(executable)
        super().__init__(Path(path))
        self._hashes: dict[_Identity, str] = {}  # what was hashed here already
        self._needed = ""  # the name of what is kept for this process

    def identity(self) -> object:
        """Return what tells one file at the program's path from another; None if there is none."""
        try:
            return _identity(self.path.stat())
        except OSError:
            return None

    def installed(self, progress: Fraction = ignore) -> str:
        """Return the SHA-256 of the file at the program's path. Raises `UnableToReadFileError`."""
        with as_error(UnableToReadFileError, self.path), FileIO(self.path) as file:
            return self._hash(file, progress)

    def launch(self, launch: Launch) -> Launch:
        """Return ``launch``: what is started stands where it stood."""
        return launch

    def trial_launch(self, launch: Launch, release: Release, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """Return the command that runs the staged file with other arguments."""
        staged = str(self.staged_path(release.sha256))
        if launch.script:  # it has an interpreter, with options perhaps
            return (*launch.arguments[: launch.arguments.index(launch.script)], staged, *arguments)
        return (staged, *arguments)

    def keep(self) -> None:
        """Keep the program as a previous version before it is replaced, for what is started from there already."""
        kept = self.previous_path(self.installed())
        with as_error(UnableToBackUpError, kept):
            if not kept.exists():
                self._clone(self.path, kept, durable=False)
        self._needed = kept.name

    def kept(self, path: str) -> str:
        """Return where the program itself is kept; any other path is as good after the swap as before."""
        return str(self.previous_path(self.installed())) if os.path.realpath(path) == str(self.path) else path

    def previous_path(self, sha256: str) -> Path:
        """Return where the previous version with this hash is kept."""
        return self.folder / f"previous-{sha256}"

    def basis(self) -> Basis:
        """Return the hash and the size of the program. Raises `UnableToReadFileError`."""
        with as_error(UnableToReadFileError, self.path):
            return self.installed(), self.path.stat().st_size

    def read_basis(self) -> bytes:
        """Return the program. Raises `UnableToReadFileError`."""
        with as_error(UnableToReadFileError, self.path):
            return self.path.read_bytes()

    def stage_basis(self, release: Release, part: PartFile, made: bytes) -> None:
        """Stage a file. Raises `FailedHashVerificationError`, `FileOperationError`."""
        part.cut(0)
        part.write(made)
        self.stage(release.version, part, release.sha256)

    def _is_placed(self, release: Release) -> bool:
        try:
            return os.path.samefile(self.path, self.staged_path(release.sha256))
        except OSError:
            return False

    def _make_ready(self, release: Release, staged: Path, progress: Fraction) -> None:
        with self._verified(staged, release, progress) as file:
            with as_error(UnableToReadFileError, self.path):
                program = self.path.stat()
            with as_error(UnableToSetPermissionsError, staged):
                _adopt(file.fileno(), program)
            try:
                os.fsync(file.fileno())
            except OSError as error:  # what could not be written will not be reported again: do not trust it
                with contextlib.suppress(OSError):
                    staged.unlink()
                raise UnableToWriteDownloadError(staged, error) from error

    def _keep(self, program: Release, progress: Fraction) -> None:
        target = self.previous_path(program.sha256)
        with as_error(UnableToBackUpError, target):
            size = self.path.stat().st_size
            self._clone(self.path, target, lambda done: progress(done, size), ("backup-linked", "backup-named"))

    def _place(self, release: Release) -> None:
        staged = self.staged_path(release.sha256)
        with self._verified(staged, release):
            pass
        with as_error(UnableToSwapError, self.path):
            self._clone(staged, self.path, points=("placing", "placed"), durable=False)
        with contextlib.suppress(OSError):  # it is done: after a power cut it might be the old program, no worse
            sync_folder(self.path.parent)
            sync_folder(self.folder)  # a rename from there: ext4 and XFS do not need it, POSIX does not say so
        reach("place-synced")

    def _put_back(self, program: Release) -> None:
        previous = self.previous_path(program.sha256)
        with self._verified(previous, program):
            pass
        with as_error(UnableToSwapError, self.path):
            self._clone(previous, self.path, points=("putting-back", "put-back"))

    def _clean(self, ready: set[str], previous: set[str], downloads: set[str]) -> None:
        kept = {self.previous_path(each).name for each in previous} | downloads | {self._needed}
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                ours = path.name.startswith(("staged-", "form-", "previous", ".")) and path.name not in kept
                if ours and not is_being_written(path, self.memory_path, self.folder / QUEUE):
                    with contextlib.suppress(OSError):
                        path.unlink()

    def _clone(
        self,
        source: Path,
        target: Path,
        progress: Progress = lambda done: None,
        points: tuple[str, str] = ("", ""),
        *,
        durable: bool = True,
    ) -> None:
        """Make ``target`` the same file as ``source``, or a copy where there are no hard links, by one rename."""
        draft = self.folder / ".draft"
        draft.unlink(missing_ok=True)
        try:
            try:
                os.link(source, draft)
            except OSError:
                _copy(source, draft, progress)
            reach(points[0])
            os.replace(draft, target)
            reach(points[1])
        finally:  # it is still there if this failed, or if the two were one file before: then a rename does nothing
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        if durable:
            sync_folder(target.parent)

    @contextlib.contextmanager
    def _verified(self, path: Path, release: Release, progress: Fraction = ignore) -> Iterator[FileIO]:
        """Open a file whose hash is right; one whose hash is wrong is removed."""
        with as_error(UnableToReadFileError, path):
            file = FileIO(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)))
        with file:
            with as_error(UnableToReadFileError, path):
                found = self._hash(file, progress)
            if found != release.sha256:
                with contextlib.suppress(OSError):
                    path.unlink()
                raise FailedHashVerificationError(str(release.version), expected=release.sha256, found=found)
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

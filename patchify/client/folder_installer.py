"""A program that is a folder of files: PyInstaller one-folder, a Python or Node tree. Its releases are tar archives.

``app``, as the user knows it, is a symbolic link to one of the folders in ``.app.patchify/versions``, and another one
is made current by replacing the link. A program that was a plain folder before its first update becomes such a link by
exchanging the two in one step, which Linux can do.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import io
import logging
import os
import shutil
import stat
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from patchify import trees
from patchify.client import manifest
from patchify.client.archive import unpack
from patchify.client.installer import Fraction, Installer, as_error, ignore
from patchify.client.points import reach
from patchify.client.reports import QUEUE
from patchify.client.restarter import Launch
from patchify.client.staging import PartFile
from patchify.client.state import Release
from patchify.client.ways import Basis
from patchify.errors import (
    DamagedVersionError,
    FailedHashVerificationError,
    UnableToBackUpError,
    UnableToObtainExecutableError,
    UnableToReadFileError,
    UnableToSwapError,
    UnableToUnpackError,
)
from patchify.files import hash_file, is_being_written, sync_folder, write_durably

_log = logging.getLogger(__name__)

VERSIONS = "versions"
_NO_LINK = frozenset({errno.EINVAL, errno.ENOENT, errno.ENOTDIR})
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


class FolderInstaller(Installer):
    """Replaces a folder of files.

    Args:
        path: The folder, or the symbolic link to it, that the user starts the program from.
        max_ratio: How many times larger than the archive its content may be.
        max_unpacked: MiB; the largest content.
    """

    formats = frozenset({"tar", "tar.gz", "tar.xz", "tar.zst"})

    def __init__(self, path: Path, *, max_ratio: int = 200, max_unpacked: int = 16384) -> None:
        super().__init__(Path(os.path.abspath(path)))
        self.versions = self.folder / VERSIONS
        with as_error(UnableToObtainExecutableError, self.path):
            self._real = os.path.realpath(self.path)  # where the running version is, whatever becomes current
        self._max_ratio = max_ratio
        self._max_unpacked = max_unpacked * 1024 * 1024

    def identity(self) -> object:
        """Return what tells one link or folder at the program's path from another; None if there is none."""
        try:
            found = self.path.lstat()
            return (found.st_dev, found.st_ino, self._target())
        except OSError:
            return None

    def installed(self, progress: Fraction = ignore) -> str:
        """Return the hash of the release that is current; of a folder that is no release of ours, a hash that names it.

        Raises:
            UnableToReadFileError: there is no folder.
        """
        with as_error(UnableToReadFileError, self.path):
            name = self._current()
            if name is not None:
                os.stat(self.path)  # it must be there
                return name.rpartition("-")[2]
            found = os.stat(self.path)
            os.listdir(self.path)  # and a folder
        return _name_of(found)

    def launch(self, launch: Launch) -> Launch:
        """Return how to start what is current: a frozen program knows itself by the path of its version."""
        return replace(
            launch,
            program=self._below(launch.program, self.path),
            arguments=tuple(self._below(each, self.path) for each in launch.arguments),
            script=self._below(launch.script, self.path),
        )

    def trial_launch(self, launch: Launch, release: Release, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """Return the command that runs the unpacked release with other arguments."""
        folder = self.version_path(release)
        if launch.script:
            options = launch.arguments[: launch.arguments.index(launch.script)]
            script = os.path.join(launch.directory, launch.script)
            return (*(self._below(each, folder) for each in (*options, script)), *arguments)
        return (self._below(launch.program, folder), *arguments)

    def keep(self) -> None:
        """Do nothing: the folder of a version stays where it is."""

    def kept(self, path: str) -> str:
        """Return where a file of the version that runs is to be found whatever becomes current."""
        rest = self._rest(path)
        return path if rest is None else f"{self._real}{rest}"

    def is_staged(self, sha256: str) -> bool:
        """Return whether this release is there, as an archive or unpacked. Raises `UnableToReadFileError`."""
        with as_error(UnableToReadFileError, self.versions):
            unpacked = self.versions.is_dir() and any(
                path.name.endswith(f"-{sha256}.manifest") and path.with_suffix("").is_dir()
                for path in self.versions.iterdir()
            )
        return unpacked or super().is_staged(sha256)

    def version_path(self, release: Release) -> Path:
        """Return the folder that a version is unpacked to."""
        return self.versions / f"{release.version}-{release.sha256}"

    def basis(self) -> Basis:
        """Return hash and size of the archive that the program's content gives. Raises `UnableToReadFileError`."""
        with as_error(UnableToReadFileError, self.path):
            return trees.measure(self.path, self._own_paths())

    def read_basis(self) -> bytes:
        """Return that archive. Raises `UnableToReadFileError`."""
        archive = io.BytesIO()
        with as_error(UnableToReadFileError, self.path):
            trees.pack(self.path, archive.write, self._own_paths())
        return archive.getvalue()

    def stage_basis(self, release: Release, part: PartFile, made: bytes) -> None:
        """Unpack such an archive. Raises `UnsafeArchiveError`, `UnableToUnpackError`."""
        part.discard()  # there is nothing to be kept packed
        self._unpack(io.BytesIO(made), self.version_path(release), min(self._max_unpacked, len(made)))

    def _own_paths(self) -> list[bytes] | None:
        """Return what in the folder belongs to the program, if that is known: it may have written beside itself."""
        name = self._current()
        if name is None:
            return None
        try:
            return manifest.paths(_manifest_of(self.versions / name).read_bytes())
        except FileNotFoundError:
            return None

    def _make_ready(self, release: Release, staged: Path, progress: Fraction) -> None:
        folder = self.version_path(release)
        with as_error(UnableToReadFileError, folder):
            unpacked = folder.is_dir() and _manifest_of(folder).exists()
        if unpacked:
            self._verify(folder, release, progress)
            return
        with as_error(UnableToReadFileError, staged), FileIO(staged) as archive:
            size = os.fstat(archive.fileno()).st_size
            found = hash_file(archive, lambda done: progress(done, 2 * size))
            if found != release.sha256:
                with contextlib.suppress(OSError):
                    staged.unlink()
                raise FailedHashVerificationError(str(release.version), expected=release.sha256, found=found)
            self._unpack(archive, folder, min(self._max_unpacked, size * self._max_ratio + 1024 * 1024))
        with contextlib.suppress(OSError):
            staged.unlink()

    def _unpack(self, archive: BinaryIO, folder: Path, max_bytes: int) -> None:
        draft = self.versions / ".unpacking"
        with as_error(UnableToUnpackError, folder):
            _remove(draft)
            self.versions.mkdir(exist_ok=True)
            sync_folder(self.folder)
            archive.seek(0)
            unpack(archive, draft, max_bytes=max_bytes, progress=lambda done: None)
            reach("unpacked")
            if self._target() != folder:
                _remove(folder)  # it is damaged, or was left by a crash
            os.replace(draft, folder)  # without a manifest it does not count yet
            self._describe(folder, folder)
            reach("described")

    def _describe(self, folder: Path, name: Path) -> None:
        write_durably(_manifest_of(name), manifest.describe(folder, lambda done: None))

    def _keep(self, program: Release, progress: Fraction) -> None:
        kept = self.version_path(program)
        with as_error(UnableToBackUpError, kept):
            if self._target() == kept:
                return
            self.versions.mkdir(exist_ok=True)
            if self._current() is None:
                mode = 0o700 | os.stat(self.path).st_mode & 0o011  # who could start the program still can
                os.chmod(self.versions, mode)
                os.chmod(self.folder, mode)
            sync_folder(self.folder)
            real = Path(os.path.realpath(self.path, strict=True))  # else it might be the link itself, now and then
            self._describe(real, kept)
            if self._target() is not None:  # it is a link to a folder of the user's, which stays where it is
                self._link(str(real), kept, ("backup-linked", "backup-named"))

    def _place(self, release: Release) -> None:
        folder = self.version_path(release)
        self._verify(folder, release)
        with as_error(UnableToSwapError, self.path):
            if self._target() is not None:
                self._link(self._link_text(folder), self.path, ("placing", "placed"), durable=False)
            else:
                self._exchange(folder)
        with contextlib.suppress(OSError):  # it is done: after a power cut it might be the old program, no worse
            sync_folder(self.path.parent)
            sync_folder(self.folder)  # a rename from there: ext4 and XFS do not need it, POSIX does not say so
            sync_folder(self.versions)
        reach("place-synced")

    def _put_back(self, program: Release) -> None:
        folder = self.version_path(program)
        try:
            self._verify(folder, program, again=False)
        except DamagedVersionError as error:  # it ran, and may have written to itself: better than one that fails
            self._verify(folder, program, again=False, used=True)
            _log.warning("%s; it is put back all the same", error)
        with as_error(UnableToSwapError, self.path):
            self._link(self._link_text(folder), self.path, ("putting-back", "put-back"))

    def _exchange(self, folder: Path) -> None:
        """Make the plain folder at the program's path a kept version, and a link to ``folder`` the program."""
        program = _name_of(os.stat(self.path))
        names = [path for path in self.versions.iterdir() if path.name.endswith(f"-{program}.manifest")]
        if not names:
            raise OSError(errno.ENOENT, "the manifest of the program is missing")
        kept = names[0].with_suffix("")
        with contextlib.suppress(FileNotFoundError):
            kept.unlink()
        os.symlink(self._link_text(folder), kept)
        sync_folder(self.versions)
        reach("placing")
        try:
            _exchange(kept, self.path)
        except OSError as error:
            kept.unlink()
            raise OSError(
                error.errno,
                f"{error.strerror}: this file system cannot exchange a folder and a link; make {self.path} a symbolic "
                "link to a folder beside it",
            ) from error
        reach("placed")

    def _clean(self, ready: set[str], previous: set[str], downloads: set[str]) -> None:
        with contextlib.suppress(OSError, UnableToReadFileError):
            keep = ready | previous | {self.installed()}
            for path in self.folder.iterdir():
                ours = path.name.startswith(("staged-", "form-", ".")) and path.name not in downloads
                if ours and not is_being_written(path, self.memory_path, self.folder / QUEUE):
                    _remove(path)
            for path in self.versions.iterdir() if self.versions.is_dir() else ():
                if is_users_own(path):
                    continue
                if path.name.removesuffix(".manifest").rpartition("-")[2] not in keep:
                    _remove(path)

    def _verify(
        self, folder: Path, release: Release, progress: Fraction = ignore, *, again: bool = True, used: bool = False
    ) -> None:
        """Compare a version with its manifest; one that differs is to be unpacked ``again`` if that is possible."""
        with as_error(UnableToReadFileError, folder):
            try:
                text = _manifest_of(folder).read_bytes()
                problem = manifest.matches(
                    Path(os.path.realpath(folder)), text, lambda done: progress(done, 0), used=used
                )
            except FileNotFoundError:
                problem = "its manifest is missing"
            if problem is not None and again and self._target() != folder:
                _remove(_manifest_of(folder))
        if problem is not None:
            raise DamagedVersionError(str(release.version), folder, problem)

    def _target(self) -> Path | None:
        """Return where the link at the program's path leads in one step; None if it is no link. Raises `OSError`."""
        try:
            return Path(os.path.normpath(self.path.parent / os.readlink(self.path)))
        except OSError as error:
            if error.errno in _NO_LINK:
                return None
            raise  # a link that cannot be read just now must not be taken for a folder that somebody else put there

    def _current(self) -> str | None:
        """Return the name of the kept version that is the program; None if none is."""
        target = self._target()
        return target.name if target is not None and target.parent == self.versions else None

    def _link_text(self, folder: Path) -> str:
        return os.path.relpath(folder, self.path.parent)  # so that all of it can be moved elsewhere together

    def _link(self, text: str, place: Path, points: tuple[str, str] = ("", ""), *, durable: bool = True) -> None:
        """Make a symbolic link at ``place``, in one step, whatever link was there."""
        draft = self.folder / ".draft"
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        os.symlink(text, draft)
        try:
            reach(points[0])
            os.replace(draft, place)
            reach(points[1])
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        if durable:
            sync_folder(place.parent)

    def _below(self, path: str, folder: Path) -> str:
        """Return the path of a file of the running version as it is below another folder; any other path as it is."""
        rest = self._rest(path)
        return path if rest is None else f"{folder}{rest}"

    def _rest(self, path: str) -> str | None:
        """Return what comes after the folder of the running version in the path of one of its files; else None."""
        for root in (self._real, str(self.path)):
            if f"{path}{os.sep}".startswith(root + os.sep):
                return path[len(root) :]
        return None


def _name_of(folder: os.stat_result) -> str:
    """Return the hash that names a folder which is no release of ours."""
    return hashlib.sha256(f"folder {folder.st_ino}".encode()).hexdigest()


def is_users_own(version: Path) -> bool:
    """Return whether a version is the plain folder of before the first update: it may hold more than the program."""
    found = version.lstat()
    return stat.S_ISDIR(found.st_mode) and version.name.endswith(f"-{_name_of(found)}")


def _manifest_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.manifest")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> None:
    """Give two names to each other's files in one step (renameat2(2))."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

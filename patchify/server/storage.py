"""Where the bytes of the releases are: a flat folder of files, ``appname-version`` or ``appname-version@platform``.

What was checked is remembered by the file's identity (device, inode, size, times), also for later starts. A file that
is not the checked one any more is hashed anew before a byte of it goes out, and refused if it is not the release. What
is on its way into the folder waits in a folder inside of it, so that one rename brings it to its place.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from patchify.errors import (
    InvalidVersionError,
    ReleaseInvalidError,
    ReleaseMissingError,
    ReleaseUnreadableError,
    StorageUnavailableError,
)
from patchify.files import Progress, hash_file, sync_folder
from patchify.keys import decode_hex
from patchify.platforms import ANY, parse_platform
from patchify.releases import Release
from patchify.server.catalogue import PublishedFile
from patchify.server.hashes import Hashes, Identity
from patchify.versions import parse_version

FORMS = ".forms"
"""The folder, among the releases, of the files that are kept by their hash; see `patchify.forms`."""

_INCOMING = ".incoming"


@dataclass(frozen=True)
class _Wanted:
    """A file that is to have a hash, and the version that it belongs to."""

    version: str
    path: Path
    sha256: str

    def open(self) -> FileIO:
        """Open it, unbuffered. Raises `ReleaseMissingError`, `ReleaseUnreadableError`."""
        try:
            # O_NONBLOCK: a FIFO at that path must not hold the server.
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except (FileNotFoundError, NotADirectoryError):
            raise ReleaseMissingError(self.version, self.path) from None
        except OSError as error:
            raise ReleaseUnreadableError(self.version, self.path, str(error.strerror)) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ReleaseMissingError(self.version, self.path)
        return FileIO(descriptor)


class FolderStorage:
    """The release files of one application in one folder."""

    def __init__(self, folder: Path, appname: str) -> None:
        self._folder = folder
        self._appname = appname
        self._found: dict[Path, tuple[Identity, str]] = {}  # which file was hashed last at a path, and its hash
        self._recalled: set[Path] = set()  # those of them that an earlier start hashed
        self._hashes = Hashes(folder)
        self._locks: dict[Path, threading.Lock] = {}  # one thread hashes, others wait for what it finds

    @property
    def folder(self) -> Path:
        """The folder."""
        return self._folder

    @property
    def incoming(self) -> Path:
        """The folder of what is on its way, in the same file system; it may not be there yet."""
        return self._folder / _INCOMING

    def path(self, release: Release) -> Path:
        """Return where the file of ``release`` is, or should be."""
        suffix = "" if release.platform == ANY else f"@{release.platform}"  # no version has an @ in it
        return self._folder / f"{self._appname}-{release.version}{suffix}"

    def size(self, release: Release) -> int:
        """Return the size of the file in bytes, 0 if there is none."""
        try:
            return self.path(release).stat().st_size
        except OSError:
            return 0

    def files(self) -> dict[tuple[str, str], Path]:
        """Return the files that are named as releases, by version and platform. Raises `StorageUnavailableError`."""
        try:
            with os.scandir(self._folder) as entries:
                paths = [Path(entry) for entry in entries if entry.is_file(follow_symlinks=False)]
        except OSError as error:
            raise StorageUnavailableError(self._folder, error) from error
        named = ((self._name_of(path), path) for path in sorted(paths))
        return {name: path for name, path in named if name is not None}

    def make_incoming(self) -> Path:
        """Return the folder `incoming`, made if it was not there. Raises `StorageUnavailableError`."""
        if not self._folder.is_dir():
            missing = FileNotFoundError(errno.ENOENT, "it is not there; is its disk mounted? mkdir makes it")
            raise StorageUnavailableError(self._folder, missing)
        try:
            os.makedirs(self.incoming, mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageUnavailableError(self.incoming, error) from error
        return self.incoming

    def place(self, staged: Path, release: Release) -> None:
        """Move a file from `incoming` to where the one of ``release`` belongs, durably; all may read it then.

        Raises:
            StorageUnavailableError: it may have been moved or not.
        """
        _place(staged, self.path(release))

    def form_path(self, sha256: str) -> Path:
        """Return where the form of a release with this hash is, or should be."""
        return self._folder / FORMS / sha256

    def forms(self) -> dict[str, Path]:
        """Return the files that are named as forms, by their hash. Raises `StorageUnavailableError`."""
        folder = self._folder / FORMS
        try:
            with os.scandir(folder) as entries:
                paths = [Path(entry) for entry in entries if entry.is_file(follow_symlinks=False)]
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StorageUnavailableError(folder, error) from error
        return {path.name: path for path in sorted(paths) if decode_hex(path.name, 64) is not None}

    def place_form(self, staged: Path, sha256: str) -> None:
        """Move a file from `incoming` to where the form with this hash belongs, as `place` does. Raises the same."""
        path = self.form_path(sha256)
        try:
            path.parent.mkdir(exist_ok=True)
            path.parent.chmod(0o755)  # whatever the umask: a server in front that sends the files is another user
            sync_folder(self._folder)
        except OSError as error:
            raise StorageUnavailableError(path.parent, error) from error
        _place(staged, path)

    def file_path(self, file: PublishedFile) -> Path:
        """Return where the whole file of a release, or one of its forms, is or should be."""
        return self.path(file.release) if file.whole else self.form_path(file.sha256)

    def check(self, release: Release, progress: Progress | None = None, *, anew: bool = True) -> bool:
        """Hash the file of ``release`` and remember it as checked.

        Args:
            release: Which.
            progress: Called while it is hashed.
            anew: Whether to hash also the very file that an earlier start is remembered to have hashed. Default True.

        Returns:
            Whether it was hashed here; False: it is remembered.

        Raises:
            ReleaseMissingError, ReleaseUnreadableError, ReleaseInvalidError: naming version and path.
        """
        return self._check(self._of_release(release), progress, anew=anew)

    def check_file(self, file: PublishedFile, progress: Progress | None = None, *, anew: bool = True) -> bool:
        """Hash the whole file of a release, or one of its forms, as `check` does. Raises as `check`."""
        return self._check(self._of_file(file), progress, anew=anew)

    def remember(self) -> None:
        """Let later starts know what `check` and `check_file` have hashed; if that fails, the log says so once."""
        self._hashes.save(tidy=True)

    def open(self, release: Release) -> FileIO:
        """Open the file of ``release``, which is the checked one; the caller closes it. Raises as `check`."""
        return self._open(self._of_release(release))

    def open_file(self, file: PublishedFile) -> FileIO:
        """Open the whole file of a release or one of its forms, as `open` does. Raises as `check`."""
        return self._open(self._of_file(file))

    def _of_release(self, release: Release) -> _Wanted:
        return _Wanted(str(release.version), self.path(release), release.sha256)

    def _of_file(self, file: PublishedFile) -> _Wanted:
        return _Wanted(str(file.release.version), self.file_path(file), file.sha256)

    def _check(self, wanted: _Wanted, progress: Progress | None, *, anew: bool) -> bool:
        with wanted.open() as file:
            return self._verify(wanted, file, progress, anew=anew)

    def _open(self, wanted: _Wanted) -> FileIO:
        file = wanted.open()
        try:
            if self._found.get(wanted.path) != (_identity(file), wanted.sha256):
                with self._locks.setdefault(wanted.path, threading.Lock()):
                    self._verify(wanted, file)
                self._hashes.save()
                file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def _name_of(self, path: Path) -> tuple[str, str] | None:
        """Return the version and platform that a file is named as, None if its name is no release's."""
        rest = path.name.removeprefix(f"{self._appname}-")
        version, at, platform = rest.partition("@")
        try:
            name = str(parse_version(version)), parse_platform(platform) if at else ANY
        except (InvalidVersionError, ValueError):
            return None
        return None if rest == path.name or (at and platform == ANY) else name

    def _verify(self, wanted: _Wanted, file: FileIO, progress: Progress | None = None, *, anew: bool = False) -> bool:
        path, identity = wanted.path, _identity(file)
        known, found = self._found.get(path, (None, ""))
        if known != identity or (anew and path in self._recalled):
            if (
                not anew and self._hashes.get(path, identity) == wanted.sha256
            ):  # no memory makes a good file a wrong one
                found = wanted.sha256
                self._recalled.add(path)
                self._found[path] = (identity, found)
                if progress:
                    progress(identity[2])
            else:
                found = self._hash(wanted, file, progress)
        if found != wanted.sha256:  # a file that is wrong is not hashed anew for each request, either
            self._hashes.save()
            raise ReleaseInvalidError(wanted.version, path, expected=wanted.sha256, found=found)
        return path not in self._recalled

    def _hash(self, wanted: _Wanted, file: FileIO, progress: Progress | None) -> str:
        began, identity = time.time_ns(), _identity(file)
        try:
            found = hash_file(file, progress)
        except OSError as error:
            raise ReleaseUnreadableError(wanted.version, wanted.path, str(error.strerror)) from error
        if identity != _identity(file):
            return "none: it changes while it is read"
        self._recalled.discard(wanted.path)
        self._found[wanted.path] = (identity, found)
        self._hashes.add(wanted.path, identity, found, began)
        return found


def _identity(file: FileIO) -> Identity:
    found = os.fstat(file.fileno())
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _place(staged: Path, path: Path) -> None:
    try:
        os.chmod(staged, 0o644)
        os.replace(staged, path)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageUnavailableError(path, error) from error

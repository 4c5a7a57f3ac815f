"""Where the bytes of the releases are: a flat folder of files named ``appname-version``.

What was checked is remembered by the file's identity (device, inode, size, times). A file that is not the checked one
any more is hashed anew before a byte of it goes out, and refused if it is not the release.
"""

from __future__ import annotations

import os
import stat
import threading
from io import FileIO
from pathlib import Path

from patchify.errors import ReleaseInvalidError, ReleaseMissingError, ReleaseUnreadableError
from patchify.files import Progress, hash_file
from patchify.releases import Release

_Identity = tuple[int, int, int, int, int]


class FolderStorage:
    """The release files of one application in one folder."""

    def __init__(self, folder: Path, appname: str) -> None:
        self._folder = folder
        self._appname = appname
        self._found: dict[str, tuple[_Identity, str]] = {}  # by version: which file was hashed last, and its hash
        self._locks: dict[str, threading.Lock] = {}  # one thread hashes a changed file, others wait for what it finds

    def path(self, release: Release) -> Path:
        """Return where the file of ``release`` is, or should be."""
        return self._folder / f"{self._appname}-{release.version}"

    def size(self, release: Release) -> int:
        """Return the size of the file in bytes, 0 if there is none."""
        try:
            return self.path(release).stat().st_size
        except OSError:
            return 0

    def check(self, release: Release, progress: Progress | None = None) -> None:
        """Hash the file of ``release`` and remember it as checked.

        Raises:
            ReleaseMissingError, ReleaseUnreadableError, ReleaseInvalidError: naming version and path.
        """
        with self._open(release) as file:
            self._verify(release, file, progress)

    def open(self, release: Release) -> FileIO:
        """Open the file of ``release``, which is the checked one; the caller closes it. Raises as `check`."""
        file = self._open(release)
        name = str(release.version)
        try:
            if self._found.get(name) != (self._identity(file), release.sha256):
                with self._locks.setdefault(name, threading.Lock()):
                    self._verify(release, file)
                file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def _open(self, release: Release) -> FileIO:
        path = self.path(release)
        try:
            # O_NONBLOCK: a FIFO at that path must not hold the server.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        except (FileNotFoundError, NotADirectoryError):
            raise ReleaseMissingError(str(release.version), path) from None
        except OSError as error:
            raise ReleaseUnreadableError(str(release.version), path, str(error.strerror)) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ReleaseMissingError(str(release.version), path)
        return FileIO(descriptor)

    def _verify(self, release: Release, file: FileIO, progress: Progress | None = None) -> None:
        name = str(release.version)
        identity, found = self._found.get(name, (None, ""))
        if identity != self._identity(file):  # a file that was found wrong is not hashed anew for each request, either
            identity = self._identity(file)
            try:
                found = hash_file(file, progress)
            except OSError as error:
                raise ReleaseUnreadableError(name, self.path(release), str(error.strerror)) from error
            if identity != self._identity(file):
                found = "none: it changes while it is read"
            else:
                self._found[name] = (identity, found)
        if found != release.sha256:
            raise ReleaseInvalidError(name, self.path(release), expected=release.sha256, found=found)

    @staticmethod
    def _identity(file: FileIO) -> _Identity:
        found = os.fstat(file.fileno())
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

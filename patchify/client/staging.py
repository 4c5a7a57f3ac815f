"""The file that a download becomes: it grows, survives interruptions, and gets its name when its hash is right."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from patchify.client.points import reach
from patchify.errors import (
    FailedHashVerificationError,
    NotEnoughSpaceError,
    UnableToCreateDownloadError,
    UnableToReadFileError,
    UnableToWriteDownloadError,
)
from patchify.files import BLOCK, Progress, sync_folder

_MARGIN = 1024 * 1024  # bytes, for what is written beside the release
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class PartFile:
    """A release while it downloads: ``staged-<sha256>.part``, hashed as it grows. What is there already is kept.

    What is changed in the middle, or was there before, is hashed when it is taken up, or in the end.

    Attributes:
        size: Bytes that are there.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises `UnableToCreateDownloadError`."""
        self._path = path
        self._digest = hashlib.sha256()
        self._hashed = 0  # bytes that the digest knows of
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            self._file = FileIO(os.open(path, flags, 0o600), "r+")
            try:
                self.size = os.fstat(self._file.fileno()).st_size
            except OSError:
                self._file.close()
                raise
        except OSError as error:
            raise UnableToCreateDownloadError(path, error) from error

    def reserve(self, total: int) -> None:
        """See whether a release of so many bytes fits. Raises `NotEnoughSpaceError`."""
        free = _free(self._path.parent)
        needed = total - self.size + _MARGIN
        if free is not None and free < needed:
            raise NotEnoughSpaceError(self._path, needed=needed, free=free)

    def take_up(self, progress: Progress, look: Callable[[bytes], None] | None = None) -> None:
        """Hash what is there from an earlier attempt, if that was not done. Raises `UnableToReadFileError`.

        Args:
            progress: Called with the bytes that are hashed.
            look: Called with each block of all that is there, also of what was hashed before.
        """
        if look is not None:
            self._forget()
        try:
            self._file.seek(self._hashed)
            while block := self._file.read(min(BLOCK, self.size - self._hashed)):
                self._digest.update(block)
                self._hashed += len(block)
                if look is not None:
                    look(block)
                progress(self._hashed)
        except OSError as error:
            raise UnableToReadFileError(self._path, error) from error

    def write(self, data: bytes | memoryview, at: int | None = None) -> None:
        """Append, or put in the place of what is there from byte ``at`` on.

        Raises:
            UnableToWriteDownloadError: on a full disk what was there is given up, to free the space.
        """
        at = self.size if at is None else at
        if at < self._hashed:
            self._forget()
        try:
            self._file.seek(at)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            if error.errno in _DISK_FULL:
                self.discard()
            else:
                with contextlib.suppress(OSError):  # keep to whole blocks, of which the digest knows
                    self._file.truncate(self.size)
            raise UnableToWriteDownloadError(self._path, error) from error
        if at == self._hashed:
            self._digest.update(data)
            self._hashed += len(data)
        self.size = max(self.size, at + len(data))

    def cut(self, size: int) -> None:
        """Keep so many bytes of the beginning, if there are more. Raises `UnableToWriteDownloadError`."""
        if self.size <= size:
            return
        try:
            self._file.truncate(size)
        except OSError as error:
            raise UnableToWriteDownloadError(self._path, error) from error
        self.size = size
        if size < self._hashed:
            self._forget()

    def matches(self, sha256: str) -> bool:
        """Return whether what is there has this hash. Raises `UnableToReadFileError`."""
        if self._hashed < self.size:
            self.take_up(lambda done: None)
        return self._digest.hexdigest() == sha256

    def finish(self, version: str, sha256: str, target: Path) -> None:
        """Make the file durable and give it its name, if its hash is right; otherwise it is removed.

        Raises:
            FailedHashVerificationError: its hash is another.
            UnableToReadFileError: what was not hashed yet cannot be read; it is kept.
            UnableToWriteDownloadError: it cannot be made durable. The kernel may have dropped what it could not
                write and will not say so again, so the file is not to be trusted and is removed too.
        """
        if not self.matches(sha256):
            self.discard()
            raise FailedHashVerificationError(version, expected=sha256, found=self._digest.hexdigest())
        try:
            reach("downloaded")
            os.fsync(self._file.fileno())
            reach("download-synced")
            self._file.close()  # Windows renames no open file
            os.replace(self._path, target)
            sync_folder(target.parent)
            reach("download-named")
        except OSError as error:
            self.discard()
            with contextlib.suppress(OSError):
                os.unlink(target)
            raise UnableToWriteDownloadError(self._path, error) from error

    def discard(self) -> None:
        """Remove the file."""
        self.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def close(self) -> None:
        """Close the file; what is there is kept."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _forget(self) -> None:
        """Have it hashed anew."""
        self._digest = hashlib.sha256()
        self._hashed = 0


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:  # some file systems do not say; the download itself will
        return None

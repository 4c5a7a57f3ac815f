"""A file on its way to a server: hashed first, then sent in pieces, and noticed if it changes meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Self

from patchify.errors import FileChangedError, UnreadableFileError
from patchify.files import Progress, hash_file
from patchify.publishing.staging import open_file

BLOCK = 64 * 1024  # bytes sent at once


class Upload:
    """An open file; to be closed.

    Args:
        path: Where it is.
        progress: Called with the bytes that the server has, or is being sent.

    Raises:
        UnreadableFileError, FileChangedError: it cannot be read, or changed meanwhile.
    """

    def __init__(self, path: Path, progress: Progress | None = None) -> None:
        self.path = path
        self._progress = progress or (lambda done: None)
        self._file = open_file(path)
        try:
            self._identity = _identity(self._file)
            self.size = self._identity[0]
            self.sha256 = hash_file(self._file)
            self.check()
        except OSError as error:
            self._file.close()
            raise UnreadableFileError(path, error.strerror or str(error)) from error
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def check(self) -> None:
        """Raise `FileChangedError` if the file is not as it was when it was opened."""
        if _identity(self._file) != self._identity:
            raise FileChangedError(self.path, "it changed while it was published; publish it when it is finished")

    def piece(self, offset: int, length: int) -> Piece:
        """Return a part of the file, to be the body of a request."""
        return Piece(self, offset, length)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the file, and tell that what is before them is there."""
        self._progress(offset)
        try:
            self._file.seek(offset)
            block = self._file.read(length)
        except OSError as error:
            raise UnreadableFileError(self.path, error.strerror or str(error)) from error
        if len(block) < length:
            raise FileChangedError(self.path, "it became shorter while it was published")
        return block

    def done(self) -> None:
        """Tell that all of it is there."""
        self._progress(self.size)


class Piece:
    """A part of a file: `requests` takes it as a body whose length is known."""

    def __init__(self, upload: Upload, offset: int, length: int) -> None:
        self._upload = upload
        self._offset = offset
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        end = self._offset + self._length
        for offset in range(self._offset, end, BLOCK):
            yield self._upload.read(offset, min(BLOCK, end - offset))


def _identity(file: FileIO) -> tuple[int, int, int]:
    found = os.fstat(file.fileno())
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns)

"""A copy of a file that is to be published, made in the folder that one rename brings it to its place from."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from patchify.errors import FileChangedError, StorageUnavailableError, UnreadableFileError
from patchify.files import BLOCK, Progress


@dataclass(frozen=True)
class Staged:
    """A copy of a file in the incoming folder, durable: where it is, its SHA-256 (lower-case hex), its size (bytes)."""

    path: Path
    sha256: str
    size: int


def stage(file: Path, folder: Path, progress: Progress | None = None) -> Staged:
    """Copy a file into a folder, hashing it on the way.

    Raises:
        UnreadableFileError, FileChangedError: the file cannot be read, or changed meanwhile.
        StorageUnavailableError: the copy cannot be written.
    """
    with open_file(file) as source:
        try:
            descriptor, path = tempfile.mkstemp(dir=folder, suffix=".new")
        except OSError as error:
            raise StorageUnavailableError(folder, error) from error
        try:
            sha256, size = _copy(file, source, descriptor, progress)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.unlink(path)
            if isinstance(error, OSError):
                raise StorageUnavailableError(folder, error) from error
            raise
    return Staged(Path(path), sha256, size)


def open_file(path: Path) -> FileIO:
    """Open a regular file that is to be published. Raises `UnreadableFileError`."""
    try:
        # O_NONBLOCK: a FIFO must not hold the program
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise UnreadableFileError(path, error.strerror or str(error)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableFileError(path, "it is not a regular file")
    return FileIO(descriptor)


def _copy(path: Path, source: FileIO, descriptor: int, progress: Progress | None) -> tuple[str, int]:
    """Copy ``source`` durably and return its SHA-256 and size; `OSError` is what writing raises."""
    digest = hashlib.sha256()
    done = 0
    before = os.fstat(source.fileno())
    block = memoryview(bytearray(BLOCK))
    with os.fdopen(descriptor, "wb") as target:
        while count := _read(path, source, block):
            digest.update(block[:count])
            target.write(block[:count])
            done += count
            if progress:
                progress(done)
        target.flush()
        os.fsync(descriptor)
    after = os.fstat(source.fileno())
    if done != before.st_size or any(
        getattr(before, each) != getattr(after, each) for each in ("st_size", "st_mtime_ns", "st_ctime_ns")
    ):
        raise FileChangedError(path, "it changed while it was read; publish it when it is finished")
    return digest.hexdigest(), done


def _read(path: Path, source: FileIO, block: memoryview) -> int:
    try:
        return source.readinto(block)
    except OSError as error:
        raise UnreadableFileError(path, error.strerror or str(error)) from error

"""Files on their way from a publisher: they grow piece by piece under the name of the SHA-256 they are to have.

They lie in a folder among the releases, so that one that is whole becomes a release by a rename. Any process of the
server may write the next piece, and what was cut short stays as far as it came. Nobody is kept out for as long as a
request lasts, since its connection may be dead for long: of two who write at once, the slower one is told so. What is
whole is believed only when its bytes have the hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator
from errno import ENOSPC
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from patchify.errors import (
    StorageUnavailableError,
    UploadBusyError,
    UploadDamagedError,
    UploadOffsetError,
    UploadTooLargeError,
)
from patchify.files import hash_file
from patchify.server.storage import FolderStorage

BLOCK = 256 * 1024  # bytes read from a request at once
_PATIENCE = 5.0  # seconds to wait for another who writes a block; whoever publishes an upload may need longer
_REMEMBERED = 16  # uploads whose hash is carried from piece to piece

Read = Callable[[int], bytes]
_Identity = tuple[int, int, int, int, int]


class Incoming:
    """The uploads to the folder of an application.

    Args:
        storage: Where releases are.
        limit: Bytes that one may have at most.
        patience: Seconds to wait for another request that has the same upload.
    """

    def __init__(self, storage: FolderStorage, limit: int, patience: float = _PATIENCE) -> None:
        self.limit = limit
        self._storage = storage
        self._patience = patience
        self._digests: OrderedDict[str, tuple[_Identity, Any]] = OrderedDict()  # of what was written by this process

    def path(self, sha256: str) -> Path:
        """Return where an upload is as far as it came."""
        return self._storage.incoming / f"{sha256}.part"

    def offset(self, sha256: str) -> int:
        """Return how many bytes of an upload are there."""
        try:
            return self.path(sha256).stat().st_size
        except OSError:
            return 0

    def append(self, sha256: str, offset: int, size: int, read: Read) -> int:
        """Write the next piece of an upload, as far as it comes, and return how many bytes are there then.

        Args:
            sha256: Of the whole file.
            offset: Where the piece begins, which is where the upload ends.
            size: Of the whole file, bytes. What the piece has beyond it is not read.
            read: Gives up to so many bytes of the piece, and none at its end. What it raises ends the piece.

        Raises:
            UploadTooLargeError: the file is larger than allowed.
            UploadOffsetError, UploadBusyError: it ends elsewhere; another request has it.
            StorageUnavailableError: the disk has no room for it, or fails. What was there is given up, to make room.
        """
        if size > self.limit:
            raise UploadTooLargeError(size, self.limit)
        if self.offset(sha256) != offset:
            raise UploadOffsetError(self.offset(sha256))
        self._reserve(size - offset)
        while (wanted := min(BLOCK, size - offset)) > 0 and (block := read(wanted)):
            offset = self._write(sha256, offset, block)
        return offset

    @contextlib.contextmanager
    def whole(self, sha256: str, size: int) -> Iterator[Path]:
        """Give the path of an upload that is whole, right and durable; while the block runs nobody else has it.

        It is for the block to move it away, or to leave it for another attempt.

        Raises:
            UploadOffsetError, UploadBusyError: it is not whole; another request has it.
            UploadDamagedError: it is not the file that was announced, and was thrown away.
            StorageUnavailableError: the disk fails.
        """
        with self._opened(sha256) as file:
            if file.seek(0, os.SEEK_END) != size:
                raise UploadOffsetError(file.tell())
            digest = self._digest(sha256, file)
            with _storing(self._storage.incoming):
                found = digest.hexdigest() if digest is not None else hash_file(file)
                os.fsync(file.fileno())
            if found != sha256:
                file.truncate(0)
                raise UploadDamagedError(expected=sha256, found=found)
            yield self.path(sha256)

    def _write(self, sha256: str, offset: int, block: bytes) -> int:
        with self._opened(sha256) as file:
            if file.seek(0, os.SEEK_END) != offset:
                raise UploadOffsetError(file.tell())
            digest = self._digest(sha256, file)
            rest = memoryview(block)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError as error:
                file.truncate(0)  # a disk that is full is not to stay so because of this
                raise StorageUnavailableError(self._storage.incoming, error) from error
            if digest is not None:
                digest.update(block)
                self._digests[sha256] = (_identity(file), digest)
                if len(self._digests) > _REMEMBERED:
                    self._digests.popitem(last=False)
            return file.tell()

    @contextlib.contextmanager
    def _opened(self, sha256: str) -> Iterator[FileIO]:
        """Open an upload, empty if it is not there, while nobody else has it; of an empty one nothing is left."""
        lock = FileLock(self._storage.make_incoming() / f"{sha256}.lock", timeout=self._patience, mode=0o600)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock)
                stack.callback(self._tidy, sha256, lock)
                file = FileIO(os.open(self.path(sha256), flags, 0o644), "r+")
            except Timeout:
                raise UploadBusyError(sha256) from None
            except OSError as error:
                raise StorageUnavailableError(self._storage.incoming, error) from error
            yield stack.enter_context(file)

    def _tidy(self, sha256: str, lock: FileLock) -> None:
        if self.offset(sha256) == 0:  # it became a release, or came to nothing
            with contextlib.suppress(OSError):
                self.path(sha256).unlink(missing_ok=True)
                os.unlink(lock.lock_file)  # who waits for it sees that it is gone, and makes a new one

    def _reserve(self, needed: int) -> None:
        folder = self._storage.make_incoming()
        with _storing(folder):
            free = shutil.disk_usage(folder).free
        if needed > free:
            cause = OSError(ENOSPC, f"{needed} more bytes are needed, {free} are free on its disk")
            raise StorageUnavailableError(folder, cause) from cause

    def _digest(self, sha256: str, file: FileIO) -> Any:
        """Return the hash so far, if all that is there was written by this process, and nobody touched it since."""
        identity, digest = self._digests.pop(sha256, (None, None))
        found = _identity(file)
        return hashlib.sha256() if found[2] == 0 else digest if identity == found else None


def _identity(file: FileIO) -> _Identity:
    found = os.fstat(file.fileno())
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@contextlib.contextmanager
def _storing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageUnavailableError(folder, error) from error

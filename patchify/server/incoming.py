"""Files on their way from a publisher: they grow piece by piece under the name of the SHA-256 they are to have.

They lie in a folder among the releases, so that one that is whole becomes a release by a rename. Any process of the
server may write the next piece, and what was cut short stays as far as it came. Nobody is kept out for as long as a
request lasts, since its connection may be dead for long: of two who write at once, the slower one is told so. What is
whole is believed only when its bytes have the hash.

There are only so many at once, and what was given up goes when another one begins. Some room is always left on the
disk, where the catalogue may be as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
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
RESERVE = 64 * 1024 * 1024  # bytes of the disk that stay free
MOST_UPLOADS = 16  # that are not published yet
STALE = 24 * 60 * 60  # seconds without a further byte, after which an upload is taken for given up
IDLE = 15 * 60  # the same where there are `MOST_UPLOADS`; no publisher pauses for so long
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
            StorageUnavailableError: the disk has no room for it, or too many others are not finished. Or the disk
                fails; what was there is given up then, to make room.
        """
        if size > self.limit:
            raise UploadTooLargeError(size, self.limit)
        if self.offset(sha256) != offset:
            raise UploadOffsetError(self.offset(sha256))
        if not os.path.lexists(self.path(sha256)):
            self._admit()
        while offset < size:
            self._reserve(size - offset)
            block = read(min(BLOCK, size - offset))
            if not block:
                break
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
                raise _unavailable(self._storage.incoming, error) from error
            yield stack.enter_context(file)

    def _tidy(self, sha256: str, lock: FileLock) -> None:
        if self.offset(sha256) == 0:  # it became a release, or came to nothing
            with contextlib.suppress(OSError):
                self.path(sha256).unlink(missing_ok=True)
                os.unlink(lock.lock_file)  # who waits for it sees that it is gone, and makes a new one

    def _admit(self) -> None:
        """Let another upload begin: remove those that were given up, and raise if there are too many even so."""
        folder = self._storage.make_incoming()
        with _storing(folder):
            names = [name.removesuffix(".part") for name in os.listdir(folder) if name.endswith(".part")]
        kept = len(names)
        for name in sorted(names, key=self._changed):
            kept -= self._give_up(name, IDLE if kept >= MOST_UPLOADS else STALE)
        if kept >= MOST_UPLOADS:
            cause = OSError(ENOSPC, f"{kept} others are not finished; one that stands still for long makes room")
            raise StorageUnavailableError(folder, cause) from cause

    def _give_up(self, sha256: str, after: float) -> bool:
        """Remove an upload to which nothing was added for so many seconds; return whether it is gone."""
        oldest = time.time() - after
        if self._changed(sha256) < oldest:
            with contextlib.suppress(StorageUnavailableError, UploadBusyError), self._opened(sha256) as file:
                if self._changed(sha256) < oldest:  # nobody else has it now
                    file.truncate(0)
        return not os.path.lexists(self.path(sha256))

    def _changed(self, sha256: str) -> float:
        """Return when something was added to an upload, seconds since 1970; 0 if it is not there."""
        try:
            return self.path(sha256).lstat().st_mtime
        except OSError:
            return 0

    def _reserve(self, needed: int) -> None:
        folder = self._storage.make_incoming()
        with _storing(folder):
            free = max(0, shutil.disk_usage(folder).free - RESERVE)
        if needed > free:
            spared = f"{RESERVE // 1024**2} MiB that stay free"
            cause = OSError(ENOSPC, f"{needed} more bytes are needed, its disk has {free} beside {spared}")
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
        raise _unavailable(folder, error) from error


def _unavailable(folder: Path, error: OSError) -> StorageUnavailableError:
    """Return the error that a folder cannot be used, which says whose it is if that is the reason."""
    if isinstance(error, PermissionError):
        with contextlib.suppress(OSError, KeyError, NotImplementedError):
            error.strerror = f"{error.strerror}; it belongs to {folder.owner()}"
    return StorageUnavailableError(folder, error)

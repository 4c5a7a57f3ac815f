"""The one archive that a folder's content always gives, whoever packs it and wherever it lies: what patches apply to.

It is a tar archive, uncompressed, that has folders, files and symbolic links in the order of their paths, and of each
what a program may depend on: its name, its content, whether it can be executed, and the time in whole seconds of what
is no folder. Owners, groups, the other permissions and hard links are left out, so that an installed program gives the
same bytes as the archive that it was unpacked from, however that was packed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path

from patchify.files import BLOCK

Write = Callable[[bytes], object]
"""Takes the next bytes of an archive."""

_PADDING = tarfile.BLOCKSIZE
_END = 2 * tarfile.BLOCKSIZE


def pack(folder: Path, write: Write, paths: Iterable[bytes] | None = None) -> None:
    """Write the archive of a folder, in pieces.

    Args:
        folder: An existing folder; a link that is its path is followed, none that is in it.
        write: Takes the pieces, of at most a MiB each.
        paths: What of it belongs to the program, relative to it; None: all that is there. Devices, pipes and sockets
            are left out.

    Raises:
        OSError: something in it cannot be read, or changed while it was.
    """
    root = os.fsencode(os.path.realpath(folder, strict=True))
    write(_header(b".", os.lstat(root), tarfile.DIRTYPE))  # named, so that a single folder in it stays one
    for path in sorted(walk(root) if paths is None else paths):
        found = os.lstat(os.path.join(root, path))
        if stat.S_ISREG(found.st_mode):
            _pack_file(os.path.join(root, path), path, write)
        elif stat.S_ISDIR(found.st_mode):
            write(_header(path, found, tarfile.DIRTYPE))
        elif stat.S_ISLNK(found.st_mode):
            write(_header(path, found, tarfile.SYMTYPE, os.readlink(os.path.join(root, path))))
    write(bytes(_END))


def measure(folder: Path, paths: Iterable[bytes] | None = None) -> tuple[str, int]:
    """Return SHA-256 and size (bytes) of the archive of a folder. Arguments and errors are those of `pack`."""
    digest, size = hashlib.sha256(), 0

    def count(data: bytes) -> None:
        nonlocal size
        digest.update(data)
        size += len(data)

    pack(folder, count, paths)
    return digest.hexdigest(), size


def walk(root: bytes) -> Iterator[bytes]:
    """Yield the paths, relative to ``root``, of all that is in it, in no order; no link is followed."""
    waiting = [b""]
    while waiting:
        below = waiting.pop()
        with os.scandir(os.path.join(root, below)) as entries:
            for entry in entries:
                path = os.path.join(below, entry.name)
                yield path
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)


def _pack_file(source: bytes, path: bytes, write: Write) -> None:
    with FileIO(os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))) as file:
        found = os.fstat(file.fileno())
        write(_header(path, found, tarfile.REGTYPE))
        left = found.st_size
        while left and (block := file.read(min(BLOCK, left))):
            write(block)
            left -= len(block)
        if left or file.read(1):
            raise OSError(f"{os.fsdecode(source)} changed while it was read")
        write(bytes(-found.st_size % _PADDING))


def _header(path: bytes, found: os.stat_result, kind: bytes, target: bytes = b"") -> bytes:
    info = tarfile.TarInfo(os.fsdecode(path))
    info.type = kind
    info.linkname = os.fsdecode(target)
    info.mtime = 0 if kind == tarfile.DIRTYPE else int(found.st_mtime)  # programs write beside themselves
    info.mode = 0o777 if kind == tarfile.SYMTYPE else 0o755 if _can_run(found, kind) else 0o644
    info.size = found.st_size if kind == tarfile.REGTYPE else 0
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _can_run(found: os.stat_result, kind: bytes) -> bool:
    return kind == tarfile.DIRTYPE or bool(found.st_mode & stat.S_IXUSR)

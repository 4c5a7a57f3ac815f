"""What the bytes of a release are: a program, or an archive of a folder."""

from __future__ import annotations

import lzma
import sys
import tarfile
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Protocol

_HEADER = tarfile.BLOCKSIZE
_PIECE = 64 * 1024  # bytes read at once
_FURTHEST = 1024 * 1024  # bytes in which a header of a compressed archive begins and ends; a block of zstd has 128 KiB
_XZ_MEMORY = 256 * 1024 * 1024  # bytes, as the client allows


def detect_format(file: Path | FileIO) -> str:
    """Return what the bytes of a release are, one of `patchify.releases.FORMATS`.

    Something compressed is an archive only if it begins as a tar archive does when decompressed. If it is compressed
    with zstd, and nothing is installed that decompresses this, it is taken for one. All else is a program: ``file``.

    Args:
        file: A path, or an open, unbuffered file, which is at its start again afterwards.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(file, Path):
        with FileIO(file) as opened:
            return detect_format(opened)
    file.seek(0)
    start = file.read(_HEADER)
    file.seek(0)
    found = "tar" if _is_header(start) else _compressed(file, start)
    file.seek(0)
    return found


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _compressed(file: FileIO, start: bytes) -> str:
    decompressor: _Decompressor | None
    if start.startswith(b"\x1f\x8b"):
        name, decompressor = "tar.gz", _Gzip()
    elif start.startswith(b"\xfd7zXZ\0"):
        name, decompressor = "tar.xz", lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    elif start.startswith(b"\x28\xb5\x2f\xfd"):
        name, decompressor = "tar.zst", _zstd()
    else:
        return "file"
    return name if decompressor is None or _is_header(_decompressed(file, decompressor)) else "file"


class _Gzip:
    """`zlib` in the shape of the others; what it holds back is fed to it again."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def _zstd() -> _Decompressor | None:
    try:
        if sys.version_info >= (3, 14):  # pragma: no cover - the other branch has the same names
            from compression import zstd  # noqa: PLC0415 - not every server needs it
        else:
            from backports import zstd  # noqa: PLC0415
    except ImportError:
        return None
    return zstd.ZstdDecompressor()


def _decompressed(file: FileIO, decompressor: _Decompressor) -> bytes:
    """Return the first bytes that the file decompresses to, fewer or none if it is damaged or ends."""
    found = b""
    try:
        for piece in _pieces(file):
            if decompressor.eof or len(found) == _HEADER:
                break
            found += decompressor.decompress(piece, _HEADER - len(found))
    except Exception:  # each has an error of its own, and what is damaged is no archive
        return b""
    return found


def _pieces(file: FileIO) -> Iterator[bytes]:
    for _ in range(_FURTHEST // _PIECE):
        yield file.read(_PIECE)


def _is_header(block: bytes) -> bool:
    """Return whether a block is the header of a tar archive: its checksum says so, whatever the kind of archive."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True

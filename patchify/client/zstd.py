"""Where zstd is found, which is in Python since 3.14 only, and what its decompressors have in common with others."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Protocol

from patchify.errors import MissingExtraError


class Decompressor(Protocol):
    """What `lzma` and zstd have in common; it ends with its stream, after which another may follow."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more can be made of what it was given."""

    @property
    def unused_data(self) -> bytes:
        """What it was given after the end of the stream."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return what is made of the next bytes, and of earlier ones, up to a number of bytes."""


def zstd_module() -> ModuleType:
    """Return the module that knows zstd. Raises `MissingExtraError`."""
    try:
        if sys.version_info >= (3, 14):  # pragma: no cover - the other branch has the same names
            from compression import zstd  # noqa: PLC0415
        else:
            from backports import zstd  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("unpacking zstd", "", "backports.zstd") from error
    module: ModuleType = zstd
    return module

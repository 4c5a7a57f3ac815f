"""What is made of a file in one pass: the whole compressed with zstd, and the hashes of a long one's segments."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from patchify.errors import FormGivenUpError, StorageUnavailableError
from patchify.files import BLOCK
from patchify.forms import SEGMENT
from patchify.publishing.making import MOST_COMPRESSED

if sys.version_info >= (3, 14):  # pragma: no cover - the other branch has the same names
    from compression import zstd
else:
    from backports import zstd

LEVEL = 19  # the highest that takes no more than 8 MiB to decompress, and some 100 MiB to compress
_SAMPLES = 16  # pieces of a file that tell whether it can be compressed at all
_SAMPLE = 64 * 1024  # bytes of each
_LEAST_SAMPLED = 4 * _SAMPLES * _SAMPLE  # bytes; a shorter file is compressed sooner than it is thought about
_HOPELESS = 0.97  # of the samples: what is no better with a low level will not be much better with the highest


@dataclass(frozen=True)
class Written:
    """A file that was made: where it is, its SHA-256 (lower-case hex), its size (bytes). It is durable."""

    path: Path
    sha256: str
    size: int


def compress(source: FileIO, target: Path) -> Written:
    """Compress a file with zstd, in one thread: others need the cores more.

    Raises:
        FormGivenUpError: it is not much smaller.
        StorageUnavailableError: it cannot be written.
        OSError: ``source`` cannot be read.
    """
    size = os.fstat(source.fileno()).st_size
    _expect_saving(source, size)
    parameters: dict[int, int] = {
        zstd.CompressionParameter.compression_level: LEVEL,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    compressor = zstd.ZstdCompressor(options=parameters)
    compressor.set_pledged_input_size(size)
    writer = _Writer(target)
    try:
        source.seek(0)
        while block := source.read(BLOCK):
            _expect_less(writer.write(compressor.compress(block)), size)
        _expect_less(writer.write(compressor.flush()), size)
        return writer.finish()
    finally:
        writer.close()


def list_segments(source: FileIO, target: Path) -> Written:
    """Write the list of the hashes of a file's segments; see `patchify.forms.Segments`. Raises as `compress`."""
    writer = _Writer(target)
    try:
        source.seek(0)
        ended = False
        while not ended:
            digest, left = hashlib.sha256(), SEGMENT
            while left and (block := source.read(min(BLOCK, left))):
                digest.update(block)
                left -= len(block)
            ended = left > 0
            if left < SEGMENT:
                writer.write(digest.digest())
        return writer.finish()
    finally:
        writer.close()


def _expect_less(made: int, size: int) -> None:
    """Raise `FormGivenUpError` if so many bytes are not much less than what they were made of."""
    if made > size * MOST_COMPRESSED:
        raise FormGivenUpError(f"compressed it has {100 * made / size:.0f} % of its size or more")


def _expect_saving(source: FileIO, size: int) -> None:
    """Raise `FormGivenUpError` if pieces from all over a long file do not become smaller."""
    if size < _LEAST_SAMPLED:
        return
    taken = made = 0
    for number in range(_SAMPLES):
        source.seek((size - _SAMPLE) * number // (_SAMPLES - 1))
        sample = source.read(_SAMPLE)
        taken += len(sample)
        made += len(zstd.compress(sample, 3))
    if made > taken * _HOPELESS:
        raise FormGivenUpError(f"samples of it have {100 * made / taken:.0f} % of their size when compressed")


class _Writer:
    """Writes a new file and makes it durable in the end. Raises `StorageUnavailableError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self.size = 0
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise StorageUnavailableError(path, error) from error

    def write(self, data: bytes) -> int:
        """Write, and return how many bytes there are."""
        try:
            self._file.write(data)
        except OSError as error:
            raise StorageUnavailableError(self._path, error) from error
        self._digest.update(data)
        self.size += len(data)
        return self.size

    def finish(self) -> Written:
        """Make it durable."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageUnavailableError(self._path, error) from error
        return Written(self._path, self._digest.hexdigest(), self.size)

    def close(self) -> None:
        """Close it, whatever it is worth."""
        try:
            self._file.close()
        except OSError as error:
            raise StorageUnavailableError(self._path, error) from error

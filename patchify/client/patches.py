"""What makes a release of something smaller: applying a patch, and decompressing.

Both packages that do the work may be missing, and are imported here only, when they are needed. What goes in was
verified by its hash before, and what comes out is: so nothing here is believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

from patchify.client.installer import as_error
from patchify.client.ways import Leg
from patchify.client.zstd import Decompressor, zstd_module
from patchify.errors import MissingExtraError, PatchError, UnableToReadFileError

_PIECE = 256 * 1024  # bytes read, or decompressed, at once
_WINDOW = 23  # of what is decompressed: 2**23 bytes, 8 MiB, are held in memory at the most, as publishing makes it


def can_apply() -> bool:
    """Return whether patches can be applied here: whether hdiffpatch is installed."""
    try:
        import hdiffpatch  # noqa: F401, PLC0415 - not every program needs it
    except ImportError:
        return False
    return True


def can_decompress() -> bool:
    """Return whether zstd can be decompressed here."""
    try:
        zstd_module()
    except MissingExtraError:
        return False
    return True


def apply(version: str, base: bytes, patch: bytes, leg: Leg) -> bytes:
    """Return what a patch makes.

    The memory that this takes is what the patch says of itself, before anything can be compared: so nothing is applied
    that has another hash than the one that is signed.

    Args:
        version: Of the release, for errors.
        base: What it applies to.
        patch: The patch.
        leg: What both have to be, and what the patch has to make.

    Raises:
        PatchError: it does not make that.
    """

    def refused(reason: str, *, damage: bool = True) -> PatchError:
        return PatchError(version, leg.sha256, reason, damage=damage)

    if _sha256(base) != leg.base:
        raise refused("does not apply to what the program is by now", damage=False)
    if _sha256(patch) != leg.sha256:
        raise refused("has another hash than the one that is signed")
    try:
        import hdiffpatch  # noqa: PLC0415

        made: bytes = hdiffpatch.apply(base, patch)
    except Exception as error:  # HDiffPatchError, MemoryError, ImportError, ValueError, and what its next version has
        damage = not isinstance(error, MemoryError | ImportError)
        raise refused(f"cannot be applied ({type(error).__name__})", damage=damage) from error
    if (_sha256(made), len(made)) != (leg.result, leg.result_size):
        raise refused("makes something else than what is signed")
    return made


def decompress(version: str, source: Path, leg: Leg, write: Callable[[bytes], object]) -> None:
    """Decompress a file, in pieces, never to more than what it is to be; the hash of that is for others to verify.

    Args:
        version: Of the release, for errors.
        source: The compressed file.
        leg: What it has to be, and how many bytes it has to make.
        write: Takes the pieces; what it raises is let through.

    Raises:
        PatchError: it is no such file.
        UnableToReadFileError: it cannot be read.
    """

    def refused(reason: str, *, damage: bool = True) -> PatchError:
        return PatchError(version, leg.sha256, reason, damage=damage)

    left = leg.result_size
    for piece in _decompressed(source, refused):
        left -= len(piece)
        if left < 0:
            raise refused("is longer than what is signed when it is decompressed")
        write(piece)
    if left:
        raise refused("is shorter than what is signed when it is decompressed")


def _decompressed(source: Path, refused: Callable[..., PatchError]) -> Iterator[bytes]:
    """Yield what a file of one frame decompresses to, never more than `_PIECE` bytes at once."""
    zstd = zstd_module()
    decompressor: Decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW})
    with as_error(UnableToReadFileError, source), FileIO(source) as file:
        while not decompressor.eof:
            data = file.read(_PIECE) if decompressor.needs_input else b""
            if not data and decompressor.needs_input:
                raise refused("ends too early")
            try:
                made = decompressor.decompress(data, _PIECE)
            except (zstd.ZstdError, MemoryError) as error:
                damage = not isinstance(error, MemoryError)
                raise refused(f"cannot be decompressed ({type(error).__name__})", damage=damage) from error
            yield made
        if decompressor.unused_data or file.read(1):
            raise refused("goes on after its end")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

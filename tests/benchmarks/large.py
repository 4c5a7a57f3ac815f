"""What patches of large files take, and that this is bounded: ``python -m tests.benchmarks --only large``.

Files of 200 MB that nothing compresses, of which a thousand places changed, a few bytes each, grew or went away, and a
twentieth is new. Each patch is made and applied in a process of its own, as the server and the client do it.
"""

import random
from collections.abc import Iterator
from pathlib import Path

from patchify.client import Config
from patchify.publishing.making import Limits
from tests.benchmarks import engines
from tests.benchmarks.engines import BSDIFF, HDIFFPATCH
from tests.benchmarks.served import KEY
from tests.benchmarks.table import MIB, Options, Row, say

LARGE, LESS = 200_000_000, 25_000_000  # bytes; the latter is what bsdiff4 makes a patch of in half a minute
QUICK, QUICK_LESS = 8_000_000, 2_000_000
CHANGES = 1000


def rows(options: Options) -> Iterator[Row]:
    """Make and apply a patch of large files; of smaller ones, with bsdiff4 beside."""
    if why := engines.missing(HDIFFPATCH):
        yield Row.skipped("patch of large files", why)
        return
    size, less = (QUICK, QUICK_LESS) if options.quick else (LARGE, LESS)
    limit, memory = Limits().patch_memory, Config(version="0.0.0", api="http://x/", key=KEY.verifying_key).patch_memory
    note = (
        f"by default the server makes no patch, and the client applies none, that takes more than {limit} and {memory} MiB "
        "of the client's memory: these would come whole"
    )
    old, new = pair(options.folder, size)
    yield from _rows(f"patch, {size / 1e6:.0f} MB against as much", old, new, options.folder / "large", None, note)
    old, new = pair(options.folder, less)
    beside = None if engines.missing(BSDIFF) else BSDIFF
    yield from _rows(f"patch, {less / 1e6:.0f} MB against as much", old, new, options.folder / "less", beside, "")


def _rows(title: str, old: Path, new: Path, folder: Path, beside: engines.Bsdiff | None, note: str) -> Iterator[Row]:
    folder.mkdir()
    found = {}
    for engine in (HDIFFPATCH, beside):
        if engine is not None:
            say(f"{title}: {engine.label}")
            patch, made = engines.made(engine, old, new, folder / engine.label)
            applied = engines.applied(engine, old, new, folder / engine.label)
            found[engine] = (patch.stat().st_size, made, applied)
    size, made, applied = found[HDIFFPATCH]
    its_size, its_made, its_applied = found.get(beside, (None, None, None))
    name = engines.named(beside) if beside else ""
    yield Row(f"{title}: size", size, "B", its_size or new.stat().st_size, name or "the whole", note=note)
    for what, ours, its in (("make", made, its_made), ("apply", applied, its_applied)):
        yield Row(f"{title}: to {what}", ours.seconds, "s", its and its.seconds, name)
        yield Row(f"{title}: to {what}, peak", ours.peak, "MiB", its and its.peak, name)


def pair(folder: Path, size: int) -> tuple[Path, Path]:
    """Write two files of this size, always the same."""
    chance = random.Random(1)
    data = b"".join(chance.randbytes(min(MIB, size - start)) for start in range(0, size, MIB))
    old, new = folder / f"old-{size}", folder / f"new-{size}"
    old.write_bytes(data)
    fresh = size // 20
    pieces, at = [], 0
    for place in sorted(chance.randrange(size - fresh) for _ in range(CHANGES)):
        kept, gone, come = max(place, at), chance.randrange(64), chance.randrange(64)
        pieces += [data[at:kept], chance.randbytes(come)]
        at = kept + gone
    pieces += [data[at : size - fresh], *(chance.randbytes(min(MIB, fresh - start)) for start in range(0, fresh, MIB))]
    new.write_bytes(b"".join(pieces))
    return old, new

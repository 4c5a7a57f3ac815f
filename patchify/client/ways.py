"""The ways in which the bytes of a release can come here, and which of them is the cheapest. Nothing is done here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from patchify.forms import HDIFFPATCH, Forms, Patch, Segments, memory_of

Kind = Literal["patch", "chain", "zstd", "whole"]
"""By one patch, by several, one after the other, by the compressed file, or by the file as it was published."""

Basis = tuple[str, int]
"""SHA-256 and size (bytes) of what a patch applies to, or makes."""

MOST_STEPS = 8  # patches in a chain
_WORTH = 9, 10  # of the bytes of a simpler way: what saves less is not worth the trouble of applying it


@dataclass(frozen=True)
class Leg:
    """One stretch of a way: a file that is fetched, and what is made of it.

    Attributes:
        sha256, size: Of the file; bytes.
        result, result_size: SHA-256 and bytes of what is made.
        base: SHA-256 of what a patch applies to; None of a file that is no patch.
        segments: Of the file, if it is long.
    """

    sha256: str
    size: int
    result: str
    result_size: int
    base: str | None = None
    segments: Segments | None = None


@dataclass(frozen=True)
class Way:
    """How a release can come here.

    Attributes:
        kind: By what.
        legs: The files to fetch, in the order in which they are used.
    """

    kind: Kind
    legs: tuple[Leg, ...]

    @property
    def size(self) -> int:
        """The bytes to fetch."""
        return sum(leg.size for leg in self.legs)

    def uses(self, sha256: str) -> bool:
        """Return whether the file with this hash is fetched."""
        return any(leg.sha256 == sha256 for leg in self.legs)

    def __str__(self) -> str:
        what = {
            "patch": "a patch",
            "chain": f"a chain of {len(self.legs)} patches",
            "zstd": "the compressed file",
            "whole": "the whole file",
        }
        return f"{what[self.kind]} of {self.size:,} bytes"


def ways(
    whole: Basis,
    forms: Forms,
    *,
    target: Basis | None = None,
    basis: Basis | None = None,
    memory: int = 0,
    zstd: bool = False,
    bad: Collection[str] = (),
    begun: Mapping[str, int] | None = None,
) -> tuple[Way, ...]:
    """Return the ways to a release, the cheapest in bytes first; the last one is always the whole file.

    Only the bytes that are still to come count. A way by patches that saves less than a tenth of those of a simpler
    one is left out, and so is a compressed file of which not less is to come.

    Args:
        whole: Of the whole file of the release.
        forms: What else there is of it.
        target: What its patches make; None: not known, so none can be used.
        basis: What is installed; None: not known, likewise.
        memory: Bytes that applying a patch may take; see `patchify.forms.memory_of`.
        zstd: Whether it can be decompressed here.
        bad: The hashes of files that are not to be used.
        begun: Bytes that are there of files, by their hashes, from an earlier attempt.
    """

    def missing(way: Way) -> int:
        return sum(max(0, leg.size - (begun or {}).get(leg.sha256, 0)) for leg in way.legs)

    found = [Way("whole", (Leg(*whole, *whole, segments=forms.segments),))]
    compressed = forms.compressed
    if compressed is not None and zstd and compressed.sha256 not in bad:
        way = Way("zstd", (Leg(compressed.sha256, compressed.size, *whole, segments=compressed.segments),))
        if missing(way) < missing(found[0]):
            found.append(way)
    if target is not None and basis is not None:
        good = [each for each in forms.patches if each.sha256 not in bad and each.format == HDIFFPATCH]
        for way in _by_patches(good, basis, target, memory):
            if missing(way) * _WORTH[1] <= missing(found[-1]) * _WORTH[0]:
                found.append(way)
    return tuple(reversed(found))


def _by_patches(patches: list[Patch], basis: Basis, target: Basis, memory: int) -> Iterator[Way]:
    """Yield the shortest way by one patch, and the shortest by several, if there are any."""
    chain: Way | None = None
    for steps, legs in _shortest(patches, basis, target, memory):
        if steps == 1:
            yield Way("patch", legs)
        elif chain is None or sum(leg.size for leg in legs) < chain.size:
            chain = Way("chain", legs)
    if chain is not None:
        yield chain


def _shortest(patches: list[Patch], basis: Basis, target: Basis, memory: int) -> Iterator[tuple[int, tuple[Leg, ...]]]:
    """Yield the shortest way of each number of steps."""
    leaving: dict[str, list[Leg]] = {}
    for patch in patches:
        result, size = target if patch.result is None else (patch.result, patch.result_size or 0)
        leaving.setdefault(patch.base, []).append(Leg(patch.sha256, patch.size, result, size, patch.base))
    reached: dict[Basis, tuple[int, tuple[Leg, ...]]] = {basis: (0, ())}
    for steps in range(1, MOST_STEPS + 1):
        further: dict[Basis, tuple[int, tuple[Leg, ...]]] = {}
        for (base, base_size), (so_far, legs) in reached.items():
            for leg in leaving.get(base, ()):
                here, size = (leg.result, leg.result_size), so_far + leg.size
                if memory_of(base_size, leg.result_size, leg.size) > memory:
                    continue
                if here not in further or size < further[here][0]:
                    further[here] = (size, (*legs, leg))
        if target in further:
            yield steps, further[target][1]
        reached = further

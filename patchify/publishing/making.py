"""Which forms of releases are missing, and in which order they are made: pure rules for `patchify.publishing.maker`.

Forms are made of what clients may be offered: what `patchify prune --keep 1` would keep, and the newest of each
``major.minor``, which clients may be pinned to. The newest release comes first; of each, what everybody can use comes
before the patches, and those from what most installations run before the others.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Self

from patchify.forms import LEAST_SEGMENTED, Patch, memory_of
from patchify.publishing.retention import superseded, withdrawn
from patchify.publishing.stones import is_live
from patchify.releases import Release, ReleaseState, newest_first

if TYPE_CHECKING:
    from patchify.server.config import Config

MOST_COMPRESSED = 0.9  # of the whole: a compressed file that is longer is not kept
MOST_PATCHED = 0.7  # of what a client would load else: a patch that is longer is not kept
_COMPRESSIBLE = ("file", "tar")

Shares = Mapping[str, float]
"""Which part of the installations runs a version, by its name, where that is known; 0 to 1."""


@dataclass(frozen=True)
class Limits:
    """How much is made.

    Attributes:
        patches: From how many releases before it a release can be reached by a patch.
        patch_memory: MiB of memory that a client may need to apply a patch; see `patchify.forms.memory_of`.
        patch_time: Seconds that a patch may take.
    """

    patches: int = 3
    patch_memory: int = 256
    patch_time: int = 600

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return those of a configuration."""
        return cls(config.patches, config.patch_memory, config.patch_time)

    @property
    def most_bytes(self) -> int:
        """``patch_memory`` in bytes."""
        return self.patch_memory * 1024 * 1024


class Kind(Enum):
    """What can be made of a release; see `patchify.forms`."""

    TREE = "tree"
    COMPRESSED = "compressed"
    SEGMENTS = "segments"
    PATCH = "patch"


@dataclass(frozen=True)
class Task:
    """A form that is to be made.

    Attributes:
        kind: What.
        release: Of which release.
        base: The release that a patch makes it of; else None.
    """

    kind: Kind
    release: Release
    base: Release | None = None

    @property
    def key(self) -> str:
        """What is remembered of it: the same for the same bytes."""
        basis = self.base and self.base.basis
        return " ".join((self.kind.value, self.release.sha256, *([basis[0]] if basis else [])))

    def __str__(self) -> str:
        if self.base is not None:
            return f"{self.base.version} → {self.release}"
        return f"{self.release} {self.kind.value}"


def in_demand(releases: Iterable[Release], now: datetime) -> list[Release]:
    """Return the releases that clients may be offered, or may come to be, newest first."""
    releases = list(releases)
    surplus = {each.name for each in superseded(releases, 1, now, each_line=True)}
    found = [each for each in releases if each.name not in surplus and not withdrawn(each)]
    return sorted(found, key=newest_first, reverse=True)


def missing(
    wanted: Iterable[Release],
    releases: Iterable[Release],
    limits: Limits,
    given_up: Container[str] = frozenset(),
    shares: Shares | None = None,
) -> Iterator[Task]:
    """Yield what is to be made, in this order. The tree of a folder comes before the patches that need it.

    Args:
        wanted: Of which releases.
        releases: All that there are.
        limits: How much is made.
        given_up: Keys of tasks that are not worth another attempt.
        shares: What runs in the field.
    """
    releases = sorted(releases, key=newest_first, reverse=True)
    for release in wanted:
        for task in (
            *_own(release, limits),
            *_patches(release, bases(release, releases, limits, shares or {}), limits),
        ):
            if task.key not in given_up:
                yield task


def bases(release: Release, releases: Iterable[Release], limits: Limits, shares: Shares) -> list[Release]:
    """Return the releases to make patches from, those that most installations run first, else the newest.

    These are, for each channel that the release may be offered in, the last so many below it that are live there, for
    the same platform, and a file or a folder as it is.

    Args:
        release: What the patches make.
        releases: All, newest first.
        limits: How many.
        shares: What runs in the field.
    """
    found: dict[tuple[str, str], Release] = {}
    for placed in release.placements:
        if placed.state is not ReleaseState.WITHDRAWN:
            before = (each for each in releases if _precedes(each, release) and is_live(each, placed.channel))
            for each, _ in zip(before, range(limits.patches), strict=False):
                found[each.name] = each
    ordered = sorted(found.values(), key=newest_first, reverse=True)
    return sorted(ordered, key=lambda each: -shares.get(str(each.version), 0.0))


def least_saving(release: Release) -> int:
    """Return how many bytes a patch may have to be worth it: much less than a client would load without it."""
    whole = release.size if release.forms.compressed is None else release.forms.compressed.size
    return int(whole * MOST_PATCHED)


def useless_patches(release: Release, releases: Iterable[Release]) -> list[Patch]:
    """Return the patches of a release that are from what is not known, or neither live nor paused in any channel."""
    used = {
        basis[0]
        for each in releases
        if any(placed.state in (ReleaseState.LIVE, ReleaseState.PAUSED) for placed in each.placements)
        and (basis := each.basis) is not None
    }
    return [each for each in release.forms.patches if each.base not in used]


def _precedes(base: Release, release: Release) -> bool:
    alike = base.platform == release.platform and (base.format == "file") == (release.format == "file")
    return alike and newest_first(base) < newest_first(release) and base.sha256 != release.sha256


def _own(release: Release, limits: Limits) -> Iterator[Task]:
    if release.format != "file" and release.forms.tree is None and limits.patches:
        yield Task(Kind.TREE, release)
    if release.format in _COMPRESSIBLE and release.forms.compressed is None:
        yield Task(Kind.COMPRESSED, release)
    if release.size >= LEAST_SEGMENTED and release.forms.segments is None:
        yield Task(Kind.SEGMENTS, release)


def _patches(release: Release, bases: list[Release], limits: Limits) -> Iterator[Task]:
    there = {each.base for each in release.forms.patches}
    for base in bases:
        if base.basis is None:
            yield Task(Kind.TREE, base)
        if release.basis is None or base.basis is None:  # if that comes to be known, there is more to do
            continue
        fits = memory_of(base.basis[1], release.basis[1]) <= limits.most_bytes
        if fits and base.basis[0] not in (*there, release.basis[0]):
            yield Task(Kind.PATCH, release, base)

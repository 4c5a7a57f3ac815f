"""Which releases exist: the seam between the server, a publisher, and wherever that is kept.

The server asks a `Catalogue` for a `Snapshot`, which is immutable and has everything in memory, so that an answer costs
the same with ten releases and ten thousand. A publisher changes an `EditableCatalogue` in transactions. The simplest
catalogue is the configuration's, which nobody changes while the server runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from types import MappingProxyType
from typing import Protocol

from semver import Version

from patchify.errors import VersionNotFoundError
from patchify.platforms import ANY, fallbacks
from patchify.releases import Release, ReleaseState, newest_first
from patchify.versions import parse_version

_SEEN = (ReleaseState.LIVE, ReleaseState.PAUSED)


class Snapshot:
    """All releases as they are at one moment.

    Args:
        releases: In any order; no two with the same name.
        revision: Of the catalogue, in milliseconds since 1970: higher after each change. None: nobody counts changes.
    """

    def __init__(self, releases: Iterable[Release], revision: int | None = None) -> None:
        self.revision = revision
        ordered = sorted(releases, key=newest_first, reverse=True)
        self.releases: Mapping[tuple[str, str], Release] = MappingProxyType({each.name: each for each in ordered})
        """By name, newest first."""

    def find(self, version: Version | str, platform: str = ANY) -> Release:
        """Return the release of this version that is the best for a platform, if anybody may have it.

        Raises:
            InvalidVersionError: the text is no SemVer version.
            VersionNotFoundError: there is no such release, or it is a draft or withdrawn everywhere.
        """
        name = str(parse_version(version) if isinstance(version, str) else version)
        for each in fallbacks(platform):
            release = self.releases.get((name, each))
            if release is not None and any(placement.state in _SEEN for placement in release.placements):
                return release
        raise VersionNotFoundError(name)

    @cached_property
    def channels(self) -> frozenset[str]:
        """The channels that any release is placed in."""
        return frozenset(placement.channel for each in self.releases.values() for placement in each.placements)

    @cached_property
    def platforms(self) -> frozenset[str]:
        """The platforms that any release was built for."""
        return frozenset(platform for _, platform in self.releases)

    def placed(self, channel: str, platform: str) -> Iterator[Release]:
        """Yield the releases in a channel that run on a platform, newest first; of each version only the best one."""
        suitable = fallbacks(platform)
        best: dict[str, Release] = {}
        for release in self.releases.values():
            if release.platform in suitable and release.placed(channel) is not None:
                other = best.get(str(release.version))
                if other is None or suitable.index(release.platform) < suitable.index(other.platform):
                    best[str(release.version)] = release
        yield from best.values()


class Catalogue(Protocol):
    """What the server needs."""

    def snapshot(self) -> Snapshot:
        """Return the releases as they are now, or were a second ago at most.

        It is cheap, and the same object while nothing has changed. Several threads may ask at once, and so may
        processes that were forked.

        Raises:
            CatalogueError, CatalogueUnavailableError: only as long as no snapshot was ever had.
        """


class Transaction(Protocol):
    """A change under way: nobody else changes anything meanwhile, and all of it comes true or nothing."""

    def releases(self) -> Mapping[tuple[str, str], Release]:
        """Return all releases by name, newest first, with what was changed here."""

    def put(self, release: Release) -> None:
        """Add a release, or replace the one of the same name."""

    def remove(self, release: Release) -> None:
        """Remove the release of this name."""


class EditableCatalogue(Catalogue, Protocol):
    """What a publisher needs as well."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Change the catalogue: all at once when the block ends, nothing if it raises; durable when it is left.

        Raises:
            CatalogueError, CatalogueUnavailableError: nothing was changed.
        """


class FixedCatalogue:
    """A catalogue that does not change, such as the configuration's."""

    def __init__(self, releases: Iterable[Release]) -> None:
        self._snapshot = Snapshot(releases)

    def snapshot(self) -> Snapshot:
        """Return the releases."""
        return self._snapshot

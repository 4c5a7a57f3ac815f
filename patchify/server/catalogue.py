"""Which releases exist: the seam between the server, a publisher, and wherever that is kept.

The server asks a `Catalogue` for a `Snapshot`, which is immutable and has everything in memory, so that an answer costs
the same with ten releases and ten thousand. A publisher changes an `EditableCatalogue` in transactions. The simplest
catalogue is the configuration's, which nobody changes while the server runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Protocol, TypeGuard

from semver import Version

from patchify.errors import PlaceNotFoundError, VersionNotFoundError
from patchify.platforms import ANY, fallbacks
from patchify.releases import STABLE, Placement, Release, ReleaseState, newest_first
from patchify.versions import parse_version

_SEEN = (ReleaseState.LIVE, ReleaseState.PAUSED)


@dataclass(frozen=True)
class PublishedFile:
    """A file that may be asked for by its hash: the whole of a release, or one of its forms. The size is in bytes."""

    sha256: str
    size: int
    release: Release

    @property
    def whole(self) -> bool:
        """Whether it is the release as it was published."""
        return self.sha256 == self.release.sha256


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

    def find(self, version: Version | str, platform: str = ANY, channel: str = STABLE) -> Release:
        """Return the release of this version that `placed` yields for a platform, if anybody may have it there.

        Raises:
            InvalidVersionError: the text is no SemVer version.
            VersionNotFoundError: there is no such release in the channel, or it is a draft or withdrawn.
        """
        name = _name(version)
        builds = (self.releases.get((name, each)) for each in fallbacks(platform))
        placements = ((each, each.placed(channel)) for each in builds if each is not None)
        for release, placement in placements:
            if _published(placement):
                if placement.state in _SEEN:
                    return release
                break
        raise VersionNotFoundError(name)

    def build(self, version: Version | str, platform: str) -> Release:
        """Return the release of this version that was built for just this platform, if anybody may have it.

        Raises:
            InvalidVersionError: the text is no SemVer version.
            VersionNotFoundError: there is no such release, or it is a draft or withdrawn everywhere.
        """
        name = _name(version)
        release = self.releases.get((name, platform))
        if release is None or not any(placement.state in _SEEN for placement in release.placements):
            raise VersionNotFoundError(name)
        return release

    def file(self, sha256: str) -> PublishedFile:
        """Return the file with this hash, if anybody may have it. Raises `PlaceNotFoundError`."""
        try:
            return self._files[sha256]
        except KeyError:
            raise PlaceNotFoundError("File", sha256[:64]) from None

    @cached_property
    def _files(self) -> Mapping[str, PublishedFile]:
        """The files of `seen`, by their hash."""
        found: dict[str, PublishedFile] = {}
        for release in self.seen:
            for sha256, size in ((release.sha256, release.size), *release.forms.files(release.size)):
                found.setdefault(sha256, PublishedFile(sha256, size, release))
        return found

    @cached_property
    def seen(self) -> tuple[Release, ...]:
        """The releases that anybody may have in any channel, newest first."""
        return tuple(
            release
            for release in self.releases.values()
            if any(placement.state in _SEEN for placement in release.placements)
        )

    @cached_property
    def channels(self) -> frozenset[str]:
        """The channels that any release is placed in."""
        return frozenset(placement.channel for each in self.releases.values() for placement in each.placements)

    @cached_property
    def platforms(self) -> frozenset[str]:
        """The platforms that any release was built for."""
        return frozenset(platform for _, platform in self.releases)

    def placed(self, channel: str, platform: str) -> Iterator[Release]:
        """Yield the releases in a channel that run on a platform, newest first; of each version only the best one.

        Drafts are not there yet. But a build that is paused or withdrawn stands before the one for ``any`` on purpose:
        the version is paused or withdrawn on its platform, and nobody means to offer it there in another build.
        """
        suitable = fallbacks(platform)
        best: dict[str, Release] = {}
        for release in self.releases.values():
            if release.platform in suitable and _published(release.placed(channel)):
                other = best.get(str(release.version))
                if other is None or suitable.index(release.platform) < suitable.index(other.platform):
                    best[str(release.version)] = release
        yield from best.values()


def _name(version: Version | str) -> str:
    return str(parse_version(version) if isinstance(version, str) else version)


def _published(placement: Placement | None) -> TypeGuard[Placement]:
    return placement is not None and placement.state is not ReleaseState.DRAFT


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

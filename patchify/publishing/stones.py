"""Stepping stones: what clients that are below the floor of a release go to first.

Who runs on which platform is not known here: all platforms that there are builds for are looked at, each by itself,
as each client is offered the best build for its own, as `patchify.server.catalogue.Snapshot.placed` has it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from semver import Version

from patchify.platforms import fallbacks
from patchify.releases import Release, ReleaseState, newest_first


class Stones:
    """The stepping stones in one channel.

    Args:
        releases: All that there are, in any order.
        channel: Its name.
    """

    def __init__(self, releases: Iterable[Release], channel: str) -> None:
        self._channel = channel
        self._published = [each for each in releases if _state(each, channel) not in (None, ReleaseState.DRAFT)]
        self._offered: dict[str, list[Release]] = {}  # by platform: of each version the best build, the lowest first

    def platforms(self, release: Release) -> list[str]:
        """Return the platforms of clients that a release may be for."""
        found = {release.platform, *(each.platform for each in self._published)}
        return sorted(each for each in found if release.platform in fallbacks(each))

    def to(self, release: Release, platform: str) -> Iterator[Release]:
        """Yield what is live from the floor of a release up to it, the lowest first; nothing if it has no floor."""
        offered = self._offered_to(platform)
        if release.floor is not None:
            start, stop = (bisect_left(offered, each, key=_version) for each in (release.floor, release.version))
            yield from (offered[each] for each in range(start, stop) if is_live(offered[each], self._channel))

    def missing(self, release: Release) -> list[str]:
        """Return the platforms of which older clients cannot get to a release, as there is no stone for them.

        Where no version is older, there are no such clients. But a floor that nothing at all reaches is a mistake: then
        it is the release's own platform at least.
        """
        if release.floor is None:
            return []
        platforms = self.platforms(release)
        without = [each for each in platforms if next(self.to(release, each), None) is None]
        older = [each for each in without if any(one.version < release.floor for one in self._offered_to(each)[:1])]
        return older or ([release.platform] if without == platforms else [])

    def _offered_to(self, platform: str) -> list[Release]:
        if platform not in self._offered:
            suitable = fallbacks(platform)
            builds = [each for each in self._published if each.platform in suitable]
            builds.sort(key=lambda each: suitable.index(each.platform), reverse=True)
            best = {str(each.version): each for each in builds}  # the best one comes last
            self._offered[platform] = sorted(best.values(), key=newest_first)
        return self._offered[platform]


def missing_since(releases: Iterable[Release], version: Version, channel: str | None = None) -> Iterator[str]:
    """Yield what is to be told of live releases that lack a stone since a version is not live any more.

    Args:
        releases: All, as they are now.
        version: Which was paused or withdrawn.
        channel: Where; None: wherever it is.
    """
    releases = list(releases)
    taken = [each for each in releases if str(each.version) == str(version)]
    for place in sorted({placed.channel for each in taken for placed in each.placements}):
        suited = [each.platform for each in taken if each.placed(place) and not is_live(each, place)]
        if channel in (None, place):
            stones = Stones(releases, place)
            found: dict[str, list[str]] = {}
            for release in releases:
                if release.floor is not None and release.floor <= version < release.version and is_live(release, place):
                    for platform in stones.missing(release):
                        if any(each in fallbacks(platform) for each in suited):
                            found.setdefault(platform, []).append(str(release.version))
            for platform, versions in found.items():
                yield (
                    f"in {place}, clients on {platform} below the floor of {', '.join(versions)} cannot go there any "
                    f"more: {version} was the last that was live on the way"
                )


def is_live(release: Release, channel: str) -> bool:
    """Return whether a release is live in a channel."""
    return _state(release, channel) is ReleaseState.LIVE


def _state(release: Release, channel: str) -> ReleaseState | None:
    placed = release.placed(channel)
    return None if placed is None else placed.state


def _version(release: Release) -> Version:
    return release.version

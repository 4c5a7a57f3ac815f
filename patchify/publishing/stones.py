"""Stepping stones: what clients that are below the floor of a release go to first.

Who runs on which platform is not known here: all platforms that there are builds for are looked at, each by itself,
as each client is offered the best build for its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from patchify.platforms import fallbacks
from patchify.releases import Release, ReleaseState, newest_first


@dataclass(frozen=True)
class Way:
    """The way of clients of one platform to a release with a floor.

    Attributes:
        platform: Theirs.
        below: Whether they may run a version below the floor: there is one in the channel.
        stones: What is live from the floor up to the release, the lowest first.
    """

    platform: str
    below: bool
    stones: tuple[Release, ...]


def ways(releases: Collection[Release], release: Release, channel: str) -> Iterator[Way]:
    """Yield the ways to a release in a channel; none if it has no floor."""
    floor = release.floor
    if floor is None:
        return
    for platform in sorted({release.platform, *(each.platform for each in releases if each.placed(channel))}):
        if release.platform in fallbacks(platform):
            placed = _best_builds(releases, channel, platform)
            stones = [each for each in placed if floor <= each.version < release.version and is_live(each, channel)]
            yield Way(platform, any(each.version < floor for each in placed), tuple(reversed(stones)))


def blocked(releases: Collection[Release], release: Release, channel: str) -> list[str]:
    """Return the platforms of which older clients cannot get to a release: nothing live there reaches its floor.

    Where no version is older, there are no such clients; but a floor that nothing at all reaches is a mistake, and then
    it is the release's own platform.
    """
    found = list(ways(releases, release, channel))
    if found and not any(way.stones for way in found):
        return [way.platform for way in found if way.below] or [release.platform]
    return [way.platform for way in found if way.below and not way.stones]


def is_live(release: Release, channel: str) -> bool:
    """Return whether a release is live in a channel."""
    placed = release.placed(channel)
    return placed is not None and placed.state is ReleaseState.LIVE


def _best_builds(releases: Collection[Release], channel: str, platform: str) -> list[Release]:
    """Return what is placed in a channel and runs on a platform, newest first, of each version the best build."""
    suitable = fallbacks(platform)
    placed = [each for each in releases if each.platform in suitable and each.placed(channel)]
    placed.sort(key=lambda each: suitable.index(each.platform), reverse=True)
    best = {str(each.version): each for each in placed}  # the best one is the last
    return sorted(best.values(), key=newest_first, reverse=True)

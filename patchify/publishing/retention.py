"""Which releases are worth keeping: pure rules for `LocalPublisher.prune`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from patchify.errors import PublicationError
from patchify.platforms import fallbacks
from patchify.releases import Release, ReleaseState, newest_first


def withdrawn(release: Release) -> bool:
    """Return whether it is withdrawn wherever it is, so that nobody may have its bytes."""
    return all(each.state is ReleaseState.WITHDRAWN for each in release.placements)


def superseded(releases: Iterable[Release], keep: int, now: datetime) -> list[Release]:
    """Return the releases that newer ones have made superfluous, newest first.

    In each channel and for each platform, the newest ``keep`` versions that everybody is offered are kept, and all that
    are newer than these; so are as many pre-releases. What is kept keeps the version that its floor makes others go to
    first. Drafts, and what is paused or withdrawn anywhere, are never among those returned.

    Raises:
        PublicationError: ``keep`` is less than 1.
    """
    if keep < 1:
        raise PublicationError(f"keeping {keep} releases makes no sense: 1 is the least")
    ordered = sorted(releases, key=newest_first, reverse=True)
    kept: set[tuple[str, str]] = set()
    for channel in {placement.channel for each in ordered for placement in each.placements}:
        live = [each for each in ordered if _is_live(each, channel)]
        todo = list(_newest(live, channel, keep, now))
        done: set[tuple[str, str]] = set()
        while todo:
            release = todo.pop()
            if release.name not in done:
                done.add(release.name)
                todo += _stepping_stones(live, release)
        kept |= done
    return [
        each
        for each in ordered
        if each.name not in kept and all(placement.state is ReleaseState.LIVE for placement in each.placements)
    ]


def _is_live(release: Release, channel: str) -> bool:
    placed = release.placed(channel)
    return placed is not None and placed.state is ReleaseState.LIVE


def _newest(live: list[Release], channel: str, keep: int, now: datetime) -> Iterator[Release]:
    offered: dict[tuple[str, bool], int] = {}  # by platform, and whether it is a pre-release: how many to everybody
    for release in live:
        kind = release.platform, release.version.prerelease is not None
        if offered.get(kind, 0) < keep:
            yield release
            placed = release.placed(channel)
            if placed is not None and (release.critical or placed.percent(now) == 100):
                offered[kind] = offered.get(kind, 0) + 1


def _stepping_stones(live: list[Release], release: Release) -> list[Release]:
    """Return what clients below the floor of a release go to first: its version or the lowest one above it."""
    floor = release.floor
    if floor is None:
        return []
    suitable = [
        each
        for each in live
        if floor <= each.version < release.version
        and (each.platform in fallbacks(release.platform) or release.platform in fallbacks(each.platform))
    ]
    return [each for each in suitable if each.version == min(suitable, key=lambda other: other.version).version]

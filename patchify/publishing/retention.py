"""Which releases are worth keeping: pure rules for `LocalPublisher.prune`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from patchify.errors import PublicationError
from patchify.publishing.stones import Stones, is_live
from patchify.releases import Release, ReleaseState, newest_first


def withdrawn(release: Release) -> bool:
    """Return whether it is withdrawn wherever it is, so that nobody may have its bytes."""
    return all(each.state is ReleaseState.WITHDRAWN for each in release.placements)


def forms_of(releases: Iterable[Release]) -> set[str]:
    """Return the SHA-256 of the forms that releases have whose bytes somebody may have."""
    return {sha256 for each in releases if not withdrawn(each) for sha256, _ in each.forms.files(each.size)}


def superseded(releases: Iterable[Release], keep: int, now: datetime, *, each_line: bool = False) -> list[Release]:
    """Return the releases that newer ones have made superfluous, newest first.

    In each channel and for each platform, the newest ``keep`` versions that everybody is offered are kept, and all that
    are newer than these; so are as many pre-releases. Drafts, and what is paused or withdrawn anywhere, are never among
    those returned. What is kept keeps what its floor makes others go to first: for each platform all from the floor up
    to the first that everybody is offered. With ``each_line`` so many are kept of each ``major.minor``:
    clients may be pinned to it.

    Raises:
        PublicationError: ``keep`` is less than 1.
    """
    if keep < 1:
        raise PublicationError(f"keeping {keep} releases makes no sense: 1 is the least")
    ordered = sorted(releases, key=newest_first, reverse=True)
    todo = [each for each in ordered if any(placed.state is not ReleaseState.LIVE for placed in each.placements)]
    for channel in {placed.channel for each in ordered for placed in each.placements}:
        todo += _newest([each for each in ordered if is_live(each, channel)], channel, keep, now, each_line=each_line)
    kept: set[tuple[str, str]] = set()
    while todo:
        release = todo.pop()
        if release.name not in kept:
            kept.add(release.name)
            todo += _stones(ordered, release, now)
    return [each for each in ordered if each.name not in kept]


def _newest(live: list[Release], channel: str, keep: int, now: datetime, *, each_line: bool) -> Iterator[Release]:
    offered: dict[tuple[object, ...], int] = {}  # by platform, line, whether it is a pre-release: how many to everybody
    for release in live:
        line = (release.version.major, release.version.minor) if each_line else None
        kind = release.platform, line, release.version.prerelease is not None
        if offered.get(kind, 0) < keep:
            yield release
            if _is_complete(release, channel, now):
                offered[kind] = offered.get(kind, 0) + 1


def _stones(releases: list[Release], release: Release, now: datetime) -> Iterator[Release]:
    """Yield what clients below the floor of a release need, wherever it is offered, or may be later."""
    if release.floor is None:
        return
    for channel in (each.channel for each in release.placements if each.state is not ReleaseState.WITHDRAWN):
        stones = Stones(releases, channel)
        for platform in stones.platforms(release):
            for stone in stones.to(release, platform):
                yield stone
                if stone.version.prerelease is None and _is_complete(stone, channel, now):
                    break


def _is_complete(release: Release, channel: str, now: datetime) -> bool:
    placed = release.placed(channel)
    return placed is not None and (release.critical or placed.percent(now) == 100)

"""What each step of publishing makes of a release: pure rules, which say when a step makes no sense."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from semver import Version

from patchify.errors import (
    DifferentBytesError,
    LowerVersionError,
    NotPublishedError,
    PartlyRefusedError,
    PublicationError,
)
from patchify.platforms import fallbacks
from patchify.publishing.publisher import Publication, check_pause_above
from patchify.publishing.stones import Stones
from patchify.releases import Placement, Release, ReleaseState, Schedule, check_notes, parse_channel

Releases = Mapping[tuple[str, str], Release]
"""All releases by name, as a transaction of the catalogue has them."""

Step = Callable[[Release, Placement], Placement]
"""Returns what becomes of a release that has a place in a channel; the same if it is as asked for already.

It raises `PublicationError` if that makes no sense.
"""

_NO_FLOOR = Version(0)

_SPELLED = {
    ReleaseState.DRAFT: "still a draft",
    ReleaseState.LIVE: "live",
    ReleaseState.PAUSED: "paused",
    ReleaseState.WITHDRAWN: "withdrawn",
}


def publish(
    releases: Releases, publication: Publication, *, sha256: str, size: int, form: str, now: datetime
) -> Release:
    """Return the release that a publication makes, or what it makes of the one that there is."""
    given = Release(
        publication.version,
        sha256,
        size=size,
        platform=publication.platform,
        format=form,
        published=now,
    )
    known = releases.get(given.name, given)
    if known.sha256 != sha256:
        raise DifferentBytesError(str(known), published=known.sha256, given=sha256)
    release = _described(known, publication)
    placed = release.placed(publication.channel)
    told = _rollout_told(publication)
    if placed is None:
        _refuse_lower(releases, release, publication.channel, force=publication.force)
        placed = Placement(publication.channel, ReleaseState.DRAFT, since=now, changed=now, **told)
    elif placed.state is ReleaseState.WITHDRAWN:
        raise _nonsense("published again", release, placed, "publish a new version")
    elif placed.state is not ReleaseState.DRAFT or publication.draft:
        _refuse_other_rollout(release, placed, told)
    if placed.state is ReleaseState.DRAFT and not publication.draft:
        _check_going_live(releases, release, publication.channel, force=publication.force)
        placed = replace(placed.become(ReleaseState.LIVE, now), **told)
    elif placed.state is not ReleaseState.DRAFT and release.floor != known.floor:
        _refuse_unreachable(releases, release, publication.channel, force=publication.force)
    return release.with_placement(placed)


def steer(
    releases: Releases, version: Version, channel: str | None, platform: str | None, step: Step
) -> tuple[tuple[Release, ...], PartlyRefusedError | None]:
    """Take a step with the builds of a version.

    Returns:
        Those that it changes, as they are then; and what is to be raised, if it makes no sense for others.

    Raises:
        NotPublishedError: there is nothing to take it with.
        PublicationError: it makes no sense for any of them.
    """
    meant = list(_meant(releases.values(), version, channel, platform))
    if not meant:
        raise NotPublishedError(str(version), _spelled(channel, platform))
    changed: dict[tuple[str, str], Release] = {}
    places = []
    refusals = []
    for release, placement in meant:
        try:
            moved = step(release, placement)
        except PublicationError as error:
            refusals.append(error)
        else:
            before = changed.get(release.name, release)
            if moved != before.placed(moved.channel):
                changed[release.name] = before.with_placement(moved)
                places.append(f"{release} in {moved.channel}")
    if len(refusals) == len(meant):
        raise refusals[0]
    return tuple(changed.values()), PartlyRefusedError(places, refusals) if refusals else None


def pause(now: datetime, why: str) -> Step:
    """Offer it no longer for now."""
    _check_reason(why)

    def step(release: Release, placement: Placement) -> Placement:
        if placement.state is ReleaseState.PAUSED:
            return placement
        if placement.state is not ReleaseState.LIVE:
            raise _nonsense("paused", release, placement, "only what is live can be")
        return placement.become(ReleaseState.PAUSED, now, why)

    return step


def resume(releases: Releases, now: datetime, why: str, *, force: bool) -> Step:
    """Offer it again, or for the first time."""
    _check_reason(why)

    def step(release: Release, placement: Placement) -> Placement:
        if placement.state is ReleaseState.LIVE:
            return placement
        if placement.state is ReleaseState.WITHDRAWN:
            raise _nonsense("resumed", release, placement, "publish a new version")
        if placement.state is ReleaseState.DRAFT:
            _check_going_live(releases, release, placement.channel, force=force)
        return placement.become(ReleaseState.LIVE, now, why)

    return step


def withdraw(now: datetime, why: str) -> Step:
    """Never offer it again."""
    _check_reason(why)

    def step(release: Release, placement: Placement) -> Placement:
        if placement.state is ReleaseState.WITHDRAWN:
            return placement
        return placement.become(ReleaseState.WITHDRAWN, now, why)

    return step


def rollout(schedule: Schedule, pause_above: int | None, now: datetime) -> Step:
    """Offer it by another schedule."""
    check_pause_above(pause_above)

    def step(release: Release, placement: Placement) -> Placement:
        if placement.state is ReleaseState.WITHDRAWN:
            raise _nonsense("rolled out", release, placement, "publish a new version")
        if placement.schedule != schedule:
            placement = placement.scheduled(schedule, now)
        if pause_above not in (None, placement.pause_above):
            placement = placement.limited(pause_above, placement.pause_after, now)
        return placement

    return step


def promote(releases: Releases, target: str, schedule: Schedule | None, now: datetime, *, force: bool) -> Step:
    """Offer it in another channel as well, with the limit of failures that it has in the first one."""
    told: dict[str, Any] = {} if schedule is None else {"schedule": schedule}
    try:
        parse_channel(target)
    except ValueError as error:
        raise PublicationError(str(error)) from error

    def step(release: Release, placement: Placement) -> Placement:
        if placement.channel == target:
            raise PublicationError(f"version {release} cannot be promoted from {target} to itself")
        if placement.state is not ReleaseState.LIVE:
            raise _nonsense("promoted", release, placement, "only what is live can be")
        there = release.placed(target)
        if there is not None and there.state is ReleaseState.WITHDRAWN:
            raise _nonsense("promoted", release, there, "publish a new version")
        if there is not None and there.state is ReleaseState.PAUSED:
            raise _nonsense("promoted", release, there, "resume it there")
        if there is not None and there.state is ReleaseState.LIVE:
            _refuse_other_rollout(release, there, told)
            return there
        _check_going_live(releases, release, target, force=force)
        if there is None:
            there = Placement(target, ReleaseState.DRAFT, since=now, changed=now)
            there = replace(there, pause_above=placement.pause_above, pause_after=placement.pause_after)
        return replace(there.become(ReleaseState.LIVE, now), **told)

    return step


def _check_reason(why: str) -> None:
    try:
        check_notes(why)
    except ValueError as error:
        raise PublicationError(f"the reason cannot be kept: {error}") from error


def _meant(
    releases: Iterable[Release], version: Version, channel: str | None, platform: str | None
) -> Iterable[tuple[Release, Placement]]:
    for release in releases:
        if str(release.version) == str(version) and platform in (None, release.platform):
            for placement in release.placements:
                if channel in (None, placement.channel):
                    yield release, placement


def _described(release: Release, publication: Publication) -> Release:
    """Return a release with what a publication says of it, which holds in all channels."""
    said: dict[str, Any] = {
        "notes": publication.notes or None,
        "critical": publication.critical,
        "floor": publication.floor,
    }
    changed = replace(release, **{name: value for name, value in said.items() if value is not None})
    if changed.floor == _NO_FLOOR:
        changed = replace(changed, floor=None)
    others = [each for each in release.placements if each.channel != publication.channel]
    elsewhere = ", ".join(each.channel for each in others if each.state is not ReleaseState.WITHDRAWN)
    same = (changed.critical, changed.floor) == (release.critical, release.floor)
    if elsewhere and not same and not publication.force:
        raise PublicationError(
            f"version {release} is in {elsewhere}, too, and would be {'' if changed.critical else 'not '}critical and "
            f"have the floor {changed.floor or 'none'} there as well; --force changes that"
        )
    return changed


def _rollout_told(publication: Publication) -> dict[str, Any]:
    """Return what a publication says of its place in the channel, by the names of `Placement`."""
    names = ("schedule", "pause_above", "pause_after")
    return {name: value for name in names if (value := getattr(publication, name)) is not None}


def _refuse_other_rollout(release: Release, placed: Placement, told: Mapping[str, Any]) -> None:
    """Raise `PublicationError` if something else is told of the rollout than what there is: that takes a `rollout`."""
    if any(getattr(placed, name) != value for name, value in told.items()):
        limit = "never" if placed.pause_above is None else f"above {placed.pause_above} %"
        raise PublicationError(
            f"version {release} is {_SPELLED[placed.state]} in {placed.channel} with the rollout {placed.schedule}, "
            f"paused {limit} after {placed.pause_after} outcomes, and stays so; patchify rollout changes a rollout"
        )


def _check_going_live(releases: Releases, release: Release, channel: str, *, force: bool) -> None:
    _refuse_lower(releases, release, channel, force=force)
    _refuse_unreachable(releases, release, channel, force=force)


def _refuse_unreachable(releases: Releases, release: Release, channel: str, *, force: bool) -> None:
    """Raise `PublicationError` if clients below its floor could not get there."""
    missing = [] if force else Stones(releases.values(), channel).missing(release)
    if missing:
        raise PublicationError(
            f"version {release} could not be reached in {channel} by clients below its floor {release.floor} on "
            f"{', '.join(missing)}: nothing is live there from that floor up to it; publish that first, or --force it"
        )


def _refuse_lower(releases: Releases, release: Release, channel: str, *, force: bool) -> None:
    """Raise `LowerVersionError` if machines that it runs on are offered a higher version in the channel."""
    for other in releases.values():  # newest first
        placed = other.placed(channel)
        if (
            not force
            and placed is not None
            and placed.state is ReleaseState.LIVE
            and other.version > release.version
            and (other.platform in fallbacks(release.platform) or release.platform in fallbacks(other.platform))
        ):
            raise LowerVersionError(str(release), str(other.version), channel)


def _nonsense(done: str, release: Release, placement: Placement, right: str) -> PublicationError:
    state = _SPELLED[placement.state]
    return PublicationError(f"version {release} cannot be {done}: it is {state} in {placement.channel}; {right}")


def _spelled(channel: str | None, platform: str | None) -> str:
    where = "in any channel" if channel is None else f"in the channel {channel}"
    return where if platform is None else f"{where} for {platform}"

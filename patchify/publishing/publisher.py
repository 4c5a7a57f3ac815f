"""What a publisher is asked: to publish a file, and to steer what is published.

Two of them do it: one on the server's machine (`patchify.publishing.local`), one over the network
(`patchify.publishing.remote`). Neither this nor the second needs Flask or a database.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from semver import Version

from patchify.errors import PublicationError
from patchify.files import Progress
from patchify.platforms import ANY, parse_platform
from patchify.releases import EVERYBODY, FORMATS, STABLE, Release, Schedule, check_notes, parse_channel
from patchify.versions import parse_version

PAUSE_AFTER = 20
"""How many outcomes of a release there must be before it may be paused because of them."""


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What is said of a file when it is published.

    Args:
        version: Its SemVer version.
        channel: Where it is published. Default ``stable``.
        platform: What it was built for. Default ``any``.
        format: One of `FORMATS`; None: found out from the bytes.
        notes: What is new, Markdown, 16 KiB at most.
        critical: Whether staged rollout is passed by.
        floor: The oldest version that may go straight to it, lower than itself; None: all may.
        schedule: Whom it is offered to. Default everybody.
        pause_above: Pause it when more than so many per cent of its outcomes are failures; None: never.
        pause_after: How many outcomes there must be for that. Default 20.
        draft: Publish it so that nobody sees it until it is resumed.
        force: Publish it although a higher version is live in the channel.

    Raises:
        PublicationError: a value is wrong, or makes no sense with the others.
    """

    version: Version
    channel: str = STABLE
    platform: str = ANY
    format: str | None = None
    notes: str = ""
    critical: bool = False
    floor: Version | None = None
    schedule: Schedule = EVERYBODY
    pause_above: int | None = None  # per cent
    pause_after: int = PAUSE_AFTER
    draft: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Check every value."""
        try:
            parse_channel(self.channel)
            parse_platform(self.platform)
            check_notes(self.notes)
        except ValueError as error:
            raise PublicationError(str(error)) from error
        if self.format is not None and self.format not in FORMATS:
            raise PublicationError(f"the format {self.format[:80]!r} is none of {', '.join(FORMATS)}")
        if self.floor is not None and self.floor >= self.version:
            raise PublicationError(f"the floor {self.floor} of {self.version} must be a lower version than itself")
        check_pause_above(self.pause_above)
        if self.pause_after < 1:
            raise PublicationError(f"pausing after {self.pause_after} outcomes makes no sense: 1 is the least")

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON has."""
        return {
            "version": str(self.version),
            "channel": self.channel,
            "platform": self.platform,
            "format": self.format,
            "notes": self.notes,
            "critical": self.critical,
            "floor": self.floor and str(self.floor),
            "rollout": str(self.schedule),
            "pause_above": self.pause_above,
            "pause_after": self.pause_after,
            "draft": self.draft,
            "force": self.force,
        }

    @classmethod
    def from_json(cls, members: object) -> Self:
        """Read what `to_json` returns; only ``version`` must be there. Raises `PublicationError`."""
        given = _members(members)
        try:
            floor, rollout = given.pop("floor", None), given.pop("rollout", None)
            return cls(
                version=parse_version(given.pop("version")),
                floor=None if floor is None else parse_version(floor),
                schedule=EVERYBODY if rollout is None else Schedule.parse(rollout),
                **given,
            )
        except ValueError as error:
            raise PublicationError(f"the publication cannot be read: {error}") from error


_TYPES: dict[str, type | tuple[type, ...]] = {
    "version": str,
    "channel": str,
    "platform": str,
    "format": (str, type(None)),
    "notes": str,
    "critical": bool,
    "floor": (str, type(None)),
    "rollout": str,
    "pause_above": (int, type(None)),
    "pause_after": int,
    "draft": bool,
    "force": bool,
}


def _members(members: object) -> dict[str, Any]:
    """Return the members of a JSON object if all are known and of the right type, and the version is there."""
    if not isinstance(members, dict):
        raise PublicationError("a publication is a JSON object")
    for name, value in members.items():
        if name not in _TYPES:
            raise PublicationError(f"a publication has no {name[:80]!r}, but {', '.join(_TYPES)}")
        wanted = _TYPES[name]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise PublicationError(f"{name} of the publication is {value!r:.80}, which has the wrong type")
    if "version" not in members:
        raise PublicationError("the version of the publication is missing")
    return dict(members)


def check_pause_above(percent: int | None) -> int | None:
    """Return the limit of failures as it was given. Raises `PublicationError` unless it is 0 to 99 or None."""
    if percent is not None and not 0 <= percent < 100:
        raise PublicationError(f"pausing above {percent} % of failures makes no sense: 0 to 99 do")
    return percent


class Publisher(Protocol):
    """Publishes releases and steers them.

    Where ``platform`` is None, all builds of the version are meant, and where ``channel`` is None, all channels that it
    is in. What steers returns the releases that it changed: none of them if everything was as asked for already. Of
    several that are meant, those are left alone for which it makes no sense; if that is all of them, it is refused.

    Raises:
        PublicationError: it makes no sense; nothing was changed.
        RejectedError: it was refused for another reason; nothing was changed.
        UnavailableError: it could not be done now; nothing was changed, or it cannot be known whether it was.
    """

    def publish(self, file: Path, publication: Publication, progress: Progress | None = None) -> Release:
        """Publish a file; it is seen when all of it is there. The same version with the same bytes may come again.

        What is published again keeps its place in the channel, except that a draft goes live unless it is to be one;
        notes, floor and the criticality are changed where they are given.
        """

    def releases(self) -> list[Release]:
        """Return all releases, newest first."""

    def promote(
        self,
        version: Version,
        source: str,
        target: str,
        platform: str | None = None,
        schedule: Schedule = EVERYBODY,
        *,
        force: bool = False,
    ) -> list[Release]:
        """Offer what is live in one channel in another one, too. ``force``: although a higher version is live there."""

    def rollout(
        self,
        version: Version,
        channel: str,
        schedule: Schedule,
        platform: str | None = None,
        pause_above: int | None = None,
    ) -> list[Release]:
        """Give a release another schedule, which begins now; ``pause_above`` None leaves that limit as it is."""

    def pause(
        self, version: Version, channel: str | None = None, platform: str | None = None, why: str = ""
    ) -> list[Release]:
        """Offer a live release no longer for now."""

    def resume(
        self, version: Version, channel: str | None = None, platform: str | None = None, why: str = ""
    ) -> list[Release]:
        """Offer a paused release again, or a draft for the first time."""

    def withdraw(
        self, version: Version, channel: str | None = None, platform: str | None = None, why: str = ""
    ) -> list[Release]:
        """Never offer a release again, and tell clients that have it to leave it."""

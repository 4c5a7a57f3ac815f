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
from patchify.releases import FORMATS, STABLE, Release, Schedule, check_notes, parse_channel
from patchify.versions import parse_version

MOST_PAUSE_AFTER = 1_000_000
"""A pause waits for no more outcomes of a release than these."""

MOST_NAME = 255
"""Bytes that the name of a file has at most; a release's has the application's name, the version and the platform."""


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
        floor: The oldest version that may go straight to it, lower than itself; 0.0.0: all may.
        schedule: Whom it is offered to.
        pause_above: Pause it when more than so many per cent of its outcomes are failures.
        pause_after: How many outcomes there must be for that, 1 to 1,000,000.
        draft: Publish it so that nobody sees it until it is resumed.
        force: Publish it although a higher version is live in the channel, or nobody can reach its floor, or it is to
            be of another criticality or floor in other channels, too.

    Where ``critical``, ``floor``, ``schedule``, ``pause_above`` or ``pause_after`` is None, it stays as it is; and a
    new release is not critical, for all versions and for everybody, and never paused by itself, or after 20 outcomes.

    Raises:
        PublicationError: a value is wrong, or makes no sense with the others.
    """

    version: Version
    channel: str = STABLE
    platform: str = ANY
    format: str | None = None
    notes: str = ""
    critical: bool | None = None
    floor: Version | None = None
    schedule: Schedule | None = None
    pause_above: int | None = None  # per cent
    pause_after: int | None = None
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
        if self.pause_after is not None and not 1 <= self.pause_after <= MOST_PAUSE_AFTER:
            raise PublicationError(f"pausing after {self.pause_after} outcomes makes no sense: 1 to 1,000,000 do")
        check_name(f"-{self.version}" if self.platform == ANY else f"-{self.version}@{self.platform}")

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
            "rollout": self.schedule and str(self.schedule),
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
                schedule=None if rollout is None else Schedule.parse(rollout),
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
    "critical": (bool, type(None)),
    "floor": (str, type(None)),
    "rollout": (str, type(None)),
    "pause_above": (int, type(None)),
    "pause_after": (int, type(None)),
    "draft": bool,
    "force": bool,
}
_FLAGS = ("critical", "draft", "force")


def _members(members: object) -> dict[str, Any]:
    """Return the members of a JSON object if all are known and of the right type, and the version is there."""
    if not isinstance(members, dict):
        raise PublicationError("a publication is a JSON object")
    for name, value in members.items():
        if name not in _TYPES:
            raise PublicationError(f"a publication has no {name[:80]!r}, but {', '.join(_TYPES)}")
        wanted = _TYPES[name]
        if not isinstance(value, wanted) or (isinstance(value, bool) and name not in _FLAGS):
            raise PublicationError(f"{name} of the publication is {value!r:.80}, which has the wrong type")
    if "version" not in members:
        raise PublicationError("the version of the publication is missing")
    return dict(members)


def check_pause_above(percent: int | None) -> int | None:
    """Return the limit of failures as it was given. Raises `PublicationError` unless it is 0 to 99 or None."""
    if percent is not None and not 0 <= percent < 100:
        raise PublicationError(f"pausing above {percent} % of failures makes no sense: 0 to 99 do")
    return percent


def check_name(name: str) -> None:
    """Raise `PublicationError` if no file can have a name, which is that of a release or the end of it."""
    size = len(name.encode())
    if size > MOST_NAME:
        raise PublicationError(f"the release's file name would have {size} bytes; {MOST_NAME} are the most")


class Publisher(Protocol):
    """Publishes releases and steers them.

    Where ``platform`` is None, all builds of the version are meant, and where ``channel`` is None, all channels that it
    is in. What steers returns the releases that it changed: none of them if everything was as asked for already. Of
    several that are meant, those are left alone for which it makes no sense, and it raises when the others are changed;
    if it makes no sense for any, nothing is changed.

    Raises:
        PublicationError: it makes no sense; nothing was changed.
        PartlyRefusedError: it makes no sense for some that are meant; the others were changed. Over the network it is a
            `PublicationError` with the same text.
        RejectedError: it was refused for another reason; nothing was changed.
        UnavailableError: it could not be done now; nothing was changed, or it cannot be known whether it was.
    """

    def publish(self, file: Path, publication: Publication, progress: Progress | None = None) -> Release:
        """Publish a file; it is seen when all of it is there. The same version with the same bytes may come again.

        What is published again keeps its place in the channel, except that a draft goes live unless it is to be one;
        notes, floor and the criticality are changed where they are given. Another rollout is refused: `rollout` it is.
        """

    def releases(self) -> list[Release]:
        """Return all releases, newest first."""

    def promote(
        self,
        version: Version,
        source: str,
        target: str,
        platform: str | None = None,
        schedule: Schedule | None = None,
        *,
        force: bool = False,
    ) -> list[Release]:
        """Offer what is live in one channel in another one, too, to everybody unless there is a schedule.

        ``force``: although a higher version is live there, or nobody there can reach its floor.
        """

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
        self,
        version: Version,
        channel: str | None = None,
        platform: str | None = None,
        why: str = "",
        *,
        force: bool = False,
    ) -> list[Release]:
        """Offer a paused release again, or a draft for the first time; ``force`` is for drafts, as for `promote`."""

    def withdraw(
        self, version: Version, channel: str | None = None, platform: str | None = None, why: str = ""
    ) -> list[Release]:
        """Never offer a release again, and tell clients that have it to leave it."""

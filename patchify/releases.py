"""What a release is, and where it stands: values that both sides of publishing share.

A *release* is one build: a version for a platform, its bytes known by their SHA-256. It is *placed* in channels, and in
each of them it has a state and a share of the clients that it is offered to, which may widen by a schedule.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import pairwise
from typing import Any, Self

from semver import Version

from patchify.forms import Forms
from patchify.keys import decode_hex
from patchify.platforms import ANY, parse_platform
from patchify.versions import parse_version, total_order

STABLE = "stable"
"""The channel that is meant where none is named."""

FORMATS = ("file", "tar", "tar.gz", "tar.xz", "tar.zst")
"""What the bytes of a release can be: the program itself, or an archive of the folder that it is."""

MOST_NOTES = 16 * 1024  # bytes of UTF-8
MOST_SIZE = 2**53 - 1  # bytes; what every JSON reader can represent

_CHANNEL = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,38}[a-z0-9])?")
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
_STEP = re.compile(r"([0-9]{1,3})%?(?:@([0-9]{1,5})([mhdw]))?")


def parse_channel(text: str) -> str:
    """Return the name of a channel as it was given. Raises `ValueError` if it has not the form of one."""
    if not _CHANNEL.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not the name of a channel, such as {STABLE}: a-z, 0-9, '.', '_', '-'")
    return text


class ReleaseState(Enum):
    """Where a release stands in a channel."""

    DRAFT = "draft"  # not to be seen by anybody yet
    LIVE = "live"  # offered
    PAUSED = "paused"  # not offered for now; who has it keeps it
    WITHDRAWN = "withdrawn"  # never offered again; who has it is told to leave it


@dataclass(frozen=True)
class Schedule:
    """Which share of the clients a release is offered to, as time passes.

    Attributes:
        steps: Seconds since the release went live, and the percentage from then on; the first at 0, all rising.
    """

    steps: tuple[tuple[int, int], ...] = ((0, 100),)

    def __post_init__(self) -> None:
        """Raise `ValueError` unless the steps rise."""
        percents = [percent for _, percent in self.steps]
        if not self.steps or self.steps[0][0] != 0 or not all(0 <= each <= 100 for each in percents):
            raise ValueError(f"{self.steps} is no schedule: it begins at 0 s, and percentages are 0 to 100")
        if any(one[0] >= two[0] or one[1] >= two[1] for one, two in pairwise(self.steps)):
            raise ValueError(f"{self}: a later step must have a higher percentage")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``10``, ``10%`` or ``10,50@1d,100@3d`` (units m, h, d, w). Raises `ValueError`."""
        steps = []
        for word in text.replace(" ", "").split(","):
            found = _STEP.fullmatch(word)
            if not found or int(found[1]) > 100:
                raise ValueError(
                    f"{text[:80]!r} is no schedule; write a percentage up to 100, or 10,50@1d,100@3d (m, h, d, w)"
                )
            steps.append((int(found[2] or 0) * _UNITS[found[3] or "m"], int(found[1])))
        return cls(tuple(steps))

    def __str__(self) -> str:
        return ",".join(
            f"{percent}%" if not after else f"{percent}%@{_spelled(after)}" for after, percent in self.steps
        )

    def percent(self, elapsed: timedelta) -> int:
        """Return the percentage that holds so long after the release went live."""
        seconds = elapsed.total_seconds()
        return max((percent for after, percent in self.steps if after <= seconds), default=self.steps[0][1])

    def next_step(self, elapsed: timedelta) -> timedelta | None:
        """Return how long after the release went live the next step comes, None if there is none."""
        seconds = elapsed.total_seconds()
        return next((timedelta(seconds=after) for after, _ in self.steps if after > seconds), None)


def _spelled(seconds: int) -> str:
    unit = next(unit for unit in ("w", "d", "h", "m") if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


EVERYBODY = Schedule()


def new_seed() -> str:
    """Return a random seed, which decides who is among the first for one release in one channel: 16 hex digits."""
    return secrets.token_hex(8)


def in_cohort(installation: str, seed: str, percent: int) -> bool:
    """Return whether an installation is among the first ``percent`` of a hundred for the release with this seed.

    Who is in stays in when the percentage grows; other seeds have other cohorts.
    """
    drawn = int.from_bytes(hashlib.sha256(f"{seed}:{installation}".encode()).digest()[:8], "big")
    return drawn * 100 < percent << 64


@dataclass(frozen=True)
class Placement:
    """Where a release stands in one channel.

    Attributes:
        channel: Its name.
        state: What is done with it there.
        since: When it went live, UTC; the time that the schedule counts from. A pause moves it.
        changed: When it was last changed, UTC.
        schedule: Whom it is offered to.
        seed: Decides which clients are the first.
        pause_above: Pause it when more than so many per cent of its outcomes are failures; None: never.
        pause_after: How many outcomes there must be for that.
        why: Why it was paused or withdrawn.
    """

    channel: str
    state: ReleaseState
    since: datetime
    changed: datetime
    schedule: Schedule = EVERYBODY
    seed: str = field(default_factory=new_seed)
    pause_above: int | None = None
    pause_after: int = 20
    why: str = ""

    def percent(self, now: datetime) -> int:
        """Return the percentage of clients that it is offered to now; 0 unless it is live."""
        return self.schedule.percent(now - self.since) if self.state is ReleaseState.LIVE else 0

    def next_step(self, now: datetime) -> datetime | None:
        """Return when the percentage next changes by itself, None if it does not."""
        after = self.schedule.next_step(now - self.since) if self.state is ReleaseState.LIVE else None
        return None if after is None else self.since + after

    def become(self, state: ReleaseState, now: datetime, why: str = "") -> Self:
        """Return it in another state: the schedule begins when a draft goes live, and stands still in a pause."""
        goes_live = state is ReleaseState.LIVE and self.state is ReleaseState.DRAFT
        since = now if goes_live else self._since_without_pause(now)
        return replace(self, state=state, since=since, changed=now, why=why)

    def scheduled(self, schedule: Schedule, now: datetime) -> Self:
        """Return it with another schedule, which begins now; the cohort stays the same."""
        return replace(self, schedule=schedule, since=now, changed=now)

    def limited(self, pause_above: int | None, pause_after: int, now: datetime) -> Self:
        """Return it with another limit of failures; the schedule goes on as before, or stands still in a pause."""
        since = self._since_without_pause(now)
        return replace(self, pause_above=pause_above, pause_after=pause_after, since=since, changed=now)

    def _since_without_pause(self, now: datetime) -> datetime:
        """Return ``since``, moved by the pause so far: whoever sets ``changed`` in a pause loses when it began."""
        paused = now - self.changed if self.state is ReleaseState.PAUSED else timedelta()
        return self.since + max(paused, timedelta())  # less than none: by a clock that was ahead

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON has: the attributes by name, times as `spell_time`."""
        return {
            "channel": self.channel,
            "state": self.state.value,
            "since": spell_time(self.since),
            "changed": spell_time(self.changed),
            "rollout": str(self.schedule),
            "seed": self.seed,
            "pause_above": self.pause_above,
            "pause_after": self.pause_after,
            "why": self.why,
        }

    @classmethod
    def from_json(cls, members: dict[str, Any]) -> Self:
        """Read what `to_json` returns. Raises `KeyError`, `TypeError`, `ValueError`."""
        return cls(
            channel=parse_channel(members["channel"]),
            state=ReleaseState(members["state"]),
            since=parse_time(members["since"]),
            changed=parse_time(members["changed"]),
            schedule=Schedule.parse(members["rollout"]),
            seed=str(members["seed"]),
            pause_above=None if members["pause_above"] is None else int(members["pause_above"]),
            pause_after=int(members["pause_after"]),
            why=str(members["why"]),
        )


@dataclass(frozen=True)
class Release:
    """One published build.

    Attributes:
        version: Its SemVer version; build metadata is part of the name.
        sha256: Of its bytes, lower-case hex.
        size: Bytes.
        platform: What it was built for, ``any`` for everything.
        format: One of `FORMATS`.
        notes: What is new, Markdown.
        published: When, UTC.
        critical: Whether staged rollout is passed by.
        floor: The oldest version that may go straight to it; older ones go to that version first. None: all may.
        placements: Where it stands, by channel.
        forms: In which forms it can be had, beside the whole file.
    """

    version: Version
    sha256: str
    size: int = 0
    platform: str = ANY
    format: str = "file"
    notes: str = ""
    published: datetime | None = None
    critical: bool = False
    floor: Version | None = None
    placements: tuple[Placement, ...] = ()
    forms: Forms = field(default_factory=Forms)

    @property
    def name(self) -> tuple[str, str]:
        """What tells it from all others: version and platform."""
        return str(self.version), self.platform

    def __str__(self) -> str:
        return str(self.version) if self.platform == ANY else f"{self.version} for {self.platform}"

    @property
    def basis(self) -> tuple[str, int] | None:
        """SHA-256 and size (bytes) of what patches make and apply to; None of a folder whose tree is not known."""
        return self.forms.basis(self.format, self.sha256, self.size)

    def placed(self, channel: str) -> Placement | None:
        """Return where it stands in a channel, None if it is not there."""
        return next((each for each in self.placements if each.channel == channel), None)

    def with_placement(self, placement: Placement) -> Self:
        """Return it with a placement, which takes the place of the one in the same channel."""
        others = tuple(each for each in self.placements if each.channel != placement.channel)
        placements = tuple(sorted((*others, placement), key=lambda each: each.channel))
        return replace(self, placements=placements)

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON has."""
        return {
            "version": str(self.version),
            "platform": self.platform,
            "format": self.format,
            "size": self.size,
            "sha256": self.sha256,
            "published": self.published and spell_time(self.published),
            "critical": self.critical,
            "floor": self.floor and str(self.floor),
            "notes": self.notes,
            "channels": [each.to_json() for each in self.placements],
            "forms": self.forms.to_json(),
        }

    @classmethod
    def from_json(cls, members: dict[str, Any]) -> Self:
        """Read what `to_json` returns. Raises `KeyError`, `TypeError`, `ValueError`."""
        if decode_hex(members["sha256"], 64) is None:
            raise ValueError(f"sha256 is {members['sha256']!r:.80}, not 64 hex digits")
        if members["format"] not in FORMATS:
            raise ValueError(f"format is {members['format']!r:.80}, none of {', '.join(FORMATS)}")
        return cls(
            version=parse_version(members["version"]),
            sha256=members["sha256"].lower(),
            size=int(members["size"]),
            platform=parse_platform(members["platform"]),
            format=members["format"],
            notes=check_notes(members["notes"]),
            published=None if members["published"] is None else parse_time(members["published"]),
            critical=bool(members["critical"]),
            floor=None if members["floor"] is None else parse_version(members["floor"]),
            placements=tuple(Placement.from_json(each) for each in members["channels"]),
            forms=Forms.from_json(members.get("forms", {})),
        )


def newest_first(release: Release) -> tuple[Any, ...]:
    """Return a key to sort by with ``reverse=True``: by version, and what was built for one platform before ``any``."""
    return (*total_order(release.version), release.platform != ANY, release.platform)


def check_notes(text: str) -> str:
    """Return notes as they were given. Raises `ValueError` if they are too long or hold control characters."""
    size = len(text.encode())
    if size > MOST_NOTES:
        raise ValueError(f"the notes are {size} bytes long; {MOST_NOTES} are the most")
    wrong = next((each for each in text if ord(each) < 32 and each not in "\n\t"), None)
    if wrong is not None:
        raise ValueError(f"the notes hold the control character {wrong!r}")
    return text


def now() -> datetime:
    """Return the time, UTC, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def spell_time(time: datetime) -> str:
    """Return a UTC time as all documents have it: ``2026-11-23T18:00:00Z``."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """Read what `spell_time` writes, and nothing else. Raises `ValueError`, `TypeError`."""
    if not _TIME.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a time such as 2026-11-23T18:00:00Z")
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)

"""What the user of a program has chosen about its updates. It goes before what the program was configured with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

from patchify.releases import parse_channel, parse_time, spell_time
from patchify.versions import VersionRange, parse_version

_MOST_SKIPPED = 50  # versions; the oldest choices go first


@dataclass(frozen=True)
class Choices:
    """The choices of a user; None means: as configured.

    Attributes:
        channel: Which releases to get.
        pin: Only versions in this range.
        prereleases: Whether pre-releases, too.
        allow_downgrade: Whether to go back if the version that runs was withdrawn.
        skipped: Versions that are not wanted.
        later: A version that is not wanted yet.
        later_until: Until when it is not, UTC.
    """

    channel: str | None = None
    pin: str | None = None
    prereleases: bool | None = None
    allow_downgrade: bool | None = None
    skipped: tuple[str, ...] = ()
    later: str | None = None
    later_until: datetime | None = None

    def __post_init__(self) -> None:
        """Raise `ValueError` or `TypeError` for what is none of this."""
        for name, parse in (("channel", parse_channel), ("pin", VersionRange.parse), ("later", parse_version)):
            value = getattr(self, name)
            if value is not None:
                parse(value)
        for version in self.skipped:
            parse_version(version)
        until = self.later_until
        if until is not None and (not isinstance(until, datetime) or until.tzinfo is None):
            raise TypeError(f"later_until: {until!r:.80} is not a time with a time zone")
        for name in ("prereleases", "allow_downgrade"):
            if getattr(self, name) not in (None, True, False):
                raise TypeError(f"{name}: {getattr(self, name)!r:.80} is neither yes nor no")

    def skipping(self, version: str) -> Self:
        """Return the choices with one version skipped for ever."""
        skipped = tuple(each for each in self.skipped if each != version)
        return replace(self, skipped=(*skipped, version)[-_MOST_SKIPPED:])

    def putting_off(self, version: str, until: datetime) -> Self:
        """Return the choices with one version put off."""
        return replace(self, later=version, later_until=until)

    def is_put_off(self, version: str, now: datetime) -> bool:
        """Return whether a version is put off at the time ``now``."""
        return self.later == version and self.later_until is not None and now < self.later_until

    def to_json(self) -> dict[str, Any]:
        """Return them as what JSON has."""
        return {
            "channel": self.channel,
            "pin": self.pin,
            "prereleases": self.prereleases,
            "allow_downgrade": self.allow_downgrade,
            "skipped": list(self.skipped),
            "later": self.later,
            "later_until": self.later_until and spell_time(self.later_until),
        }

    @classmethod
    def from_json(cls, members: dict[str, Any]) -> Self:
        """Read what `to_json` returns. Raises `KeyError`, `TypeError`, `ValueError`."""
        until = members["later_until"]
        return cls(
            channel=members["channel"],
            pin=members["pin"],
            prereleases=members["prereleases"],
            allow_downgrade=members["allow_downgrade"],
            skipped=tuple(members["skipped"]),
            later=members["later"],
            later_until=None if until is None else parse_time(until),
        )

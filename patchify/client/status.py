"""What an updater is doing: an immutable value, and which value may follow which.

The words are those of the original, and so is how a status prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from semver import Version


@dataclass(frozen=True)
class Status:
    """What an updater is doing: one of the classes below."""

    def may_become(self, other: Status) -> bool:
        """Return whether ``other`` may be the next status."""
        return type(other) in _NEXT[type(self)]


@dataclass(frozen=True)
class Idle(Status):
    """Nothing is going on."""

    def __str__(self) -> str:
        return "Idle"


@dataclass(frozen=True)
class Checking(Status):
    """The server is being asked for the newest version."""

    def __str__(self) -> str:
        return "Checking"


@dataclass(frozen=True)
class Downloading(Status):
    """A newer version is being downloaded; ``percent`` is 0 to 100."""

    version: Version
    percent: int

    def __str__(self) -> str:
        return f"Downloading: {self.version} ({self.percent}%)"


@dataclass(frozen=True)
class Installing(Status):
    """The downloaded version is being verified once more and staged; ``percent`` is 0 to 100."""

    version: Version
    percent: int = 0

    def __str__(self) -> str:
        return f"Installing: {self.version}"


@dataclass(frozen=True)
class PendingRestart(Status):
    """A staged version waits for critical actions to end.

    ``actions`` is how many run, ``reasons`` what those that gave one are doing, ``since`` when the wait began (UTC).
    """

    version: Version
    actions: int
    reasons: tuple[str, ...]
    since: datetime

    def __str__(self) -> str:
        return f"Pending restart: {self.version}"


@dataclass(frozen=True)
class Restarting(Status):
    """The program is being replaced and started anew; no critical action may start."""

    version: Version

    def __str__(self) -> str:
        return f"Restarting: {self.version}"


_NEXT: dict[type[Status], frozenset[type[Status]]] = {
    Idle: frozenset({Checking, Downloading, Installing, PendingRestart, Restarting}),
    Checking: frozenset({Idle, Downloading, Installing, PendingRestart, Restarting}),
    Downloading: frozenset({Idle, Downloading, Installing}),
    Installing: frozenset({Idle, Installing, PendingRestart, Restarting}),
    PendingRestart: frozenset({Idle, PendingRestart, Restarting}),
    Restarting: frozenset({Idle}),
}

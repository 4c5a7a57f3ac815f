"""How the releases that are watched do in the field, and the end of a rollout that does too badly.

A release is watched where it is live and has a limit. Its outcomes are counted from the last change of its place on:
whoever resumes it has seen those before.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Connection, and_, select

from patchify.errors import PatchifyError
from patchify.platforms import fallbacks
from patchify.releases import Placement, Release, ReleaseState, spell_time
from patchify.reports import Batch, Event
from patchify.server.catalogue import EditableCatalogue, Snapshot
from patchify.server.fleet_schema import add, outcomes

_log = logging.getLogger(__name__)
_KINDS = {Event.RUNNING: "good", Event.FAILED: "bad", Event.ROLLED_BACK: "bad"}


@dataclass(frozen=True)
class Outcome:
    """A release that is watched did well or badly on a client.

    Attributes:
        name: Of the release.
        placement: Its place in the channel of the client.
        kind: ``good`` or ``bad``.
    """

    name: tuple[str, str]
    placement: Placement
    kind: str

    def __str__(self) -> str:
        return f"{self.name[0]} {self.kind} {spell_time(self.placement.changed)}"


@dataclass(frozen=True)
class Tally:
    """How many outcomes of a release in a channel were good and bad."""

    name: tuple[str, str]
    placement: Placement
    good: int
    bad: int

    @property
    def is_too_bad(self) -> bool:
        """Whether the release is to be paused."""
        limit, total = self.placement.pause_above, self.good + self.bad
        return limit is not None and total >= self.placement.pause_after and self.bad * 100 > limit * total

    def __str__(self) -> str:
        total = self.good + self.bad
        limit = f"{self.placement.pause_above} % is the limit"
        return f"{self.bad} of {total} outcomes were failures, {self.bad * 100 / total:.1f} %, and {limit}"


def told(batch: Batch, snapshot: Snapshot) -> list[Outcome]:
    """Return the outcomes in a batch, in their order, each once: a client that fails at each attempt is one failure."""
    found: dict[str, Outcome] = {}
    for report in batch.reports:
        kind = _KINDS.get(report.event)
        if kind is None or (kind == "bad" and report.release is None):  # what failed had nothing to do with a release
            continue
        watched = _watched(str(report.subject), batch, snapshot)
        if watched is not None:
            outcome = Outcome(*watched, kind)
            found[str(outcome)] = outcome
    return list(found.values())


def _watched(version: str, batch: Batch, snapshot: Snapshot) -> tuple[tuple[str, str], Placement] | None:
    """Return the build of a version that a client means and its place, if it is watched there."""
    for platform in fallbacks(batch.platform):
        release = snapshot.releases.get((version, platform))
        placement = None if release is None else release.placed(batch.channel)
        if release is not None and placement is not None:
            watched = placement.state is ReleaseState.LIVE and placement.pause_above is not None
            return (release.name, placement) if watched else None
    return None


def tally(connection: Connection, outcome: Outcome, today: date) -> Tally:
    """Count an outcome, and return how its release has done by now."""
    row = {
        "version": outcome.name[0],
        "platform": outcome.name[1],
        "channel": outcome.placement.channel,
        "changed": spell_time(outcome.placement.changed),
    }
    add(connection, outcomes, {**row, "day": today}, outcome.kind, 1)
    key = and_(*(outcomes.c[column] == value for column, value in row.items()))
    good, bad = connection.execute(select(outcomes.c.good, outcomes.c.bad).where(key)).one()
    return Tally(outcome.name, outcome.placement, good, bad)


def pause(catalogue: EditableCatalogue, tally: Tally, now: datetime) -> Release | None:
    """Pause a release and return it, or None if its place was changed meanwhile: whoever did that knows better.

    That it cannot be done now is logged: the next outcome is another occasion.
    """
    try:
        with catalogue.transaction() as transaction:
            release = transaction.releases().get(tally.name)
            if release is None or release.placed(tally.placement.channel) != tally.placement:
                return None
            release = release.with_placement(tally.placement.become(ReleaseState.PAUSED, now, str(tally)))
            transaction.put(release)
    except PatchifyError as error:
        _log.error("%s is not paused, although %s: %s", " for ".join(tally.name), tally, error)
        return None
    _log.warning("%s is paused in the channel %s: %s", release, tally.placement.channel, tally)
    return release

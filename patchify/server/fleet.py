"""What the programs in the field tell, counted in the database of the catalogue.

A report adds to the counts of its day. Of single installations nothing is kept but what they run and when they were
last heard of, and that only where they tell their id. Reports are not signed, so the room that they take is bounded:
only what the catalogue knows is counted under its own name, and no table grows beyond a limit. The worst that false
ones can do is to make the counts wrong, and to pause a rollout whose owner asked for that.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

from semver import Version
from sqlalchemy import Connection, delete, func, or_, select

from patchify import signals
from patchify.errors import CatalogueError, CatalogueUnavailableError
from patchify.platforms import KNOWN
from patchify.releases import now as _now
from patchify.reports import Batch, Event
from patchify.server.catalogue import Snapshot
from patchify.server.fleet_schema import add, add_if_there, batches, counts, insert, installations, outcomes, put
from patchify.server.outcomes import Tally, pause, tally, told
from patchify.server.room import Room
from patchify.server.sql_catalogue import SqlCatalogue

_log = logging.getLogger(__name__)

KEPT_DAYS = 90  # of counts, and of installations that were not heard of any more
SEEN_DAYS = 7  # what is in the field was heard of within these; a batch that comes again does so within them
MOST_ROWS = 1_000_000  # of each table, about; some 100 MB. What is told beyond them is not kept one by one
OTHER = "other"  # what the catalogue does not know: versions, channels, platforms


@dataclass(frozen=True)
class InField:
    """What is known of one version in the field.

    Attributes:
        version: Which, or `OTHER`.
        installations: How many run it, of those that tell their id and were heard of within `SEEN_DAYS`.
        checks: How often programs of this version asked for updates within `SEEN_DAYS`.
        share: Which part of all installations that is, or of all checks where no installation tells its id; 0 to 1.
        downloaded, staged, running, failed, rolled_back, patch_failed: How often that was told of it within
            `KEPT_DAYS`.
    """

    version: str
    installations: int
    checks: int
    share: float
    downloaded: int
    staged: int
    running: int
    failed: int
    rolled_back: int
    patch_failed: int

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON has: the attributes by name."""
        return asdict(self)


class Fleet:
    """The counts of one catalogue. Any number of processes may count in it at once.

    Args:
        catalogue: Where the counts are, and whose rollouts are paused.
        now: Gives the time, UTC.
    """

    def __init__(self, catalogue: SqlCatalogue, now: Callable[[], datetime] = _now) -> None:
        self._catalogue = catalogue
        self._now = now
        self._pruned: date | None = None
        self._room = {table: Room(table, MOST_ROWS) for table in (batches, counts, installations)}

    def record(self, batch: Batch) -> bool:
        """Count the reports of a batch and pause what does too badly by now; return False if it was counted before.

        Raises:
            CatalogueError, CatalogueUnavailableError: nothing was counted; the batch may be sent again.
        """
        now = self._now()
        today = now.date()
        snapshot = self._catalogue.snapshot()
        outcomes_told = told(batch, snapshot)
        with self._catalogue.writing() as connection:
            if not self._remember(connection, batch, today):
                return False
            for row, number in _counted(batch, snapshot, today):
                self._count(connection, row, number)
            known = _last_outcome(connection, batch)
            new = sorted((each for each in outcomes_told if str(each) != known), key=str)
            tallies = [tally(connection, each, today) for each in new]
            last = str(outcomes_told[-1]) if outcomes_told else known or ""
            if batch.installation is not None and (known is not None or self._room[installations].take(connection)):
                put(connection, installations, _installation(batch, snapshot, today, last))
        signals.emit(signals.reports_received, self, batch=batch)
        self._pause([each for each in tallies if each.is_too_bad], now)
        self._prune(today)
        return True

    def versions(self, channel: str | None = None, platform: str | None = None) -> list[InField]:
        """Return what is known of each version, the most widespread first.

        Args:
            channel: Only of programs that follow this one. Default: all.
            platform: Only of programs that run there. Default: all.

        Raises:
            CatalogueError, CatalogueUnavailableError: it cannot be told.
        """
        today = self._now().date()
        asked = {"channel": channel, "platform": platform}
        of_whom = {name: value for name, value in asked.items() if value is not None}
        kept, seen = (today - timedelta(days=days) for days in (KEPT_DAYS, SEEN_DAYS))
        is_check = counts.c.event == Event.CHECKED.value
        events = (
            select(counts.c.version, counts.c.event, func.sum(counts.c.count))
            .where(counts.c.day > kept, or_(~is_check, counts.c.day > seen))
            .where(*(counts.c[name] == value for name, value in of_whom.items()))
            .group_by(counts.c.version, counts.c.event)
        )
        running = (
            select(installations.c.version, func.count())
            .where(installations.c.seen > seen)
            .where(*(installations.c[name] == value for name, value in of_whom.items()))
            .group_by(installations.c.version)
        )
        with self._catalogue.writing() as connection:
            told = Counter({(version, event): int(sum_) for version, event, sum_ in connection.execute(events)})
            there = {version: int(count) for version, count in connection.execute(running)}
        return _in_field(told, there)

    def _remember(self, connection: Connection, batch: Batch, today: date) -> bool:
        """Remember a batch if there is room; return False if it was counted before."""
        if self._room[batches].take(connection):
            return insert(connection, batches, {"batch": batch.batch, "day": today})
        return connection.scalar(select(batches.c.day).where(batches.c.batch == batch.batch)) is None

    def _count(self, connection: Connection, row: dict[str, object], number: int) -> None:
        if not add_if_there(connection, counts, row, "count", number):
            if not self._room[counts].take(connection):
                row |= {"version": OTHER, "platform": OTHER, "channel": OTHER}
            add(connection, counts, row, "count", number)

    def _pause(self, tallies: list[Tally], now: datetime) -> None:
        for each in tallies:
            release = pause(self._catalogue, each, now)
            if release is not None:
                channel = each.placement.channel
                signals.emit(signals.rollout_paused, self, release=release, channel=channel, why=str(each))

    def _prune(self, today: date) -> None:
        """Once a day, forget what is too old to be of interest; if that does not go now, then another day."""
        if self._pruned == today:
            return
        self._pruned = today
        kept, repeated = (today - timedelta(days=days) for days in (KEPT_DAYS, SEEN_DAYS))
        oldest = (
            (batches.c.day, repeated),
            (counts.c.day, kept),
            (outcomes.c.day, kept),
            (installations.c.seen, kept),
        )
        try:
            with self._catalogue.writing() as connection:
                for column, day in oldest:
                    connection.execute(delete(column.table).where(column <= day))
        except (CatalogueError, CatalogueUnavailableError) as error:
            _log.info("old counts stay for now: %s", error)


def _counted(batch: Batch, snapshot: Snapshot, today: date) -> Iterator[tuple[dict[str, object], int]]:
    """Yield the rows of counts that a batch adds to, and how much, in one order: so no two wait for each other.

    Reports count for their own day, if it is one of the last `SEEN_DAYS`; else the client's clock is not believed, or
    they come late.
    """
    oldest = today - timedelta(days=SEEN_DAYS - 1)
    where = _where(batch, snapshot)
    added = Counter(
        (max(oldest, min(each.at.date(), today)), _version(each.subject, snapshot), each.event.value)
        for each in batch.reports
    )
    for (day, version, event), number in sorted(added.items()):
        yield {"day": day, "version": version, **where, "event": event}, number


def _version(version: Version, snapshot: Snapshot) -> str:
    name = str(version)
    return name if any((name, each) in snapshot.releases for each in snapshot.platforms) else OTHER


def _where(batch: Batch, snapshot: Snapshot) -> dict[str, object]:
    known = batch.platform in KNOWN or batch.platform in snapshot.platforms
    return {
        "platform": batch.platform if known else OTHER,
        "channel": batch.channel if batch.channel in snapshot.channels else OTHER,
    }


def _last_outcome(connection: Connection, batch: Batch) -> str | None:
    """Return the last outcome that an installation told of before, so that it is not counted again; None: not kept."""
    return connection.scalar(select(installations.c.outcome).where(installations.c.id == batch.installation))


def _installation(batch: Batch, snapshot: Snapshot, today: date, outcome: str) -> dict[str, object]:
    version = _version(batch.reports[-1].version, snapshot)
    where = _where(batch, snapshot)
    return {"id": batch.installation, "version": version, **where, "seen": today, "outcome": outcome}


def _in_field(told: Counter[tuple[str, str]], there: dict[str, int]) -> list[InField]:
    versions = {version for version, _ in told} | set(there)
    checks = {version: told[version, Event.CHECKED.value] for version in versions}
    presence = there or checks
    total = sum(presence.values())
    found = [
        InField(
            version=version,
            installations=there.get(version, 0),
            checks=checks[version],
            share=presence.get(version, 0) / total if total else 0.0,
            downloaded=told[version, Event.DOWNLOADED.value],
            staged=told[version, Event.STAGED.value],
            running=told[version, Event.RUNNING.value],
            failed=told[version, Event.FAILED.value],
            rolled_back=told[version, Event.ROLLED_BACK.value],
            patch_failed=told[version, Event.PATCH_FAILED.value],
        )
        for version in versions
    ]
    return sorted(found, key=lambda each: (-each.share, -each.checks, each.version))

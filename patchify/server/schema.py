"""The tables that hold the releases, and how a release becomes rows and rows a release."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    select,
)

from patchify.forms import Forms
from patchify.releases import Placement, Release, ReleaseState, Schedule
from patchify.versions import parse_version

metadata = MetaData()

catalogue = Table(
    "catalogue",
    metadata,
    Column("id", Integer, primary_key=True),  # there is one row
    Column("revision", BigInteger, nullable=False),
)

releases = Table(
    "releases",
    metadata,
    Column("version", String(256), primary_key=True),
    Column("platform", String(40), primary_key=True),
    Column("format", String(16), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("notes", Text, nullable=False),
    Column("published", BigInteger),  # times are seconds since 1970, which no database and no driver bends
    Column("critical", Boolean, nullable=False),
    Column("floor", String(256)),
    Column("forms", Text, nullable=False, server_default="{}"),  # JSON of `patchify.forms.Forms`
)

placements = Table(
    "placements",
    metadata,
    Column("version", String(256), primary_key=True),
    Column("platform", String(40), primary_key=True),
    Column("channel", String(40), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Column("rollout", Text, nullable=False),
    Column("seed", String(64), nullable=False),
    Column("pause_above", Integer),
    Column("pause_after", Integer, nullable=False),
    Column("why", Text, nullable=False),
    ForeignKeyConstraint(["version", "platform"], ["releases.version", "releases.platform"], ondelete="CASCADE"),
)

_joined = releases.outerjoin(placements)
ALL = (
    select(releases, *(each.label(f"placement_{each.name}") for each in placements.c))
    .select_from(_joined)
    .order_by(releases.c.version, releases.c.platform, placements.c.channel)
)
"""Selects every release with its placements, as `to_releases` takes them."""


def of_release(release: Release) -> dict[str, Any]:
    """Return the row of a release."""
    return {
        "version": str(release.version),
        "platform": release.platform,
        "format": release.format,
        "size": release.size,
        "sha256": release.sha256,
        "notes": release.notes,
        "published": None if release.published is None else _seconds(release.published),
        "critical": release.critical,
        "floor": None if release.floor is None else str(release.floor),
        "forms": json.dumps(release.forms.to_json(), separators=(",", ":")),
    }


def of_placements(release: Release) -> Iterator[dict[str, Any]]:
    """Yield the rows of the placements of a release."""
    for each in release.placements:
        yield {
            "version": str(release.version),
            "platform": release.platform,
            "channel": each.channel,
            "state": each.state.value,
            "since": _seconds(each.since),
            "changed": _seconds(each.changed),
            "rollout": str(each.schedule),
            "seed": each.seed,
            "pause_above": each.pause_above,
            "pause_after": each.pause_after,
            "why": each.why,
        }


def to_releases(rows: Iterable[Row[Any]]) -> Iterator[Release]:
    """Yield the releases that the rows of `ALL` are. Raises `ValueError`, `TypeError` for what was not written here."""
    for _, members in groupby(rows, key=lambda row: (row.version, row.platform)):
        found = list(members)
        first = found[0]
        yield Release(
            version=parse_version(first.version),
            sha256=first.sha256,
            size=first.size,
            platform=first.platform,
            format=first.format,
            notes=first.notes,
            published=None if first.published is None else _time(first.published),
            critical=first.critical,
            floor=None if first.floor is None else parse_version(first.floor),
            placements=tuple(_placement(row) for row in found if row.placement_channel is not None),
            forms=Forms.from_json(json.loads(first.forms)),
        )


def _placement(row: Row[Any]) -> Placement:
    return Placement(
        channel=row.placement_channel,
        state=ReleaseState(row.placement_state),
        since=_time(row.placement_since),
        changed=_time(row.placement_changed),
        schedule=Schedule.parse(row.placement_rollout),
        seed=row.placement_seed,
        pause_above=row.placement_pause_above,
        pause_after=row.placement_pause_after,
        why=row.placement_why,
    )


def _seconds(time: datetime) -> int:
    return int(time.timestamp())


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)

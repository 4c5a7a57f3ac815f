"""Releases as people read them on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from patchify.releases import Placement, Release, ReleaseState

_HEADINGS = ("VERSION", "PLATFORM", "CHANNEL", "STATE", "OFFERED TO", "FORMAT", "SIZE", "PUBLISHED")
_TIME = "%Y-%m-%d %H:%M"
_UNIT = 1024


def releases_table(releases: Iterable[Release], now: datetime, channel: str | None = None) -> str:
    """Return a table with a line for each place of a release in a channel, or only in the one that is named."""
    rows = [
        (
            f"{each.version}{'!' if each.critical else ''}",
            each.platform,
            placement.channel,
            placement.state.value,
            _offered(each, placement, now) if placement.state is ReleaseState.LIVE else "-",
            each.format,
            spelled_size(each.size),
            each.published.strftime(_TIME) if each.published else "-",
        )
        for each in releases
        for placement in each.placements
        if channel in (None, placement.channel)
    ]
    return columns([_HEADINGS, *rows])


def release_details(release: Release, now: datetime) -> str:
    """Return all that is known of a release, a line for each fact, and its notes at the end."""
    facts = [
        ("version", str(release.version)),
        ("platform", release.platform),
        ("format", release.format),
        ("size", f"{release.size} bytes ({spelled_size(release.size)})"),
        ("SHA-256", release.sha256),
        *_forms(release),
        ("published", release.published.strftime(f"{_TIME} UTC") if release.published else "-"),
        ("critical", "yes: offered to everybody at once" if release.critical else "no"),
        ("floor", f"{release.floor}: older versions go there first" if release.floor else "none"),
        *((f"in {each.channel}", ", ".join(_standing(release, each, now))) for each in release.placements),
    ]
    return "\n".join([columns(facts), *(["", release.notes.strip()] if release.notes.strip() else [])])


def columns(rows: Iterable[tuple[str, ...]]) -> str:
    """Return rows as lines, each column as wide as its longest entry."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def spelled_size(size: int) -> str:
    """Return a number of bytes with three digits or so."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB"):
        if amount < _UNIT:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= _UNIT
    return f"{amount:.1f} GiB"


def _standing(release: Release, placement: Placement, now: datetime) -> Iterator[str]:
    if placement.state is ReleaseState.LIVE:
        yield f"live since {placement.since.strftime(_TIME)} UTC"
        yield f"offered to {_offered(release, placement, now)}"
    else:
        yield f"{placement.state.value} since {placement.changed.strftime(_TIME)} UTC"
        yield f"rollout {placement.schedule}"
    if placement.pause_above is not None:
        yield f"pauses above {placement.pause_above} % of failures, after {placement.pause_after} outcomes"
    if placement.why:
        yield f"because: {placement.why}"


def _forms(release: Release) -> Iterator[tuple[str, str]]:
    """Yield what is known of the forms that clients load instead of the whole."""
    if (compressed := release.forms.compressed) is not None:
        yield "compressed", f"{compressed.size} bytes ({spelled_size(compressed.size)})"
    if sizes := [each.size for each in release.forms.patches]:
        yield "patches", f"{len(sizes)}, of {spelled_size(min(sizes))} at least; `patchify patches` lists them"


def _offered(release: Release, placement: Placement, now: datetime) -> str:
    """Return whom a live release is offered to, and what comes next."""
    if release.critical:
        return "100%"
    percent = placement.percent(now)
    step = placement.next_step(now)
    if step is None:
        return f"{percent}%"
    return f"{percent}%, {placement.schedule.percent(step - placement.since)}% at {step.strftime(_TIME)}"

"""The command that writes all that clients need as static files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from patchify.publishing.command_line import PLATFORM, Command, bar, here, json_option, print_json
from patchify.publishing.destination import Destination
from patchify.publishing.tables import columns, spelled_size
from patchify.releases import now, spell_time

if TYPE_CHECKING:
    from patchify.publishing.export import Outcome
    from patchify.publishing.export_plan import Plan

_LONGEST_LIFE = 24 * 366  # hours
_TIME = "%Y-%m-%d %H:%M UTC"


@click.command(cls=Command)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--life",
    type=click.IntRange(1, _LONGEST_LIFE),
    metavar="HOURS",
    help="How long the documents are to be believed. Default: document_life of the settings, which is a week.",
)
@click.option(
    "--platform", "platforms", type=PLATFORM, multiple=True, help="Also for this platform; may be given repeatedly."
)
@click.option("--full", is_flag=True, help="Hash the files that are there already, and replace those that are damaged.")
@click.option("--prune", is_flag=True, help="Remove what was last named by documents that expired a day ago.")
@json_option
@here
def export(
    destination: Destination,
    *,
    folder: Path,
    life: int | None,
    platforms: tuple[str, ...],
    full: bool,
    prune: bool,
    as_json: bool,
) -> None:
    """Write all that clients need into DIR as static files, for a CDN or an object store that runs no Python.

    DIR is new, empty, or an earlier export, which is brought up to date; it may be served meanwhile. A client has the
    address of DIR as its API. Only clients that ask for update documents can use it: the answers of the original
    protocol, latest and hashes, need a header.

    The documents expire. Run this again before, best every day by cron, and after each publication. A rollout does
    not widen by itself either, and there is nobody to take reports: the share is that of the time of the export.

    For an object store, upload files/ first and updates/ then, and leave .patchify-export out. Headers: for updates/
    Cache-Control: max-age=300, for files/ max-age=31536000, immutable; any Content-Type; no Content-Encoding, which
    must not be applied on the way either.
    """
    from patchify.publishing.export import Export  # noqa: PLC0415 - needs the server's half, which may not be installed
    from patchify.publishing.export_plan import plan  # noqa: PLC0415

    core = destination.core()
    time = now()
    planned = plan(core, time, life=life, platforms=platforms)
    with bar("exporting", planned.size) as progress:
        outcome = Export(folder, core.storage).write(planned, time, full=full, prune=prune, progress=progress)
    if as_json:
        print_json(_as_json(folder, planned, outcome))
    else:
        click.echo(_as_text(planned, outcome))


def _as_json(folder: Path, planned: Plan, outcome: Outcome) -> dict[str, object]:
    return {
        "folder": str(folder),
        "documents": len(planned.documents),
        "written": outcome.written,
        "files": len(planned.files),
        "bytes": planned.size,
        "linked": outcome.linked,
        "copied": outcome.copied,
        "added_bytes": outcome.added,
        "removed": outcome.removed,
        "good_until": spell_time(planned.expires),
        "next_step": planned.next_step and spell_time(planned.next_step),
    }


def _as_text(planned: Plan, outcome: Outcome) -> str:
    rows = [
        ("documents", str(len(planned.documents)), f"{outcome.written} written"),
        (
            "files",
            f"{len(planned.files)}, {spelled_size(planned.size)}",
            f"{outcome.linked} linked, {outcome.copied} copied, {spelled_size(outcome.added)}",
        ),
        ("removed", str(len(outcome.removed)), ""),
    ]
    lines = [columns(rows), f"good until {planned.expires.strftime(_TIME)}: export again well before"]
    if planned.next_step is not None:
        lines.append(f"a rollout widens at {planned.next_step.strftime(_TIME)}: export again then")
    return "\n".join(lines)

"""The command that prints which versions are in the field, and how they do there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from patchify.errors import ConfigError
from patchify.publishing.command_line import CHANNEL, PLATFORM, Command, here, json_option, print_json
from patchify.publishing.destination import Destination
from patchify.publishing.tables import columns

if TYPE_CHECKING:
    from patchify.server.fleet import InField

_HEADINGS = (
    "VERSION",
    "INSTALLATIONS",
    "CHECKS",
    "SHARE",
    "DOWNLOADED",
    "STAGED",
    "RUNNING",
    "FAILED",
    "ROLLED BACK",
    "PATCH FAILED",
)


@click.command(cls=Command)
@click.option("--channel", type=CHANNEL, help="Only programs that follow this channel.")
@click.option("--platform", type=PLATFORM, help="Only programs that run on this platform.")
@json_option
@here
def fleet(destination: Destination, channel: str | None, platform: str | None, as_json: bool) -> None:
    """Print the versions in the field, as programs report them: their share, and how their updates went.

    INSTALLATIONS and CHECKS are those of the last 7 days, all else is what was reported in the last 90.
    """
    catalogue = destination.catalogue()
    from patchify.server.fleet import Fleet  # noqa: PLC0415 - SQLAlchemy is not for everybody
    from patchify.server.sql_catalogue import SqlCatalogue  # noqa: PLC0415

    if not isinstance(catalogue, SqlCatalogue):
        raise ConfigError("PATCHIFY_CATALOGUE", "is no database, and only there reports are counted")
    found = Fleet(catalogue).versions(channel, platform)
    if as_json:
        print_json([each.to_json() for each in found])
    elif found:
        click.echo(columns([_HEADINGS, *map(_row, found)]))
    else:
        click.echo("nothing was reported; is PATCHIFY_REPORTS on, and Config.reports in the programs?")


def _row(found: InField) -> tuple[str, ...]:
    numbers = (found.downloaded, found.staged, found.running, found.failed, found.rolled_back, found.patch_failed)
    share = f"{found.share:.1%}"
    return (found.version, str(found.installations), str(found.checks), share, *map(str, numbers))

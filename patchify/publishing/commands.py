"""The commands that publish releases and steer them, on this machine or over the network.

They are in one group, which `patchify.__main__` puts into the program ``patchify``. Exit statuses and options that they
share are in `patchify.publishing.command_line`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from semver import Version

from patchify.errors import NotPublishedError
from patchify.publishing import upkeep_commands
from patchify.publishing.command_line import (
    CHANNEL,
    NOTES,
    PLATFORM,
    SCHEDULE,
    VERSION,
    Command,
    bar,
    here_or_there,
    json_option,
    platform_option,
    print_json,
    version_argument,
)
from patchify.publishing.destination import Destination, is_editable
from patchify.publishing.fleet_command import fleet
from patchify.publishing.publisher import PAUSE_AFTER, Publication
from patchify.publishing.tables import release_details, releases_table
from patchify.releases import EVERYBODY, STABLE, Release, Schedule, now

_channel_option = click.option("--channel", type=CHANNEL, help="Only in this channel. Default: in all of them.")
_why_option = click.option("--why", default="", help="The reason, to be shown with the release.")


@click.group
def publishing() -> None:
    """Publish releases and steer them."""


for _command in (*upkeep_commands.COMMANDS, fleet):
    publishing.add_command(_command)


@publishing.command(cls=Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--version", type=VERSION, required=True, help="Its SemVer version.")
@click.option("--channel", type=CHANNEL, default=STABLE, show_default=True, help="Where to publish it.")
@click.option("--platform", type=PLATFORM, default="any", show_default=True, help="What it was built for.")
@click.option("--notes", type=NOTES, default="", help="What is new, Markdown; @FILE takes it from a file.")
@click.option("--critical", is_flag=True, help="Offer it to everybody at once, whatever the rollout.")
@click.option("--floor", type=VERSION, help="The oldest version that may go straight to it; older ones go there first.")
@click.option("--rollout", type=SCHEDULE, default=str(EVERYBODY), help="Whom to offer it to: 10, or 10,50@1d,100@3d.")
@click.option("--pause-above", type=click.IntRange(0, 99), help="Pause it above so many per cent of failures.")
@click.option("--pause-after", type=click.IntRange(1), default=PAUSE_AFTER, help="But not before so many outcomes.")
@click.option("--draft", is_flag=True, help="Let nobody see it until it is resumed.")
@click.option("--force", is_flag=True, help="Publish it although a higher version is live.")
@json_option
@here_or_there
def publish(destination: Destination, file: Path, rollout: Schedule, as_json: bool, **said: Any) -> None:
    """Publish FILE as a release: a program, or a tar archive of its folder.

    The same file may be published again, also in another channel; other bytes need another version.
    """
    publication = Publication(schedule=rollout, **said)
    publisher = destination.publisher()
    with bar("publishing", file.stat().st_size) as progress:
        release = publisher.publish(file, publication, progress)
    if as_json:
        print_json(release.to_json())
    else:
        click.echo(releases_table([release], now(), publication.channel))


@publishing.command("list", cls=Command)
@click.option("--channel", type=CHANNEL, help="Only what is in this channel.")
@platform_option
@json_option
@here_or_there
def list_releases(destination: Destination, channel: str | None, platform: str | None, as_json: bool) -> None:
    """Print the releases, newest first.

    A ! marks what is critical. Releases that stand in the configuration of --app are printed with hash and file.
    """
    if not destination.is_configured() and _listed_by_configuration(destination, as_json=as_json):
        return
    found = [
        each
        for each in destination.publisher().releases()
        if platform in (None, each.platform) and (channel is None or each.placed(channel))
    ]
    if as_json:
        print_json([each.to_json() for each in found])
    else:
        click.echo(releases_table(found, now(), channel))


def _listed_by_configuration(destination: Destination, *, as_json: bool) -> bool:
    """List the releases of an application whose catalogue is its configuration; return whether it was one."""
    from patchify.server import commands  # noqa: PLC0415 - it needs Flask

    core = commands.load_core(destination.app)
    if is_editable(core.catalogue):
        return False
    commands.print_releases(core, as_json=as_json)
    return True


@publishing.command(cls=Command)
@version_argument
@platform_option
@json_option
@here_or_there
def show(destination: Destination, version: Version, platform: str | None, as_json: bool) -> None:
    """Print all that is known of the builds of VERSION."""
    found = [
        each
        for each in destination.publisher().releases()
        if str(each.version) == str(version) and platform in (None, each.platform)
    ]
    if not found:
        raise NotPublishedError(str(version), "here" if platform is None else f"for {platform}")
    if as_json:
        print_json([each.to_json() for each in found])
    else:
        click.echo("\n\n".join(release_details(each, now()) for each in found))


@publishing.command(cls=Command)
@version_argument
@click.argument("source", type=CHANNEL)
@click.argument("target", type=CHANNEL)
@platform_option
@click.option("--rollout", type=SCHEDULE, default=str(EVERYBODY), help="Whom to offer it to: 10, or 10,50@1d,100@3d.")
@click.option("--force", is_flag=True, help="Promote it although a higher version is live there.")
@json_option
@here_or_there
def promote(
    destination: Destination, version: Version, target: str, rollout: Schedule, as_json: bool, **how: Any
) -> None:
    """Offer VERSION, which is live in the channel SOURCE, in the channel TARGET, too."""
    changed = destination.publisher().promote(version, target=target, schedule=rollout, **how)
    _tell(changed, target, as_json=as_json)


@publishing.command(cls=Command)
@version_argument
@click.argument("schedule", type=SCHEDULE)
@click.option("--channel", type=CHANNEL, default=STABLE, show_default=True, help="In which channel.")
@platform_option
@click.option("--pause-above", type=click.IntRange(0, 99), help="Pause it above so many per cent of failures.")
@json_option
@here_or_there
def rollout(
    destination: Destination, version: Version, channel: str, schedule: Schedule, as_json: bool, **how: Any
) -> None:
    """Offer VERSION to a share of the clients from now on: a percentage, or a SCHEDULE such as 10,50@1d,100@3d."""
    changed = destination.publisher().rollout(version, channel, schedule, **how)
    _tell(changed, channel, as_json=as_json)


@publishing.command(cls=Command)
@version_argument
@_channel_option
@platform_option
@_why_option
@json_option
@here_or_there
def pause(destination: Destination, version: Version, as_json: bool, **where: Any) -> None:
    """Offer VERSION no longer for now; who has it keeps it."""
    _tell(destination.publisher().pause(version, **where), where["channel"], as_json=as_json)


@publishing.command(cls=Command)
@version_argument
@_channel_option
@platform_option
@_why_option
@json_option
@here_or_there
def resume(destination: Destination, version: Version, as_json: bool, **where: Any) -> None:
    """Offer VERSION again after a pause, or for the first time if it is a draft."""
    _tell(destination.publisher().resume(version, **where), where["channel"], as_json=as_json)


@publishing.command(cls=Command)
@version_argument
@_channel_option
@platform_option
@_why_option
@json_option
@here_or_there
def withdraw(destination: Destination, version: Version, as_json: bool, **where: Any) -> None:
    """Never offer VERSION again, and tell clients that have it to leave it."""
    _tell(destination.publisher().withdraw(version, **where), where["channel"], as_json=as_json)


def _tell(changed: list[Release], channel: str | None, *, as_json: bool) -> None:
    if as_json:
        print_json([each.to_json() for each in changed])
    elif changed:
        click.echo(releases_table(changed, now(), channel))
    else:
        click.echo("nothing to change: it is as asked for already")

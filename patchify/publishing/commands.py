"""The commands that publish releases and steer them, on this machine or over the network.

They are in one group, which `patchify.__main__` puts into the program ``patchify``. Exit statuses and options that they
share are in `patchify.publishing.command_line`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from semver import Version

from patchify.errors import NotPublishedError, PartlyRefusedError
from patchify.platforms import KNOWN
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
from patchify.publishing.export_command import export
from patchify.publishing.fleet_command import fleet
from patchify.publishing.patches_command import patches
from patchify.publishing.publisher import MOST_PAUSE_AFTER, Publication, Publisher
from patchify.publishing.stones import missing_since
from patchify.publishing.tables import release_details, releases_table
from patchify.releases import STABLE, Release, Schedule, now

_channel_option = click.option("--channel", type=CHANNEL, help="Only in this channel. Default: in all of them.")
_rollout_option = click.option(
    "--rollout", type=SCHEDULE, help="Whom to offer it to: 10, or 10,50@1d,100@3d. Default: everybody."
)
_pause_above_option = click.option(
    "--pause-above", type=click.IntRange(0, 99), help="Pause it above so many per cent of failures."
)
_why_option = click.option("--why", default="", help="The reason, to be shown with the release.")


@click.group
def publishing() -> None:
    """Publish releases and steer them."""


for _command in (*upkeep_commands.COMMANDS, export, fleet, patches):
    publishing.add_command(_command)


@publishing.command(cls=Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--version", type=VERSION, required=True, help="Its SemVer version.")
@click.option("--channel", type=CHANNEL, default=STABLE, show_default=True, help="Where to publish it.")
@click.option("--platform", type=PLATFORM, default="any", show_default=True, help="What it was built for.")
@click.option("--notes", type=NOTES, default="", help="What is new, Markdown; @FILE takes it from a file.")
@click.option(
    "--critical/--no-critical", default=None, help="Offer it to everybody at once, whatever the rollout. Default: no."
)
@click.option("--floor", type=VERSION, help="The oldest version that may go straight to it; 0.0.0: all. Default: all.")
@_rollout_option
@_pause_above_option
@click.option(
    "--pause-after", type=click.IntRange(1, MOST_PAUSE_AFTER), help="But not before so many outcomes. Default: 20."
)
@click.option("--draft", is_flag=True, help="Let nobody see it until it is resumed.")
@click.option("--force", is_flag=True, help="Publish it although a higher version is live, or its floor out of reach.")
@json_option
@here_or_there
def publish(destination: Destination, file: Path, rollout: Schedule | None, as_json: bool, **said: Any) -> None:
    """Publish FILE as a release: a program, or a tar archive of its folder.

    The same file may be published again, also in another channel; other bytes need another version. Notes, --critical
    and --floor then change where they are given; the latter two hold in all channels, and need --force if there are
    others. Another rollout is refused: patchify rollout changes it.
    """
    publication = Publication(schedule=rollout, **said)
    publisher = destination.publisher()
    _tell_of_new_names(publisher, publication)
    with bar("publishing", file.stat().st_size) as progress:
        release = publisher.publish(file, publication, progress)
    if as_json:
        print_json(release.to_json())
    else:
        click.echo(releases_table([release], now(), publication.channel))


def _tell_of_new_names(publisher: Publisher, publication: Publication) -> None:
    """Tell of a channel and a platform that nobody has published to: it may be a slip of the hand."""
    before = publisher.releases()
    if before and not any(each.placed(publication.channel) for each in before):
        click.echo(f"note: the channel {publication.channel!r} is new", err=True)
    if publication.platform not in KNOWN and publication.platform not in {each.platform for each in before}:
        known = ", ".join(KNOWN)
        click.echo(f"note: the platform {publication.platform!r} is new, and none of {known}", err=True)


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
@_rollout_option
@click.option("--force", is_flag=True, help="Promote it although a higher version is live, or its floor out of reach.")
@json_option
@here_or_there
def promote(
    destination: Destination, version: Version, target: str, rollout: Schedule | None, as_json: bool, **how: Any
) -> None:
    """Offer VERSION, which is live in the channel SOURCE, in the channel TARGET, too.

    Builds for which that makes no sense are left alone; stderr says which, and what was changed. Exit status 1 then.
    """
    changed = destination.publisher().promote(version, target=target, schedule=rollout, **how)
    _tell(changed, target, as_json=as_json)


@publishing.command(cls=Command)
@version_argument
@click.argument("schedule", type=SCHEDULE)
@click.option("--channel", type=CHANNEL, default=STABLE, show_default=True, help="In which channel.")
@platform_option
@_pause_above_option
@json_option
@here_or_there
def rollout(
    destination: Destination, version: Version, channel: str, schedule: Schedule, as_json: bool, **how: Any
) -> None:
    """Offer VERSION to a share of the clients from now on: a percentage, or a SCHEDULE such as 10,50@1d,100@3d.

    Builds for which that makes no sense are left alone; stderr says which, and what was changed. Exit status 1 then.
    """
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
    """Offer VERSION no longer for now; who has it keeps it.

    Where that makes no sense it is left alone; stderr says where, and what was changed. Exit status 1 then.
    """
    publisher = destination.publisher()
    with _warning(publisher, version, where["channel"]):
        changed = publisher.pause(version, **where)
    _tell(changed, where["channel"], as_json=as_json)


@publishing.command(cls=Command)
@version_argument
@_channel_option
@platform_option
@_why_option
@click.option(
    "--force", is_flag=True, help="Let a draft go live although a higher version is, or its floor out of reach."
)
@json_option
@here_or_there
def resume(destination: Destination, version: Version, as_json: bool, **where: Any) -> None:
    """Offer VERSION again after a pause, or for the first time if it is a draft.

    Where that makes no sense it is left alone; stderr says where, and what was changed. Exit status 1 then.
    """
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
    publisher = destination.publisher()
    with _warning(publisher, version, where["channel"]):
        changed = publisher.withdraw(version, **where)
    _tell(changed, where["channel"], as_json=as_json)


@contextmanager
def _warning(publisher: Publisher, version: Version, channel: str | None) -> Iterator[None]:
    """Warn, when what is done in the block is done, of live releases that some clients cannot get to because of it."""
    before = set(missing_since(publisher.releases(), version, channel))
    partly = None
    try:
        yield
    except PartlyRefusedError as error:
        partly = error
    for each in missing_since(publisher.releases(), version, channel):
        if each not in before:
            click.echo(f"Warning: {each}", err=True)
    if partly is not None:
        raise partly


def _tell(changed: list[Release], channel: str | None, *, as_json: bool) -> None:
    if as_json:
        print_json([each.to_json() for each in changed])
    elif changed:
        click.echo(releases_table(changed, now(), channel))
    else:
        click.echo("nothing to change: it is as asked for already")

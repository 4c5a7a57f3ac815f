"""The commands that begin and look after what is published, on the server's machine: init, migrate, verify, prune."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from patchify.errors import ConfigError, PublicationError, StorageUnavailableError
from patchify.files import write_durably
from patchify.publishing.command_line import REFUSED, Command, bar, here, json_option, print_json
from patchify.publishing.destination import SETTINGS, Destination
from patchify.publishing.tables import columns, spelled_size

if TYPE_CHECKING:
    from patchify.publishing.leftovers import Leftover
    from patchify.releases import Release

_SETTINGS = """\
# Settings of the update server and of publishing; paths start at the folder of this file.
PATCHIFY_APPNAME = {name}
PATCHIFY_KEY = "key"
PATCHIFY_RELEASES = "releases"
PATCHIFY_CATALOGUE = "sqlite:///catalogue.db"
"""


@click.command(cls=Command)
@click.argument("name")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="PATCHIFY_CONFIG",
    default=SETTINGS,
    show_default=True,
    help="The file of settings to make; all else comes beside it.",
)
@json_option
def init(name: str, config: Path, as_json: bool) -> None:
    """Begin to publish the application NAME: make a file of settings, a key, a folder for releases and a catalogue.

    If there is a file of settings, nothing is done. A key that is there is kept.
    """
    if os.path.lexists(config):
        raise PublicationError(f"{config} exists already and was left as it is")
    public = _begin(name, config)
    if as_json:
        print_json({"appname": name, "config": str(config), "key": public})
        return
    click.echo(f"public key, for clients: {public}")
    click.echo(f"made {config}. Next: patchify publish FILE --version 1.0.0; gunicorn 'patchify.server:create_app()'")


def _begin(name: str, config: Path) -> str:
    """Make all of it, the file of settings last, and return the public key."""
    from patchify.keys import SigningKey  # noqa: PLC0415 - takes a moment, and other commands need no key
    from patchify.server import Config  # noqa: PLC0415 - may not be installed
    from patchify.server.sql_catalogue import SqlCatalogue  # noqa: PLC0415

    if not name.isprintable():
        raise ConfigError("appname", f"{name!r} is not a name")
    folder = config.absolute().parent
    url = f"sqlite:///{folder / 'catalogue.db'}"
    Config(appname=name, key=SigningKey.generate(), releases=folder / "releases", catalogue=url)  # is all of it right?
    try:
        folder.mkdir(parents=True, exist_ok=True)
        key = SigningKey.load_or_create(folder / "key")
        (folder / "releases").mkdir(exist_ok=True)
        SqlCatalogue(url).upgrade()
        write_durably(config, _SETTINGS.format(name=json.dumps(name, ensure_ascii=False)).encode())
    except OSError as error:
        raise StorageUnavailableError(error.filename or folder, error) from error
    return key.verifying_key.to_hex()


@click.command(cls=Command)
@here
def migrate(destination: Destination) -> None:
    """Bring the catalogue's database to the form that this version of Patchify needs; the releases stay."""
    catalogue = destination.catalogue()
    upgrade = getattr(catalogue, "upgrade", None)
    if upgrade is None:
        raise ConfigError("PATCHIFY_CATALOGUE", "is no database, so that there is nothing to migrate")
    upgrade()
    click.echo("the catalogue is up to date")


@click.command(cls=Command)
@json_option
@here
def verify(destination: Destination, as_json: bool) -> None:
    """Hash the files of all releases and of their forms, and print what is wrong. Exit status 1 if anything is."""
    publisher = destination.local()
    releases = publisher.releases()
    with bar("verifying", sum(size for each in releases for size in _sizes(each))) as progress:
        problems = publisher.verify(progress)
    if as_json:
        print_json({"releases": len(releases), "problems": problems})
    else:
        for problem in problems:
            click.echo(problem)
        click.echo(f"releases: {len(releases)}, problems: {len(problems)}")
    if problems:
        sys.exit(REFUSED)


@click.command(cls=Command)
@click.option(
    "--keep",
    type=click.IntRange(1),
    help="Forget old releases, too, but not the newest so many of each channel and platform that everybody is offered.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be removed.")
@json_option
@here
def prune(destination: Destination, keep: int | None, dry_run: bool, as_json: bool) -> None:
    """Remove the files that nobody needs: of withdrawn releases, of unknown ones, of uploads that were given up.

    Forms that no release has any more go, too: at the next run, if a release that is offered had them until this one,
    as clients may just have been told of them. What a floor makes old clients go to first is always kept, on each
    platform up to a version that everybody is offered, and so are drafts and what is paused.
    """
    print_leftovers(destination.local().prune(keep, dry_run=dry_run), dry_run=dry_run, as_json=as_json)


def print_leftovers(found: list[Leftover], *, dry_run: bool, as_json: bool) -> None:
    """Print what was removed, or would be."""
    if as_json:
        print_json([{"file": str(each.path), "size": each.size, "why": each.why} for each in found])
        return
    if found:
        click.echo(columns((str(each.path), spelled_size(each.size), each.why) for each in found))
    freed = spelled_size(sum(each.size for each in found))
    click.echo(f"files {'to remove' if dry_run else 'removed'}: {len(found)}, {freed}")


def _sizes(release: Release) -> Iterator[int]:
    """Yield the sizes of all files of a release."""
    yield release.size
    yield from (size for _, size in release.forms.files(release.size))


COMMANDS = (init, migrate, verify, prune)
"""All of them."""

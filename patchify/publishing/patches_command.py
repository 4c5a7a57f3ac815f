"""The commands that list, make and remove the forms of releases: `patchify patches`, and below it make and prune."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click
from click.core import ParameterSource
from semver import Version

from patchify.errors import NotPublishedError
from patchify.publishing.command_line import VERSION, Command, here, json_option, print_json
from patchify.publishing.destination import Destination
from patchify.publishing.tables import columns, spelled_size
from patchify.publishing.upkeep_commands import print_leftovers
from patchify.releases import Release

_HEADINGS = ("VERSION", "PLATFORM", "FORM", "SIZE", "OF THE WHOLE")


class _Group(Command, click.Group):
    """A group that is a command as well."""


@click.group(cls=_Group, invoke_without_command=True)
@json_option
@here
@click.pass_context
def patches(ctx: click.Context, destination: Destination, as_json: bool) -> None:
    """Print in which forms releases can be had: whole, compressed, and by which patches from which versions.

    They are made in the background when a release is published, if PATCHIFY_MAKE_FORMS is not false.
    """
    if ctx.invoked_subcommand is not None:
        for name in ("config", "as_json"):
            if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"write --{name.removeprefix('as_')} behind {ctx.invoked_subcommand}")
        return
    releases = list(destination.catalogue().snapshot().releases.values())
    given_up = destination.maker(lambda line: None).given_up()
    versions = {basis[0]: str(each.version) for each in releases if (basis := each.basis) is not None}
    if as_json:
        print_json([_json(each, versions, given_up) for each in releases])
    else:
        click.echo(columns([_HEADINGS, *(row for each in releases for row in _rows(each, versions, given_up))]))


@patches.command(cls=Command)
@click.argument("version", type=VERSION, required=False)
@click.option("--again", is_flag=True, help="Try again what was not worth it, or was given up.")
@here
def make(destination: Destination, version: Version | None, again: bool) -> None:
    """Make the forms that are missing: of VERSION, or of all that clients may be offered.

    A line about each is printed as it is made. Patches are made from the last PATCHIFY_PATCHES live releases before it.
    """
    if version is not None:
        known = destination.catalogue().snapshot().releases
        if not any(name == str(version) for name, _ in known):
            raise NotPublishedError(str(version), "here")
    made = destination.maker(click.echo).make(None if version is None else str(version), again=again)
    click.echo(f"forms made: {made}")


@patches.command(cls=Command)
@click.option("--dry-run", is_flag=True, help="Only print what would be removed.")
@json_option
@here
def prune(destination: Destination, dry_run: bool, as_json: bool) -> None:
    """Forget patches from what is neither live nor paused in any channel, and remove what patchify prune removes.

    The files of patches that are forgotten go at the next run, as clients may just have been told of them.
    """
    print_leftovers(destination.local().prune(patches=True, dry_run=dry_run), dry_run=dry_run, as_json=as_json)


def _rows(release: Release, versions: Mapping[str, str], given_up: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    name = str(release.version), release.platform
    yield (*name, f"whole ({release.format})", spelled_size(release.size), "-")
    forms = release.forms
    if forms.compressed is not None:
        yield (*name, "compressed", spelled_size(forms.compressed.size), _share(forms.compressed.size, release))
    for patch in forms.patches:
        source = versions.get(patch.base, patch.base[:12])
        yield (*name, f"from {source}", spelled_size(patch.size), _share(patch.size, release))
    for what, why in _given_up(release, versions, given_up):
        yield (*name, what, "-", f"not kept: {why}")


def _given_up(release: Release, versions: Mapping[str, str], given_up: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what was given up of a release, and why."""
    for key, why in given_up.items():
        kind, sha256, *base = key.split()
        if sha256 == release.sha256:
            yield (f"from {versions.get(base[0], base[0][:12])}" if base else kind), why


def _json(release: Release, versions: Mapping[str, str], given_up: Mapping[str, str]) -> dict[str, Any]:
    members = release.forms.to_json()
    for patch in members.get("patches", ()):
        patch["version"] = versions.get(patch["from"])
    return {
        "version": str(release.version),
        "platform": release.platform,
        "format": release.format,
        "size": release.size,
        "sha256": release.sha256,
        "forms": members,
        "given_up": dict(_given_up(release, versions, given_up)),
    }


def _share(size: int, release: Release) -> str:
    return f"{100 * size / release.size:.2f} %"

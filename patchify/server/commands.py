"""The commands that publishing takes: ``keygen``, ``hash``, ``check``, ``list``.

They are the blueprint's: ``flask --app … patchify list`` finds them there, and `patchify.__main__` puts the same ones
into a program of their own. ``check`` and ``list`` load the application themselves, so that one which refuses to start
is one line on stderr. What they print for programs goes to stdout alone.

Exit status: 0, all is well; 1, something is wrong with a key, a release, a setting or a file; 2, the command was
called wrongly.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
from flask.cli import NoAppException, ScriptInfo, pass_script_info

from patchify.errors import InvalidVersionError, PatchifyError, ReleaseError, ReleaseInvalidError
from patchify.files import hash_path
from patchify.keys import SigningKey
from patchify.publishing.retention import withdrawn
from patchify.releases import Release
from patchify.server.app import CONFIG_FILE, CONFIG_VARIABLE, create_app
from patchify.server.blueprint import core_of, patchify_bp
from patchify.server.catalogue import PublishedFile
from patchify.server.core import Core
from patchify.versions import parse_version, total_order

_group = patchify_bp.cli
_group.help = "Make keys, hash releases, see whether a server would start."


@_group.command("keygen", with_appcontext=False)
@click.argument("file", required=False, type=click.Path(path_type=Path))
def keygen(file: Path | None) -> None:
    """Make a new key: in FILE, which must not exist, of mode 0600, or on stdout.

    The public half is printed: it is what clients are configured with.
    """
    key = SigningKey.generate()
    public = key.verifying_key.to_hex()
    if file is None:
        click.echo(f"private {key.to_hex()}\npublic  {public}")
        return
    try:
        key.write(file)
    except FileExistsError:
        raise click.ClickException(f"{file} exists already and was left as it is") from None
    except PatchifyError as error:
        raise click.ClickException(str(error)) from error
    click.echo(public)


@_group.command("hash", with_appcontext=False)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def hash_releases(files: tuple[Path, ...]) -> None:
    """Print the lines of the configuration for release FILES, which are named appname-version."""
    versions = [_version_of(path) for path in files]
    twice = [version for version, count in Counter(versions).items() if count > 1]
    if twice:
        raise click.ClickException(f"more than one file is named as version {twice[0]}")
    with _progress(sum(path.stat().st_size for path in files)) as counter:
        hashes = [_hash(path, counter()) for path in files]
    for version, sha256 in zip(versions, hashes, strict=True):
        click.echo(f'"{version}" = "{sha256}"')


@_group.command("check", with_appcontext=False)
@click.option("--full", is_flag=True, help="Hash every file anew, also those that an earlier start has hashed.")
@pass_script_info
def check(info: ScriptInfo, full: bool) -> None:
    """Check the key and every release, as the start of the server does; those of a catalogue are hashed here, too.

    A file that an earlier start or check has hashed, and that nobody has touched since, is not hashed again. What is
    withdrawn everywhere needs no file, and is left out.
    """
    core = _load(info)
    click.echo(f"key: good, public key {core.config.signing_key.verifying_key.to_hex()}")
    releases = [each for each in _newest_first(core) if not withdrawn(each)]
    hashed: Counter[bool] = Counter()
    problems = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for release, (counts, errors) in zip(releases, pool.map(partial(_checked, core, full), releases), strict=True):
            hashed += counts
            problems += len(errors)
            for error in errors:
                click.echo(f"Error: {error}", err=True)
            if not errors:
                click.echo(f"{release}: good, {core.storage.path(release)}")
    core.storage.remember()
    click.echo(f"hashed: {hashed[True]}, remembered: {hashed[False]}")
    if problems:
        sys.exit(1)


def _checked(core: Core, full: bool, release: Release) -> tuple[Counter[bool], list[ReleaseError]]:
    """Check the file of a release and its forms; return how many were hashed and how many not, and what is wrong."""
    hashed: Counter[bool] = Counter()
    errors = []
    for sha256, size in ((release.sha256, release.size), *release.forms.files(release.size)):
        try:
            hashed[core.storage.check_file(PublishedFile(sha256, size, release), anew=full)] += 1
        except ReleaseError as error:
            hashed[True] += isinstance(error, ReleaseInvalidError)
            errors.append(error)
    return hashed, errors


@_group.command("list", with_appcontext=False)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@pass_script_info
def list_releases(info: ScriptInfo, as_json: bool) -> None:
    """Print the releases, newest first: version, bytes, SHA-256, file."""
    print_releases(_load(info), as_json=as_json)


def print_releases(core: Core, *, as_json: bool) -> None:
    """Print the releases, newest first, as a table or as JSON."""
    names = ("version", "size", "sha256", "file")
    rows = [
        (str(release.version), core.storage.size(release), release.sha256, str(core.storage.path(release)))
        for release in _newest_first(core)
    ]
    if as_json:
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2))
        return
    longest = max(len("VERSION"), *(len(row[0]) for row in rows), 0)
    width = max(len("BYTES"), *(len(str(row[1])) for row in rows), 0)
    for version, size, sha256, file in [("VERSION", "BYTES", "SHA-256", "FILE"), *rows]:
        click.echo(f"{version:<{longest}}  {size:>{width}}  {sha256:<64}  {file}")


def command(context: click.Context, name: str, app: str | None) -> click.Command | None:
    """Return a command for the program ``patchify``, which takes the application's name as ``flask`` does.

    Without a name, a file of settings that is there makes the application.
    """
    settings = os.environ.get(CONFIG_VARIABLE) or CONFIG_FILE
    made = app is None and os.path.exists(settings)
    context.obj = ScriptInfo(create_app=lambda: create_app(settings)) if made else ScriptInfo(app_import_path=app)
    return _group.get_command(context, name)


def load_core(app: str | None) -> Core:
    """Load an application by its import path, as ``flask`` does, and return its `Core`; an error becomes one line."""
    return _load(ScriptInfo(app_import_path=app))


def _load(info: ScriptInfo) -> Core:
    """Load the application, which checks everything, and return its `Core`; whatever is wrong becomes one line."""
    try:
        app = info.load_app()
    except PatchifyError as error:
        raise click.ClickException(str(error)) from error
    except NoAppException as error:
        # Flask's message for an import that failed inside the application ends in a traceback.
        reason = f" {error.__context__}" if isinstance(error.__context__, ImportError) else ""
        message = error.format_message().partition("\n")[0].replace("flask --app", "--app")
        if message.startswith("Could not locate"):
            message = f"there is no {CONFIG_FILE}: patchify init NAME makes one; or name an application with --app"
        raise click.ClickException(message + reason) from error
    except SystemExit:
        sys.exit(1)  # the application has said what is wrong, and given up in its own way
    try:
        return core_of(app)
    except KeyError as error:
        raise click.ClickException(f"the application {app.name} has not registered patchify_bp") from error


def _newest_first(core: Core) -> list[Release]:
    releases = core.catalogue.snapshot().releases.values()
    return sorted(releases, key=lambda release: total_order(release.version), reverse=True)


def _hash(path: Path, progress: Callable[[int], None] | None) -> str:
    try:
        return hash_path(path, progress)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be read: {error.strerror}") from error


def _version_of(path: Path) -> str:
    """Return the version in a release's file name: the longest end of it, after a hyphen, that is one."""
    end = path.name
    while end := end.partition("-")[2]:
        try:
            return str(parse_version(end))
        except InvalidVersionError:
            continue
    raise click.ClickException(f"{path} is not named appname-version, as my-app-1.0.0 is")


@contextmanager
def _progress(size: int) -> Iterator[Callable[[], Callable[[int], None] | None]]:
    """Show a bar on stderr if it is a terminal; give a function that returns the progress callable of the next file."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    bar: Any
    with click.progressbar(length=size, file=sys.stderr, label="hashing") as bar:

        def counter() -> Callable[[int], None]:
            before = bar.pos

            def count(done: int) -> None:
                bar.update(before + done - bar.pos)

            return count

        yield counter

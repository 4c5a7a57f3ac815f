"""What the commands of publishing have in common: exit statuses, options, and how they speak.

Exit status: 0, it is done; 1, it was refused, and nothing was changed but what stderr says; 2, the command was called
wrongly; 3, it could not be done now, and the same command may succeed later; 130, Ctrl-C. What programs read goes to
stdout, all else to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from patchify.errors import PatchifyError, UnavailableError
from patchify.files import Progress
from patchify.platforms import parse_platform
from patchify.publishing.destination import Destination
from patchify.releases import Schedule, parse_channel
from patchify.versions import parse_version

REFUSED = 1
UNAVAILABLE = 3
INTERRUPTED = 130  # as a shell has it


class Command(click.Command):
    """A command whose errors are one line and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted; the same command goes on from there", err=True)
            ctx.exit(INTERRUPTED)
        except UnavailableError as error:
            raise _Unavailable(str(error)) from error
        except PatchifyError as error:
            raise click.ClickException(str(error)) from error


class _Unavailable(click.ClickException):
    exit_code = UNAVAILABLE


if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # before click 8.2 it takes no argument


class _Parsed(_ParamType):
    """What a function makes of a text, which raises `ValueError` if it is wrong."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what ``value`` is read as."""
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _read_notes(text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{text[1:]} cannot be read: {error}") from error


VERSION = _Parsed("version", parse_version)
CHANNEL = _Parsed("channel", parse_channel)
PLATFORM = _Parsed("platform", parse_platform)
SCHEDULE = _Parsed("schedule", Schedule.parse)
NOTES = _Parsed("notes", _read_notes)

version_argument = click.argument("version", type=VERSION)
platform_option = click.option("--platform", type=PLATFORM, help="Only the build for this platform.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


_config = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="PATCHIFY_CONFIG",
    help="The file of settings. Default: PATCHIFY_CONFIG, else patchify.toml here.",
)
_to = click.option("--to", metavar="URL", help="Do it on the server with this update API, over the network.")
_token_file = click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Holds the token for --to. Default: the token is in PATCHIFY_TOKEN.",
)


def here(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say where the catalogue is on this machine, as its first argument."""
    return _config(_given_destination(function))


def here_or_there(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say where to publish, here or over the network, as its first argument."""
    return _to(_token_file(here(function)))


def _given_destination(function: Callable[..., None]) -> Callable[..., None]:
    @click.pass_context
    @wraps(function)
    def command(
        ctx: click.Context,
        /,
        config: Path | None,
        to: str | None = None,
        token_file: Path | None = None,
        **arguments: Any,
    ) -> None:
        app: str | None = ctx.find_root().params.get("app")
        function(Destination(to, token_file, config, app), **arguments)

    return command


def print_json(value: Any) -> None:
    """Print what programs read."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def bar(label: str, length: int) -> Iterator[Progress | None]:
    """Show a bar on stderr if it is a terminal; give what is to be told of the bytes done."""
    if not sys.stderr.isatty():
        yield None
        return
    shown: Any
    with click.progressbar(length=length, file=sys.stderr, label=label) as shown:
        yield lambda done: shown.update(done - shown.pos)

"""The program ``patchify``, also ``python -m patchify``: the commands of the server, of the client, and to publish.

It stands outside of all of them, and loads those of the command that is called: `patchify run` is there for long, and
has no use for Flask. The commands of a half that is not installed say what to install.
"""

from __future__ import annotations

import importlib

import click

from patchify.errors import MissingExtraError

_CLIENT = ("rollback", "run", "status")
_SERVER = ("check", "hash", "keygen")
_UPKEEP = ("export", "fleet", "init", "migrate", "patches", "prune", "verify")
_PUBLISHING = ("list", "pause", "promote", "publish", "resume", "rollout", "show", "withdraw")


class _Program(click.Group):
    """Finds commands in the halves."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of those that are installed."""
        try:
            importlib.import_module("patchify.server")
        except MissingExtraError:
            return sorted(_CLIENT + _PUBLISHING)  # to a server elsewhere
        return sorted(_CLIENT + _PUBLISHING + _SERVER + _UPKEEP)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, loading its half."""
        if cmd_name in _CLIENT:
            from patchify.client import commands  # noqa: PLC0415 - not for the server's commands

            found: click.Command = getattr(commands, cmd_name)
            return found
        if cmd_name in _PUBLISHING + _UPKEEP:
            from patchify.publishing.commands import publishing  # noqa: PLC0415 - not for the client's commands

            return publishing.get_command(ctx, cmd_name)
        if cmd_name not in _SERVER:
            return None
        try:
            from patchify.server.commands import command  # noqa: PLC0415 - it may not be installed
        except MissingExtraError as error:
            raise click.ClickException(str(error)) from error
        return command(ctx, cmd_name, ctx.params.get("app"))


@click.command("patchify", cls=_Program)
@click.option("-A", "--app", metavar="IMPORT", envvar="FLASK_APP", help="The Flask application that has the releases.")
def program(app: str | None) -> None:
    """Publish releases and steer them; make keys and check a server; run programs and keep them up to date."""


def main() -> None:
    """Run the command line and end the process with its exit status."""
    program(prog_name="patchify")


if __name__ == "__main__":
    main()

"""The commands for a machine that programs are installed on: ``run``, ``status``, ``rollback``.

Exit status of ``status`` and ``rollback``: 0, all is well; 1, there is no installation, it cannot be read or changed,
or an update is under way; 2, the command was called wrongly. That of ``run`` is the program's, see there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import click
from semver import Version

from patchify.client.config import Config, UpdateDocuments
from patchify.client.installer import Installer
from patchify.client.kinds import installer_for
from patchify.client.launcher import Launcher
from patchify.client.plan import Plan
from patchify.client.state import Bad, Phase, Release, State, UnusableStateError, Update, read
from patchify.client.supply import running_version
from patchify.errors import ConfigError, PatchifyError, UpdateInProgressError

_FAILED, _NOT_EXECUTABLE, _NOT_FOUND = 125, 126, 127  # exit statuses of env(1)
_LONGEST = 86_400_000  # seconds
_PHASES = {Phase.STAGED: "ready", Phase.ARMED: "on trial", Phase.RETURNING: "being taken back"}
_RUNNERS = (
    "bash bun dash deno dotnet env gunicorn java lua nice node nohup perl php pypy python ruby sh sudo uvicorn uwsgi"
)
_SAME = (  # options of run that are arguments of Config
    "appname",
    "channel",
    "platform",
    "pin",
    "allow_downgrade",
    "update_documents",
    "reports",
    "report_installation",
)
_NOT_MEANT = frozenset(_RUNNERS.split())  # by a command that begins with it: that is not what is to be updated
_Function = TypeVar("_Function", bound=Callable[..., Any])
_program = click.argument("program", type=click.Path(path_type=Path))


# status and rollback --------------------------------------------------------------------------------------------------


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@_program
def status(program: Path, as_json: bool) -> None:
    """Show where the installation of PROGRAM stands: a file, or a folder or the link to one.

    Exit status 1 if an update is under way: what is shown may have changed by now.
    """
    with _as_one_line():
        installer = _installation(program)
        state = _remembered(installer)
        facts = _facts(installer, state, installer.installed())
        busy = _under_way(installer, state)
    if as_json:
        click.echo(json.dumps({**facts, "under_way": busy or None}, indent=2))
    else:
        for name, value in _lines(facts):
            click.echo(f"{name:<12} {value}")
    if busy:
        raise click.ClickException(busy)


@click.command
@_program
def rollback(program: Path) -> None:
    """Go back to the previous version of PROGRAM, and never try the present one again.

    It is put in place; a program that runs has to be started anew. Exit status 1 if there is no previous version, or an
    update is under way.
    """
    with _as_one_line():
        installer = _installation(program)
        _remembered(installer)
        with installer.lock():
            release = installer.recall()
            given_up = installer.state().untold
    click.echo(f"version {release.version} is in place; it runs when {installer.path} is started the next time")
    if given_up is not None:
        click.echo(f"version {given_up.release.version} is in quarantine and is not tried again")


@contextlib.contextmanager
def _as_one_line() -> Iterator[None]:
    try:
        yield
    except PatchifyError as error:
        raise click.ClickException(str(error)) from error


def _installation(program: Path) -> Installer:
    """Return the installer of a program that has been updated, or kept up to date, before."""
    if not program.exists():
        raise click.ClickException(f"{program}: there is no such file or folder")
    installer = installer_for(program)
    if not installer.folder.is_dir():
        raise click.ClickException(f"{program}: nothing is known of updates; there is no folder {installer.folder}")
    return installer


def _remembered(installer: Installer) -> State:
    try:
        return read(installer.state_path) or State()
    except UnusableStateError as error:
        raise click.ClickException(str(error)) from error


def _under_way(installer: Installer, state: State) -> str:
    """Return what is under way, or nothing."""
    update = state.update
    if update is not None and update.phase is not Phase.STAGED:
        return f"an update is under way: version {update.release.version} is {_PHASES[update.phase]}"
    try:
        with installer.lock():
            return ""
    except UpdateInProgressError as error:
        return f"an update is under way: {error}"


def _facts(installer: Installer, state: State, installed: str) -> dict[str, Any]:
    version = running_version(installer)
    update = state.update
    return {
        "program": str(installer.path),
        "version": version and str(version),
        "sha256": installed,
        "good": state.good and _of_release(state.good),
        "previous": state.previous and _of_release(state.previous),
        "update": update and _of_update(update),
        "quarantined": [_of_bad(bad) for bad in state.bad],
        "checked": state.checked and state.checked.isoformat(),
        "error": state.error or None,
    }


def _of_release(release: Release) -> dict[str, Any]:
    return {"version": str(release.version), "sha256": release.sha256}


def _of_update(update: Update) -> dict[str, Any]:
    return {
        **_of_release(update.release),
        "phase": _PHASES[update.phase],
        "failures": update.failures,
        "tries": update.tries,
        "interruptions": update.interruptions,
        "process": update.process,
        "reason": update.reason or None,
    }


def _of_bad(bad: Bad) -> dict[str, Any]:
    return {**_of_release(bad.release), "reason": bad.reason, "since": bad.at.isoformat()}


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "program", facts["program"]
    yield "version", facts["version"] or "not known: it was never updated, or somebody else has replaced it"
    yield "sha256", facts["sha256"]
    previous, update = facts["previous"], facts["update"]
    yield "previous", f"{previous['version']}  {previous['sha256']}" if previous else "none"
    if update:
        counts = f"{update['failures']} failures, {update['interruptions']} interruptions"
        why = f": {update['reason']}" if update["reason"] else ""
        yield "update", f"{update['version']}  {update['phase']}, {counts}{why}"
    else:
        yield "update", "none"
    for bad in facts["quarantined"]:
        yield "quarantined", f"{bad['version']}  {bad['sha256']}  since {bad['since']}: it {bad['reason']}"
    yield "last check", facts["checked"] or "never"
    yield "last error", facts["error"] or "none"


# run ------------------------------------------------------------------------------------------------------------------


class _WrongCallError(click.UsageError):
    """The command was called wrongly, or with settings that are wrong."""

    exit_code = _FAILED


def _seconds(name: str, least: float, default: float, text: str) -> Callable[[_Function], _Function]:
    """Return an option that is a time, from so many seconds to as long as `Config` allows."""

    def check(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
        if not least <= value <= _LONGEST:  # not a NaN either
            raise click.BadParameter(f"{value:g} is not {least:g} to {_LONGEST} seconds")
        return value

    return click.option(name, type=float, metavar="SECONDS", default=default, callback=check, help=text)


class _RunCommand(click.Command):
    """A command whose own failures have the exit status that env(1) gives its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.ClickException as error:
            raise _WrongCallError(error.format_message(), ctx) from error


def _read_config(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Take the file's values as defaults."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path}: {error}") from error
    names = {option.name for option in ctx.command.params if isinstance(option, click.Option)} - {"config"}
    values = {name.replace("-", "_"): value for name, value in values.items()}
    unknown = sorted(values.keys() - names)
    if unknown:
        raise click.BadParameter(f"{path}: {unknown[0]!r} is no option")
    if not isinstance(values.get("smoke_test", []), list):
        raise click.BadParameter(f"{path}: smoke-test is no list of arguments")
    ctx.default_map = values


@click.command(
    "run",
    cls=_RunCommand,
    context_settings={
        "auto_envvar_prefix": "PATCHIFY_RUN",
        "allow_interspersed_args": False,
        "show_default": True,
        "max_content_width": 100,
    },
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="A TOML file with any of these options: their names without the hyphens in front.",
)
@click.option("--api", metavar="URL", help="The server's API. Without it nothing is updated, only guarded.")
@click.option("--key", metavar="HEX", help="The server's public key.")
@click.option(
    "--version", metavar="SEMVER", help="The version that is installed now; needed until an update has been confirmed."
)
@click.option("--appname", metavar="NAME", help="The application's name.  [default: the first that the server says]")
@click.option("--channel", metavar="NAME", default="stable", help="Which releases it is to get.")
@click.option("--platform", metavar="NAME", help="What it runs on.  [default: found out]")
@click.option("--pin", metavar="RANGE", help="Only these versions: 1.4.2, or >=1.4.0,<2.0.0.")
@click.option("--allow-downgrade", is_flag=True, help="Go back to an older version if the present one is withdrawn.")
@click.option(
    "--update-documents",
    type=click.Choice(get_args(UpdateDocuments)),
    default="auto",
    help="Whether the server must tell of updates in a way that cannot be replayed.",
)
@click.option("--reports", is_flag=True, help="Tell the server how updates went.")
@click.option("--report-installation", is_flag=True, help="Put a random id of this installation into these reports.")
@click.option(
    "--program",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="What is replaced: a file, a folder or the link to one.  [default: the command's first word]",
)
@_seconds("--interval", 1, 3600, "Time between two checks.")
@click.option(
    "--restart",
    type=click.Choice(["on-exit", "at-once", "on-signal"]),
    default="on-exit",
    help="When an update is put in place: before the next start, as soon as it is ready, or at SIGUSR2. The last two "
    "end the program (SIGTERM) and start it anew.",
)
@_seconds("--stop-timeout", 0, 10, "Time from SIGTERM to SIGKILL when it is ended.")
@_seconds("--trial-period", 0, 30, "How long a new version must run well to be confirmed.")
@_seconds("--trial-timeout", 1, 300, "How long that may take.")
@click.option("--tries", type=click.IntRange(0), default=1, help="Failures after which a version is tried again.")
@click.option("--health-url", metavar="URL", help="An address that answers 200 if the program is well.")
@click.option(
    "--smoke-test",
    multiple=True,
    metavar="ARG",
    help="An argument to run a new version with before it is put in place; may be repeated.",
)
@click.option("--keep-running", is_flag=True, help="Start the program again whenever it ends by itself.")
@click.option(
    "--confirm-on-success", is_flag=True, help="A new version that ends by itself with status 0 is confirmed, too."
)
@click.option("-v", "--verbose", is_flag=True, help="Tell of every check.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...], verbose: bool, **options: Any) -> None:
    """Run a program, keep it up to date, and take back a new version that does not prove good.

    COMMAND is the program and its arguments, best after "--". It need not know of Patchify; one that embeds the client
    is guarded, and needs no --api. Signals are passed on, the program's standard streams are those of this command.

    Options may be given by the environment, too: --api as PATCHIFY_RUN_API.

    Exit status: the program's; if a signal has ended it, this command ends by the same. 125: this command was called
    wrongly; 126: the program cannot be executed; 127: it was not found.
    """
    plan = _plan(command, options)
    _log_to_stderr(verbose)
    try:
        ended = Launcher(plan).run()
    except OSError as error:
        click.echo(f"patchify: {command[0]}: {error.strerror}", err=True)
        sys.exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE)
    _end_as(ended)


def _plan(command: tuple[str, ...], options: dict[str, Any]) -> Plan:
    if not hasattr(signal, "sigtimedwait") or not hasattr(os, "posix_spawn"):  # pragma: no cover - Windows, macOS
        raise _WrongCallError("patchify run works on Linux")
    if options["trial_timeout"] <= options["trial_period"]:
        raise _WrongCallError("--trial-timeout must be longer than --trial-period")
    if (options["api"] is None) != (options["key"] is None):
        raise _WrongCallError("--api and --key need each other")
    plan = Plan(
        command=command,
        program=options["program"],
        interval=options["interval"],
        restart=options["restart"],
        stop_timeout=options["stop_timeout"],
        trial_timeout=options["trial_timeout"],
        keep_running=options["keep_running"],
        confirm_on_success=options["confirm_on_success"],
    )
    names = {os.path.basename(path).rstrip(".0123456789") for path in (command[0], os.path.realpath(plan.target))}
    if options["program"] is None and names & _NOT_MEANT:
        raise _WrongCallError(f"say with --program what is to be updated: not {command[0]}, it seems")
    if options["api"] is None:
        return plan
    try:
        version = _version(plan, options["version"])
        config = Config(
            version=version,
            api=options["api"],
            key=options["key"],
            check_interval=timedelta(seconds=options["interval"]),
            automatic="stage",
            executable=plan.target,
            **{name: options[name] for name in _SAME if options[name] is not None},
            health=options["health_url"],
            trial_period=timedelta(seconds=options["trial_period"]),
            trial_timeout=timedelta(seconds=options["trial_timeout"]),
            trial_tries=options["tries"],
            smoke_test=options["smoke_test"] or None,
            guardian=False,
        )
    except ConfigError as error:
        option = {"health": "health-url"}.get(error.key, error.key.replace("_", "-"))
        raise _WrongCallError(f"--{option}: {error.problem}") from error
    return replace(plan, config=config)


def _version(plan: Plan, given: str | None) -> Version | str:
    """Return the version that is installed, as far as it is known."""
    with contextlib.suppress(PatchifyError):
        known = running_version(installer_for(plan.target))
        if known is not None:
            return known
    if given is None:
        raise _WrongCallError("--version is needed: which version of the program is installed?")
    return given


def _log_to_stderr(verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("patchify: %(message)s"))
    log = logging.getLogger("patchify")
    log.addHandler(handler)
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("patchify.client.launcher").setLevel(logging.INFO)


def _end_as(ended: int) -> NoReturn:
    """End as the program did."""
    code = os.waitstatus_to_exitcode(ended)
    if code >= 0:
        sys.exit(code)
    number = -code
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    import resource  # noqa: PLC0415 - Windows has none

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program's core is the one that tells something
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    sys.exit(128 + number)  # the first process of a container is not ended by that

"""The process in the background that makes the forms of what was published, and how it is started.

It belongs to nobody: whoever starts it neither waits for it nor is held up by it, and it has no file, socket or
terminal of theirs. What it is to know, it is told over a pipe, since the URL of a catalogue may hold a password. What
it has to say is in a file among the forms.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from patchify.publishing.making import Limits

if TYPE_CHECKING:
    from patchify.server.config import Config

LOG = "making.log"  # among the forms
WORD = "making.wanted"  # there, too: left by whoever wants some, for the one who makes them
TAKEN = "making.taken"  # that word, while it is followed
MOST_LOG = 256 * 1024  # bytes; then it begins anew
NEXT = "making.next"  # there, too: held by the one process that waits for the one that makes some
_NICENESS = 10
_FIRST_TO_GO = 500  # out of memory, it is ended sooner than a server
_START_WITHIN = 30.0  # seconds

_log = logging.getLogger(__name__)


def starter(config: Config, *, resume: bool = False) -> Callable[[], None]:
    """Return what starts the process for what is published by a configuration: nothing, if it is not to be started.

    A catalogue that is an object, and no URL, cannot be told to another process: then only ``patchify patches make``
    makes forms, or what the program itself does with `patchify.publishing.maker.Maker`.

    Args:
        config: What tells where releases are, and how much is made.
        resume: Whether to start it now if word was left that has not been followed to its end: it may have been ended.
    """
    if not config.make_forms or not isinstance(config.catalogue, str):
        return lambda: None
    told = {
        "catalogue": config.catalogue,
        "folder": str(config.folder),
        "appname": config.appname,
        "limits": asdict(Limits.of(config)),
    }
    if resume and is_unfinished(config.folder):
        _start(told, config.folder)
    return lambda: _start(told, config.folder)


def is_unfinished(folder: Path) -> bool:
    """Return whether somebody has left word for forms of what is in a folder, and they may not all be made."""
    from patchify.server.storage import FORMS  # noqa: PLC0415 - as below

    return any((folder / FORMS / each).exists() for each in (WORD, TAKEN))


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line of a module of this package, in a process of its own."""
    return [_python(), "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Return an environment in which a process finds the modules that this one finds."""
    paths = [os.path.abspath(each) for each in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _python() -> str:
    """Return the interpreter: a server that embeds Python has itself as `sys.executable`."""
    if "python" in os.path.basename(sys.executable or ""):
        return sys.executable
    return os.path.join(sys.prefix, "python.exe" if os.name == "nt" else "bin/python3")


def _start(told: dict[str, Any], folder: Path) -> None:
    """Start the process. That is no reason for a publication to fail, so what goes wrong is only logged."""
    from patchify.server.storage import FORMS  # noqa: PLC0415 - the process imports it when it is on its own

    try:
        with contextlib.ExitStack() as stack:
            output: Any = subprocess.DEVNULL
            with contextlib.suppress(OSError):
                (folder / FORMS).mkdir(exist_ok=True)
                output = stack.enter_context((folder / FORMS / LOG).open("ab"))
            process = subprocess.Popen(
                command(__name__),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment(),
                start_new_session=True,
            )
        if os.name != "posix":  # it does not leave by itself, so nobody waits for it
            assert process.stdin is not None
            with process.stdin:
                process.stdin.write(json.dumps(told).encode())
            return
        with process:
            try:
                process.communicate(json.dumps(told).encode(), _START_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()  # or leaving the block waits for it without end
                raise
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("the forms of releases are not made in the background: %s", error)


def main() -> None:
    """Be the process: read what is told, leave who started it, and make what is missing."""
    told = json.load(sys.stdin)
    if os.name == "posix":
        if os.fork():
            os._exit(0)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for ending in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(ending, signal.SIG_DFL)
        with contextlib.suppress(OSError):
            os.nice(_NICENESS)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(_FIRST_TO_GO), encoding="ascii")
    _make(told)


def _make(told: dict[str, Any]) -> None:
    from filelock import FileLock, Timeout  # noqa: PLC0415 - who started it waits until here

    from patchify.errors import PatchifyError  # noqa: PLC0415
    from patchify.publishing.maker import LOCK, Maker  # noqa: PLC0415
    from patchify.releases import now, spell_time  # noqa: PLC0415
    from patchify.server.sql_catalogue import SqlCatalogue  # noqa: PLC0415
    from patchify.server.storage import FORMS, FolderStorage  # noqa: PLC0415

    def tell(line: str) -> None:
        click.echo(f"{spell_time(now())} {line}")

    try:
        with contextlib.suppress(OSError):
            if os.fstat(1).st_size > MOST_LOG:
                os.ftruncate(1, 0)
        storage = FolderStorage(Path(told["folder"]), told["appname"])
        maker = Maker(SqlCatalogue(told["catalogue"]), storage, Limits(**told["limits"]), tell)
        maker.make_wanted()
        with contextlib.suppress(Timeout), FileLock(storage.folder / FORMS / NEXT, timeout=0, mode=0o600):
            while is_unfinished(storage.folder):  # another one is at it, and may end before it comes to what is wanted
                with FileLock(storage.folder / FORMS / LOCK, mode=0o600):
                    pass
                maker.make_wanted()
    except PatchifyError as error:
        tell(f"Error: {error}")


if __name__ == "__main__":
    main()

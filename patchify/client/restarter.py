"""How the program is started anew: exec, spawn, exit, a gunicorn reload, or the host's own callable.

A restarter gets the `Launch` that was taken when the updater was made. It either does not return, or returns when the
restart is under way by other hands; it raises `OSError` when the new program cannot be started, and then the old one
is put back.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from patchify.errors import UnableToObtainExecutableError

_LEFT_BEHIND = "PATCHIFY_LEFT_BEHIND"  # names the unpacked folder of the PyInstaller program that was replaced
_BUSY_ATTEMPTS, _BUSY_PAUSE = 50, 0.02  # seconds
_NO_PROGRAM = frozenset(getattr(errno, each) for each in ("ENOEXEC", "ELIBBAD") if hasattr(errno, each))
UNSTARTABLE = _NO_PROGRAM | {errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
"""Errors that say of a file that it cannot be executed, now or another time."""
_Started = TypeVar("_Started")


@dataclass(frozen=True)
class Launch:
    """How this process was started: what it takes to start it in the same way again.

    Attributes:
        program: The file that the system runs: the interpreter, or the program itself when frozen.
        arguments: Its arguments, the name it goes by first.
        directory: The working directory.
        blocked: The signals that are blocked.
        pid: The process that this was taken in.
        script: The file among the arguments that the interpreter runs, or nothing.
    """

    program: str
    arguments: tuple[str, ...]
    directory: str
    blocked: frozenset[int]
    pid: int
    script: str = ""

    @classmethod
    def current(cls) -> Launch:
        """Take it from this process, best from its main thread and before anything was changed."""
        frozen = getattr(sys, "frozen", False)
        # The interpreter by its path: by a bare name it would look for itself, and for its packages, along PATH.
        arguments = (sys.executable, *(sys.argv[1:] if frozen else sys.orig_argv[1:]))
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ()) if hasattr(signal, "pthread_sigmask") else ()
        try:
            directory = os.getcwd()
        except OSError:  # it was removed
            directory = os.sep
        script = sys.argv[0] if not frozen and sys.argv and sys.argv[0] in arguments else ""
        return cls(sys.executable, arguments, directory, frozenset(map(int, blocked)), os.getpid(), script)


Restarter = Callable[[Launch], None]


def exec_restart(launch: Launch) -> None:
    """Replace this process by the new program: same PID, arguments, working directory, environment, signal mask."""
    _check(launch)
    _flush()
    with _directory_of(launch), _no_alarms(), _signals_blocked_as(launch):
        os.execve(launch.program, launch.arguments, environment())


def spawn_restart(launch: Launch) -> None:
    """Start the new program as a process of its own and end this one at once: for Windows, which has no exec."""
    _check(launch)
    _flush()
    with _signals_blocked_as(launch):
        subprocess.Popen(launch.arguments, executable=launch.program, cwd=launch.directory, env=environment())
    os._exit(0)


def exit_restart(launch: Launch) -> None:
    """End this program as a supervisor would end it (SIGTERM), for one that starts it again, whatever its status."""
    _flush()
    os.kill(os.getpid(), signal.SIGTERM)


def gunicorn_restart(launch: Launch) -> None:
    """Let the gunicorn master of this worker start new workers and end the old ones gracefully (SIGHUP).

    An application that is a zip archive needs ``importlib.invalidate_caches()`` in gunicorn's ``post_fork`` hook, or
    new workers look for their modules where they stood in the old archive.

    Raises:
        OSError: this is no worker of gunicorn, or its application was loaded before the fork (``preload_app``), so
            that new workers would get the old code.
    """
    os.kill(gunicorn_master(launch), signal.SIGHUP)


def gunicorn_master(launch: Launch) -> int:
    """Return the PID of the gunicorn master that can reload this worker. Raises as `gunicorn_restart`."""
    # The master's handler of a signal that workers do not handle in their own way: they inherit it, and the master with
    # it. The parent alone says nothing: that of the master is a shell or the system's first process.
    arbiter = getattr(signal.getsignal(signal.SIGTTIN), "__self__", None)
    master: int | None = getattr(arbiter, "pid", None)
    if master is None:
        raise OSError("this process is no worker of gunicorn")
    if os.getpid() == master or os.getpid() != launch.pid:
        raise OSError("the application was loaded before the fork: gunicorn reloads it only without preload_app")
    if master != os.getppid():
        raise OSError("the gunicorn master of this worker has ended")
    return master


def default_restarter() -> Restarter:
    """Return the restarter of this platform."""
    return spawn_restart if os.name == "nt" else exec_restart


def running_executable() -> Path:
    """Return the file that this program was started as: a PyInstaller executable, a zipapp or a script.

    Raises:
        UnableToObtainExecutableError: it is not clear, it is a module run with ``python -m``, or it is a launcher that
            pip wrote (such as ``gunicorn``).
    """
    if getattr(sys, "frozen", False):
        return Path(sys.executable)
    path = Path(sys.argv[0] if sys.argv and sys.argv[0] else "-")
    module = getattr(sys.modules["__main__"].__spec__, "name", "__main__")  # a zipapp's is __main__, a script has none
    launcher = Path(sysconfig.get_path("scripts")).resolve() == path.resolve().parent or any(
        importlib.metadata.entry_points(group="console_scripts", name=path.name)
    )
    if not path.is_file() or path.name == "__main__.py" or module != "__main__" or launcher:
        raise UnableToObtainExecutableError(path, "it is no single file of its own; set Config(executable=…)")
    return path


def remove_left_behind() -> None:
    """Remove what the replaced PyInstaller program had unpacked: nobody else does before the last one ends.

    The empty folder stays: the bootloader of the replaced program still waits, and complains if it is gone in the end.
    """
    left = os.environ.pop(_LEFT_BEHIND, None)
    mine = getattr(sys, "_MEIPASS", None)
    if not left or not mine or left == mine or not Path(left).name.startswith("_MEI"):
        return
    with contextlib.suppress(OSError):
        for path in Path(left).iterdir() if Path(left).parent == Path(mine).parent else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def is_supervised(pid: int) -> bool:
    """Return whether systemd or supervisord is known to start a process again when it ends."""
    started = {pid, os.getppid()} if getattr(sys, "frozen", False) else {pid}  # a bootloader, perhaps
    return os.environ.get("SYSTEMD_EXEC_PID") in {str(each) for each in started} or "SUPERVISOR_ENABLED" in os.environ


def release_is_at_fault(error: BaseException, launch: Launch, path: Path) -> bool:
    """Return whether a restart failed because the release is nothing that this system can run.

    That is, the file which the error names belongs to the release, as an interpreter or a working directory need not.

    Args:
        error: Why it failed.
        launch: What was to be started.
        path: Where the release stands.
    """
    if not isinstance(error, OSError) or error.errno not in UNSTARTABLE:
        return False
    named = launch.program if error.filename is None and error.errno in _NO_PROGRAM else error.filename
    if not isinstance(named, str | bytes | os.PathLike):
        return False
    file = os.path.join(launch.directory, os.fsdecode(named))
    # By the folder it is in, too: it may be a link that leads out of the release.
    return lies_within(file, path) or lies_within(os.path.dirname(file), path)


def unless_busy(start: Callable[[], _Started]) -> _Started:
    """Start a program by ``start``, and again for a second if its file is open for writing (`OSError`, ETXTBSY).

    While it was written, another process of ours may have been about to begin, with a copy of the file's descriptor.
    """
    for _ in range(_BUSY_ATTEMPTS):
        try:
            return start()
        except OSError as error:
            if error.errno != errno.ETXTBSY:
                raise
        time.sleep(_BUSY_PAUSE)
    return start()


def lies_within(path: str, program: Path) -> bool:
    """Return whether a path is that of a program, or lies in its folder; links are followed."""
    return f"{os.path.realpath(path)}{os.sep}".startswith(f"{os.path.realpath(program)}{os.sep}")


def _check(launch: Launch) -> None:
    """Raise `OSError` unless there is a program to start."""
    if not launch.program:
        raise OSError("the path of the interpreter is not known")
    if not os.access(launch.program, os.X_OK):
        raise PermissionError(errno.EACCES, "not executable", launch.program)
    if launch.script and not os.path.exists(os.path.join(launch.directory, launch.script)):
        advice = f"not there, seen from {launch.directory}; make the Updater before changing the working directory"
        raise FileNotFoundError(errno.ENOENT, advice, launch.script)


@contextlib.contextmanager
def _directory_of(launch: Launch) -> Iterator[None]:
    """Work in the directory of the start, and go back if the new program could not be started."""
    here = None
    with contextlib.suppress(OSError):
        here = os.getcwd()
    with contextlib.suppress(OSError):
        os.chdir(launch.directory)
    try:
        yield
    finally:
        if here is not None:
            with contextlib.suppress(OSError):
                os.chdir(here)


@contextlib.contextmanager
def _signals_blocked_as(launch: Launch) -> Iterator[None]:
    """Block what was blocked at the start: a new program inherits the mask of the thread that starts it."""
    if not hasattr(signal, "pthread_sigmask"):  # pragma: no cover - Windows has no such mask
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, launch.blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _no_alarms() -> Iterator[None]:
    """Stop interval timers: they survive an exec, the handlers of their signals do not."""
    timers = [getattr(signal, name) for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF")]
    left = [signal.setitimer(timer, 0) for timer in timers]
    try:
        yield
    finally:
        for timer, (delay, interval) in zip(timers, left, strict=True):
            signal.setitimer(timer, delay, interval)


def environment() -> dict[str, str]:
    """Return the environment that a program which is started anew gets: that of this one, without what is its own."""
    environment = dict(os.environ)
    if getattr(sys, "frozen", False):
        # Without this the bootloader takes the new program for a child of the old one and uses its unpacked files.
        environment["PYINSTALLER_RESET_ENVIRONMENT"] = "1"
        environment[_LEFT_BEHIND] = str(getattr(sys, "_MEIPASS", ""))
        for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"):
            original = environment.pop(f"{name}_ORIG", None)
            if original is not None:
                environment[name] = original
            elif str(getattr(sys, "_MEIPASS", "\0")) in environment.get(name, ""):
                del environment[name]
    return environment


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()

"""The guardian: a process that watches a version on trial, and puts the previous one back if it does not prove good.

It is started before the swap, from the code of the version that is replaced, and outlives the exec; it needs nothing of
the program that it watches, and ends with the trial. Where nobody else does, it starts the previous version again.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from patchify.client.installer import Installer
from patchify.client.locks import GUARDIAN, watched
from patchify.client.processes import Process, alike, born_at, judge, running
from patchify.client.restarter import Launch, environment
from patchify.client.state import State, Update
from patchify.errors import UnableToGuardError, UnavailableError

_log = logging.getLogger(__name__)

VARIABLE = "PATCHIFY_GUARDIAN"  # in the environment of a PyInstaller program that is to be a guardian
LAUNCHER = "PATCHIFY_RUN"  # in that of a program under `patchify run`: the PID of the launcher, which is its guardian
_ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_STEP = 0.2  # seconds between two looks at the state
_READY_WITHIN = 60.0  # seconds that a guardian may take to start; a PyInstaller program unpacks itself first
_LOCK_PATIENCE = 60.0  # seconds for another process that has the lock
_ATTEMPTS = 30  # to put the previous version back, a second apart: a disk may be full for a moment
_PAUSE = 60.0  # seconds after which the guardian begins these attempts anew
_STARTED_BY_OTHERS_WITHIN = 2.0  # seconds in which an unknown supervisor may start the program again
_BOOT = (
    "import json, sys; told = json.loads(sys.argv[1]); sys.path[:] = told['path'];"
    "from patchify.client.guardian import main; main(told['charge'])"
)

Handover = Literal["same", "other", "gunicorn"]
"""Which process the new version is: the old one's, one that others start, or workers of a gunicorn master."""


@dataclass(frozen=True)
class Charge:
    """What a guardian is told.

    Attributes:
        installer: The class of the installer, ``module:name``.
        path: What it is made with.
        handover: Which process will be the new version.
        pid: The process to watch: this one, or the gunicorn master.
        born: When that was started.
        supervised: Whether somebody else starts the program again when it ends.
        patience: Seconds until the new version has to report itself.
        descriptor: Where the guardian says that it is ready, and hears that it is on its own.
        launch: How to start the program.
    """

    installer: str
    path: str
    handover: Handover
    pid: int
    born: str
    supervised: bool
    patience: float
    descriptor: int
    launch: dict[str, Any]


class Watch:
    """Watches the trial of one installation until it is decided.

    Args:
        installer: What the trial is of.
        process: What is watched.
        handover: As in `Charge`.
        patience: Seconds until the new version has to report itself.
        asked: Says why a process ends if somebody has asked it to, or nothing.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        installer: Installer,
        process: Process,
        *,
        handover: Handover,
        patience: float,
        asked: Callable[[], str] = lambda: "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._installer = installer
        self.process = process
        self._handover = handover
        self._deadline = clock() + patience
        self._patience = patience
        self._asked = asked
        self._clock = clock
        self._reported: int | None = None

    def look(self, seconds: float = _STEP) -> tuple[bool, str] | None:
        """Watch for so long; return whether and why the trial has failed once it has ended, else None."""
        trial = self._installer.state().on_trial
        if trial is None:
            return None
        self._meet(trial)
        if self._handover != "other" or self._reported is not None:
            if self.process.wait(seconds):
                return self._ended()
        else:
            time.sleep(seconds)
        return self._overdue(trial) if self._clock() > self._deadline else None

    def _meet(self, trial: Update) -> None:
        """Take note of the process that has reported itself, and give it its time, once."""
        if trial.process is None or self._reported is not None:
            return
        self._reported = trial.process
        self._deadline = self._clock() + trial.patience
        self._patience = trial.patience
        if self._handover == "other":
            self._follow(trial.process)

    def _follow(self, pid: int) -> None:
        self.process.close()
        self.process = Process(pid)

    def _ended(self) -> tuple[bool, str] | None:
        trial = self._installer.state().on_trial
        if trial is None:
            return None
        reported = trial.process
        if self._handover != "gunicorn" and reported not in (None, self.process.pid) and born_at(reported or 0):
            self._follow(reported or 0)  # the program has put itself into the background
            return None
        asked = self._asked() or self._installer.ended(self.process.pid) or self._installer.ended(reported or 0)
        return judge(self.process.status(), asked)

    def _overdue(self, trial: Update) -> tuple[bool, str]:
        if self._handover != "gunicorn" and (self._handover == "same" or self._reported is not None):
            self.process.end()
        why = f": {trial.reason}" if trial.reason else ""
        return True, f"was not confirmed within {self._patience:g} s{why}"


def give_back(installer: Installer, reason: str, *, failed: bool, pause: Callable[[float], None] = time.sleep) -> State:
    """Put the previous version back, trying again for a while. Raises the last error if it cannot be done."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with installer.lock(_LOCK_PATIENCE):
                return installer.give_back(reason, failed=failed)
        except Exception as error:
            _log.warning("%s", error)
            if attempt == _ATTEMPTS:
                raise
            pause(1)
    raise AssertionError


# In the process that is to be watched ---------------------------------------------------------------------------------


class Guarded:
    """A guardian that is ready, as the process sees it that started it."""

    def __init__(self, line: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self._line = line
        self._process = process

    def release(self) -> None:
        """Leave it on its own; if no swap was ordered by then, it ends."""
        self._line.close()
        if self._process.poll() is None:  # a PyInstaller one-file program cannot become independent, see `_detach`
            threading.Thread(target=self._process.wait, name="patchify-guardian", daemon=True).start()

    def dismiss(self) -> None:
        """Leave it on its own when nothing is on trial any more, and wait until it has ended."""
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_WR)
            self._line.recv(1)  # ends with it
        self.release()


def guard(
    installer: Installer, launch: Launch, *, handover: Handover, pid: int, supervised: bool, patience: float
) -> Guarded:
    """Start a guardian, and return when it is ready.

    Raises:
        UnableToGuardError: it cannot be started. Nothing has happened.
    """
    ours, theirs = socket.socketpair()
    charge = Charge(
        installer=f"{type(installer).__module__}:{type(installer).__qualname__}",
        path=str(installer.path),
        handover=handover,
        pid=pid,
        born=born_at(pid),
        supervised=supervised,
        patience=patience,
        descriptor=theirs.fileno(),
        launch={**asdict(launch), "blocked": sorted(launch.blocked)},
    )
    try:
        with theirs:
            process = _start(installer, launch, charge)
        ours.settimeout(_READY_WITHIN)
        answer = ours.recv(5)
        if not _is_one_file():
            process.wait(_READY_WITHIN)  # what is ready is a child of it
    except (OSError, subprocess.TimeoutExpired) as error:
        ours.close()
        raise UnableToGuardError(installer.path, error if isinstance(error, OSError) else str(error)) from error
    if answer != b"ready":
        ours.close()
        process.wait(_READY_WITHIN)
        raise UnableToGuardError(installer.path, f"it ended with status {process.returncode} before it was ready")
    return Guarded(ours, process)


def _start(installer: Installer, launch: Launch, charge: Charge) -> subprocess.Popen[bytes]:
    options: dict[str, Any] = {"pass_fds": [charge.descriptor], "cwd": "/"}
    if getattr(sys, "frozen", False):
        if not getattr(sys, "patchify_guardian", False):
            raise OSError(
                "this program was built without Patchify's hook for PyInstaller; run it with patchify run, or set "
                "Config(guardian=False)"
            )
        told = {VARIABLE: json.dumps(asdict(charge))}
        return subprocess.Popen([installer.kept(sys.executable)], env={**environment(), **told}, **options)
    told_path = {"path": [installer.kept(os.path.abspath(each)) for each in sys.path], "charge": asdict(charge)}
    return subprocess.Popen([sys.executable, "-I", "-c", _BOOT, json.dumps(told_path)], env=environment(), **options)


def is_watching(installer: Installer) -> bool:
    """Return whether a guardian watches this installation."""
    return watched(installer.folder)


# In the guardian itself -----------------------------------------------------------------------------------------------


def main(told: dict[str, Any]) -> None:
    """Be the guardian."""
    _detach()
    charge = Charge(**told)
    launch = Launch(**{**charge.launch, "blocked": frozenset(charge.launch["blocked"])})
    launch = Launch(**{**asdict(launch), "arguments": tuple(charge.launch["arguments"])})
    module, _, name = charge.installer.partition(":")
    installer: Installer = getattr(importlib.import_module(module), name)(Path(charge.path))
    process = Process(charge.pid, charge.born)
    asked: list[str] = []

    def note(number: int, frame: object) -> None:
        # What a supervisor sends to everybody after the program has ended does not explain why that has ended.
        if number == signal.SIGINT or process.alive:
            asked.append(signal.Signals(number).name)

    for number in _ASKING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # else the program ignores it as well
            signal.signal(number, note)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    lock = FileLock(installer.folder / GUARDIAN, thread_local=False)
    with socket.socket(fileno=charge.descriptor) as line:
        try:
            lock.acquire(timeout=_LOCK_PATIENCE)  # the one before may be about to end
        except Timeout:
            sys.exit("another guardian watches already")
        now = installer.launch(launch)
        others = alike(now.program, now.arguments[1:], now.directory)  # another process of the program, perhaps
        line.sendall(b"ready")
        line.recv(1)  # until the other end is closed: by the exec, by hand, or by the end of it
        with lock:
            _guard(installer, process, charge, launch, lambda: asked[0] if asked else "", others=others)


def _detach() -> None:
    """Be no child of the program that is watched, which may wait for its children, or be ended with them.

    A PyInstaller one-file program stays one: what started it removes its unpacked files when it ends.
    """
    if not _is_one_file() and os.fork():
        os._exit(0)


def _is_one_file() -> bool:
    """Return whether this is a PyInstaller one-file program, whose files lie unpacked elsewhere."""
    unpacked = Path(getattr(sys, "_MEIPASS", sys.executable))
    here = Path(sys.executable)
    return unpacked != here and here.parent not in (unpacked, unpacked.parent)


def _guard(
    installer: Installer,
    process: Process,
    charge: Charge,
    launch: Launch,
    asked: Callable[[], str],
    *,
    others: frozenset[tuple[int, str]] = frozenset(),
) -> None:
    watch = Watch(installer, process, handover=charge.handover, patience=charge.patience, asked=asked)
    fate = None
    while fate is None:
        if installer.state().on_trial is None:
            return
        fate = watch.look()
    failed, reason = fate
    trial = installer.state().on_trial
    if trial is None:  # it was confirmed, or taken back, at the last moment
        return
    if installer.installed() == trial.replaces.sha256:
        failed, reason = False, "the update was interrupted before the swap"
    state = _insist(installer, reason, failed=failed)
    if state.update is None and state.quarantined(trial.release.sha256) is None:
        return  # it was confirmed while that could not be done
    if charge.handover == "gunicorn" and watch.process.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(charge.pid, signal.SIGHUP)
    elif failed and not charge.supervised and not _started_by_others(installer.launch(launch), others):
        start(installer.launch(launch))


def _insist(installer: Installer, reason: str, *, failed: bool) -> State:
    """Put the previous version back, however long that is not possible: if this one gives up, nobody does it."""
    while True:
        try:
            return give_back(installer, reason, failed=failed)
        except UnavailableError as error:
            _log.error("%s; trying again in %g s", error, _PAUSE)
            time.sleep(_PAUSE)


def _started_by_others(launch: Launch, before: frozenset[tuple[int, str]]) -> bool:
    end = time.monotonic() + _STARTED_BY_OTHERS_WITHIN
    command = (launch.program, launch.arguments[1:], launch.directory)
    while not (found := running(*command, before)) and time.monotonic() < end:
        time.sleep(_STEP)
    return found


def start(launch: Launch) -> subprocess.Popen[bytes]:
    """Start a program as it was started before: arguments, working directory, environment, signal mask."""
    with _fresh_signals(launch):
        return subprocess.Popen(launch.arguments, executable=launch.program, cwd=launch.directory, env=environment())


@contextlib.contextmanager
def _fresh_signals(launch: Launch) -> Iterator[None]:
    for number in _ASKING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, launch.blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

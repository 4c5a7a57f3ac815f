"""The guardian: a process that watches a version on trial, and puts the previous one back if it does not prove good.

It needs nothing of the program that it watches, and ends with the trial. Where nobody else does, it starts the previous
version again. How it is started itself, `patchify.client.guarding` says.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import Timeout

from patchify.client.guarding import BY, GO, NOW, Charge, is_one_file
from patchify.client.installer import Installer
from patchify.client.locks import guardian_lock
from patchify.client.processes import ASKING, MEANT, Process, alike, running
from patchify.client.restarter import Launch, environment
from patchify.client.state import State, Update
from patchify.client.watch import STEP, Watch, give_back
from patchify.errors import UnableToReadFileError, UnavailableError

_log = logging.getLogger(__name__)

_DEAF = ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM")  # meant for the program, and may be sent to its group
_LOCK_PATIENCE = 10.0  # seconds for the guardian before this one, which may be about to end
_UNTIL_EXEC = 5  # seconds after which a line that stays open is not waited for any more
_START_ATTEMPTS = 60  # a second apart
_PAUSE = 60.0  # seconds after which the attempts to put a version back begin anew
_STARTED_BY_OTHERS_WITHIN = 2.0  # seconds in which an unknown supervisor may start the program again


def main(told: dict[str, Any]) -> None:
    """Be the guardian."""
    _detach()
    charge = Charge(**told)
    launch = Launch(
        **{
            **charge.launch,
            "arguments": tuple(charge.launch["arguments"]),
            "blocked": frozenset(charge.launch["blocked"]),
        }
    )
    module, _, name = charge.installer.partition(":")
    installer: Installer = getattr(importlib.import_module(module), name)(Path(charge.path))
    process = Process(charge.pid, charge.born)
    ears = _Ears(process)
    lock = guardian_lock(installer.folder)
    with socket.socket(fileno=charge.descriptor) as line:
        if not _is_called(line, process):
            return  # nothing was swapped, and nothing will be
        try:
            lock.acquire(timeout=_LOCK_PATIENCE)
        except Timeout:
            sys.exit("another guardian watches already")
        now = installer.launch(launch)
        others = alike(now.program, now.arguments[1:], now.directory)  # another process of the program, perhaps
        with lock, contextlib.suppress(BrokenPipeError):
            line.sendall(b"ready")
            said = _hear(line, process)
            if said == GO and charge.handover == "other" and (process.alive or process.status()):
                charge = replace(charge, handover="same")  # it has become the new version itself, by an exec of its own
            if said in (GO, GO + BY):
                _guard(installer, process, charge, launch, ears.asked, others=others, ordered_to_end=ears.was_ordered)
            elif _trial(installer) is not None:  # that could not be undone by whoever had ordered it
                _insist(installer, "the update was interrupted before the new version was started", failed=False)


class _Ears:
    """Take note of the signals that reach the program's whole group.

    Args:
        process: The program.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._heard: tuple[str, float] | None = None
        self._ordered = False
        for number in ASKING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # else the program ignores it as well
                signal.signal(number, self._note)
        for number in (getattr(signal, name) for name in _DEAF):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def asked(self) -> str:
        """Return what explains an end of the program now, or nothing."""
        return self._heard[0] if self._heard and time.monotonic() - self._heard[1] < MEANT else ""

    def was_ordered(self) -> bool:
        """Return whether this process was asked to end, whatever that says of the program."""
        return self._ordered

    def _note(self, number: int, frame: object) -> None:
        self._ordered = True
        # What a supervisor sends to everybody after the program has ended does not explain why that has ended.
        if number in (signal.SIGINT, signal.SIGQUIT) or self._process.alive:
            self._heard = (signal.Signals(number).name, time.monotonic())


def _is_called(line: socket.socket, process: Process) -> bool:
    """Wait until the post is to be taken, and return True, or False if it is not any more."""
    line.settimeout(1)
    while True:
        try:
            return line.recv(len(NOW)) == NOW
        except TimeoutError:  # a child that the program has forked meanwhile may keep the other end open
            if not process.alive:
                return False
        except OSError:
            return False


def _hear(line: socket.socket, process: Process) -> bytes:
    """Return what the other end says until it is closed: by the exec, by hand, or by the end of the process."""
    line.settimeout(1)
    said = b""
    waits = 0
    while True:
        try:
            heard = line.recv(2)
        except TimeoutError:
            # A child that the program has forked meanwhile may keep the other end open.
            waits += bool(said)
            if waits > _UNTIL_EXEC or (not said and not process.alive):
                return said
        except OSError:
            return said
        else:
            if not heard:
                return said
            said += heard


def _detach() -> None:
    """Be no child of the program that is watched, which may wait for its children, or be ended with them.

    A PyInstaller one-file program stays one: what started it removes its unpacked files when it ends.
    """
    if not is_one_file() and os.fork():
        os._exit(0)


def _guard(
    installer: Installer,
    process: Process,
    charge: Charge,
    launch: Launch,
    asked: Callable[[], str],
    *,
    others: frozenset[tuple[int, str]] = frozenset(),
    ordered_to_end: Callable[[], bool] | None = None,
) -> None:
    watch = Watch(installer, process, handover=charge.handover, patience=charge.patience, asked=asked)
    fate = None
    while fate is None:
        trial = _trial(installer)
        if trial is None:  # it was confirmed, or taken back
            return
        if charge.handover == "other" and trial.process is None and (ordered_to_end or asked)() and not process.alive:
            return  # a supervisor that waits for everybody before it starts the program again
        fate = watch.look()
    assert trial is not None
    failed, reason = fate
    state = _insist(installer, reason, failed=failed)
    if state.update is None and state.quarantined(trial.release.sha256) is None:
        return  # it was confirmed while that could not be done
    if charge.handover == "gunicorn" and watch.process.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(charge.pid, signal.SIGHUP)
    elif failed and not charge.supervised and not _started_by_others(installer.launch(launch), others):
        start(installer.launch(launch))


def _trial(installer: Installer) -> Update | None:
    """Return what is on trial, however long that cannot be told."""
    while True:
        try:
            return installer.trial()
        except UnableToReadFileError as error:
            _log.warning("%s", error)
            time.sleep(STEP)


def _insist(installer: Installer, reason: str, *, failed: bool) -> State:
    """Put the previous version back, however long that is not possible: if this one gives up, nobody does it."""
    while True:
        try:
            return give_back(installer, reason, failed=failed)
        except UnavailableError as error:
            if not installer.folder.exists():  # the installation was removed
                sys.exit(0)
            _log.error("%s; trying again in %g s", error, _PAUSE)
            time.sleep(_PAUSE)


def _started_by_others(launch: Launch, before: frozenset[tuple[int, str]]) -> bool:
    end = time.monotonic() + _STARTED_BY_OTHERS_WITHIN
    command = (launch.program, launch.arguments[1:], launch.directory)
    while not (found := running(*command, before)) and time.monotonic() < end:
        time.sleep(STEP)
    return found


def start(launch: Launch) -> subprocess.Popen[bytes]:
    """Start a program as it was started before: arguments, working directory, environment, signal mask.

    Raises:
        OSError: it cannot be started, also not after a minute.
    """
    directory = launch.directory if os.path.isdir(launch.directory) else os.sep
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            with _fresh_signals(launch):
                return subprocess.Popen(launch.arguments, executable=launch.program, cwd=directory, env=environment())
        except OSError as error:
            _log.error("%s cannot be started: %s", launch.program, error)
            if attempt == _START_ATTEMPTS:
                raise
            time.sleep(1)
    raise AssertionError


@contextlib.contextmanager
def _fresh_signals(launch: Launch) -> Iterator[None]:
    for number in ASKING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, launch.blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

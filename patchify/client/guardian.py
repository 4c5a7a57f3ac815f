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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from patchify.client.guarding import Charge, is_one_file
from patchify.client.installer import Installer
from patchify.client.locks import GUARDIAN
from patchify.client.processes import Process, alike, running
from patchify.client.restarter import Launch, environment
from patchify.client.state import State
from patchify.client.watch import STEP, Watch, give_back
from patchify.errors import UnavailableError

_log = logging.getLogger(__name__)

_ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_LOCK_PATIENCE = 60.0  # seconds for the guardian before this one, which may be about to end
_PAUSE = 60.0  # seconds after which the attempts to put a version back begin anew
_STARTED_BY_OTHERS_WITHIN = 2.0  # seconds in which an unknown supervisor may start the program again


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
            lock.acquire(timeout=_LOCK_PATIENCE)
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
        time.sleep(STEP)
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

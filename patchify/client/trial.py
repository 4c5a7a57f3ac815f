"""What a version on trial does for itself: it reports, shows that it is well, and is confirmed.

By default it is confirmed when it has run for a time; with a health check, when that was good for as long; or only by
its own `Updater.confirm`. If it does not get so far, the guardian puts the previous version back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import requests

from patchify.client.config import Config, Health
from patchify.client.installer import Installer
from patchify.client.processes import ASKING
from patchify.errors import PatchifyError

_log = logging.getLogger(__name__)
_HEALTH_EVERY = 1.0  # seconds between two looks at the health
_HEALTH_WITHIN = 5.0  # seconds that an address may take to answer
_LOCK_PATIENCE = 30.0  # seconds


class Trial:
    """The trial of the version that runs.

    The handlers of signals that `listen` sets are taken away by a confirmation in the main thread. Only there it can be
    done: after one elsewhere they stay until the next signal, `deafen` or `close`, and do nothing but pass on.

    Args:
        config: How it is confirmed.
        installer: Where it is recorded.
        on_confirmed: Called once it is confirmed by this process.
        process: The process that is on trial. Default: this one.
    """

    def __init__(
        self, config: Config, installer: Installer, on_confirmed: Callable[[], None], process: int | None = None
    ) -> None:
        self._config = config
        self._installer = installer
        self._on_confirmed = on_confirmed
        self._process = process
        self._begun = False
        self._problem = ""
        self._wanted = False  # a confirmation, before it had begun
        self._over = threading.Event()
        self._handlers: dict[int, tuple[Any, Any]] = {}

    @property
    def running(self) -> bool:
        """Whether it has begun and is not over."""
        return self._begun and not self._over.is_set()

    def begin(self, problem: str = "") -> None:
        """Report this process, under the installation's lock, and see from now on to its confirmation.

        Args:
            problem: What makes a confirmation impossible.
        """
        patience = 0.0 if problem else self._config.trial_timeout.total_seconds()
        self._installer.report(self._process or os.getpid(), patience, problem)
        self._begun, self._problem = True, problem
        if self._wanted:
            self.confirm()
        elif not problem and self._config.confirm_automatically:
            threading.Thread(target=self._prove, name="patchify-trial", daemon=True).start()

    def confirm(self) -> bool:
        """Confirm the version that runs; return whether it was on trial.

        Before the updater has found out that this process is on trial it returns False, and confirms it then. What is
        on trial in another process is none of its business.

        Raises:
            UpdateInProgressError, UnableToWriteStateError: it can be tried again.
        """
        if not self._begun or self._problem:
            self._wanted = True
            return False
        return self._confirm()

    def listen(self) -> None:
        """Leave word when a signal asks this program to end during the trial; then it goes its usual way.

        It works in the main thread only, and for what the program does not handle outside of Python.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ASKING:
            before = signal.getsignal(number)
            if before in (None, signal.SIG_IGN):
                continue
            mine = self._hearing(number, before)
            self._handlers[number] = (mine, before)
            signal.signal(number, mine)

    def close(self, *, orderly: bool) -> None:
        """Stop; ``orderly`` leaves word that this program ends through no fault of its own."""
        if orderly and not self._over.is_set() and self._installer.state().on_trial is not None:
            self._installer.ending("it closed its updater")
        self._over.set()
        self.deafen()

    def deafen(self) -> None:
        """Take the handlers of signals away if the trial is over and this is the main thread."""
        if not self._over.is_set() or threading.current_thread() is not threading.main_thread():
            return
        for number, (mine, before) in list(self._handlers.items()):
            if signal.getsignal(number) is mine:
                signal.signal(number, before)
        self._handlers.clear()

    def _confirm(self) -> bool:
        with self._installer.lock(_LOCK_PATIENCE):
            confirmed = self._installer.confirm()
        self._over.set()
        self.deafen()
        if confirmed:
            self._on_confirmed()
        return confirmed

    def _hearing(self, number: int, before: Any) -> Callable[[int, FrameType | None], None]:
        def hear(received: int, frame: FrameType | None) -> None:
            if not self._over.is_set():
                self._installer.ending(signal.Signals(number).name)
            self.deafen()
            if callable(before):
                before(received, frame)
            else:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)

        return hear

    def _prove(self) -> None:
        well_since = time.monotonic()
        known = ""
        while True:
            problem = _problem(self._config.health)
            now = time.monotonic()
            if problem:
                well_since = now
            elif now - well_since >= self._config.trial_period.total_seconds() and self._confirmed():
                return
            if problem != known:
                known = problem
                _log.warning("the new version is %s", f"not well: {problem}" if problem else "well again")
                self._say(problem)
            left = well_since + self._config.trial_period.total_seconds() - now
            if self._over.wait(min(_HEALTH_EVERY, left) if self._config.health is None and left > 0 else _HEALTH_EVERY):
                return

    def _confirmed(self) -> bool:
        """Confirm; return False if that has to be tried again."""
        try:
            self._confirm()
        except PatchifyError as error:
            _log.warning("%s", error)
            return False
        return True

    def _say(self, problem: str) -> None:
        with contextlib.suppress(PatchifyError), self._installer.lock(_LOCK_PATIENCE):
            process = self._process or os.getpid()
            self._installer.report(process, self._config.trial_timeout.total_seconds(), problem)


def _problem(health: Health | None) -> str:
    """Return what is wrong, or nothing."""
    try:
        if health is None:
            return ""
        if callable(health):
            return "" if health() else "the health check says no"
        with requests.Session() as session:
            session.trust_env = False  # a proxy is for what lies outside; it would answer for itself
            with session.get(health, timeout=_HEALTH_WITHIN, allow_redirects=False, stream=True) as answer:
                return "" if answer.status_code == 200 else f"{health} answers with HTTP status {answer.status_code}"
    except Exception as error:
        return f"the health check failed: {error!r:.200}"

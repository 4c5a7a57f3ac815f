"""When the updater acts by itself: a chain of `threading.Timer`, each armed by the one before.

Its threads are daemons, so they never keep the host alive, and named. They do not survive a fork: whoever wants
polling in the child starts it there.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)

JITTER = 0.1  # of the interval, either way


class Poller:
    """Calls ``tick`` now and then, never twice at once, until it is closed.

    Args:
        tick: One iteration. Returns the seconds to wait at least before the next one; what it raises is logged.
        interval: Seconds between two ticks, or None for only the first. The second tick comes anywhere within it, so
            that a fleet that was started together, as after a power cut, does not go on asking together.
        least: Seconds that lie between two ticks at least.
        chance: Gives a random number from 0 to 1.
    """

    def __init__(
        self,
        tick: Callable[[], float],
        interval: float | None,
        least: float = 0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._tick = tick
        self._interval = interval
        self._least = least
        self._chance = chance
        self._waited = False
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._closed = threading.Event()

    def start(self, delay: float = 0) -> None:
        """Let the first tick come after ``delay`` seconds. Later ones follow by themselves."""
        if not self._arm(delay):
            _log.warning("no checks for updates: there is no thread to be had")

    def wait(self, at_least: float = 0) -> float | None:
        """Return the seconds until the next tick, with jitter; None if there is none."""
        if self._interval is None:
            return None
        waited, self._waited = self._waited, True
        part = 1 + JITTER * (2 * self._chance() - 1) if waited else self._chance()
        return max(at_least, self._least, self._interval * part)

    def close(self, patience: float = 5) -> None:
        """Let no tick follow, and wait up to ``patience`` seconds for one that runs."""
        with self._lock:
            self._closed.set()
            timer = self._timer
        if timer is not None:
            timer.cancel()
            if timer.is_alive() and timer is not threading.current_thread():
                timer.join(patience)

    def _run(self) -> None:
        delay = self._once()
        # Without a thread for the next tick this one goes on; at the end of the interpreter it ends, as a daemon does.
        while delay is not None and not self._arm(delay) and not self._closed.wait(delay):
            delay = self._once()

    def _once(self) -> float | None:
        at_least = 0.0
        try:
            at_least = self._tick()
        except (Exception, SystemExit):  # from this thread, exiting ends nothing but the chain
            _log.exception("a check for updates failed unexpectedly")
        return self.wait(at_least)

    def _arm(self, delay: float) -> bool:
        """Start the timer of the next tick; return whether there is one, or need not be since all is closed."""
        with self._lock:
            if self._closed.is_set():
                return True
            timer = threading.Timer(delay, self._run)
            timer.name = "patchify-poll"
            timer.daemon = True
            try:
                timer.start()
            except RuntimeError:  # no thread now, or the interpreter is shutting down (Python 3.12 and later)
                return False
            self._timer = timer
            return True

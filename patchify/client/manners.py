"""How often a server is asked unasked: not too soon, later after failures, and not while it wants to be left alone.

What was last asked is remembered beside the program, so that one which crashes and is started again and again does not
ask each time.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from patchify.client.config import Config
from patchify.client.installer import Installer
from patchify.client.memory import Memory
from patchify.errors import ConnectionFailedError, PatchifyError

_log = logging.getLogger(__name__)

_LONGEST_BACK_OFF = 3600.0  # seconds between ticks after failures, unless the interval itself is longer
_LONGEST_SILENCE = timedelta(days=1)  # that a server may ask for; what is longer comes from a clock that was wrong
_MOST_FAILURES = 16  # that are counted; by then the wait is as long as it gets


class Manners:
    """The manners of one updater.

    Args:
        config: For the intervals.
        installer: Where it is remembered.
    """

    def __init__(self, config: Config, installer: Installer) -> None:
        self._config = config
        self._installer = installer
        self._failures = 0
        self._asked = False  # whether this process has asked by itself; from then on it keeps to its interval

    def may_ask(self) -> bool:
        """Return whether the server may be asked unasked; if so, it counts as asked. Raises `UnableToReadFileError`.

        It does so durably, as far as that can be, before there is an answer: this process may die of that.
        """
        now, state = datetime.now(UTC), self._installer.state()
        if wants_quiet(self._installer.memory()):
            return False
        assert self._config.least_interval is not None
        if not self._asked and state.checked and timedelta() <= now - state.checked < self._config.least_interval:
            _log.info("no check now: the last one was at %s", state.checked)
            return False
        self._asked = True
        self._installer.note(state.error)
        return True

    def went_well(self) -> None:
        """Forget the failures before."""
        self._failures = 0

    def failed(self, error: Exception) -> float:
        """Return the seconds to wait at least: twice as long for each failure in a row, or as the server asks."""
        interval = self._config.check_interval.total_seconds() if self._config.check_interval else 0.0
        delay = min(interval * 2.0**self._failures, max(interval, _LONGEST_BACK_OFF))
        self._failures = min(self._failures + 1, _MOST_FAILURES)
        self.keep_quiet(error)
        return max(delay, _asked_for(error))

    def keep_quiet(self, error: Exception) -> None:
        """Leave the server alone as `keep_quiet` says."""
        keep_quiet(self._installer, error)


def wants_quiet(memory: Memory) -> bool:
    """Return whether the server wants to be left alone now, as far as is remembered."""
    now, until = datetime.now(UTC), memory.retry_at
    if until is None or not now < until <= now + _LONGEST_SILENCE:
        return False
    _log.info("the server is not asked now: it wants to be left alone until %s", until)
    return True


def keep_quiet(installer: Installer, error: Exception) -> None:
    """Remember how long the server wants to be left alone, if it said so; if that cannot be, it is let be.

    Args:
        installer: Where it is remembered, also for a process that is started anew.
        error: What came instead of an answer.
    """
    if seconds := _asked_for(error):
        retry_at = datetime.now(UTC) + timedelta(seconds=seconds)
        with contextlib.suppress(PatchifyError):
            installer.remember(lambda before: replace(before, retry_at=retry_at))


def _asked_for(error: Exception) -> float:
    """Return the seconds of ``Retry-After``; 0 if there was none."""
    return (error.retry_after or 0.0) if isinstance(error, ConnectionFailedError) else 0.0

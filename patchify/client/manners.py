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
        """Return whether the server may be asked unasked; if so, it counts as asked. Raises `UnableToReadFileError`."""
        now, checked = datetime.now(UTC), self._installer.state().checked
        retry_at = self._installer.memory().retry_at
        if retry_at is not None and now < retry_at <= now + _LONGEST_SILENCE:
            _log.info("no check now: the server wants to be left alone until %s", retry_at)
            return False
        assert self._config.least_interval is not None
        if not self._asked and checked is not None and timedelta() <= now - checked < self._config.least_interval:
            _log.info("no check now: the last one was at %s", checked)
            return False
        self._asked = True
        return True

    def went_well(self) -> None:
        """Forget the failures before."""
        self._failures = 0

    def failed(self, error: Exception) -> float:
        """Return the seconds to wait at least: twice as long for each failure in a row, or as the server asks."""
        interval = self._config.check_interval.total_seconds() if self._config.check_interval else 0.0
        delay = min(interval * 2.0**self._failures, max(interval, _LONGEST_BACK_OFF))
        self._failures = min(self._failures + 1, _MOST_FAILURES)
        asked = error.retry_after if isinstance(error, ConnectionFailedError) else None
        if asked:
            self._keep_quiet(asked)
        return max(delay, asked or 0.0)

    def _keep_quiet(self, seconds: float) -> None:
        """Remember that the server wants to be left alone, also by a process that is started anew."""
        with contextlib.suppress(PatchifyError), self._installer.lock():
            retry_at = datetime.now(UTC) + timedelta(seconds=seconds)
            self._installer.remember(replace(self._installer.memory(), retry_at=retry_at))

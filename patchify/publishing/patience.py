"""How long something is tried again that did not get through."""

from __future__ import annotations

import logging
from collections.abc import Callable

from patchify.errors import UnavailableError

_log = logging.getLogger(__name__)

RETRIES = 6  # in a row that come no further
FIRST_PAUSE = 0.5  # seconds; doubled for each further attempt
LONGEST_PAUSE = 120.0  # seconds; a server that asks for more is left alone


class Patience:
    """Waits between attempts, longer each time, and no longer than makes sense.

    Args:
        pause: Waits so many seconds.
        chance: Gives a random number from 0 to 1.

    Attributes:
        failures: How many there were in a row that came no further.
    """

    def __init__(self, pause: Callable[[float], None], chance: Callable[[], float]) -> None:
        self._pause = pause
        self._chance = chance
        self.failures = 0
        self._furthest = 0

    def reached(self, place: int) -> None:
        """Tell how far it came: further than ever before, and it may fail as often as at the beginning."""
        if place > self._furthest:
            self.failures, self._furthest = 0, place

    def wait(self, error: UnavailableError) -> None:
        """Wait before the next attempt, or raise what the last one raised; ``retry_after`` of that is respected."""
        delay = FIRST_PAUSE * 2**self.failures * (0.5 + self._chance())
        delay = max(delay, getattr(error, "retry_after", None) or 0.0)
        self.failures += 1
        if self.failures > RETRIES or delay > LONGEST_PAUSE:
            raise error
        _log.info("%s; trying again in %.1f s", error, delay)
        self._pause(delay)

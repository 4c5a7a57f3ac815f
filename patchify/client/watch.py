"""What becomes of a trial, as seen from outside of the program: it is watched to its end, and undone if it failed.

The guardian of a program watches so, and the launcher of any program.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

from patchify.client.installer import Installer
from patchify.client.processes import Process, born_at, judge
from patchify.client.state import State, Update
from patchify.errors import UnableToReadFileError

_log = logging.getLogger(__name__)

STEP = 0.2  # seconds between two looks at the state
_GAP = 5.0  # seconds that a look takes longer than it should if this process was stopped meanwhile
_SUCCESSOR_WITHIN = 5  # looks in which a program that has put itself into the background can report itself
_LOCK_PATIENCE = 60.0  # seconds for another process that has the lock
_ATTEMPTS = 30  # to put the previous version back, a second apart: a disk may be full for a moment

Handover = Literal["same", "other", "gunicorn"]
"""Which process the new version is: the old one's, one that others start, or workers of a gunicorn master."""


class Watch:
    """Watches the trial of one installation until it is decided.

    Args:
        installer: What the trial is of.
        process: What is watched.
        handover: How the new version became a process.
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

    def look(self, seconds: float = STEP) -> tuple[bool, str] | None:
        """Watch for so long; return whether and why the trial has failed once it has ended, else None."""
        before = self._clock()
        try:
            trial = self._installer.trial()
        except UnableToReadFileError:  # another time
            time.sleep(seconds)
            return None
        if trial is None:
            return None
        self._meet(trial)
        if self._handover != "other" or self._reported is not None:
            if self.process.wait(seconds):
                return self._ended()
        else:
            time.sleep(seconds)
        longer = self._clock() - before - seconds
        if longer > _GAP:  # this process was stopped, and the program too, perhaps, as by Ctrl-Z
            self._deadline += longer
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
        status = self.process.status()
        looks = _SUCCESSOR_WITHIN if status in (0, None) and self._handover == "same" else 1
        for left in reversed(range(looks)):
            try:
                trial = self._installer.trial()
            except UnableToReadFileError:
                return None
            if trial is None:
                return None
            reported = trial.process
            if self._handover != "gunicorn" and reported not in (None, self.process.pid) and born_at(reported or 0):
                self._follow(reported or 0)  # the program has put itself into the background
                return None
            asked = self._asked() or self._installer.ended(self.process.pid) or self._installer.ended(reported or 0)
            if asked:
                break
            if left:
                time.sleep(STEP)
        return judge(status, asked)

    def _overdue(self, trial: Update) -> tuple[bool, str]:
        if self._handover != "gunicorn" and (self._handover == "same" or self._reported is not None):
            self.process.end()
        why = f": {trial.reason}" if trial.reason else ""
        return True, f"was not confirmed within {self._patience:g} s{why}"


def give_back(
    installer: Installer, reason: str, *, failed: bool | None, pause: Callable[[float], None] = time.sleep
) -> State:
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

"""Critical actions, and the gate that they hold open: whether the program may be restarted now.

One lock guards the count and the gate together, so there is no instant between "nobody is busy" and "nobody may
start" in which an action could slip through.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum, auto


class _Gate(Enum):
    OPEN = auto()  # actions may start
    WAITING = auto()  # a restart is pending: none may start, some still run
    SHUT = auto()  # none runs and none may start: the restart goes ahead


class Actions:
    """Counts what must not be interrupted.

    Args:
        on_clear: Called once when the last action ends while a restart waits, in the thread that ended it, with no
            lock held. The gate is already shut.
    """

    def __init__(self, on_clear: Callable[[], None]) -> None:
        self._on_clear = on_clear
        self._running: list[str | None] = []  # the reason of each, oldest first
        self._gate = _Gate.OPEN
        self.renew_lock()

    def renew_lock(self) -> None:
        """Take a fresh lock: after a fork the old one may be held by a thread that does not exist here."""
        self._lock = threading.Lock()

    def register(self, reason: str | None = None) -> int | None:
        """Start an action; return how many run now, or None if none may start."""
        with self._lock:
            if self._gate is not _Gate.OPEN:
                return None
            self._running.append(reason)
            return len(self._running)

    def deregister(self, reason: str | None = None) -> int | None:
        """End an action with this reason; return how many are left, or None if there was none.

        Without a reason, one that gave none ends, or if there is none such the newest.
        """
        with self._lock:
            if reason in self._running:
                self._running.remove(reason)
            elif reason is None and self._running:
                self._running.pop()
            else:
                return None
            left = len(self._running)
            clear = left == 0 and self._gate is _Gate.WAITING
            if clear:
                self._gate = _Gate.SHUT
        if clear:
            self._on_clear()
        return left

    def shut(self) -> bool:
        """Let no action start any more; return whether none runs, that is, whether the restart may go ahead now."""
        with self._lock:
            self._gate = _Gate.WAITING if self._running else _Gate.SHUT
            return self._gate is _Gate.SHUT

    def reopen(self) -> None:
        """Let actions start again: the restart was given up."""
        with self._lock:
            self._gate = _Gate.OPEN

    def running(self) -> tuple[int, tuple[str, ...]]:
        """Return how many actions run, and the reasons of those that gave one, oldest first."""
        with self._lock:
            return len(self._running), tuple(reason for reason in self._running if reason is not None)

"""The program as the launcher's child, and the signals that are passed on to it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any, Self

from patchify.client.processes import ASKING, Process, line_of

_FORWARDED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGTTIN", "SIGTTOU")
_ENDING = tuple(each.name for each in ASKING if each.name != "SIGHUP")  # by that many only read their settings again
_OF_TERMINALS = ("SIGINT", "SIGQUIT", "SIGWINCH", "SIGTTIN", "SIGTTOU")  # which a terminal sends to the child as well
_FROM_KERNEL = 0x80  # SI_KERNEL of sigaction(2)
_LOOK = 0.5  # seconds, at the longest, until what another thread heard is passed on
_MEANT = 30.0  # seconds in which a SIGINT explains an end; a program may also take it for something else


class Ears:
    """The signals of this process: blocked, taken one by one, and passed on.

    Args:
        takes_usr2: SIGUSR2 is not passed on, but orders the update.
    """

    def __init__(self, *, takes_usr2: bool) -> None:
        self.child: Child | None = None
        self.wanted = False
        self.before: set[int] = set()
        self._takes_usr2 = takes_usr2
        self._asked: tuple[int, float] | None = None
        self._handlers: dict[int, Any] = {}
        self._all: set[int] = set()

    def __enter__(self) -> Self:
        for number in (getattr(signal, name) for name in _FORWARDED):
            if signal.getsignal(number) is not signal.SIG_IGN:  # else the program ignores it as well
                # Only for what reaches a thread that does not block it, see `Supply`.
                self._handlers[number] = signal.signal(number, lambda number, frame: self._take(number))
        self._handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._all = set(self._handlers)
        self.before = set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, self._all)))
        return self

    def __exit__(self, *_: object) -> None:
        while signal.sigtimedwait(self._all, 0):
            pass  # what was said to a program that has ended
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)

    @property
    def asked(self) -> int:
        """The signal by which somebody has asked the program to end, or 0."""
        if self._asked is None:
            return 0
        number, at = self._asked
        return number if number == signal.SIGTERM or time.monotonic() - at < _MEANT else 0

    @property
    def asked_name(self) -> str:
        """Its name, or nothing."""
        asked = self.asked
        return signal.Signals(asked).name if asked else ""

    def hear(self, seconds: float) -> None:
        """Wait for one signal, but not longer than this, and pass it on; it may return early."""
        heard = signal.sigtimedwait(self._all, min(max(0.0, seconds), _LOOK))  # one that another thread got is run here
        if heard is not None and heard.si_signo != signal.SIGCHLD:
            self._take(heard.si_signo, by_terminal=heard.si_code == _FROM_KERNEL)

    def pause(self, seconds: float) -> None:
        """Wait, unless the program is to end."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.asked:
            self.hear(left)

    def _take(self, number: int, *, by_terminal: bool = False) -> None:
        name = signal.Signals(number).name
        if name == "SIGUSR2" and self._takes_usr2:
            self.wanted = True
            return
        if name in _ENDING and self.asked != signal.SIGTERM:
            self._asked = (number, time.monotonic())
        child = self.child
        if child is not None and not (by_terminal and name in _OF_TERMINALS and child.shares_terminal):
            child.send(number)


class Child(Process):
    """The program, as this process's child.

    Args:
        pid: Its number.
        hear: Waits for a signal.
        patience: Seconds from asking it to end to ending it.
    """

    def __init__(self, pid: int, hear: Callable[[float], None], patience: float) -> None:
        super().__init__(pid)
        self._hear = hear
        self._stop_patience = patience
        self._status: int | None = None

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended, but not longer than this, while signals are passed on; return whether it has."""
        end = time.monotonic() + seconds
        while not self._has_ended():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._hear(left)
        return True

    def status(self) -> int | None:
        """Return how it ended, as ``os.waitpid`` does; None before that."""
        return self._status

    @property
    def exit_status(self) -> int:
        """How it ended."""
        assert self._status is not None
        return self._status

    def end(self, patience: float | None = None) -> None:
        """Ask it to end, and end it and everything that it has started if it does not."""
        super().end(self._stop_patience if patience is None else patience)

    def send(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if not self._has_ended():
            with contextlib.suppress(OSError):  # it became another user
                os.kill(self.pid, number)

    def has(self, pid: int) -> bool:
        """Return whether a process is this one, or was started by it or by one that was."""
        return self.pid in line_of(pid)

    @property
    def shares_terminal(self) -> bool:
        """Whether it gets what the terminal sends to this process."""
        with contextlib.suppress(OSError):
            return os.getpgid(self.pid) == os.getpgrp()
        return False

    def _has_ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
        return self._status is not None

"""How the host hears of things: in order, in a thread of their own, so that a receiver can harm nobody.

Whoever announces something waits a moment for it to be heard, which makes things simple for a quick receiver. One
that is slow is not waited for any more until it has caught up; meanwhile only the newest of its progress is kept.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from blinker import NamedSignal

from patchify import signals
from patchify.client.status import Downloading, Installing, Status

_log = logging.getLogger(__name__)

Handler = Callable[[Status], None]

PATIENCE = 1.0  # seconds that an announcement waits to be heard
_LINGER = 1.0  # seconds after which a thread with nothing to say ends


class Posted:
    """One thing to be told, and whether it was."""

    def __init__(self, signal: NamedSignal, facts: dict[str, Any]) -> None:
        self.signal = signal
        self.facts = facts
        self.heard = threading.Event()

    def replaces(self, other: Posted) -> bool:
        """Return whether this is only further progress of the same phase."""
        mine, others = self.facts.get("status"), other.facts.get("status")
        return type(mine) is type(others) and isinstance(mine, Downloading | Installing)


class Notifier:
    """Sends signals with ``sender`` as their sender, and statuses to the handlers that subscribed."""

    def __init__(self, sender: object, patience: float = PATIENCE) -> None:
        self._sender = sender
        self._patience = patience
        self._handlers: list[Handler] = []
        self.renew_lock()

    def renew_lock(self) -> None:
        """Start over with nothing queued: after a fork, lock and thread of the parent do not exist here."""
        self._changed = threading.Condition()
        self._queue: deque[Posted] = deque()
        self._thread: threading.Thread | None = None
        self._behind = False
        self._closed = False

    def subscribe(self, handler: Handler) -> None:
        """Call ``handler`` with every new status from now on."""
        with self._changed:
            self._handlers.append(handler)

    def unsubscribe(self, handler: Handler) -> None:
        """Do not call ``handler`` any more; one that is not subscribed is no error."""
        with self._changed:
            if handler in self._handlers:
                self._handlers.remove(handler)

    def post(self, signal: NamedSignal, **facts: Any) -> Posted:
        """Queue something to be told to everybody, without waiting; calls no receiver, so a lock may be held."""
        posted = Posted(signal, facts)
        with self._changed:
            if not signal.has_receivers_for(self._sender) and not (self._handlers and signal is signals.status_changed):
                posted.heard.set()
                return posted
            if self._queue and posted.replaces(self._queue[-1]):
                self._queue.pop().heard.set()
            self._queue.append(posted)
            self._changed.notify()
            if self._thread is None:
                self._start_thread()
        return posted

    def wait(self, posted: Posted) -> None:
        """Wait a moment for it to be heard, unless the receivers are slow or this is one of them."""
        if posted.heard.is_set() or self._behind or threading.current_thread() is self._thread:
            return
        if not posted.heard.wait(self._patience):
            with self._changed:  # it may have caught up just now
                self._behind = not posted.heard.is_set()
            _log.warning(
                "a receiver of %s takes longer than %s s; not waiting for it", posted.signal.name, self._patience
            )

    def announce(self, signal: NamedSignal, **facts: Any) -> None:
        """Post and wait."""
        self.wait(self.post(signal, **facts))

    def close(self) -> None:
        """Wait a moment until all was heard and the thread has ended. What is posted later is still told."""
        with self._changed:
            thread = self._thread
            self._closed = True
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._patience)

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name="patchify-signals", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down: nobody will hear any more
            for posted in self._queue:
                posted.heard.set()
            self._queue.clear()
        else:
            self._thread = thread

    def _run(self) -> None:
        while posted := self._next():
            try:
                signals.emit(posted.signal, self._sender, **posted.facts)
            except SystemExit:  # it would end this thread, not the program
                _log.exception("a receiver of the signal %s failed", posted.signal.name)
            if posted.signal is signals.status_changed:
                self._call_handlers(posted.facts["status"])
            posted.heard.set()

    def _next(self) -> Posted | None:
        """Return what is to be announced next, or None when this thread is no longer needed."""
        with self._changed:
            if not self._queue:
                self._behind = False
                if not self._closed:
                    self._changed.wait(_LINGER)
            if self._queue:
                return self._queue.popleft()
            self._thread = None  # only here, so that there is never a second one
            return None

    def _call_handlers(self, status: Status) -> None:
        with self._changed:
            handlers = tuple(self._handlers)
        for handler in handlers:
            try:
                handler(status)
            except (Exception, SystemExit):
                _log.exception("a handler of status changes failed")

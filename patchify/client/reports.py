"""What is told to the server about updates: queued durably, sent in batches, never in the way of an update.

The queue is a file of JSON lines beside the state. Several processes of a program share it, and it is replaced whole
each time, so that a crash leaves the old one or the new one. What cannot be queued or sent is logged, and let be.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from filelock import FileLock

from patchify.errors import HttpError, ServerBusyError, SmokeTestError
from patchify.files import write_durably
from patchify.releases import now as _now
from patchify.reports import MOST_BYTES, MOST_REASON, MOST_REPORTS, Batch, Event, Report
from patchify.versions import parse_version

_log = logging.getLogger(__name__)

QUEUE = "reports.jsonl"
"""The name of the file that reports wait in, beside the state."""

MOST_QUEUED = 500  # reports; the oldest go first
_MOST_QUEUE = 1024 * 1024  # bytes; more is read of no queue, as none that was written here is as long
_ENVELOPE = 2048  # bytes of a batch that are kept for what stands around its reports
_PATIENCE = 5.0  # seconds to wait for another process that changes the queue
_REFUSALS = frozenset({400, 404, 405, 413, 415})  # this batch would not be taken another time, either
_OURS = re.compile(r"(?:failed its smoke test: )?[\w ().+-]*", re.ASCII)


@dataclass(frozen=True)
class _Queued:
    """A report in the queue, and the batch that it belongs to once somebody tried to send it."""

    report: Report
    batch: str | None = None

    def to_line(self) -> str:
        return json.dumps({**self.report.to_json(), "batch": self.batch}, ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Read what `to_line` returns. Raises `ValueError`, `TypeError`, `KeyError`, `RecursionError`."""
        members: dict[str, Any] = json.loads(line)
        batch = members.pop("batch")
        return cls(Report.from_json(members), None if batch is None else str(batch))


class Reports:
    """The reports of one installation that wait to be sent. No method raises.

    Args:
        path: The file that they wait in, in a folder that is there; a lock lies beside it.
        send: Sends the body of a batch; raises a `PatchifyError` if it is not accepted.
        now: Gives the time, UTC.
        pause: How long to wait after an attempt that did not succeed, also of another process, one before this.
    """

    def __init__(
        self,
        path: Path,
        send: Callable[[bytes], None],
        now: Callable[[], datetime] = _now,
        pause: timedelta = timedelta(),
    ) -> None:
        self._path = path
        self._send = send
        self._now = now
        self._pause = pause

    def add(self, event: Event | str, version: str, release: str | None = None, reason: str = "") -> None:
        """Queue a report, durably.

        Args:
            event: What happened; an `Event`, or its value.
            version: What runs.
            release: What it happened to, if that is another version or a release of it.
            reason: Why; see `reason_of`. Only its beginning is kept, in which are words of ours: behind a colon or a
                comma stands what somebody else said, and may be a path or a secret.
        """
        try:
            report = Report(
                event=Event(event),
                at=self._now(),
                version=parse_version(version),
                release=None if release is None else parse_version(release),
                reason=_in_our_words(reason)[:MOST_REASON],
            )
            self._change(lambda queue: [*queue, _Queued(report)])
        except Exception as error:
            _log.warning("the report %r on version %s is not queued: %s", event, release or version, error)

    def flush(self, appname: str, platform: str, channel: str, installation: str | None) -> Exception | None:
        """Send the oldest reports, in one batch at most; what is not accepted stays queued for another time.

        A batch that may have arrived is sent again as it is, so that the server can tell. One that the server refuses
        is dropped: it would be refused again.

        Args:
            appname: Which application this is.
            platform: What it runs on.
            channel: Which releases it gets.
            installation: Its id, if it is to be told.

        Returns:
            Why they stay queued, if that was tried and did not succeed.
        """
        try:
            if self._is_too_soon():
                return None
            queue = self._change(_with_batch)
            chosen = [each for each in queue if each.batch is not None and each.batch == queue[0].batch]
            if not chosen:
                return None
            name = str(chosen[0].batch)
            batch = Batch(name, appname, platform, channel, installation, tuple(each.report for each in chosen))
            os.utime(self._path)
            self._deliver(batch)
            self._change(lambda queue: [each for each in queue if each.batch != name])
        except Exception as error:
            _log.info("reports are kept for another time: %s", error)
            return error
        return None

    def _is_too_soon(self) -> bool:
        """Return whether an attempt has failed a moment ago; the file was last written when that was begun."""
        queue = self._read()
        if not queue or queue[0].batch is None:
            return False
        # The time is in whole seconds; a file from further in the future tells of another clock.
        age = self._now().timestamp() - self._path.stat().st_mtime
        return bool(self._pause) and -1 <= age < self._pause.total_seconds()

    def _deliver(self, batch: Batch) -> None:
        """Send a batch. Raises whatever says that it may be accepted another time."""
        try:
            self._send(batch.to_bytes())
        except HttpError as error:
            if error.status not in _REFUSALS:
                raise
            _log.warning("%d reports are dropped: %s", len(batch.reports), error)

    def _change(self, change: Callable[[list[_Queued]], list[_Queued]]) -> list[_Queued]:
        """Replace the queue by what ``change`` makes of it, and return that. Raises `OSError` and `Timeout`."""
        with FileLock(self._path.with_suffix(".lock"), timeout=_PATIENCE, mode=0o600):
            before = self._read()
            after = change(before)[-MOST_QUEUED:]
            if after != before:
                write_durably(self._path, "".join(f"{each.to_line()}\n" for each in after).encode())
            return after

    def _read(self) -> list[_Queued]:
        """Return what is queued; lines that are damaged are passed over."""
        try:
            with self._path.open("rb") as file:
                text = file.read(_MOST_QUEUE).decode(errors="replace")
        except FileNotFoundError:
            return []
        found = []
        for line in text.split("\n"):
            with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
                found.append(_Queued.from_line(line))
        return found


def _with_batch(queue: list[_Queued]) -> list[_Queued]:
    """Return a queue whose oldest reports are a batch, as they are already after an attempt that did not succeed."""
    if not queue or queue[0].batch is not None:
        return queue
    name = secrets.token_hex(16)
    room = MOST_BYTES - _ENVELOPE

    def fits(queued: _Queued) -> bool:
        nonlocal room
        room -= len(queued.to_line().encode())
        return room >= 0

    count = len(list(takewhile(fits, queue[:MOST_REPORTS])))
    return [replace(each, batch=name) for each in queue[:count]] + queue[count:]


def reason_of(error: BaseException) -> str:
    """Return what a report says of an error: its class, and a word of ours on it where there is one.

    Its text is left out, as it may name files, addresses and people.
    """
    if isinstance(error, SmokeTestError):
        code = _in_our_words(error.problem)
    elif isinstance(error, HttpError | ServerBusyError):
        code = f"HTTP status {error.status}"
    else:
        code = errno.errorcode.get(getattr(error, "errno", None) or 0, "")
    return f"{type(error).__name__} ({code})" if code else type(error).__name__


def _in_our_words(text: str) -> str:
    """Return the beginning of a text such as ``ended with exit status 1, saying: …`` that nobody else has written."""
    found = _OURS.match(text)
    return found[0].strip() if found else ""

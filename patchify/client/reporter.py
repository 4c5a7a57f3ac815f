"""What one installation tells the server of its updates, if its owner wants that."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from semver import Version

from patchify.client.config import Config
from patchify.client.installer import Installer
from patchify.client.manners import keep_quiet, wants_quiet
from patchify.client.memory import Memory
from patchify.client.reports import QUEUE, Reports, reason_of
from patchify.errors import (
    DamagedVersionError,
    FailedHashVerificationError,
    PatchifyError,
    SmokeTestError,
    UnsafeArchiveError,
    UnsuitableFormatError,
    WrongVersionError,
)
from patchify.reports import Event

_log = logging.getLogger(__name__)

# What a release can be blamed for. The network and what comes over it, the disk, and who quits may be anybody's fault,
# and what is in quarantine was told of when it came there.
_FAULTS = (
    DamagedVersionError,
    FailedHashVerificationError,
    SmokeTestError,
    UnsafeArchiveError,
    UnsuitableFormatError,
    WrongVersionError,
)


class Reporter:
    """Knows who this is and whether reports are wanted; where they are not, nothing is written and nothing sent.

    Args:
        config: Who tells, and whether.
        installer: Where reports wait to be sent.
        send: Sends the body of a batch; raises a `PatchifyError` if it is not accepted.
    """

    def __init__(self, config: Config, installer: Installer, send: Callable[[bytes], None]) -> None:
        self._config = config
        self._installer = installer
        assert config.least_interval is not None
        path = installer.folder / QUEUE
        self._reports = Reports(path, send, pause=config.least_interval) if config.reports else None

    def tell(self, event: Event, release: Version | None = None, reason: str = "") -> None:
        """Queue a report on a release, by default on the version that runs. Never raises."""
        if self._reports is not None:
            self._reports.add(event, str(self._config.current), None if release is None else str(release), reason)

    def tell_of_failure(self, release: Version, error: PatchifyError) -> None:
        """Queue a report that a release could not be installed, if that is its fault: once for each kind of error.

        Never raises.
        """
        if self._reports is None or not isinstance(error, _FAULTS):
            return
        told = False

        def tell(before: Memory) -> Memory:
            nonlocal told
            failures = _with_failure(before.failure, str(release), type(error).__name__)
            told = failures == before.failure
            return replace(before, failure=failures)

        try:
            self._installer.remember(tell)
        except PatchifyError as problem:
            _log.info("not reported: %s", problem)
            return
        if not told:
            self.tell(Event.FAILED, release, reason_of(error))

    def flush(self) -> None:
        """Send what is queued, as far as the server takes it now. Never raises."""
        if self._reports is None:
            return
        try:
            memory = self._installer.memory()
        except PatchifyError as error:
            _log.info("reports are kept for another time: %s", error)
            return
        appname = self._config.appname or memory.appname
        if appname and not wants_quiet(memory):  # without a name no server would take them
            channel = memory.choices.channel or self._config.channel
            installation = memory.installation if self._config.report_installation else None
            problem = self._reports.flush(appname, self._config.platform, channel, installation)
            if problem is not None:
                keep_quiet(self._installer, problem)

    def flush_soon(self) -> None:
        """As `flush`, in a thread of its own, which nobody waits for."""
        if self._reports is not None:
            with contextlib.suppress(RuntimeError):  # there is no thread to be had; another flush sends it
                threading.Thread(target=self.flush, name="patchify-reports", daemon=True).start()


def _with_failure(failures: str, release: str, kind: str) -> str:
    """Return the kinds of failures of a release that were told, such as ``2.0.0 KindA KindB``, and one more."""
    known, *kinds = failures.split() or [""]
    return " ".join((release, *dict.fromkeys((*kinds, kind)))) if known == release else f"{release} {kind}"

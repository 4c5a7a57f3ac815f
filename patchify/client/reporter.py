"""What one installation tells the server of its updates, if its owner wants that."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from semver import Version

from patchify.client.config import Config
from patchify.client.installer import Installer
from patchify.client.reports import Reports, reason_of
from patchify.errors import PatchifyError
from patchify.reports import Event

_log = logging.getLogger(__name__)


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
        path = installer.folder / "reports.jsonl"
        self._reports = Reports(path, send, pause=config.least_interval) if config.reports else None

    def tell(self, event: Event, release: Version | None = None, reason: str = "") -> None:
        """Queue a report on a release, by default on the version that runs. Never raises."""
        if self._reports is not None:
            self._reports.add(event, str(self._config.current), None if release is None else str(release), reason)

    def tell_of_failure(self, release: Version, error: PatchifyError) -> None:
        """Queue a report that a release could not be installed: once for each kind of error, however often it is tried.

        Never raises. It is not called under the installer's lock.
        """
        failure = f"{release} {type(error).__name__}"
        try:
            if self._reports is None or self._installer.memory().failure == failure:
                return
            with self._installer.lock():
                self._installer.remember(replace(self._installer.memory(), failure=failure))
        except PatchifyError as problem:
            _log.info("not reported: %s", problem)
            return
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
        if appname:  # else it is not known yet, and no server would take them
            channel = memory.choices.channel or self._config.channel
            installation = memory.installation if self._config.report_installation else None
            self._reports.flush(appname, self._config.platform, channel, installation)

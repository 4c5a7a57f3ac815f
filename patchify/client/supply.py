"""How a launcher gets new releases: by an updater in a thread of its own, which only makes them ready."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from dataclasses import replace

from semver import Version

from patchify.client.child import Ears
from patchify.client.config import Config
from patchify.client.installer import Installer
from patchify.client.kinds import installer_for
from patchify.client.plan import Plan
from patchify.client.polling import Poller
from patchify.client.reporter import Reporter
from patchify.client.restarter import Launch, lies_within
from patchify.client.transport import Transport
from patchify.client.updater import Updater
from patchify.errors import PatchifyError
from patchify.reports import Event

_log = logging.getLogger(__name__)

_LEAST = 60.0  # seconds between two looks, unless the interval is shorter


class Supply:
    """Brings new releases and makes them ready, now and then, in a thread of its own.

    Args:
        plan: What it is for.
        config: The configuration for the version that the plan knows.
        ears: Knows the signals that a process started here is to have blocked.
    """

    def __init__(self, plan: Plan, config: Config, ears: Ears) -> None:
        self._plan = plan
        self._config = config
        self._ears = ears
        self._installer = installer_for(plan.target)
        self._poller = Poller(self._tick, plan.interval, min(plan.interval, _LEAST))
        self._post = Transport(config, lambda seconds: False)
        self._reporter = Reporter(config, self._installer, self._post.report)
        self._updater: Updater | None = None
        self._started = False

    def start(self) -> None:
        """Begin, unless that was done."""
        if not self._started:
            self._started = True
            self._poller.start()

    def close(self) -> None:
        """Stop; a download is gone on with another time."""
        if self._updater is not None:
            self._updater.close()
        self._poller.close()
        self._post.close()
        self._installer.retire()

    def tell(self, event: Event, release: Version, reason: str = "") -> None:
        """Tell the server what became of a release, if that is wanted, without waiting for it."""
        if self._config.reports:
            self._reporter.tell(event, release, reason)
            with contextlib.suppress(RuntimeError):  # there is no thread to be had; the next look sends it
                threading.Thread(target=self._reporter.flush, name="patchify-reports", daemon=True).start()

    def _tick(self) -> float:
        # What a smoke test starts is to be able to hear signals. Those that come meanwhile are heard a moment later.
        blocked = signal.pthread_sigmask(signal.SIG_SETMASK, self._ears.before)
        try:
            return self._look()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _look(self) -> float:
        try:
            if not self._installer.elect():
                return 0.0
            version = running_version(self._installer) or self._config.current
        except PatchifyError as error:
            _log.warning("%s", error)
            return 0.0
        if self._updater is None or str(self._updater.config.current) != str(version):
            if self._updater is not None:
                self._updater.close()
            config = replace(self._config, version=version)
            self._updater = Updater(config, installer=installer_for(self._plan.target), launch=launch_of(self._plan))
        return self._updater.tick()


def running_version(installer: Installer) -> Version | None:
    """Return the version of what stands at the program's path, if that is known. Raises `UnableToReadFileError`."""
    known = installer.state().known
    installed = installer.installed() if known else ""
    return next((each.version for each in known if each.sha256 == installed), None)


def launch_of(plan: Plan) -> Launch:
    """Return how the program is started, for the smoke test: which of the words is the program."""
    command = (os.path.abspath(plan.executable), *plan.command[1:])
    found = next((place for place, word in enumerate(command) if lies_within(word, plan.target)), 0)
    script = command[found] if found else ""  # else the program is run by itself
    return Launch(command[0], command, os.getcwd(), frozenset(), os.getpid(), script)

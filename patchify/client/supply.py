"""How a launcher gets new releases: by an updater in a thread of its own, which only makes them ready."""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import closing
from dataclasses import replace

from semver import Version

from patchify.client.child import Ears
from patchify.client.config import Config
from patchify.client.installer import Installer
from patchify.client.kinds import installer_for
from patchify.client.manners import Manners
from patchify.client.plan import Plan
from patchify.client.polling import Poller
from patchify.client.reporter import Reporter
from patchify.client.restarter import Launch, lies_within
from patchify.client.source import Look, Source
from patchify.client.state import Release, Update
from patchify.client.transport import Transport
from patchify.client.trust import PinnedKey
from patchify.client.updater import Updater
from patchify.errors import ConnectionFailedError, PatchifyError
from patchify.reports import Event

_log = logging.getLogger(__name__)

_LEAST = 60.0  # seconds between two looks, unless the interval is shorter
_BRIEF = {"connect_timeout": 3.0, "idle_timeout": 3.0, "document_timeout": 5.0}  # seconds that a start is held up for


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
        self._held: tuple[str, float] = ("", 0.0)  # the hash of a release that is not put in place, and until when

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
        self._reporter.tell(event, release, reason)
        self._reporter.flush_soon()

    def holds(self, release: Release) -> bool:
        """Return whether a release was not to be put in place a while ago, so that it is too early to ask again."""
        sha256, until = self._held
        return release.sha256 == sha256 and time.monotonic() < until

    def allows(self, installer: Installer, update: Update) -> bool:
        """Return whether a release that is ready may be put in place, asking the server once more if it can say so.

        It is forgotten if it was withdrawn or is not wanted any more, and may be put in place if the server cannot be
        reached: that takes seconds only. Whatever is wrong is logged. Called under the lock of ``installer``.
        """
        release = update.release
        try:
            allowed = self._is_good(installer, update)
        except PatchifyError as error:
            _log.warning(
                "version %s is not put in place now, it is tried again later; see that the server, the key and the "
                "clock of this machine are right: %s",
                release.version,
                error,
            )
            installer.note(str(error))
            allowed = False
        self._held = ("", 0.0) if allowed else (release.sha256, time.monotonic() + self._plan.interval)
        return allowed

    def _is_good(self, installer: Installer, update: Update) -> bool:
        release = update.release
        brief = {name: min(getattr(self._config, name), seconds) for name, seconds in _BRIEF.items()}
        config = replace(self._config, version=update.replaces.version, retries=0, **brief)
        with closing(Transport(config, lambda seconds: False)) as transport:
            source = Source(config, transport, PinnedKey(config.verifying_key), installer)
            if not source.wants(release.version, asked=True):
                _log.warning("version %s, which was ready, is not wanted any more and is dropped", release.version)
                installer.forget()
                return False
            taught = installer.memory().taught and config.update_documents != "never"
            if not taught and config.update_documents != "required":
                return True  # the original protocol does not tell of what was withdrawn
            manners = Manners(config, installer)
            if not manners.may_ask():
                return release.sha256 != self._held[0]  # what was withdrawn by then was forgotten
            try:
                return self._is_offered(release, source.look(asked=False), installer)
            except ConnectionFailedError as error:
                manners.keep_quiet(error)
                _log.warning(
                    "version %s is put in place, though it is not known whether it was withdrawn meanwhile; "
                    "see that the server can be reached: %s",
                    release.version,
                    error,
                )
                return True

    def _is_offered(self, release: Release, look: Look, installer: Installer) -> bool:
        """Return whether a look at the server has left a release there, and shown that it is offered to anybody."""
        installer.note("")
        if installer.state().update is None:
            return False  # it was withdrawn, and that was told
        if look.listed is None or release.sha256 in look.listed:
            return True
        _log.warning(
            "version %s is ready but not offered now; it is put in place when it is again, and patchify show on the "
            "server tells why",
            release.version,
        )
        return False

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

"""The story of an update: check → download → verify → stage → wait for the gate → swap → restart.

One operation runs at a time, in this process by a lock and across processes by the installer's. Whatever fails is
logged, announced and leaves the status `Idle`; the next tick tries again. No lock of this file is held while signals,
the network or the host's code run, but the one that says "an operation is under way".
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import WeakSet

from semver import Version

from patchify import signals
from patchify.client.actions import Actions
from patchify.client.config import Config
from patchify.client.installer import FileInstaller, Fraction, Installer
from patchify.client.notifier import Handler, Notifier
from patchify.client.polling import Poller
from patchify.client.restarter import (
    Launch,
    Restarter,
    default_restarter,
    remove_left_behind,
    running_executable,
)
from patchify.client.state import Staged
from patchify.client.status import Checking, Downloading, Idle, Installing, PendingRestart, Restarting, Status
from patchify.client.transport import Transport
from patchify.client.trust import PinnedKey
from patchify.errors import (
    ActionDeniedError,
    ClosedError,
    ConnectionFailedError,
    FailedHashVerificationError,
    NothingStagedError,
    PatchifyError,
    UnableToRestartError,
    UpdateInProgressError,
    WrongVersionError,
)

_log = logging.getLogger(__name__)

_SWAP_PATIENCE = 60.0  # seconds that a restart waits for another process to finish its download
_RESTART_PATIENCE = 300.0  # seconds after which a restart that was left to other hands counts as failed
_GRACE = 0.25  # seconds between the last critical action and the restart, in which a program that ends can say so
_CLOSE_PATIENCE = 5.0  # seconds that closing waits for what is under way
_LONGEST_BACK_OFF = 3600.0  # seconds between ticks after failures, unless the interval itself is longer

_all: WeakSet[Updater] = WeakSet()


class Updater:
    """Keeps a program up to date: asks, downloads, verifies, replaces, restarts when nothing critical is running.

    Make it early, in the main thread: the working directory, the arguments and the signal mask that the new version
    starts with are taken now. Nothing happens before `start`, or before one of the operations is called.

    Args:
        config: Whom to ask and believe, how far to go.
        restarter: How the new version starts. Default: exec on POSIX, a new process on Windows.
        installer: What is replaced. Default: the running program, a single file.
        transport: How bytes travel. Default: requests.

    Raises:
        UnableToObtainExecutableError: it is not clear which file is the program.
    """

    def __init__(
        self,
        config: Config,
        *,
        restarter: Restarter | None = None,
        installer: Installer | None = None,
        transport: Transport | None = None,
    ) -> None:
        self.config = config
        self._launch = Launch.current()
        self._restarter = restarter or default_restarter()
        self._installer = installer or FileInstaller(Path(config.executable or running_executable()))
        self._started_from = self._installer.identity()
        self._given_transport = transport
        self._trust = PinnedKey(config.verifying_key)
        self._actions = Actions(self._go_on_in_background)
        self._notifier = Notifier(self)
        self._begin_anew()
        _all.add(self)

    def _begin_anew(self) -> None:
        """Set up what does not survive a fork: locks, threads, connections, and what they were doing."""
        self._closing = threading.Event()
        self._transport = self._given_transport or Transport(self.config, self._closing.wait)
        self._busy = threading.RLock()
        self._status_lock = threading.Lock()
        self._status: Status = Idle()
        self._available: Version | None = None
        self._staged: Staged | None = None
        self._poller: Poller | None = None
        self._alarm: threading.Timer | None = None
        self._failures = 0
        self._starting = True  # until the first tick
        self._first = True  # until the first tick as the elected one
        self._actions.renew_lock()
        self._actions.reopen()
        self._notifier.renew_lock()
        self._installer.renew_locks()

    # What the host asks and says --------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """What is going on now."""
        return self._status

    @property
    def available(self) -> Version | None:
        """The newer version that the last check found, or None."""
        return self._available

    @property
    def staged(self) -> Version | None:
        """The version that is verified and waits for a restart, or None."""
        return self._staged.version if self._staged else None

    def subscribe(self, handler: Handler) -> Handler:
        """Call ``handler`` with every new status; return it, so that this can be a decorator.

        Handlers run in a thread of their own, in order. One that raises is logged; one that is slow is not waited for.
        """
        self._notifier.subscribe(handler)
        return handler

    def unsubscribe(self, handler: Handler) -> None:
        """Stop calling ``handler``; one that is not subscribed is no error."""
        self._notifier.unsubscribe(handler)

    def register_action(self, reason: str | None = None) -> int | None:
        """Begin a critical action: no restart until it ends.

        Returns:
            How many run now, or None if none may start because a restart is pending or under way.
        """
        return self._actions.register(reason)

    def deregister_action(self, reason: str | None = None) -> int | None:
        """End a critical action; at the last one a pending restart follows, in a thread of its own.

        Returns:
            How many are left, or None if none with this reason was running.
        """
        left = self._actions.deregister(reason)
        if left:
            self._show_wait()
        return left

    def is_safe_to_update(self) -> bool:
        """Return whether no critical action is running. It may change at once; the restart itself makes sure."""
        return self._actions.running()[0] == 0

    @contextlib.contextmanager
    def critical_action(self, reason: str | None = None) -> Iterator[None]:
        """Keep the program from being restarted while the block runs.

        Raises:
            ActionDeniedError: a restart is pending or under way already.
        """
        if self.register_action(reason) is None:
            raise ActionDeniedError
        try:
            yield
        finally:
            self.deregister_action(reason)

    # Life -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Act as configured from now on: finish what was staged, check at once if asked to, then at intervals.

        Of several processes that run the same program, one is elected and acts; the others check at their start, if
        told to, follow when it has replaced the program, and take over at an interval after it has ended. After a fork
        the child does nothing until it calls this itself. Calling it twice is harmless.

        Raises:
            ClosedError: the updater was closed.
        """
        self._refuse_if_closed()
        remove_left_behind()
        with self._status_lock:
            if self._poller is not None:
                return
            interval = self.config.check_interval
            self._poller = Poller(self._elected_tick, interval.total_seconds() if interval else None)
        self._poller.start()

    def close(self) -> None:
        """Stop: no more checks, a download is broken off (and resumed another time), a pending restart is given up.

        Returns after a few seconds at the latest. Calling it twice is harmless.
        """
        self._closing.set()
        self._transport.close()
        if self._poller is not None:
            self._poller.close(_CLOSE_PATIENCE)
        if self._busy.acquire(timeout=_CLOSE_PATIENCE):
            try:
                self._set_alarm(None)
                if isinstance(self.status, PendingRestart):
                    self._stand_down()
            finally:
                self._busy.release()
        self._installer.retire()
        self._notifier.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Operations -------------------------------------------------------------------------------------------------------

    def check(self) -> Version | None:
        """Ask the server; return the newer version there is, or None.

        Raises:
            UpdateInProgressError: something is under way already, in this process or another one.
            PatchifyError: the leaf says what is wrong; the status is `Idle` again.
        """
        with self._operation():
            return self._check()

    def download(self) -> Version | None:
        """Check unless that was done, then download the newer version and verify it. Raises as `check`."""
        with self._operation():
            target = self._download()
            return target[0] if target else None

    def install(self) -> Version | None:
        """Download unless that was done, then make the newer version ready to be swapped in. Raises as `check`."""
        with self._operation():
            return self._stage()

    def restart(self) -> bool:
        """Swap the staged version in and restart, now or as soon as no critical action runs.

        Returns:
            True if the restart is under way by other hands (exec does not return), False if it waits for actions.

        Raises:
            NothingStagedError: call `install` first.
            PatchifyError: as `check`; if the new version could not be started, the old one was put back.
        """
        with self._operation():
            self._staged = self._staged or self._installer.recover()
            if self._staged is None:
                raise NothingStagedError
            return self._restart(self._staged)

    def update(self) -> bool:
        """Check, download, install and restart. Returns as `restart`, and False if there is nothing newer."""
        with self._operation():
            self._available = None
            if self._stage() is None or self._staged is None:
                return False
            return self._restart(self._staged)

    # One iteration ----------------------------------------------------------------------------------------------------

    def tick(self) -> float:
        """Go as far as configured, once; log and announce what fails instead of raising it.

        Returns:
            The seconds to wait at least before the next time: longer after each failure, and as the server asks.
        """
        return self._guarded(self._as_configured)

    def _elected_tick(self) -> float:
        return self._guarded(self._as_elected)

    def _as_elected(self) -> None:
        if self._closing.is_set():
            return
        starting, self._starting = self._starting, False
        if not self._installer.elect():
            if self._installer.identity() != self._started_from:  # the elected one has updated it: this one follows
                self._as_configured()
            elif starting and self.config.check_on_startup:  # what the elected one does is enough; its host may ask
                self.check()
            return
        first, self._first = self._first, False
        if first:
            self._finish_staged()
        if not first or self.config.check_on_startup:
            self._as_configured()

    def _as_configured(self) -> None:
        if isinstance(self.status, PendingRestart | Restarting):
            return
        self._available = None
        {"check": self.check, "download": self.download, "stage": self.install, "restart": self.update}[
            self.config.automatic
        ]()

    def _finish_staged(self) -> None:
        """Go on where an earlier process ended while a release was waiting."""
        with self._operation():
            self._staged = self._installer.recover()
            if self._staged is not None and self._staged.version <= self.config.current:
                self._installer.forget()
                self._staged = None
            if self._staged is not None and self.config.automatic == "restart":
                self._restart(self._staged)

    def _guarded(self, step: Callable[[], object]) -> float:
        try:
            step()
        except UpdateInProgressError as error:
            _log.info("no check now: %s", error)
        except PatchifyError as error:
            _log.warning("%s: %s", type(error).__name__, error)
            return self._back_off(error)
        except Exception as error:
            _log.exception("an update failed unexpectedly")
            return self._back_off(error)
        else:
            self._failures = 0
        return 0.0

    def _back_off(self, error: Exception) -> float:
        """Return the seconds to wait at least, doubling the interval for each failure in a row."""
        interval = self.config.check_interval.total_seconds() if self.config.check_interval else 0.0
        delay = min(interval * 2.0**self._failures, max(interval, _LONGEST_BACK_OFF))
        self._failures = min(self._failures + 1, 16)
        asked = error.retry_after if isinstance(error, ConnectionFailedError) else None
        return max(delay, asked or 0.0)

    # The steps, in their order ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _operation(self) -> Iterator[None]:
        """Let one operation run; afterwards, whatever happened, the status is `Idle` unless a restart is coming."""
        self._refuse_if_closed()
        if not self._busy.acquire(blocking=False):
            raise UpdateInProgressError(f"this updater is busy: {self.status}")
        try:
            if not isinstance(self.status, Idle):
                raise UpdateInProgressError(f"this updater is busy: {self.status}")
            with self._standing_down(), self._installer.lock():
                yield
        finally:
            self._busy.release()

    def _refuse_if_closed(self) -> None:
        if self._closing.is_set():
            raise ClosedError

    @contextlib.contextmanager
    def _standing_down(self) -> Iterator[None]:
        """Return to `Idle` after a failure, telling of it, and after a success without a restart."""
        try:
            yield
        except UpdateInProgressError:
            self._stand_down()
            raise
        except BaseException as error:
            self._available = None
            if isinstance(error, PatchifyError):
                self._notifier.announce(signals.update_failed, error=error)
            self._stand_down()
            raise
        if not isinstance(self.status, PendingRestart | Restarting):
            self._stand_down()

    def _stand_down(self) -> None:
        self._set_alarm(None)
        self._actions.reopen()
        if not isinstance(self.status, Idle):
            self._become(Idle())

    def _check(self) -> Version | None:
        self._become(Checking())
        version = self._trust.latest(self._transport.latest())
        self._available = version if version > self.config.current else None
        if self._available is None:
            _log.info("version %s is the newest there is", self.config.current)
        else:
            _log.info("version %s is available", version)
            self._notifier.announce(signals.update_available, version=version)
        return self._available

    def _download(self) -> tuple[Version, str] | None:
        """Bring the newest version here, unless it is; return it and its hash, None if there is nothing newer."""
        version = self._available or self._check()
        if version is None:
            return None
        sha256 = self._trust.sha256(self._transport.hash(str(version)), version)
        if self._installer.installed() == sha256:
            if self._installer.identity() == self._started_from:
                raise WrongVersionError(released=str(version), running=str(self.config.current))
            _log.info("version %s was already put in place by another process", version)
            self._staged = Staged(version, sha256, replaces=sha256)
        elif not self._installer.is_staged(sha256):
            try:
                self._fetch(version, sha256)
            except FailedHashVerificationError as error:
                # It may have gone on from a beginning that was damaged. Once, from the start, shows whose fault it is.
                _log.warning("%s; downloading it once more", error)
                self._fetch(version, sha256)
        return version, sha256

    def _fetch(self, version: Version, sha256: str) -> None:
        progress = self._progress(lambda percent: Downloading(version, percent))
        self._become(Downloading(version, 0))
        self._staged = None  # whatever it was, it is not there any more
        part = self._installer.part(sha256)
        try:
            self._transport.release(str(version), sha256, part, progress)
            self._installer.stage(version, part, sha256)
        finally:
            part.close()

    def _stage(self) -> Version | None:
        """Make the newest version ready to be swapped in."""
        target = self._download()
        if target is None:
            return None
        version, sha256 = target
        if self._staged is None or self._staged.sha256 != sha256:
            self._become(Installing(version))
            progress = self._progress(lambda percent: Installing(version, percent))
            self._staged = self._installer.prepare(version, sha256, progress)
            _log.info("version %s is staged", version)
        return version

    def _restart(self, staged: Staged) -> bool:
        self._refuse_if_closed()
        if self._actions.shut():
            self._swap_and_restart(staged)
            return True
        actions, reasons = self._actions.running()
        _log.info("version %s waits for %d critical actions: %s", staged.version, actions, ", ".join(reasons))
        self._become(PendingRestart(staged.version, actions, reasons, datetime.now(UTC)))
        self._show_wait()  # one may have ended before the status said that it is waited for
        if self.config.restart_wait_ceiling is not None:
            self._set_alarm(self._tell_of_long_wait, self.config.restart_wait_ceiling.total_seconds())
        return False

    def _go_on_in_background(self) -> None:
        thread = threading.Thread(target=self._go_on, name="patchify-restart", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread now, or the interpreter is shutting down; a later tick or start does the job
            _log.warning("no restart now: there is no thread to be had")
            with self._busy:
                self._stand_down()

    def _go_on(self) -> None:
        """Restart after the last critical action has ended, unless it ended because the program does."""
        self._closing.wait(_GRACE)
        with self._busy:
            staged = self._staged
            if staged is None or self._closing.is_set() or not isinstance(self.status, PendingRestart):
                self._actions.reopen()
                return
            try:
                with self._standing_down(), self._installer.lock(_SWAP_PATIENCE):
                    self._swap_and_restart(staged)
            except PatchifyError as error:
                _log.warning("%s: %s", type(error).__name__, error)
            except Exception:
                _log.exception("a restart failed unexpectedly")

    def _swap_and_restart(self, staged: Staged) -> None:
        """Do what cannot be interrupted: the gate is shut, nothing critical runs."""
        self._refuse_if_closed()
        self._staged = None
        self._become(Restarting(staged.version))
        self._refuse_if_closed()  # that may have taken a moment
        self._installer.swap(staged)
        _log.info("restarting as version %s", staged.version)
        try:
            self._restarter(self._launch)
        except Exception as error:
            self._installer.undo(staged)
            raise UnableToRestartError(
                self._launch.program, error if isinstance(error, OSError) else repr(error)
            ) from error
        self._set_alarm(self._tell_of_no_restart, _RESTART_PATIENCE)

    # What is shown ----------------------------------------------------------------------------------------------------

    def _become(self, status: Status) -> None:
        with self._status_lock:
            if not self._status.may_become(status):
                raise RuntimeError(f"{status} may not follow {self._status}")
            self._status = status
            posted = self._notifier.post(signals.status_changed, status=status)
        _log.debug("status: %s", status)
        self._notifier.wait(posted)

    def _progress(self, status: Callable[[int], Status]) -> Fraction:
        """Return a callable that shows progress, once for each percent at the most."""
        shown = 0

        def show(done: int, total: int) -> None:
            nonlocal shown
            percent = min(100, done * 100 // total) if total else 100
            if percent > shown:
                shown = percent
                self._become(status(percent))

        return show

    def _show_wait(self) -> None:
        """Bring the status up to date with what the restart still waits for."""
        with self._status_lock:  # around both, so that of two that end at once none shows what was before the other
            actions, reasons = self._actions.running()
            status = self._status
            if isinstance(status, PendingRestart) and actions:
                self._status = replace(status, actions=actions, reasons=reasons)
                if self._status != status:
                    self._notifier.post(signals.status_changed, status=self._status)

    def _set_alarm(self, alarm: Callable[[], None] | None, seconds: float = 0) -> None:
        """Call ``alarm`` after a time; there is only one, and None unsets it."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if alarm is not None:
            self._alarm = threading.Timer(seconds, alarm)
            self._alarm.name = "patchify-alarm"
            self._alarm.daemon = True
            with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
                self._alarm.start()

    def _tell_of_long_wait(self) -> None:
        status = self.status
        if isinstance(status, PendingRestart):
            _log.warning("%s: waiting for %d critical actions since %s", status, status.actions, status.since)
            self._notifier.announce(signals.wait_grew_long, status=status)

    def _tell_of_no_restart(self) -> None:
        error = UnableToRestartError(self._launch.program, f"this process still runs after {_RESTART_PATIENCE:g} s")
        with contextlib.suppress(UnableToRestartError), self._busy, self._standing_down():
            _log.error("%s", error)
            raise error


def _begin_anew_after_fork() -> None:
    for updater in _all:
        updater._begin_anew()  # noqa: SLF001 - it is this module's own


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_begin_anew_after_fork)

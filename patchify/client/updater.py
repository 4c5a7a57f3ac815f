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
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

from semver import Version

from patchify import signals
from patchify.client.actions import Actions
from patchify.client.choices import Choices
from patchify.client.config import Config
from patchify.client.fetching import Fetcher
from patchify.client.guarding import is_watching
from patchify.client.installer import Fraction, Installer
from patchify.client.kinds import installer_for
from patchify.client.manners import Manners
from patchify.client.notifier import Handler, Notifier
from patchify.client.polling import Poller
from patchify.client.processes import born_at
from patchify.client.protection import Protection
from patchify.client.reporter import Reporter
from patchify.client.restarter import (
    Launch,
    Restarter,
    default_restarter,
    release_is_at_fault,
    remove_left_behind,
)
from patchify.client.smoke import smoke_test
from patchify.client.source import Look, Offer, Source
from patchify.client.state import Phase, Release, State, Update
from patchify.client.status import Checking, Downloading, Idle, Installing, PendingRestart, Restarting, Status
from patchify.client.transport import Transport
from patchify.client.trial import Trial
from patchify.client.trust import PinnedKey
from patchify.errors import (
    ActionDeniedError,
    ClosedError,
    ConnectionFailedError,
    NothingStagedError,
    PatchifyError,
    QuarantinedError,
    SmokeTestError,
    UnableToGuardError,
    UnableToRestartError,
    UnsafeArchiveError,
    UpdateInProgressError,
    WrongVersionError,
)
from patchify.reports import Event

_log = logging.getLogger(__name__)

_STOCK_PATIENCE = 60.0  # seconds that the look at where the installation stands waits for another process
_SWAP_PATIENCE = 60.0  # seconds that a restart waits for another process to finish its download
_RESTART_PATIENCE = 300.0  # seconds after which a restart that was left to other hands counts as failed
_GRACE = 0.25  # seconds between the last critical action and the restart, in which a program that ends can say so
_CLOSE_PATIENCE = 5.0  # seconds that closing waits for what is under way
_FRESH = 60.0  # seconds that what the server said is taken for true by a call that goes on from there

_all: WeakSet[Updater] = WeakSet()


class Updater:
    """Keeps a program up to date: asks, downloads, verifies, replaces, restarts when nothing critical is running.

    Make it early, in the main thread: the working directory, the arguments and the signal mask that the new version
    starts with are taken now. Nothing happens before `start`, or before one of the operations is called.

    Args:
        config: Whom to ask and believe, how far to go.
        restarter: How the new version starts. Default: exec on POSIX, a new process on Windows.
        installer: What is replaced. Default: the running program, a file or a folder.
        transport: How bytes travel. Default: requests.
        launch: How the program is started. Default: as this process was.

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
        launch: Launch | None = None,
    ) -> None:
        self.config = config
        self._launch = launch or Launch.current()
        self._restarter = restarter or default_restarter()
        self._installer = installer or installer_for(config.executable)
        self._protection = Protection(config, self._installer, self._restarter, self._launch)
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
        # Another one, since two threads may use them at once, and reports are not to be in the way.
        self._post = self._given_transport or Transport(self.config, self._closing.wait)
        self._reporter = Reporter(self.config, self._installer, self._post.report)
        self._source = Source(self.config, self._transport, self._trust, self._installer)
        self._fetcher = Fetcher(self.config, self._installer, self._transport, self._reporter, self._notifier.announce)
        self._busy = threading.RLock()
        self._status_lock = threading.Lock()
        self._status: Status = Idle()
        self._available: Offer | None = None
        self._staged: Update | None = None
        self._poller: Poller | None = None
        self._alarm: threading.Timer | None = None
        self._trial = Trial(self.config, self._installer, self._tell_of_confirmation)
        self._manners = Manners(self.config, self._installer)
        self._looked: float | None = None  # when the server was last asked
        self._found: Look | None = None  # what it said, if that was not made use of yet
        self._starting = True  # until the first tick
        self._stock_taken = False  # tried again at each tick until it was possible
        self._first = True  # until the first tick as the elected one
        self._actions.renew_lock()
        self._actions.reopen()
        self._notifier.renew_lock()
        self._installer.renew_locks()
        self._protection.renew()

    # What the host asks and says --------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """What is going on now."""
        return self._status

    @property
    def available(self) -> Offer | None:
        """What the last check found, with size and notes where the server tells them, or None."""
        return self._available

    @property
    def staged(self) -> Version | None:
        """The version that is verified and waits for a restart, or None."""
        return self._staged.release.version if self._staged else None

    @property
    def on_trial(self) -> bool:
        """Whether the version that runs is on trial: not yet confirmed, and to be taken back if it never is."""
        return self._trial.running

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

    def confirm(self) -> bool:
        """Keep the version that runs for good, as the host has found it to be well; return whether it was on trial.

        It may come before the updater has found out that it is; then it is confirmed at that moment.

        Raises:
            UpdateInProgressError, UnableToWriteStateError: it can be tried again.
        """
        return self._trial.confirm()

    @property
    def choices(self) -> Choices:
        """What the user has chosen; where it says None, what was configured holds. Raises `UnableToReadFileError`."""
        return self._installer.memory().choices

    def choose(self, **choices: Any) -> Choices:
        """Keep choices of the user durably, and return them all. They hold from the next check on.

        Args:
            choices: Any of the attributes of `Choices`, such as ``channel="beta"``; None: as configured.

        Raises:
            ValueError, TypeError: a value is none of that kind; nothing was changed.
            UpdateInProgressError, FileOperationError: it can be tried again.
        """
        return self._decide(lambda before: replace(before, **choices))

    def skip(self, version: Version | str | None = None) -> None:
        """Never install a version, by default the available one; if it is staged already, it is dropped.

        Raises as `choose`, and `ValueError` if no version is available.
        """
        skipped = self._meant(version)
        self._decide(lambda before: before.skipping(skipped))

    def remind(self, after: timedelta, version: Version | str | None = None) -> None:
        """Let a version be, by default the available one, for a time, unless a person asks for it.

        Raises as `choose`, and `ValueError` if no version is available, or for a time beyond all measure.
        """
        later = self._meant(version)
        try:
            until = datetime.now(UTC) + after
        except OverflowError as error:
            raise ValueError(f"{after} is too long to wait") from error
        self._decide(lambda before: before.putting_off(later, until))

    def _meant(self, version: Version | str | None) -> str:
        if version is None and self._available is None:
            raise ValueError("no version is available; say which one is meant")
        return str(version or self._available)

    def _decide(self, decide: Callable[[Choices], Choices]) -> Choices:
        """Change what the user has chosen, and let go of what is staged if it is not wanted any more.

        What is under way is not waited for: it looks at the choices again before it goes further.
        """
        channel = self._source.channel
        choices = self._installer.remember(lambda before: replace(before, choices=decide(before.choices))).choices
        self._available = None
        with contextlib.suppress(UpdateInProgressError), self._not_busy(), self._installer.lock():
            update = self._installer.state().update
            if update is not None and update.phase is Phase.STAGED:
                version = update.release.version
                if self._source.channel != channel or not self._source.wants(version, asked=True):
                    self._let_go(version)
                elif not self._source.wants(version, asked=False):  # put off: it stays, and nothing waits for it
                    self._drop()
        return choices

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
            if self._installer.state().on_trial is not None:
                self._trial.listen()
            interval, least = self.config.check_interval, self.config.least_interval
            assert least is not None
            seconds = interval.total_seconds() if interval else None
            self._poller = Poller(self._elected_tick, seconds, least.total_seconds())
        self._poller.start()

    def close(self) -> None:
        """Stop: no more checks, a download is broken off (and resumed another time), a pending restart is given up.

        A program on trial that closes its updater counts as ended in good order. Returns after a few seconds at the
        latest. Calling it twice is harmless.
        """
        self._close(orderly=True)

    def _close(self, *, orderly: bool) -> None:
        self._trial.close(orderly=orderly and not self._closing.is_set())
        self._closing.set()
        self._transport.close()
        self._post.close()
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
        failed = kind is not None and not (
            issubclass(kind, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in (None, 0))
        )
        self._close(orderly=not failed)

    # Operations -------------------------------------------------------------------------------------------------------

    def check(self) -> Version | None:
        """Ask the server; return the newer version there is, or None; `available` tells more of it.

        This is a person's own check, and so are the operations below: it waits neither for a staged rollout nor for
        what was put off.

        Raises:
            UpdateInProgressError: something is under way already, in this process or another one.
            PatchifyError: the leaf says what is wrong; the status is `Idle` again.
        """
        with self._operation():
            return self._check(asked=True)

    def download(self) -> Version | None:
        """Check unless that was done, then download the newer version and verify it. Raises as `check`."""
        with self._operation():
            target = self._download(asked=True)
            return target.version if target else None

    def install(self) -> Version | None:
        """Download unless that was done, then make the newer version ready to be swapped in. Raises as `check`."""
        with self._operation():
            return self._stage(asked=True)

    def restart(self) -> bool:
        """Swap the staged version in and restart, now or as soon as no critical action runs.

        Returns:
            True if the restart is under way by other hands (exec does not return), False if it waits for actions.

        Raises:
            NothingStagedError: call `install` first.
            PatchifyError: as `check`; if the new version could not be started, the old one was put back.
        """
        with self._operation():
            self._staged = self._staged or self._waiting()
            if self._staged is None or not self._is_still_good(self._staged, asked=True):
                self._staged = None
                raise NothingStagedError
            return self._restart(self._staged)

    def update(self) -> bool:
        """Check, download, install and restart. Returns as `restart`, and False if there is nothing newer."""
        with self._operation():
            return self._update(asked=True)

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
        if not self._stock_taken:
            self._take_stock()
            self._stock_taken = True
        if not self._installer.elect():
            if self._installer.identity() != self._started_from:  # the elected one has updated it: this one follows
                self._follow()
            elif starting and self.config.check_on_startup and self._manners.may_ask():
                with self._operation():  # what the elected one does is enough; but its host may want to know
                    self._check(asked=False)
            return
        first, self._first = self._first, False
        if self._was_taken_back():
            self._follow()
            return
        if first:
            self._finish_staged()
        if not first or self.config.check_on_startup:
            self._as_configured()

    def _as_configured(self) -> None:
        if isinstance(self.status, Restarting) or not self._manners.may_ask():
            return
        if isinstance(self.status, PendingRestart):
            self._reconsider()
            return
        self._available = None
        decided = self._installer.state().on_trial is None  # else nothing goes further until it is
        with self._operation():
            {"check": self._check, "download": self._download, "stage": self._stage, "restart": self._update}[
                self.config.automatic if decided else "check"
            ](asked=False)

    def _reconsider(self) -> None:
        """Give up a restart that waits if its release was withdrawn meanwhile, or let go by another process."""
        with self._not_busy(), self._installer.lock():
            try:
                if self._installer.memory().taught:  # only update documents tell of what was withdrawn
                    self._look(asked=False)
                    self._installer.note("")
            finally:
                staged, update = self._staged, self._installer.state().update
                followed = staged is not None and staged.replaces == staged.release  # nothing is staged for that
                if staged is not None and not followed and (update is None or update.release != staged.release):
                    self._drop()

    def _let_go(self, version: Version) -> None:
        """Forget what is staged, since it is not wanted any more."""
        _log.info("version %s, which was ready, is not wanted any more and is dropped", version)
        self._installer.forget()
        self._drop()

    def _drop(self) -> None:
        """Go for nothing that is staged, and wait for no restart."""
        self._staged = None
        if isinstance(self.status, PendingRestart):
            self._stand_down()

    def _take_stock(self) -> None:
        """Find out how the last update went, in the first iteration of every process: tell of it, or be on trial."""
        state = self._installer.state()
        if state.update is None and state.untold is None:
            return
        with self._operation(_STOCK_PATIENCE):
            state = self._installer.recover()
            if state.untold is not None and str(state.untold.release.version) != str(self.config.version):
                self._tell_of_untold(state)  # it is for the version that survives to tell
            trial = state.on_trial
            if trial is None or self._installer.identity() != self._started_from:  # or this is an older process
                return
            unwatched = not is_watching(self._installer)
            reported = trial.process is not None
            gone = reported and (not trial.born or born_at(trial.process or 0) != trial.born)
            if unwatched and (gone or (not reported and self.config.guardian)):
                state = self._installer.resume("was ended before it was confirmed")
                if state.on_trial is None:  # it was once too often
                    self._tell_of_untold(state)
                    self._restart(Update(trial.replaces, trial.replaces))
                    return
            self._begin_trial(trial, unwatched=unwatched)

    def _begin_trial(self, update: Update, *, unwatched: bool) -> None:
        version = update.release.version
        _log.info("version %s is on trial", version)
        problem = ""
        if str(version) != str(self.config.version):
            problem = str(WrongVersionError(released=str(version), running=str(self.config.current)))
            _log.error("%s", problem)
        if self.config.guardian and unwatched:
            try:  # the machine was started anew, perhaps
                self._protection.again()
            except UnableToGuardError as error:  # it can prove good all the same
                _log.warning("%s", error)
        self._trial.begin(problem)

    def _waiting(self) -> Update | None:
        """Return the release that an earlier process has left ready, if it is of use."""
        update = self._installer.recover().update
        if update is None or update.phase is not Phase.STAGED or not self._installer.is_staged(update.release.sha256):
            return None
        downgrade = update.release.version < update.replaces.version  # it was ordered
        if update.release.version <= self.config.current and not downgrade:
            if not update.failures and not update.interruptions:  # else this may be what was on trial
                self._installer.forget()
            return None
        return update

    def _finish_staged(self) -> None:
        """Go on where an earlier process ended while a release was waiting."""
        if self._installer.state().update is None:
            return
        with self._operation():
            staged = self._waiting()
            if staged is not None and self._is_still_good(staged, asked=False):
                self._staged = staged
                if self.config.automatic == "restart":
                    self._restart(staged)

    def _is_still_good(self, staged: Update, *, asked: bool) -> bool:
        """Return whether what is staged is still wanted and offered, asking once more if the server can say so now."""
        version = staged.release.version
        if staged.replaces == staged.release:  # another process has put it in place
            return True
        if not self._source.wants(version, asked=True):
            self._let_go(version)
            return False
        if not self._source.wants(version, asked=asked):
            return False  # put off
        known = self._is_fresh() or not self._installer.memory().taught
        return known or not (asked or self._manners.may_ask()) or self._is_offered(staged.release, asked=asked)

    def _is_offered(self, release: Release, *, asked: bool) -> bool:
        """Ask whether a release is still offered to anybody; it is if the server cannot be reached."""
        try:
            look = self._found = self._look(asked=asked)
        except ConnectionFailedError as error:
            self._manners.keep_quiet(error)
            _log.warning("not known whether version %s was withdrawn: %s", release.version, error)
            return True
        except PatchifyError as error:
            _log.warning("version %s is not put in place now: %s", release.version, error)
            return False
        self._installer.note("")
        if look.listed is None or release.sha256 in look.listed:
            return True
        _log.info("version %s, which was ready, is not offered now", release.version)
        return False

    def _look(self, *, asked: bool) -> Look:
        """Ask the server what there is, and remember when that was."""
        look = self._source.look(asked=asked)
        self._looked = time.monotonic()
        return look

    def _is_fresh(self) -> bool:
        """Return whether this process has asked the server a moment ago."""
        return self._looked is not None and time.monotonic() - self._looked < _FRESH

    def _was_taken_back(self) -> bool:
        """Return whether the version that runs was taken back under it, so that it should become the one before."""
        state = self._installer.state()
        lost = [bad.release for bad in state.bad]
        if state.update is not None and state.update.phase is Phase.STAGED:
            lost.append(state.update.release)
        running = str(self.config.version)
        if self.config.automatic != "restart" or running not in {str(release.version) for release in lost}:
            return False
        good = state.good
        return good is not None and str(good.version) != running and self._installer.installed() == good.sha256

    def _follow(self) -> None:
        """Become what another process has put in place, once that is decided."""
        with self._operation():
            state = self._installer.recover()
            good = state.good
            if state.on_trial is None and good is not None and self._installer.installed() == good.sha256:
                self._restart(Update(good, good))

    def _guarded(self, step: Callable[[], object]) -> float:
        try:
            step()
        except UpdateInProgressError as error:
            _log.info("no check now: %s", error)
        except PatchifyError as error:
            _log.warning("%s: %s", type(error).__name__, error)
            return self._manners.failed(error)
        except Exception as error:
            _log.exception("an update failed unexpectedly")
            return self._manners.failed(error)
        else:
            self._manners.went_well()
        finally:
            self._reporter.flush()
        return 0.0

    # The steps, in their order ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _operation(self, patience: float = 0) -> Iterator[None]:
        """Let one operation run; afterwards, whatever happened, the status is `Idle` unless a restart is coming."""
        self._refuse_if_closed()
        with self._not_busy():
            if not isinstance(self.status, Idle):
                raise UpdateInProgressError(f"this updater is busy: {self.status}")
            with self._standing_down(), self._installer.lock(patience):
                yield

    @contextlib.contextmanager
    def _not_busy(self, patience: float = 0) -> Iterator[None]:
        """Be the only thread that changes where this updater stands."""
        if not self._busy.acquire(timeout=patience):
            raise UpdateInProgressError(f"this updater is busy: {self.status}")
        try:
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
            offer, self._available = self._available, None
            if isinstance(error, PatchifyError):
                self._manners.keep_quiet(error)
                if offer is not None:
                    self._reporter.tell_of_failure(offer.version, error)
                self._installer.note(str(error))
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

    def _check(self, *, asked: bool) -> Version | None:
        self._become(Checking())
        found, self._found = self._found, None
        look = found if found is not None and not asked and self._is_fresh() else self._look(asked=asked)
        if self._installer.state().update is None:
            self._staged = None  # it was withdrawn
        self._available = look.offer
        if look.offer is not None:
            _log.info("version %s is available", look.offer)
            self._notifier.announce(signals.update_available, version=look.offer.version, offer=look.offer)
        else:
            _log.info("there is nothing newer than version %s for this installation", self.config.current)
        if look.withdrawn:
            replacement = look.offer and look.offer.version
            self._notifier.announce(signals.version_withdrawn, version=self.config.current, replacement=replacement)
        self._installer.note("")
        self._reporter.tell(Event.CHECKED)
        return None if look.offer is None else look.offer.version

    def _update(self, *, asked: bool) -> bool:
        self._available = None
        with contextlib.ExitStack() as stack:
            if self._find(asked=asked) is None:
                return False
            follows = self._installer.identity() != self._started_from
            if self.is_safe_to_update() and not follows:  # else there is time enough, or nothing to watch
                stack.enter_context(self._protection.early())
            if self._stage(asked=asked) is None or self._staged is None:
                return False
            return self._restart(self._staged)

    def _find(self, *, asked: bool) -> Offer | None:
        """Return what there is to install, None if there is nothing newer; the server is asked unless it just was."""
        trial = self._installer.state().on_trial
        if trial is not None:
            raise UpdateInProgressError(f"version {trial.release.version} is on trial: it has to be confirmed first")
        if self._available is None or not self._is_fresh():
            self._check(asked=asked)
        return self._available

    def _download(self, *, asked: bool) -> Release | None:
        """Bring the newest version here, unless it is; return it, None if there is nothing newer."""
        offer = self._find(asked=asked)
        if offer is None:
            return None
        version = offer.version
        release = Release(version, self._source.sha256(offer))
        bad = self._installer.state().quarantined(release.sha256)
        if bad is not None:
            raise QuarantinedError(str(version), bad.reason)
        if self._installer.installed() == release.sha256:
            if self._installer.identity() == self._started_from:
                raise WrongVersionError(released=str(version), running=str(self.config.current))
            _log.info("version %s was already put in place by another process", version)
            self._staged = Update(release, release)
        elif not self._installer.is_staged(release.sha256):
            self._staged = None  # whatever it was, it is not there any more
            self._fetcher.fetch(release, offer, lambda: self._begin_download(version))
        return release

    def _begin_download(self, version: Version) -> Fraction:
        self._become(Downloading(version, 0))
        return self._progress(lambda percent: Downloading(version, percent))

    def _stage(self, *, asked: bool) -> Version | None:
        """Make the newest version ready to be swapped in."""
        release = self._download(asked=asked)
        if release is None:
            return None
        if self._staged is None or self._staged.release != release:
            self._become(Installing(release.version))
            progress = self._progress(lambda percent: Installing(release.version, percent))
            try:
                if not self._source.wants(release.version, asked=asked):  # its user has decided meanwhile
                    _log.info("version %s is not wanted any more", release.version)
                    self._available = None
                    return None
                self._smoke_test(release, progress)
                self._staged = self._installer.prepare(release, self.config.current, progress)
            except (SmokeTestError, UnsafeArchiveError) as error:  # it will not be better another time
                self._installer.quarantine(release, error.reason)
                self._tell_of_bad(release, error.reason)
                raise
            _log.info("version %s is staged", release.version)
            self._reporter.tell(Event.STAGED, release.version)
        return release.version

    def _smoke_test(self, release: Release, progress: Fraction) -> None:
        """Run the release as configured, while nothing was touched."""
        if self.config.smoke_test is None:
            return
        self._installer.make_ready(release, progress)
        command = self._installer.trial_launch(self._launch, release, tuple(self.config.smoke_test))
        seconds = self.config.smoke_timeout.total_seconds()
        smoke_test(command, str(release.version), seconds, self._installer.folder)

    def _restart(self, update: Update) -> bool:
        self._refuse_if_closed()
        if self._actions.shut():
            self._swap_and_restart(update)
            return True
        version = update.release.version
        actions, reasons = self._actions.running()
        _log.info("version %s waits for %d critical actions: %s", version, actions, ", ".join(reasons))
        self._become(PendingRestart(version, actions, reasons, datetime.now(UTC)))
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

    def _swap_and_restart(self, update: Update) -> None:
        """Do what cannot be interrupted: the gate is shut, nothing critical runs."""
        self._refuse_if_closed()
        self._staged = None
        self._become(Restarting(update.release.version))
        self._refuse_if_closed()  # that may have taken a moment
        launch = self._installer.launch(self._launch)
        trial = self._installer.state().on_trial
        if trial is not None and update.replaces != update.release:
            raise UpdateInProgressError(f"version {trial.release.version} is on trial: it has to be confirmed first")
        with self._protection.during(update) as guarded:
            swapped = self._installer.swap(update, self.config.trial_tries)
            _log.info("restarting as version %s", update.release.version)
            if guarded is not None:
                guarded.go()
            try:
                self._restarter(launch)
            except Exception as error:
                cause = error if isinstance(error, OSError) else repr(error)
                if swapped:
                    failed = True if release_is_at_fault(error, launch, self._installer.path) else None
                    state = self._installer.give_back(f"cannot be started: {cause}", failed=failed)
                    self._tell_of_untold(state)
                raise UnableToRestartError(launch.program, cause) from error
            if guarded is not None:
                guarded.release()
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

    def _tell_of_confirmation(self) -> None:
        _log.info("version %s is confirmed", self.config.current)
        self._reporter.tell(Event.RUNNING)
        self._notifier.announce(signals.update_confirmed, version=self.config.current)
        self._reporter.flush_soon()

    def _tell_of_untold(self, state: State) -> None:
        bad = state.untold
        if bad is not None:
            _log.error("version %s was rolled back: it %s", bad.release.version, bad.reason)
            self._reporter.tell(Event.ROLLED_BACK, bad.release.version, bad.reason)
            self._tell_of_bad(bad.release, bad.reason)

    def _tell_of_bad(self, release: Release, reason: str) -> None:
        self._notifier.announce(signals.rolled_back, version=release.version, sha256=release.sha256, reason=reason)
        self._installer.told()

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

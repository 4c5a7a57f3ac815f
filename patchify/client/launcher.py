"""``patchify run``: keeps a program up to date that need not know of it, in any language, and is above it all the time.

The launcher starts the program as its child, passes signals and the exit status on, and is the guardian of every trial:
its own, or that of a program that embeds the client. It downloads and stages beside the running program; the swap
happens while none runs. Of several launchers of one installation one keeps it, the others only run the program.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time

from filelock import Timeout

from patchify import signals
from patchify.client.child import Child, Ears
from patchify.client.guarding import LAUNCHER
from patchify.client.kinds import installer_for
from patchify.client.locks import guardian_lock
from patchify.client.plan import Plan
from patchify.client.processes import born_at, judge
from patchify.client.restarter import environment, release_is_at_fault, unless_busy
from patchify.client.state import Phase, State, Update
from patchify.client.supply import Supply, launch_of
from patchify.client.trial import Trial
from patchify.client.watch import Watch, give_back
from patchify.errors import PatchifyError, UpdateInProgressError
from patchify.reports import Event

_log = logging.getLogger(__name__)

_LOOK = 0.5  # seconds between two looks at the installation; one is a stat
_STEP = 0.2  # seconds between two of them during a trial
_PAUSE = 1.0  # seconds before a version that failed is tried again, or a program that ended is started again
_LOCK_PATIENCE = 10.0  # seconds
_KEEP_EVERY = 5.0  # seconds after which a launcher looks whether the installation is kept by no other one any more


class Launcher:
    """Runs a program until it ends. Make it and call `run` in the main thread.

    Args:
        plan: What to run and how to keep it up to date.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._installer = installer_for(plan.target)
        self._ears = Ears(takes_usr2=plan.restart == "on-signal")
        self._guarding = guardian_lock(self._installer.folder)
        self._kept_at = -_KEEP_EVERY
        self._supply = Supply(plan, plan.config, self._ears) if plan.config is not None else None
        self._child: Child | None = None
        self._trial: Trial | None = None
        self._watched: Update | None = None  # the trial of the child, as long as it is not known how it ended
        self._started_from: object = None  # what stood at the program's path when the child was started
        self._swapped = False  # just now, by this launcher
        self._given_up: set[str] = set()  # releases whose swap failed
        self._seen: tuple[object, State] = (None, State())

    def run(self) -> int:
        """Run the program, and its successors; return how the last one ended, as ``os.waitpid`` does.

        Raises:
            OSError: it cannot be started.
        """
        with self._ears:
            try:
                while (status := self._round()) is None:
                    pass
                return status
            finally:
                self._end_trial()
                if self._supply is not None:
                    self._supply.close()
                self._installer.retire()
                self._guarding.release(force=True)

    # One process of the program ---------------------------------------------------------------------------------------

    def _round(self) -> int | None:
        """Start what is to be run and see it to its end; return its status, or None if something is started again."""
        self._keep()
        trial = self._settle()
        if self._ears.asked:
            return self._ears.asked
        self._started_from = self._installer.identity()
        try:
            child = self._start()
        except OSError as error:
            if trial is None:
                raise
            failed = release_is_at_fault(error, launch_of(self._plan), self._installer.path) or None
            self._given_up.update(() if failed else (trial.release.sha256,))
            self._take_back(f"cannot be started: {error.strerror}", failed=failed)
            return None
        self._child = self._ears.child = child
        try:
            if trial is not None:
                _log.info("version %s runs on trial", trial.release.version)
                self._prove(child)
            if self._supply is not None and self._keeps:
                self._supply.start()
            return self._attend(child)
        finally:
            self._child = self._ears.child = None
            self._end_trial()
            child.close()

    def _start(self) -> Child:
        told = {name: value for name, value in environment().items() if not name.startswith(f"{LAUNCHER}_")}
        told[LAUNCHER] = str(os.getpid())
        pid = unless_busy(
            lambda: os.posix_spawn(
                self._plan.executable,
                self._plan.command,
                told,
                setsigmask=self._ears.before,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
            )
        )
        return Child(pid, self._ears.hear, self._plan.stop_timeout)

    def _attend(self, child: Child) -> int | None:
        """Be with the child until it has ended, by itself or for a successor; return as `_round`."""
        watch: Watch | None = None
        while True:
            trial = self._trial_of(child)
            if trial is None:
                watch = None
                if child.wait(_LOOK):
                    return self._ended(child)
                if self._make_way(child):
                    return child.exit_status if self._ears.asked else None
                continue
            self._watched = trial
            watch = watch or Watch(self._installer, child, handover="same", patience=self._plan.trial_timeout)
            if child.wait(_STEP):
                return self._ended(child)
            fate = watch.look(0)
            if fate is not None:
                return self._failed_or_not(child, *fate)

    def _ended(self, child: Child) -> int | None:
        trial = self._trial_of(child)
        if trial is None:
            return self._again(child)
        asked = self._ears.asked_name or self._installer.ended(child.pid) or self._installer.ended(trial.process or 0)
        return self._failed_or_not(child, *judge(child.status(), asked))

    def _failed_or_not(self, child: Child, failed: bool, reason: str) -> int | None:
        trial = self._installer.state().on_trial
        if trial is None:
            return self._again(child)
        if failed:
            return None if self._take_back(reason, failed=True) else child.exit_status
        if self._ears.asked:
            self._take_back(reason, failed=False)
            return child.exit_status
        if trial.process is None and self._installer.identity() != self._started_from:
            _log.info("the program has ended for version %s, which is started now", trial.release.version)
            self._swapped = True
            return None
        if self._plan.confirm_on_success and child.exit_status == 0 and self._confirmed():
            self._trial_of(child)
            return self._again(child)
        self._take_back(reason, failed=False)
        return self._again(child)

    def _again(self, child: Child) -> int | None:
        """Return the status, unless the program is to be kept running."""
        if not self._plan.keep_running or self._ears.asked:
            return child.exit_status
        _log.info("the program %s; it is started again", judge(child.exit_status, "")[1])
        self._ears.pause(_PAUSE)
        return None

    # The installation -------------------------------------------------------------------------------------------------

    @property
    def _keeps(self) -> bool:
        return bool(self._guarding.is_locked)

    def _keep(self) -> None:
        """Be the one launcher that keeps the installation, if there is no other one."""
        now = time.monotonic()
        if self._keeps or now - self._kept_at < _KEEP_EVERY:
            return
        first, self._kept_at = self._kept_at < 0, now
        if self._installer.identity() is None:
            return  # there is no program, and that will be said
        try:
            with contextlib.suppress(UpdateInProgressError), self._installer.lock():
                pass  # the folder is there now
            self._guarding.acquire(timeout=0)
        except Timeout:
            if first:
                _log.warning(
                    "%s: another process looks after the updates; this one only runs it, until it can take over",
                    self._installer.path,
                )
        except (PatchifyError, OSError) as error:
            if first:
                _log.warning("there are no updates: %s; mend that and start anew", error)

    def _state(self) -> State:
        """Return what is remembered; the file is read only if it is another one than before."""
        try:
            found = os.stat(self._installer.state_path)
        except OSError:
            return State()
        identity = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._seen[0] != identity:
            self._seen = (identity, self._installer.state())
        return self._seen[1]

    def _settle(self) -> Update | None:
        """Leave a program at its path that is to be started now; return the update if it is on trial."""
        swapped, self._swapped = self._swapped, False
        state = self._state()
        untold = state.untold is not None and self._plan.config is not None
        if not self._keeps or (state.update is None and not untold):
            return None
        try:
            with self._installer.lock(_LOCK_PATIENCE):
                state = self._installer.recover()
                if state.on_trial is not None and not swapped:
                    _log.info("the trial of version %s was interrupted", state.on_trial.release.version)
                    state = self._installer.give_back("the launcher was ended in the middle of it", failed=False)
                if state.update is None:
                    self._tell(state)
                if self._is_due(state.update, starting=True) and self._may_swap(state):
                    self._swap(state)
                state = self._installer.state()
        except PatchifyError as error:
            _log.error("%s; what is there is started, and the rest is done at the next start if that is mended", error)
            state = self._installer.state()
        return state.on_trial

    def _is_due(self, update: Update | None, *, starting: bool) -> bool:
        """Return whether a release is ready and may be put in place."""
        if self._plan.config is None or not self._keeps or update is None or update.phase is not Phase.STAGED:
            return False
        moment = self._plan.restart == "at-once" or (starting and self._plan.restart == "on-exit")
        if update.failures or update.interruptions:  # its moment was there already
            moment = True
        held = self._supply is not None and self._supply.holds(update.release)
        if not self._ears.wanted and (not moment or held or update.release.sha256 in self._given_up):
            return False
        return self._installer.is_staged(update.release.sha256)

    def _may_swap(self, state: State) -> bool:
        """Return whether the release that is due may be put in place, as far as the server can tell."""
        assert state.update is not None
        assert self._supply is not None
        allowed = self._supply.allows(self._installer, state.update)
        self._ears.wanted = self._ears.wanted and allowed
        return allowed

    def _swap(self, state: State) -> None:
        update, config = state.update, self._plan.config
        assert update is not None
        assert config is not None
        self._ears.wanted = False
        try:
            self._installer.swap(update, config.trial_tries)
        except PatchifyError:
            self._given_up.add(update.release.sha256)
            raise
        self._swapped = True

    def _make_way(self, child: Child) -> bool:
        """End the child if it has a successor; return whether it has."""
        self._keep()
        if self._supply is None or self._ears.asked:
            return False
        if self._keeps:
            self._supply.start()
        state = self._state()
        if self._ears.wanted and (state.update is None or state.update.phase is not Phase.STAGED):
            self._ears.wanted = False
            _log.info("no update is ready; patchify status %s shows what there is", self._installer.path)
        try:
            return self._succeed(child) if self._is_due(state.update, starting=False) else self._follow(child, state)
        except UpdateInProgressError:
            return False  # it is tried again soon
        except PatchifyError as error:
            _log.error("%s; mend that, and the update is made at the next start", error)
            return not child.alive

    def _succeed(self, child: Child) -> bool:
        """End the child and put the release that is ready in its place; return whether it has ended."""
        with self._installer.lock():
            state = self._installer.recover()
            if not self._is_due(state.update, starting=False) or not self._may_swap(state):
                return False
            assert state.update is not None
            _log.info("version %s is ready; the program is ended", state.update.release.version)
            child.end()
            if child.alive:
                self._given_up.add(state.update.release.sha256)
                _log.error(
                    "process %d cannot be ended; end it by hand, and version %s is put in place at the next start",
                    child.pid,
                    state.update.release.version,
                )
                return False
            if not self._ears.asked:
                self._swap(state)
            return True

    def _follow(self, child: Child, state: State) -> bool:
        """End the child if another launcher, or ``patchify rollback``, has put another good version in place."""
        identity = self._installer.identity()
        if identity in (None, self._started_from) or self._plan.restart != "at-once":
            return False
        if state.update is not None or state.good is None:
            return False
        self._started_from = identity  # it is looked at once
        if self._installer.installed() != state.good.sha256:
            return False
        _log.info("version %s was put in place; the program is ended", state.good.version)
        child.end()
        return not child.alive

    # The trial --------------------------------------------------------------------------------------------------------

    def _trial_of(self, child: Child) -> Update | None:
        """Return the trial if it is this child's, and tell if it was and has ended well."""
        trial = self._state().on_trial
        if trial is not None:
            if trial.process is None:
                return trial if self._keeps else None
            gone = self._keeps and not born_at(trial.process)  # a worker, most likely
            return trial if gone or self._watched is not None or child.has(trial.process) else None
        watched, self._watched = self._watched, None
        good = self._state().good
        if watched is not None and good == watched.release:
            _log.info("version %s is confirmed", good.version)
            signals.emit(signals.update_confirmed, self, version=good.version)
            if self._supply is not None:
                self._supply.tell(Event.RUNNING, good.version)
            self._end_trial()
        return None

    def _prove(self, child: Child) -> None:
        """Confirm the version that runs if it is well; one that embeds the client may do so first."""
        if self._plan.config is None:
            return
        trial = Trial(self._plan.config, installer_for(self._plan.target), lambda: None, child.pid)
        try:
            with self._installer.lock(_LOCK_PATIENCE):
                trial.begin()
        except PatchifyError as error:
            _log.error("%s; the version on trial can be confirmed only if that is mended", error)
        self._trial = trial

    def _end_trial(self) -> None:
        if self._trial is not None:
            self._trial.close(orderly=False)
            self._trial = None

    def _confirmed(self) -> bool:
        try:
            with self._installer.lock(_LOCK_PATIENCE):
                self._installer.confirm()
        except PatchifyError as error:
            _log.error("%s; the version on trial is not confirmed, and tried again at the next start", error)
            return False
        return True

    def _take_back(self, reason: str, *, failed: bool | None) -> bool:
        """Put the previous version back; return whether there is one that can be started. None as `give_back`."""
        self._end_trial()
        trial = self._watched = self._installer.state().on_trial
        if trial is None:
            return True
        self._watched = None
        try:
            if failed is None:
                with self._installer.lock(_LOCK_PATIENCE):
                    state = self._installer.give_back(reason, failed=None)
            else:
                state = give_back(self._installer, reason, failed=failed, pause=self._ears.pause)
        except Exception as error:
            _log.error(
                "version %s %s, and cannot be taken back; mend that and start anew, or put a good version at %s: %s",
                trial.release.version,
                reason,
                self._installer.path,
                error,
            )
            return False
        if state.update is not None:
            update = state.update
            count = f"failure {update.failures}, {update.tries} are tolerated" if failed else "which is no failure"
            _log.warning("version %s %s (%s); it will be tried again", trial.release.version, reason, count)
            if failed:
                self._ears.pause(_PAUSE)
        else:
            with contextlib.suppress(PatchifyError), self._installer.lock(_LOCK_PATIENCE):
                self._tell(state)
        return True

    def _tell(self, state: State) -> None:
        """Tell of what was taken back; a program that keeps itself up to date does so as well."""
        bad = state.untold
        if bad is None:
            return
        _log.error(
            "version %s was taken back and is never tried again: it %s; publish one that is mended",
            bad.release.version,
            bad.reason,
        )
        signals.emit(
            signals.rolled_back, self, version=bad.release.version, sha256=bad.release.sha256, reason=bad.reason
        )
        if self._plan.config is not None:
            self._installer.told()
        if self._supply is not None:
            self._supply.tell(Event.ROLLED_BACK, bad.release.version, bad.reason)

"""Who watches a new version from outside, and when that has to be there: a guardian, a launcher, or nobody."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from patchify.client.config import Config
from patchify.client.guarding import LAUNCHER, Guarded, Summoned, is_watching, summon
from patchify.client.installer import Installer
from patchify.client.restarter import (
    Launch,
    Restarter,
    exec_restart,
    exit_restart,
    gunicorn_master,
    gunicorn_restart,
    is_supervised,
)
from patchify.client.state import Update
from patchify.client.watch import Handover
from patchify.errors import FileOperationError, UnableToGuardError

_log = logging.getLogger(__name__)


class Protection:
    """Has a guardian ready where there is to be one.

    Args:
        config: Whether there is to be one.
        installer: For what.
        restarter: How the new version starts, which says what the guardian has to watch.
        launch: How the program is started.
    """

    def __init__(self, config: Config, installer: Installer, restarter: Restarter, launch: Launch) -> None:
        self._config = config
        self._installer = installer
        self._restarter = restarter
        self._launch = launch
        self._summoned: Summoned | None = None

    @contextlib.contextmanager
    def early(self) -> Iterator[None]:
        """Let a guardian start while the block runs, if one will be needed: `during` takes it, or it goes in the end.

        It starts in a process of its own, and so costs no time where the block waits for a download. This is called
        under the installer's lock.
        """
        if not self._is_superfluous():
            try:
                self._installer.keep()  # its code is found there, before and after the swap
                self._summoned = self._summon(*self._ward())
            except (FileOperationError, UnableToGuardError) as error:  # what needs it will try again
                _log.info("%s", error)
        try:
            yield
        finally:
            summoned, self._summoned = self._summoned, None
            if summoned is not None:
                summoned.dismiss()

    @contextlib.contextmanager
    def during(self, update: Update) -> Iterator[Guarded | None]:
        """Have a guardian ready for the swap, if there is to be one; it ends if the block raises.

        Raises:
            UnableToGuardError: it cannot be started.
        """
        if update.replaces == update.release or self._is_superfluous():
            yield None
            return
        with _dismissing(self._take_post()) as guarded:
            yield guarded

    def again(self) -> None:
        """Have a guardian for this process, which is on trial and not watched any more.

        Raises:
            UnableToGuardError: it cannot be started.
        """
        with _dismissing(self._summon(os.getpid(), "same").take_post()) as guarded:
            guarded.go()
            guarded.release()

    def renew(self) -> None:
        """Have no guardian any more: after a fork it is the parent's."""
        summoned, self._summoned = self._summoned, None
        if summoned is not None:
            summoned.disown()

    def _take_post(self) -> Guarded:
        """Return a guardian that is ready: the one that was summoned early, or if it has ended meanwhile another."""
        summoned, self._summoned = self._summoned, None
        if summoned is not None:
            try:
                return summoned.take_post()
            except UnableToGuardError as error:
                _log.warning("%s; another one is started", error)
        return self._summon(*self._ward()).take_post()

    def _is_superfluous(self) -> bool:
        launched = LAUNCHER in os.environ and is_watching(self._installer)  # else it is a launcher of something else
        return not self._config.guardian or launched

    def _ward(self) -> tuple[int, Handover]:
        """Return which process to watch, and whether it becomes the new version."""
        if self._restarter is gunicorn_restart:
            with contextlib.suppress(OSError):  # the restart will say what is wrong
                return gunicorn_master(self._launch), "gunicorn"
        return os.getpid(), "same" if self._restarter is exec_restart else "other"

    def _summon(self, pid: int, handover: Handover) -> Summoned:
        supervised = self._config.supervised
        if supervised is None:
            supervised = self._restarter is exit_restart or is_supervised(pid)
        return summon(
            self._installer,
            self._launch,
            handover=handover,
            pid=pid,
            supervised=supervised,
            patience=self._config.trial_timeout.total_seconds(),
        )


@contextlib.contextmanager
def _dismissing(guarded: Guarded) -> Iterator[Guarded]:
    """Send a guardian away if the block raises."""
    try:
        yield guarded
    except BaseException:
        guarded.dismiss()
        raise

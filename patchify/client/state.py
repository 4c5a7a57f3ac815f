"""Where an installation stands, on disk: ``state.json``, replaced whole and fsynced, so that it is old or new.

The values here are immutable, and each step of an update is a function from one `State` to the next. What to do after
a crash is a pure function of the state and of the hash of what stands at the program's path: see `settle`.

    good=A ── STAGED(B) ── ARMED(B) ── the swap ── B on trial ── good=B
                  ▲            │                      │
                  └─ RETURNING(A) ◄───────────────────┘ ── after too many of these: good=A, bad += B
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from semver import Version

from patchify.client.points import reach
from patchify.errors import InvalidVersionError, UnableToReadFileError, UnableToWriteStateError
from patchify.files import write_durably
from patchify.keys import decode_hex
from patchify.versions import parse_version

_log = logging.getLogger(__name__)
_FORMAT = 2
_LIMIT = 1024 * 1024  # bytes
_UNUSABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidVersionError)
_MOST_BAD = 100  # quarantined releases that are remembered; the oldest go first

MAX_INTERRUPTIONS = 5  # times that a trial may be ended by a user, a supervisor, a power cut before that is a failure


@dataclass(frozen=True)
class Release:
    """A version of the program, and what it is known by: the SHA-256 of the release."""

    version: Version
    sha256: str


class Phase(Enum):
    """How far an update has come."""

    STAGED = "staged"  # ready; the program is still the old one
    ARMED = "armed"  # the swap is ordered; if it was done, the release is on trial
    RETURNING = "returning"  # the old one is to be put back


@dataclass(frozen=True)
class Update:
    """A release on its way.

    Attributes:
        release: What is installed.
        replaces: The program that it replaces, which is kept until the release is confirmed.
        phase: How far it has come.
        tries: How many failures are tolerated before the release is quarantined.
        failures: How often it went wrong on trial.
        interruptions: How often its trial was ended from outside.
        process: The process that is on trial, as far as it has reported.
        born: When that was started, as `processes.born_at` says.
        patience: Seconds that this process has from its report to its confirmation.
        reason: What last went wrong, or what keeps that process from being confirmed.
    """

    release: Release
    replaces: Release
    phase: Phase = Phase.STAGED
    tries: int = 0
    failures: int = 0
    interruptions: int = 0
    process: int | None = None
    born: str = ""
    patience: float = 0.0
    reason: str = ""

    @property
    def spent(self) -> bool:
        """Whether it has failed, or was interrupted, too often to be tried again."""
        return self.failures > self.tries or self.interruptions > MAX_INTERRUPTIONS


@dataclass(frozen=True)
class Bad:
    """A release that is never tried again, why, and since when (UTC)."""

    release: Release
    reason: str
    at: datetime


@dataclass(frozen=True)
class State:
    """Everything that is remembered.

    Attributes:
        good: The last release that was confirmed, or that the first update replaced.
        previous: The one before, which is kept, to go back by hand.
        update: The release on its way.
        bad: The releases in quarantine, oldest first.
        untold: The release that was taken back, of which the surviving version has still to tell.
        checked: When the server was last asked (UTC).
        error: What last went wrong, empty after a check that did not.
    """

    good: Release | None = None
    previous: Release | None = None
    update: Update | None = None
    bad: tuple[Bad, ...] = ()
    untold: Bad | None = None
    checked: datetime | None = None
    error: str = ""

    @property
    def on_trial(self) -> Update | None:
        """The update whose swap is ordered or done, and which is not confirmed yet."""
        return self.update if self.update is not None and self.update.phase is Phase.ARMED else None

    @property
    def known(self) -> tuple[Release, ...]:
        """The releases that are good, kept, or on their way."""
        update = (self.update.release, self.update.replaces) if self.update is not None else ()
        return tuple(each for each in (self.good, self.previous, *update) if each is not None)

    def quarantined(self, sha256: str) -> Bad | None:
        """Return why a release is in quarantine, or None if it is not."""
        return next((bad for bad in self.bad if bad.release.sha256 == sha256), None)

    def staged(self, release: Release, replaces: Release) -> State:
        """Return the state with this release ready; what is known of its earlier trials is kept."""
        update = self.update
        if update is None or update.release.sha256 != release.sha256:
            update = Update(release, replaces)
        previous = None if self.good is None or self.good == replaces else self.good
        return replace(
            self,
            good=replaces,
            previous=previous or self.previous,
            update=replace(update, replaces=replaces, phase=Phase.STAGED),
        )

    def armed(self, tries: int) -> State:
        """Return the state with the swap ordered."""
        return self._with(phase=Phase.ARMED, tries=tries, process=None, born="", patience=0.0, reason="")

    def reported(self, process: int, patience: float, problem: str, born: str = "") -> State:
        """Return the state with the process that is on trial, and what keeps it from being confirmed."""
        return self._with(process=process, born=born, patience=patience, reason=problem)

    def resumed(self) -> State:
        """Return the state with the trial going on after an interruption that nobody saw."""
        return self._with(interruptions=self._update.interruptions + 1, process=None)

    def returning(self, reason: str, *, failed: bool | None) -> State:
        """Return the state with the old version on its way back: a failure, an interruption, or (None) neither."""
        update = self._update
        return self._with(
            phase=Phase.RETURNING,
            failures=update.failures + (failed is True),
            interruptions=update.interruptions + (failed is False),
            reason=reason,
        )

    def given_up(self, reason: str) -> State:
        """Return the state with the old version on its way back by hand: there is no next try."""
        return self._with(phase=Phase.RETURNING, tries=0, failures=self._update.failures + 1, reason=reason)

    def returned(self) -> State:
        """Return the state with the old version back: the release waits for its next try, or is in quarantine."""
        update = self._update
        if not update.spent:
            return self._with(phase=Phase.STAGED, process=None)
        reason = update.reason
        if update.failures <= update.tries:
            reason = f"was ended {update.interruptions} times before it was confirmed, at last: {reason}"
        return self.condemned(update.release, reason)

    def condemned(self, release: Release, reason: str) -> State:
        """Return the state with a release in quarantine; it is not on its way any more."""
        bad = Bad(release, reason, datetime.now(UTC).replace(microsecond=0))
        others = tuple(each for each in self.bad if each.release.sha256 != release.sha256)
        update = self.update
        gone = update is not None and update.release.sha256 == release.sha256
        return replace(self, update=None if gone else update, bad=(*others, bad)[-_MOST_BAD:], untold=bad, error=reason)

    def confirmed(self) -> State:
        """Return the state with the release as the good one."""
        update = self._update
        return replace(self, good=update.release, previous=update.replaces, update=None)

    def recalled(self, reason: str) -> State:
        """Return the state with the previous release on its way back to the place of the good one, by hand.

        Raises:
            ValueError: there is none.
        """
        if self.good is None or self.previous is None:
            raise ValueError("there is no previous version")
        update = Update(self.good, self.previous, phase=Phase.RETURNING, failures=1, reason=reason)
        return replace(self, good=self.previous, previous=None, update=update)

    @property
    def _update(self) -> Update:
        if self.update is None:
            raise ValueError("no update is on its way")
        return self.update

    def _with(self, **members: Any) -> State:
        return replace(self, update=replace(self._update, **members))


class Verdict(Enum):
    """What a look at the program says of an update."""

    NOTHING = "nothing is to be done"  # it is ready, or on trial, or there is none
    UNSWAPPED = "the swap did not happen"
    PUT_BACK = "the old program is to be put back"
    BACK = "the old program was put back already"
    STALE = "the program was replaced by somebody else"


def settle(update: Update | None, installed: str) -> Verdict:
    """Say what is left to be done, given the hash of what stands at the program's path."""
    if update is None:
        return Verdict.NOTHING
    if installed == update.release.sha256:
        return {Phase.STAGED: Verdict.STALE, Phase.RETURNING: Verdict.PUT_BACK}.get(update.phase, Verdict.NOTHING)
    if installed == update.replaces.sha256:
        return {Phase.ARMED: Verdict.UNSWAPPED, Phase.RETURNING: Verdict.BACK}.get(update.phase, Verdict.NOTHING)
    return Verdict.STALE


def load(path: Path) -> State:
    """Return the state; where there is none, or one that is not usable, that of a program just installed."""
    try:
        return read(path) or State()
    except (UnusableStateError, UnableToReadFileError) as error:
        _log.warning("%s", error)
        return State()


class UnusableStateError(Exception):
    """A state file is there, but is not one that can be understood."""


def read(path: Path) -> State | None:
    """Return what a state file says, None if there is none.

    Raises:
        UnusableStateError: it is damaged, of another format, or not ours to read.
        UnableToReadFileError: it may be readable another time.
    """
    try:
        with path.open("rb") as file:
            return _state(json.loads(file.read(_LIMIT)))
    except FileNotFoundError:
        return None
    except (IsADirectoryError, *_UNUSABLE) as error:
        problem: Exception = error
    except OSError as error:
        if not (isinstance(error, PermissionError) and forbids(path)):
            raise UnableToReadFileError(path, error) from error
        problem = error
    raise UnusableStateError(f"{path} is not usable and counts as not there: {problem!r}") from problem


def forbids(path: Path) -> bool:
    """Return whether a file itself is why it cannot be read, and not what happens to it, as by a scanner on Windows."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return os.name == "posix" and (found.st_uid != os.geteuid() or not found.st_mode & stat.S_IRUSR)


def save(path: Path, state: State) -> None:
    """Write the state durably. Raises `UnableToWriteStateError`; the old state then still stands."""
    try:
        write_durably(path, json.dumps(_members(state), indent=1).encode(), reach)
    except OSError as error:
        raise UnableToWriteStateError(path, error) from error


def set_aside(path: Path) -> None:
    """Give a state file that cannot be understood another name, for whoever wants to know what it was."""
    with contextlib.suppress(OSError):
        os.replace(path, path.with_name(f"{path.name}.unusable"))


def _members(state: State) -> dict[str, Any]:
    update = state.update
    return {
        "format": _FORMAT,
        "good": state.good and _of_release(state.good),
        "previous": state.previous and _of_release(state.previous),
        "update": update
        and {
            "release": _of_release(update.release),
            "replaces": _of_release(update.replaces),
            "phase": update.phase.value,
            "tries": update.tries,
            "failures": update.failures,
            "interruptions": update.interruptions,
            "process": update.process,
            "born": update.born,
            "patience": update.patience,
            "reason": update.reason,
        },
        "bad": [_of_bad(bad) for bad in state.bad],
        "untold": state.untold and _of_bad(state.untold),
        "checked": state.checked and state.checked.isoformat(),
        "error": state.error[:2000],
    }


def _of_release(release: Release) -> dict[str, str]:
    return {"version": str(release.version), "sha256": release.sha256}


def _of_bad(bad: Bad) -> dict[str, Any]:
    return {**_of_release(bad.release), "reason": bad.reason[:300], "at": bad.at.isoformat()}


def _state(members: dict[str, Any]) -> State:
    if members["format"] != _FORMAT:
        raise ValueError(f"format {members['format']!r} is not known, {_FORMAT} is")
    return State(
        good=_release(members["good"]) if members["good"] is not None else None,
        previous=_release(members["previous"]) if members["previous"] is not None else None,
        update=_an_update(members["update"]) if members["update"] is not None else None,
        bad=tuple(_bad(each) for each in members["bad"]),
        untold=_bad(members["untold"]) if members["untold"] is not None else None,
        checked=_time(members["checked"]) if members["checked"] is not None else None,
        error=_text(members["error"]),
    )


def _an_update(members: dict[str, Any]) -> Update:
    process = members["process"]
    return Update(
        release=_release(members["release"]),
        replaces=_release(members["replaces"]),
        phase=Phase(members["phase"]),
        tries=_count(members["tries"]),
        failures=_count(members["failures"]),
        interruptions=_count(members["interruptions"]),
        process=None if process is None else _count(process),
        born=_text(members["born"]),
        patience=float(_number(members["patience"])),
        reason=_text(members["reason"]),
    )


def _bad(members: dict[str, Any]) -> Bad:
    return Bad(_release(members), _text(members["reason"]), _time(members["at"]))


def _release(members: dict[str, Any]) -> Release:
    sha256 = _text(members["sha256"])
    if decode_hex(sha256, 64) is None:
        raise ValueError(f"{sha256[:80]!r} is not 64 hex digits")
    return Release(parse_version(_text(members["version"])), sha256)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is not a text")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e12:  # not a NaN either
        raise TypeError(f"{value!r:.80} is not a number")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r:.80} is not a count")
    return int(_number(value))


def _time(value: object) -> datetime:
    time = datetime.fromisoformat(_text(value))
    return time if time.tzinfo else time.replace(tzinfo=UTC)

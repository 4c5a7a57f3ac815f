"""What is done to an installation, step by step: stage, arm, swap, confirm, give back, recover.

The order of the steps and what is remembered of them is the same for every kind of program and stands here; what a kind
does on the disk is a handful of methods of its own (`FileInstaller`, `FolderInstaller`). Beside ``app`` stands the
folder ``.app.patchify``, on the same file system, which only its owner can change, with the locks, the state and the
releases. At every instant there is a runnable program at the path that the user starts. What changes anything is called
under `lock`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from semver import Version

from patchify.client import memory as _memory
from patchify.client.locks import Locks, watched
from patchify.client.memory import Memory
from patchify.client.points import reach
from patchify.client.processes import MEANT, born_at
from patchify.client.restarter import Launch
from patchify.client.staging import PartFile
from patchify.client.state import (
    MAX_INTERRUPTIONS,
    Phase,
    Release,
    State,
    UnusableStateError,
    Update,
    Verdict,
    load,
    read,
    save,
    set_aside,
    settle,
)
from patchify.client.ways import Basis
from patchify.errors import (
    FileOperationError,
    NoPreviousVersionError,
    UnableToReadFileError,
    UnableToSwapError,
    UnableToWriteStateError,
    UpdateInProgressError,
)

_log = logging.getLogger(__name__)

Fraction = Callable[[int, int], None]
"""Called with the bytes done and the bytes there are."""


def ignore(done: int, total: int) -> None:
    """Take no notice of progress."""


class Installer(ABC):
    """How a release becomes the program. A new kind of program implements the abstract methods and nothing else.

    Args:
        path: What the user starts, or the folder that it lies in.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent / f".{path.name}.patchify"
        self.state_path = self.folder / "state.json"
        self.memory_path = self.folder / "memory.json"
        self._locks = Locks(self.folder, path)

    formats: frozenset[str]
    """What a release of this kind may be; see `patchify.releases.FORMATS`."""

    # What a kind of program decides -----------------------------------------------------------------------------------

    @abstractmethod
    def identity(self) -> object:
        """Return a value that changes when somebody replaces the program; None if there is none. No lock is needed."""

    @abstractmethod
    def installed(self, progress: Fraction = ignore) -> str:
        """Return the hash of what stands at the program's path. Raises `UnableToReadFileError`."""

    @abstractmethod
    def launch(self, launch: Launch) -> Launch:
        """Return how to start what stands at the program's path, given how this process was started."""

    @abstractmethod
    def trial_launch(self, launch: Launch, release: Release, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """Return the command that runs a release that is ready, but not in its place, with other arguments."""

    @abstractmethod
    def keep(self) -> None:
        """Have the program that runs be found, from now on, where `kept` says. Raises a `FileOperationError`."""

    @abstractmethod
    def kept(self, path: str) -> str:
        """Return where the file at ``path`` is to be found after the swap, if it belongs to the program."""

    @abstractmethod
    def basis(self) -> Basis:
        """Return what of the program patches apply to, by its hash and size. Raises `UnableToReadFileError`."""

    @abstractmethod
    def read_basis(self) -> bytes:
        """Return that itself, which may have become another meanwhile. Raises `UnableToReadFileError`."""

    @abstractmethod
    def stage_basis(self, release: Release, part: PartFile, made: bytes) -> None:
        """Stage what patches have made of `read_basis`, which was verified, as if the release had been downloaded.

        Args:
            release: Which release it is.
            part: The file that it would have been downloaded to; it is gone afterwards.
            made: What the patches have made.

        Raises:
            UnsafeArchiveError: it cannot be unpacked.
            FailedHashVerificationError, FileOperationError: as `stage`.
        """

    @abstractmethod
    def _make_ready(self, release: Release, staged: Path, progress: Fraction) -> None:
        """Verify what was downloaded and make it ready to be put in place at any moment, durably."""

    @abstractmethod
    def _keep(self, program: Release, progress: Fraction) -> None:
        """Keep what stands at the program's path as a previous version, durably."""

    @abstractmethod
    def _place(self, release: Release) -> None:
        """Verify a release that is ready and put it in the place of the program, by one atomic step."""

    @abstractmethod
    def _put_back(self, program: Release) -> None:
        """Verify a previous version and put it in the place of the program, by one atomic step."""

    @abstractmethod
    def _clean(self, ready: set[str], previous: set[str], downloads: set[str]) -> None:
        """Remove, as far as possible, all releases but those with these hashes, and what a crash left.

        Args:
            ready: Those that wait to be put in place.
            previous: Those that are kept to go back to.
            downloads: The names of the files in Patchify's folder that are, or will be, a release that is on its way.
        """

    # Who may ----------------------------------------------------------------------------------------------------------

    def lock(self, patience: float = 0) -> contextlib.AbstractContextManager[None]:
        """Keep every other updater of this program out. See `Locks.hold`."""
        return self._locks.hold(patience)

    def elect(self) -> bool:
        """Return whether this process is, of all of the program, the one that acts by itself."""
        return self._locks.elect()

    def retire(self) -> None:
        """Leave acting by itself to another one."""
        self._locks.retire()

    def renew_locks(self) -> None:
        """Hold none of the locks any more: after a fork they are the parent's."""
        self._locks.renew()

    # What is remembered -----------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return what is remembered. No lock is needed."""
        return load(self.state_path)

    def trial(self) -> Update | None:
        """Return the update that is on trial, for those who watch it. No lock is needed.

        Raises:
            UnableToReadFileError: that cannot be told just now, which is not to say that there is none.
        """
        try:
            state = read(self.state_path)
        except UnusableStateError:
            return None
        return state.on_trial if state is not None else None

    def save(self, state: State) -> State:
        """Remember ``state`` durably, and return it. Raises `UnableToWriteStateError`."""
        save(self.state_path, state)
        return state

    def memory(self) -> Memory:
        """Return what is remembered from one update to the next. Raises `UnableToReadFileError`. No lock is needed."""
        return _memory.load(self.memory_path)

    def remember(self, change: Callable[[Memory], Memory]) -> Memory:
        """Replace what is remembered by what ``change`` makes of it, durably, and return that.

        It has a lock of its own, for a moment only, and never waits for an update that is under way.

        Raises:
            UpdateInProgressError: another process is at it for too long.
            UnableToReadFileError, UnableToCreateFolderError, UnableToLockError, UnableToWriteStateError: nothing was
                changed.
        """
        with self._locks.remembering():
            before = self.memory()
            after = change(before)
            if after != before or not self.memory_path.exists():
                _memory.save(self.memory_path, after)
            return after

    def note(self, error: str) -> None:
        """Remember that the server was asked just now, and what went wrong; if that cannot be, it is let be."""
        with contextlib.suppress(FileOperationError, UpdateInProgressError), self.lock():
            self.save(replace(self._known(), checked=datetime.now(UTC).replace(microsecond=0), error=error))

    def quarantine(self, release: Release, reason: str) -> State:
        """Never try a release again. Raises `UnableToWriteStateError`."""
        state = self.save(self._known().condemned(release, reason))
        reach("quarantined")
        self._tidy(state)
        return state

    def told(self) -> None:
        """Remember that the program has told of what was taken back. Raises `UnableToWriteStateError`."""
        self.save(replace(self._known(), untold=None))

    def report(self, process: int, patience: float, problem: str = "") -> None:
        """Remember the process on trial, the seconds it has, and what keeps it from being confirmed.

        Nothing happens if nothing is on trial. Raises `UnableToWriteStateError`.
        """
        state = self._known()
        trial = state.on_trial
        if trial is None:
            return
        if trial.process != process:
            if trial.process is not None and born_at(trial.process) == trial.born:
                return  # another process of the program, beside the one that is watched
            self._unsay()
        self.save(state.reported(process, patience, problem, born_at(process)))

    def resume(self, reason: str) -> State:
        """Go on with a trial that nobody watched to its end, or put the previous version back after too many of these.

        Raises as `give_back`.
        """
        state = self._known()
        if state.on_trial is None or state.on_trial.interruptions >= MAX_INTERRUPTIONS:
            return self.give_back(reason, failed=False)
        return self.save(state.resumed())

    def ending(self, reason: str) -> None:
        """Leave word that this process, which is on trial, ends through no fault of its own.

        It needs no lock and disturbs nobody, so a signal handler may call it; if it cannot be, it is let be.
        """
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(self.folder / "ending", flags, 0o600)
            os.write(descriptor, f"{os.getpid()} {time.monotonic()} {reason}".encode())
            os.close(descriptor)

    def ended(self, process: int) -> str:
        """Return the word that a process left as it ended, or nothing; an old one does not explain an end."""
        with contextlib.suppress(OSError, ValueError):
            pid, at, reason = (self.folder / "ending").read_text()[:200].split(" ", 2)
            if int(pid) == process and 0 <= time.monotonic() - float(at) < MEANT:
                return reason
        return ""

    def _unsay(self) -> None:
        """Remove the word of an earlier process, which may have had the number of this one: containers use few."""
        with contextlib.suppress(OSError):
            os.unlink(self.folder / "ending")

    def _known(self) -> State:
        """Return what is remembered, to go on from there; a file that cannot be understood is set aside, not lost.

        Raises:
            UnableToReadFileError: it cannot be read just now, and is not to be replaced by a guess.
        """
        try:
            return read(self.state_path) or State()
        except UnusableStateError as error:
            _log.warning("%s; it is set aside", error)
            set_aside(self.state_path)
            return State()

    # The steps, in their order ----------------------------------------------------------------------------------------

    def recover(self) -> State:
        """Finish or undo what was interrupted, and return where the installation stands.

        Raises:
            UnableToReadFileError, UnableToWriteStateError, UnableToSwapError, FailedHashVerificationError: nothing was
                forgotten.
        """
        state = self._known()
        if state.update is None:
            return state
        verdict = settle(state.update, self.standing(state.update))
        if verdict is not Verdict.NOTHING:
            _log.info("%s: update to %s: %s", self.path, state.update.release.version, verdict.value)
        if verdict is Verdict.UNSWAPPED:
            state = self._returned(state.returning("the update was interrupted before the swap", failed=False))
        elif verdict in (Verdict.PUT_BACK, Verdict.BACK):
            state = self._return(state)
        elif verdict is Verdict.STALE:
            state = self.forget()
        return state

    def part(self, sha256: str, forms: Iterable[str] = ()) -> PartFile:
        """Open the file to download a release to; leftovers of others go.

        Args:
            sha256: Of the release.
            forms: The hashes of the files that it is to be made of, which stay.

        Raises:
            UnableToReadFileError, UnableToCreateDownloadError: it can be tried again.
        """
        self._tidy(self._known(), downloads={*self._names(sha256), *(self.form_path(each).name for each in forms)})
        return PartFile(self.folder / f"staged-{sha256}.part")

    def form(self, sha256: str) -> PartFile:
        """Open the file to download what a release is made of to. Raises `UnableToCreateDownloadError`."""
        return PartFile(self.form_path(sha256))

    def form_path(self, sha256: str) -> Path:
        """Return where that file is, until the release is made."""
        return self.folder / f"form-{sha256}.part"

    def begun(self) -> dict[str, int]:
        """Return how many bytes are there of which download, by its hash; nothing if that cannot be told."""
        found = {}
        with contextlib.suppress(OSError):
            for path in self.folder.glob("*-*.part"):
                found[path.stem.rpartition("-")[2]] = path.stat().st_size
        return found

    def drop(self, wanted: Collection[str]) -> None:
        """Remove what is there of downloads, as far as possible, but of those with these hashes."""
        with contextlib.suppress(OSError):
            for path in self.folder.glob("*-*.part"):
                if path.stem.rpartition("-")[2] not in wanted:
                    path.unlink(missing_ok=True)

    def is_staged(self, sha256: str) -> bool:
        """Return whether this release is there, whole; its bytes are verified when it is prepared and when swapped.

        Raises:
            UnableToReadFileError: that cannot be told.
        """
        path = self.staged_path(sha256)
        try:
            return path.is_file()
        except OSError as error:
            raise UnableToReadFileError(path, error) from error

    def staged_path(self, sha256: str) -> Path:
        """Return where the release with this hash is kept after its download."""
        return self.folder / f"staged-{sha256}"

    def stage(self, version: Version, part: PartFile, sha256: str) -> None:
        """Give a complete download its name. Raises as `PartFile.finish`."""
        part.finish(str(version), sha256, self.staged_path(sha256))

    def make_ready(self, release: Release, progress: Fraction = ignore) -> None:
        """Verify a staged release and make it ready to be run. Raises as `prepare`."""
        self._make_ready(release, self.staged_path(release.sha256), progress)
        reach("made-ready")

    def prepare(self, release: Release, running: Version, progress: Fraction = ignore) -> Update:
        """Make a staged release ready to be swapped in, keep the program as a previous one, remember both.

        Raises:
            FailedHashVerificationError: it is not the release any more; it was removed.
            UnsafeArchiveError: it cannot be unpacked.
            UnableToReadFileError, UnableToSetPermissionsError, UnableToWriteDownloadError, UnableToBackUpError,
                UnableToWriteStateError: the program is untouched.
        """
        self.make_ready(release, lambda done, total: progress(done, 2 * total))
        program = self._program(running)
        self._keep(program, lambda done, total: progress(total + done, 2 * total))
        state = self.save(self._known().staged(release, program))
        reach("staged")
        self._tidy(state)
        progress(1, 1)
        assert state.update is not None
        return state.update

    def swap(self, update: Update, tries: int) -> bool:
        """Order the swap and do it; return False if another process did already.

        Raises:
            FailedHashVerificationError, UnableToReadFileError, UnableToSwapError, UnableToWriteStateError: the program
                is untouched.
        """
        installed = self.installed()
        if installed == update.release.sha256:
            return False
        if installed != update.replaces.sha256:
            raise UnableToSwapError(self.path, "it was replaced by somebody else while the update waited")
        before = self._known()
        if before.update is None or before.update.release != update.release:
            raise UnableToSwapError(self.path, "the update was given up meanwhile")
        self._unsay()
        self.save(before.armed(tries))
        reach("armed")
        try:
            self._place(update.release)
        except BaseException:
            with contextlib.suppress(FileOperationError):  # then recovery finds whether the swap happened
                if self.installed() != update.release.sha256:
                    self.save(before)
            raise
        return True

    def confirm(self) -> bool:
        """Keep the release that is on trial for good; return whether one was. Raises `UnableToWriteStateError`."""
        state = self._known()
        if state.on_trial is None or self.installed() != state.on_trial.release.sha256:
            return False
        state = self.save(state.confirmed())
        reach("confirmed")
        self._tidy(state)
        return True

    def give_back(self, reason: str, *, failed: bool | None) -> State:
        """Put the version before the swap back, and count why: it failed (True), or was ended from outside (False).

        After too many of these the release is in quarantine, otherwise it waits for its next try. None counts as
        neither: it was not even started. Nothing happens unless a swap was ordered.

        Raises:
            FailedHashVerificationError: the previous version is not what it was; the release stays where it is.
            UnableToReadFileError, UnableToSwapError, UnableToWriteStateError: it can be tried again.
        """
        state = self._known()
        if state.update is None or state.update.phase is Phase.STAGED:
            return state
        if state.update.phase is Phase.ARMED:
            state = state.returning(reason, failed=failed)
            try:
                self.save(state)
            except UnableToWriteStateError as error:  # a full disk: what runs is more important than the count
                _log.warning("%s", error)
            reach("returning")
        return self._return(state)

    def recall(self) -> Release:
        """Go back to the previous version by hand; the one that is given up goes into quarantine.

        Returns:
            The version that is in place now.

        Raises:
            NoPreviousVersionError: none was kept.
            UpdateInProgressError: one is on trial, and somebody watches it.
            FailedHashVerificationError, FileOperationError: as `give_back`.
        """
        state = self._known()
        update = state.update
        verdict = Verdict.NOTHING if update is None else settle(update, self.installed())
        trial = state.on_trial is not None and verdict is Verdict.NOTHING
        if update is not None and (trial or verdict in (Verdict.PUT_BACK, Verdict.BACK)):
            if trial and watched(self.folder):
                raise UpdateInProgressError(
                    f"{self.path}: version {update.release.version} is on trial: it is confirmed or taken back soon"
                )
            # Who would have done so was killed, or the machine was started anew; the release may be unable to start.
            self._return(self.save(state.given_up("was taken back by hand")))
            return update.replaces
        state = self.recover()
        if state.good is None or state.previous is None or self.installed() != state.good.sha256:
            raise NoPreviousVersionError(self.path)
        try:
            recalled = self.save(state.recalled("was taken back by hand"))
            reach("returning")
            self._return(recalled)
        except BaseException:
            with contextlib.suppress(FileOperationError):  # else recovery goes on with it
                if self.installed() == state.good.sha256:
                    self.save(state)
            raise
        return state.previous

    def forget(self) -> State:
        """Remember that no update is on its way, and remove what was staged. Raises `UnableToWriteStateError`."""
        state = self.save(replace(self._known(), update=None))
        self._tidy(state)
        return state

    def standing(self, update: Update) -> str:
        """Return `installed`, but for a release that is gone from its place, or has changed itself there, its hash.

        Raises `UnableToReadFileError`.
        """
        if update.phase is not Phase.STAGED and (not os.path.lexists(self.path) or self._is_placed(update.release)):
            return update.release.sha256
        return self.installed()

    def _is_placed(self, release: Release) -> bool:
        """Return whether what stands at the program's path is what was put there, whatever its content is now."""
        return False

    def _program(self, running: Version) -> Release:
        """Return what stands at the program's path; it may be another version than the one that runs."""
        installed = self.installed()
        known = (each for each in self._known().known if each.sha256 == installed)
        return next(known, Release(running, installed))

    def _return(self, state: State) -> State:
        update = state.update
        assert update is not None
        standing = self.standing(update)
        if standing == update.release.sha256:
            self._put_back(update.replaces)
        elif standing != update.replaces.sha256:  # somebody has put a third one there
            return self.forget()
        return self._returned(state)

    def _returned(self, state: State) -> State:
        state = self.save(state.returned())
        reach("returned")
        self._tidy(state)
        return state

    def _tidy(self, state: State, downloads: frozenset[str] | set[str] = frozenset()) -> None:
        ready = {state.update.release.sha256} if state.update else set()
        names = {name for each in ready for name in self._names(each)}
        self._clean(ready, {each.sha256 for each in state.known}, names | downloads)
        reach("cleaned")

    def _names(self, sha256: str) -> set[str]:
        """Return what a release can be called in Patchify's folder before it is put in place."""
        return {(name := self.staged_path(sha256).name), f"{name}.part"}


@contextlib.contextmanager
def as_error(error: type[FileOperationError], path: Path) -> Iterator[None]:
    """Turn the operating system's error into ours."""
    try:
        yield
    except OSError as cause:
        raise error(path, cause) from cause

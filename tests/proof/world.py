"""A machine, a server and a user, simulated around the real client, so that a day of updates takes a moment.

What is real: `Updater`, `Installer` with its files, locks and state on a real disk, `guardian.Watch` and the guardian's
loop. What is simulated: processes, time, the network. A process starts *what stands at the program's path*, and does
what is written there: be good, crash, hang. `World.advance` lets time pass; a guardian looks, the program checks for
updates and confirms itself, a supervisor or a user starts it again when it has ended.

A process can be killed at any point that it reaches: those of `patchify.client.points` and a few more (`POINTS`). Python
would then still run ``finally`` and ``except``, which a ``kill -9`` does not. So the folder of the installation is
renamed for as long as that lasts: what these do goes nowhere.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gzip
import hashlib
import io
import os
import signal
import stat
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from io import FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest
from filelock import FileLock
from semver import Version

from patchify.client import (
    folder_installer,
    guardian,
    guarding,
    installer,
    points,
    protection,
    staging,
    state,
    trial,
    updater,
)
from patchify.client import watch as watching
from patchify.client.config import Config
from patchify.client.file_installer import FileInstaller
from patchify.client.folder_installer import FolderInstaller
from patchify.client.locks import GUARDIAN
from patchify.client.processes import judge
from patchify.client.restarter import Launch
from patchify.client.state import MAX_INTERRUPTIONS, Release, State, read
from patchify.client.trust import SignedAnswer
from patchify.errors import ConnectionFailedError, HttpError, PatchifyError, UnableToGuardError, VersionNotFoundError
from patchify.keys import SigningKey, encode_signature
from patchify.messages import LatestVersion, VersionHash

KINDS = ("file", "folder")
HOMES = ("alone", "supervised", "exit")
"""Started by a user; the same under a supervisor, which execs survive; ending, for a supervisor that starts it again."""
BEHAVIOURS = ("good", "crash", "hang", "late", "ill", "unrunnable", "third")
POINTS = ("asking", "downloading", "restarting", "starting", "reported", "confirming")
"""Points of a process beside those of the client: in a request, in a download, before the exec, in a new process, …"""

KEY = SigningKey.from_hex("11" * 32)
TRIES = 1
STEP = 5.0  # seconds in which everybody gets a turn; all other times are multiples
INTERVAL = 120.0  # seconds between checks
TRIAL, LATE, PATIENCE = 30.0, 10.0, 300.0  # seconds to a confirmation, to a late crash, and a trial at the most
USER = 60.0  # seconds after which a user starts a program again that has ended
PATIENCE_OF_USER = 5  # starts in vain, after which the user goes back by hand
CLI = 7  # the exit status of a program that fails


class Gone(BaseException):
    """The process that runs this is no more, or does nothing any more."""


class _Pause(BaseException):
    """The guardian waits."""


@dataclass(frozen=True)
class Image:
    """A release: what it is called, what it does, and which of several with that name."""

    version: str
    behaviour: str
    edition: int = 0

    @property
    def script(self) -> bytes:
        return f"#!/bin/sh\necho {self.version} {self.behaviour} {self.edition}\n".encode()

    @property
    def data(self) -> bytes:
        return f"data of {self.version} {self.edition}\n".encode() * 20

    @functools.cache  # noqa: B019 - there are few
    def packed(self, kind: str) -> bytes:
        if kind == "file":
            return self.script
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file, tarfile.open(fileobj=file, mode="w") as archive:
            for name, mode, content in (("run", 0o755, self.script), ("lib/data", 0o644, self.data)):
                member = tarfile.TarInfo(f"app/{name}")
                member.mode, member.size = mode, len(content)
                archive.addfile(member, io.BytesIO(content))
        return packed.getvalue()

    @functools.cache  # noqa: B019
    def release(self, kind: str) -> Release:
        return Release(Version.parse(self.version), hashlib.sha256(self.packed(kind)).hexdigest())


class Server:
    """What is published; a transport to it, too."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.releases: dict[str, Image] = {}
        self.tampered: set[str] = set()
        self.failures = 0.0  # requests that fail from now on

    @property
    def newest(self) -> str | None:
        return max(self.releases, key=Version.parse, default=None)

    def latest(self) -> SignedAnswer:
        self._answer("asking")
        return self._signed(LatestVersion(Version.parse(self.newest or "0.0.1")).to_bytes())

    def hash(self, version: str) -> SignedAnswer:
        self._answer()
        if version not in self.releases:
            raise VersionNotFoundError(version)
        sha256 = self.world.release(self.releases[version]).sha256
        return self._signed(VersionHash(Version.parse(version), sha256).to_bytes())

    def update(self, channel: str, platform: str) -> SignedAnswer:
        raise HttpError("http://127.0.0.1:9/", 404)  # the original protocol is all that is needed here

    def report(self, body: bytes) -> None:
        raise AssertionError("no reports are wanted")

    def release(self, version: str, digest: str, part, progress, *, path=None, size=None) -> None:
        part.take_up(lambda done: None)
        if version not in self.releases:
            raise VersionNotFoundError(version)
        data = self.releases[version].packed(self.world.kind)
        if version in self.tampered:
            data = data[:-1] + bytes([data[-1] ^ 1])
        half = max(part.size, len(data) // 2)
        part.write(data[part.size : half])
        self._answer("downloading")
        part.write(data[half:])
        progress(part.size, len(data))

    def close(self) -> None:
        pass

    def _answer(self, point: str = "") -> None:
        if point:
            self.world.reach(point)
        if self.failures:
            self.failures -= 1
            raise ConnectionFailedError("http://127.0.0.1:9/", "nobody answers")

    def _signed(self, body: bytes) -> SignedAnswer:
        return SignedAnswer("http://127.0.0.1:9/", body, encode_signature(KEY.sign(body)))


@dataclass(eq=False)
class Actor:
    """A process: the program, a guardian, or a user's command."""

    pid: int
    what: str
    alive: bool = True
    hung: bool = False
    status: int | None = None
    ended: float = 0.0
    exec_ordered: bool = False
    installer: installer.Installer | None = None
    # the program
    image: Image | None = None
    updater: updater.Updater | None = None
    since: float = 0.0
    next_tick: float = 0.0
    reported: bool = False
    ill: bool = False  # from now on it never proves that it is well
    stuck: FileLock | None = None


class Watched:
    """A process as a guardian sees it."""

    def __init__(self, world: World, pid: int) -> None:
        self.world = world
        self.pid = pid
        self.actor = world.actors.get(pid)

    @property
    def alive(self) -> bool:
        return self.actor is not None and self.actor.alive

    def wait(self, seconds: float) -> bool:
        return not self.alive

    def status(self) -> int | None:
        return self.actor.status if self.actor is not None else None

    def end(self) -> None:
        if self.actor is not None and self.actor.alive:
            self.world.overdue[self.actor.image] += 1
            self.world.end(self.actor, signal.SIGKILL if self.actor.hung else signal.SIGTERM)

    def close(self) -> None:
        pass


@dataclass(eq=False)
class Guardian:
    """What a guardian was told, and how far it is."""

    actor: Actor
    charge: guarding.Charge
    launch: Launch
    watched: Watched
    watch: watching.Watch | None = None
    loose: bool = False  # the other end of its line is closed
    asked: str = ""
    told_to_go: bool = False  # the swap was made
    done: bool = False
    lock: FileLock | None = None

    # as `guardian.Watch` to the guardian's loop
    @property
    def process(self) -> Watched:
        assert self.watch is not None
        return self.watch.process

    def look(self) -> tuple[bool, str]:
        assert self.watch is not None
        fate = self.watch.look(0)
        if fate is None and self.actor.installer.state().on_trial is not None:
            raise _Pause
        return fate if fate is not None else (False, "")  # then it finds that nothing is on trial


class Summoned:
    """A guardian that waits to be called, as the process sees it that started it: it does nothing before."""

    def __init__(self, post: Callable[[], Guarded]) -> None:
        self.take_post = post

    def dismiss(self) -> None:
        """It goes."""


class Guarded:
    """A guardian, as the process sees it that started it."""

    def __init__(self, world: World, mine: Guardian) -> None:
        self.world, self.mine = world, mine

    def go(self) -> None:
        self.mine.told_to_go = True

    def release(self) -> None:
        self.mine.loose = True

    def dismiss(self) -> None:
        if not self.world.frozen:
            self.mine.loose, self.mine.told_to_go = True, False
            self.world.let_guardian_look()


class Clock(datetime):
    """A wall clock that can be set wrong."""

    offset = timedelta()

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + cls.offset


@dataclass
class Disk:
    """What fails of all that changes anything: with which error, how often, and only what takes space."""

    number: int = 0
    times: float = 0
    only_new: bool = False
    failed: int = 0

    def change(self, *paths: object, new: bool = True) -> None:
        if not self.times or (self.only_new and not new):
            return
        self.times -= 1
        self.failed += 1
        raise OSError(self.number, os.strerror(self.number), *paths[:1])


@dataclass
class World:
    """One machine with one program.

    Args:
        place: An empty folder.
        kind: One of `KINDS`.
        home: One of `HOMES`.
        traps: Called with the point that is reached, in the process that does; it may do anything, or raise `Gone`.
    """

    place: Path
    kind: str
    home: str = "alone"
    traps: list[Callable[[str], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inside = self.place / "machine"
        self.inside.mkdir(parents=True)
        self.path = self.inside / "app"
        self.run = str(self.path if self.kind == "file" else self.path / "run")
        self.state_file = str(self.inside / ".app.patchify" / "state.json")
        self.server = Server(self)
        self.disk = Disk()
        self.now = 0.0
        self.pid = 5000
        self.actors: dict[int, Actor] = {}
        self.stack: list[Actor] = []
        self.frozen = False
        self.rebooting = False
        self.program: Actor | None = None
        self.guardian: Guardian | None = None
        self.restarts = True  # whether somebody starts the program when it does not run
        self.known: dict[bytes, Image] = {}
        self.reached: Counter[str] = Counter()
        self.moves: Counter[str] = Counter()  # how often anything was put in place, and put back
        self.moves_of: Counter[Image] = Counter()  # … and each release, for it or away from it
        self.starts_of: Counter[Image] = Counter()
        self.starts = 0
        self.events: list[tuple[float, Callable[[], object]]] = []
        self.in_vain = 0  # starts of a program that did not stay, while nobody watches
        self.rescues = 0  # rollbacks by hand
        self.overdue: Counter[Image | None] = Counter()
        self.blame: Counter[str] = Counter()  # ends of a version on trial that are its fault, as far as one can see
        self.interruptions: Counter[str] = Counter()
        self._last_state: tuple[object, State] = (None, State())
        self.seen: list[str] = []  # what happened, to be read when something goes wrong
        self._undo = contextlib.ExitStack()
        self.first = self._remember(Image("1.0.0", "good"))
        self._lay_out()
        self._patch()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.traps.clear()
        self.disk.times = 0
        for actor in list(self.actors.values()):
            if actor.alive:
                self.end(actor, signal.SIGKILL)
        self._undo.close()

    # The program ------------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        if self.kind == "file":
            self.path.write_bytes(self.first.script)
            self.path.chmod(0o755)
        else:
            (self.path / "lib").mkdir(parents=True)
            (self.path / "run").write_bytes(self.first.script)
            (self.path / "run").chmod(0o755)
            (self.path / "lib" / "data").write_bytes(self.first.data)

    def _remember(self, image: Image) -> Image:
        self.known[image.script] = image
        return image

    def publish(self, version: str, behaviour: str = "good", edition: int = 0) -> Image:
        image = self._remember(Image(version, behaviour, edition))
        self.server.releases[version] = image
        self.server.tampered.discard(version)
        return image

    def release(self, image: Image) -> Release:
        return image.release(self.kind)

    def by_hash(self, sha256: str) -> Image:
        return next((each for each in self.known.values() if self.release(each).sha256 == sha256), self.first)

    def make_installer(self) -> installer.Installer:
        return (FileInstaller if self.kind == "file" else FolderInstaller)(self.path)

    @property
    def state(self) -> State:
        """What is remembered. Fails if that cannot be read."""
        try:
            found = os.stat(self.state_file)
        except FileNotFoundError:
            return State()
        which = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._last_state[0] != which:
            self._last_state = (which, read(Path(self.state_file)) or State())
        return self._last_state[1]

    def stands(self) -> Image:
        """Return what stands at the program's path. Fails if it is not exactly one known release that can be run."""
        with open(self.run, "rb", buffering=0) as file:  # not by Path: this is done at every instant
            image = self.known.get(file.read())
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        assert image is not None, f"{self.run} is no release that there is"
        assert mode == 0o755, f"{self.run} has mode {mode:o}"
        if self.kind == "folder":
            assert (self.path / "lib" / "data").read_bytes() == image.data, f"{image} is not whole"
            assert sorted(os.listdir(self.path)) == ["lib", "run"], f"{image} has files that it has not"
        return image

    def look(self) -> None:
        """Fail unless all is as it must be at every instant."""
        if self.frozen:
            return
        stands, known = self.stands(), self.state
        bad = known.quarantined(self.release(stands).sha256) if stands != self.first else None
        assert bad is None, f"{stands} is in quarantine and in place"

    # Processes --------------------------------------------------------------------------------------------------------

    def _new(self, what: str) -> Actor:
        self.pid += 1
        actor = self.actors[self.pid] = Actor(self.pid, what)
        return actor

    def within(self, actor: Actor, step: Callable[[], object]) -> Exception | None:
        """Let a process do something; return the error that it came to."""
        self.stack.append(actor)
        error = None
        try:
            step()
        except Gone:
            assert self.frozen, "gone without a reason"
        except Exception as caught:
            if not self.frozen:
                if not isinstance(caught, PatchifyError | OSError):
                    raise
                error = caught
        finally:
            self.stack.pop()
        if self.frozen and (not self.rebooting or not self.stack):
            (self.place / "frozen").rename(self.inside)
            self.frozen = self.rebooting = False
        elif self.frozen:
            raise Gone
        self._after(actor)
        return error

    def _after(self, actor: Actor) -> None:
        if actor.exec_ordered:
            actor.exec_ordered = False
            self._let_go(actor)
            self._begin(actor)
        elif actor.hung and actor.stuck is not None:
            actor.stuck.acquire(timeout=0)
        elif not actor.alive:
            self._let_go(actor)

    def freeze(self) -> None:
        """Let nothing that is done from now on, until the present process is unwound, have any effect."""
        if not self.frozen:
            self.inside.rename(self.place / "frozen")
            self.frozen = True
        raise Gone

    def kill(self) -> None:
        """End the process that reached this point at once."""
        self._ends(self.stack[-1], signal.SIGKILL)
        self.freeze()

    def hang(self) -> None:
        """Let the process that reached this point do nothing any more; it keeps the locks that it has."""
        actor = self.stack[-1]
        actor.hung = True
        self._say(f"{actor.what} {actor.pid} hangs")
        if actor.installer is not None and actor.installer._locks._lock.is_locked:
            actor.stuck = FileLock(self.inside / ".app.patchify" / "lock", thread_local=False)
        self.freeze()

    def reboot(self) -> None:
        """Start the machine anew, in the middle of whatever is going on."""
        self._say("the machine is started anew")
        for actor in self.actors.values():
            if actor.alive:
                self._ends(actor, signal.SIGKILL, charged=False)
                self._let_go(actor)
        if self.stack:
            self.rebooting = True
            self.freeze()

    def end(self, actor: Actor, status: int) -> None:
        """End a process that is doing nothing just now."""
        self._ends(actor, status)
        if actor not in self.stack:
            self._let_go(actor)

    def _ends(self, actor: Actor, status: int, *, charged: bool = True) -> None:
        actor.alive, actor.status, actor.ended = False, int(status), self.now
        self._say(f"{actor.what} {actor.pid} {judge(int(status), '')[1]}")
        update = None if self.frozen else self.state.on_trial
        if actor.image and update and (charged or actor.image == self.by_hash(update.release.sha256)):
            # Whoever ends between the order to swap and the restart is the old version, but that cannot be seen
            failed = charged and (judge(int(status), "")[0] or self.overdue[actor.image])
            (self.blame if failed else self.interruptions)[update.release.sha256] += 1
            if self.release(self.stands()).sha256 == update.replaces.sha256:
                self.interruptions[update.release.sha256] += 1
        if self.guardian is not None and self.guardian.actor is actor:
            self.guardian.lock.release(force=True)
            self.guardian = None
        elif self.guardian is not None and self.guardian.charge.pid == actor.pid:
            self.guardian.loose = True

    def _let_go(self, actor: Actor) -> None:
        """Close what the kernel closes when a process ends, or becomes another by exec."""
        if actor.stuck is not None:
            actor.stuck.release(force=True)
            actor.stuck = None
        if actor.updater is not None:
            actor.updater._set_alarm(None)
            actor.updater._notifier.close()
        if actor.installer is not None:
            actor.installer._locks._lock.release(force=True)
            actor.installer.retire()
        if self.guardian is not None and actor.pid == self.guardian.charge.pid:
            self.guardian.loose = True
        actor.updater = actor.installer = None
        actor.hung = False

    def _say(self, what: str) -> None:
        self.seen.append(f"{self.now:>8.0f}  {what}")

    def reach(self, point: str) -> None:
        """Be at a point, in some process."""
        if not self.stack:
            return
        if self.frozen or not self.stack[-1].alive:
            self.freeze()
        self.reached[point] += 1
        self.look()
        if point in ("placed", "put-back"):
            self.moves[point] += 1
            update = self.state.update
            self.moves_of[self.by_hash(update.release.sha256) if update is not None else self.stands()] += 1
            self._say(f"{point}: {self.stands()}")
        elif point in ("staged", "returned", "quarantined", "confirmed", "downloading"):
            self._say(point)
        for trap in list(self.traps):
            trap(point)
            if not self.stack[-1].alive:
                self.freeze()

    # The program's life -----------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self.program is not None and self.program.alive

    def start(self) -> None:
        """Start the program, by hand, by a supervisor or by a guardian."""
        if self.running:
            return
        self.program = self._new("program")
        self._begin(self.program)

    def _begin(self, actor: Actor) -> None:
        self.starts += 1
        actor.image = self.stands()
        self.starts_of[actor.image] += 1
        actor.reported = actor.ill = False
        actor.since = actor.next_tick = self.now
        self._say(f"program {actor.pid} starts as {actor.image}")
        self.within(actor, lambda: self.reach("starting"))
        if not actor.alive or actor.hung:
            return
        behaviour = actor.image.behaviour
        if behaviour == "crash":
            self.end(actor, CLI << 8)
        elif behaviour == "unrunnable":
            self.end(actor, 126 << 8)  # as a shell says
        elif behaviour == "third":
            if self.starts_of[actor.image] >= 3:
                self.end(actor, CLI << 8)
                return
            actor.ill = True
        if actor.alive and behaviour != "hang":
            self.within(actor, lambda: self._make_updater(actor))

    def _make_updater(self, actor: Actor) -> None:
        actor.installer = self.make_installer()
        config = Config(
            version=actor.image.version,
            api="http://127.0.0.1:9/",
            key=KEY.verifying_key,
            check_on_startup=True,
            check_interval=timedelta(seconds=INTERVAL),
            least_interval=timedelta(),
            trial_timeout=timedelta(seconds=PATIENCE),
            trial_tries=TRIES,
            confirm_automatically=False,
            supervised=self.home != "alone",
            guardian=True,
        )
        launch = Launch(str(self.path), (str(self.path), "argument"), str(self.place), frozenset(), actor.pid)
        actor.updater = updater.Updater(
            config,
            restarter=self._exit if self.home == "exit" else protection.exec_restart,
            installer=actor.installer,
            transport=self.server,
            launch=launch,
        )

    def _exec(self, launch: Launch) -> None:
        self.reach("restarting")
        if self.stands().behaviour == "unrunnable":
            self.blame[self.release(self.stands()).sha256] += 1
            raise OSError(errno.ENOEXEC, "Exec format error", launch.program)
        self.stack[-1].exec_ordered = True
        self.freeze()

    def _exit(self, launch: Launch) -> None:
        self.reach("restarting")
        self._ends(self.stack[-1], signal.SIGTERM, charged=False)

    def _live(self, actor: Actor) -> None:
        if not actor.alive or actor.hung or actor.updater is None:
            return
        if actor.image.behaviour == "late" and self.now - actor.since >= LATE:
            self.end(actor, CLI << 8)
            return
        if self.now >= actor.next_tick:
            self.within(actor, partial(self._tick, actor))
        if not actor.alive or actor.hung or actor.updater is None:
            return
        update = self.state.on_trial
        mine = update is not None and update.process == actor.pid and self.release(actor.image) == update.release
        if mine and not actor.reported:
            actor.reported = True
            self.within(actor, lambda: self.reach("reported"))
            return
        well = actor.image.behaviour in ("good", "crash", "late") and not actor.ill
        if mine and well and self.now - actor.since >= TRIAL:
            self.within(actor, partial(self._confirm, actor))

    def _tick(self, actor: Actor) -> None:
        delay = actor.updater._elected_tick()
        actor.next_tick = self.now + max(INTERVAL, delay)

    def _confirm(self, actor: Actor) -> None:
        self.reach("confirming")
        actor.updater.confirm()

    def interrupt(self) -> None:
        """Press Ctrl-C: the program and its guardian hear it."""
        if self.guardian is not None:
            self.guardian.asked = "SIGINT"
        actor = self.program
        if actor is None or not actor.alive:
            return
        if actor.updater is not None and not actor.hung and self.state.on_trial is not None:
            self.within(actor, lambda: actor.installer.ending("SIGINT"))
        self.end(actor, signal.SIGINT)

    def quit(self) -> None:
        """End the program in good order, as a user does when the day is over."""
        actor = self.program
        if actor is not None and actor.alive:
            if actor.updater is not None and self.state.on_trial is not None:
                self.within(actor, lambda: actor.installer.ending("it closed its updater"))
            self.end(actor, 0)

    def recall(self) -> Exception | None:
        """Go back by hand; return the error that this comes to."""
        actor = self._new("rollback")
        actor.installer = self.make_installer()

        def go_back() -> None:
            with actor.installer.lock():
                actor.installer.recall()

        error = self.within(actor, go_back)
        if actor.alive and not actor.hung:
            self.end(actor, 0)
        return error

    # The guardian -----------------------------------------------------------------------------------------------------

    def _summon(self, watched_installer, launch, **facts) -> Summoned:
        return Summoned(partial(self._guard, launch, **facts))

    def _guard(self, launch, *, handover, pid, supervised, patience) -> Guarded:
        if self.guardian is not None:
            self.let_guardian_look()  # it may be about to end
        if self.guardian is not None:
            raise UnableToGuardError(self.path, "another guardian watches already")
        charge = guarding.Charge("", "", handover, pid, "born", supervised, patience, -1, {})
        lock = FileLock(self.inside / ".app.patchify" / GUARDIAN, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except OSError as error:
            raise UnableToGuardError(self.path, error) from error
        actor = self._new("guardian")
        actor.installer = self.make_installer()
        mine = Guardian(actor, charge, launch, Watched(self, pid), lock=lock)
        mine.watch = watching.Watch(
            actor.installer,
            mine.watched,
            handover=handover,
            patience=patience,
            asked=lambda: mine.asked,
            clock=lambda: self.now,
        )
        self.guardian = mine
        return Guarded(self, mine)

    def let_guardian_look(self) -> None:
        """Let the guardian do what it has to do now, if there is one and it is on its own."""
        mine = self.guardian
        if mine is None or not mine.loose or mine.actor.hung or mine.actor in self.stack:
            return

        def look() -> None:
            with contextlib.suppress(_Pause):
                self._be_guardian(mine)
                mine.done = True

        error = self.within(mine.actor, look)
        if error is not None:
            self._say(f"the guardian gives up: {error}")
        if (mine.done or error is not None) and mine.actor.alive:
            self.end(mine.actor, 0 if error is None else 256)

    def _be_guardian(self, mine: Guardian) -> None:
        """Do as `guardian.main` after the other end of the line was closed."""
        own = mine.actor.installer
        if mine.told_to_go or not hasattr(guardian, "_is_to_go"):
            guardian._guard(own, mine.watched, mine.charge, mine.launch, lambda: mine.asked)
        elif guardian._trial(own) is not None:
            guardian._insist(own, "the update was interrupted before the new version was started", failed=False)

    def _born_at(self, pid: int) -> str:
        return "born" if pid in self.actors and self.actors[pid].alive else ""

    def _started_by_others(self, *_: object) -> bool:
        self.advance(STEP)
        return self.running

    # Time -------------------------------------------------------------------------------------------------------------

    def _sleep(self, seconds: float) -> None:
        if seconds >= 1:  # else it is only a look
            self.advance(seconds)

    def later(self, seconds: float, event: Callable[[], object]) -> None:
        """Let something happen after a time."""
        self.events.append((self.now + seconds, event))

    def advance(self, seconds: float) -> None:
        """Let time pass. It may be longer than asked for: a guardian does not end what it has begun."""
        end = self.now + seconds
        while self.now < end:
            self.now += STEP
            for due in [each for each in self.events if each[0] <= self.now]:
                self.events.remove(due)
                due[1]()
            self.let_guardian_look()
            if self.program is not None:
                self._live(self.program)
            self.let_guardian_look()
            if (
                self.restarts
                and not self.running
                and self._missed()
                and all(each.what == "guardian" for each in self.stack)
            ):
                self._restart()
            self.look()

    def _restart(self) -> None:
        """Start the program as somebody does who misses it; one that never stays gets a rollback by hand at last."""
        self.start()
        self.in_vain = 0 if self.running or self.guardian is not None else self.in_vain + 1
        if self.in_vain >= PATIENCE_OF_USER:
            self.in_vain = 0
            error = self.recall()
            self._say(f"rollback by hand: {error or 'done'}")
            self.rescues += 1

    def _missed(self) -> bool:
        ended = self.program.ended if self.program is not None else -USER
        return self.now - ended >= (USER if self.home == "alone" else STEP)

    def advance_until(self, reached: Callable[[], bool], seconds: float) -> bool:
        """Let time pass until something is so, or for so long; return whether it is."""
        end = self.now + seconds
        while not reached() and self.now < end:
            self.advance(STEP)
        return reached()

    def confirmed(self, image: Image) -> bool:
        """Return whether a release is in place, for good, and runs."""
        known = self.state
        good = (
            known.good is None or known.good == self.release(image) or (image == self.first and known.good is not None)
        )
        return (
            self.running
            and not self.program.hung
            and self.program.image == image == self.stands()
            and known.update is None
            and good
        )

    def unhang(self) -> None:
        """End what hangs, as a user does at last."""
        for actor in list(self.actors.values()):
            lost = self.guardian is None and actor.image is not None and actor.image.behaviour == "hang"
            if actor.alive and (actor.hung or lost):
                self.end(actor, signal.SIGKILL)

    def may_be_quarantined(self, image: Image) -> bool:
        """Return whether a release has failed often enough, as far as could be seen."""
        sha256 = self.release(image).sha256
        return self.blame[sha256] > TRIES or self.interruptions[sha256] > MAX_INTERRUPTIONS

    # What is put in the place of the real -----------------------------------------------------------------------------

    def _patch(self) -> None:
        patch = self._undo.enter_context(pytest.MonkeyPatch.context())
        for module in (updater, trial, installer, protection):
            patch.setattr(module, "os", _Os(self))
        patch.setattr(points, "hook", self.reach)
        patch.setattr(protection, "exec_restart", self._exec)
        patch.setattr(protection, "summon", self._summon)
        patch.setattr(updater, "_STOCK_PATIENCE", 0)
        patch.setattr(trial, "_LOCK_PATIENCE", 0)
        patch.setattr(watching, "_LOCK_PATIENCE", 0)
        patch.setattr(guardian, "Watch", lambda *_, **__: self.guardian)
        patch.setattr(watching, "Process", lambda pid, born=None: Watched(self, pid))
        for module in (watching, updater, installer):
            patch.setattr(module, "born_at", self._born_at, raising=False)
        patch.setattr(guardian, "give_back", partial(watching.give_back, pause=self.advance))
        patch.setattr(guardian, "_started_by_others", self._started_by_others)
        for module in (guardian, watching):
            patch.setattr(module, "time", SimpleNamespace(sleep=self._sleep, monotonic=lambda: self.now))
        patch.setattr(guardian, "start", lambda launch: self.start())
        patch.setattr(state, "datetime", Clock)
        patch.setattr(installer, "datetime", Clock)
        Clock.offset = timedelta()
        self._patch_disk(patch)

    def _patch_disk(self, patch: pytest.MonkeyPatch) -> None:  # noqa: C901 - five small functions
        def changing(name: str, *, new: bool) -> None:
            function = getattr(os, name)

            def change(*args, **kwargs):
                if self._ours(args):
                    self.disk.change(*args, new=new)
                return function(*args, **kwargs)

            patch.setattr(os, name, change)

        for name, new in {"link": True, "symlink": True, "mkdir": True, "replace": False, "unlink": False}.items():
            changing(name, new=new)
        for name in ("fchmod", "rmdir", "chmod"):
            changing(name, new=False)

        def open_(path, flags, *args, _open=os.open, **kwargs):
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and self._ours([path]):
                self.disk.change(path, new=not os.path.exists(path))
            return _open(path, flags, *args, **kwargs)

        def fsync(descriptor):
            if self.stack:
                self.disk.change(new=False)  # that it is durable is shown elsewhere

        def exchange(one, other, _exchange=folder_installer._exchange):
            self.disk.change(one, new=False)
            _exchange(one, other)

        class File(FileIO):
            def write(self, data, world=self):
                if world.stack:
                    world.disk.change(new=True)
                return super().write(data)

        patch.setattr(os, "open", open_)
        patch.setattr(os, "fsync", fsync)
        patch.setattr(folder_installer, "_exchange", exchange)
        patch.setattr(staging, "FileIO", File)

    def _ours(self, args) -> bool:
        return bool(self.stack) and any(
            isinstance(each, int) or (isinstance(each, str | Path) and str(each).startswith(str(self.place)))
            for each in args
        )


class _Os:
    """The module ``os``, but for who one is."""

    def __init__(self, world: World) -> None:
        self._world = world

    def getpid(self) -> int:
        return self._world.stack[-1].pid if self._world.stack else os.getpid()

    def __getattr__(self, name: str):
        return getattr(os, name)

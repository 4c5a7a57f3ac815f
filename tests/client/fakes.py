"""What stands in for the seams of an updater: a server without a network, a disk without files, a restart without exec."""

import hashlib
import json
import os
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from semver import Version

from patchify.client.memory import Memory
from patchify.client.processes import born_at
from patchify.client.state import MAX_INTERRUPTIONS, Phase, Release, State, Update, Verdict, settle
from patchify.client.trust import SignedAnswer
from patchify.errors import (
    FailedHashVerificationError,
    HttpError,
    UnableToSwapError,
    UpdateInProgressError,
    VersionNotFoundError,
)
from patchify.keys import SigningKey, encode_signature
from patchify.messages import LatestVersion, UpdateDocument, VersionHash


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Faults:
    """Errors that the named steps raise, each once or always, and what is done just before a step."""

    def __init__(self):
        self.calls: list[str] = []
        self.once: dict[str, Exception] = {}
        self.always: dict[str, Exception] = {}
        self.before: dict[str, object] = {}

    def step(self, name: str) -> None:
        self.calls.append(name)
        if name in self.before:
            self.before[name]()
        if error := self.once.pop(name, None) or self.always.get(name):
            raise error


class FakeTransport(Faults):
    """Answers what a server with these releases and this key would."""

    def __init__(self, key: SigningKey, releases: dict[str, bytes], pieces: int = 10):
        super().__init__()
        self.key = key
        self.releases = releases
        self.pieces = pieces
        self.closed = False
        self.document: UpdateDocument | None = None
        self.asked: list[tuple[str, str]] = []
        self.reports: list[dict] = []
        self.downloaded: list[tuple[str | None, int | None]] = []
        self.files: dict[str, bytes] = {}  # by the hash that they are asked for by

    def update(self, channel: str, platform: str) -> SignedAnswer:
        self.asked.append((channel, platform))
        if self.document is None:
            raise HttpError("https://updates.example.com/", 404)
        self.step("update")
        return self._signed(self.document.to_bytes())

    def latest(self) -> SignedAnswer:
        self.step("latest")
        return self._signed(LatestVersion(max(map(Version.parse, self.releases), default=Version(0))).to_bytes())

    def hash(self, version: str) -> SignedAnswer:
        self.step("hash")
        if version not in self.releases:
            raise VersionNotFoundError(version)
        return self._signed(VersionHash(Version.parse(version), sha256(self.releases[version])).to_bytes())

    def release(self, version, digest, part, progress, *, path=None, size=None) -> None:
        self.downloaded.append((path, size))
        self._send("release", self.releases[version], part, progress)

    def file(self, path, digest, size, part, progress, *, segments=None) -> None:
        assert path == f"files/{digest}"
        self.downloaded.append((path, size))
        data = self.files.get(digest) or next((each for each in self.releases.values() if sha256(each) == digest), None)
        if data is None:
            raise HttpError(f"https://updates.example.com/{path}", 404)
        part.cut(size)
        self._send("file", data, part, progress)

    def _send(self, step: str, data: bytes, part, progress) -> None:
        size = -(-len(data) // self.pieces)
        for start in range(part.size, len(data), size):
            self.step(step)
            part.write(data[start : start + size])
            progress(part.size, len(data))

    def report(self, body: bytes) -> None:
        self.step("report")
        self.reports.append(json.loads(body))

    def close(self) -> None:
        self.closed = True

    def _signed(self, body: bytes) -> SignedAnswer:
        return SignedAnswer("https://updates.example.com/", body, encode_signature(self.key.sign(body)))


class FakePart:
    def __init__(self):
        self.data = b""
        self.closed = False

    @property
    def size(self) -> int:
        return len(self.data)

    def reserve(self, total: int) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.data += data

    def cut(self, size: int) -> None:
        self.data = self.data[:size]

    def close(self) -> None:
        self.closed = True


class FakeInstaller(Faults):
    """A program that is some bytes. Another process is played by setting ``locked`` or ``elected``, or by `replace`.

    A release is Python source where it is run: by a smoke test.
    """

    path = Path("/dev/null/app")  # nobody can make a folder there by mistake
    folder = Path("/dev/null/.app.patchify")
    formats = frozenset({"file"})

    def __init__(self, program: bytes = b"one"):
        super().__init__()
        self.program = program
        self.previous: dict[str, bytes] = {}
        self.downloads: dict[str, bytes] = {}
        self.remembered = State()
        self.memorized = Memory()
        self.words: dict[int, str] = {}
        self.parts: list[FakePart] = []
        self.locked = False
        self.elected = True
        self._lock = threading.RLock()

    def replace(self, program: bytes) -> None:
        self.program = program

    def on_trial(self, version: Version, release: bytes, **members) -> None:
        """Be where a swap has just been done."""
        self.previous[sha256(self.program)] = self.program
        self.downloads[sha256(release)] = release
        old = Release(Version(1), sha256(self.program))
        update = Update(Release(version, sha256(release)), old, Phase.ARMED, **{"tries": 1, **members})
        self.remembered = State(good=old, update=update)
        self.replace(release)

    # Who may

    @contextmanager
    def lock(self, patience: float = 0):
        self.step("lock")
        if self.locked:
            raise UpdateInProgressError("another process is updating")
        with self._lock:
            yield

    def renew_locks(self) -> None:
        self._lock = threading.RLock()

    def elect(self) -> bool:
        self.step("elect")
        return self.elected

    def retire(self) -> None:
        self.calls.append("retire")

    # What is remembered

    def state(self) -> State:
        return self.remembered

    def memory(self) -> Memory:
        return self.memorized

    def remember(self, change) -> Memory:
        self.step("remember")
        self.memorized = change(self.memorized)
        return self.memorized

    def note(self, error: str) -> None:
        self.remembered = replace(self.remembered, checked=datetime.now(UTC), error=error)

    def quarantine(self, release: Release, reason: str) -> State:
        self.step("quarantine")
        self.downloads.pop(release.sha256, None)
        self.remembered = self.remembered.condemned(release, reason)
        return self.remembered

    def told(self) -> None:
        self.step("told")
        self.remembered = replace(self.remembered, untold=None)

    def report(self, process: int, patience: float, problem: str = "") -> None:
        self.step("report")
        trial = self.remembered.on_trial
        if trial is None or (trial.process not in (None, process) and born_at(trial.process) == trial.born):
            return
        self.remembered = self.remembered.reported(process, patience, problem, born_at(process))

    def ending(self, reason: str) -> None:
        self.words[os.getpid()] = reason

    def ended(self, process: int) -> str:
        return self.words.get(process, "")

    # What is done

    def identity(self) -> object:
        return self.installed()

    def installed(self, progress=lambda done, total: None) -> str:
        return sha256(self.program)

    def launch(self, launch):
        self.step("launch")
        return launch

    def trial_launch(self, launch, release, arguments) -> tuple[str, ...]:
        return (sys.executable, "-I", "-c", self.downloads[release.sha256].decode(), *arguments)

    def kept(self, path: str) -> str:
        return path

    def recover(self) -> State:
        self.step("recover")
        state = self.remembered
        verdict = settle(state.update, self.installed())
        if verdict is Verdict.UNSWAPPED:
            self.remembered = state.returning("the update was interrupted before the swap", failed=False).returned()
        elif verdict in (Verdict.PUT_BACK, Verdict.BACK):
            self._return()
        elif verdict is Verdict.STALE:
            self.forget()
        return self.remembered

    def part(self, digest: str, forms=()) -> FakePart:
        self.step("part")
        self.parts.append(FakePart())
        return self.parts[-1]

    def begun(self) -> dict[str, int]:
        return {}

    def drop(self, wanted) -> None:
        self.wanted = set(wanted)

    def keep(self) -> None:
        self.step("keep")

    def is_staged(self, digest: str) -> bool:
        return digest in self.downloads

    def stage(self, version, part, digest) -> None:
        self.step("stage")
        if sha256(part.data) != digest:
            raise FailedHashVerificationError(str(version), expected=digest, found=sha256(part.data))
        self.downloads[digest] = part.data

    def make_ready(self, release, progress=lambda done, total: None) -> None:
        self.step("make_ready")

    def prepare(self, release, running, progress) -> Update:
        for done in range(0, 101, 50):
            self.step("prepare")
            progress(done, 100)
        self.previous[self.installed()] = self.program
        self.remembered = self.remembered.staged(release, Release(running, self.installed()))
        return self.remembered.update

    def swap(self, update: Update, tries: int) -> bool:
        self.step("swap")
        if self.installed() == update.release.sha256:
            return False
        if self.remembered.update is None or self.remembered.update.release != update.release:
            raise UnableToSwapError(self.path, "the update was given up meanwhile")
        self.remembered = self.remembered.armed(tries)
        self.replace(self.downloads[update.release.sha256])
        return True

    def confirm(self) -> bool:
        self.step("confirm")
        if self.remembered.on_trial is None:
            return False
        self.remembered = self.remembered.confirmed()
        self.downloads.clear()
        return True

    def give_back(self, reason: str, *, failed: bool | None) -> State:
        self.step("give_back")
        if self.remembered.on_trial is not None:
            self.remembered = self.remembered.returning(reason, failed=failed)
            self._return()
        return self.remembered

    def trial(self) -> Update | None:
        self.step("trial")
        return self.remembered.on_trial

    def resume(self, reason: str) -> State:
        if self.remembered.on_trial.interruptions >= MAX_INTERRUPTIONS:
            return self.give_back(reason, failed=False)
        self.remembered = self.remembered.resumed()
        return self.remembered

    def forget(self) -> State:
        self.calls.append("forget")
        self.downloads.clear()
        self.remembered = replace(self.remembered, update=None)
        return self.remembered

    def _return(self) -> None:
        update = self.remembered.update
        self.replace(self.previous[update.replaces.sha256])
        self.remembered = self.remembered.returned()
        if self.remembered.update is None:
            self.downloads.clear()


class FakeRestarter:
    """Is called instead of exec; ``during`` is called in its place, and may raise."""

    def __init__(self):
        self.launches = []
        self.during = lambda: None

    def __call__(self, launch) -> None:
        self.launches.append(launch)
        self.during()


class FakeProcess:
    """A process that ends when the test says so."""

    def __init__(self, pid: int):
        self.pid = pid
        self.ended = None  # its status
        self.told = []
        self.waits = 0
        self.after_waits = lambda: None

    @property
    def alive(self):
        return self.ended is None

    def wait(self, seconds):
        self.waits += 1
        self.after_waits()
        return self.ended is not None

    def status(self):
        return self.ended

    def end(self):
        self.told.append("end")

    def close(self):
        self.told.append("close")


class FakeClock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self):
        return self.now

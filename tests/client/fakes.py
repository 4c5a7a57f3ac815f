"""What stands in for the seams of an updater: a server without a network, a disk without files, a restart without exec."""

import hashlib
from contextlib import contextmanager
from pathlib import Path

from semver import Version

from patchify.client.state import Staged, judge
from patchify.client.trust import SignedAnswer
from patchify.errors import FailedHashVerificationError, UpdateInProgressError, VersionNotFoundError
from patchify.keys import SigningKey, encode_signature
from patchify.messages import LatestVersion, VersionHash


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

    def latest(self) -> SignedAnswer:
        self.step("latest")
        return self._signed(LatestVersion(max(map(Version.parse, self.releases), default=Version(0))).to_bytes())

    def hash(self, version: str) -> SignedAnswer:
        self.step("hash")
        if version not in self.releases:
            raise VersionNotFoundError(version)
        return self._signed(VersionHash(Version.parse(version), sha256(self.releases[version])).to_bytes())

    def release(self, version, digest, part, progress) -> None:
        data = self.releases[version]
        size = -(-len(data) // self.pieces)
        for start in range(0, len(data), size):
            self.step("release")
            part.write(data[start : start + size])
            progress(part.size, len(data))

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

    def write(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None:
        self.closed = True


class FakeInstaller(Faults):
    """A program that is some bytes. Another process is played by setting ``locked`` or ``elected``, or by `replace`."""

    folder = Path("/nowhere")

    def __init__(self, program: bytes = b"one"):
        super().__init__()
        self.program = program
        self.previous = b""
        self.downloads: dict[str, bytes] = {}
        self.state: Staged | None = None
        self.parts: list[FakePart] = []
        self.times_replaced = 0
        self.locked = False
        self.elected = True

    def replace(self, program: bytes) -> None:
        self.program = program
        self.times_replaced += 1

    @contextmanager
    def lock(self, patience: float = 0):
        self.step("lock")
        if self.locked:
            raise UpdateInProgressError("another process is updating")
        yield

    def renew_locks(self) -> None:
        pass

    def elect(self) -> bool:
        self.step("elect")
        return self.elected

    def retire(self) -> None:
        self.calls.append("retire")

    def identity(self) -> object:
        return self.times_replaced

    def recover(self) -> Staged | None:
        self.step("recover")
        if self.state and judge(self.state, self.installed()).name != "WAITING":
            self.forget()
        return self.state

    def installed(self, progress=lambda done, total: None) -> str:
        return sha256(self.program)

    def part(self, digest: str) -> FakePart:
        self.step("part")
        self.parts.append(FakePart())
        return self.parts[-1]

    def is_staged(self, digest: str) -> bool:
        return digest in self.downloads

    def stage(self, version, part, digest) -> None:
        self.step("stage")
        if sha256(part.data) != digest:
            raise FailedHashVerificationError(str(version), expected=digest, found=sha256(part.data))
        self.downloads[digest] = part.data

    def prepare(self, version, digest, progress) -> Staged:
        for done in range(0, 101, 50):
            self.step("prepare")
            progress(done, 100)
        self.previous = self.program
        self.state = Staged(version, digest, self.installed())
        return self.state

    def swap(self, staged: Staged) -> None:
        self.step("swap")
        if self.installed() != staged.sha256:
            self.replace(self.downloads.pop(staged.sha256))

    def undo(self, staged: Staged) -> None:
        self.step("undo")
        if staged.replaces != staged.sha256:
            self.replace(self.previous)
        self.forget()

    def forget(self) -> None:
        self.calls.append("forget")
        self.state = None


class FakeRestarter:
    """Is called instead of exec; ``during`` is called in its place, and may raise."""

    def __init__(self):
        self.launches = []
        self.during = lambda: None

    def __call__(self, launch) -> None:
        self.launches.append(launch)
        self.during()

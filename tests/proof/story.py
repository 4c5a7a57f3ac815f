"""Updates of a tiny real program, told step by step as the updater takes them, to be killed at any instant.

``python -m tests.proof.story KIND ACT FOLDER [POINT NTH]`` does one act of `ACTS` to the program ``FOLDER/app``, which is a
file or a folder and was laid out by `prepare`. It ends with 0, with 3 if it failed by an error of ours, which it names,
or, when it comes to the crash point ``POINT`` for the ``NTH`` time, by ``kill -9``. Its output ends with the points that
it reached.

`examine` says what stands at the program's path then, `finish` is what the next updater does, and `leftovers` finds what
is there beside that. Without a fault, `outcome` says what an act comes to.
"""

from __future__ import annotations

import errno
import functools
import gzip
import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import patchify

if __name__ == "__main__":  # the whole of the client takes longer to import than any act; the installer needs little
    _client = types.ModuleType("patchify.client")
    _client.__path__ = [str(Path(patchify.__file__).parent / "client")]
    sys.modules["patchify.client"] = _client

from semver import Version

from patchify import trees
from patchify.client import points
from patchify.client.fetching import Fetcher
from patchify.client.file_installer import FileInstaller
from patchify.client.folder_installer import FolderInstaller, is_users_own
from patchify.client.state import Phase, Release, State, read
from patchify.errors import FailedHashVerificationError, PatchifyError
from patchify.forms import Forms, Patch, Tree, path_of
from tests.forking import serve
from tests.injection import begin

ZEROTH, FIRST, SECOND, THIRD = "0.9.0", "1.0.0", "2.0.0", "3.0.0"
OLD_OR_NEW = (FIRST, SECOND)
LAYOUTS = {  # what stands there before the act, and of which kind that is
    "file": "file",
    "file, updated before": "file",
    "folder": "folder",
    "link to a folder": "folder",
    "folder, updated before": "folder",
}
REPORTED = 3  # exit status after an error of ours
PATIENCE = 30  # seconds that the program, and an act, may take
Step = Callable[..., None]  # of an installer, which is locked, and its kind
MODULE = "tests.proof.story"  # with ``serve``, it is one of `tests.forking.Forks`
_PADDING = b"# what makes one version longer than the other\n" * 40


# The program ----------------------------------------------------------------------------------------------------------


def tree(version: str) -> dict[str, tuple]:
    """Return what a version of the folder program consists of: a program reached by a link, and what it reads."""
    script = b'#!/bin/sh\nread -r version < "${0%/*}/lib/version" && echo "$version"\n'
    found: dict[str, tuple] = {
        "bin": ("folder",),
        "bin/program": ("file", True, script),
        "lib": ("folder",),
        "lib/version": ("file", False, f"{version}\n".encode()),
        "run": ("link", "bin/program"),
    }
    if version >= SECOND:
        found["lib/more"] = ("file", False, _PADDING)
    return found


@functools.cache
def data(kind: str, version: str) -> bytes:
    """Return a release: the file, or the archive of the folder."""
    if kind == "file":
        return f"#!/bin/sh\necho {version}\n".encode() + (_PADDING if version >= SECOND else b"")
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file, tarfile.open(fileobj=file, mode="w") as archive:
        for name, (what, *facts) in {"": ("folder",), **tree(version)}.items():
            member = tarfile.TarInfo(f"app/{name}".rstrip("/"))
            member.mode = 0o755 if what == "folder" or facts[0] is True else 0o644
            if what == "folder":
                member.type = tarfile.DIRTYPE
            elif what == "link":
                member.type, member.linkname = tarfile.SYMTYPE, facts[0]
            else:
                member.size = len(facts[1])
            archive.addfile(member, io.BytesIO(facts[1]) if what == "file" else None)
    return packed.getvalue()


@functools.cache
def basis(kind: str, version: str) -> bytes:
    """Return what patches apply to, and make."""
    if kind == "file":
        return data(kind, version)
    found: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        _write_tree(Path(folder), tree(version))
        trees.pack(Path(folder), found.append)
    return b"".join(found)


@functools.cache
def patch(kind: str) -> bytes:
    """Return the patch that makes the second version of the first."""
    import hdiffpatch  # only one act needs it

    return hdiffpatch.diff(basis(kind, FIRST), basis(kind, SECOND), hdiffpatch.COMPRESSION_ZLIB)


def release(kind: str, version: str) -> Release:
    return Release(Version.parse(version), _sha256(data(kind, version)))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def installer_of(kind: str, folder: Path):
    return (FileInstaller if kind == "file" else FolderInstaller)(folder / "app")


# What is done ---------------------------------------------------------------------------------------------------------


def _fetch(installer, wanted: Release, content: bytes) -> None:
    part = installer.part(wanted.sha256)
    try:
        part.reserve(len(content))
        part.take_up(lambda done: None)
        half = max(part.size, len(content) // 2)
        part.write(content[part.size : half])
        part.write(content[half:])
        installer.stage(wanted.version, part, wanted.sha256)
    finally:
        part.close()


def _download(installer, kind: str, version: str) -> Release:
    wanted = release(kind, version)
    if not installer.is_staged(wanted.sha256):
        try:
            _fetch(installer, wanted, data(kind, version))
        except FailedHashVerificationError:  # as the updater: it may have gone on from a damaged beginning
            _fetch(installer, wanted, data(kind, version))
    return wanted


class _Server:
    """A transport to where the patch and the whole are."""

    def __init__(self, kind: str) -> None:
        self._files = {path_of(_sha256(each)): each for each in (patch(kind), data(kind, SECOND))}

    def file(self, path, sha256, size, part, progress, *, segments=None) -> None:
        content = self._files[path]
        part.cut(len(content))
        part.reserve(len(content))
        half = max(part.size, len(content) // 2)
        part.write(content[part.size : half])
        part.write(content[half:])


def _install_by_patch(installer, kind: str) -> None:
    """Install the second version as the updater does where there is a patch to it."""
    wanted, old, new = release(kind, SECOND), basis(kind, FIRST), basis(kind, SECOND)
    forms = Forms(
        tree=None if kind == "file" else Tree(_sha256(new), len(new)),
        patches=(Patch(_sha256(old), _sha256(patch(kind)), len(patch(kind))),),
    )
    offer = types.SimpleNamespace(
        size=len(new),  # for a folder, the archive would do as well
        path=path_of(wanted.sha256),
        format="file" if kind == "file" else "tar.gz",
        forms=forms,
    )
    nobody = types.SimpleNamespace(tell=lambda *_: None)
    config = types.SimpleNamespace(patch_memory=256, max_release=4096)
    fetcher = Fetcher(config, installer, _Server(kind), nobody, lambda *_, **__: None)
    if not installer.is_staged(wanted.sha256):
        fetcher.fetch(wanted, offer, lambda: lambda done, total: None)
    installer.swap(installer.prepare(wanted, Version.parse(FIRST)), 1)


def _install(installer, kind: str, version: str = SECOND, running: str = FIRST, tries: int = 1) -> None:
    update = installer.prepare(_download(installer, kind, version), Version.parse(running))
    installer.swap(update, tries)


def _give_back(installer, kind: str) -> None:
    installer.give_back("failed in a story", failed=True)


def _confirm(installer, kind: str) -> None:
    installer.confirm()


def _recall(installer, kind: str) -> None:
    installer.recall()


def _recover(installer, kind: str) -> None:
    installer.recover()


def _smoke(installer, kind: str) -> None:
    wanted = _download(installer, kind, SECOND)
    installer.make_ready(wanted)
    installer.quarantine(wanted, "failed its smoke test in a story")


def _life(installer, kind: str) -> None:
    _install(installer, kind)
    _give_back(installer, kind)
    _install(installer, kind)
    installer.confirm()
    installer.recall()


def _finish(installer, kind: str) -> None:
    """Do what the next updater does: recover, and bring the newest good version to its confirmation.

    Where a confirmation was all but done, the version after that is installed: in the end there is one more success.
    """
    second, third = release(kind, SECOND), release(kind, THIRD)
    state = installer.recover()
    if state.update is not None and state.update.phase is Phase.STAGED:
        installer.swap(state.update, 1)
    elif state.on_trial is None:
        stands = installer.installed()
        if stands == second.sha256:
            _install(installer, kind, THIRD, SECOND)
        elif stands != third.sha256:
            _install(installer, kind, THIRD if state.quarantined(second.sha256) else SECOND)
    installer.confirm()


def _confirmed(installer, kind: str) -> None:
    _install(installer, kind)
    installer.confirm()


def _armed(installer, kind: str) -> None:
    """Be interrupted between the order to swap and the swap."""
    installer.prepare(_download(installer, kind, SECOND), Version.parse(FIRST))
    installer.save(installer.state().armed(1))


def _returning(installer, kind: str) -> None:
    """Be interrupted between the order to put the previous version back and doing it."""
    _install(installer, kind)
    installer.save(installer.state().returning("failed in a story", failed=True))


def _back(installer, kind: str) -> None:
    """Be interrupted when the previous version is back, but nobody has remembered that."""
    _returning(installer, kind)
    installer._put_back(installer.state().update.replaces)


@dataclass(frozen=True)
class Act:
    """What is done, and before that by `prepare`; and what it comes to: a version, and what became of the second."""

    does: Step
    before: Step | None = None
    comes_to: tuple[str, str] = ("", "")


ACTS = {
    "install": Act(_install, comes_to=(SECOND, "on trial")),
    "by-patch": Act(_install_by_patch, comes_to=(SECOND, "on trial")),
    "smoke": Act(_smoke, comes_to=(FIRST, "bad")),
    "confirm": Act(_confirm, before=_install, comes_to=(SECOND, "")),
    "give-back": Act(_give_back, before=_install, comes_to=(FIRST, "waiting")),
    "spent": Act(_give_back, before=functools.partial(_install, tries=0), comes_to=(FIRST, "bad")),
    "recall": Act(_recall, before=_confirmed, comes_to=(FIRST, "bad")),
    "recover": Act(_recover, before=_returning, comes_to=(FIRST, "waiting")),
    "recover-armed": Act(_recover, before=_armed, comes_to=(FIRST, "waiting")),
    "recover-back": Act(_recover, before=_back, comes_to=(FIRST, "waiting")),
    "life": Act(_life, comes_to=(FIRST, "bad")),
    "finish": Act(_finish, comes_to=(SECOND, "")),
}


def act(kind: str, name: str, folder: Path) -> None:
    """Do an act, under the lock."""
    installer = installer_of(kind, folder)
    with installer.lock():
        ACTS[name].does(installer, kind)


def prepare(layout: str, name: str, folder: Path) -> None:
    """Lay out the program in an empty folder, and do what goes before an act."""
    kind = LAYOUTS[layout]
    first = ZEROTH if "before" in layout else FIRST
    program = folder / "app"
    if kind == "file":
        program.write_bytes(data(kind, first))
        program.chmod(0o755)
    else:
        place = folder / "program" if "link" in layout else program
        place.mkdir()
        _write_tree(place, tree(first))
        if place != program:
            program.symlink_to(place.name)
    installer = installer_of(kind, folder)
    if first == ZEROTH:
        with installer.lock():
            _install(installer, kind, FIRST, ZEROTH)
            installer.confirm()
        installer = installer_of(kind, folder)
    before = ACTS[name].before
    if before is not None:
        with installer.lock():
            before(installer, kind)


def _write_tree(place: Path, content: dict[str, tuple]) -> None:
    for name, (what, *facts) in content.items():
        if what == "folder":
            (place / name).mkdir()
        elif what == "link":
            (place / name).symlink_to(facts[0])
        else:
            (place / name).write_bytes(facts[1])
            (place / name).chmod(0o755 if facts[0] else 0o644)
        os.utime(place / name, (0, 0), follow_symlinks=False)  # as in the archive


# What is there afterwards ---------------------------------------------------------------------------------------------


def examine(kind: str, folder: Path) -> str:
    """Return the version that stands at the program's path. Fails if it is not exactly that one, or does not start."""
    version = _whole(kind, folder / "app")
    said = _run(folder / "app" / "run" if kind == "folder" else folder / "app")
    assert said == version, f"what stands there is {version}, but it says {said!r}"
    try:
        read(folder / ".app.patchify" / "state.json")
    except Exception as error:
        raise AssertionError(f"the state cannot be read: {error}") from error
    return version


def outcome(kind: str, folder: Path) -> tuple[str, str]:
    """Return the version that stands there, and what has become of the second one."""
    version = examine(kind, folder)
    state = read(folder / ".app.patchify" / "state.json") or State()
    second = release(kind, SECOND)
    if state.quarantined(second.sha256):
        assert state.update is None, f"in quarantine, and still on its way: {state}"
        return version, "bad"
    if state.update is None:
        return version, ""
    assert state.update.release == second, f"another release is on its way: {state}"
    return version, {Phase.ARMED: "on trial", Phase.STAGED: "waiting", Phase.RETURNING: "returning"}[state.update.phase]


def verify_finished(layout: str, folder: Path) -> None:
    """Fail unless, after `finish`, the newest is in place, the one before is kept whole, and nothing else is there."""
    kind = LAYOUTS[layout]
    version = examine(kind, folder)
    state = read(folder / ".app.patchify" / "state.json")
    assert state is not None
    assert state.update is None, f"this is still on its way: {state.update}"
    assert state.good == release(kind, version), f"{version} stands there, but this is remembered: {state}"
    assert state.previous is not None, "no previous version is remembered"
    bad = state.quarantined(release(kind, SECOND).sha256) is not None
    found = (str(state.previous.version), version)
    assert found in ({(FIRST, THIRD)} if bad else {(FIRST, SECOND), (SECOND, THIRD)}), f"in the end: {found}"
    installer = installer_of(kind, folder)
    kept = installer.previous_path(state.previous.sha256) if kind == "file" else installer.version_path(state.previous)
    assert _whole(kind, kept) == found[0], "the previous version that is kept is another"
    assert not (lying := leftovers(layout, folder)), f"left behind: {lying}"


def leftovers(layout: str, folder: Path) -> list[str]:
    """Return what lies beside the program and belongs to no version that is remembered, and what is missing there."""
    kind = LAYOUTS[layout]
    installer = installer_of(kind, folder)
    state = installer.state()
    assert state.good is not None
    assert state.previous is not None
    if drafts := [*installer.folder.glob(".memory.json.*")]:  # a kill left them; they go when they are a minute old
        for draft in drafts:
            os.utime(draft, (0, 0))
        with installer.lock():
            installer.forget()
    known = {"app", ".app.patchify", ".app.patchify/lock", ".app.patchify/state.json"}
    if "link" in layout:
        known |= {"program"}
    if kind == "file":
        known |= {str(installer.previous_path(state.previous.sha256).relative_to(folder))}
    else:
        versions = [installer.version_path(each).relative_to(folder) for each in (state.good, state.previous)]
        known |= {".app.patchify/versions", *map(str, versions), *(f"{each}.manifest" for each in versions)}
    there = {*folder.iterdir(), *installer.folder.iterdir()}
    if kind == "folder":
        versions = {*(installer.folder / "versions").iterdir()}
        there |= versions
        known |= {str(path.relative_to(folder)) for path in versions if is_users_own(path)}  # it is never deleted
    found = {str(path.relative_to(folder)) for path in there}
    remembered = {".app.patchify/memory.json", ".app.patchify/memory.lock"}  # there is something where a patch was
    return sorted(known ^ (found - remembered))


def _whole(kind: str, path: Path) -> str:
    """Return the version that a file or a folder is, to the last byte and mode."""
    if kind == "file":
        assert stat.S_ISREG(path.lstat().st_mode), f"{path} is no file"
        assert path.stat().st_mode & 0o777 == 0o755, f"{path} has mode {path.stat().st_mode:o}"
        found = {data(kind, version): version for version in (FIRST, SECOND, THIRD)}.get(path.read_bytes())
    else:
        content = _read_tree(path.resolve(strict=True))
        found = next((version for version in (FIRST, SECOND, THIRD) if tree(version) == content), None)
    assert found is not None, f"{path} is neither the old nor the new version"
    return found


def _read_tree(place: Path) -> dict[str, tuple]:
    found: dict[str, tuple] = {}
    for path in sorted(place.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            facts: tuple = ("link", os.readlink(path))
        elif stat.S_ISDIR(mode):
            facts = ("folder",)
        else:
            facts = ("file", bool(mode & 0o100), path.read_bytes())
        found[str(path.relative_to(place))] = facts
    return found


def _run(program: Path) -> str:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            done = subprocess.run([program], capture_output=True, text=True, timeout=PATIENCE, check=True)
        except OSError as error:
            # A process that another thread of the test has just forked may still hold what that thread was writing
            if error.errno != errno.ETXTBSY or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return done.stdout.strip()


# The process ----------------------------------------------------------------------------------------------------------


def command(kind: str, name: str, folder: Path, *point: object) -> list[str]:
    """Return the command of an act, to be run where `tests` can be imported."""
    return [sys.executable, "-m", MODULE, kind, name, str(folder), *map(str, point)]


def reached(output: str) -> list[str]:
    """Return the crash points of which a story has told."""
    return json.loads(output.splitlines()[-1])


def main(kind: str, name: str, folder: str, point: str = "", nth: str = "0") -> int:
    seen: list[str] = []

    def hook(reached: str) -> None:
        seen.append(reached)
        if reached == point and Counter(seen)[point] == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)

    points.hook = hook
    for version in (FIRST, SECOND, THIRD):
        data(kind, version)  # beforehand: it is no part of the story
    if name == "by-patch":
        patch(kind)
    begin()
    try:
        act(kind, name, Path(folder))
    except PatchifyError as error:
        sys.stdout.write(f"{type(error).__name__}: {error}\n")
        return REPORTED
    sys.stdout.write(f"{json.dumps(seen)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(serve(main) if sys.argv[1:] == ["serve"] else main(*sys.argv[1:]))

"""Kill a real process at every system call by which it changes a folder, or make the call fail; strace does it.

A *story* is a command that works in a folder, such as a script that installs an update. A first run under strace counts
its calls below the folder (`calls`), `points` says where the fault can be set, `run` sets one of them, and `sweep` does
all of it, every point in a folder of its own. What a good result is, is for the caller to check.

The story calls `begin` where the interesting part starts: it stops there until strace is attached, so that start-up and
imports are neither traced (they cost more than everything else) nor counted. A story that does not (``marked=False``) is
counted from its start; that works for any command, but the start-up of Python is the same from run to run only as long as
no folder on ``sys.path`` changes: its finder reads a changed folder anew, which is one ``openat`` and one ``stat`` more.

What strace 6.1 does, as measured; the design follows from it:

- ``when=K`` counts per system call *name*; with ``-P`` only what passes the filter counts. The filter knows exact
  paths and descriptors opened on them, never what is below a folder, so a draft with a random name would go unseen.
  Hence no ``-P``: ``-y`` prints the path of every descriptor, and the calls are told apart by what is printed.
- It counts per *thread*: a new thread and a forked child begin at zero, and the fault strikes in each of them at its own
  K-th call. An exec goes on counting. The first K-th call of all threads is the one that is hit, so a call behind another
  thread's with the same name and number cannot be aimed at: `points` names it as left out.
- ``signal=KILL`` takes effect on entry: the call is not executed. Nor is one that is given an error. The log
  marks an error with ``(INJECTED)``, a killed call only with ``= ?`` and ``+++ killed by SIGKILL +++``.
- With ``--seccomp-bpf`` the signal is silently lost and the program runs on, so that option is not used.

Whether the point was hit is read from the log of each run: the call that was struck must be the one that was meant, of
the same name and with the same number *below the folder*. Anything else is a miss: `sweep` counts anew, tries again,
and in the end reports it. Not shown by any of this: a torn write, and what a power cut takes that was not fsynced.
"""

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.forking import Forked, Forks

ROOT = Path(__file__).parent.parent
PATIENCE = 60  # seconds that one run may take
ATTEMPTS = 8  # at one point, when it is missed
KILL = "kill"
ERRORS = ("ENOSPC", "EIO", "EROFS", "EXDEV", "EACCES")

_OPEN = {"open", "openat", "openat2", "creat"}
_RENAME = {"rename", "renameat", "renameat2"}
_LINK = {"link", "linkat"}
_MAKE = {"symlink", "symlinkat", "mkdir", "mkdirat", "mknod", "mknodat"} | _LINK
_REMOVE = {"unlink", "unlinkat", "rmdir"}
_ATTRIBUTES = {"chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "utimensat"}
_ATTRIBUTES |= {"setxattr", "lsetxattr", "fsetxattr"}
_SIZE = {"truncate", "ftruncate", "fallocate"}
_COPY = {"sendfile", "copy_file_range"}
_WRITE = {"write", "writev", "pwrite64", "pwritev", "pwritev2"} | _COPY
_READ = {"read", "readv", "pread64", "preadv", "preadv2", "getdents64"}
_SYNC = {"fsync", "fdatasync", "sync_file_range", "syncfs"}
_LOOK = {"stat", "lstat", "fstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat"}
_LOOK |= {"statfs", "fstatfs", "execve", "execveat"}
_REST = {"close", "lseek", "fcntl", "flock", "ioctl"}

_BY_NAME = _OPEN | _RENAME | _MAKE | _REMOVE | _ATTRIBUTES | {"truncate"}
_CHANGES = _BY_NAME | _SIZE | _WRITE | _SYNC
_DATA = _READ | _WRITE | _SIZE | _SYNC  # calls on a descriptor, whose other arguments are no paths
TRACED = frozenset(_CHANGES | _DATA | _LOOK | _REST)

_MEANT = {
    "ENOSPC": _OPEN | _RENAME | _MAKE | _WRITE | _SIZE | _SYNC | {"setxattr", "lsetxattr", "fsetxattr"},
    "EIO": _CHANGES | _READ | _LOOK,
    "EROFS": _BY_NAME | {"fchmod", "fchown", "fsetxattr"},
    "EXDEV": _RENAME | _LINK | {"copy_file_range"},
    "EACCES": _BY_NAME | (_LOOK - {"fstat", "fstatfs"}),
}
_NEVER = {
    "close": "Linux closes the descriptor even when it reports an error; an injected one would leave it open",
    "lseek": "moves a number, touches no disk",
    "fcntl": "flags and locks of a descriptor report none of these errors",
    "flock": "reports none of these errors",
    "ioctl": "what is asked of a file here is whether it is a terminal, and the answer is an error anyway",
}

_CALL = re.compile(r"(\d+)\s+(\w+)\((.*)")
_RESUMED = re.compile(r"(\d+)\s+<\.\.\. (\w+) resumed>(.*)")
_KILLED = re.compile(r"(\d+)\s+\+\+\+ killed by SIGKILL")
_STOP_MARK = "INJECTION_STOPS_AT_THE_MARK"
_PR_SET_PTRACER = 0x59616D61
_LAUNCH = "import os, sys; from tests.injection import begin; begin(); os.execvp(sys.argv[1], sys.argv[1:])"


@dataclass(frozen=True)
class Call:
    """One system call below the folder."""

    name: str
    nth: int  # of the calls of that name below the folder
    when: int  # of all calls of that name in its thread, as strace counts
    first: bool  # no other thread was earlier with its call of that number
    text: str  # arguments and result, as strace prints them
    struck: bool = False


@dataclass(frozen=True)
class Point:
    """Where a fault is set: at the ``nth`` call of ``name`` below the folder, for strace the one with number ``when``."""

    name: str
    nth: int
    when: int
    text: str = field(default="", compare=False)

    def __str__(self):
        return f"{self.name} {self.nth}: {self.text[:160]}"


@dataclass(frozen=True)
class Outcome:
    """How a run ended. ``hit`` is false if the fault did not strike at the call that was meant."""

    point: Point
    fault: str
    returncode: int
    hit: bool
    output: str


@dataclass
class Report:
    """What a sweep found: ``(point, fault, what is wrong)``, points never hit, and those left out with the reason."""

    runs: int = 0
    failures: list[tuple[Point, str, str]] = field(default_factory=list)
    missed: list[tuple[Point, str]] = field(default_factory=list)
    left_out: list[tuple[Point, str, str]] = field(default_factory=list)
    retried: int = 0  # points that were missed at first

    def verify(self):
        """Fail unless every point was hit, there were some, and every check passed."""
        lines = [f"{fault} at {point}\n    {why}" for point, fault, why in self.failures]
        lines += [f"{fault} at {point}\n    was not hit" for point, fault in self.missed]
        assert self.runs, "there was no point to try"
        assert not lines, f"{len(lines)} of {self.runs} runs:\n" + "\n".join(lines)


def begin() -> None:
    """Start the part of a story that is traced. Without a tracer, which the environment tells, nothing happens."""
    if os.environ.pop(_STOP_MARK, None):  # removed: what the story starts is not to stop
        with contextlib.suppress(AttributeError):  # Yama lets only an ancestor attach, unless it is told otherwise
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)


def why_not() -> str:
    """Return why this machine cannot do it, or nothing."""
    if not shutil.which("strace"):
        return "strace is not installed"
    try:
        _trace([sys.executable, "-c", "pass"], ["-e", "trace=none"], marked=False)
    except _AttachError as error:
        return f"strace cannot attach to a process here: {error}"
    return ""


def calls(
    command: Sequence[str | Path],
    paths: Sequence[Path],
    *,
    env: Mapping[str, str] | None = None,
    marked: bool = True,
    patience: float = PATIENCE,
    forks: Forks | None = None,
) -> list[Call]:
    """Run the story without a fault and return its calls on and below ``paths``, in order.

    Paths are recognised as they are printed: the story should use absolute ones. With ``forks``, the story is one of
    these, and the command is its words. Raises `AssertionError` if it fails.
    """
    options = ["-e", "trace=" + ",".join(f"?{name}" for name in sorted(TRACED))]
    code, output, log = _trace(command, options, env=env, marked=marked, patience=patience, forks=forks)
    assert code == 0, f"the story fails without a fault: {code}\n{output}"
    return _parse(log, paths)


def points(found: Sequence[Call], fault: str) -> tuple[list[Point], list[tuple[Point, str, str]]]:
    """Return where ``fault`` can be set, and ``(point, fault, reason)`` for every call that is left out."""
    chosen, left_out = [], []
    for call in found:
        point = Point(call.name, call.nth, call.when, call.text)
        reason = _reason_against(call, fault)
        if reason:
            left_out.append((point, fault, reason))
        else:
            chosen.append(point)
    return chosen, left_out


def run(
    command: Sequence[str | Path],
    paths: Sequence[Path],
    point: Point,
    fault: str,
    *,
    env: Mapping[str, str] | None = None,
    marked: bool = True,
    patience: float = PATIENCE,
    forks: Forks | None = None,
) -> Outcome:
    """Run the story with ``fault``, which is "kill" or the name of an error, at ``point``. Waits for all it started."""
    effect = "signal=KILL" if fault == KILL else f"error={fault}"
    options = ["-e", f"trace={point.name}", "-e", f"inject={point.name}:{effect}:when={point.when}"]
    code, output, log = _trace(command, options, env=env, marked=marked, patience=patience, forks=forks)
    # A kill also cuts off what other threads are in the middle of; theirs have other numbers
    struck = next((call for call in _parse(log, paths) if call.struck and call.when == point.when), None)
    hit = struck is not None and struck.nth == point.nth
    return Outcome(point, fault, code, hit, output)


def sweep(
    root: Path,
    *,
    prepare: Callable[[Path], object],
    command: Callable[[Path], Sequence[str | Path]],
    check: Callable[[Path, Outcome], object],
    faults: Sequence[str] = (KILL,),
    choose: Callable[[Point, str], bool] = lambda point, fault: True,
    env: Mapping[str, str] | None = None,
    marked: bool = True,
    workers: int = 2,
    patience: float = PATIENCE,
    forks: Forks | None = None,
) -> Report:
    """Run the story once for every point and fault, each in a new folder below ``root``.

    Args:
        root: Where the folders are made, by absolute path. That of a failed check stays, any other is removed.
        prepare: Lays out what the story finds in the folder, which exists and is empty.
        command: Returns the story for a folder.
        check: Raises if what is in the folder is wrong. It is called only when the point was hit, and from threads.
        faults: "kill" and names of errors.
        choose: Says whether a point is tried with a fault; by default all are.
        env: Variables beside those of this process.
        marked: The story calls `begin`.
        workers: Runs at the same time.
        patience: Seconds for one run.
        forks: What starts the story, if it is no command but the words for one of these.
    """
    work = _Sweep(root, prepare, command, check, {"env": env, "marked": marked, "patience": patience, "forks": forks})
    report = Report()
    found = work.count()
    todo = []
    for fault in faults:
        chosen, left_out = points(found, fault)
        todo += [(point, fault) for point in chosen if choose(point, fault)]
        report.left_out += left_out
    with ThreadPoolExecutor(workers) as pool:
        for (point, fault), (hit, wrong, retries) in zip(todo, pool.map(work.attempt, todo), strict=True):
            report.runs += 1
            report.retried += retries > 0
            if wrong:
                report.failures.append((point, fault, wrong))
            elif not hit:
                report.missed.append((point, fault))
    return report


@dataclass
class _Sweep:
    """What the workers of a sweep share."""

    root: Path
    prepare: Callable[[Path], object]
    command: Callable[[Path], Sequence[str | Path]]
    check: Callable[[Path, Outcome], object]
    options: dict
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def folder(self) -> Path:
        folder = self.root / f"{next(self.numbers):06d}"  # of one length, so that nothing depends on which it is
        folder.mkdir(parents=True)
        self.prepare(folder)
        return folder

    def count(self) -> list[Call]:
        folder = self.folder()
        found = calls(self.command(folder), [folder], **self.options)
        shutil.rmtree(folder)
        return found

    def attempt(self, each: tuple[Point, str]) -> tuple[bool, str, int]:
        """Return whether the point was hit, what was wrong then, and how often it was missed before."""
        point, fault = each
        for retries in range(ATTEMPTS):
            if retries:
                point = self.find_again(point)
            folder = self.folder()
            try:
                outcome = run(self.command(folder), [folder], point, fault, **self.options)
                if outcome.hit:
                    self.check(folder, outcome)
            except Exception as error:
                return True, f"{folder}: {type(error).__name__}: {error}", retries
            shutil.rmtree(folder)
            if outcome.hit:
                return True, "", retries
        return False, "", ATTEMPTS

    def find_again(self, point: Point) -> Point:
        """Count anew: the same call below the folder may now have another number."""
        for call in self.count():
            if (call.name, call.nth) == (point.name, point.nth):
                return replace(point, when=call.when)
        return point


def _reason_against(call: Call, fault: str) -> str:
    creates = call.name == "creat" or any(flag in call.text for flag in ("O_CREAT", "O_TRUNC", "O_TMPFILE"))
    writes = creates or "O_WRONLY" in call.text or "O_RDWR" in call.text
    opens = call.name in _OPEN
    if fault == KILL:
        if call.name not in _CHANGES or (opens and not creates):
            return "changes nothing: a kill at the next change leaves the same behind"
    elif call.name in _NEVER:
        return _NEVER[call.name]
    elif call.name not in _MEANT[fault]:
        return f"{call.name} does not report {fault}"
    elif opens and ((fault == "ENOSPC" and not creates) or (fault == "EROFS" and not writes)):
        return f"opening what exists to read it does not report {fault}"
    return "" if call.first else "another thread or process makes a call of that name and number before it"


def _parse(log: str, paths: Sequence[Path]) -> list[Call]:
    places = "|".join(re.escape(each) for path in paths for each in sorted({str(path), os.path.realpath(path)}))
    anywhere = re.compile(rf'["<](?:{places})["/> ]')
    described = re.compile(rf"\d+<(?:{places})[/> ]")
    made: list[list] = []  # pid, name, text, when, first
    open_calls: dict[str, list] = {}
    counts: Counter[tuple[str, str]] = Counter()
    seen = set()
    killed = set()
    for line in log.splitlines():
        if match := _CALL.fullmatch(line):
            pid, name, text = match.groups()
            counts[pid, name] += 1
            number = counts[pid, name]
            open_calls[pid] = [pid, name, text, number, (name, number) not in seen]
            made.append(open_calls[pid])
            seen.add((name, number))
        elif (match := _RESUMED.fullmatch(line)) and match[1] in open_calls:
            open_calls[match[1]][2] += match[3]
        elif match := _KILLED.match(line):
            killed.add(match[1])
    below: Counter[str] = Counter()
    found = []
    for call in made:
        pid, name, text, when, first = call
        only_descriptor = name in _DATA - _COPY - {"truncate"}
        if not (described.match(text) if only_descriptor else anywhere.search(text)):
            continue
        below[name] += 1
        struck = "(INJECTED)" in text or (pid in killed and open_calls[pid] is call and re.search(r"= \?", text))
        found.append(Call(name, below[name], when, first, re.sub(r"\s+= ", " = ", text), bool(struck)))
    return found


class _AttachError(RuntimeError):
    pass


def _trace(command, options, *, env=None, marked=True, patience=PATIENCE, forks=None) -> tuple[int, str, str]:
    """Run the command under strace from its mark on; return its return code, its output and the log."""
    end = time.monotonic() + patience
    command = [str(each) for each in command]
    if not marked:
        command = [sys.executable, "-c", _LAUNCH, *command]
    search = os.pathsep.join(filter(None, [(env or {}).get("PYTHONPATH", os.environ.get("PYTHONPATH")), str(ROOT)]))
    fixed = {
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        **(env or {}),
        "PYTHONPATH": search,
        _STOP_MARK: "1",
    }
    with tempfile.TemporaryDirectory(prefix="injection-") as name:
        output, log = Path(name, "output"), Path(name, "log")
        started = (
            forks.process(command, output, env=fixed, cwd=name) if forks else _started(command, output, fixed, name)
        )
        with started as story:
            strace = None
            try:
                _wait_for_stop(story, end, output)
                strace = subprocess.Popen(
                    ["strace", "-f", "-y", "-s", "16", "-o", log, *options, "-p", str(story.pid)],
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
                told = strace.stderr.readline().decode(errors="replace").strip()
                if not told.endswith("attached"):
                    raise _AttachError(told or "strace ended")
                os.kill(story.pid, signal.SIGCONT)
                try:
                    strace.communicate(timeout=end - time.monotonic())  # it ends when all that it traces have ended
                    story.wait(max(1, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    tail = log.read_text(errors="replace")[-1000:]
                    what = f"did not end within {patience} s\n{output.read_text()[-1000:]}\n{tail}"
                    raise AssertionError(what) from None
                return story.returncode, output.read_text(errors="replace"), log.read_text(errors="replace")
            finally:
                _end(story, strace)


@contextlib.contextmanager
def _started(command, output: Path, env, cwd) -> Iterator[subprocess.Popen]:
    with output.open("wb") as file:
        yield subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def _wait_for_stop(story: subprocess.Popen | Forked, end: float, output: Path) -> None:
    while time.monotonic() < end:
        if isinstance(story, Forked):
            changed = story.wait_for_stop(end - time.monotonic()) or story.returncode is not None
        else:  # Not os.WEXITED: what is waited for here would be lost for Popen
            changed = os.waitid(os.P_PID, story.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if changed:
            if story.poll() is None:
                return
            raise AssertionError(f"ended with {story.returncode} before its mark\n{output.read_text(errors='replace')}")
        time.sleep(0.003)
    raise AssertionError(f"did not come to its mark\n{output.read_text(errors='replace')}")


def _end(story: subprocess.Popen | Forked, strace: subprocess.Popen | None) -> None:
    if strace is not None:
        if strace.poll() is None:
            for pid in _traced_by(strace.pid):  # they may have left the group; without their tracer they would run on
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                strace.wait(5)
        strace.kill()
        strace.wait()
        strace.stderr.close()
    if story.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(story.pid, signal.SIGKILL)
        story.wait()


def _traced_by(tracer: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if f"\nTracerPid:\t{tracer}\n" in status.read_text():
                found.append(int(status.parent.name))
    return found

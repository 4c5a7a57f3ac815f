"""What a real process does to the files below a folder, in order: recorded with strace, as a story of `power_loss`.

Nothing is passed over. A system call that changes something below the folder and that the reader does not know, or
knows only in part, raises `NotModelledError`; descriptors are followed through dup, fork and exec and compared with the
paths that strace shows; and in the end what the story says is there is compared with what is there. What happens
outside of the folder is left out. Changes are in the order in which they returned.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.proof.power_loss import File, Op, Story, Symlink, Tree, digest, read_tree

LONGEST = 16 * 1024 * 1024  # bytes of one write

_CWD = "AT_FDCWD"
_LINE = re.compile(r"(\d+) +(.*)", re.DOTALL)
_CALL = re.compile(r"(\w+)\((.*)\) += (.*)", re.DOTALL)
_UNFINISHED = re.compile(r"(\w+)\((.*?) *<unfinished \.\.\.>", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)", re.DOTALL)
_SUPERSEDED = re.compile(r"\+\+\+ superseded by execve in pid (\d+)")
_DESCRIPTOR = re.compile(r"(-?\d+|AT_FDCWD)(?:<([^>]*)>)?(\(deleted\))?")
_TOKEN = re.compile(r'"[^"]*"(?:\.\.\.)?|[^"()\[\]{},]+|.', re.DOTALL)
_STRING = re.compile(r'"([^"]*)"(\.\.\.)?')
_STARTS = frozenset({"clone", "clone3", "fork", "vfork"})
_NEVER = frozenset({"chroot", "io_setup", "io_submit", "io_uring_setup", "pivot_root", "setns"})
_HARMLESS_CALLS = """
    accept accept4 access add_key arch_prctl brk capget clock_gettime clock_nanosleep connect epoll_create1 epoll_ctl
    epoll_pwait epoll_wait eventfd2 exit exit_group faccessat faccessat2 fadvise64 fgetxattr flistxattr flock fstat
    fstatfs futex getcwd getdents getdents64 getpeername getrandom getsockname getsockopt getxattr inotify_add_watch
    inotify_init1 inotify_rm_watch kill lgetxattr listen listxattr llistxattr lstat madvise membarrier memfd_create
    mincore mlock mprotect mremap msync munmap name_to_handle_at newfstatat pidfd_open pipe pipe2 poll ppoll prctl
    pread64 preadv prlimit64 pselect6 readahead readlink readlinkat recvfrom recvmmsg recvmsg rt_sigaction
    rt_sigprocmask seccomp select sendmmsg sendmsg sendto setsockopt shutdown socket socketpair stat statfs statx
    sync_file_range sysinfo tgkill uname wait4 waitid
    """
_HARMLESS = frozenset(_HARMLESS_CALLS.split())
_HARMLESS_REQUESTS = ("TCGETS", "FIONREAD", "FS_IOC_GETFLAGS", "FIONBIO", "TIOCGWINSZ", "BTRFS_IOC_", "FS_IOC_FIEMAP")
_BY_PATH: dict[str, tuple[str, Callable[..., tuple[str, ...]]]] = {  # older calls as the ones with descriptors
    "open": ("openat", lambda path, *rest: (_CWD, path, *rest)),
    "creat": ("openat", lambda path, mode: (_CWD, path, "O_WRONLY|O_CREAT|O_TRUNC", mode)),
    "mkdir": ("mkdirat", lambda path, mode: (_CWD, path, mode)),
    "rmdir": ("unlinkat", lambda path: (_CWD, path, "AT_REMOVEDIR")),
    "unlink": ("unlinkat", lambda path: (_CWD, path, "0")),
    "rename": ("renameat2", lambda old, new: (_CWD, old, _CWD, new, "0")),
    "renameat": ("renameat2", lambda *paths: (*paths, "0")),
    "link": ("linkat", lambda old, new: (_CWD, old, _CWD, new, "0")),
    "symlink": ("symlinkat", lambda target, path: (target, _CWD, path)),
    "chmod": ("fchmodat", lambda path, mode: (_CWD, path, mode)),
    "fchmodat2": ("fchmodat", lambda *given: given),
    "chown": ("fchownat", lambda path, *owner: (_CWD, path, *owner, "0")),
    "lchown": ("fchownat", lambda path, *owner: (_CWD, path, *owner, "AT_SYMLINK_NOFOLLOW")),
    "utime": ("utimensat", lambda path, times: (_CWD, path, times, "0")),
    "utimes": ("utimensat", lambda path, times: (_CWD, path, times, "0")),
    "futimesat": ("utimensat", lambda folder, path, times: (folder, path, times, "0")),
    "dup": ("dup3", lambda old: (old, "", "0")),
    "dup2": ("dup3", lambda old, new: (old, new, "0")),
    "readv": ("read", lambda *given: given),
    "writev": ("write", lambda *given: given),
    "pwritev": ("pwritev2", lambda *given: (*given, "0")),
    "pwrite64": ("pwritev2", lambda file, data, count, offset: (file, data, "1", offset, "0")),
}


class NotModelledError(Exception):
    """A process did something below the folder that a story cannot tell."""


class RecordingError(Exception):
    """The command failed, or the story is not what happened."""


@dataclass(frozen=True)
class Recording:
    """A story. ``marks``: what was written to the standard output, and after how many operations."""

    initial: Tree
    operations: tuple[Op, ...]
    final: Tree
    marks: tuple[tuple[int, bytes], ...]
    returncode: int
    stdout: bytes
    stderr: bytes


@functools.cache
def missing() -> str | None:
    """Return why nothing can be recorded here, or None."""
    if not sys.platform.startswith("linux"):
        return "strace is for Linux"
    if not shutil.which("strace"):
        return "strace is not installed"
    tried = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return f"strace does not work here: {tried.stderr.strip()}" if tried.returncode else None


def record(
    command: Sequence[str],
    folder: Path,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    expect: int = 0,
    patience: float = 120,  # seconds
) -> Recording:
    """Run ``command`` in ``cwd`` (or ``folder``) and return what it, and what it started, did below ``folder``.

    It must leave with ``expect`` (minus the signal where one ends it), and nothing else may change the folder meanwhile.

    Raises:
        NotModelledError: it did what a story cannot tell.
        RecordingError: it left otherwise, or the story does not lead to what is there.
    """
    folder = Path(os.path.realpath(folder))
    cwd = Path(os.path.realpath(cwd or folder))
    initial = read_tree(folder)
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch, "trace")
        options = ["-f", "--quiet=attach", "-y", "-xx", "-s", str(LONGEST), "-o", str(trace)]
        traced = ["strace", *options, "--", *map(str, command)]
        with subprocess.Popen(
            traced,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            try:
                stdout, stderr = process.communicate(timeout=patience)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        if process.returncode != expect:
            raise RecordingError(f"{command} left with {process.returncode}, not {expect}: {stderr.decode()}")
        reader = _Reader(folder, Story(initial), _Place(str(cwd), _umask()))
        with trace.open(encoding="ascii") as lines:
            for line in lines:
                reader.line(line.rstrip("\n"))
        reader.end()
    final = read_tree(folder)
    told = reader.story.tree()
    if digest(final) != digest(told):
        differ = [path for path in sorted({*final, *told}) if not _same(final.get(path), told.get(path))]
        raise RecordingError(f"the story does not lead to what is there: {differ or 'other hard links'}")
    operations, marks = tuple(reader.story.operations), tuple(reader.marks)
    return Recording(initial, operations, final, marks, process.returncode, stdout, stderr)


def _same(one: object, other: object) -> bool:
    if isinstance(one, File) and isinstance(other, File):
        return (one.data, one.mode) == (other.data, other.mode)
    return one == other


def _umask() -> int:
    found = re.search(r"^Umask:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1], 8)


@dataclass
class _Open:
    """An open file description, which descriptors and processes may share."""

    inode: int
    append: bool
    durable: bool
    writable: bool
    offset: int = 0


@dataclass
class _Place:
    """The working folder and the umask, which threads share."""

    cwd: str
    umask: int


@dataclass
class _Task:
    """A thread or process: its place, and by number its descriptors below the folder, with whether exec closes them."""

    place: _Place
    files: dict[int, tuple[_Open, bool]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Descriptor:
    number: int  # -1 for the working folder
    path: str | None
    deleted: bool


def _arguments(text: str) -> list[str]:
    """Split at the commas that are in no string, bracket or brace."""
    found, depth = [""], 0
    for token in _TOKEN.findall(text):
        depth += (token in "([{") - (token in ")]}")
        if token == "," and not depth:
            found.append("")
        else:
            found[-1] += token
    return [each.strip() for each in found]


def _plain(text: str) -> bytes:
    """Undo ``-xx``; text that is not escaped, as in ``pipe:[1]``, stays."""
    if not text.startswith("\\x"):
        return text.encode()
    return bytes.fromhex(text.replace("\\x", ""))


def _bytes(argument: str, count: int) -> bytes:
    """Return the first ``count`` bytes of the strings in ``argument``."""
    data = b"".join(_plain(text) for text, _ in _STRING.findall(argument))
    if len(data) < count:
        raise NotModelledError(f"a write of more than {LONGEST} bytes")
    return data[:count]


def _text(argument: str) -> str:
    found = _STRING.fullmatch(argument)
    if not found or found[2]:
        raise NotModelledError(f"the path {argument[:100]}")
    return os.fsdecode(_plain(found[1]))


def _descriptor(argument: str) -> _Descriptor:
    found = _DESCRIPTOR.match(argument)
    if not found:
        raise NotModelledError(f"the descriptor {argument[:100]}")
    number = -1 if found[1] == _CWD else int(found[1])
    return _Descriptor(number, None if found[2] is None else os.fsdecode(_plain(found[2])), bool(found[3]))


def _given_offset(argument: str) -> int | None:
    found = re.match(r"\[(\d+)", argument)
    return int(found[1]) if found else None


class _Reader:
    """Turns lines of strace into a story. Its ``_do_`` methods are system calls that succeeded."""

    def __init__(self, folder: Path, story: Story, place: _Place) -> None:
        self.story = story
        self.marks: list[tuple[int, bytes]] = []
        self._folder = str(folder)
        self._first: _Task | None = _Task(place)
        self._tasks: dict[int, _Task] = {}
        self._unfinished: dict[int, tuple[str, str]] = {}
        self._early: set[int] = set()  # processes that were seen before the call that started them returned

    def line(self, line: str) -> None:
        found = _LINE.fullmatch(line)
        if not found:
            raise RecordingError(f"not a line of strace: {line[:200]}")
        pid, text = int(found[1]), found[2]
        try:
            self._event(pid, text)
        except NotModelledError as error:
            raise NotModelledError(f"not modelled: {error}, in {_readable(text)}") from error
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise RecordingError(f"cannot be: {error!r}, in {_readable(text)}") from error

    def end(self) -> None:
        """Check what was going on when its process was killed."""
        for pid, (name, arguments) in self._unfinished.items():
            self._killed_in(self._tasks[pid], name, arguments)

    def _event(self, pid: int, text: str) -> None:
        if superseded := _SUPERSEDED.match(text):
            other = int(superseded[1])
            self._tasks[pid] = self._tasks.pop(other)
            self._unfinished[pid] = self._unfinished.pop(other)
            return
        if text.startswith(("+++", "---")):
            return
        task = self._task(pid)
        if unfinished := _UNFINISHED.fullmatch(text):
            self._unfinished[pid] = unfinished[1], unfinished[2]
            if unfinished[1] == "close":  # the number may be given out again before this returns
                self._do_close(task, 0, "", unfinished[2])
            return
        if resumed := _RESUMED.fullmatch(text):
            name, begun = self._unfinished.pop(pid)
            text = f"{name}({begun}{resumed[1]}"
            if name == "close":
                return
        if found := _CALL.fullmatch(text):
            self._call(task, *found.groups())
        else:
            raise RecordingError(f"not a system call: {_readable(text)}")

    def _task(self, pid: int) -> _Task:
        if self._first:
            self._tasks[pid], self._first = self._first, None
        if pid not in self._tasks:
            starting = [
                self._started(self._tasks[parent], arguments)
                for parent, (name, arguments) in self._unfinished.items()
                if name in _STARTS
            ]
            if not starting or any(each != starting[0] for each in starting):
                raise NotModelledError("processes that start at the same time")
            self._tasks[pid] = starting[0]
            self._early.add(pid)
        return self._tasks[pid]

    @staticmethod
    def _started(parent: _Task, arguments: str) -> _Task:
        place = parent.place if "CLONE_FS" in arguments else _Place(parent.place.cwd, parent.place.umask)
        return _Task(place, parent.files if "CLONE_FILES" in arguments else dict(parent.files))

    def _call(self, task: _Task, name: str, arguments: str, result: str) -> None:
        if result.startswith("?"):
            if "ERESTART" not in result:
                self._killed_in(task, name, arguments)
            return
        if result.startswith("-1 ") or result == "-1":
            return
        shown = re.split(r"[< ]", result, maxsplit=1)[0]
        value = int(shown, 8 if re.fullmatch(r"0\d+", shown) else 0)
        if name in _STARTS:
            if value in self._early:
                self._early.discard(value)
            else:
                self._tasks[value] = self._started(task, arguments)
            return
        given = tuple(_arguments(arguments))
        if name in _BY_PATH:
            name, rewrite = _BY_PATH[name]
            given = rewrite(*given)
        if name in _NEVER:
            raise NotModelledError(name)
        if do := getattr(self, f"_do_{name}", None):
            do(task, value, result, *given)
        elif name not in _HARMLESS and self._mentions(task, f"{arguments} {result}"):
            raise NotModelledError(name)

    def _killed_in(self, task: _Task, name: str, arguments: str) -> None:
        if name not in _HARMLESS | _STARTS | {"execve", "close", "read"} and self._mentions(task, arguments):
            raise NotModelledError(f"a process that was killed during {name}")

    def _mentions(self, task: _Task, text: str) -> bool:
        """Tell whether a path or descriptor in ``text`` is below the folder."""
        paths = [os.fsdecode(_plain(path)) for path in re.findall(r"<(\\x[^>]*)>", text)]
        strings = [_plain(string) for string, _ in _STRING.findall(text)]
        paths += [self._resolve(task.place.cwd, os.fsdecode(s), follow=True) for s in strings if 0 < len(s) < 4096]
        return any(self._relative(path) is not None for path in paths)

    # paths and descriptors

    def _relative(self, path: str) -> str | None:
        """Return ``path`` as the story has it, or None when it is outside."""
        if path == self._folder:
            return ""
        return path[len(self._folder) + 1 :] if path.startswith(f"{self._folder}/") else None

    def _resolve(self, base: str, path: str, *, follow: bool) -> str:
        """Return where ``path`` leads, with the links of the story, and outside those that are there."""
        current = "/" if path.startswith("/") else base
        ahead = [part for part in reversed(path.split("/")) if part not in {"", "."}]
        links = 0
        while ahead:
            part = ahead.pop()
            if part == "..":
                current = os.path.dirname(current)
            elif part != ".":
                candidate = os.path.join(current, part)
                target = self._target(candidate) if ahead or follow else None
                links += target is not None
                if target is None or links > 40:
                    current = candidate
                else:
                    current = "/" if target.startswith("/") else current
                    ahead += [part for part in reversed(target.split("/")) if part]
        return current

    def _target(self, path: str) -> str | None:
        relative = self._relative(path)
        if relative is not None:
            inode = self.story.find(relative)
            node = None if inode is None else self.story.node(inode)
            return node.target if isinstance(node, Symlink) else None
        if path.startswith("/proc/"):
            return None  # strace's own would be read, and /proc/self/fd leads where no path does
        try:
            return os.readlink(path)
        except OSError:
            return None

    def _at(self, task: _Task, folder: str, path: str, *, follow: bool) -> str | None:
        """Return the path below the folder that two arguments mean, or None when they mean one outside."""
        base = _descriptor(folder).path or task.place.cwd
        found = self._resolve(base, _text(path), follow=follow)
        if found.startswith("/proc/"):
            raise NotModelledError(f"a change by way of {found}")
        return self._relative(found)

    def _inode_at(self, task: _Task, folder: str, path: str, *, follow: bool) -> int | None:
        """Return the inode that two arguments mean, of which the second may be NULL or empty."""
        if path in {"NULL", '""'}:
            known = self._open(task, folder)
            return known.inode if known else None
        relative = self._at(task, folder, path, follow=follow)
        return None if relative is None else self._found(relative)

    def _found(self, path: str) -> int:
        inode = self.story.find(path)
        if inode is None:
            raise FileNotFoundError(path)
        return inode

    def _open(self, task: _Task, argument: str) -> _Open | None:
        """Return what a descriptor is open for, or None when that is outside."""
        shown = _descriptor(argument)
        known = task.files.get(shown.number)
        if shown.path is not None and (self._relative(shown.path) is not None) != bool(known):
            raise NotModelledError(f"the descriptor {shown.number} of {shown.path}, which came another way")
        return known[0] if known else None

    def _read_at(self, task: _Task, argument: str, offset: str, count: int) -> bytes:
        """Return what one call read to write it elsewhere, and move on."""
        source, given = self._open(task, argument), _given_offset(offset)
        if source:
            start = source.offset if given is None else given
            data = self._content(source)[start : start + count]
            if given is None:
                source.offset += count
        else:
            path = _descriptor(argument).path
            if given is None or path is None or not Path(path).is_file():
                raise NotModelledError("a copy from outside without an offset")
            with Path(path).open("rb") as file:
                file.seek(given)
                data = file.read(count)
        if len(data) != count:
            raise NotModelledError("a copy of a file that changed")
        return data

    def _content(self, file: _Open) -> bytes:
        node = self.story.node(file.inode)
        assert isinstance(node, File)
        return node.data

    def _write(self, file: _Open, data: bytes, at: int | None = None) -> None:
        if not data:
            return
        offset = len(self._content(file)) if file.append else file.offset if at is None else at
        self.story.write(file.inode, data, offset)
        if at is None:
            file.offset = offset + len(data)
        if file.durable:
            self.story.fsync(file.inode)

    # calls on names

    def _do_openat(self, task, value, result, folder, path, flags, mode="0"):
        shown = _descriptor(result)
        there = self._relative(shown.path or "")
        meant = self._resolve(_descriptor(folder).path or task.place.cwd, _text(path), follow="O_NOFOLLOW" not in flags)
        task.files.pop(value, None)
        if "O_TMPFILE" in flags and self._relative(meant) is not None:
            raise NotModelledError("O_TMPFILE")
        if there is None and self._relative(meant) is None:
            return
        if there is None or (there != self._relative(meant) and not shown.deleted):
            raise NotModelledError(f"{meant}, which is {shown.path}")
        relative = self._relative(meant) or ""
        inode = self.story.find(relative)
        if inode is None and "O_CREAT" in flags:
            inode = self.story.create(relative, int(mode, 8) & ~task.place.umask)
        elif "O_TRUNC" in flags:
            self.story.resize(relative, 0)
        durable = "O_SYNC" in flags or "O_DSYNC" in flags
        writable = "O_WRONLY" in flags or "O_RDWR" in flags
        known = _Open(self._found(relative) if inode is None else inode, "O_APPEND" in flags, durable, writable)
        task.files[value] = known, "O_CLOEXEC" in flags

    def _do_openat2(self, task, value, result, folder, path, how, size):
        flags, mode = re.search(r"flags=([\w|]+)", how), re.search(r"mode=(\d+)", how)
        assert flags
        self._do_openat(task, value, result, folder, path, flags[1], mode[1] if mode else "0")

    def _do_mkdirat(self, task, value, result, folder, path, mode):
        relative = self._at(task, folder, path, follow=False)
        if relative is not None:
            self.story.mkdir(relative, int(mode, 8) & ~task.place.umask)

    def _do_unlinkat(self, task, value, result, folder, path, flags):
        relative = self._at(task, folder, path, follow=False)
        if relative is None:
            return
        if "AT_REMOVEDIR" in flags:
            self.story.rmdir(relative)
        else:
            self.story.unlink(relative)

    def _do_renameat2(self, task, value, result, old_folder, old, new_folder, new, flags):
        paths = self._two(task, old_folder, old, new_folder, new)
        if not paths:
            return
        if flags == "RENAME_EXCHANGE":
            self.story.exchange(*paths)
        elif flags in {"0", "RENAME_NOREPLACE"}:
            self.story.rename(*paths)
        else:
            raise NotModelledError(flags)

    def _do_linkat(self, task, value, result, old_folder, old, new_folder, new, flags):
        if "AT_EMPTY_PATH" in flags:
            raise NotModelledError(flags)
        if paths := self._two(task, old_folder, old, new_folder, new, follow="AT_SYMLINK_FOLLOW" in flags):
            self.story.link(*paths)

    def _two(self, task, old_folder, old, new_folder, new, *, follow=False):
        """Return both paths, or None when both are outside."""
        one = self._at(task, old_folder, old, follow=follow)
        other = self._at(task, new_folder, new, follow=False)
        if (one is None) != (other is None):
            raise NotModelledError("a name that comes from outside or goes there")
        return None if one is None else (one, other)

    def _do_symlinkat(self, task, value, result, target, folder, path):
        relative = self._at(task, folder, path, follow=False)
        if relative is not None:
            self.story.symlink(_text(target), relative)

    # calls on files

    def _do_write(self, task, value, result, file, data, *rest):
        known = self._open(task, file)
        if known:
            self._write(known, _bytes(data, value))
        elif _descriptor(file).number == 1:
            self.marks.append((len(self.story.operations), _bytes(data, value)))

    def _do_pwritev2(self, task, value, result, file, data, count, offset, flags):
        if known := self._open(task, file):
            if flags != "0":
                raise NotModelledError(flags)
            self._write(known, _bytes(data, value), None if offset == "-1" else int(offset))

    def _do_sendfile(self, task, value, result, target, source, offset, count):
        if known := self._open(task, target):
            self._write(known, self._read_at(task, source, offset, value))
        elif (read := self._open(task, source)) and _given_offset(offset) is None:
            read.offset += value

    def _do_copy_file_range(self, task, value, result, source, source_offset, target, target_offset, *rest):
        if known := self._open(task, target):
            data = self._read_at(task, source, source_offset, value)
            self._write(known, data, _given_offset(target_offset))
        elif (read := self._open(task, source)) and _given_offset(source_offset) is None:
            read.offset += value

    def _do_read(self, task, value, result, file, *rest):
        if known := self._open(task, file):
            known.offset += value

    def _do_preadv2(self, task, value, result, file, data, count, offset, flags):
        if offset == "-1":
            self._do_read(task, value, result, file)

    def _do_lseek(self, task, value, result, file, *rest):
        if known := self._open(task, file):
            known.offset = value

    def _do_truncate(self, task, value, result, path, size):
        relative = self._at(task, _CWD, path, follow=True)
        if relative is not None:
            self.story.resize(relative, int(size))

    def _do_ftruncate(self, task, value, result, file, size):
        if known := self._open(task, file):
            self.story.resize(known.inode, int(size))

    def _do_fallocate(self, task, value, result, file, mode, offset, count):
        known = self._open(task, file)
        if known and mode == "0":
            self.story.resize(known.inode, max(len(self._content(known)), int(offset) + int(count)))
        elif known and mode != "FALLOC_FL_KEEP_SIZE":
            raise NotModelledError(mode)

    def _do_fchmod(self, task, value, result, file, mode):
        if known := self._open(task, file):
            self.story.chmod(known.inode, int(mode, 8))

    def _do_fchmodat(self, task, value, result, folder, path, mode, flags="0"):
        inode = self._inode_at(task, folder, path, follow="AT_SYMLINK_NOFOLLOW" not in flags)
        if inode is not None:
            self.story.chmod(inode, int(mode, 8))

    def _do_fchown(self, task, value, result, file, *owner):
        if known := self._open(task, file):
            self.story.attributes(known.inode, f"chown {' '.join(owner)}")

    def _do_fchownat(self, task, value, result, folder, path, owner, group, flags):
        inode = self._inode_at(task, folder, path, follow="AT_SYMLINK_NOFOLLOW" not in flags)
        if inode is not None:
            self.story.attributes(inode, f"chown {owner} {group}")

    def _do_utimensat(self, task, value, result, folder, path, times, flags):
        inode = self._inode_at(task, folder, path, follow="AT_SYMLINK_NOFOLLOW" not in flags)
        if inode is not None:
            self.story.attributes(inode, "utimens")

    def _do_fsync(self, task, value, result, file):
        if known := self._open(task, file):
            self.story.fsync(known.inode)

    def _do_fdatasync(self, task, value, result, file):
        if known := self._open(task, file):
            self.story.fsync(known.inode, data_only=True)

    def _do_sync(self, task, value, result, *none):
        self.story.sync()

    def _do_syncfs(self, task, value, result, file):
        if self._open(task, file):
            self.story.sync()

    def _do_mmap(self, task, value, result, address, size, protection, flags, file, offset):
        if "MAP_SHARED" in flags and "MAP_ANONYMOUS" not in flags:
            known = self._open(task, file)
            if known and known.writable:
                raise NotModelledError("shared memory of a file that is open for writing")

    def _do_ioctl(self, task, value, result, file, request, *rest):
        if not (known := self._open(task, file)):
            return
        if request in {"FIOCLEX", "FIONCLEX"}:
            task.files[_descriptor(file).number] = known, request == "FIOCLEX"
        elif not request.startswith(_HARMLESS_REQUESTS):
            raise NotModelledError(request)

    # calls on descriptors and processes

    def _do_close(self, task, value, result, file):
        self._open(task, file)
        task.files.pop(_descriptor(file).number, None)

    def _do_close_range(self, task, value, result, first, last, flags):
        if "CLOSE_RANGE_UNSHARE" in flags:
            task.files = dict(task.files)
        last_number = int(_descriptor(last).number) if _DESCRIPTOR.match(last) else sys.maxsize
        for number in [each for each in task.files if int(_descriptor(first).number) <= each <= last_number]:
            if "CLOSE_RANGE_CLOEXEC" in flags:
                task.files[number] = task.files[number][0], True
            else:
                del task.files[number]

    def _do_dup3(self, task, value, result, old, new, flags):
        known = self._open(task, old)
        if value != _descriptor(old).number:
            task.files.pop(value, None)
            if known:
                task.files[value] = known, "O_CLOEXEC" in flags

    def _do_fcntl(self, task, value, result, file, command, argument="0", *rest):
        known = self._open(task, file)
        if command.startswith("F_DUPFD"):
            task.files.pop(value, None)
            if known:
                task.files[value] = known, command == "F_DUPFD_CLOEXEC"
        elif known and command == "F_SETFD":
            task.files[_descriptor(file).number] = known, "FD_CLOEXEC" in argument
        elif known and command == "F_SETFL":
            known.append = "O_APPEND" in argument

    def _do_execve(self, task, value, result, *rest):
        task.files = {number: (known, False) for number, (known, closes) in task.files.items() if not closes}

    _do_execveat = _do_execve

    def _do_chdir(self, task, value, result, path):
        task.place.cwd = self._resolve(task.place.cwd, _text(path), follow=True)

    def _do_fchdir(self, task, value, result, file):
        task.place.cwd = _descriptor(file).path or task.place.cwd

    def _do_umask(self, task, value, result, mask):
        task.place.umask = int(mask, 8)

    def _do_unshare(self, task, value, result, flags):
        if "CLONE_FILES" in flags:
            task.files = dict(task.files)
        if "CLONE_FS" in flags or "CLONE_NEWNS" in flags:
            task.place = _Place(task.place.cwd, task.place.umask)


def _readable(text: str) -> str:
    return re.sub(r"(?:\\x[0-9a-f]{2})+", lambda found: repr(_plain(found[0]))[2:-1], text[:2000])[:300]

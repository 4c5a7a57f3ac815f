"""Processes that are watched, mostly not one's own children: whether they live, how they ended, and how to end them.

Linux tells through a pidfd when any process ends, and since 6.15 also how. Elsewhere a process is looked at now and
then, and how it ended is not known. A process is known by its PID and the time of its start, since PIDs are used again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import struct
import time
from pathlib import Path

_STEP = 0.05  # seconds between two looks where nothing tells
_IN_ORDER = frozenset({0, 130, 131, 143})  # exit statuses; a shell's are 128 + the signal that has ended the program
MEANT = 120.0  # seconds in which a signal, or a word that was left, explains an end; a program may live on after SIGHUP
_PATIENCE = 5.0  # seconds between asking a process to end and ending it
_GET_INFO = 0xC040FF0B  # PIDFD_GET_INFO, with the 64 bytes of its first version (linux/pidfd.h)
_EXIT = 1 << 3  # PIDFD_INFO_EXIT
_INFO = struct.Struct("=QQ11Ii")  # mask, cgroup, eleven numbers of ids, exit code
ASKING = tuple(getattr(signal, each) for each in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, each))
"""By these somebody asks a program to end."""


class Process:
    """A process that need not be a child of this one.

    Args:
        pid: Its number.
        born: When it was started, as `born_at` told; None takes whoever has the number now.
    """

    def __init__(self, pid: int, born: str | None = None) -> None:
        self.pid = pid
        self._pidfd: int | None = None
        with contextlib.suppress(OSError, AttributeError):
            self._pidfd = os.pidfd_open(pid)
        found = born_at(pid)
        self._born = born or found
        if self._pidfd is not None and found != self._born:  # it is another one, which got the number since
            os.close(self._pidfd)
            self._pidfd = None

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return not self.wait(0)

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended, but not longer than this; return whether it has."""
        if self._pidfd is not None:
            return bool(select.select([self._pidfd], [], [], max(0, seconds))[0])
        end = time.monotonic() + seconds
        while (there := born_at(self.pid) == self._born and self._born != "") and time.monotonic() < end:
            time.sleep(_STEP)
        return not there

    def status(self) -> int | None:
        """Return how it ended, as ``os.waitpid`` would, or None if that is not known."""
        if self._pidfd is None:
            return None
        import fcntl  # noqa: PLC0415 - Windows has neither

        info = bytearray(_INFO.pack(_EXIT, *[0] * 13))
        for _ in range(40):  # between its end and the moment in which the kernel can tell
            if (unwaited := _status_of_zombie(self.pid)) is not None:
                return unwaited
            try:
                fcntl.ioctl(self._pidfd, _GET_INFO, info)
            except OSError as error:
                if error.errno != errno.ESRCH:  # this kernel does not tell
                    return None
            else:
                if _INFO.unpack(info)[0] & _EXIT:
                    return int(_INFO.unpack(info)[-1])
            info[:8] = struct.pack("=Q", _EXIT)
            time.sleep(_STEP)
        return None

    def end(self, patience: float = _PATIENCE) -> None:
        """Ask it to end (SIGTERM), and after so many seconds end it and everything that it has started."""
        family = [self.pid, *_descendants(self.pid, line_of(os.getpid()))]
        born = {pid: born_at(pid) for pid in family}
        if not self.alive:
            return
        _send(self.pid, signal.SIGTERM)
        self.wait(patience)
        for pid in family:
            if born[pid] and born_at(pid) == born[pid]:
                _send(pid, signal.SIGKILL)
        self.wait(_PATIENCE)

    def close(self) -> None:
        """Let go of it."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def born_at(pid: int) -> str:
    """Return when a process was started, in words that no other process with this number has; empty if it is gone."""
    try:
        fields = _stat(pid)
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
        return "?" if os.name == "posix" and _send(pid, 0) else ""  # on Windows that would be a Ctrl-C
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()  # field 22 of proc_pid_stat(5)


def _status_of_zombie(pid: int) -> int | None:
    """Return how a process ended that its parent has not waited for yet."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = _stat(pid)
        if fields[0] == b"Z":
            return int(fields[49])  # field 52 of proc_pid_stat(5)
    return None


def judge(status: int | None, asked: str) -> tuple[bool, str]:
    """Say of a process on trial that ended whether that was a failure, and in words how it ended.

    It is none if somebody asked it to end, or if it ended by itself in good order.

    Args:
        status: As `Process.status`.
        asked: What is known of somebody's asking, such as ``"SIGTERM"``, or nothing.
    """
    if status is None:
        return (False, f"was ended ({asked})") if asked else (True, "ended, and nobody had asked it to")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return not asked and number not in ASKING, f"was killed by {name}"
    code = os.WEXITSTATUS(status)
    return not asked and code not in _IN_ORDER, f"ended with exit status {code}"


def alike(program: str, arguments: tuple[str, ...], directory: str) -> frozenset[tuple[int, str]]:
    """Return which processes beside this one run an executable with these arguments in this working directory.

    Each by its number and the time of its start.
    """
    executable = os.path.realpath(program)
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended, or is somebody else's
            pid = int(folder.name)
            born = born_at(pid)
            if pid == os.getpid() or not born:
                continue
            words = tuple(map(os.fsdecode, (folder / "cmdline").read_bytes().split(b"\0")[:-1]))
            same_place = os.readlink(folder / "cwd") == os.path.realpath(directory)
            if words[1:] == arguments and same_place and os.readlink(folder / "exe") == executable:
                found.add((pid, born))
    return frozenset(found)


def running(
    program: str, arguments: tuple[str, ...], directory: str, before: frozenset[tuple[int, str]] = frozenset()
) -> bool:
    """Return whether such a process runs as in `alike`, other than those of ``before``."""
    return not alike(program, arguments, directory) <= before


def _descendants(pid: int, spared: frozenset[int]) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                if child not in spared:
                    found += [child, *_descendants(child, spared)]
    return found


def line_of(pid: int) -> frozenset[int]:
    """Return a process and those that it descends from."""
    line: set[int] = set()
    while pid > 1 and pid not in line:
        line.add(pid)
        try:
            pid = int(_stat(pid)[1])
        except (OSError, IndexError):
            break
    return frozenset(line)


def _stat(pid: int) -> list[bytes]:
    """Return what proc_pid_stat(5) tells from its field 3, the state, on. Raises `OSError`."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()


def _send(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except PermissionError:
        return True
    except OSError:
        return False
    return True

"""A real ext4 or XFS in an image file, whose power can be cut: what is not on the disk then is gone.

`CrashingFileSystem.cut` is the file systems' own instrument for it, the ioctl ``EXT4_IOC_SHUTDOWN`` (in XFS
``XFS_IOC_GOINGDOWN``) that xfstests uses: the file system stops at once, without its journal being written out
(``NOLOGFLUSH``), and is mounted anew, which replays what the journal on the disk holds. Needs root, loop devices and
``mkfs.ext4`` or ``mkfs.xfs`` (packages e2fsprogs and xfsprogs); `unavailable` says what is missing.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

KINDS = ("ext4", "xfs")

_SIZES = {"ext4": 64 * 1024 * 1024, "xfs": 320 * 1024 * 1024}  # bytes; mkfs.xfs makes none below 300 MiB
_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN: _IOR('X', 125, __u32)
_LOG_FLUSH = 1
_NO_LOG_FLUSH = 2

_ONE_AT_A_TIME = Path(tempfile.gettempdir(), "patchify-loop-mounts.lock")  # of all processes: loop devices are shared


class CrashingFileSystem:
    """A mounted file system at ``path``."""

    def __init__(self, kind: str, device: str, path: Path, options: str) -> None:
        self.path = path
        self._mount = ["mount", "-t", kind, *(["-o", options] if options else []), device, str(path)]

    def mount(self) -> None:
        _run(*self._mount)

    def cut(self, *, flush: bool = False) -> None:
        """Cut the power and mount again. ``flush`` has the journal written out first. No file may be open below."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _LOG_FLUSH if flush else _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)
        _run("umount", str(self.path))
        self.mount()


@contextlib.contextmanager
def crashing_file_system(kind: str, folder: Path, options: str = "") -> Iterator[CrashingFileSystem]:
    """Make a file system of ``kind`` in ``folder`` and mount it, with ``options`` of mount(8), until the block ends.

    Raises `subprocess.CalledProcessError` where that is not possible.
    """
    folder = Path(os.path.realpath(folder))  # as the kernel lists its mounts
    image, path = folder / f"{kind}.image", folder / kind
    path.mkdir()
    with contextlib.ExitStack() as undo:
        undo.enter_context(FileLock(_ONE_AT_A_TIME))
        undo.callback(path.rmdir)
        undo.callback(image.unlink)
        with image.open("wb") as file:
            file.truncate(_SIZES[kind])
        _run(f"mkfs.{kind}", "-q", str(image))
        device = _run("losetup", "--find", "--show", str(image)).strip()
        undo.callback(_run, "losetup", "--detach", device)
        system = CrashingFileSystem(kind, device, path, options)
        undo.callback(_unmount, path)  # before it is mounted: a failure to mount again must leave nothing either
        system.mount()
        yield system


@functools.cache
def unavailable(kind: str) -> str | None:
    """Return why there is no such file system here, or None."""
    if not sys.platform.startswith("linux"):
        return "loop mounts are for Linux"
    if os.geteuid() != 0:
        return "loop mounts need root"
    for tool in (f"mkfs.{kind}", "losetup", "mount"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    try:
        with tempfile.TemporaryDirectory() as folder, crashing_file_system(kind, Path(folder)):
            return None
    except subprocess.CalledProcessError as error:
        return f"{error.cmd[0]} does not work here: {error.stderr.strip()}"


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout


def _unmount(path: Path) -> None:
    if str(path) not in (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()):
        return  # asked of the kernel: os.path.ismount says no of an XFS that was shut down
    try:
        _run("umount", str(path))
    except subprocess.CalledProcessError:  # something is open there: the mount goes, and the device when that ends
        _run("umount", "--lazy", str(path))

"""How a program gets its guardian: a process that is ready before the swap, and outlives the exec.

To start it takes as long as a download on a fast line, so it may be summoned early; it does nothing until it is to take
its post. It is started from the code of the version that is replaced. A PyInstaller program is its own guardian, in
another role, see the hook in ``patchify._pyinstaller``.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from patchify.client.installer import Installer
from patchify.client.locks import watched
from patchify.client.processes import born_at
from patchify.client.restarter import Launch, environment
from patchify.client.watch import Handover
from patchify.errors import UnableToGuardError

VARIABLE = "PATCHIFY_GUARDIAN"  # in the environment of a PyInstaller program that is to be a guardian
LAUNCHER = "PATCHIFY_RUN"  # in that of a program under `patchify run`: the PID of the launcher, which is its guardian
NOW = b"now"  # said to the guardian: be ready; nothing is to happen before
GO, BY, NO = b"go", b"by", b"no"  # and then: the swap was made; others restart; it was not, or was undone
_READY_WITHIN = 60.0  # seconds that a guardian may take to start; a PyInstaller program unpacks itself first
_BOOT = (
    "import json, sys; told = json.loads(sys.argv[1]); sys.path[:] = told['path'];"
    "from patchify.client.guardian import main; main(told['charge'])"
)


@dataclass(frozen=True)
class Charge:
    """What a guardian is told.

    Attributes:
        installer: The class of the installer, ``module:name``.
        path: What it is made with.
        handover: Which process will be the new version.
        pid: The process to watch: this one, or the gunicorn master.
        born: When that was started.
        supervised: Whether somebody else starts the program again when it ends.
        patience: Seconds until the new version has to report itself.
        descriptor: Where the guardian says that it is ready, and hears that it is on its own.
        launch: How to start the program.
    """

    installer: str
    path: str
    handover: Handover
    pid: int
    born: str
    supervised: bool
    patience: float
    descriptor: int
    launch: dict[str, Any]


class Guarded:
    """A guardian that is ready, as the process sees it that started it."""

    def __init__(self, line: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self._line = line
        self._process = process

    def go(self) -> None:
        """Say that the swap was made, and that what follows is the new version's."""
        self._say(GO)

    def release(self) -> None:
        """Leave it on its own: this process goes on, and others see to the restart, if there is to be one."""
        self._say(BY)
        self._leave()

    def dismiss(self) -> None:
        """Say that there is nothing to watch, whatever was said before."""
        self._say(NO)
        self._leave()

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            self._line.sendall(word)

    def _leave(self) -> None:
        self._line.close()
        if self._process.poll() is None:  # a PyInstaller one-file program cannot become independent, see `_detach`
            threading.Thread(target=self._process.wait, name="patchify-guardian", daemon=True).start()


class Summoned:
    """A guardian that is starting, or has started and waits to be called."""

    def __init__(self, line: socket.socket, process: subprocess.Popen[bytes], path: Path) -> None:
        self._line = line
        self._process = process
        self._path = path

    def take_post(self) -> Guarded:
        """Let it be ready, and return when it is.

        Raises:
            UnableToGuardError: it could not be started. Nothing has happened.
        """
        try:
            self._line.settimeout(_READY_WITHIN)
            answer = b""
            with contextlib.suppress(ConnectionError):  # it has ended
                self._line.sendall(NOW)
                answer = self._line.recv(5)
            if not is_one_file():
                self._process.wait(_READY_WITHIN)  # what is ready is a child of it
        except (OSError, subprocess.TimeoutExpired) as error:
            self._line.close()
            raise UnableToGuardError(self._path, error if isinstance(error, OSError) else str(error)) from error
        if answer != b"ready":
            self._line.close()
            self._process.wait(_READY_WITHIN)
            raise UnableToGuardError(self._path, f"it ended with status {self._process.returncode} before it was ready")
        return Guarded(self._line, self._process)

    def dismiss(self) -> None:
        """Let it end: there will be nothing to watch."""
        Guarded(self._line, self._process).dismiss()

    def disown(self) -> None:
        """Let it be the parent's, in a process that was forked: nothing is said, and nobody waits for it here."""
        self._line.close()
        self._process.returncode = 0  # else it would be waited for, which is no child of this process


def summon(
    installer: Installer, launch: Launch, *, handover: Handover, pid: int, supervised: bool, patience: float
) -> Summoned:
    """Start a guardian, and return at once.

    Raises:
        UnableToGuardError: it cannot be started.
    """
    ours, theirs = socket.socketpair()
    charge = Charge(
        installer=f"{type(installer).__module__}:{type(installer).__qualname__}",
        path=str(installer.path),
        handover=handover,
        pid=pid,
        born=born_at(pid),
        supervised=supervised,
        patience=patience,
        descriptor=theirs.fileno(),
        launch={**asdict(launch), "blocked": sorted(launch.blocked)},
    )
    try:
        with theirs:
            process = _start(installer, launch, charge)
    except OSError as error:
        ours.close()
        raise UnableToGuardError(installer.path, error) from error
    return Summoned(ours, process, installer.path)


def _start(installer: Installer, launch: Launch, charge: Charge) -> subprocess.Popen[bytes]:
    options: dict[str, Any] = {"pass_fds": [charge.descriptor], "cwd": "/"}
    if getattr(sys, "frozen", False):
        if not getattr(sys, "patchify_guardian", False):
            raise OSError(
                "this program was built without Patchify's hook for PyInstaller; run it with patchify run, or set "
                "Config(guardian=False)"
            )
        told = {VARIABLE: json.dumps(asdict(charge))}
        return subprocess.Popen([installer.kept(sys.executable)], env={**environment(), **told}, **options)
    told_path = {"path": [installer.kept(os.path.abspath(each)) for each in sys.path], "charge": asdict(charge)}
    return subprocess.Popen([sys.executable, "-I", "-c", _BOOT, json.dumps(told_path)], env=environment(), **options)


def is_watching(installer: Installer) -> bool:
    """Return whether a guardian watches this installation."""
    return watched(installer.folder)


def is_one_file() -> bool:
    """Return whether this is a PyInstaller one-file program, whose files lie unpacked elsewhere."""
    unpacked = Path(getattr(sys, "_MEIPASS", sys.executable))
    here = Path(sys.executable)
    return unpacked != here and here.parent not in (unpacked, unpacked.parent)

"""The smoke test: run a release once, before it touches anything, and see whether it ends well.

What ends otherwise through no fault of the release is no verdict on it: it is tried again another time. If this process
is killed meanwhile, what it has started runs on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from patchify.client.processes import ASKING
from patchify.client.restarter import Launch, release_is_at_fault, unless_busy
from patchify.errors import SmokeTestError, UnableToSmokeTestError

_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT", "TEMP", "TMP", "PATHEXT")
_TOLD = 500  # characters of what it said
_KEPT_BYTES = 4 * _TOLD  # no character of UTF-8 has more than four
_LAST_WORDS_WITHIN = 1.0  # seconds that they take at most once it has ended


def smoke_test(command: tuple[str, ...], version: str, seconds: float, release: Path | None = None) -> None:
    """Run a command in a clean environment and an empty working directory, not longer than so many seconds.

    Of the environment it gets only what it takes to run at all (PATH, HOME, LANG, a temporary folder).

    Args:
        command: What is run.
        version: The version of the release, to be named in errors.
        seconds: The time it has.
        release: The folder that the release lies in, or its file: what is to be started elsewhere, such as an
            interpreter, is not the release's fault. Default: the first word of the command.

    Raises:
        SmokeTestError: it is nothing that can be started, ends with another status than 0, crashes, or does not end in
            time.
        UnableToSmokeTestError: the system could not run it now, or somebody has asked it to end, such as a supervisor
            that ends everything.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="patchify-smoke-", ignore_cleanup_errors=True) as folder:
            status, words = _run(command, folder, version, seconds, release or Path(command[0]))
    except OSError as error:
        raise UnableToSmokeTestError(command[0], error) from error
    ended = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
    if (-status if status < 0 else status - 128) in ASKING:  # 128 + the signal, as shells say
        raise UnableToSmokeTestError(command[0], f"it {ended}, by which somebody has asked it to end")
    if status:
        raise SmokeTestError(version, f"it {ended}" + (f", saying: {words}" if words else ""))


def _run(command: tuple[str, ...], folder: str, version: str, seconds: float, release: Path) -> tuple[int, str]:
    """Return how it ended, as `subprocess.Popen.returncode`, and what it said at last."""
    clean = {name: os.environ[name] for name in _KEPT if name in os.environ}
    with _heard() as (said, mouth):
        try:
            process = unless_busy(
                lambda: subprocess.Popen(
                    command,
                    cwd=folder,
                    env=clean,
                    stdin=subprocess.DEVNULL,
                    stdout=mouth,
                    stderr=mouth,
                    start_new_session=True,
                )
            )
        except OSError as error:
            if release_is_at_fault(error, Launch(command[0], command, folder, frozenset(), os.getpid()), release):
                raise SmokeTestError(version, f"it cannot be started: {error.strerror}") from error
            raise
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise SmokeTestError(version, f"it did not end within {seconds:g} s") from None
        finally:
            _end(process)
    return status, said.decode(errors="replace").strip()[-_TOLD:]


@contextlib.contextmanager
def _heard() -> Iterator[tuple[bytearray, FileIO]]:
    """Give a file to write to, and the last bytes that were written once the block has ended, however many came."""
    said = bytearray()
    over = threading.Event()
    ear, mouth = (FileIO(end, mode) for end, mode in zip(os.pipe(), "rw", strict=True))

    def hear() -> None:
        with ear:
            while not over.is_set() and (words := ear.read(65536)):
                said.extend(words)
                del said[:-_KEPT_BYTES]

    thread = threading.Thread(target=hear, name="patchify-smoke", daemon=True)
    with mouth:
        try:
            thread.start()
        except RuntimeError as error:
            ear.close()
            raise OSError(errno.EAGAIN, str(error)) from error
        try:
            yield said, mouth
        finally:
            mouth.close()
            thread.join(_LAST_WORDS_WITHIN)  # something that has got away into a session of its own may write on
            over.set()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and whatever it has started."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing of it is left
            os.killpg(process.pid, signal.SIGKILL)
    else:  # pragma: no cover - Windows
        process.kill()
    process.wait()

"""The smoke test: run a release once, before it touches anything, and see whether it ends well."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile

from patchify.errors import SmokeTestError

_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT", "TEMP", "TMP", "PATHEXT")
_TOLD = 500  # characters of what it said


def smoke_test(command: tuple[str, ...], version: str, seconds: float) -> None:
    """Run a command in a clean environment and an empty working directory, not longer than so many seconds.

    Of the environment it gets only what it takes to run at all (PATH, HOME, LANG, a temporary folder).

    Raises:
        SmokeTestError: it cannot be started, ends with another status than 0, or does not end in time.
    """
    clean = {name: os.environ[name] for name in _KEPT if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="patchify-smoke-") as folder, tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=clean,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        except OSError as error:
            raise SmokeTestError(version, f"it cannot be started: {error.strerror}") from error
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise SmokeTestError(version, f"it did not end within {seconds:g} s") from None
        finally:
            _end(process)
        if status:
            said.seek(0)
            words = said.read(100_000).decode(errors="replace").strip()[-_TOLD:]
            ended = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
            raise SmokeTestError(version, f"it {ended}" + (f", saying: {words}" if words else ""))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and whatever it has started."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing of it is left
            os.killpg(process.pid, signal.SIGKILL)
    else:  # pragma: no cover - Windows
        process.kill()
    process.wait()

"""Real processes for tests: started on a free port of loopback, waited for, and ended by the id they were started with."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATIENCE = 30  # seconds that anything may take before a test gives up


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, what: str, seconds: float = PATIENCE):
    """Return the first true value of ``condition()``; fail when it does not come."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {seconds} s")


class Process:
    """A process in its own group, whose output goes to a file."""

    def __init__(self, command, log: Path, *, cwd=None, env=None, **options):
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [str(each) for each in command],
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **options,
            )
        self.pid = self.popen.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, seconds: float = PATIENCE) -> str:
        """Return the output once it holds ``text``; fail at once if the process ends without having said it."""

        def said():
            ended = self.popen.poll() is not None
            return text in self.output() or (ended and "ended")

        if (
            wait_until(said, f"{text!r} in the output\n{self.output()}", seconds) == "ended"
            and text not in self.output()
        ):
            raise AssertionError(f"ended with {self.popen.returncode} before saying {text!r}:\n{self.output()}")
        return self.output()

    def stop(self, sign=signal.SIGTERM):
        if self.popen.poll() is None:
            self.popen.send_signal(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # whatever it left in its group
        self.popen.wait(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Gunicorn(Process):
    """A real gunicorn that serves ``target`` (``module:app``), ready when it is entered."""

    def __init__(self, target: str, log: Path, *options, env=None, cwd=ROOT, port=None):
        self.port = port or free_port()
        command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{self.port}", "--no-control-socket"]
        super().__init__([*command, *options, target], log, cwd=cwd, env=env)
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        wait_until(self._ready, f"gunicorn's port\n{self.output()}")
        return self

    def _ready(self) -> bool:
        if self.popen.poll() is not None:
            raise AssertionError(f"gunicorn ended with {self.popen.returncode}:\n{self.output()}")
        if "Booting worker" not in self.output():
            return False
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

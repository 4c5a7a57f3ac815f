"""One program run many times over, without starting an interpreter each time: it is imported once, and forks.

The start of Python and its imports take ten times as long as what a story does. So a process that has imported the
story (`serve`, at the end of its module) waits for orders, and forks for each: the child is what a process started anew
would be when its ``main`` begins, with an environment, a folder, an output and a session of its own, and it ends without
having shared anything with another one. `Forks` gives the orders; whoever gets a `Forked` uses it like a `Popen`.
"""

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parent.parent


def serve(main: Callable[..., int]) -> None:
    """Be ready, and fork for each order; tell the child's id, that it has stopped if it does, and how it ended."""
    _tell("ready")
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            _be(main, order)
        _tell(child)
        _, status = os.waitpid(child, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            _tell("stopped")
            _, status = os.waitpid(child, 0)
        _tell(os.waitstatus_to_exitcode(status))


def _tell(what: object) -> None:
    os.write(sys.stdout.fileno(), f"{json.dumps(what)}\n".encode())


def _be(main: Callable[..., int], order: Mapping) -> None:
    """Be a process that does what was ordered, and end."""
    code = 1
    try:
        os.setsid()
        for path, flags, descriptor in ((os.devnull, os.O_RDONLY, 0), (order["output"], os.O_WRONLY | os.O_APPEND, 1)):
            opened = os.open(path, flags)
            os.dup2(opened, descriptor)
            os.close(opened)
        os.dup2(1, 2)
        os.environ.update(order["env"])
        os.chdir(order["cwd"])
        code = main(*order["words"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Forked:
    """A process that was forked, to whoever ordered it; as much of a `Popen` as is needed."""

    def __init__(self, server: subprocess.Popen, pid: int):
        self._server = server
        self.pid = pid
        self.stopped = False
        self.returncode: int | None = None

    def poll(self) -> int | None:
        self._listen(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + timeout if timeout is not None else None
        while self.returncode is None:
            left = end - time.monotonic() if end is not None else None
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(f"forked process {self.pid}", timeout)
            self._listen(left)
        return self.returncode

    def wait_for_stop(self, timeout: float) -> bool:
        """Return whether it stopped; not if it ended, or did neither in time."""
        end = time.monotonic() + timeout
        while not self.stopped and self.returncode is None and (left := end - time.monotonic()) > 0:
            self._listen(left)
        return self.stopped and self.returncode is None

    def _listen(self, seconds: float | None) -> None:
        if self.returncode is None and select.select([self._server.stdout], [], [], seconds)[0]:
            told = _hear(self._server)
            if told == "stopped":
                self.stopped = True
            else:
                self.returncode = told


def _hear(server: subprocess.Popen):
    line = server.stdout.readline()
    if not line:
        raise RuntimeError(f"the server of forks ended with {server.wait()}")
    return json.loads(line)


class Forks:
    """Processes of a program whose module ends with `serve` when it is called with the word ``serve``.

    There are two servers, and each has one child at a time; a third order waits. They collect no coverage: most of
    their children are killed, which leaves nothing of it.
    """

    def __init__(self, module: str):
        self._command = [sys.executable, "-m", module, "serve"]
        self._idle: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
        self._servers: list[subprocess.Popen] = []

    def __enter__(self) -> Self:
        for _ in range(2):  # as many as a sweep uses
            self._idle.put(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.stdin.close()
            server.wait()
            server.stdout.close()

    def _start(self) -> subprocess.Popen:
        fixed = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        server = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env={**inherited, **fixed},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._servers.append(server)
        assert _hear(server) == "ready"
        return server

    @contextlib.contextmanager
    def process(
        self, words: Sequence[object], output: Path, *, env: Mapping[str, str] | None = None, cwd: Path | str = ROOT
    ) -> Iterator[Forked]:
        """Start one, whose output is added to a file; it has ended when the block has."""
        output.touch()
        order = {"words": list(map(str, words)), "output": str(output), "env": dict(env or {}), "cwd": str(cwd)}
        server = self._idle.get()
        try:
            server.stdin.write(f"{json.dumps(order)}\n".encode())
            forked = Forked(server, _hear(server))
            try:
                yield forked
            finally:
                if forked.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(forked.pid, signal.SIGKILL)
                    forked.wait()
        finally:
            self._idle.put(server)

    def run(self, words: Sequence[object], output: Path, *, timeout: float) -> tuple[int, str]:
        """Run one; return its exit status and its output."""
        with self.process(words, output) as forked:
            status = forked.wait(timeout)
        return status, output.read_text(errors="replace")

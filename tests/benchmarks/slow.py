"""What a thousand slow downloads do to a server as it is shipped: ``python -m tests.benchmarks --only slow``.

Each reads 10 KiB a second. Beside them `latest` is asked for, on a connection of its own each time, as clients do. It is
one loop that reads and asks, so that nothing of its own stands between a question and its answer.
"""

import contextlib
import hashlib
import os
import re
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from patchify.keys import SigningKey
from tests.benchmarks.table import MIB, Options, Row, at_most, say
from tests.e2e.shipped import our_server
from tests.running import PATIENCE, Gunicorn, wait_until

DOWNLOADS = 1000
RATE = 10 * 1024  # bytes a second, each
SIZE = 64 * MIB  # more than is read of it, and than the buffers of two sockets hold
ANSWER, MEMORY = (f"{DOWNLOADS:,} slow downloads held: {what}" for what in ("p99 of `latest`", "memory a worker"))


def rows(options: Options) -> Iterator[Row]:
    """Measure with no download and with all of them."""
    seconds = 3 if options.quick else 20
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4 * DOWNLOADS:
        yield Row.skipped(ANSWER, f"no process may have more than {hard} open files", at_most(50, "ms"))
        yield Row.skipped(MEMORY, f"no process may have more than {hard} open files", at_most(100, "MiB"))
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * DOWNLOADS if hard == resource.RLIM_INFINITY else hard, hard))
    try:
        with our_server(_settings(options.folder), options.folder) as server, contextlib.ExitStack() as stack:
            wait_until(lambda: len(_workers(server)) == 2, "the start of two workers")
            say("nothing is downloaded")
            alone, memory_alone = _p99(server.port, [], seconds), _memory(server)
            say(f"{DOWNLOADS:,} downloads")
            slow = [stack.enter_context(_download(server.port)) for _ in range(DOWNLOADS)]
            for connection in slow:
                if not connection.recv(12).endswith(b" 200"):
                    raise RuntimeError("a download was not begun")
            held, memory_held = _p99(server.port, slow, seconds), _memory(server)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    note = f"each reads {RATE // 1024} KiB a second; two workers with config/gunicorn.conf.py; memory is that of the larger"
    yield Row(ANSWER, held, "ms", alone, "none held", at_most(50, "ms"), note)
    yield Row(MEMORY, memory_held, "MiB", memory_alone, "none held", at_most(100, "MiB"), note)


def _settings(folder: Path) -> dict:
    """Return the settings of a server with one release, which is a hole in the disk."""
    (folder / "releases").mkdir()
    (folder / "releases" / "app-1.0.0").touch()
    os.truncate(folder / "releases" / "app-1.0.0", SIZE)
    versions = {"1.0.0": hashlib.sha256(bytes(SIZE)).hexdigest()}
    key = SigningKey.generate().to_hex()
    return {"appname": "app", "key": key, "releases": folder / "releases", "versions": versions}


def _download(port: int) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(PATIENCE)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    connection.connect(("127.0.0.1", port))
    connection.sendall(b"GET /api/releases/1.0.0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return connection


def _p99(port: int, slow: list[socket.socket], seconds: float) -> float:
    """Return the milliseconds in which 99 of 100 answers come."""
    for connection in slow:
        connection.setblocking(False)
    started, times, read = time.perf_counter(), [], 0
    while (elapsed := time.perf_counter() - started) < seconds:
        times.append(_ask(port))
        while slow and read < elapsed * len(slow):  # one after the other, each once a second
            with contextlib.suppress(BlockingIOError):
                if not slow[read % len(slow)].recv(RATE):
                    raise RuntimeError("a download ended")
            read += 1
    return sorted(times)[len(times) * 99 // 100] * 1000


def _ask(port: int) -> float:
    """Return the seconds from the connection to the whole answer."""
    started, answer = time.perf_counter(), b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(b"GET /api/latest HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        while piece := connection.recv(4096):
            answer += piece
    elapsed = time.perf_counter() - started
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"no sound answer: {answer[:100]!r}")
    return elapsed


def _workers(server: Gunicorn) -> list[str]:
    return re.findall(r"Booting worker with pid: (\d+)", server.output())


def _memory(server: Gunicorn) -> float:
    """Return the resident memory of the larger worker, MiB."""
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in _workers(server)]
    return max(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) for status in statuses) / 1024

"""What `latest` costs behind nginx as it is shipped, beside the original's server alone.

``python -m tests.benchmarks --only front``. One worker of nginx, with gunicorn behind it, both with the configurations
that come with Patchify; all servers on one core, where there are two, and what asks them on the other. Counted are the
answers to a second of CPU time, of nginx and gunicorn together, over connections that stay open.
"""

import contextlib
import hashlib
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from patchify.keys import SigningKey
from tests.benchmarks.cpu import CpuTime
from tests.benchmarks.table import Options, Row, at_least, median, say
from tests.e2e.shipped import NGINX, Nginx, our_server
from tests.interop.programs import RustMissingError, RustServer, build_rust
from tests.running import PATIENCE, Process

RUST = "Rust server 0.2.2"
NAME = "`latest` behind the shipped nginx configuration"
TARGET = at_least(3)
CONNECTIONS = 256  # many clients that ask at once, so that no server waits for the next of them
MOST = 900  # requests of a connection; nginx closes it after 1,000
REQUEST = b"GET /api/latest HTTP/1.1\r\nHost: localhost\r\n\r\n"

Connect = Callable[[], socket.socket]


def rows(options: Options) -> Iterator[Row]:
    """Measure over plain http and over TLS."""
    names = {kind: f"{NAME}, {kind}" for kind in ("http", "TLS")}
    if NGINX is None:
        yield from (Row.skipped(name, "nginx is not installed") for name in names.values())
        return
    try:
        program = build_rust(optimised=True).server
    except RustMissingError as error:
        yield from (Row.skipped(name, str(error)) for name in names.values())
        return
    cores = os.sched_getaffinity(0)
    with contextlib.ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, cores)
        os.sched_setaffinity(0, {min(cores)})  # for what is started now
        figures = _measure(stack, options, program, {max(cores)})
    made = f"nginx {_version()}, one worker, and gunicorn, against {RUST} alone, which has no TLS; {CONNECTIONS} connections"
    unit = "answers a CPU second"  # over TLS there is no target: the other one does without
    yield Row(names["http"], figures["http"], unit, figures[RUST], RUST, TARGET, made)
    yield Row(names["TLS"], figures["TLS"], unit, figures[RUST], f"{RUST}, plain http", note=made)


def _measure(stack: contextlib.ExitStack, options: Options, program: Path, askers: set[int]) -> dict[str, float]:
    """Start the servers; return the answers to a second of CPU time, the median of the rounds."""
    releases = options.folder / "releases"
    releases.mkdir()
    (releases / "app-1.0.0").write_bytes(b"one")
    versions = {"1.0.0": hashlib.sha256(b"one").hexdigest()}
    key = SigningKey.generate().to_hex()
    config = {"appname": "app", "key": key, "releases": releases, "versions": versions}
    ours = stack.enter_context(our_server(config | {"proxies": 1}, options.folder))
    nginx = stack.enter_context(
        Nginx(options.folder, ours.port, releases, "worker_processes 1; worker_rlimit_nofile 4096;", plain=True)
    )
    rust = stack.enter_context(RustServer(program, config, key, options.folder / "rust.log"))
    os.sched_setaffinity(0, askers)
    context = ssl.create_default_context(cafile=nginx.certificate)

    def over_tls() -> socket.socket:
        return context.wrap_socket(_connect(nginx.https), server_hostname="localhost")

    contenders: dict[str, tuple[Connect, list[Process]]] = {
        "http": (lambda: _connect(nginx.http_only), [nginx, ours]),
        "TLS": (over_tls, [nginx, ours]),
        RUST: (lambda: _connect(rust.port), [rust]),
    }
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(options.rounds(7) + 1):
        for name, (connect, servers) in contenders.items():
            figure, rate = _answers(connect, servers, 0.5 if options.quick else 2)
            if turn:  # the first only warms up
                figures[name].append(figure)
                say(f"{name}: {figure:,.0f} answers a CPU second, {rate:,.0f} a second")
    return {name: median(found) for name, found in figures.items()}


def _answers(connect: Connect, servers: list[Process], seconds: float) -> tuple[float, float]:
    """Ask for so long; return the answers to a second of the servers' CPU time, and to one of the clock."""
    answers = 0
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(contextlib.closing(connect())) for _ in range(CONNECTIONS)]
        before, started = [CpuTime(server.pid) for server in servers], time.perf_counter()
        used = 0
        while time.perf_counter() - started < seconds:
            if used == MOST:
                for connection in connections:
                    connection.close()
                connections = [stack.enter_context(contextlib.closing(connect())) for _ in range(CONNECTIONS)]
                used = 0
            for connection in connections:
                connection.sendall(REQUEST)
            for connection in reversed(connections):  # the last first: to be woken for each would cost the servers, too
                _receive(connection)
            used += 1
            answers += CONNECTIONS
        elapsed = time.perf_counter() - started
        spent = sum(CpuTime(server.pid).since(then) for server, then in zip(servers, before, strict=True))
    return answers / spent, answers / elapsed


def _receive(connection: socket.socket) -> None:
    answer = connection.recv(4096)
    while not answer.endswith(b"}"):  # the body, which may come by itself
        if not (piece := connection.recv(4096)):
            raise RuntimeError(f"no sound answer: {answer[:200]!r}")
        answer += piece
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"no sound answer: {answer[:200]!r}")


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _version() -> str:
    told = subprocess.run([NGINX, "-v"], capture_output=True, text=True, timeout=PATIENCE, check=True).stderr
    return told.strip().rpartition("/")[2]

"""What serving costs, beside nginx and the original's server: ``python -m tests.benchmarks.serving``.

Three tables, each of figures taken side by side, round after round, in one run:

- CPU seconds for each GiB served, whole files and ranges from the middle. They are the processes' own CPU time as the
  kernel counts it, so other work on the machine changes little. The original's server knows no ranges.
- the time until the last 1,000 bytes of the file are there.
- requests a second for ``latest``, for an empty Flask view of the same gunicorn, and for one that answers with as many
  bytes (gunicorn sends header and body apart), over connections that stay open.

Where there are two cores, the servers run on one of them and what asks them on the other. What is not installed is left
out, and the output says so. Absolute figures mean nothing on another machine; the ratios of the medians do. The
quartiles show how much other work on the machine disturbed them.
"""

import argparse
import contextlib
import hashlib
import json
import os
import selectors
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from flask import Flask

from patchify.keys import SigningKey
from patchify.server import patchify_bp
from tests.benchmarks.asker import Asker
from tests.benchmarks.cpu import CpuTime, pinned
from tests.benchmarks.table import Options, Row, Target, at_least, at_most, median
from tests.interop.programs import RustMissingError, RustServer, build_rust
from tests.running import Gunicorn, Process, free_port

GIB = 1024**3
OURS, NGINX, RUST = "patchify under gunicorn", "nginx", "Rust server 0.2.2"
VERSION = "1.0.0"
RELEASE = f"/api/releases/{VERSION}"
EMPTY = "an empty Flask view"
VIEWS = {
    "latest": "/api/latest",
    "an update document": "/api/updates/stable/any",
    EMPTY: "/empty",
    "a Flask view of as many bytes as latest": "/body",
}
CONNECTIONS = 4  # that ask for small answers at the same time

NGINX_CONF = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{}}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location /api/releases/ {{ alias {folder}/releases/app-; }}
    }}
}}
"""


def create_app() -> Flask:
    """Return the application that gunicorn serves here: ours, and views that do nothing."""
    app = Flask(__name__)
    app.config.update(json.loads(os.environ["BENCHMARK_SERVER"]))
    app.register_blueprint(patchify_bp, url_prefix="/api")
    app.add_url_rule("/empty", view_func=lambda: "", endpoint="empty")
    app.add_url_rule("/body", view_func=lambda: f'{{"version":"{VERSION}"}}', endpoint="body")
    return app


def rows(options: Options) -> Iterator[Row]:
    """Measure all of it, a row for each target."""
    size = 30_000_000 if options.quick else 300_000_000
    rounds = options.rounds(9)
    with contextlib.ExitStack() as stack:
        with pinned(servers=True):
            servers, missing = _start(stack, options.folder, size)
        stack.enter_context(pinned(servers=False))
        note = "; ".join(f"{name} is not measured: {reason}" for name, reason in missing.items())
        ranged = {name: server for name, server in servers.items() if name != RUST}
        middle = (size // 4 + 1, size // 4 * 3 + 1)
        for title, contenders, span in (("whole file", servers, None), ("range from the middle", ranged, middle)):
            figures = _measured(contenders, _cpu_by(span, size, options.rounds(2, 1)), rounds)
            yield _beside_the_best(f"serving a {title}, a GiB", figures, "CPU s", at_most(1.1), note)
        figures = _measured(ranged, _latency_of((size - 1000, size)), rounds)
        title = f"last 1,000 bytes of {size / 1e6:.0f} MB"
        yield _beside_the_best(title, figures, "ms", at_most(5, "ms"), note)
        port = servers[OURS].port
        found = _measured(VIEWS, lambda path: _rate(port, path, 0.5 if options.quick else 1), rounds)
        rates = {name: median(figures) for name, figures in found.items()}
        for name in ("latest", "an update document"):
            yield Row(f"{name}, one worker", rates[name], "a second", rates[EMPTY], EMPTY, at_least(0.9))


def _beside_the_best(title: str, figures: Mapping[str, list[float]], unit: str, target: Target, note: str) -> Row:
    medians = {name: median(each) for name, each in figures.items()}
    ours = medians.pop(OURS)
    best = min(medians, key=medians.__getitem__, default="")
    against = f"{best} (of {len(medians)}, the better one)" if len(medians) > 1 else best
    return Row(title, ours, unit, medians.get(best), against, target, note)


def main() -> None:
    parser = argparse.ArgumentParser(description="What serving costs, beside nginx and the original's server.")
    parser.add_argument("--size", type=int, default=300, help="MB of the release (default 300)")
    parser.add_argument("--rounds", type=int, default=15, help="how often each is measured (default 15)")
    parser.add_argument("--downloads", type=int, default=3, help="downloads in each round (default 3)")
    parser.add_argument("--seconds", type=float, default=1, help="of small requests in each round (default 1)")
    parser.add_argument("--unpinned", action="store_true", help="leave it to the kernel what runs on which core")
    arguments = parser.parse_args()
    size = arguments.size * 1_000_000
    cores = sorted(os.sched_getaffinity(0))
    for_servers, for_askers = (cores, cores) if arguments.unpinned else (cores[:1], cores[-1:])
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.sched_setaffinity(0, for_servers)
        servers, missing = _start(stack, folder, size)
        os.sched_setaffinity(0, for_askers)
        print(f"a release of {size:,} bytes, {arguments.rounds} rounds, {len(cores)} cores")
        for name, reason in missing.items():
            print(f"{name} is not measured: {reason}")
        ranged = {name: server for name, server in servers.items() if name != RUST}
        half, rounds = (size // 4 + 1, size // 4 * 3 + 1), arguments.rounds
        whole, middle = (_cpu_by(span, size, arguments.downloads) for span in (None, half))
        _print_beside("whole file, CPU s per GiB", _measured(servers, whole, rounds))
        _print_beside("half of it, from the middle", _measured(ranged, middle, rounds))
        _print_beside("last 1,000 bytes, ms", _measured(ranged, _latency_of((size - 1000, size)), rounds))
        _print_requests(servers[OURS], arguments.rounds, arguments.seconds)


def _start(stack: contextlib.ExitStack, folder: Path, size: int) -> tuple[dict[str, Process], dict[str, str]]:
    """Start every server that there is; return them, and why there is none of the others."""
    releases = folder / "releases"
    releases.mkdir()
    release = releases / f"app-{VERSION}"
    block = os.urandom(1_000_000)
    release.write_bytes(block * (size // len(block)))
    hashes = {VERSION: hashlib.sha256(release.read_bytes()).hexdigest()}
    key = SigningKey.generate().to_hex()
    settings = {"APPNAME": "app", "KEY": key, "RELEASES": str(releases), "VERSIONS": hashes}
    options = ("--worker-class=gthread", "--threads=8", "--preload")
    environment = {"BENCHMARK_SERVER": json.dumps({f"PATCHIFY_{name}": value for name, value in settings.items()})}
    ours = Gunicorn("tests.benchmarks.serving:create_app()", folder / "ours.log", *options, env=environment)
    servers: dict[str, Process] = {OURS: stack.enter_context(ours)}
    missing = {}
    if nginx := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"):
        servers[NGINX] = stack.enter_context(_Nginx(nginx, folder))
    else:
        missing[NGINX] = "it is not installed"
    try:
        config = {"appname": "app", "releases": releases, "versions": hashes}
        servers[RUST] = stack.enter_context(
            RustServer(build_rust(optimised=True).server, config, key, folder / "rust.log")
        )
    except RustMissingError as error:
        missing[RUST] = str(error)
    return servers, missing


class _Nginx(Process):
    def __init__(self, program: str, folder: Path) -> None:
        self.port = free_port()
        (folder / "nginx.conf").write_text(NGINX_CONF.format(folder=folder, port=self.port))
        command = [program, "-e", folder / "nginx-start.log", "-p", folder, "-c", folder / "nginx.conf"]
        super().__init__(command, folder / "nginx.log")

    def __enter__(self) -> Self:
        for _ in range(500):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.01)
        raise RuntimeError(f"nginx does not answer:\n{self.output()}")


def _cpu_by(span: tuple[int, int] | None, size: int, downloads: int) -> Callable[[Any], float]:
    """Return what measures the CPU seconds for a GiB."""
    length = span[1] - span[0] if span else size

    def measure(server: Any) -> float:
        with contextlib.closing(Asker(server.port, RELEASE, span)) as asker:
            before = CpuTime(server.pid)
            if any(asker.fetch() != length for _ in range(downloads)):
                raise RuntimeError("that was not what was asked for")
            return CpuTime(server.pid).since(before) / (downloads * length / GIB)

    return measure


def _latency_of(span: tuple[int, int]) -> Callable[[Any], float]:
    """Return what measures the milliseconds until a range is there."""

    def measure(server: Any) -> float:
        with contextlib.closing(Asker(server.port, RELEASE, span)) as asker:
            times = []
            for _ in range(50):
                start = time.perf_counter()
                asker.fetch()
                times.append((time.perf_counter() - start) * 1000)
            return statistics.median(times)

    return measure


def _rate(port: int, path: str, seconds: float) -> float:
    """Return the answers in a second."""
    start = time.perf_counter()
    answers = _ask_for(port, path, seconds)
    return answers / (time.perf_counter() - start)


def _print_requests(server: Any, rounds: int, seconds: float) -> None:
    cpu: dict[str, list[float]] = {name: [] for name in VIEWS}

    def measure(path: str) -> float:
        before, start = CpuTime(server.pid), time.perf_counter()
        answers = _ask_for(server.port, path, seconds)
        elapsed = time.perf_counter() - start
        name = next(name for name in VIEWS if VIEWS[name] == path)
        cpu[name].append(CpuTime(server.pid).since(before) / answers * 1e6)
        return answers / elapsed

    rates = _measured(VIEWS, measure, rounds)
    print(f"\n{'small answers':40}{'requests/s':>12}{'quartiles':>20}{'CPU µs':>10}{'latest / it':>14}")
    for name, rate in rates.items():
        low, median, high = statistics.quantiles(rate)
        ratio = statistics.median(rates["latest"]) / median
        print(
            f"  {name:38}{median:12.0f}{f'{low:.0f} - {high:.0f}':>20}{statistics.median(cpu[name]):10.0f}{ratio:14.2f}"
        )


def _ask_for(port: int, path: str, seconds: float) -> int:
    """Ask over a few connections, each as soon as it was answered; return how many answers came."""
    answers = 0
    with selectors.DefaultSelector() as ready, contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            asker = stack.enter_context(contextlib.closing(Asker(port, path)))
            ready.register(asker, selectors.EVENT_READ, asker)
            asker.send()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for key, _ in ready.select():
                key.data.receive()
                key.data.send()
                answers += 1
        for key in ready.get_map().values():
            key.data.receive()
    return answers + CONNECTIONS


def _measured(contenders: Mapping[str, Any], measure: Callable[[Any], float], rounds: int) -> dict[str, list[float]]:
    """Measure each in turn, beginning with another one each time; the first round only warms up."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            figure = measure(contenders[name])
            if turn:
                figures[name].append(figure)
    return figures


def _print_beside(title: str, figures: Mapping[str, list[float]]) -> None:
    medians = {name: statistics.median(each) for name, each in figures.items()}
    print(f"\n{title:34}{'median':>12}{'quartiles':>20}{'ours / it':>14}")
    for name, middle in medians.items():
        low, _, high = statistics.quantiles(figures[name])
        print(f"  {name:32}{middle:12.3f}{f'{low:.3f} - {high:.3f}':>20}{medians[OURS] / middle:14.2f}")
    others = [median for name, median in medians.items() if name != OURS]
    if others:
        print(f"  {'ours / the better of the others':32}{medians[OURS] / min(others):46.2f}")


if __name__ == "__main__":
    main()

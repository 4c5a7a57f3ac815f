"""How long the server takes to start with many releases: ``python -m tests.benchmarks --only start``.

A hundred releases of 50 MB. *Cold*: nothing is remembered, all of them are hashed; beside it, one core hashes the same
bytes. *Warm*: every later start. The files are sparse, so the disk is not measured, and none is filled.
"""

import contextlib
import hashlib
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from patchify.server.hashes import NAME
from tests.benchmarks.served import APPNAME, KEY
from tests.benchmarks.table import Options, Row, at_least, at_most, say
from tests.running import Gunicorn

COUNT, SIZE = 100, 50_000_000
QUICK = 10  # releases
SAMPLE = 10  # releases that one core hashes: what it takes for one more is the same
OPTIONS = ("--worker-class=gthread", "--threads=4", "--preload")
PATIENCE = 120  # seconds


def rows(options: Options) -> Iterator[Row]:
    """Start a gunicorn with nothing remembered, with everything, and with one release only, in turn."""
    count = options.rounds(COUNT, QUICK)
    releases = options.folder / "releases"
    releases.mkdir()
    say(f"{count} releases of {SIZE / 1e6:.0f} MB")
    hashes = {}
    for number in range(count):
        path = releases / f"{APPNAME}-1.{number}.0"
        with path.open("wb") as file:
            file.write(path.name.encode())
            file.truncate(SIZE)
        if number < SAMPLE:
            hashes[path.name] = _sha256(path)
    rates, cold, warm, bare = [], [], [], []
    described = {path.name: hashes.get(path.name) or _sha256(path) for path in sorted(releases.iterdir())}
    time.sleep(0.2)  # a file that was just written is not remembered: it could be written once more in the same tick
    for _ in range(options.rounds(3)):
        rates.append(SAMPLE * SIZE / _seconds(lambda: [_sha256(releases / name) for name in hashes]))
        bare.append(_start(options.folder, dict(list(described.items())[:1])))
        (releases / NAME).unlink(missing_ok=True)
        cold.append(_start(options.folder, described))
        warm.append(_start(options.folder, described))
    rate, least = statistics.median(rates), statistics.median(bare)
    title = f"start with {count} releases of {SIZE / 1e6:.0f} MB"
    hashing = count * SIZE / (statistics.median(cold) - least)
    note = f"without what a start with one release takes, {least:.2f} s; gunicorn, to its first answer"
    yield Row(f"{title}: cold", hashing / 1e6, "MB/s", rate / 1e6, "SHA-256 on one core", at_least(1.8), note)
    seconds = statistics.median(warm)
    yield Row(f"{title}: warm", seconds, "s", statistics.median(cold), "cold", at_most(1, "s"))


def _start(folder: Path, described: dict[str, str]) -> float:
    """Return the seconds until a server answers."""
    versions = {name.removeprefix(f"{APPNAME}-"): sha256 for name, sha256 in described.items()}
    settings = {"APPNAME": APPNAME, "KEY": KEY.to_hex(), "RELEASES": str(folder / "releases"), "VERSIONS": versions}
    configuration = folder / "patchify.toml"
    table = settings.pop("VERSIONS")
    lines = [f"PATCHIFY_{name} = {json.dumps(value)}\n" for name, value in settings.items()]
    lines += ["[PATCHIFY_VERSIONS]\n", *(f'"{version}" = "{sha256}"\n' for version, sha256 in table.items())]
    configuration.write_text("".join(lines))
    env = {"PATCHIFY_CONFIG": str(configuration)}
    log = folder / "server.log"
    log.unlink(missing_ok=True)
    server = Gunicorn("patchify.server:create_app()", log, *OPTIONS, env=env)
    with contextlib.ExitStack() as running:
        return _seconds(lambda: running.enter_context(server))


def _seconds(action) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""How small patches are, and what making and applying them takes: ``python -m tests.benchmarks --only deltas``.

Two consecutive releases of ruff, and of uv, from their wheels: large native programs, built by others. The wheels are
kept in the folder for temporary files, so that a second run needs no network.
"""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks import engines
from tests.benchmarks.engines import BSDIFF, HDIFFPATCH, TUFUP, ZSTD, ZSTD_FAST, Spent
from tests.benchmarks.table import Options, Row, at_most, say

PAIRS = (("ruff", "0.17.5", "0.17.6", 3_400_000), ("uv", "0.13.7", "0.13.8", 3_300_000))  # bytes to reach
CACHE = Path(tempfile.gettempdir()) / "patchify-benchmark-wheels"
SHORT = 2_000_000  # bytes of each program that a quick run compares
VELOPACK = (
    "Velopack's Python package{} is only the client: its UpdateManager downloads packages and hands patches to a program "
    "(Update) that Velopack's packer adds to an application. The packer, vpk, is a tool for .NET{}; so nothing makes or "
    "applies a patch here. By its documentation its patches are those of zstd with each old file as prefix, which are "
    "in the rows above"
)


class NoWheelError(Exception):
    """A wheel cannot be had here."""


def rows(options: Options) -> Iterator[Row]:
    """Compare the sizes for both, and the times for the first: the second ones run side by side."""
    for number, (name, old, new, most) in enumerate(PAIRS[:1] if options.quick else PAIRS):
        title = f"{name} {old} → {new}"
        try:
            files = [program(name, each, options.folder) for each in (old, new)]
        except NoWheelError as error:
            yield Row.skipped(f"{title}: patch", str(error), at_most(most, "B"))
            continue
        if options.quick:
            for file in files:
                file.write_bytes(file.read_bytes()[:SHORT])
        yield from compare(title, *files, options.folder / name, None if options.quick else most, timed=number == 0)


def compare(title: str, old: Path, new: Path, folder: Path, most: int | None, *, timed: bool) -> Iterator[Row]:
    """Compare what there is on one pair of files; ``timed``: one after the other, and their times."""
    target = None if most is None else at_most(most, "B")
    others = [engine for engine in (ZSTD, ZSTD_FAST, BSDIFF, TUFUP) if not engines.missing(engine)]
    if why := engines.missing(HDIFFPATCH):
        yield Row.skipped(f"{title}: patch", why, target)
        return
    folder.mkdir()
    made: dict[str, tuple[int, Spent]] = {}

    def make(engine: engines.Hdiffpatch) -> None:
        say(f"{title}: {engine.label} makes a patch")
        patch, spent = engines.made(engine, old, new, folder / engine.label)
        made[engine.label] = patch.stat().st_size, spent

    with ThreadPoolExecutor(1 if timed else 2) as pool:
        list(pool.map(make, (HDIFFPATCH, *others)))
    size, spent = made[HDIFFPATCH.label]
    yield Row(f"{title}: patch", size, "B", new.stat().st_size, "the whole", target)
    for engine in others:
        yield Row(f"{title}: patch", size, "B", made[engine.label][0], engines.named(engine))
    for engine in (BSDIFF, TUFUP):
        if why := engines.missing(engine):
            yield Row.skipped(f"{title}: patch, beside {engine.label}", why)
    if not timed:
        return
    yield Row.skipped(f"{title}: patch, beside Velopack", velopack())
    applied = {
        engine.label: engines.applied(engine, old, new, folder / engine.label) for engine in (HDIFFPATCH, *others)
    }
    for engine in others:
        yield Row(f"{title}: making it", spent.cpu, "CPU s", made[engine.label][1].cpu, engines.named(engine))
    for engine in others:
        ours, theirs = applied[HDIFFPATCH.label].cpu, applied[engine.label].cpu
        yield Row(f"{title}: applying it", ours, "CPU s", theirs, engines.named(engine))


def velopack() -> str:
    """Return why Velopack is not measured."""
    found = f" ({version('velopack')})" if importlib.util.find_spec("velopack") else ""
    return VELOPACK.format(found, ", and is not installed" if shutil.which("vpk") is None else "")


def program(name: str, release: str, folder: Path) -> Path:
    """Return the native program of a wheel. Raises `NoWheelError`."""
    found = list(CACHE.glob(f"{name}-{release}-*.whl"))
    if not found:
        say(f"downloading {name} {release}")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input"]
        command += ["--disable-pip-release-check", f"--dest={CACHE}", f"{name}=={release}"]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired as error:
            raise NoWheelError(f"no answer of the package index about {name} {release}") from error
        found = list(CACHE.glob(f"{name}-{release}-*.whl"))
        if not found:
            raise NoWheelError(f"{name} {release} cannot be downloaded: {ran.stderr.strip().splitlines()[-1:]}")
    target = folder / f"{name}-{release}"
    with zipfile.ZipFile(found[0]) as wheel:
        target.write_bytes(wheel.read(f"{name}-{release}.data/scripts/{name}"))
    return target

"""The benchmark suite: ``python -m tests.benchmarks [--only NAME…] [--quick]``. Prints one table.

Each row is a ratio of figures that were taken side by side in this run; absolute figures mean nothing on another
machine. What is not installed is left out, and a note says so. Ends with 1 if a target was missed or something failed.
"""

import argparse
import importlib
import importlib.util
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.table import Options, Row, say, table

MODULES = (
    "serving",
    "slow",
    "front",
    "updating",
    "wire",
    "client",
    "deltas",
    "large",
    "idle",
    "start",
    "catalogue",
    "fleet",
)
LIMIT = 900  # seconds for each of them
LONGEST = 300  # characters that the table tells of a failure


class LimitError(BaseException):
    """A module took too long; nothing on the way may take it for a failure of its own."""


def main() -> int:
    """Measure what the command line says, and print it."""
    there = [name for name in MODULES if importlib.util.find_spec(f"tests.benchmarks.{name}")]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=there, default=there, metavar="NAME", help=", ".join(there))
    parser.add_argument("--quick", action="store_true", help="few rounds, small files: to see that it works")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, _too_long)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    started, found, failed = time.monotonic(), [], False
    with tempfile.TemporaryDirectory(prefix="patchify-benchmark-") as shared:
        for name in arguments.only:
            say(f"{time.monotonic() - started:.0f} s: {name}")
            signal.alarm(LIMIT)
            try:
                for row in _rows(name, Path(shared), quick=arguments.quick):
                    say(" | ".join(row.cells()))
                    found.append(row)
            except (Exception, LimitError) as error:  # the others are measured nevertheless
                failed = True
                traceback.print_exc()
                found.append(Row.skipped(name, " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]))
            finally:
                signal.alarm(0)
    print(f"patchify {version('patchify-updater')}, Python {platform.python_version()}, {platform.platform()}")
    print(f"{'quick, ' if arguments.quick else ''}{time.monotonic() - started:.0f} s\n\n{table(found)}")
    return 1 if failed or any(row.met is False for row in found) else 0


def _rows(name: str, shared: Path, *, quick: bool) -> Iterator[Row]:
    module = importlib.import_module(f"tests.benchmarks.{name}")
    with (
        tempfile.TemporaryDirectory(prefix=f"{name}-", dir=shared) as folder,
        closing(module.rows(Options(Path(folder), shared, quick))) as rows,
    ):
        yield from rows


def _too_long(*_: object) -> None:
    raise LimitError(f"took longer than {LIMIT} s")


if __name__ == "__main__":
    sys.exit(main())

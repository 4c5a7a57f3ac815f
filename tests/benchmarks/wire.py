"""How many bytes an update takes, all requests of both versions counted: ``python -m tests.benchmarks --only wire``.

A program that PyInstaller packed checks when it starts, takes the newer version from a real server, becomes it, which
checks when it starts, too, and proves good. A proxy between the two counts what passes its sockets in both directions:
headers, documents, files; not what TCP and IP add to that.
"""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from patchify.client.locks import watched
from tests.benchmarks.frozen import LINES, PACKED, PLAIN, UPGRADED, Builds, NotBuiltError
from tests.benchmarks.proxy import Proxy
from tests.benchmarks.served import KEY, served
from tests.benchmarks.table import Options, Row, Target, at_most, say
from tests.running import wait_until

PATIENCE = 120  # seconds for one update
TITLE = "bytes on the wire, PyInstaller one-file"
USUAL = "as pyinstaller --onefile packs it, with PYTHONHASHSEED=0"
SMALL = "built with cdict={} and strip=True in the spec file, with PYTHONHASHSEED=0"
WANTED = (
    (PACKED, LINES, at_most(6_000, "B"), USUAL),
    (PACKED, UPGRADED, at_most(2_200_000, "B"), USUAL),
    (PLAIN, UPGRADED, at_most(2_200_000, "B"), SMALL),
)


def rows(options: Options) -> Iterator[Row]:
    """Update with either change."""
    builds = Builds(options)
    for number, (kind, change, target, note) in enumerate(WANTED[:1] if options.quick else WANTED):
        title = f"{TITLE}: {change}"
        try:
            old, new = builds.old(kind), builds.new(kind, change)
        except NotBuiltError as error:
            yield Row.skipped(title, str(error), target)
            continue
        yield updated(title, old, new, options.folder / str(number), target, note)


def updated(title: str, old: Path, new: Path, folder: Path, target: Target, note: str) -> Row:
    """Run one update, and return what passed."""
    say(f"{title}: {note}")
    with served(folder, {"1.0.0": old, "2.0.0": new}) as server, Proxy(server.port) as proxy:
        run(folder / "place", old, f"{proxy.url}/api/")
        return Row(title, proxy.bytes, "B", new.stat().st_size, "the whole", target, note)


def run(place: Path, program: Path, api: str) -> None:
    """Install a program in a folder of its own, and let it update itself until the newer version has proved good."""
    place.mkdir()
    path = place / "program"
    path.write_bytes(program.read_bytes())
    path.chmod(0o755)
    command = [path, api, KEY.verifying_key.to_hex()]
    pipe, merged = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(command, stdout=pipe, stderr=merged, text=True, start_new_session=True) as process:
        end = threading.Timer(PATIENCE, _end, [process.pid])
        end.start()
        try:
            said = process.stdout.read()
        finally:
            end.cancel()
            _end(process.pid)
            process.wait()
            wait_until(lambda: not watched(place / ".program.patchify"), "the end of the guardian")
    if "proved 2.0.0" not in said.splitlines():
        raise AssertionError(f"the update did not get through:\n{said}")


def _end(group: int) -> None:
    """End a program, all of it: what PyInstaller packed is two processes, one more for each restart."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)

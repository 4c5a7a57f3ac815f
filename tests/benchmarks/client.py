"""What an update costs the program that is updated: ``python -m tests.benchmarks.client [--quick]``.

- An update of a program of 35 MiB, by our client and by the original's (where cargo can build it), from the same
  server: on loopback, whole, from the check to the exec; and over a link that is held to 100 Mbit/s, from the check until
  the new version runs, ours by a patch, as two lines changed and the rest is the same. Ours makes everything durable with
  fsync, the original nothing; what our fsyncs take on loopback is counted apart. Memory is the peak resident set (VmHWM)
  at the exec.
- The memory that downloading 1 GiB takes beyond what the idle program has.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipapp
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from patchify.client.locks import watched
from tests.benchmarks.proxy import Proxy
from tests.benchmarks.served import KEY, served
from tests.benchmarks.table import MIB, Options, Row, at_most, median, say, table
from tests.interop.programs import RustMissingError, build_rust
from tests.running import wait_until

SIZE, DOWNLOAD = 35 * MIB, 1024 * MIB
LINK = 100e6 / 8  # bytes a second
PATIENCE = 120  # seconds for one update
OLD, NEW = "1.0.0", "2.0.0"
OURS, UNGUARDED, RUST = "ours", "ours, no guardian", "Rust client 0.2.2"
LOOPBACK = f"update of {SIZE // MIB} MiB on loopback, whole, check to exec"
LINKED = f"update of {SIZE // MIB} MiB over 100 Mbit/s, two lines changed, check to new version running"
WITHIN, FAST = at_most(2), at_most(0.2)

PROGRAM = """
import os, sys, time
from pathlib import Path
from patchify.client import Config, Updater, exec_restart
VERSION = "{version}"
def memory(name):
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)).split()[1])
synced = 0.0
def timed(fsync):
    def call(descriptor):
        global synced
        start = time.monotonic()
        fsync(descriptor)
        synced += time.monotonic() - start
    return call
os.fsync = timed(os.fsync)
def restart(launch):
    print("exec", started, time.monotonic(), synced, memory("VmHWM"), flush=True)
    exec_restart(launch)
print("running", VERSION, flush=True)
guardian = sys.argv[3] != "ours, no guardian"
updater = Updater(Config(version=VERSION, api=sys.argv[1], key=sys.argv[2], guardian=guardian), restarter=restart)
if sys.argv[3] == "download":
    updater.check()
    idle = memory("VmRSS")
    updater.download()
    print("downloaded", idle, memory("VmHWM"), flush=True)
else:
    started = time.monotonic()
    updater.update()
"""


@dataclass(frozen=True)
class Update:
    """What one update took: seconds to the exec, of them in fsync, seconds until the new version ran, peak MiB."""

    exec: float
    synced: float
    running: float
    peak: float

    @property
    def unsynced(self) -> float:
        """Seconds to the exec without those of fsync."""
        return self.exec - self.synced


def rows(options: Options) -> Iterator[Row]:
    """Update again and again, our client and theirs in turn."""
    try:
        rust = build_rust(optimised=True).client.read_bytes()
        missing = ""
    except RustMissingError as error:
        rust, missing = b"", f"the Rust client is not measured: {error}"
    payload = os.urandom(SIZE)
    ours = {version: zipapp_of(options.folder, version, payload) for version in (OLD, NEW)}
    contenders = {OURS: ours, UNGUARDED: ours}
    if rust:
        theirs = {version: rust + payload[len(rust) :] + f"\nVERSION={version}".encode() for version in (OLD, NEW)}
        contenders[RUST] = theirs
    beside = RUST if rust else ""
    rounds = options.rounds(7)

    found = updates(options.folder / "loopback", contenders, rounds, None)
    its = found.get(RUST)
    for name, target in ((OURS, WITHIN), (UNGUARDED, None)):
        title = f"{LOOPBACK}{'' if name == OURS else ', without a guardian'}"
        synced = median(each.synced for each in found[name])
        note = (
            missing or f"fsyncs apart, which take our client {1000 * synced:.0f} ms and which the Rust client has not"
        )
        unsynced = median(each.unsynced for each in found[name])
        yield Row(title, unsynced, "s", its and median(each.exec for each in its), beside, target, note)
    peak = median(each.peak for each in found[OURS])
    yield Row(f"{LOOPBACK}: peak memory", peak, "MiB", its and median(each.peak for each in its), beside)

    del contenders[UNGUARDED]
    found = updates(options.folder / "linked", contenders, options.rounds(5), LINK)
    its = found.get(RUST)
    note = missing or "fsyncs included; ours is a zipapp, so the start of Python is in it"
    running = median(each.running for each in found[OURS])
    yield Row(LINKED, running, "s", its and median(each.running for each in its), beside, FAST, note)

    size = DOWNLOAD // 16 if options.quick else DOWNLOAD
    yield Row(f"downloading {size // MIB} MiB: memory beyond the idle program", memory(options.folder, size), "MiB")


def updates(folder: Path, contenders: dict[str, dict[str, bytes]], rounds: int, rate: float | None) -> dict[str, list]:
    """Serve every contender's releases and update it; where the rate of the link is limited, with patches."""
    figures: dict[str, list[Update]] = {name: [] for name in contenders}
    folder.mkdir()
    with contextlib.ExitStack() as running:
        addresses = {}
        for name, files in contenders.items():
            paths = {version: folder / f"{name}-{version}" for version in files}
            for version, data in files.items():
                paths[version].write_bytes(data)
            forms = rate is not None and name == OURS
            server = running.enter_context(served(folder / f"server of {name}", paths, forms=forms))
            addresses[name] = f"{running.enter_context(Proxy(server.port, rate)).url if rate else server.url}/api/"
        for each in range(rounds):
            say(f"update {each + 1} of {rounds}")
            for name, files in contenders.items():
                place = folder / f"place of {name}"
                figures[name].append(update(place, files[OLD], addresses[name], name))
                shutil.rmtree(place)
    return figures


def update(place: Path, program: bytes, address: str, name: str) -> Update:
    """Install a program in a folder of its own, and let it update itself."""
    place.mkdir()
    path = place / "program"
    path.write_bytes(program)
    path.chmod(0o755)
    ours = name != RUST
    command = [path, address, KEY.verifying_key.to_hex(), name if ours else "3600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        end = threading.Timer(PATIENCE, process.kill)
        end.start()
        try:
            return our_figures(process) if ours else their_figures(process)
        finally:
            end.cancel()
            process.terminate() if ours else process.kill()
            process.wait(PATIENCE)
            if ours:  # the guardian puts the old version back, since the new one was not confirmed, and goes
                wait_until(lambda: not watched(path.parent / ".program.patchify"), "the end of the guardian")


def our_figures(process: subprocess.Popen) -> Update:
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("exec"):
            started, done, synced, peak = map(float, line.split()[1:])
        elif line == f"running {NEW}\n":
            return Update(done - started, synced, time.monotonic() - started, peak / 1024)
    raise RuntimeError(f"our client did not get through:\n{''.join(said[-20:])}")


def their_figures(process: subprocess.Popen) -> Update:
    """Take time and memory from outside, as each line arrives."""
    peak = Peak(process.pid)
    try:
        for line in process.stdout:
            if "Checking for updates" in line:  # of its log: its status changes may be lost
                started = time.monotonic()
            elif "Restarting" in line:
                done, most = time.monotonic(), peak.stop()
            elif line.startswith(f"running {NEW}"):
                return Update(done - started, 0.0, time.monotonic() - started, most / 1024)
    finally:
        peak.stop()
    raise RuntimeError("the Rust client did not get through")


class Peak:
    """Reads the peak resident set of a process until it is stopped: after an exec it begins anew."""

    def __init__(self, pid: int):
        self.status = Path(f"/proc/{pid}/status")
        self.value = 0.0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self) -> None:
        while not self.done.wait(0.001):
            with contextlib.suppress(OSError, TypeError):  # it has ended
                self.value = max(self.value, float(re.search(r"VmHWM:\s+(\d+)", self.status.read_text())[1]))

    def stop(self) -> float:
        """Return KiB."""
        self.done.set()
        self.thread.join()
        return self.value


def memory(folder: Path, size: int) -> float:
    """Return the MiB that downloading a release takes beyond what the idle program has."""
    say(f"downloading {size // MIB} MiB")
    place = folder / "download"
    place.mkdir()
    release = place / "release"
    with release.open("wb") as file:
        file.truncate(size)
    program = place / "program"
    program.write_bytes(zipapp_of(folder, OLD, b""))
    program.chmod(0o755)
    with served(place / "server", {NEW: release}, forms=False) as server:
        command = [program, f"{server.url}/api/", KEY.verifying_key.to_hex(), "download"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    shutil.rmtree(place)
    idle, peak = map(int, re.search(r"downloaded (\d+) (\d+)", said).groups())
    return (peak - idle) / 1024


def zipapp_of(folder: Path, version: str, payload: bytes) -> bytes:
    """Return the program as a zipapp that holds a payload, too."""
    with tempfile.TemporaryDirectory(dir=folder) as source:
        (Path(source) / "__main__.py").write_text(PROGRAM.format(version=version))
        (Path(source) / "payload").write_bytes(payload)
        target = folder / f"built-{version}"
        zipapp.create_archive(source, target, interpreter=sys.executable)
    return target.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, small files")
    with tempfile.TemporaryDirectory(prefix="patchify-benchmark-") as folder:
        print(table(rows(Options(Path(folder), Path(folder), parser.parse_args().quick))))


if __name__ == "__main__":
    main()

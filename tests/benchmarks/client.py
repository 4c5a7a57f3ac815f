"""What an update costs the program that is updated: ``python -m tests.benchmarks.client``.

Three tables, each of figures taken side by side in one run:

- a whole update of a program of 35 MB on loopback, from the check to the exec, by our client and by the original's
  (where cargo can build it), from the same server; by ours also without a guardian. Ours makes everything durable with
  fsync, the original nothing; what our fsyncs take is counted apart. Memory is the peak resident set (VmHWM) at the exec.
- the memory that downloading 1 GiB takes beyond what the idle program has.
- the CPU time of ``import patchify.client`` beside ``import requests``.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipapp
from pathlib import Path

from patchify.client.locks import watched
from patchify.keys import SigningKey
from tests.interop.programs import RustMissingError, build_rust
from tests.running import ROOT, Gunicorn, free_port, wait_until

KEY = SigningKey.generate()
MIB = 1024 * 1024
PATIENCE = 120  # seconds for one update

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
    print("exec", time.monotonic() - started, synced, memory("VmHWM"), flush=True)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=35, help="MiB of the updated program")
    parser.add_argument("--download", type=int, default=1024, help="MiB of the downloaded release")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="patchify-benchmark-") as folder:
        print_updates(Path(folder), arguments.rounds, arguments.size * MIB)
        print_memory(Path(folder), arguments.download * MIB)
    print_imports(arguments.rounds)


def print_updates(folder: Path, rounds: int, size: int) -> None:
    ours = {version: zipapp_of(folder, version, size) for version in ("1.0.0", "2.0.0")}
    contenders = {"ours": ours, "ours, no guardian": ours}
    try:
        rust = build_rust(optimised=True).client.read_bytes()
    except RustMissingError as error:
        print(f"the Rust client is not measured: {error}")
    else:
        pad = os.urandom(size - len(rust))
        contenders["Rust client 0.2.2"] = {
            version: rust + pad + f"\nVERSION={version}".encode() for version in ("1.0.0", "2.0.0")
        }
    figures = {name: [] for name in contenders}
    with contextlib.ExitStack() as servers:
        addresses = {name: servers.enter_context(serving(folder / name, files)) for name, files in contenders.items()}
        for each in range(rounds):
            for name, files in contenders.items():
                place = folder / f"{name}-{each}"
                figures[name].append(update(place, files["1.0.0"], addresses[name], name))
                shutil.rmtree(place)
    print(f"\nOne update of {size / MIB:.0f} MiB, check to exec, {rounds} rounds, medians")
    print(f"{'client':<20}{'seconds':>9}{'fsyncs, s':>11}{'the rest, s':>13}{'ratio':>7}{'peak MiB':>10}")
    median = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in figures.items()}
    theirs = median.get("Rust client 0.2.2")
    for name, (whole, synced, peak) in median.items():
        ratio = f"{(whole - synced) / (theirs[0] - theirs[1]):.2f}" if theirs else "-"
        print(f"{name:<20}{whole:>9.3f}{synced:>11.3f}{whole - synced:>13.3f}{ratio:>7}{peak / 1024:>10.1f}")


def print_memory(folder: Path, size: int) -> None:
    place = folder / "download"
    releases = place / "releases"
    releases.mkdir(parents=True)
    with (releases / "app-2.0.0").open("wb") as file:
        file.truncate(size)
    program = place / "program"
    program.write_bytes(zipapp_of(folder, "1.0.0", 0))
    program.chmod(0o755)
    with serving(place) as address:
        command = [program, address, KEY.verifying_key.to_hex(), "download"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    idle, peak = map(int, re.search(r"downloaded (\d+) (\d+)", said).groups())
    print(f"\nDownloading {size / MIB:.0f} MiB")
    print(f"{'idle MiB':>10}{'peak MiB':>10}{'more MiB':>10}")
    print(f"{idle / 1024:>10.1f}{peak / 1024:>10.1f}{(peak - idle) / 1024:>10.1f}")


def print_imports(rounds: int) -> None:
    modules = ("requests", "patchify.client")
    cost = {module: [] for module in modules}
    for _ in range(rounds * 4 + 1):
        for module in modules:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", f"import {module}"], check=True, cwd=ROOT)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cost[module].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print("\nImport in a new interpreter, CPU ms of the whole process, median")
    for module in modules:
        median = statistics.median(cost[module][1:])
        print(f"{module:<20}{median * 1000:>8.0f}{median / statistics.median(cost['requests'][1:]):>8.2f}")


def update(place: Path, program: bytes, address: str, name: str) -> tuple[float, float, float]:
    """Run one update; return seconds from check to exec, seconds of fsync in it, and peak KiB."""
    place.mkdir()
    path = place / "program"
    path.write_bytes(program)
    path.chmod(0o755)
    ours = name.startswith("ours")
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


def our_figures(process: subprocess.Popen) -> tuple[float, float, float]:
    for line in process.stdout:
        if line.startswith("exec"):
            seconds, synced, peak = map(float, line.split()[1:])
        elif line == "running 2.0.0\n":
            return seconds, synced, peak
    raise SystemExit("our client did not get through")


def their_figures(process: subprocess.Popen) -> tuple[float, float, float]:
    """Take time and memory from outside, as each line arrives."""
    peak = Peak(process.pid)
    for line in process.stdout:
        if "Checking for updates" in line:  # of its log: its status changes may be lost
            started = time.monotonic()
        elif "Restarting" in line:
            return time.monotonic() - started, 0.0, peak.stop()
    raise SystemExit("the Rust client did not get through")


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
        self.done.set()
        self.thread.join()
        return self.value


def zipapp_of(folder: Path, version: str, size: int) -> bytes:
    with tempfile.TemporaryDirectory(dir=folder) as source:
        (Path(source) / "__main__.py").write_text(PROGRAM.format(version=version))
        (Path(source) / "payload").write_bytes(os.urandom(size))
        target = folder / f"built-{version}"
        zipapp.create_archive(source, target, interpreter=sys.executable)
    return target.read_bytes()


@contextlib.contextmanager
def serving(place: Path, files: dict[str, bytes] | None = None):
    """Serve these files, or what is in the folder already, with our server; give the address of the API."""
    releases = place / "releases"
    for version, data in (files or {}).items():
        releases.mkdir(parents=True, exist_ok=True)
        (releases / f"app-{version}").write_bytes(data)
    hashes = {}
    for path in releases.iterdir():
        with path.open("rb") as file:
            hashes[path.name.removeprefix("app-")] = hashlib.file_digest(file, "sha256").hexdigest()
    environment = {
        "FLASK_PATCHIFY_APPNAME": "app",
        "FLASK_PATCHIFY_KEY": KEY.to_hex(),
        "FLASK_PATCHIFY_RELEASES": str(releases),
        "FLASK_PATCHIFY_VERSIONS": f"@json {json.dumps(hashes)}",
        "FLASK_LOG_LEVEL": "WARNING",
    }
    port = free_port()
    options = ("-c", "config/gunicorn.conf.py")
    environment["FLASK_PORT"] = str(port)
    with Gunicorn("examples.server:app", place / "server.log", *options, env=environment, port=port) as server:
        yield f"{server.url}/api/"


if __name__ == "__main__":
    main()

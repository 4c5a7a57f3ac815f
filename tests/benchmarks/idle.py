"""What an updater adds to a program that waits: ``python -m tests.benchmarks --only idle``.

Four programs, each in a process of its own: one that imports nothing, one that imports requests, one that imports the
client, and one whose updater checks every hour. Their CPU time and their memory (the resident set without what they
share with each other is the fairest there is: Pss) are taken while all of them wait, at the same time.
"""

import contextlib
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.cpu import CpuTime
from tests.benchmarks.served import KEY
from tests.benchmarks.table import Options, Row, median, say
from tests.running import ROOT

NOTHING, REQUESTS, CLIENT, UPDATER = "Python alone", "requests", "patchify.client", "an idle updater"
PROGRAMS = {
    NOTHING: "pass",
    REQUESTS: "import requests",
    CLIENT: "from patchify.client import Config, Updater",  # a name each, as they are imported when they are asked for
    UPDATER: """
from datetime import timedelta
from patchify.client import Config, Updater
updater = Updater(Config(version="1.0.0", api="http://127.0.0.1:9/api/", key={key!r}, executable={program!r},
                         check_interval=timedelta(hours=1)))
updater.start()
""",
}
WAIT = "\nimport sys\nprint('ready', flush=True)\nsys.stdin.read()\n"
SECONDS, QUICK = 20, 3
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # as installed


def rows(options: Options) -> Iterator[Row]:
    """Take the figures of idle programs, then those of imports."""
    program = options.folder / "program"
    program.write_bytes(b"#!/bin/sh\n")
    program.chmod(0o755)
    seconds = QUICK if options.quick else SECONDS
    with contextlib.ExitStack() as running:
        processes = {name: running.enter_context(_started(name, program)) for name in PROGRAMS}
        say(f"programs wait for {seconds} s")
        time.sleep(0.5)  # what they do at their start is over
        before = {name: CpuTime(process.pid) for name, process in processes.items()}
        time.sleep(seconds)
        spent = {name: CpuTime(process.pid).since(before[name]) for name, process in processes.items()}
        memory = {name: _memory(process.pid) for name, process in processes.items()}
        threads = {name: len(list(Path(f"/proc/{each.pid}/task").iterdir())) for name, each in processes.items()}
    note = "what the program has beyond Python alone"
    yield Row(
        "idle updater, checks every hour: CPU an hour", (spent[UPDATER] - spent[NOTHING]) * 3600 / seconds, "s",
        note=f"taken over {seconds} s without a check",
    )  # fmt: skip
    yield Row("idle updater: threads", threads[UPDATER] - threads[NOTHING])
    for name in (UPDATER, CLIENT):
        ours, theirs = (memory[each] - memory[NOTHING] for each in (name, REQUESTS))
        yield Row(f"memory added by {name}", ours, "MiB", theirs, f"requests {version('requests')}", note=note)
    cpu = _imports(options.rounds(21, 5))
    ours, theirs = (1000 * (cpu[each] - cpu[NOTHING]) for each in (CLIENT, REQUESTS))
    yield Row(
        "from patchify.client import Config, Updater",
        ours,
        "CPU ms",
        theirs,
        f"requests {version('requests')}",
        note=note,
    )


@contextlib.contextmanager
def _started(name: str, program: Path) -> Iterator[subprocess.Popen]:
    code = PROGRAMS[name].format(key=KEY.verifying_key.to_hex(), program=str(program)) + WAIT
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=ENVIRONMENT
    ) as process:
        try:
            if process.stdout.readline() != "ready\n":
                raise AssertionError(f"{name} did not start")
            yield process
        finally:
            process.kill()


def _memory(pid: int) -> float:
    """Return MiB."""
    return int(re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1]) / 1024


def _imports(rounds: int) -> dict[str, float]:
    """Return the CPU seconds of processes that only import; the first round only warms up."""
    names = (NOTHING, REQUESTS, CLIENT)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", PROGRAMS[name]], check=True, cwd=ROOT, env=ENVIRONMENT)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if turn:
                found[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {name: median(figures) for name, figures in found.items()}

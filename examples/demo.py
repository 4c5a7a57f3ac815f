"""The whole story in one command: ``python -m examples.demo``.

Builds two versions of the example program, publishes both on a server of its own, runs version 1 and watches it
replace itself by version 2, in the same process. Ends with status 0 only if that came true, and leaves nothing behind.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import requests
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from examples.build import build_frozen, build_zipapp
from patchify.keys import SigningKey

ROOT = Path(__file__).parent.parent
APPNAME = "cli-app"
BUSY_FOR = 4  # seconds that version 1 is busy, so that one sees the restart wait
PATIENCE = 120  # seconds for the whole story, once everything is built

console = Console(highlight=False)


def main() -> None:
    """Tell the story; exit with status 1 and the reason if it goes another way."""
    run("Watch a program update itself.", tell)


def run(description: str, story: Callable[[Path, bool], None]) -> None:
    """Tell a story in a temporary folder, which is gone afterwards, also after Ctrl-C."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--frozen", action="store_true", help="build with PyInstaller, which takes a minute")
    frozen = parser.parse_args().frozen
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell had it ignored
    try:
        with tempfile.TemporaryDirectory(prefix="patchify-demo-") as folder:
            story(Path(folder), frozen)
    except KeyboardInterrupt:
        sys.exit(130)


def publish(folder: Path, numbers: tuple[int, ...], *, frozen: bool) -> tuple[dict[str, str], str]:
    """Build these versions and make a key, in a folder; return the hashes, and the public half of the key."""
    releases = folder / "releases"
    releases.mkdir()
    hashes = {}
    for number in numbers:
        release = releases / f"{APPNAME}-{number}.0.0"
        (build_frozen if frozen else build_zipapp)(number, release)
        with release.open("rb") as file:
            hashes[f"{number}.0.0"] = hashlib.file_digest(file, "sha256").hexdigest()
        console.print(f"  {release.name}  {release.stat().st_size:,} bytes  sha256 {hashes[f'{number}.0.0'][:16]}…")
    key = SigningKey.generate()
    key.write(folder / "key")
    public = key.verifying_key.to_hex()
    step(f"Made a key; its public half is {public[:16]}…")
    return hashes, public


def install(folder: Path, number: int) -> Path:
    """Put a version in a place of its own, as a user would; return the program."""
    program = folder / APPNAME
    program.write_bytes((folder / "releases" / f"{APPNAME}-{number}.0.0").read_bytes())
    program.chmod(0o755)
    return program


def tell(folder: Path, frozen: bool) -> None:
    """Build, publish, serve, run, watch."""
    step("Building versions 1.0.0 and 2.0.0 " + ("with PyInstaller" if frozen else "as zipapps"))
    hashes, key = publish(folder, (1, 2), frozen=frozen)
    program = install(folder, 1)
    with serving(folder, hashes) as address:
        step(f"gunicorn serves both at {address}")
        watch(program, address, key, frozen=frozen)
    console.print("[bold green]The program replaced itself, while it ran, by its next version.[/]")


@contextlib.contextmanager
def serving(folder: Path, hashes: dict[str, str]) -> Iterator[str]:
    """Run the example server on a free port, as it would run for real."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "FLASK_PORT": str(port),
        "FLASK_PATCHIFY_APPNAME": APPNAME,
        "FLASK_PATCHIFY_KEY": str(folder / "key"),
        "FLASK_PATCHIFY_RELEASES": str(folder / "releases"),
        "FLASK_PATCHIFY_VERSIONS": f"@json {json.dumps(hashes)}",
    }
    command = [sys.executable, "-m", "gunicorn", "-c", "config/gunicorn.conf.py", "examples.server:app"]
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    address = f"http://127.0.0.1:{port}/api/"
    try:
        for _ in range(PATIENCE * 10):
            if server.poll() is not None:
                fail(f"the server did not start:\n{log.read_text()}")
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(address + "ping", timeout=5).ok:
                    break
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(PATIENCE)


def environment_of_program(address: str, key: str) -> dict[str, str]:
    """Return the environment that the example program is configured by."""
    return {
        **os.environ,
        "CLI_APP_UPDATER_API_SERVER": address,
        "CLI_APP_UPDATER_API_KEY": key,
        "CLI_APP_APPNAME": APPNAME,
        "CLI_APP_UPDATE_ON_STARTUP": "true",
        "CLI_APP_UPDATE_INTERVAL": "5",
        "CLI_APP_TRIAL_PERIOD": "1",
    }


def watch(program: Path, address: str, key: str, *, frozen: bool) -> None:
    """Run version 1, show what it says, and end it when version 2 has answered."""
    environment = {**environment_of_program(address, key), "CLI_APP_BUSY_FOR": str(BUSY_FOR)}
    process = subprocess.Popen(
        [program], cwd=program.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    step(f"Started {program.name}, PID {process.pid}; it is busy with something critical for {BUSY_FOR} s")
    deadline = threading.Timer(PATIENCE, process.kill)
    deadline.daemon = True
    deadline.start()
    try:
        new_pid = follow(process)
        # PyInstaller's bootloader is the process that was started; the program itself is a child of it.
        if new_pid is None or (new_pid != process.pid and not frozen) or process.poll() is not None:
            fail(f"version 2.0.0 did not answer from PID {process.pid}")
        step(f"Version 2.0.0 answers from PID {new_pid}; ending it with Ctrl-C")
        process.send_signal(signal.SIGINT)
        for line in process.communicate(timeout=PATIENCE)[0].splitlines():
            say(line)
    finally:
        deadline.cancel()
        process.kill()
        process.wait()


def follow(process: subprocess.Popen[str]) -> int | None:
    """Show the lines of the program, downloads as a bar; return the PID of version 2 once that says it is idle."""
    bar = Progress(
        TextColumn("  [cyan]{task.description}"), BarColumn(), TaskProgressColumn(), console=console, transient=False
    )
    task = None
    pid = None
    with bar:
        for line in process.stdout or ():
            text = line.rstrip()
            if found := re.fullmatch(r"Status: (Downloading: .*) \((\d+)%\)", text):
                if task is None:
                    task = bar.add_task(found[1], total=100)
                bar.update(task, completed=int(found[2]))
            else:
                say(text)
            if found := re.fullmatch(rf"{APPNAME} v2\.0\.0, PID (\d+)", text):
                pid = int(found[1])
            if pid and text == "Status: Idle":
                return pid
    return None


def say(text: str) -> None:
    """Print a line of the program."""
    console.print(f"  [dim]{text}[/]")


def step(text: str) -> None:
    """Print what happens now."""
    console.print(f"[bold]•[/] {text}")


def fail(reason: str) -> None:
    """End with status 1."""
    console.print(f"[bold red]{reason}[/]")
    sys.exit(1)


if __name__ == "__main__":
    main()

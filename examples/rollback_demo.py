"""A version that cannot start is taken back: ``python -m examples.rollback_demo``.

Runs version 2 of the example program while a server offers version 3, to which a module is missing. Watches version 3
being installed, fail at its start, and version 2 come back and say why; then that it is not tried again. Ends with
status 0 only if that came true, and leaves nothing behind.
"""

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from examples.demo import (
    APPNAME,
    PATIENCE,
    environment_of_program,
    fail,
    install,
    publish,
    run,
    say,
    serving,
    step,
)


def main() -> None:
    """Tell the story; exit with status 1 and the reason if it goes another way."""
    run("Watch a broken version being taken back.", tell)


def tell(folder: Path, frozen: bool) -> None:
    """Build, publish, serve, run, watch."""
    step("Building versions 2.0.0, which works, and 3.0.0, to which a module is missing")
    hashes, key = publish(folder, (2, 3), frozen=frozen)
    program = install(folder, 2)
    with serving(folder, hashes) as address:
        step(f"gunicorn serves both at {address}")
        watch(program, address, key)
    with program.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != hashes["2.0.0"]:
            fail(f"what stands at {program} is not version 2.0.0")
    step(f"What Patchify remembers (patchify status {program.name}):")
    status = subprocess.run(
        [sys.executable, "-m", "patchify", "status", program], capture_output=True, text=True, check=False
    )
    for line in status.stdout.splitlines():
        say(line.replace(f"{folder}/", ""))
    step("The broken version was installed, failed, and was taken back by itself.")


def watch(program: Path, address: str, key: str) -> None:
    """Run version 2 until it has come back and checked once more."""
    environment = {**environment_of_program(address, key), "CLI_APP_UPDATE_INTERVAL": "2"}
    process = subprocess.Popen(
        [program], cwd=program.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    step(f"Started version 2.0.0, PID {process.pid}")
    deadline = threading.Timer(PATIENCE, process.kill)
    deadline.daemon = True
    deadline.start()
    pid = process.pid
    told = False
    try:
        for line in process.stdout or ():
            text = line.rstrip()
            if not text.startswith("Status: Downloading") or text.endswith((" (0%)", "(100%)")):
                say(text)
            if found := re.fullmatch(rf"{APPNAME} v2\.0\.0, PID (\d+)", text):
                pid = int(found[1])
            told = told or "Version 3.0.0 was taken back: it ended with exit status 1" in text
            if told and text == "Status: Idle":
                break
        else:
            fail("version 2.0.0 did not come back")
        step(f"Version 2.0.0 runs again, with PID {pid}, and says why; ending it with Ctrl-C")
    finally:
        deadline.cancel()
        end(pid)
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def end(pid: int) -> None:
    """End the program that the guardian has started, which is no child of this one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT)
        for _ in range(PATIENCE * 10):
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
            time.sleep(0.1)


if __name__ == "__main__":
    main()

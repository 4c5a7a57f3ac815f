"""A program that updates itself: built as a script, a zipapp and a PyInstaller executable, in versions that differ here.

It says what it is when it starts, and every status; what else it does, the variable TOLD says.
"""

import importlib
import json
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

from patchify import signals
from patchify.client import Config, Downloading, PendingRestart, Restarting, Updater

VERSION = "1.0.0"
TOLD = json.loads(os.environ["TOLD"])


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one that listed them
            continue
    return found


def facts() -> dict:
    return {
        "version": VERSION,
        "pid": os.getpid(),
        "arguments": sys.argv[1:],
        "directory": os.getcwd(),
        "word": os.environ.get("WORD"),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "descriptors": descriptors(),
        "unpacked": getattr(sys, "_MEIPASS", None),
    }


def show(status) -> None:
    say(f"{VERSION} {status}")
    if isinstance(status, Downloading) and "slow" in TOLD:  # as slow as it takes for something else to happen
        end = time.monotonic() + 20
        while not Path(TOLD["slow"]).exists() and time.monotonic() < end:
            time.sleep(0.02)
    if isinstance(status, Downloading) and status.percent >= TOLD.get("die_at", 101):
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(status, Restarting):
        sys.stdout.write(f"last words of {VERSION}\n")  # stays in the buffer


def update_with_signals_blocked(updater: Updater) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1})
    while True:
        updater.tick()
        time.sleep(0.1)


def main() -> None:
    say("FACTS " + json.dumps(facts()))
    updater = Updater(
        Config(
            version=VERSION,
            api=TOLD["api"],
            key=TOLD["key"],
            check_on_startup=True,
            check_interval=timedelta(seconds=1),
            least_interval=timedelta(),
            retries=0,
            trial_period=timedelta(seconds=TOLD.get("trial_period", 0.3)),
            trial_timeout=timedelta(seconds=TOLD.get("trial_timeout", 60)),
            trial_tries=TOLD.get("trial_tries", 1),
        )
    )
    updater.subscribe(show)
    signals.rolled_back.connect(
        lambda _, **facts: say(f"{VERSION} took back {facts['version']}: it {facts['reason']}"), weak=False
    )
    signals.update_confirmed.connect(lambda _, **facts: say(f"{VERSION} confirmed {facts['version']}"), weak=False)
    hold = Path(TOLD.get("hold", "/nowhere"))
    holding = hold.exists() and updater.register_action("holding")
    late = False
    if "directory" in TOLD:
        os.chdir(TOLD["directory"])
    if TOLD.get("blocked"):
        threading.Thread(target=update_with_signals_blocked, args=[updater], daemon=True).start()
    else:
        updater.start()
    while True:
        if TOLD.get("late") and not late and isinstance(updater.status, PendingRestart):
            late = True
            say(importlib.import_module("late").TEXT)
        if holding and not hold.exists():
            holding = False
            updater.deregister_action("holding")
        time.sleep(0.02)


if __name__ == "__main__":
    main()

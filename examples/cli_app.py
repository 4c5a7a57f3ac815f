"""A small program that keeps itself up to date: what `cli_app_v1` and `cli_app_v2` have in common.

It says which version it is, prints what its updater does, and ends on Ctrl-C.
"""

import logging
import os
import signal
import sys
import threading
from datetime import timedelta

from dynaconf import Dynaconf  # type: ignore[import-untyped]

from patchify import signals
from patchify.client import Config, Status, Updater
from patchify.errors import PatchifyError


def main(version: str) -> None:
    """Run as this version until SIGINT or SIGTERM."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    settings = Dynaconf(
        root_path=os.getcwd(), settings_files=["config/cli-app.toml", "cli-app.toml"], envvar_prefix="CLI_APP"
    )
    interval = settings.get("update_interval")
    try:
        updater = Updater(
            Config(
                version=version,
                api=settings.updater_api_server,
                key=settings.updater_api_key,
                check_on_startup=settings.update_on_startup,
                check_interval=timedelta(seconds=interval) if interval else None,
                trial_period=timedelta(seconds=settings.get("trial_period", 30)),
            )
        )
    except AttributeError as error:
        sys.exit(f"cli-app.toml, or config/cli-app.toml, lacks {error}")
    except PatchifyError as error:
        sys.exit(f"{settings.get('appname', 'cli-app')}: {error}")
    last = ""

    @updater.subscribe
    def show(status: Status) -> None:
        nonlocal last
        if str(status) != last:  # progress of the installation does not print
            last = str(status)
            print(f"Status: {status}", flush=True)

    @signals.update_confirmed.connect
    def kept(updater: Updater, **facts: object) -> None:
        print(f"Version {facts['version']} has proved good", flush=True)

    @signals.rolled_back.connect
    def back(updater: Updater, **facts: object) -> None:
        print(f"Version {facts['version']} was taken back: it {facts['reason']}", flush=True)

    stopped = threading.Event()
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: stopped.set())
    print("Application started", flush=True)
    print(f"{settings.appname} v{version}, PID {os.getpid()}", flush=True)
    with updater:
        if busy_for := settings.get("busy_for"):
            with updater.critical_action("saving your work"):
                stopped.wait(busy_for)
        stopped.wait()
    print("Application stopped", flush=True)

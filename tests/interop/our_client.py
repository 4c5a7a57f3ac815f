"""A program that updates itself, as any host of our client would. A release of it ends in ``VERSION = "1.2.3"``.

Usage: PROGRAM API_URL PUBLIC_KEY_HEX SECONDS. Prints what the Rust one beside it prints.
"""

# ruff: noqa: T201 - the output is what the tests read

import logging
import os
import signal
import sys
import time
from datetime import timedelta

from patchify.client import Config, Updater


def main(version: str) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
    print(f"running {version} pid {os.getpid()}", flush=True)
    api, key, seconds = sys.argv[1:]
    interval = timedelta(seconds=int(seconds))
    updater = Updater(Config(version=version, api=api, key=key, check_on_startup=True, check_interval=interval))
    updater.subscribe(lambda status: print(status, flush=True))
    ended = []  # no event: a handler that sets one while the same thread begins to wait for it waits for ever
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    with updater:
        while not ended:
            time.sleep(0.05)
    print(f"stopped {version}", flush=True)

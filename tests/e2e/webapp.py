"""A web application under gunicorn that updates itself; in versions that differ here."""

import json
import os
import time
from datetime import timedelta
from pathlib import Path

from flask import Flask

from patchify import signals
from patchify.client import Config, Updater, gunicorn_restart

VERSION = "1.0.0"
TOLD = json.loads(os.environ["TOLD"])

app = Flask(__name__)
updater = Updater(
    Config(
        version=VERSION,
        api=TOLD["api"],
        key=TOLD["key"],
        check_on_startup=True,
        check_interval=timedelta(seconds=1),
        least_interval=timedelta(),
        executable=TOLD["executable"],
        retries=0,
        trial_period=timedelta(seconds=TOLD.get("trial_period", 0.3)),
        trial_timeout=timedelta(seconds=TOLD.get("trial_timeout", 60)),
        trial_tries=0,
    ),
    restarter=gunicorn_restart,
)


@updater.subscribe
def show(status):
    os.write(1, f"{os.getpid()} {VERSION} {status}\n".encode())


@signals.rolled_back.connect
def back(sender, **facts):
    os.write(1, f"{VERSION} took back {facts['version']}: it {facts['reason']}\n".encode())


updater.start()


@app.get("/")
def version():
    return {"version": VERSION, "pid": os.getpid()}


@app.get("/slow")
def slow():
    Path(TOLD["slow"], "begun").touch()
    while not Path(TOLD["slow"], "go").exists():
        time.sleep(0.02)
    return version()

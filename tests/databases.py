"""A real PostgreSQL for tests: a cluster in a temporary folder, on a socket there, started for those that need it."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

PATIENCE = 60  # seconds
REQUIRED = "PATCHIFY_REQUIRE_POSTGRESQL"
_SETTINGS = {  # nothing of it is to be kept
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "listen_addresses": "",
    "shared_buffers": "16MB",
    "max_connections": "30",
    "autovacuum": "off",
}


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, None if it is not installed."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True), shutil.which("postgres")]
    return next((Path(each).parent for each in found if each), None)


class Cluster:
    """A PostgreSQL server; `database` gives a new, empty database each time."""

    def __init__(self, binaries: Path):
        self._binaries = binaries
        self._numbers = count()
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short, as the path of a socket has to be
        self._user = pwd.getpwuid(os.geteuid()).pw_name
        self._owner: dict = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self._user = "postgres"
            owner = pwd.getpwnam("postgres")
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
            self._owner = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        self._process: subprocess.Popen | None = None

    def start(self) -> int:
        """Start it, wait until it answers, and return its process id."""
        data = self._folder / "data"
        command = [self._binaries / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"]
        subprocess.run(
            [*command, "--locale=C.UTF-8"], check=True, cwd="/", capture_output=True, timeout=PATIENCE, **self._owner
        )
        settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        log = (self._folder / "log").open("wb")
        with log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", data, "-k", self._folder, *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **self._owner,
            )
        end = time.monotonic() + PATIENCE
        ready = [self._binaries / "pg_isready", "-q", "-h", self._folder]
        while subprocess.run(ready, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"PostgreSQL did not start:\n{(self._folder / 'log').read_text()}")
            time.sleep(0.05)
        return self._process.pid

    def database(self) -> str:
        """Return the URL of a new database."""
        name = f"test_{next(self._numbers)}"
        engine = create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return self._url(name).replace("+psycopg", "")

    def _url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres@/{name}?host={self._folder}"

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # the fast way to end it in order
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE)
        shutil.rmtree(self._folder, ignore_errors=True)

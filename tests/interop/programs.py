"""The programs on both sides of the wire, as processes with what a test asks of them."""

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.running import PATIENCE, Gunicorn, Process

PACKAGE = Path(__file__).parent / "rust"
BUILD_PATIENCE = 800  # seconds; about 100 on two cores, nothing the second time

COMPARED = ("content-type", "content-length", "x-signature")


class RustMissingError(Exception):
    """The programs that embed the Rust crate cannot be built here; says why."""


@dataclass(frozen=True)
class Rust:
    """The programs that embed the Rust crate, built."""

    server: Path
    client: Path


def build_rust(*, optimised: bool = False) -> Rust:
    """Build them with cargo, unless that is done already; for benchmarks as a release. Raises `RustMissingError`."""
    cargo = shutil.which("cargo")
    if not cargo:
        raise RustMissingError("there is no cargo")
    target = Path(os.environ.get("CARGO_TARGET_DIR") or PACKAGE / "target")
    command = [cargo, "build", "--release", "--locked", "--quiet"]
    if optimised:
        target /= "optimised"
        command += ["--config", "profile.release.opt-level=3"]
    command += ["--target-dir", target]
    built = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=BUILD_PATIENCE, check=False)
    if built.returncode:
        raise RustMissingError(f"cargo cannot build them:\n{built.stderr[-2000:]}")
    return Rust(target / "release" / "interop-server", target / "release" / "interop-client")


class RustServer(Process):
    """The original's server, serving a configuration as the fixture `publish` returns it; ready when it is entered."""

    def __init__(self, program: Path, config: dict, key: str, log: Path):
        releases = (f"{version}={digest}" for version, digest in config["versions"].items())
        super().__init__([program, 0, config["appname"], key, config["releases"], *releases], log)

    def __enter__(self):
        said = self.wait_for("listening on ")
        self.port = int(re.search(r"listening on (\d+)", said)[1])
        self.url = f"http://127.0.0.1:{self.port}"
        return self


def our_server(config: dict, log: Path, kind: str = "honest") -> Gunicorn:
    """Return our server for such a configuration, or the one that lies."""
    settings = json.dumps(config, default=str)
    return Gunicorn(
        f"tests.interop.servers:{kind}()", log, "--worker-class=gthread", "--preload", env={"INTEROP_SERVER": settings}
    )


class Client(Process):
    """A copy of a release, installed and started in a folder of its own, with a folder for temporary files."""

    def __init__(self, release: Path, folder: Path, server: str, key: str, *interpreter: str):
        self.program = folder / "program"
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)
        self.program.write_bytes(release.read_bytes())
        self.program.chmod(0o755)
        command = [*interpreter, self.program, f"{server}/api/", key, 1]
        super().__init__(command, folder / "client.log", env={"TMPDIR": str(self.temporary)})

    def started(self) -> list[tuple[str, int]]:
        """Return version and process id of each start so far."""
        return [(version, int(pid)) for version, pid in re.findall(r"running (\S+) pid (\d+)", self.output())]


@dataclass(frozen=True)
class Answer:
    """What the original's protocol says of an answer; everything else is the server's own affair."""

    status: int
    headers: dict
    body: bytes


def ask(port: int, path: str, method: str = "GET") -> Answer:
    """Send a path as it is, on a connection of its own."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        connection.putrequest(method, f"/api/{path}")
        connection.endheaders()
        response = connection.getresponse()
        found = {name: value for name in COMPARED if (value := response.getheader(name)) is not None}
        return Answer(response.status, found, response.read())

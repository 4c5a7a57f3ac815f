"""The Rust crate as real programs: built once with cargo, run beside our own halves."""

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import KEY
from tests.interop.programs import RustServer

PACKAGE = Path(__file__).parent / "rust"
REQUIRED = "PATCHIFY_REQUIRE_RUST"  # set to 1 where a missing cargo is a failure and no reason to skip
BUILD_PATIENCE = 800  # seconds; about 100 on two cores, nothing the second time


@dataclass(frozen=True)
class Rust:
    """The built programs."""

    server: Path
    client: Path


@pytest.fixture(scope="session")
def rust() -> Rust:
    target = Path(os.environ.get("CARGO_TARGET_DIR") or PACKAGE / "target")
    cargo = shutil.which("cargo")
    if not cargo:
        _missing("there is no cargo")
    command = [cargo, "build", "--release", "--locked", "--quiet", "--target-dir", target]
    built = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=BUILD_PATIENCE, check=False)
    if built.returncode:
        _missing(f"cargo cannot build them:\n{built.stderr[-2000:]}")
    return Rust(target / "release" / "interop-server", target / "release" / "interop-client")


def _missing(reason: str):
    message = f"the Rust crate's programs are missing: {reason}"
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def their_releases(rust, tmp_path, publish):
    """Return the server configuration of two releases of their client; the folder holds the files to start, too."""
    program = rust.client.read_bytes()
    return publish({version: program + f"\nVERSION={version}".encode() for version in ("1.0.0", "2.0.0")})


@pytest.fixture
def their_server(rust, tmp_path):
    """Return a function that starts their server for a configuration as `publish` returns it."""
    with contextlib.ExitStack() as running:

        def start(config: dict, key: str = KEY) -> RustServer:
            return running.enter_context(RustServer(rust.server, config, key, tmp_path / "their-server.log"))

        yield start

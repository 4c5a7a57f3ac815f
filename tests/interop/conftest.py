"""The Rust crate as real programs: built once with cargo, run beside our own halves."""

import contextlib
import os

import pytest

from tests.conftest import KEY
from tests.interop.programs import Rust, RustMissingError, RustServer, build_rust

REQUIRED = "PATCHIFY_REQUIRE_RUST"  # set to 1 where a missing cargo is a failure and no reason to skip


@pytest.fixture(scope="session")
def rust() -> Rust:
    try:
        return build_rust()
    except RustMissingError as error:
        reason = f"the programs of the Rust crate are missing: {error}"
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def their_releases(rust, publish):
    """Return the server configuration of two releases of their client."""
    program = rust.client.read_bytes()
    return publish({version: program + f"\nVERSION={version}".encode() for version in ("1.0.0", "2.0.0")})


@pytest.fixture
def their_server(rust, tmp_path):
    """Return a function that starts their server for a configuration as `publish` returns it."""
    with contextlib.ExitStack() as running:

        def start(config: dict, key: str = KEY) -> RustServer:
            return running.enter_context(RustServer(rust.server, config, key, tmp_path / "their-server.log"))

        yield start

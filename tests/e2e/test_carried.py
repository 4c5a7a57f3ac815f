"""A zipapp that carries Patchify itself: its guardian has to start from a file that is being replaced."""

import json
import os
import shutil
import signal
import sys
import zipapp
from pathlib import Path

import pytest

import patchify
from patchify.keys import SigningKey
from tests.conftest import KEY
from tests.e2e.conftest import write_sources
from tests.running import Process, wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there is no guardian on Windows")
MARK = """
import os as _os
with open(_os.environ["MARK"], "a") as _file:
    _file.write(f"{_os.getpid()} {__file__}\\n")
"""


def build(folder: Path, version: str) -> bytes:
    """Build a zipapp with Patchify in it, whose guardian notes that it was started, and from where."""
    write_sources(folder / version, version, "__main__.py")
    inside = folder / version / "patchify"
    leave = shutil.ignore_patterns("server", "publishing", "__pycache__")
    shutil.copytree(Path(patchify.__file__).parent, inside, ignore=leave)
    with (inside / "client" / "guardian.py").open("a") as file:
        file.write(MARK)
    zipapp.create_archive(folder / version, folder / f"app-{version}", interpreter=sys.executable)
    return (folder / f"app-{version}").read_bytes()


@pytest.fixture
def start(tmp_path, server):
    """Return a function that starts version 1; version 2 is on the server, and comes only when ``slow`` is there."""
    server.publish("2.0.0", build(tmp_path, "2.0.0"))
    server.start()
    place = tmp_path / "place"
    place.mkdir()
    (place / "app").write_bytes(build(tmp_path, "1.0.0"))
    (place / "app").chmod(0o755)
    running = []

    def start(slow: Path) -> Process:
        key = SigningKey.from_hex(KEY).verifying_key.to_hex()
        told = {"api": server.api, "key": key, "slow": str(slow)}
        env = {"TOLD": json.dumps(told), "MARK": str(tmp_path / "mark")}
        running.append(Process(["./app"], place / "output", cwd=place, env=env))
        return running[-1]

    yield start
    for each in running:
        each.stop()


def started(mark: Path) -> list[list[str]]:
    return [line.split(" ", 1) for line in mark.read_text().splitlines()] if mark.exists() else []


def test_its_guardian_starts_before_a_slow_download_has_ended(start, tmp_path):
    program = start(tmp_path / "mark")
    program.wait_for("2.0.0 confirmed 2.0.0")
    ((_, file),) = started(tmp_path / "mark")
    assert "/.app.patchify/previous-" in file
    assert "UnableToGuardError" not in program.output()


def test_a_guardian_that_is_killed_during_the_download_is_replaced(start, tmp_path):
    program = start(tmp_path / "go on")
    wait_until(lambda: started(tmp_path / "mark"), "the start of the guardian")
    app = tmp_path / "place" / "app"
    wait_until(lambda: not killed(app), "the end of the guardian")  # it may just have forked
    (tmp_path / "go on").touch()
    program.wait_for("2.0.0 confirmed 2.0.0")
    assert len(started(tmp_path / "mark")) == 2
    assert "UnableToGuardError" not in program.output()


def killed(app: Path) -> list[int]:
    """Kill the guardians of a program; return which there were."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            if b"patchify.client.guardian" in command and os.fsencode(app) in command:
                os.kill(int(folder.name), signal.SIGKILL)
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return found

"""Versions that fail in all ways, in real processes, and what runs in the end."""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from patchify.client.file_installer import FileInstaller
from tests.conftest import KEY
from tests.e2e.conftest import source
from tests.running import PATIENCE, Process, wait_until
from patchify.keys import SigningKey

BAD = {
    "fails at its first import": "import does_not_exist",
    "is no Python at all": "this is no Python",
    "exits with an error after a moment": "import os, threading; threading.Timer(0.3, os._exit, [1]).start()",
    "is killed after a moment": "import os, threading; threading.Timer(0.3, os.kill, [os.getpid(), 9]).start()",
    "hangs before it has an updater": "import time; time.sleep(300)",
    "calls itself by another version": "",
}


def broken(version: str, flaw: str) -> bytes:
    text = source("1.0.0" if flaw == "calls itself by another version" else version)
    start = "import importlib\n"
    assert text.count(start) == 1
    return f"#!{sys.executable}\n{text.replace(start, BAD.get(flaw, flaw) + chr(10) + start)}".encode()


class Program:
    """The program in its place, and what ran there."""

    def __init__(self, folder: Path, data: bytes, api: str, **told):
        folder.mkdir()
        self.folder = folder
        self.app = folder / "app"
        self.app.write_bytes(data)
        self.app.chmod(0o755)
        self.installer = FileInstaller(self.app)
        public = SigningKey.from_hex(KEY).verifying_key.to_hex()
        self.told = {"api": api, "key": public, "trial_timeout": 3, "trial_period": 1, **told}
        self.processes = []

    def start(self, *arguments) -> Process:
        env = {"TOLD": json.dumps(self.told)}
        process = Process([sys.executable, self.app, *arguments], self.folder / "output", cwd=self.folder, env=env)
        self.processes.append(process)
        return process

    def output(self) -> str:
        return (self.folder / "output").read_text()

    def says(self, text: str, times: int = 1, seconds: float = PATIENCE) -> str:
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.output().count(text) >= times, text, seconds)
        said = self.output()
        assert said.count(text) >= times, said
        return said

    def starts(self) -> list[str]:
        """Return the versions that got as far as saying so, in their order."""
        return [json.loads(line[6:])["version"] for line in self.output().splitlines() if line.startswith("FACTS ")]

    def state(self):
        return self.installer.state()

    def stop(self):
        for process in self.processes:
            process.stop()  # and its group, to which the guardian belongs, and what that has started
        wait_until(lambda: not left(self.app), "the end of all")


def left(app: Path) -> list[str]:
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = each.read_bytes()
        except OSError:
            continue
        if os.fsencode(app) in words and int(each.parent.name) != os.getpid():
            found.append(words.decode())
    return found


@pytest.fixture
def make(tmp_path, server, build):
    made = []

    def make(kind="script", **told) -> Program:
        server.publish("1.0.0", build(kind, "1.0.0"))
        if server.gunicorn is None:
            server.start()
        made.append(Program(tmp_path / "place", build(kind, "1.0.0"), server.api, **told))
        return made[-1]

    yield make
    for program in made:
        program.stop()


@pytest.mark.parametrize("flaw", BAD)
def test_a_version_that_fails_is_taken_back_remembered_and_reported(make, server, flaw):
    program = make()
    program.start("one", "two words")
    program.says("1.0.0 Idle")
    server.publish("2.0.0", broken("2.0.0", flaw))
    said = program.says("1.0.0 took back 2.0.0")
    state = program.state()
    assert state.update is None
    assert state.good.sha256 == program.installer.installed() == server.versions["1.0.0"]
    assert [bad.release.sha256 for bad in state.bad] == [server.versions["2.0.0"]]
    assert state.bad[0].reason in said
    facts = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("FACTS ")]
    assert facts[-1]["version"] == "1.0.0"
    assert facts[-1]["arguments"] == ["one", "two words"]
    assert facts[-1]["directory"] == str(program.folder)
    program.says("1.0.0 Idle", said.count("1.0.0 Idle") + 2)  # it goes on checking, and does not try it again
    assert said.count("1.0.0 Restarting: 2.0.0") == (2 if state.bad[0].reason.startswith(("ended", "was")) else 1)
    server.publish("2.0.1", build_of("2.0.1"))
    program.says("2.0.1 confirmed 2.0.1")


def build_of(version: str) -> bytes:
    return f"#!{sys.executable}\n{source(version)}".encode()

"""Versions that fail in all ways, in real processes, and what runs in the end."""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from patchify.client.file_installer import FileInstaller
from patchify.client.state import Phase
from patchify.keys import SigningKey
from tests.conftest import KEY
from tests.e2e.conftest import source
from tests.running import PATIENCE, Process, wait_until

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

    def is_decided(self):
        def decided():
            update = self.state().update
            return update is None or update.phase is Phase.STAGED

        wait_until(decided, "the guardian's decision")

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
    tries = 1 if flaw == "exits with an error after a moment" else 0
    program = make(trial_tries=tries)
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
    assert said.count("1.0.0 Restarting: 2.0.0") == 1 + tries
    if flaw == "fails at its first import":  # and the next release is taken as if nothing had happened
        server.publish("2.0.1", build_of("2.0.1"))
        program.says("2.0.1 confirmed 2.0.1")


def build_of(version: str) -> bytes:
    return f"#!{sys.executable}\n{source(version)}".encode()


def starts_of(version: str, third: str) -> str:
    """Return a flaw: from its third start on, the version does this."""
    return (
        f"import os, pathlib; _n = pathlib.Path('starts-{version}'); "
        "_n.write_text(_n.read_text() + '.' if _n.exists() else '.')\n"
        f"if len(_n.read_text()) >= 3: {third}"
    )


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM], ids=lambda sign: sign.name)
def test_ctrl_c_or_a_supervisors_sigterm_on_trial_is_no_failure(make, server, sign):
    program = make(trial_period=300, trial_timeout=600, trial_tries=0)
    process = program.start()
    program.says("1.0.0 Idle")
    server.publish("2.0.0", build_of("2.0.0"))
    program.says("2.0.0 Idle")
    process.popen.send_signal(sign)  # to the program alone: its guardian hears nothing of it
    wait_until(lambda: process.popen.poll() is not None, "its end")
    program.is_decided()
    assert program.starts() == ["1.0.0", "2.0.0"]  # nobody started it anew: it was asked to end
    assert program.installer.installed() == server.versions["1.0.0"]  # what stands there unwatched is a confirmed one
    update = program.state().update
    assert (update.failures, update.interruptions) == (0, 1)
    program.told.update(trial_period=0.2, trial_timeout=60)
    program.start()
    program.says("2.0.0 confirmed 2.0.0")  # its next start takes it up again, without a download
    assert program.output().count("Downloading: 2.0.0 (100%)") == 1


def test_a_terminals_ctrl_c_reaches_the_guardian_too_and_is_no_failure(make, server):
    program = make(trial_period=300, trial_timeout=600, trial_tries=0)
    process = program.start()
    program.says("1.0.0 Idle")
    server.publish("2.0.0", broken("2.0.0", "import time; open('there', 'w').close(); time.sleep(300)"))
    wait_until((program.folder / "there").exists, "version 2")
    os.killpg(process.pid, signal.SIGINT)
    program.is_decided()
    assert (program.state().update.failures, program.state().update.interruptions) == (0, 1)
    assert program.starts() == ["1.0.0"]


def test_a_version_that_is_ended_again_and_again_cannot_hide_behind_that(make, server):
    program = make(trial_period=300, trial_timeout=600)
    program.start().wait_for("1.0.0 Idle")
    server.publish("2.0.0", build_of("2.0.0"))
    for start in range(1, 20):  # noqa: B007
        wait_until(lambda: program.starts()[-1:] == ["2.0.0"] or program.state().bad, "version 2")
        if program.state().bad:
            break
        wait_until(lambda: program.state().on_trial is not None and program.state().on_trial.process, "its report")
        program.processes[-1].popen.send_signal(signal.SIGTERM)
        program.is_decided()
        program.start()
    else:
        pytest.fail("it was never given up")
    assert "times before it was confirmed" in program.state().bad[0].reason
    assert start == 7  # five interruptions are tolerated
    program.says("1.0.0 took back 2.0.0")


def test_a_version_that_crashes_only_at_its_third_start_is_taken_back(make, server):
    program = make(trial_period=300, trial_timeout=600, trial_tries=0)
    program.start()
    program.says("1.0.0 Idle")
    server.publish("2.0.0", broken("2.0.0", starts_of("2.0.0", "raise SystemExit('third time')")))
    for start in (1, 2):
        program.says('"version": "2.0.0"', start)
        wait_until(lambda: program.state().on_trial is not None and program.state().on_trial.process, "its report")
        program.processes[-1].popen.send_signal(signal.SIGINT)
        program.is_decided()
        program.start()
    program.says("1.0.0 took back 2.0.0: it ended with exit status 1")
    program.says('"version": "1.0.0"', 4)
    assert program.starts()[-1] == "1.0.0"


LOOP = 'while [ ! -e stop ]; do "$@"; echo "ended with $?"; sleep 0.1; done'


@pytest.mark.parametrize(
    "flaw", ["fails at its first import", "exits with an error after a moment", "hangs before it has an updater"]
)
def test_under_a_shell_loop_it_is_started_once_and_not_by_two(make, server, flaw):
    program = make(trial_tries=0)
    env = {"TOLD": json.dumps(program.told)}
    command = ["/bin/sh", "-c", LOOP, "loop", sys.executable, program.app, "one"]
    loop = Process(command, program.folder / "output", cwd=program.folder, env=env)
    program.processes.append(loop)
    program.says("1.0.0 Idle")
    server.publish("2.0.0", broken("2.0.0", flaw))
    program.says("1.0.0 took back 2.0.0")
    time.sleep(2.5)  # longer than the guardian looks whether somebody else starts it
    assert len(left(program.app)) == 2  # the loop and the program
    (program.folder / "stop").touch()
    assert program.installer.installed() == server.versions["1.0.0"]


SUPERVISORD = """
[supervisord]
nodaemon = true
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid
user = root

[program:app]
command = {python} {app} one
directory = {folder}
autorestart = true
startsecs = 0
startretries = 100
stdout_logfile = {folder}/output
redirect_stderr = true
"""


@pytest.mark.skipif(shutil.which("supervisord") is None, reason="supervisord is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="the configuration names root")
@pytest.mark.parametrize("flaw", ["fails at its first import", "hangs before it has an updater"])
def test_under_supervisord_it_is_put_back_and_left_to_that_to_start(make, server, flaw):
    program = make()
    (program.folder / "output").touch()
    config = program.folder / "supervisord.conf"
    config.write_text(SUPERVISORD.format(folder=program.folder, python=sys.executable, app=program.app))
    env = {"TOLD": json.dumps(program.told)}
    supervisor = Process(["supervisord", "-c", config], program.folder / "supervisor-said", env=env)
    program.processes.append(supervisor)
    program.says("1.0.0 Idle")
    server.publish("2.0.0", broken("2.0.0", flaw))
    program.says("1.0.0 took back 2.0.0")
    assert program.installer.installed() == server.versions["1.0.0"]
    assert len(left(program.app)) == 1
    assert parent_of(program.app) == supervisor.pid


def parent_of(app: Path) -> int:
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(app) in (each / "cmdline").read_bytes().split(b"\0"):
                return int((each / "stat").read_bytes().rpartition(b")")[2].split()[1])
    raise AssertionError("it does not run")


def test_of_ten_at_a_time_one_acts_and_all_become_the_new_version(make, server):
    program = make(trial_timeout=60)
    server.publish("2.0.0", build_of("2.0.0"))
    for number in range(10):
        program.start(str(number))
    wait_until(lambda: program.starts().count("2.0.0") == 10, f"all of them\n{program.starts()}", 90)
    said = program.output()
    assert said.count("Downloading: 2.0.0 (0%)") == 1  # nothing is downloaded twice
    assert server.log().count("GET /api/releases/2.0.0") <= 1
    assert said.count("confirmed 2.0.0") == 1
    assert program.state().good.sha256 == server.versions["2.0.0"]

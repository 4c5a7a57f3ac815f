"""``patchify run`` with programs that know nothing of it, and what they become, from a real server."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from patchify.client.file_installer import FileInstaller
from patchify.client.folder_installer import FolderInstaller
from patchify.client.state import Phase
from patchify.keys import SigningKey
from patchify.publishing import Publication
from patchify.publishing.local import LocalPublisher
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.server.storage import FolderStorage
from patchify.versions import parse_version
from tests.conftest import KEY
from tests.e2e.conftest import source
from tests.running import Gunicorn, Process, wait_until

pytestmark = pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="patchify run needs it")

PUBLIC = SigningKey.from_hex(KEY).verifying_key.to_hex()
PATCHIFY = Path(sys.executable).with_name("patchify")
SHELL = """#!/bin/sh
echo "start {version} $*"
trap 'echo "{version} hears USR1"' USR1
trap 'echo "{version} ends"; exit 0' TERM
{flaw}
while :; do sleep 0.05; done
"""
PYTHON = """#!{python}
import signal, sys, time
print("start {version}", *sys.argv[1:], flush=True)
signal.signal(signal.SIGUSR1, lambda *_: print("{version} hears USR1", flush=True))
signal.signal(signal.SIGTERM, lambda *_: (print("{version} ends", flush=True), sys.exit(0)))
{flaw}
while True:
    time.sleep(0.05)
"""
ARGUMENTS = ["one", "two words"]


def shell(version: str, flaw: str = "") -> bytes:
    return SHELL.format(version=version, flaw=flaw).encode()


def python(version: str, flaw: str = "") -> bytes:
    return PYTHON.format(version=version, flaw=flaw, python=sys.executable).encode()


class Place:
    """An installed program, and the launchers of it."""

    def __init__(self, folder: Path, server, first: bytes):
        folder.mkdir()
        self.folder = folder
        self.server = server
        self.app = folder / "app"
        self.app.write_bytes(first)
        self.app.chmod(0o755)
        self.installer = FileInstaller(self.app)
        self.launchers = []

    def run(self, *options, command=None, api=True, name="output", env=None, **settings) -> Process:
        told = {"trial-period": 0.6, "trial-timeout": 20, "interval": 1, "stop-timeout": 5, **settings}
        if api:
            told = {"api": self.server.api, "key": PUBLIC, "version": "1.0.0", **told}
        words = [f"--{option}={value}" for option, value in told.items()]
        command = ["./app", *ARGUMENTS] if command is None else command
        process = Process(
            [PATCHIFY, "run", *words, *options, "--", *command], self.folder / name, cwd=self.folder, env=env
        )
        self.launchers.append(process)
        return process

    def starts(self, name="output") -> list[str]:
        lines = (self.folder / name).read_text().splitlines()
        return [line.split()[1] for line in lines if line.startswith("start ")]

    def state(self):
        return self.installer.state()

    def stop(self):
        for launcher in self.launchers:
            launcher.stop()


@pytest.fixture
def place(tmp_path, server):
    """Return a function that puts version 1 in its place, and a server beside it."""
    made = []

    def place(first: bytes) -> Place:
        server.publish("1.0.0", first)
        server.start()
        made.append(Place(tmp_path / "a place with späces", server, first))
        return made[-1]

    yield place
    for each in made:
        each.stop()


def confirmed(place: Place, version: str) -> bool:
    state = place.state()
    return state.update is None and state.good is not None and str(state.good.version) == version


# The moment -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [shell, python])
def test_a_program_in_any_language_becomes_version_2_at_once_and_then_version_3(place, server, make):
    here = place(make("1.0.0"))
    launcher = here.run(restart="at-once")
    launcher.wait_for("start 1.0.0 one two words")
    for version in ("2.0.0", "3.0.0"):
        server.publish(version, make(version))
        launcher.wait_for(f"start {version} one two words")
        launcher.wait_for(f"patchify: version {version} is confirmed")
    assert here.starts() == ["1.0.0", "2.0.0", "3.0.0"]
    assert here.installer.installed() == server.versions["3.0.0"]
    assert here.state().previous.sha256 == server.versions["2.0.0"]
    for version in ("1.0.0", "2.0.0"):
        assert (
            f"version {int(version[0]) + 1}.0.0 is ready; the program is ended\n{version} ends\n" in launcher.output()
        )
    launcher.stop()
    assert launcher.popen.returncode == 0
    assert launcher.output().endswith("3.0.0 ends\n")
    assert "Traceback" not in launcher.output()


def test_by_default_the_update_waits_for_the_next_start(place, server):
    here = place(shell("1.0.0"))
    launcher = here.run()
    server.publish("2.0.0", shell("2.0.0"))
    wait_until(lambda: here.state().update, "the staging")
    assert here.starts() == ["1.0.0"]
    launcher.stop()
    assert here.starts() == ["1.0.0"]
    assert here.state().update.phase is Phase.STAGED
    server.stop()
    here.run().wait_for("version 2.0.0 is confirmed")
    assert here.starts() == ["1.0.0", "2.0.0"]


def test_a_program_that_is_kept_running_is_updated_when_it_ends(place, server):
    here = place(shell("1.0.0", "trap 'exit 3' USR1"))
    launcher = here.run("--keep-running")
    server.publish("2.0.0", shell("2.0.0"))
    wait_until(lambda: here.state().update, "the staging")
    launcher.popen.send_signal(signal.SIGUSR1)
    launcher.wait_for("the program ended with exit status 3; it is started again")
    launcher.wait_for("version 2.0.0 is confirmed")
    assert here.starts() == ["1.0.0", "2.0.0"]


def test_on_a_signal_the_update_is_made_and_not_before(place, server):
    here = place(shell("1.0.0"))
    launcher = here.run(restart="on-signal")
    launcher.wait_for("start 1.0.0")
    launcher.popen.send_signal(signal.SIGUSR2)
    launcher.wait_for("patchify: no update is ready")
    server.publish("2.0.0", shell("2.0.0"))
    wait_until(lambda: here.state().update, "the staging")
    launcher.stop()
    launcher = here.run(restart="on-signal")
    wait_until(lambda: len(here.starts()) == 2, "the start")
    launcher.popen.send_signal(signal.SIGUSR2)
    launcher.wait_for("version 2.0.0 is confirmed")
    assert here.starts() == ["1.0.0", "1.0.0", "2.0.0"]


def test_a_folder_program_is_updated_too(place, server, tmp_path):
    def archive(version: str) -> bytes:
        tree = tmp_path / version
        (tree / "bin").mkdir(parents=True)
        (tree / "bin" / "app").write_bytes(shell(version))
        (tree / "bin" / "app").chmod(0o755)
        subprocess.run(["tar", "-czf", tmp_path / f"{version}.tar.gz", "-C", tree, "."], check=True)
        return (tmp_path / f"{version}.tar.gz").read_bytes()

    here = place(archive("1.0.0"))
    here.app.unlink()
    (tmp_path / "1.0.0").rename(here.app)
    here.installer = FolderInstaller(here.app)
    launcher = here.run(restart="at-once", program="app", command=["./app/bin/app"])
    launcher.wait_for("start 1.0.0")
    for version in ("2.0.0", "3.0.0"):
        server.publish(version, archive(version))
        launcher.wait_for(f"version {version} is confirmed")
    assert here.starts() == ["1.0.0", "2.0.0", "3.0.0"]


def test_without_a_server_and_beside_an_unwritable_folder_the_program_runs_all_the_same(place, server):
    here = place(shell("1.0.0"))
    server.stop()
    (here.folder / ".app.patchify").write_text("in the way")  # also root, whom no mode keeps out, cannot use that
    launcher = here.run()
    launcher.wait_for("start 1.0.0")
    assert "patchify: there are no updates: unable to create the update folder" in launcher.output()


# With a catalogue -----------------------------------------------------------------------------------------------------


class Catalogue:
    """A gunicorn with a catalogue in SQLite, and who publishes there."""

    def __init__(self, folder: Path):
        (folder / "releases").mkdir(parents=True)
        self.folder = folder
        url = f"sqlite:///{folder / 'catalogue.db'}"
        catalogue = SqlCatalogue(url)
        catalogue.create()
        self.publisher = LocalPublisher(catalogue, FolderStorage(folder / "releases", "app"))
        settings = {"APPNAME": "app", "KEY": KEY, "RELEASES": "releases", "CATALOGUE": url}
        lines = [f"PATCHIFY_{name} = {json.dumps(value)}" for name, value in settings.items()]
        (folder / "patchify.toml").write_text("\n".join(lines))

    def publish(self, version: str, data: bytes) -> None:
        (self.folder / "build").write_bytes(data)
        self.publisher.publish(self.folder / "build", Publication(version=parse_version(version)))

    def withdraw(self, version: str) -> None:
        self.publisher.withdraw(parse_version(version))


@pytest.fixture
def catalogue(tmp_path):
    catalogue = Catalogue(tmp_path / "catalogue")
    env = {"PATCHIFY_CONFIG": str(catalogue.folder / "patchify.toml")}
    options = ["--worker-class", "gthread", "--threads", "4"]
    with Gunicorn("patchify.server:create_app()", catalogue.folder / "log", *options, env=env) as server:
        catalogue.api = f"{server.url}/api/"
        yield catalogue


def test_what_is_withdrawn_while_it_waits_is_never_started_and_its_successor_is(catalogue, tmp_path):
    first = shell("1.0.0", "trap 'exit 3' USR1")
    catalogue.publish("1.0.0", first)
    catalogue.publish("2.0.0", shell("2.0.0"))
    here = Place(tmp_path / "place", catalogue, first)
    try:
        here.run(restart="on-exit")
        wait_until(lambda: here.state().update, "the staging")
        here.stop()
        catalogue.withdraw("2.0.0")
        wait_until(lambda: datetime.now(UTC) - here.state().checked > timedelta(seconds=2), "the interval")
        launcher = here.run("--keep-running", restart="on-exit", name="second")
        launcher.wait_for("start 1.0.0")
        assert "patchify: version 2.0.0, which was ready, was withdrawn and is dropped\n" in launcher.output()
        assert here.state().update is None
        catalogue.publish("2.0.1", shell("2.0.1"))
        wait_until(lambda: here.state().update, "the staging")
        launcher.popen.send_signal(signal.SIGUSR1)
        launcher.wait_for("patchify: version 2.0.1 is confirmed")
        assert (here.starts(), here.starts("second")) == (["1.0.0"], ["1.0.0", "2.0.1"])
    finally:
        here.stop()


# As a wrapper ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 3, 125, 255])
def test_the_exit_status_is_the_programs(place, status):
    here = place(shell("1.0.0", f"exit {status}"))
    assert here.run().popen.wait(30) == status


@pytest.mark.parametrize("sign", ["TERM", "INT", "HUP", "KILL", "SEGV", "USR1"])
def test_a_program_that_a_signal_has_ended_makes_the_launcher_end_by_the_same(place, sign):
    here = place(f"#!/bin/sh\nkill -{sign} $$\nsleep 30\n".encode())
    launcher = here.run()
    assert launcher.popen.wait(30) == -getattr(signal, f"SIG{sign}")


@pytest.mark.parametrize("sign", ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH", "TTIN", "TTOU"])
def test_signals_are_passed_on(place, sign):
    trap = f"trap 'echo heard {sign}; exit 7' {sign}; echo listening"
    here = place(shell("1.0.0", trap))
    launcher = here.run()
    launcher.wait_for("listening")
    launcher.popen.send_signal(getattr(signal, f"SIG{sign}"))
    assert launcher.popen.wait(30) == 7
    assert launcher.output().count(f"heard {sign}") == 1


def test_what_a_terminal_sends_to_both_is_not_passed_on_as_well(place):
    flaw = "count = [0]\ndef hear(*_):\n    count[0] += 1\n    print('INT', count[0], flush=True)\nsignal.signal(signal.SIGINT, hear)\nprint('listening', flush=True)"
    here = place(python("1.0.0", flaw))
    pid, terminal = os.forkpty()
    if pid == 0:
        os.chdir(here.folder)
        os.execv(PATCHIFY, [str(PATCHIFY), "run", "--", "./app"])
    seen = ""
    try:

        def read(text: str) -> str:
            nonlocal seen
            while text not in seen:
                seen += os.read(terminal, 1000).decode()
            return seen

        read("listening")
        os.write(terminal, b"\x03")
        read("INT 1")
        os.kill(pid, signal.SIGUSR1)  # which comes after whatever would have been passed on
        read("hears USR1")
        assert "INT 2" not in seen
        os.kill(pid, signal.SIGTERM)
        assert os.waitpid(pid, 0)[1] == 0
        pid = 0
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(terminal)


def test_the_program_gets_the_streams_the_environment_and_no_blocked_signals(place):
    flaw = (
        "import json, os\n"
        "print(json.dumps([sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())), os.environ['WORD'],"
        " os.environ['PATCHIFY_RUN'], [n for n in os.environ if n.startswith('PATCHIFY_RUN_')],"
        " sorted(map(int, os.listdir('/proc/self/fd')))[:-1]]), sys.stdin.read(), flush=True)\nsys.exit(0)"
    )
    here = place(python("1.0.0", flaw))
    env = {**os.environ, "WORD": "täglich", "PATCHIFY_RUN_INTERVAL": "77"}
    done = subprocess.run(
        [PATCHIFY, "run", "./app", "--flag"],
        cwd=here.folder,
        env=env,
        input="said",
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    start, facts = done.stdout.splitlines()
    assert start == "start 1.0.0 --flag"
    blocked, word, launcher, options, descriptors = json.loads(facts.rpartition(" ")[0])
    assert (blocked, word, options, descriptors) == ([], "täglich", [], [0, 1, 2])
    assert launcher.isdigit()
    assert facts.endswith(" said")
    assert done.stderr == ""


def test_what_cannot_be_found_or_executed_has_the_status_that_env_gives(tmp_path):
    def run(*words):
        return subprocess.run(
            [PATCHIFY, "run", *words], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
        )

    (tmp_path / "text").write_text("no program")
    (tmp_path / "garbage").write_bytes(b"\x7fELF garbage")
    (tmp_path / "garbage").chmod(0o755)
    for words, status, said in (
        (["no-such-program-anywhere"], 127, "no-such-program-anywhere: No such file or directory"),
        (["./nowhere/app"], 127, "./nowhere/app: No such file or directory"),
        (["./text"], 126, "./text: Permission denied"),
        (["./garbage"], 126, "./garbage: Exec format error"),
    ):
        done = run(*words)
        assert (done.returncode, done.stderr) == (status, f"patchify: {said}\n")
    assert sorted(os.listdir(tmp_path)) == [".garbage.patchify", ".text.patchify", "garbage", "text"]


def test_as_the_first_process_of_a_container_it_ends_with_the_status_that_a_shell_gives(place):
    command = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root can make a container here")
    here = place(b"#!/bin/sh\nkill -TERM $$\n")
    done = subprocess.run([*command, PATCHIFY, "run", here.app], timeout=30, check=False)
    assert done.returncode == 128 + signal.SIGTERM


def test_a_program_that_does_not_end_when_asked_is_ended(place, server):
    here = place(shell("1.0.0", "trap 'echo no' TERM"))
    launcher = here.run(restart="at-once", **{"stop-timeout": 0.3})
    server.publish("2.0.0", shell("2.0.0"))
    launcher.wait_for("version 2.0.0 is confirmed")
    assert "no\n" in launcher.output()


# Trials ---------------------------------------------------------------------------------------------------------------

FLAWS = {
    "fails at its first import": (python("2.0.0", "import does_not_exist"), "ended with exit status 1"),
    "is not executable": (b"\x7fELF but no program", "cannot be started: Exec format error"),
    "has no interpreter": (b"#!/no/such/interpreter\n", "cannot be started: No such file or directory"),
    "exits with an error after a moment": (shell("2.0.0", "sleep 0.3; exit 1"), "ended with exit status 1"),
    "is killed after a moment": (shell("2.0.0", "sleep 0.2; kill -9 $$"), "was killed by SIGKILL"),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_version_that_fails_is_taken_back_and_never_tried_again(place, server, flaw):
    data, reason = FLAWS[flaw]
    here = place(shell("1.0.0"))
    launcher = here.run(restart="at-once")
    launcher.wait_for("start 1.0.0")
    server.publish("2.0.0", data)
    said = launcher.wait_for(f"patchify: version 2.0.0 was taken back and is never tried again: it {reason}")
    assert f"version 2.0.0 {reason} (failure 1, 1 are tolerated); it will be tried again" in said
    wait_until(lambda: here.starts().count("1.0.0") == 2, "the start of version 1")
    assert here.installer.installed() == server.versions["1.0.0"]
    state = here.state()
    assert [(bad.release.sha256, bad.reason) for bad in state.bad] == [(server.versions["2.0.0"], reason)]
    assert (state.update, state.untold) == (None, None)
    starts = here.starts()
    before = state.checked
    wait_until(lambda: here.state().checked > before, "another check")
    assert here.starts() == starts
    server.publish("2.0.0", shell("2.0.0"))  # the same version, but other bytes
    launcher.wait_for("version 2.0.0 is confirmed")
    assert here.installer.installed() == server.versions["2.0.0"]


def test_a_version_that_hangs_is_ended_and_taken_back(place, server):
    here = place(shell("1.0.0"))
    launcher = here.run(
        restart="at-once", tries=0, **{"trial-timeout": 1.5, "stop-timeout": 0.3, "health-url": "http://127.0.0.1:9/"}
    )
    launcher.wait_for("start 1.0.0")
    server.publish("2.0.0", shell("2.0.0", "trap '' TERM"))
    launcher.wait_for("version 2.0.0 was taken back and is never tried again: it was not confirmed within 1.5 s")
    wait_until(lambda: here.starts() == ["1.0.0", "2.0.0", "1.0.0"], "the start of version 1")


def test_a_health_address_confirms(place, server):
    here = place(shell("1.0.0"))
    launcher = here.run(restart="at-once", **{"health-url": server.api + "latest"})
    server.publish("2.0.0", shell("2.0.0"))
    launcher.wait_for("version 2.0.0 is confirmed")


def test_a_smoke_test_that_fails_keeps_the_program_running(place, server):
    here = place(shell("1.0.0"))
    launcher = here.run("--smoke-test", "--version", restart="at-once")
    launcher.wait_for("start 1.0.0")
    server.publish("2.0.0", shell("2.0.0", '[ "$1" = --version ] && exit 4'))
    launcher.wait_for("failed its smoke test")
    assert here.starts() == ["1.0.0"]
    assert "ended with exit status 4" in here.state().bad[0].reason
    server.publish("3.0.0", shell("3.0.0", '[ "$1" = --version ] && exit 0'))
    launcher.wait_for("version 3.0.0 is confirmed")


def test_ended_by_the_user_twice_and_crashing_at_its_third_start(place, server, tmp_path):
    count = tmp_path / "count"
    flaw = f'echo x >> "{count}"; [ $(wc -l < "{count}") = 3 ] && exit 5; echo up'
    here = place(shell("1.0.0"))
    server.publish("2.0.0", shell("2.0.0", flaw))
    settings = {"restart": "at-once", "tries": 0, "trial-period": 15}
    launcher = here.run(**settings)
    for times in (1, 2):
        wait_until(lambda times=times: (here.folder / "output").read_text().count("up\n") == times, "the trial")
        launcher.stop(signal.SIGTERM)
        assert launcher.popen.returncode == 0
        assert here.installer.installed() == server.versions["1.0.0"]
        assert (here.state().update.failures, here.state().update.interruptions) == (0, times)
        launcher = here.run(**settings)
    launcher.wait_for("version 2.0.0 was taken back and is never tried again: it ended with exit status 5")
    wait_until(lambda: here.starts()[-1] == "1.0.0", "the start of version 1")
    assert here.starts().count("2.0.0") == 3


def test_a_trial_that_a_power_cut_has_ended_goes_on_and_is_counted(place, server):
    here = place(shell("1.0.0"))
    server.publish("2.0.0", shell("2.0.0"))
    launcher = here.run(restart="at-once", **{"trial-period": 15})
    launcher.wait_for("version 2.0.0 runs on trial")
    launcher.wait_for("start 2.0.0")
    launcher.stop(signal.SIGKILL)
    assert here.state().on_trial
    server.stop()
    launcher = here.run()
    launcher.wait_for("the trial of version 2.0.0 was interrupted")
    launcher.wait_for("version 2.0.0 is confirmed")
    assert here.starts()[-1] == "2.0.0"


def test_a_version_that_takes_the_machine_with_it_is_given_up(place, server):
    here = place(shell("1.0.0"))
    server.publish("2.0.0", shell("2.0.0", "kill -9 $PPID; exit 1"))
    for _ in range(6):
        launcher = here.run(restart="at-once")
        assert launcher.popen.wait(30) == -signal.SIGKILL
        launcher.stop()
    launcher = here.run(restart="at-once")
    launcher.wait_for("version 2.0.0 was taken back and is never tried again: it was ended 6 times")
    wait_until(lambda: here.starts()[-1] == "1.0.0", "the start of version 1")


@pytest.mark.parametrize("ended_well", [True, False])
def test_a_program_that_is_not_meant_to_run_on(place, server, ended_well):
    here = place(shell("1.0.0"))
    server.publish("2.0.0", shell("2.0.0", "exit 0"))
    options = ["--confirm-on-success"] if ended_well else []
    assert here.run(*options, restart="at-once").popen.wait(30) == 0
    assert confirmed(here, "2.0.0") is ended_well
    assert here.starts() == ["1.0.0", "2.0.0"]
    if not ended_well:
        assert here.state().update.interruptions == 1
        assert here.installer.installed() == server.versions["1.0.0"]


# Programs that embed the client ---------------------------------------------------------------------------------------


def embedded(version: str, flaw: str = "") -> bytes:
    text = source(version).replace("import importlib\n", f"{flaw}\nimport importlib\n", 1)
    return f"#!{sys.executable}\n{text}".encode()


@pytest.mark.parametrize("flaw", ["", "import does_not_exist", "import time; time.sleep(300)"])
def test_an_embedded_updater_is_guarded_by_the_launcher(place, server, flaw):
    here = place(embedded("1.0.0"))
    told = {"api": server.api, "key": PUBLIC, "trial_timeout": 2, "trial_period": 0.6, "trial_tries": 0}
    launcher = here.run(api=False, env={"TOLD": json.dumps(told)}, **{"trial-timeout": 2})
    launcher.wait_for("1.0.0 Idle")
    server.publish("2.0.0", embedded("2.0.0", flaw))
    if flaw:
        launcher.wait_for("patchify: version 2.0.0 was taken back and is never tried again: it ")
        launcher.wait_for("1.0.0 took back 2.0.0")  # which the surviving version hears by its own signal
        assert here.installer.installed() == server.versions["1.0.0"]
    else:
        launcher.wait_for("2.0.0 confirmed 2.0.0")
        launcher.wait_for("patchify: version 2.0.0 is confirmed")
    children = [each for each in Path("/proc").glob("[0-9]*/stat") if parent(each) == launcher.pid]
    assert len(children) == 1  # the program: there is no guardian


def parent(path: Path) -> int:
    with contextlib.suppress(OSError):
        return int(path.read_bytes().rpartition(b")")[2].split()[1])
    return 0


# Together -------------------------------------------------------------------------------------------------------------


def test_of_two_launchers_one_updates_and_both_run_the_new_version(place, server):
    here = place(shell("1.0.0"))
    one = here.run(restart="at-once")
    one.wait_for("start 1.0.0")
    other = here.run(restart="at-once", name="other")
    other.wait_for("another process looks after the updates; this one only runs it")
    other.wait_for("start 1.0.0")
    server.publish("2.0.0", shell("2.0.0"))
    one.wait_for("version 2.0.0 is confirmed")
    other.wait_for("version 2.0.0 was put in place; the program is ended")
    other.wait_for("start 2.0.0")
    assert here.starts() == here.starts("other") == ["1.0.0", "2.0.0"]
    one.stop()
    server.publish("3.0.0", shell("3.0.0"))
    other.wait_for("version 3.0.0 is confirmed")  # it has taken over


def test_a_rollback_by_hand_is_followed_and_the_release_not_tried_again(place, server):
    here = place(shell("1.0.0"))
    launcher = here.run(restart="at-once")
    server.publish("2.0.0", shell("2.0.0"))
    launcher.wait_for("version 2.0.0 is confirmed")
    done = wait_until(lambda: rolled_back(here), "the rollback")
    assert "version 1.0.0 is in place" in done
    wait_until(lambda: here.starts() == ["1.0.0", "2.0.0", "1.0.0"], "the start of version 1")
    before = here.state().checked
    wait_until(lambda: here.state().checked > before, "another check")
    assert here.starts() == ["1.0.0", "2.0.0", "1.0.0"]


def rolled_back(here: Place) -> str:
    """Go back by hand, unless a check is under way just now."""
    done = subprocess.run([PATCHIFY, "rollback", here.app], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0 or "another process is updating" in done.stderr
    return done.stdout

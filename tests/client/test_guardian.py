"""The guardian: what it makes of what it sees, with fakes; and the whole of it, a real one that watches real programs."""

import functools
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from semver import Version

from patchify.client import FileInstaller, Launch, guardian
from patchify.client.guarding import Charge, guard, is_watching
from patchify.client.state import Phase, Release
from patchify.client.watch import Watch, give_back
from patchify.errors import UnableToGuardError, UnableToSwapError, UnableToWriteStateError
from tests.client.fakes import FakeInstaller, sha256
from tests.running import PATIENCE, wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there is no guardian on Windows")

TWO = Version(2)
GONE = 2**22 + 1  # no process has this number


class FakeProcess:
    """A process that ends when the test says so."""

    def __init__(self, pid=GONE):
        self.pid = pid
        self.ended = None  # its status
        self.told = []
        self.waits = 0
        self.after_waits = lambda: None

    @property
    def alive(self):
        return self.ended is None

    def wait(self, seconds):
        self.waits += 1
        self.after_waits()
        return self.ended is not None

    def status(self):
        return self.ended

    def end(self):
        self.told.append("end")

    def close(self):
        self.told.append("close")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def installer():
    made = FakeInstaller()
    made.on_trial(TWO, b"two")
    return made


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(installer, clock):
    def watch(handover="same", asked="", process=None):
        return Watch(
            installer, process or FakeProcess(), handover=handover, patience=10, asked=lambda: asked, clock=clock
        )

    return watch


# The watch ------------------------------------------------------------------------------------------------------------


def test_nothing_is_said_while_the_program_runs_in_its_time(watch, clock):
    watching = watch()
    clock.now = 10
    assert watching.look(0) is None
    assert watching.process.waits == 1


def test_nothing_is_said_once_the_trial_is_over(watch, installer, clock):
    watching = watch()
    clock.now = 11
    installer.confirm()
    assert watching.look(0) is None
    assert watching.process.waits == 0


def test_a_trial_that_is_over_while_the_program_ends_has_not_failed(watch, installer):
    watching = watch()
    watching.process.ended = 1 << 8
    watching.process.after_waits = installer.confirm
    assert watching.look(0) is None


@pytest.mark.parametrize(
    ("status", "asked", "word", "fate"),
    [
        (1 << 8, "", "", (True, "ended with exit status 1")),
        (0, "", "", (False, "ended with exit status 0")),
        (signal.SIGSEGV, "", "", (True, "was killed by SIGSEGV")),
        (1 << 8, "SIGINT", "", (False, "ended with exit status 1")),
        (1 << 8, "", "it closed its updater", (False, "ended with exit status 1")),
    ],
)
def test_a_program_that_ends_is_judged(watch, installer, status, asked, word, fate):
    watching = watch(asked=asked)
    watching.process.ended = status
    if word:
        installer.words[GONE] = word
    assert watching.look(0) == fate


def test_a_program_that_never_reports_has_failed_after_its_patience_and_is_ended(watch, clock):
    watching = watch()
    clock.now = 10.1
    assert watching.look(0) == (True, "was not confirmed within 10 s")
    assert watching.process.told == ["end"]


def test_a_program_that_has_reported_has_its_own_time_from_then_once(watch, installer, clock):
    watching = watch()
    clock.now = 9
    installer.report(GONE, 30, "")
    assert watching.look(0) is None
    clock.now = 39
    installer.report(GONE, 30, "the health check says no")  # said again, it gets no more time
    assert watching.look(0) is None
    clock.now = 39.1
    assert watching.look(0) == (True, "was not confirmed within 30 s: the health check says no")


def test_a_program_that_others_start_is_unknown_until_it_reports(watch, installer, clock):
    watching = watch("other")
    old = watching.process
    old.ended = 0  # that was to be expected
    assert watching.look(0) is None
    installer.report(os.getpid(), 30, "")
    assert watching.look(0) is None
    assert old.told == ["close"]
    assert watching.process.pid == os.getpid()
    watching.process.close()


def test_a_program_that_others_never_start_has_failed_but_nobody_is_ended(watch, clock):
    watching = watch("other")
    clock.now = 11
    assert watching.look(0) == (True, "was not confirmed within 10 s")
    assert watching.process.told == []


def test_workers_come_and_go_and_only_the_master_counts(watch, installer, clock):
    watching = watch("gunicorn")
    installer.report(os.getpid(), 30, "")
    assert watching.look(0) is None
    assert watching.process.pid == GONE
    clock.now = 31
    assert watching.look(0) == (True, "was not confirmed within 30 s")
    assert watching.process.told == []
    watching.process.ended = signal.SIGTERM
    installer.words[os.getpid()] = "SIGTERM"
    assert watching.look(0) == (False, "was killed by SIGTERM")


def test_a_program_that_puts_itself_into_the_background_is_followed(watch, installer):
    watching = watch()
    installer.report(os.getpid(), 30, "")
    watching.process.ended = 0
    assert watching.look(0) is None
    assert watching.process.pid == os.getpid()
    assert watching.look(0) is None
    watching.process.close()


def test_a_background_process_that_has_ended_too_is_not_followed(watch, installer):
    watching = watch()
    installer.report(GONE + 1, 30, "")
    installer.words[GONE + 1] = "SIGHUP"
    watching.process.ended = 1 << 8
    assert watching.look(0) == (False, "ended with exit status 1")


# Putting back ---------------------------------------------------------------------------------------------------------


def test_putting_back_is_tried_again(installer, caplog):
    installer.once["give_back"] = UnableToSwapError("app", "disk full")
    paused = []
    state = give_back(installer, "crashed", failed=True, pause=paused.append)
    assert (state.update.phase, state.update.failures) == (Phase.STAGED, 1)
    assert installer.program == b"one"
    assert paused == [1]
    assert "disk full" in caplog.text


def test_putting_back_is_not_tried_for_ever(installer):
    installer.always["give_back"] = UnableToWriteStateError("state.json", "disk full")
    paused = []
    with pytest.raises(UnableToWriteStateError):
        give_back(installer, "crashed", failed=True, pause=paused.append)
    assert len(paused) == 29


def test_a_guardian_does_not_give_up(installer, monkeypatch, caplog):
    installer.always["give_back"] = UnableToWriteStateError("state.json", "disk full")
    monkeypatch.setattr(guardian, "give_back", functools.partial(give_back, pause=lambda seconds: None))
    paused = []

    def sleep(seconds):
        paused.append(seconds)
        if len(paused) == 3:
            installer.always.clear()

    monkeypatch.setattr(guardian, "time", SimpleNamespace(sleep=sleep))
    assert guardian._insist(installer, "crashed", failed=True).update.phase is Phase.STAGED
    assert paused == [60, 60, 60]
    assert "trying again in 60 s" in caplog.text


@pytest.fixture
def judge(installer, monkeypatch):
    """Return a function that lets a guardian decide, and tells whom it has started and signalled."""
    monkeypatch.setattr(guardian, "_STARTED_BY_OTHERS_WITHIN", 0.0)
    judge_of = guardian._guard
    did = []
    monkeypatch.setattr(guardian, "start", lambda launch: did.append("started"))
    monkeypatch.setattr(guardian.os, "kill", lambda pid, number: did.append((pid, number)))

    def judge(status, *, handover="same", supervised=False, runs=False, asked="", alive=False):
        monkeypatch.setattr(guardian, "running", lambda *_: runs)
        launch = Launch("/bin/sh", ("sh",), "/", frozenset(), GONE)
        charge = Charge("", "", handover, GONE, "", supervised, -1.0 if alive else 10.0, 0, asdict(launch))
        process = FakeProcess()
        process.ended = None if alive else status
        judge_of(installer, process, charge, launch, lambda: asked)
        return did

    return judge


def test_the_old_version_is_put_back_and_started_again_after_a_crash(judge, installer):
    assert judge(1 << 8) == ["started"]
    assert installer.program == b"one"
    assert installer.state().update.failures == 1


@pytest.mark.parametrize("known", [{"supervised": True}, {"runs": True}])
def test_a_version_that_somebody_else_starts_again_is_left_to_him(judge, installer, known):
    assert judge(1 << 8, **known) == []
    assert installer.program == b"one"


def test_a_program_that_was_ended_is_not_started_again(judge, installer):
    assert judge(signal.SIGTERM) == []
    assert installer.program == b"one"
    assert (installer.state().update.failures, installer.state().update.interruptions) == (0, 1)


def test_a_program_that_dies_between_the_order_and_the_swap_has_failed_at_nothing(judge, installer):
    installer.replace(b"one")
    assert judge(1 << 8) == []
    update = installer.state().update
    assert (update.failures, update.interruptions) == (0, 1)
    assert "before the swap" in update.reason


def test_a_gunicorn_master_is_asked_to_load_the_old_version(judge, installer):
    assert judge(None, handover="gunicorn", alive=True) == [(GONE, signal.SIGHUP)]
    assert installer.program == b"one"


def test_a_gunicorn_master_that_has_crashed_is_started_again(judge):
    assert judge(1 << 8, handover="gunicorn") == ["started"]


def test_where_nothing_is_on_trial_there_is_nothing_to_do(judge, installer):
    installer.confirm()
    assert judge(1 << 8) == []
    assert installer.program == b"two"


def test_a_version_that_was_confirmed_at_the_last_moment_is_left_alone(judge, installer, monkeypatch):
    look = Watch.look

    def confirmed_meanwhile(self, seconds=0):
        fate = look(self, seconds)
        installer.confirm()
        return fate

    monkeypatch.setattr(Watch, "look", confirmed_meanwhile)
    assert judge(1 << 8) == []
    assert installer.program == b"two"


# A real one -----------------------------------------------------------------------------------------------------------

OLD = b'echo "$PWD $1" > started.new; mv started.new started\n'
NEW = b"exit 1\n"


class Installation:
    """A program of a line of shell, the version after it, ready, and a process that stands for the one to watch."""

    def __init__(self, folder: Path):
        self.folder = folder
        app = folder / "app"
        app.write_bytes(OLD)
        self.installer = FileInstaller(app)
        self.release = Release(TWO, sha256(NEW))
        with self.installer.lock():
            part = self.installer.part(self.release.sha256)
            part.write(NEW)
            self.installer.stage(TWO, part, self.release.sha256)
            self.update = self.installer.prepare(self.release, Version(1))
        self.launch = Launch("/bin/sh", ("sh", str(app), str(folder)), str(folder), frozenset(), os.getpid())
        source = "import sys; print(flush=True); sys.exit(int(sys.stdin.readline()))"
        self.program = subprocess.Popen(
            [sys.executable, "-I", "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.program.stdout.readline()

    def guard(self, **changes):
        facts = {"handover": "same", "pid": self.program.pid, "supervised": True, "patience": PATIENCE}
        return guard(self.installer, self.launch, **{**facts, **changes})

    def swap(self):
        with self.installer.lock():
            self.installer.swap(self.update, tries=1)

    def end(self, status: int):
        self.program.stdin.write(f"{status}\n")
        self.program.stdin.flush()

    def wait_for_its_end(self):
        wait_until(lambda: not is_watching(self.installer), "the end of the guardian")

    def close(self):
        self.program.kill()
        self.program.wait(PATIENCE)
        with self.program.stdin, self.program.stdout:
            pass
        self.wait_for_its_end()


@pytest.fixture
def installation(tmp_path):
    made = Installation(tmp_path)
    yield made
    made.close()


def test_a_guardian_watches_from_before_the_swap_and_puts_back_what_crashes(installation):
    guarded = installation.guard()
    assert is_watching(installation.installer)
    installation.swap()
    guarded.release()
    installation.end(1)
    installation.program.wait(PATIENCE)
    installation.wait_for_its_end()
    assert installation.installer.path.read_bytes() == OLD
    update = installation.installer.state().update
    assert (update.phase, update.failures) == (Phase.STAGED, 1)
    assert not (installation.folder / "started").exists()


def test_a_guardian_starts_the_old_version_as_it_was_started_if_nobody_else_does(installation):
    guarded = installation.guard(supervised=False)
    installation.swap()
    guarded.release()
    installation.end(1)
    wait_until((installation.folder / "started").exists, "the start of the old version")
    assert (installation.folder / "started").read_text() == f"{installation.folder} {installation.folder}\n"
    installation.wait_for_its_end()


def test_a_guardian_does_not_take_a_good_end_for_a_failure(installation):
    guarded = installation.guard()
    installation.swap()
    guarded.release()
    installation.end(0)
    installation.wait_for_its_end()
    update = installation.installer.state().update
    assert (update.phase, update.failures, update.interruptions) == (Phase.STAGED, 0, 1)
    assert installation.installer.path.read_bytes() == OLD


def test_a_guardian_ends_what_is_not_confirmed_in_time(installation):
    guarded = installation.guard()
    installation.swap()
    with installation.installer.lock():
        installation.installer.report(installation.program.pid, 0.1, "the health check says no")
    guarded.release()
    assert installation.program.wait(PATIENCE) == -signal.SIGTERM
    installation.wait_for_its_end()
    update = installation.installer.state().update
    assert update.failures == 1
    assert update.reason == "was not confirmed within 0.1 s: the health check says no"


def test_a_guardian_goes_when_the_version_is_confirmed(installation):
    guarded = installation.guard()
    installation.swap()
    guarded.release()
    with installation.installer.lock(PATIENCE):
        assert installation.installer.confirm()
    installation.wait_for_its_end()
    assert installation.installer.path.read_bytes() == NEW
    assert installation.program.poll() is None


def test_a_guardian_that_is_dismissed_has_gone(installation):
    guarded = installation.guard()
    guarded.dismiss()
    installation.wait_for_its_end()
    assert installation.installer.path.read_bytes() == OLD
    assert installation.program.poll() is None


def test_a_guardian_that_cannot_go_to_work_is_an_error(installation):
    class Unknown(FileInstaller):
        """One that nobody can import."""

    unknown = Unknown(installation.installer.path)
    with pytest.raises(UnableToGuardError, match="before it was ready"):
        guard(unknown, installation.launch, handover="same", pid=os.getpid(), supervised=True, patience=1)


def test_a_guardian_that_cannot_be_started_is_an_error(installation, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(UnableToGuardError, match="No such file"):
        installation.guard()


def test_a_frozen_program_without_our_hook_says_what_to_do(installation, monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(UnableToGuardError, match="hook for PyInstaller"):
        installation.guard()


def test_where_there_is_no_folder_nobody_watches(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert not is_watching(FileInstaller(tmp_path / "file" / "app"))


def test_a_program_is_started_with_the_signals_it_was_started_with(tmp_path):
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    handlers = {number: signal.getsignal(number) for number in guardian._ASKING}
    source = (
        "import os, signal; print(sorted(map(int, signal.pthread_sigmask(0, ()))), os.getcwd(), file=open('said', 'w'))"
    )
    launch = Launch(sys.executable, ("python", "-I", "-c", source), str(tmp_path), frozenset({signal.SIGUSR1}), GONE)
    try:
        assert guardian.start(launch).wait(PATIENCE) == 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert (tmp_path / "said").read_text() == f"[{int(signal.SIGUSR1)}] {tmp_path}\n"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask

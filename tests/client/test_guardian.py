"""The guardian: what it makes of what it sees, with fakes; and the whole of it, a real one that watches real programs."""

import contextlib
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
from patchify.client.guarding import Charge, is_watching, summon
from patchify.client.processes import ASKING
from patchify.client.state import Phase, Release
from patchify.client.watch import Watch, give_back
from patchify.errors import UnableToGuardError, UnableToReadFileError, UnableToWriteStateError
from tests.client.fakes import FakeInstaller, FakeProcess, sha256
from tests.running import PATIENCE, wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there is no guardian on Windows")

TWO = Version(2)
GONE = 2**22 + 1  # no process has this number


@pytest.fixture
def installer():
    made = FakeInstaller()
    made.on_trial(TWO, b"two")
    return made


# What it decides ------------------------------------------------------------------------------------------------------


def test_a_guardian_does_not_give_up(installer, monkeypatch, caplog, tmp_path):
    installer.folder = tmp_path  # it is there
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
        process = FakeProcess(GONE)
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


def test_a_supervisor_that_ends_everybody_before_it_starts_the_program_again_is_left_to_it(judge, installer):
    assert judge(0, handover="other", asked="SIGTERM") == []
    assert installer.program == b"two"
    assert installer.state().on_trial.interruptions == 0


def test_a_guardian_does_not_guess_what_cannot_be_read(judge, installer, monkeypatch, caplog):
    paused = []

    def sleep(seconds):
        paused.append(seconds)
        if len(paused) == 3:
            installer.always.clear()

    monkeypatch.setattr(guardian, "time", SimpleNamespace(sleep=sleep, monotonic=guardian.time.monotonic))
    installer.always["trial"] = UnableToReadFileError("state.json", "Input/output error")
    assert judge(1 << 8) == ["started"]
    assert len(paused) == 3
    assert "Input/output error" in caplog.text


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
        return summon(self.installer, self.launch, **{**facts, **changes}).take_post()

    def summon(self):
        return summon(
            self.installer, self.launch, handover="same", pid=self.program.pid, supervised=True, patience=PATIENCE
        )

    @property
    def guardian(self) -> int:
        """The PID of the guardian."""
        (found,) = self.guardians()
        return found

    def guardians(self) -> list[int]:
        """Return the PIDs of the guardian, and of what starts it as long as that is there."""
        wanted = (b"patchify.client.guardian", os.fsencode(self.installer.path))
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has just ended
                command = (folder / "cmdline").read_bytes()
                if all(each in command for each in wanted):
                    found.append(int(folder.name))
        return found

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
    guarded.go()
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
    guarded.go()
    guarded.release()
    installation.end(1)
    wait_until((installation.folder / "started").exists, "the start of the old version")
    assert (installation.folder / "started").read_text() == f"{installation.folder} {installation.folder}\n"
    installation.wait_for_its_end()


def test_a_guardian_does_not_take_a_good_end_for_a_failure(installation):
    guarded = installation.guard()
    installation.swap()
    guarded.go()
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
    guarded.go()
    guarded.release()
    assert installation.program.wait(PATIENCE) == -signal.SIGTERM
    installation.wait_for_its_end()
    update = installation.installer.state().update
    assert update.failures == 1
    assert update.reason == "was not confirmed within 0.1 s: the health check says no"


def test_a_guardian_goes_when_the_version_is_confirmed(installation):
    guarded = installation.guard()
    installation.swap()
    guarded.go()
    guarded.release()
    with installation.installer.lock(PATIENCE):
        assert installation.installer.confirm()
    installation.wait_for_its_end()
    assert installation.installer.path.read_bytes() == NEW
    assert installation.program.poll() is None


def test_a_guardian_that_is_dismissed_goes(installation):
    guarded = installation.guard()
    guarded.dismiss()
    installation.wait_for_its_end()
    assert installation.installer.path.read_bytes() == OLD
    assert installation.program.poll() is None
    assert installation.installer.state().update.phase is Phase.STAGED


def test_a_guardian_that_is_summoned_early_keeps_nobody_out_until_it_takes_its_post(installation):
    summoned = installation.summon()
    wait_until(installation.guardians, "the start of the guardian")
    assert not is_watching(installation.installer)
    guarded = summoned.take_post()
    assert is_watching(installation.installer)
    installation.swap()
    guarded.go()
    guarded.release()
    installation.end(1)
    installation.program.wait(PATIENCE)
    installation.wait_for_its_end()
    assert installation.installer.path.read_bytes() == OLD


@pytest.mark.parametrize("dismissed", [True, False], ids=["dismissed", "orphaned"])
def test_a_guardian_that_was_summoned_for_nothing_goes(installation, dismissed):
    summoned = installation.summon()
    if dismissed:
        summoned.dismiss()
    else:
        summoned._line.close()
        summoned._process.wait(PATIENCE)
    wait_until(lambda: not installation.guardians(), "the end of the guardian")
    assert not is_watching(installation.installer)
    assert installation.installer.state().update.phase is Phase.STAGED


def test_a_guardian_that_is_disowned_after_a_fork_stays_the_parents(installation):
    summoned = installation.summon()
    pid = os.fork()
    if pid == 0:
        try:
            summoned.disown()
            del summoned
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    summoned.take_post().dismiss()
    installation.wait_for_its_end()


def test_a_guardian_that_is_dismissed_after_all_does_nothing(installation):
    guarded = installation.guard(supervised=False)
    installation.swap()
    guarded.go()
    with installation.installer.lock():  # the restart has failed
        before = installation.installer.give_back("cannot be started", failed=None)
    guarded.dismiss()
    installation.wait_for_its_end()
    assert installation.installer.state() == before
    assert installation.installer.path.read_bytes() == OLD
    assert installation.program.poll() is None
    assert not (installation.folder / "started").exists()


@pytest.mark.parametrize("swapped", [True, False], ids=["swapped", "only ordered"])
@pytest.mark.parametrize("leave", ["release", "dismiss", "end"])
def test_an_update_without_a_go_is_only_undone(installation, swapped, leave):
    """It could not be undone by the program that had ordered it; that runs, or does not, as it was before."""
    guarded = installation.guard(supervised=False, patience=0.1)
    if swapped:
        installation.swap()
    else:
        with installation.installer.lock():
            installation.installer.save(installation.installer.state().armed(1))
    if leave == "end":
        installation.end(1)
        installation.program.wait(PATIENCE)
        guarded._line.close()
    else:
        getattr(guarded, leave)()
    installation.wait_for_its_end()
    assert installation.installer.path.read_bytes() == OLD
    update = installation.installer.state().update
    assert (update.phase, update.failures) == (Phase.STAGED, 0)
    assert "interrupted before" in update.reason
    assert installation.program.poll() == (1 if leave == "end" else None)
    assert not (installation.folder / "started").exists()


@pytest.mark.parametrize("told", [True, False], ids=["go", "nothing"])
def test_a_forked_child_that_keeps_the_line_open_does_not_blind_a_guardian(installation, told):
    guarded = installation.guard()
    child = os.dup(guarded._line.fileno())
    try:
        installation.swap()
        if told:
            guarded.go()
        guarded._line.close()
        installation.end(1)
        installation.program.wait(PATIENCE)
        installation.wait_for_its_end()
    finally:
        os.close(child)
    assert installation.installer.path.read_bytes() == OLD
    update = installation.installer.state().update
    assert (update.phase, update.failures, update.interruptions) == (Phase.STAGED, int(told), int(not told))


@pytest.mark.parametrize("becomes_it", [True, False])
def test_a_program_that_becomes_the_new_version_by_itself_is_known_by_how_it_leaves(installation, becomes_it):
    guarded = installation.guard(handover="other", patience=PATIENCE if becomes_it else 0.1)
    installation.swap()
    guarded.go()
    if becomes_it:
        guarded._line.close()  # as by an exec
        installation.end(1)
    else:
        guarded.release()
    installation.wait_for_its_end()
    update = installation.installer.state().update
    assert update.reason == ("ended with exit status 1" if becomes_it else "was not confirmed within 0.1 s")
    assert installation.program.poll() == (1 if becomes_it else None)  # it is not for the guardian to end it


@pytest.mark.usefixtures("pauses")
def test_a_guardian_of_an_installation_that_was_removed_goes(installer, monkeypatch, tmp_path):
    installer.always["give_back"] = UnableToWriteStateError("state.json", "No such file or directory")
    installer.folder = tmp_path / "gone"
    monkeypatch.setattr(guardian, "give_back", functools.partial(give_back, pause=lambda seconds: None))
    with pytest.raises(SystemExit) as raised:
        guardian._insist(installer, "crashed", failed=True)
    assert raised.value.code == 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="a guardian is looked for in /proc")
def test_a_guardian_hears_what_asks_the_program_to_end_and_nothing_else(installation):
    guarded = installation.guard(handover="other")  # else it hears only what comes while the program still runs
    installation.swap()
    with installation.installer.lock():
        installation.installer.report(installation.program.pid, PATIENCE)
    guarded.go()
    guarded.release()
    for number in (signal.SIGUSR1, signal.SIGALRM, signal.SIGTERM):  # sent to the whole group
        os.kill(installation.guardian, number)
    installation.end(1)
    installation.wait_for_its_end()
    update = installation.installer.state().update
    assert (update.phase, update.failures, update.interruptions) == (Phase.STAGED, 0, 1)
    assert installation.installer.path.read_bytes() == OLD


def test_a_guardian_that_cannot_go_to_work_is_an_error(installation):
    class Unknown(FileInstaller):
        """One that nobody can import."""

    unknown = Unknown(installation.installer.path)
    with pytest.raises(UnableToGuardError, match="before it was ready"):
        summon(unknown, installation.launch, handover="same", pid=os.getpid(), supervised=True, patience=1).take_post()


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


@pytest.fixture
def handlers():
    """Those of the signals by which a program is asked to end: they are put back."""
    before = {number: signal.getsignal(number) for number in ASKING}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_program_is_started_with_the_signals_it_was_started_with(tmp_path):
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    source = (
        "import os, signal; print(sorted(map(int, signal.pthread_sigmask(0, ()))), os.getcwd(), file=open('said', 'w'))"
    )
    launch = Launch(sys.executable, ("python", "-I", "-c", source), str(tmp_path), frozenset({signal.SIGUSR1}), GONE)
    assert guardian.start(launch).wait(PATIENCE) == 0
    assert (tmp_path / "said").read_text() == f"[{int(signal.SIGUSR1)}] {tmp_path}\n"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


@pytest.mark.usefixtures("handlers")
def test_a_program_whose_working_directory_is_gone_is_started_elsewhere(tmp_path):
    launch = Launch("/bin/sh", ("sh", "-c", '[ "$PWD" = / ]'), str(tmp_path / "gone"), frozenset(), GONE)
    assert guardian.start(launch).wait(PATIENCE) == 0


@pytest.fixture
def pauses(monkeypatch):
    """Return the seconds that a guardian has paused for; it does not."""
    pauses = []
    monkeypatch.setattr(guardian, "time", SimpleNamespace(sleep=pauses.append))
    return pauses


@pytest.mark.usefixtures("handlers")
def test_a_program_that_cannot_be_started_is_tried_again(tmp_path, monkeypatch, pauses, caplog):
    program = tmp_path / "app"

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            program.symlink_to("/bin/sh")

    monkeypatch.setattr(guardian.time, "sleep", sleep)
    launch = Launch(str(program), ("sh", "-c", "exit 7"), str(tmp_path), frozenset(), GONE)
    assert guardian.start(launch).wait(PATIENCE) == 7
    assert pauses == [1, 1, 1]
    assert "cannot be started" in caplog.text


@pytest.mark.usefixtures("handlers")
def test_a_program_that_cannot_be_started_is_not_tried_for_ever(tmp_path, monkeypatch, pauses):
    monkeypatch.setattr(guardian, "_START_ATTEMPTS", 3)
    launch = Launch(str(tmp_path / "app"), ("app",), str(tmp_path), frozenset(), GONE)
    with pytest.raises(FileNotFoundError):
        guardian.start(launch)
    assert pauses == [1, 1]

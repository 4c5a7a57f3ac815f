"""The watch of a trial, with fakes: what it makes of what it sees, and how stubbornly the previous version is put back."""

import os
import signal
from types import SimpleNamespace

import pytest
from semver import Version

from patchify.client import watch as watch_module
from patchify.client.state import Phase
from patchify.client.watch import Watch, give_back
from patchify.errors import UnableToReadFileError, UnableToSwapError, UnableToWriteStateError
from tests.client.fakes import FakeClock, FakeInstaller, FakeProcess

pytestmark = pytest.mark.skipif(os.name != "posix", reason="nothing is watched on Windows")

TWO = Version(2)
GONE = 2**22 + 1  # no process has this number
SUCCESSOR_LOOKS = 5


@pytest.fixture
def installer():
    made = FakeInstaller()
    made.on_trial(TWO, b"two")
    return made


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def pauses(monkeypatch):
    """Return what is done instead of pausing, one callable after the other, then nothing; the watch never waits here."""
    pauses = []
    monkeypatch.setattr(watch_module, "time", SimpleNamespace(sleep=lambda seconds: pauses and pauses.pop(0)()))
    return pauses


@pytest.fixture
def watch(installer, clock, pauses):
    def watch(handover="same", asked="", process=None):
        return Watch(
            installer, process or FakeProcess(GONE), handover=handover, patience=10, asked=lambda: asked, clock=clock
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


@pytest.mark.parametrize("status", [0, None])
def test_a_process_in_the_background_has_a_moment_to_report_itself(watch, installer, pauses, status):
    watching = watch()
    watching.process.ended = 0
    watching.process.status = lambda: status
    pauses += [lambda: None] * (SUCCESSOR_LOOKS - 2) + [lambda: installer.report(os.getpid(), 30, "")]
    assert watching.look(0) is None
    assert watching.process.pid == os.getpid()
    watching.process.close()


@pytest.mark.parametrize(("handover", "status"), [("same", 1 << 8), ("same", signal.SIGTERM), ("gunicorn", 0)])
def test_nobody_is_waited_for_after_another_end(watch, installer, pauses, handover, status):
    watching = watch(handover)
    watching.process.ended = status
    pauses += [lambda: pytest.fail("it was waited for")]
    assert watching.look(0) is not None


def test_nobody_is_waited_for_for_ever(watch, pauses):
    watching = watch()
    watching.process.ended = 0
    pauses += [lambda: None] * (SUCCESSOR_LOOKS - 1) + [lambda: pytest.fail("it was waited for")]
    assert watching.look(0) == (False, "ended with exit status 0")
    assert len(pauses) == 1


def test_nobody_is_waited_for_once_it_is_known_that_somebody_has_asked(watch, pauses):
    watching = watch(asked="SIGTERM")
    watching.process.ended = 0
    pauses.append(lambda: pytest.fail("it was waited for"))
    assert watching.look(0) == (False, "ended with exit status 0")


@pytest.mark.parametrize("before_the_end", [True, False])
def test_what_cannot_be_read_just_now_is_read_another_time(watch, installer, clock, before_the_end):
    watching = watch()
    watching.process.ended = 1 << 8
    clock.now = 11
    error = UnableToReadFileError("state.json", "Input/output error")
    if before_the_end:
        installer.once["trial"] = error
    else:
        watching.process.after_waits = lambda: installer.once.update(trial=error)
    assert watching.look(0) is None
    watching.process.after_waits = lambda: None
    assert watching.look(0) == (True, "ended with exit status 1")


def test_who_was_stopped_meanwhile_gives_the_program_that_time_again(watch, clock):
    watching = watch()

    def stopped():
        clock.now += 100  # Ctrl-Z, and fg

    watching.process.after_waits = stopped
    assert watching.look(0) is None
    watching.process.after_waits = lambda: None
    clock.now = 110
    assert watching.look(0) is None
    clock.now = 110.1
    assert watching.look(0) == (True, "was not confirmed within 10 s")


def test_a_look_that_takes_a_little_longer_gives_no_time(watch, clock):
    watching = watch()

    def slow():
        clock.now += 5

    watching.process.after_waits = slow
    assert watching.look(0) is None
    assert watching.look(0) is None
    assert watching.look(0) == (True, "was not confirmed within 10 s")


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

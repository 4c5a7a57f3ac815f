"""The story of an update, told with a server, a disk and a restart that are not real, by threads that are."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from semver import Version

from patchify import signals
from patchify.client import Config, FileInstaller, Idle, PendingRestart, Restarting, Updater, protection, updater
from patchify.client.guarding import LAUNCHER
from patchify.client.processes import born_at
from patchify.client.state import MAX_INTERRUPTIONS, Phase, Release, State, Update
from patchify.client.status import Checking, Downloading
from patchify.errors import (
    ActionDeniedError,
    ClosedError,
    FailedHashVerificationError,
    FailedSignatureVerificationError,
    HttpRequestFailedError,
    NothingStagedError,
    QuarantinedError,
    ServerBusyError,
    SmokeTestError,
    UnableToBackUpError,
    UnableToGuardError,
    UnableToObtainExecutableError,
    UnableToReadFileError,
    UnableToRestartError,
    UnableToSwapError,
    UnableToWriteDownloadError,
    UnsafeArchiveError,
    UpdateInProgressError,
    WrongVersionError,
)
from patchify.keys import SigningKey
from tests.client.fakes import FakeInstaller, FakeRestarter, FakeTransport, sha256
from tests.running import PATIENCE, ROOT, wait_until

TWO = Version(2)
GONE = 2**22 + 1  # no PID is so high
NEW = b"two" * 100
RELEASE = Release(TWO, sha256(NEW))
OLD = Release(Version(1), sha256(b"one"))
DOWNLOADING = [f"Downloading: 2.0.0 ({percent}%)" for percent in range(0, 101, 10)]
STAGING = ["Installing: 2.0.0"] * 3  # 0, 50 and 100 per cent


class Story:
    """An updater, what it works with, and what it says."""

    def __init__(self, key, trial=None, **config):
        self.transport = FakeTransport(key, {"1.0.0": b"one", "2.0.0": NEW})
        self.installer = FakeInstaller()
        if trial is not None:  # what the updater runs in is version 2.0.0
            self.installer.on_trial(TWO, NEW, **trial)
            config = {"version": "2.0.0", **config}
        self.restarter = FakeRestarter()
        self.config = Config(
            **{
                "version": "1.0.0",
                "api": "https://updates.example.com",
                "key": key.verifying_key,
                "guardian": False,
                "least_interval": timedelta(),
                **config,
            }
        )
        self.updater = self.another()
        self.statuses = []
        self.signals = []
        self.updater.subscribe(self.statuses.append)
        for each in (
            signals.update_available,
            signals.update_failed,
            signals.wait_grew_long,
            signals.update_confirmed,
            signals.rolled_back,
        ):
            each.connect(self._heard(each.name), sender=self.updater, weak=False)

    def another(self, config=None) -> Updater:
        return Updater(
            config or self.config, transport=self.transport, installer=self.installer, restarter=self.restarter
        )

    def _heard(self, name):
        def heard(sender, **facts):
            facts.pop("offer", None)
            self.signals.append((name, *facts.values()))

        return heard

    @property
    def printed(self) -> list[str]:
        return [str(status) for status in self.statuses]

    def wait_for_status(self, kind):
        return wait_until(lambda: isinstance(self.updater.status, kind) and self.updater.status, kind.__name__)

    def wait_for_trial(self):
        wait_until(lambda: self.updater.on_trial, "the trial")

    def wait_for_signal(self, name):
        return wait_until(lambda: [each for each in self.signals if each[0] == name], name)


@pytest.fixture
def make_story(key):
    stories = []

    def make(**config) -> Story:
        stories.append(Story(key, **config))
        return stories[-1]

    yield make
    for story in stories:
        story.updater.close()
        assert all(one.may_become(other) for one, other in pairwise([Idle(), *story.statuses]))


@pytest.fixture
def story(make_story):
    return make_story()


def in_thread(function, *args) -> threading.Thread:
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


class Pause:
    """Stops whoever runs into it until it is let go."""

    def __init__(self):
        self.reached = threading.Event()
        self.go = threading.Event()

    def __call__(self):
        self.reached.set()
        assert self.go.wait(PATIENCE)


# Operations, one by one and in their order ----------------------------------------------------------------------------


def test_a_new_updater_is_idle_and_has_asked_nobody(story):
    assert story.updater.status == Idle()
    assert story.updater.available is None
    assert story.updater.staged is None
    assert story.transport.calls == story.installer.calls == []


def test_check_finds_the_newer_version_and_does_no_more(story):
    assert story.updater.check() == TWO
    assert story.updater.available.version == TWO
    assert story.printed == ["Checking", "Idle"]
    assert story.signals == [("update-available", TWO)]
    assert story.transport.calls == ["latest"]


@pytest.mark.parametrize("running", ["2.0.0", "2.0.1", "3.0.0-rc.1"])
def test_an_equal_or_older_release_is_no_update(make_story, running):
    story = make_story(version=running)
    assert story.updater.check() is None
    assert story.updater.update() is False
    assert story.updater.available is None
    assert story.signals == []


@pytest.mark.parametrize(
    ("running", "released"), [("2.0.0", "2.0.0+b2"), ("2.0.0+b1", "2.0.0+b2"), ("2.0.0+b1", "2.0.0")]
)
def test_other_build_metadata_is_no_update(make_story, running, released):
    story = make_story(version=running)
    story.transport.releases = {released: NEW}
    assert story.updater.check() is None
    assert story.updater.update() is False


def test_a_pre_release_counts(make_story):
    story = make_story(version="1.9.0")
    story.transport.releases["2.0.0-rc.1"] = b"rc"
    del story.transport.releases["2.0.0"]
    assert story.updater.check() == Version.parse("2.0.0-rc.1")


def test_download_alone_checks_first(story):
    assert story.updater.download() == TWO
    assert story.printed == ["Checking", *DOWNLOADING, "Idle"]
    assert story.transport.calls == ["latest", "hash", *["release"] * 10]
    assert story.installer.downloads == {sha256(NEW): NEW}
    assert story.installer.state().update is None


def test_install_alone_downloads_first(story):
    assert story.updater.install() == TWO
    assert story.updater.staged == TWO
    assert story.printed == ["Checking", *DOWNLOADING, *STAGING, "Idle"]
    assert story.installer.program == b"one"  # swapped only at the moment of restart


def test_restart_alone_has_nothing_to_restart_as(story):
    with pytest.raises(NothingStagedError, match="install"):
        story.updater.restart()
    assert story.updater.status == Idle()


def test_update_goes_all_the_way(story):
    assert story.updater.update() is True
    assert story.printed == ["Checking", *DOWNLOADING, *STAGING, "Restarting: 2.0.0"]
    assert story.installer.program == NEW
    assert len(story.restarter.launches) == 1
    assert story.updater.status == Restarting(TWO)


def test_the_steps_one_after_the_other_do_nothing_twice(story):
    assert story.updater.check() == TWO
    assert story.updater.download() == TWO
    assert story.updater.install() == TWO
    assert story.updater.install() == TWO
    assert story.updater.restart() is True
    assert story.transport.calls.count("latest") == 1
    assert story.transport.calls.count("release") == 10
    assert story.installer.calls.count("stage") == 1
    assert story.installer.calls.count("swap") == len(story.restarter.launches) == 1
    assert story.printed == ["Checking", "Idle", *DOWNLOADING, "Idle", *STAGING, "Idle", "Restarting: 2.0.0"]


def test_download_and_install_say_that_there_is_nothing_newer(make_story):
    story = make_story(version="2.0.0")
    assert story.updater.download() is None
    assert story.updater.install() is None


def test_restart_takes_what_an_earlier_process_staged(story):
    story.updater.install()
    later = story.another()
    assert later.restart() is True
    assert story.installer.program == NEW
    later.close()


def test_update_asks_again_although_a_check_found_something(story):
    story.updater.check()
    story.transport.releases["3.0.0"] = b"three"
    story.updater.update()
    assert story.installer.program == b"three"


def test_a_newer_release_replaces_one_that_is_staged(story):
    story.updater.install()
    story.transport.releases["3.0.0"] = b"three"
    story.updater.check()
    assert story.updater.install() == story.updater.staged == Version(3)


@pytest.mark.parametrize("pieces", [3, 1000])
def test_no_percentage_is_shown_twice(story, pieces):
    story.transport.releases["2.0.0"] = b"x" * 10_000
    story.transport.pieces = pieces
    story.updater.download()
    percentages = [status.percent for status in story.statuses if isinstance(status, Downloading)]
    assert percentages == sorted(set(percentages))
    assert len(percentages) == min(pieces, 100) + 1
    assert (percentages[0], percentages[-1]) == (0, 100)


def test_an_empty_release_counts_as_complete():
    show = []
    report = Updater._progress(type("Shown", (), {"_become": show.append}), lambda percent: percent)
    report(0, 0)
    report(0, 0)
    assert show == [100]


# How far it goes by itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("automatic", "downloaded", "staged", "restarted"),
    [("check", 0, 0, 0), ("download", 1, 0, 0), ("stage", 1, 1, 0), ("restart", 1, 1, 1)],
)
def test_a_tick_goes_as_far_as_configured(make_story, automatic, downloaded, staged, restarted):
    story = make_story(automatic=automatic)
    assert story.updater.tick() == 0
    assert story.updater.available.version == TWO
    assert story.installer.calls.count("stage") == downloaded
    assert (story.updater.staged == TWO) or restarted or not staged
    assert len(story.restarter.launches) == restarted


def test_ticks_go_on_where_the_one_before_ended(make_story):
    story = make_story(automatic="stage")
    for _ in range(3):
        story.updater.tick()
    assert story.transport.calls.count("latest") == 3
    assert story.transport.calls.count("release") == 10
    assert story.installer.calls.count("prepare") == 3  # three steps of one preparation


def test_a_tick_does_nothing_while_a_restart_waits_or_is_under_way(story):
    story.updater.register_action()
    story.updater.tick()
    calls = list(story.transport.calls)
    story.updater.tick()
    story.updater.deregister_action()
    story.wait_for_status(Restarting)
    story.updater.tick()
    assert story.transport.calls == calls


# start, and finishing what was begun ----------------------------------------------------------------------------------


def test_start_checks_at_once_when_asked_to(make_story):
    story = make_story(check_on_startup=True)
    story.updater.start()
    story.wait_for_status(Restarting)
    assert len(story.restarter.launches) == 1


def test_start_alone_asks_nobody(story):
    story.updater._elected_tick()
    assert story.transport.calls == []
    story.updater._elected_tick()  # the next one, after the interval
    assert "latest" in story.transport.calls


def test_starting_twice_starts_one_poll(make_story):
    story = make_story(check_on_startup=True, automatic="check", check_interval=timedelta(hours=1))
    with story.updater as started:
        assert started is story.updater
        story.updater.start()
        story.wait_for_signal("update-available")
        assert len([each for each in threading.enumerate() if each.name == "patchify-poll"]) == 1
    assert story.transport.calls == ["latest"]


def test_start_finishes_what_an_earlier_process_staged_without_asking_anybody(story):
    story.updater.install()
    story.transport.calls.clear()
    later = story.another()
    later.start()
    wait_until(lambda: later.status == Restarting(TWO), "the restart")
    assert story.installer.program == NEW
    assert story.transport.calls == []
    later.close()


def test_start_leaves_a_staged_release_to_the_host_if_it_is_not_to_restart_by_itself(make_story):
    story = make_story(automatic="stage")
    story.updater.install()
    later = story.another()
    later._elected_tick()
    assert later.staged == TWO
    assert later.status == Idle()
    assert later.restart() is True
    later.close()


def test_start_forgets_a_staged_release_that_is_not_newer(make_story):
    story = make_story(version="2.0.0")
    story.installer.downloads[sha256(NEW)] = NEW
    story.installer.remembered = State(update=Update(RELEASE, OLD))
    story.updater._elected_tick()
    assert story.installer.state().update is None
    assert story.restarter.launches == []


def test_who_is_not_elected_only_checks_at_its_start(make_story):
    story = make_story(check_on_startup=True)
    story.installer.elected = False
    story.updater._elected_tick()
    story.updater._elected_tick()
    assert story.transport.calls == ["latest"]
    assert story.updater.available.version == TWO
    story.installer.elected = True
    story.updater._elected_tick()  # its turn has come
    assert len(story.restarter.launches) == 1


def test_who_is_not_elected_follows_when_the_elected_one_has_replaced_the_program(story):
    story.installer.elected = False
    story.installer.replace(NEW)
    story.installer.remembered = State(good=RELEASE)
    story.updater._elected_tick()
    assert story.updater.status == Restarting(TWO)
    assert "release" not in story.transport.calls


# Critical actions -----------------------------------------------------------------------------------------------------


def test_actions_are_counted(story):
    assert story.updater.is_safe_to_update()
    assert [story.updater.register_action(), story.updater.register_action()] == [1, 2]
    assert not story.updater.is_safe_to_update()
    assert [story.updater.deregister_action() for _ in range(3)] == [1, 0, None]
    assert story.updater.is_safe_to_update()


def test_a_block_is_an_action_and_ends_when_it_raises(story):
    block = story.updater.critical_action("dividing")
    with contextlib.suppress(ZeroDivisionError), block:
        assert not story.updater.is_safe_to_update()
        raise ZeroDivisionError
    assert story.updater.is_safe_to_update()


def test_a_restart_waits_for_actions_and_says_for_which_and_since_when(story):
    before = datetime.now(UTC)
    story.updater.register_action("saving")
    story.updater.register_action()
    story.updater.register_action("printing")
    assert story.updater.update() is False
    status = story.updater.status
    assert (status.version, status.actions, status.reasons) == (TWO, 3, ("saving", "printing"))
    assert before <= status.since <= datetime.now(UTC)
    assert story.installer.program == b"one"
    assert story.printed == ["Checking", *DOWNLOADING, *STAGING, "Pending restart: 2.0.0"]

    assert story.updater.deregister_action("saving") == 2
    assert (story.updater.status.actions, story.updater.status.reasons) == (2, ("printing",))
    assert story.updater.status.since == status.since
    assert story.restarter.launches == []

    story.updater.deregister_action("printing")
    assert story.updater.deregister_action() == 0
    story.wait_for_status(Restarting)
    wait_until(lambda: len(story.statuses) == len(DOWNLOADING) + 8, "all signals")
    assert story.printed[-4:] == [*["Pending restart: 2.0.0"] * 3, "Restarting: 2.0.0"]
    wait_until(lambda: story.installer.program == NEW, "the swap")


def test_no_action_starts_while_a_restart_is_pending_or_under_way(story):
    story.updater.register_action()
    story.updater.update()
    assert story.updater.register_action() is None
    with pytest.raises(ActionDeniedError), story.updater.critical_action():
        pytest.fail("the block ran")
    story.updater.deregister_action()
    story.wait_for_status(Restarting)
    assert story.updater.register_action() is None
    assert story.updater.deregister_action() is None


def test_while_a_restart_waits_nothing_else_is_done(story):
    story.updater.register_action()
    story.updater.update()
    for operation in (story.updater.check, story.updater.restart, story.updater.update):
        with pytest.raises(UpdateInProgressError, match=r"Pending restart: 2\.0\.0"):
            operation()
    assert story.updater.status.version == TWO


def test_an_action_that_ends_just_before_the_wait_is_shown_is_not_shown_as_running(story):
    story.updater.install()
    story.updater.register_action("saving")
    story.updater.register_action("printing")
    become = story.updater._become

    def slowly(status):
        if isinstance(status, PendingRestart):
            story.updater.deregister_action("saving")
        become(status)

    story.updater._become = slowly
    story.updater.restart()
    assert story.updater.status.reasons == ("printing",)


@pytest.mark.parametrize("attempt", range(20))
def test_whatever_threads_do_it_restarts_once_and_over_no_action(story, attempt):
    story.updater.install()
    inside, seen, lock, begin = [0], [], threading.Lock(), threading.Barrier(7)

    def hammer():
        begin.wait(PATIENCE)
        while story.updater.register_action() is not None:
            with lock:
                inside[0] += 1
            with lock:
                inside[0] -= 1
            story.updater.deregister_action()

    story.restarter.during = lambda: seen.append(inside[0])
    threads = [in_thread(hammer) for _ in range(6)]
    begin.wait(PATIENCE)
    story.updater.restart()
    for thread in threads:
        thread.join(PATIENCE)
    story.wait_for_status(Restarting)
    wait_until(lambda: seen, "the restart")
    assert seen == [0]
    assert story.installer.calls.count("swap") == 1


def test_a_wait_that_grew_too_long_is_told_of_and_nothing_else_happens(make_story):
    story = make_story(restart_wait_ceiling=timedelta(milliseconds=20))
    story.updater.register_action("saving")
    story.updater.update()
    [(_, status)] = story.wait_for_signal("wait-grew-long")
    assert status == story.updater.status
    assert status.reasons == ("saving",)
    assert story.restarter.launches == []
    story.updater._tell_of_long_wait()
    story.updater.deregister_action("saving")
    story.wait_for_status(Restarting)
    story.updater._tell_of_long_wait()  # too late: it restarts already
    assert len([each for each in story.signals if each[0] == "wait-grew-long"]) == 2


def test_a_restart_that_fails_after_the_wait_opens_the_gate_again(story):
    story.updater.register_action()
    story.updater.update()
    story.installer.once["swap"] = UnableToSwapError("app", "no")
    story.updater.deregister_action()
    [(_, error)] = story.wait_for_signal("update-failed")
    assert isinstance(error, UnableToSwapError)
    story.wait_for_status(Idle)
    wait_until(lambda: story.updater.register_action() == 1, "the gate to open")
    story.updater.deregister_action()
    wait_until(lambda: story.updater.tick() == 0 and story.updater.status == Restarting(TWO), "the restart")


def test_a_bug_after_the_wait_harms_nobody(story, caplog):
    story.updater.register_action()
    story.updater.update()
    story.installer.once["swap"] = ZeroDivisionError()
    story.updater.deregister_action()
    story.wait_for_status(Idle)
    wait_until(lambda: "a restart failed unexpectedly" in caplog.text, "the log")
    wait_until(lambda: story.updater.register_action() == 1, "the gate to open")


def test_a_restart_that_finds_another_process_busy_after_the_wait_tries_again_later(story):
    story.updater.register_action()
    story.updater.update()
    story.installer.locked = True
    story.updater.deregister_action()
    story.wait_for_status(Idle)
    assert story.updater.staged == TWO
    story.installer.locked = False
    wait_until(lambda: story.updater.tick() == 0 and story.updater.status == Restarting(TWO), "the restart")


def test_no_thread_can_be_started_while_the_interpreter_shuts_down(story, monkeypatch):
    story.updater.register_action()
    story.updater.update()

    class NoThread:
        def __init__(self, *args, **options):
            pass

        def start(self):
            raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patch:
        patch.setattr(updater.threading, "Thread", NoThread)
        assert story.updater.deregister_action() == 0
    assert story.restarter.launches == []


# Failures -------------------------------------------------------------------------------------------------------------

FAILURES = [
    ("transport", "latest", HttpRequestFailedError("https://x/latest", "reset"), "check"),
    ("transport", "hash", ServerBusyError("https://x/hashes", 503, None), "download"),
    ("transport", "release", HttpRequestFailedError("https://x/releases", "reset"), "download"),
    ("installer", "part", UnableToWriteDownloadError("part", "disk full"), "download"),
    ("installer", "stage", UnableToWriteDownloadError("part", "input/output error"), "download"),
    ("installer", "prepare", UnableToBackUpError("previous", "no"), "install"),
    ("installer", "swap", UnableToReadFileError("staged", "no"), "update"),
    ("installer", "swap", ZeroDivisionError("a bug"), "update"),
]


@pytest.mark.parametrize(("room", "step", "error", "operation"), FAILURES)
def test_what_fails_is_raised_and_leaves_everything_ready_for_the_next_attempt(story, room, step, error, operation):
    getattr(story, room).once[step] = error
    with pytest.raises(type(error)) as raised:
        getattr(story.updater, operation)()
    assert raised.value is error
    assert story.updater.status == story.statuses[-1] == Idle()
    assert all(part.closed for part in story.installer.parts)
    told = [each[1] for each in story.signals if each[0] == "update-failed"]
    assert told == ([] if isinstance(error, ZeroDivisionError) else [error])
    with story.updater.critical_action():
        pass
    assert story.updater.update() is True
    assert story.installer.program == NEW


def test_a_release_that_fails_its_hash_is_downloaded_once_more(story):
    wrong = FailedHashVerificationError("2.0.0", expected="a", found="b")
    story.installer.once["stage"] = wrong
    assert story.updater.download() == TWO
    assert story.transport.calls.count("release") == 20
    assert story.signals == [("update-available", TWO)]


def test_a_release_that_is_wrong_twice_is_refused(story):
    story.installer.always["stage"] = FailedHashVerificationError("2.0.0", expected="a", found="b")
    with pytest.raises(FailedHashVerificationError):
        story.updater.update()
    assert story.transport.calls.count("release") == 20
    assert story.updater.status == Idle()


def test_an_answer_of_another_key_is_refused(story):
    story.transport.key = SigningKey.from_hex("22" * 32)
    with pytest.raises(FailedSignatureVerificationError):
        story.updater.check()
    assert story.updater.available is None


def test_an_operation_that_cannot_lock_tells_nobody_of_a_failure(story):
    story.installer.locked = True
    with pytest.raises(UpdateInProgressError, match="another process"):
        story.updater.check()
    assert story.signals == []
    assert story.updater.status == Idle()


def test_one_operation_runs_at_a_time(story):
    pause = Pause()
    story.transport.before["hash"] = pause
    thread = in_thread(story.updater.download)
    assert pause.reached.wait(PATIENCE)
    for operation in ("check", "download", "install", "restart", "update"):
        with pytest.raises(UpdateInProgressError, match="Checking"):
            getattr(story.updater, operation)()
    assert story.updater.tick() == 0
    assert story.updater.status == Checking()
    pause.go.set()
    thread.join(PATIENCE)
    assert story.transport.calls.count("latest") == 1


def test_a_step_cannot_start_another_operation_in_its_own_thread(story):
    refused = []

    def again():
        with pytest.raises(UpdateInProgressError) as raised:
            story.updater.check()
        refused.append(raised.value)

    story.transport.before["hash"] = again
    story.updater.download()
    assert len(refused) == 1


def test_a_status_that_may_not_follow_is_a_bug_that_shows(story):
    story.updater._become(Restarting(TWO))
    with pytest.raises(RuntimeError, match=r"Checking may not follow Restarting: 2\.0\.0"):
        story.updater._become(Checking())


# The restart ----------------------------------------------------------------------------------------------------------


def test_a_restart_that_cannot_be_started_puts_the_old_program_back(story):
    def fail():
        raise PermissionError(13, "not executable", "python")

    story.restarter.during = fail
    with pytest.raises(UnableToRestartError, match="not executable") as raised:
        story.updater.update()
    assert raised.value.errno == 13
    assert story.installer.program == b"one"
    assert story.updater.status == Idle()
    story.restarter.during = lambda: None
    assert story.updater.update() is True


def test_a_restarter_with_a_bug_counts_as_one_that_cannot_start_anything(story):
    def fail():
        raise ZeroDivisionError("oops")

    story.restarter.during = fail
    with pytest.raises(UnableToRestartError, match="ZeroDivisionError"):
        story.updater.update()
    assert story.installer.program == b"one"


@pytest.mark.parametrize("number", [errno.ENOEXEC, errno.EACCES, errno.ENOENT])
def test_a_release_that_cannot_be_executed_is_tried_again_and_then_quarantined(make_story, number):
    story = make_story(trial_tries=1)

    def fail():
        raise OSError(number, "no program", str(story.installer.path))

    story.restarter.during = fail
    with pytest.raises(UnableToRestartError):
        story.updater.update()
    update = story.installer.state().update
    assert (update.phase, update.failures) == (Phase.STAGED, 1)
    with pytest.raises(UnableToRestartError):
        story.updater.update()
    [bad] = story.installer.state().bad
    assert bad.release == RELEASE
    assert "no program" in bad.reason
    assert [each for each in story.signals if each[0] == "rolled-back"] == [
        ("rolled-back", TWO, RELEASE.sha256, bad.reason)
    ]
    assert story.installer.state().untold is None
    assert story.installer.program == b"one"
    assert story.updater.update() is False
    assert len(story.restarter.launches) == 2


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "not executable"),
        PermissionError(13, "not executable", sys.executable),
        OSError(errno.ENOEXEC, "Exec format error"),
        ZeroDivisionError(),
    ],
)
def test_a_restarter_that_fails_for_reasons_of_its_own_says_nothing_of_the_release(make_story, error):
    story = make_story(trial_tries=0)

    def fail():
        raise error

    story.restarter.during = fail
    for _ in range(10):
        with pytest.raises(UnableToRestartError):
            story.updater.update()
    update = story.installer.state().update
    assert (update.phase, update.failures, update.interruptions) == (Phase.STAGED, 0, 0)
    story.restarter.during = lambda: None
    assert story.updater.update() is True


def test_a_restarter_that_is_given_the_launch_and_returns_leaves_the_restart_under_way(story):
    assert story.updater.update() is True
    assert story.restarter.launches == [story.updater._launch]
    assert story.updater.status == Restarting(TWO)
    with pytest.raises(UpdateInProgressError):
        story.updater.check()


def test_a_restart_that_never_comes_counts_as_failed_and_is_repeated_once_the_trial_is_given_up(story, monkeypatch):
    monkeypatch.setattr(updater, "_RESTART_PATIENCE", 0.02)
    story.updater.update()
    [(_, error)] = story.wait_for_signal("update-failed")
    assert isinstance(error, UnableToRestartError)
    assert "still runs" in str(error)
    story.wait_for_status(Idle)
    wait_until(lambda: story.updater.register_action() == 1, "the gate to open")
    story.updater.deregister_action()

    monkeypatch.setattr(updater, "_RESTART_PATIENCE", 300)
    wait_until(lambda: story.updater.tick() == 0 and story.transport.calls.count("latest") == 2, "a check")
    assert story.updater.status == Idle()
    assert len(story.restarter.launches) == 1
    story.installer.give_back("was not confirmed within 300 s", failed=True)  # the guardian
    assert story.updater.tick() == 0
    assert story.updater.status == Restarting(TWO)
    assert story.transport.calls.count("release") == 10
    assert len(story.restarter.launches) == 2


def test_a_program_that_another_process_replaced_is_only_restarted(story):
    story.installer.replace(NEW)
    assert story.updater.update() is True
    assert "release" not in story.transport.calls
    assert story.printed == ["Checking", "Restarting: 2.0.0"]


def test_undoing_leaves_alone_what_another_process_put_in_place(story):
    def fail():
        raise OSError("no")

    story.installer.replace(NEW)
    story.restarter.during = fail
    with pytest.raises(UnableToRestartError):
        story.updater.update()
    assert story.installer.program == NEW


def test_a_release_that_calls_itself_by_an_older_version_does_not_update_for_ever(story):
    story.updater.update()
    mistaken = story.another()  # the program is 2.0.0 now, and says that it is 1.0.0
    with pytest.raises(UpdateInProgressError, match="on trial"):
        mistaken.update()
    story.installer.confirm()  # by hand
    with pytest.raises(WrongVersionError) as raised:
        mistaken.update()
    assert (raised.value.released, raised.value.running) == ("2.0.0", "1.0.0")
    mistaken._elected_tick()
    assert len(story.restarter.launches) == 1
    mistaken.close()


def test_the_program_must_be_known(story, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["-c"])
    with pytest.raises(UnableToObtainExecutableError, match="executable="):
        Updater(story.config)
    updater = Updater(Config(version="1.0.0", api="http://x", key=story.config.key, executable=tmp_path / "app"))
    assert updater._installer.path == tmp_path / "app"
    updater.close()


# On trial -------------------------------------------------------------------------------------------------------------


def test_the_first_iteration_of_a_new_version_reports_it_and_its_time_confirms_it(make_story):
    story = make_story(trial={}, trial_period=timedelta())
    story.updater.start()
    [(_, version)] = story.wait_for_signal("update-confirmed")
    assert version == TWO
    assert not story.updater.on_trial
    assert story.installer.state() == replace(story.installer.state(), good=RELEASE, previous=OLD, update=None)
    assert story.installer.calls.count("report") == 1
    assert story.transport.calls == []


def test_a_version_on_trial_says_so_until_its_host_confirms_it(make_story):
    story = make_story(trial={}, confirm_automatically=False)
    assert not story.updater.on_trial
    story.updater._elected_tick()
    assert story.updater.on_trial
    assert story.installer.state().on_trial.process == os.getpid()
    assert story.updater.confirm() is True
    assert not story.updater.on_trial
    assert story.updater.confirm() is False
    assert story.signals == [("update-confirmed", TWO)]
    assert story.installer.state().good == RELEASE


def test_where_nothing_is_on_trial_there_is_nothing_to_confirm(story):
    story.updater._elected_tick()
    assert not story.updater.on_trial
    assert story.updater.confirm() is False


def test_while_on_trial_nothing_goes_further_than_a_check(make_story):
    story = make_story(trial={}, confirm_automatically=False, check_on_startup=True)
    story.transport.releases["3.0.0"] = b"three"
    story.updater._elected_tick()
    assert story.updater.available.version == Version(3)
    assert story.transport.calls == ["latest"]
    for operation in (story.updater.download, story.updater.install, story.updater.update):
        with pytest.raises(UpdateInProgressError, match=r"version 2\.0\.0 is on trial"):
            operation()
    with pytest.raises(NothingStagedError):
        story.updater.restart()
    story.updater.confirm()
    story.updater._elected_tick()
    assert story.updater.status == Restarting(Version(3))
    assert story.installer.program == b"three"


def test_a_version_that_calls_itself_otherwise_is_never_confirmed(make_story, caplog):
    story = make_story(trial={}, version="1.9.0", trial_period=timedelta())
    story.updater._elected_tick()
    update = story.installer.state().on_trial
    assert (update.process, update.patience) == (os.getpid(), 0)
    assert "release 2.0.0 but is configured as version 1.9.0" in update.reason
    assert "release 2.0.0 but is configured as version 1.9.0" in caplog.text
    assert story.updater.on_trial


def test_build_metadata_is_part_of_what_it_calls_itself(make_story):
    story = make_story(trial={}, version="2.0.0+other")
    story.updater._elected_tick()
    assert "configured as version 2.0.0+other" in story.installer.state().on_trial.reason


def test_a_process_of_the_old_version_is_not_the_one_on_trial(story):
    story.installer.on_trial(TWO, NEW)  # another process has swapped after this one was started
    story.updater._elected_tick()
    assert not story.updater.on_trial
    assert "report" not in story.installer.calls


def test_a_trial_begins_later_if_another_process_has_the_lock_at_first(make_story):
    story = make_story(trial={}, confirm_automatically=False)
    story.installer.locked = True
    story.updater._elected_tick()
    assert not story.updater.on_trial
    story.installer.locked = False
    story.updater._elected_tick()
    assert story.updater.on_trial
    story.updater._elected_tick()
    assert story.installer.calls.count("report") == 1


def test_who_follows_waits_until_the_trial_is_decided(story):
    story.installer.elected = False
    story.installer.on_trial(TWO, NEW)
    story.updater._elected_tick()
    assert story.updater.status == Idle()
    story.installer.confirm()
    story.updater._elected_tick()
    assert story.updater.status == Restarting(TWO)
    assert story.transport.calls == []


def test_who_follows_stays_where_it_is_when_the_release_is_taken_back(story):
    story.installer.elected = False
    story.installer.on_trial(TWO, NEW, tries=0)
    story.updater._elected_tick()
    story.installer.give_back("crashed", failed=True)
    story.updater._elected_tick()
    assert story.updater.status == Idle()
    assert story.restarter.launches == []


def test_the_survivor_tells_once_of_what_was_taken_back(make_story):
    story = make_story()
    story.installer.on_trial(TWO, NEW, tries=0)
    story.installer.give_back("was killed by SIGSEGV", failed=True)
    told = []
    with signals.rolled_back.connected_to(lambda sender, **facts: told.append(facts)):
        for _ in range(2):
            survivor = story.another()
            survivor._elected_tick()
            survivor.close()
    assert told == [{"version": TWO, "sha256": RELEASE.sha256, "reason": "was killed by SIGSEGV"}]


def test_a_try_that_failed_is_repeated_at_the_next_start_and_then_given_up(make_story):
    story = make_story()
    story.installer.on_trial(TWO, NEW, tries=1)
    story.installer.give_back("crashed", failed=True)
    story.updater._elected_tick()
    assert story.updater.status == Restarting(TWO)
    assert story.installer.state().on_trial.failures == 1
    story.installer.give_back("crashed", failed=True)
    later = story.another()
    later._elected_tick()
    assert later.status == Idle()
    assert later.check() is None
    later.close()


@pytest.mark.parametrize("failed", [None, True, False])
def test_a_process_of_a_version_that_was_taken_back_under_it_becomes_the_one_before(make_story, failed):
    story = make_story(version="2.0.0")
    story.installer.on_trial(TWO, NEW)
    before = story.installer.give_back("was ended", failed=failed).update
    assert before.phase is Phase.STAGED
    story.updater._elected_tick()
    assert story.updater.status == Restarting(Version(1))
    assert story.installer.state().update == before  # how often it failed is not forgotten
    assert len(story.restarter.launches) == 1


def test_it_is_for_the_version_that_survives_to_tell_of_the_one_that_does_not(make_story):
    story = make_story(version="2.0.0", automatic="check")
    story.installer.on_trial(TWO, NEW, tries=0)
    story.installer.give_back("was killed", failed=True)
    story.updater._elected_tick()
    assert [name for name, *_ in story.signals] == []
    assert story.installer.state().untold is not None


def test_what_another_process_has_on_trial_is_not_swapped_out(story):
    story.updater.install()
    story.installer.on_trial(Version(3), b"three")
    swaps = story.installer.calls.count("swap")
    with story.installer.lock(), pytest.raises(UpdateInProgressError, match=r"version 3\.0\.0 is on trial"):
        story.updater._swap_and_restart(Update(RELEASE, OLD))
    assert story.installer.calls.count("swap") == swaps
    assert story.installer.program == b"three"
    assert story.restarter.launches == []
    story.updater._stand_down()


def test_a_release_in_quarantine_is_no_update(story, caplog):
    story.installer.quarantine(RELEASE, "crashed")
    with caplog.at_level("INFO"):
        assert story.updater.check() is None
    assert "version 2.0.0 is in quarantine: it crashed" in caplog.text
    assert story.updater.available is None
    assert story.updater.update() is False
    assert story.updater.tick() == 0
    assert "release" not in story.transport.calls
    assert story.signals == []


def test_the_same_version_with_other_bytes_is_an_update(story):
    story.installer.quarantine(Release(TWO, sha256(b"broken")), "crashed")
    assert story.updater.update() is True
    assert story.installer.program == NEW


def test_a_release_that_goes_into_quarantine_after_the_check_is_not_downloaded(story):
    story.updater.check()
    story.installer.quarantine(RELEASE, "crashed")
    with pytest.raises(QuarantinedError, match="crashed"):
        story.updater.download()
    assert "release" not in story.transport.calls


def test_an_error_is_remembered_until_a_check_goes_well(story):
    story.transport.once["latest"] = HttpRequestFailedError("https://x/latest", "reset")
    story.updater.tick()
    assert story.installer.state().error == "https://x/latest: reset"
    story.updater.check()
    assert story.installer.state().error == ""
    assert story.installer.state().checked is not None


# The smoke test -------------------------------------------------------------------------------------------------------


def test_a_release_that_passes_its_smoke_test_is_installed(make_story):
    story = make_story(smoke_test=["--version"])
    story.transport.releases["2.0.0"] = passing = b"import sys; assert sys.argv[1:] == ['--version']"
    assert story.updater.update() is True
    assert story.installer.program == passing
    assert story.installer.calls.index("make_ready") < story.installer.calls.index("prepare")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (b"raise SystemExit('no such module')", "exit status 1, saying: no such module"),
        (b"import os; os.kill(os.getpid(), 9)", "was killed by signal 9"),
        (b"import signal; signal.pause()", "did not end within 0.5 s"),
    ],
)
def test_a_release_that_fails_its_smoke_test_goes_into_quarantine_and_nothing_was_touched(make_story, source, problem):
    story = make_story(smoke_test=[], smoke_timeout=timedelta(seconds=0.5 if b"pause" in source else 30))
    story.transport.releases["2.0.0"] = source
    with pytest.raises(SmokeTestError, match=problem) as raised:
        story.updater.update()
    [bad] = story.installer.state().bad
    assert (bad.release, bad.reason) == (
        Release(TWO, sha256(source)),
        f"failed its smoke test: it {raised.value.problem.removeprefix('it ')}",
    )
    assert story.installer.program == b"one"
    assert "prepare" not in story.installer.calls
    assert story.installer.state().update is None
    assert story.signals == [
        ("update-available", TWO),
        ("rolled-back", TWO, sha256(source), bad.reason),
        ("update-failed", raised.value),
    ]
    assert story.updater.status == Idle()
    assert story.updater.update() is False
    assert story.installer.state().untold is None


@pytest.mark.parametrize("step", ["make_ready", "prepare"])
def test_a_release_that_must_not_be_unpacked_goes_into_quarantine(make_story, step):
    story = make_story(smoke_test=[] if step == "make_ready" else None)
    story.installer.once[step] = UnsafeArchiveError("leads out of it", "../app")
    with pytest.raises(UnsafeArchiveError) as raised:
        story.updater.update()
    [bad] = story.installer.state().bad
    assert (bad.release, bad.reason) == (RELEASE, "cannot be unpacked: its member '../app' leads out of it")
    assert raised.value.reason == bad.reason
    assert ("rolled-back", TWO, RELEASE.sha256, bad.reason) in story.signals
    assert story.installer.program == b"one"
    assert story.updater.update() is False
    assert story.transport.calls.count("release") == 10


# The guardian ---------------------------------------------------------------------------------------------------------


class FakeGuard:
    """Stands in for `guarding.summon`: notes what it is asked, and what becomes of what it gives."""

    def __init__(self):
        self.asked = []
        self.became = []
        self.error = None
        self.dead = False

    def __call__(self, installer, launch, **facts):
        self.asked.append(facts)
        if self.error:
            raise self.error
        return self

    def take_post(self):
        if self.dead:
            self.dead = False
            raise UnableToGuardError("app", "it was killed")
        self.became.append("ready")
        return self

    def disown(self):
        self.became.append("disowned")

    def go(self):
        self.became.append("go")

    def release(self):
        self.became.append("released")

    def dismiss(self):
        self.became.append("dismissed")


@pytest.fixture
def guard(monkeypatch):
    monkeypatch.delenv("SYSTEMD_EXEC_PID", raising=False)
    monkeypatch.delenv("SUPERVISOR_ENABLED", raising=False)
    monkeypatch.delenv(LAUNCHER, raising=False)
    made = FakeGuard()
    monkeypatch.setattr(protection, "summon", made)
    return made


def test_a_guardian_is_ready_before_the_swap_and_left_alone_after_the_restart(make_story, guard):
    story = make_story(guardian=True, trial_timeout=timedelta(minutes=2))
    story.installer.before["swap"] = lambda: guard.became.append("swap")
    story.restarter.during = lambda: guard.became.append("restart")
    assert story.updater.update() is True
    assert guard.asked == [{"handover": "other", "pid": os.getpid(), "supervised": False, "patience": 120}]
    assert guard.became == ["ready", "swap", "go", "restart", "released"]


def test_a_guardian_is_summoned_before_the_download_and_ready_after_it(make_story, guard):
    story = make_story(guardian=True)
    seen = []
    story.transport.before["release"] = lambda: seen.append((len(guard.asked), list(guard.became)))
    assert story.updater.update() is True
    assert seen[0] == (1, [])
    assert guard.became == ["ready", "go", "released"]
    assert len(guard.asked) == 1


def test_a_guardian_that_was_summoned_for_nothing_is_sent_away(make_story, guard):
    story = make_story(guardian=True)
    story.transport.once["release"] = HttpRequestFailedError("https://updates.example.com/", "no")
    with pytest.raises(HttpRequestFailedError):
        story.updater.update()
    assert (len(guard.asked), guard.became) == (1, ["dismissed"])


def test_no_guardian_is_summoned_while_something_critical_runs_or_there_is_nothing_newer(make_story, guard):
    story = make_story(guardian=True)
    with story.updater.critical_action():
        assert story.updater.update() is False
        assert guard.asked == []
    story.updater.close()
    story = make_story(guardian=True, version="3.0.0")
    assert story.updater.update() is False
    assert guard.asked == []


def test_a_guardian_that_cannot_be_summoned_early_is_asked_for_again(make_story, guard):
    story = make_story(guardian=True)
    guard.error = UnableToGuardError("app", "not now")
    story.transport.before["release"] = lambda: setattr(guard, "error", None)
    assert story.updater.update() is True
    assert len(guard.asked) == 2
    assert guard.became == ["ready", "go", "released"]


def test_a_guardian_that_was_killed_before_it_was_needed_is_replaced(make_story, guard):
    story = make_story(guardian=True)
    story.transport.before["release"] = lambda: setattr(guard, "dead", True)
    assert story.updater.update() is True
    assert len(guard.asked) == 2
    assert guard.became == ["ready", "go", "released"]


def test_the_program_is_kept_before_a_guardian_starts_from_it(make_story, guard):
    story = make_story(guardian=True)
    story.installer.before["keep"] = lambda: guard.became.append("kept" if not guard.asked else "too late")
    assert story.updater.update() is True
    assert guard.became == ["kept", "ready", "go", "released"]


def test_without_room_to_keep_the_program_a_guardian_is_summoned_later(make_story, guard):
    story = make_story(guardian=True)
    story.installer.once["keep"] = UnableToBackUpError("app", "disk full")
    story.transport.before["release"] = lambda: guard.became.append(len(guard.asked))
    assert story.updater.update() is True
    assert set(guard.became) == {0, "ready", "go", "released"}


def test_a_forked_process_leaves_the_guardian_to_its_parent(make_story, guard):
    story = make_story(guardian=True)
    became = []

    def fork():
        if not became:
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.write(write, " ".join(guard.became).encode())
                os._exit(story.updater._protection._summoned is not None)
            os.close(write)
            with os.fdopen(read) as pipe:
                became.append(pipe.read())
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    story.transport.before["release"] = fork
    assert story.updater.update() is True
    assert became == ["disowned"]
    assert guard.became == ["ready", "go", "released"]


def test_without_a_guardian_nothing_is_swapped(make_story, guard):
    story = make_story(guardian=True)
    guard.error = UnableToGuardError("app", "no")
    with pytest.raises(UnableToGuardError):
        story.updater.update()
    assert story.installer.program == b"one"
    assert "swap" not in story.installer.calls
    guard.error = None
    assert story.updater.update() is True


@pytest.mark.parametrize("room", ["swap", "restart"])
def test_a_guardian_is_sent_away_if_nothing_comes_of_the_update(make_story, guard, room):
    story = make_story(guardian=True)

    def fail():
        raise UnableToSwapError("app", "no")

    if room == "swap":
        story.installer.before["swap"] = fail
    else:
        story.restarter.during = fail
    with pytest.raises((UnableToSwapError, UnableToRestartError)):
        story.updater.update()
    assert guard.became == ["ready", *["go"] * (room == "restart"), "dismissed"]
    assert story.installer.program == b"one"


def test_the_guardian_is_told_which_process_will_be_the_new_version(make_story, guard, monkeypatch):
    story = make_story(guardian=True)
    for name, handover in (("exec_restart", "same"), ("exit_restart", "other"), ("gunicorn_restart", "gunicorn")):
        monkeypatch.setattr(protection, name, story.restarter)
        monkeypatch.setattr(protection, "gunicorn_master", lambda launch: 4711)
        story.updater.update()
        assert guard.asked[-1]["handover"] == handover
        assert guard.asked[-1]["supervised"] == (name == "exit_restart")
        assert guard.asked[-1]["pid"] == (4711 if handover == "gunicorn" else os.getpid())
        story.installer.give_back("ended", failed=None)
        story.updater._stand_down()
        monkeypatch.setattr(protection, name, None)


def test_whoever_is_no_worker_of_gunicorn_hears_it_from_the_restart(make_story, guard, monkeypatch):
    story = make_story(guardian=True)
    monkeypatch.setattr(protection, "gunicorn_restart", story.restarter)

    def fail():
        raise OSError("this process is no worker of gunicorn")

    story.restarter.during = fail
    with pytest.raises(UnableToRestartError, match="no worker"):
        story.updater.update()
    assert guard.became == ["ready", "go", "dismissed"]
    assert story.installer.state().update.failures == 0


@pytest.mark.parametrize("supervised", [True, False])
def test_the_host_may_say_whether_it_is_supervised(make_story, guard, monkeypatch, supervised):
    monkeypatch.setenv("SUPERVISOR_ENABLED", "1")
    story = make_story(guardian=True, supervised=supervised)
    story.updater.update()
    assert guard.asked[-1]["supervised"] is supervised


def test_under_a_launcher_that_watches_no_guardian_is_needed(make_story, guard, monkeypatch):
    monkeypatch.setenv(LAUNCHER, "1")
    monkeypatch.setattr(protection, "is_watching", lambda installer: True)
    story = make_story(guardian=True)
    assert story.updater.update() is True
    assert guard.asked == []


def test_whoever_follows_needs_no_guardian(make_story, guard):
    story = make_story(guardian=True)
    story.installer.replace(NEW)
    assert story.updater.update() is True
    assert guard.asked == []


@pytest.mark.parametrize(("process", "watched", "guards"), [(None, False, 1), (None, True, 0), (GONE, False, 1)])
def test_a_version_on_trial_that_nobody_watches_gets_a_guardian(
    make_story, guard, monkeypatch, process, watched, guards
):
    monkeypatch.setattr(updater, "is_watching", lambda installer: watched)
    story = make_story(trial={"process": process}, guardian=True, confirm_automatically=False)
    story.updater._elected_tick()
    assert [each["handover"] for each in guard.asked] == ["same"] * guards
    assert guard.became == ["ready", "go", "released"] * guards
    assert story.updater.on_trial


def test_a_trial_that_nobody_watched_to_its_end_goes_on_only_so_often(make_story, guard, monkeypatch):
    monkeypatch.setattr(updater, "is_watching", lambda installer: False)
    story = make_story(trial={"interruptions": MAX_INTERRUPTIONS - 1}, guardian=True, confirm_automatically=False)
    story.updater._elected_tick()
    assert story.updater.on_trial
    assert story.installer.state().update.interruptions == MAX_INTERRUPTIONS
    assert story.restarter.launches == []
    story.installer.remembered = story.installer.remembered.reported(GONE, 1, "")
    later = story.another()
    later._elected_tick()
    assert later.status == Restarting(Version(1))
    assert story.installer.program == b"one"
    assert story.installer.state().quarantined(sha256(NEW)).reason.startswith("was ended 6 times")
    assert len(guard.asked) == 1
    later.close()


HERE = {"process": os.getpid(), "born": born_at(os.getpid())}


@pytest.mark.usefixtures("guard")
@pytest.mark.parametrize(
    ("trial", "guardian", "watched", "interruptions"),
    [
        pytest.param(HERE, True, False, 0, id="a worker beside the one that has reported"),
        pytest.param({**HERE, "born": "1"}, False, False, 1, id="another has the number now"),
        pytest.param({**HERE, "born": ""}, False, False, 1, id="it had ended as it was reported"),
        pytest.param({"process": GONE, "born": "1"}, False, False, 1, id="it is gone"),
        pytest.param({"process": GONE, "born": "1"}, True, True, 0, id="that is for the guardian to see"),
        pytest.param({}, False, False, 0, id="the first, without a guardian"),
        pytest.param({}, True, True, 0, id="the first, with a guardian"),
        pytest.param({}, True, False, 1, id="the guardian has gone with the first"),
    ],
)
def test_an_interruption_is_what_nobody_has_seen_to_its_end(
    make_story, monkeypatch, trial, guardian, watched, interruptions
):
    monkeypatch.setattr(updater, "is_watching", lambda installer: watched)
    story = make_story(trial=trial, guardian=guardian, confirm_automatically=False)
    story.updater._elected_tick()
    assert story.updater.on_trial
    assert story.installer.state().update.interruptions == interruptions


def test_a_version_on_trial_can_prove_good_without_a_guardian(make_story, guard, monkeypatch):
    monkeypatch.setattr(updater, "is_watching", lambda installer: False)
    guard.error = UnableToGuardError("app", "no")
    story = make_story(trial={}, guardian=True, trial_period=timedelta())
    story.updater._elected_tick()
    story.wait_for_signal("update-confirmed")


# Ticks and back-off ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [HttpRequestFailedError("https://x", "reset"), ZeroDivisionError(), OSError("no")])
def test_a_tick_logs_what_fails_and_never_raises(story, caplog, error):
    story.transport.once["latest"] = error
    story.updater.tick()
    assert type(error).__name__ in caplog.text
    assert story.updater.status == Idle()


def test_each_failure_in_a_row_doubles_the_wait_up_to_an_hour(make_story):
    story = make_story(check_interval=timedelta(minutes=4))
    story.transport.always["latest"] = HttpRequestFailedError("https://x", "reset")
    assert [story.updater.tick() for _ in range(6)] == [240, 480, 960, 1920, 3600, 3600]
    for _ in range(2000):
        story.updater._manners.failed(ZeroDivisionError())
    assert story.updater.tick() == 3600
    story.transport.always.clear()
    story.installer.locked = True
    assert story.updater.tick() == 0  # somebody else is at it: neither a failure nor a success
    story.installer.locked = False
    story.transport.always["latest"] = ZeroDivisionError()
    assert story.updater.tick() == 3600
    story.transport.always.clear()
    assert story.updater.tick() == 0


def test_a_long_interval_is_not_shortened_by_failures_and_none_stays_none(make_story):
    daily = make_story(check_interval=timedelta(days=1))
    manual = make_story()
    for story, expected in ((daily, 86400), (manual, 0)):
        story.transport.always["latest"] = HttpRequestFailedError("https://x", "reset")
        assert [story.updater.tick() for _ in range(3)] == [expected] * 3


@pytest.mark.parametrize(("asked", "wait"), [(None, 240), (100.0, 240), (90000.0, 90000)])
def test_a_server_that_asks_for_more_time_gets_it(make_story, asked, wait):
    story = make_story(check_interval=timedelta(minutes=4))
    story.transport.once["latest"] = ServerBusyError("https://x", 503, asked)
    assert story.updater.tick() == wait


# Subscribers ----------------------------------------------------------------------------------------------------------


def test_whoever_unsubscribed_hears_nothing(story):
    heard = []

    @story.updater.subscribe
    def handler(status):
        heard.append(status)

    story.updater.unsubscribe(handler)
    story.updater.unsubscribe(handler)
    story.updater.check()
    assert heard == []


def test_a_subscriber_that_raises_stops_no_update(story):
    def bad(*_, **__):
        raise ZeroDivisionError

    story.updater.subscribe(bad)
    with signals.status_changed.connected_to(bad, sender=story.updater):
        assert story.updater.update() is True


def test_signals_tell_the_same_statuses_with_the_updater_as_sender(story):
    heard = []

    def receiver(sender, status):
        heard.append((sender, status))

    with signals.status_changed.connected_to(receiver):
        story.updater.update()
    assert heard == [(story.updater, status) for status in story.statuses]


# The end --------------------------------------------------------------------------------------------------------------


def test_a_closed_updater_refuses_everything(story):
    story.updater.close()
    story.updater.close()
    for name in ("start", "check", "download", "install", "restart", "update"):
        with pytest.raises(ClosedError):
            getattr(story.updater, name)()
    story.updater._elected_tick()
    assert story.updater.tick() == 0
    assert story.transport.closed
    assert story.transport.calls == []
    assert "retire" in story.installer.calls


@pytest.mark.parametrize(
    ("error", "orderly"),
    [
        (None, True),
        (KeyboardInterrupt(), True),
        (SystemExit(), True),
        (SystemExit(0), True),
        (SystemExit(1), False),
        (SystemExit("no"), False),
        (ZeroDivisionError(), False),
    ],
)
def test_a_block_that_ends_in_good_order_leaves_word_of_it(make_story, error, orderly):
    story = make_story(trial={}, confirm_automatically=False)
    with contextlib.suppress(BaseException), story.updater:
        story.wait_for_trial()
        if error is not None:
            raise error
    assert bool(story.installer.ended(os.getpid())) is orderly
    story.updater.close()
    assert bool(story.installer.ended(os.getpid())) is orderly


def test_closing_leaves_word_while_on_trial(make_story):
    story = make_story(trial={}, confirm_automatically=False)
    story.updater.start()
    story.wait_for_trial()
    story.updater.close()
    assert story.installer.ended(os.getpid()) == "it closed its updater"


@pytest.mark.skipif(os.name != "posix", reason="these are signals of POSIX")
def test_signals_are_listened_to_from_the_start_to_the_close_of_a_version_on_trial(make_story):
    before = signal.getsignal(signal.SIGTERM)
    story = make_story(trial={}, confirm_automatically=False)
    story.updater.start()
    assert signal.getsignal(signal.SIGTERM) is not before
    story.updater.close()
    assert signal.getsignal(signal.SIGTERM) is before


def test_closing_gives_up_a_pending_restart_and_lets_actions_start(make_story):
    story = make_story(restart_wait_ceiling=timedelta(hours=1))
    story.updater.register_action()
    story.updater.update()
    story.updater.close()
    assert story.updater.status == Idle()
    assert story.updater.register_action() == 2
    story.updater.deregister_action()
    story.updater.deregister_action()
    story.updater._go_on()  # one that was on its way already
    assert story.restarter.launches == []
    assert story.installer.state().update.release.version == TWO  # for the next start


@pytest.mark.parametrize("step", ["prepare", "lock"])
def test_no_restart_follows_after_closing_even_if_what_is_under_way_takes_longer_than_it_waits(
    story, monkeypatch, step
):
    monkeypatch.setattr(updater, "_CLOSE_PATIENCE", 0.01)
    pause = Pause()
    if step == "prepare":
        story.installer.before["prepare"] = pause
        go_on = story.updater.tick
    else:  # the last action has ended, and another process still has the lock
        story.updater.register_action()
        story.updater.update()
        story.installer.before["lock"] = pause
        go_on = story.updater.deregister_action
    thread = in_thread(go_on)
    assert pause.reached.wait(PATIENCE)
    story.updater.close()
    pause.go.set()
    thread.join(PATIENCE)
    story.wait_for_status(Idle)
    assert story.restarter.launches == []
    assert story.installer.program == b"one"
    wait_until(story.updater.register_action, "the gate to open")


def test_closing_while_a_restart_is_under_way_leaves_no_alarm(story):
    story.updater.update()
    story.updater.close()
    assert story.updater.status == Restarting(TWO)
    assert story.updater._alarm is None


def test_a_program_that_ends_as_its_last_action_ends_is_not_started_anew(story):
    with story.updater.critical_action("saving"):
        assert story.updater.update() is False
    story.updater.close()
    wait_until(lambda: not [each for each in threading.enumerate() if each.name == "patchify-restart"], "its thread")
    assert story.restarter.launches == []
    assert story.updater.status == Idle()
    assert story.updater.register_action() == 1


def test_closing_while_the_restart_is_announced_still_prevents_it(story):
    @story.updater.subscribe
    def close(status):
        if isinstance(status, Restarting):
            story.updater._closing.set()

    with pytest.raises(ClosedError):
        story.updater.update()
    assert story.installer.program == b"one"
    assert story.restarter.launches == []


def test_without_a_thread_for_the_restart_everything_is_open_again(story, monkeypatch):
    story.updater.register_action()
    story.updater.update()
    with monkeypatch.context() as patch:
        patch.setattr(updater.threading.Thread, "start", no_thread)
        story.updater.deregister_action()
    assert story.updater.status == Idle()
    assert story.updater.register_action() == 1
    story.updater.deregister_action()
    assert story.updater.restart() is True


def no_thread(thread):
    raise RuntimeError("can't start new thread")


def test_a_release_that_vanished_while_it_was_staged_is_downloaded_and_prepared_anew(make_story):
    story = make_story(automatic="stage")
    story.updater.install()
    story.installer.downloads.clear()
    story.statuses.clear()
    assert story.updater.update() is True
    assert story.printed[-5:] == [DOWNLOADING[-1], *STAGING, "Restarting: 2.0.0"]


def test_a_subscriber_may_close_the_updater(story):
    story.updater.subscribe(lambda status: isinstance(status, Downloading) and story.updater.close())
    story.transport.before["release"] = lambda: wait_until(lambda: story.transport.closed, "closing")
    with pytest.raises(ClosedError):
        story.updater.update()
    story.wait_for_status(Idle)
    assert story.restarter.launches == []


def test_a_restarter_may_close_the_updater(make_story):
    story = make_story(check_on_startup=True)
    story.restarter.during = story.updater.close
    story.updater.start()
    story.wait_for_status(Restarting)
    wait_until(lambda: "retire" in story.installer.calls, "closing")


# Several processes ----------------------------------------------------------------------------------------------------

HOST = """
import json, os, sys, threading
from datetime import timedelta
from pathlib import Path
sys.path.insert(0, {root!r})
from patchify.client import Config, Updater
from patchify.keys import SigningKey
from tests.client.fakes import FakeRestarter, FakeTransport

key = SigningKey.from_hex("11" * 32)
transport = FakeTransport(key, {{"2.0.0": b"two"}})
updater = Updater(
    Config(
        version="1.0.0",
        api="https://x",
        key=key.verifying_key,
        executable=sys.argv[1],
        automatic=sys.argv[2],
        check_on_startup=True,
        least_interval=timedelta(),
        guardian=False,
    ),
    transport=transport,
    restarter=FakeRestarter(),
)

def say(**facts):
    print(json.dumps(facts), flush=True)
"""

FORKING = (
    HOST
    + """
reached, go = threading.Event(), threading.Event()
transport.before["hash"] = lambda: (reached.set(), go.wait(30))
updater.register_action("saving")
updater.start()  # is elected, has the lock, and is in the middle of an update when the fork comes
reached.wait(30)
child = os.fork()
if child == 0:
    transport.before.clear()
    transport.calls.clear()
    threads = [thread.name for thread in threading.enumerate()]
    updater.deregister_action("saving")
    tick = updater._elected_tick()
    say(threads=threads, status=str(updater.status), calls=transport.calls, allowed=updater.register_action())
    updater.deregister_action()
    try:
        updater.check()
    except Exception as error:
        say(refused=type(error).__name__)
    sys.stdin.readline()  # now the parent has ended
    updater.start()
    while not updater._restarter.launches:
        pass
    say(status=str(updater.status), calls=transport.calls)
    os._exit(0)
go.set()
while str(updater.status) != "Pending restart: 2.0.0":
    pass
os._exit(0)
"""
)

TICKING = (
    HOST
    + """
say(ready=True)
for line in sys.stdin:
    updater._elected_tick()
    say(calls=len(transport.calls), status=str(updater.status))
"""
)


class Host:
    """A process that runs one of these programs, and answers in lines of JSON."""

    def __init__(self, folder: Path, source: str, automatic: str = "restart"):
        program = folder / "host.py"
        program.write_text(source.format(root=str(ROOT)))
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "ignore", program, folder / "app", automatic],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def hear(self) -> dict:
        return json.loads(self.popen.stdout.readline())

    def ask(self) -> dict:
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()
        return self.hear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(PATIENCE)
        self.popen.stdin.close()
        self.popen.stdout.close()


@pytest.fixture
def app(tmp_path):
    (tmp_path / "app").write_bytes(b"one")
    return tmp_path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_nothing_of_its_parent_but_the_configuration_and_polls_only_when_started(app):
    with Host(app, FORKING) as host:
        first = host.hear()
        assert first == {"threads": ["MainThread"], "status": "Idle", "calls": [], "allowed": 1}
        assert host.hear() == {"refused": "UpdateInProgressError"}  # the parent has the lock, not the child
        host.popen.wait(PATIENCE)
        second = host.ask()
        assert second["status"] == "Restarting: 2.0.0"
        assert (app / "app").read_bytes() == b"two"


def test_of_two_processes_one_acts_until_it_ends(app):
    with Host(app, TICKING, "check") as one, Host(app, TICKING, "check") as other:
        assert one.hear() == other.hear() == {"ready": True}
        assert one.ask() == {"calls": 1, "status": "Idle"}
        assert other.ask() == {"calls": 1, "status": "Idle"}  # at its start it only asks
        assert one.ask() == {"calls": 2, "status": "Idle"}
        assert other.ask() == {"calls": 1, "status": "Idle"}
        one.popen.kill()
        one.popen.wait(PATIENCE)
        assert other.ask() == {"calls": 2, "status": "Idle"}


def test_of_two_processes_the_other_follows_to_the_new_version_once_that_is_decided(app):
    with Host(app, TICKING, "restart") as one, Host(app, TICKING, "restart") as other:
        assert one.hear() == other.hear() == {"ready": True}
        assert one.ask()["status"] == "Restarting: 2.0.0"
        assert (app / "app").read_bytes() == b"two"
        assert other.ask() == {"calls": 0, "status": "Idle"}
        installer = FileInstaller(app / "app")
        state = installer.state()
        assert (state.on_trial.release.version, state.on_trial.process, state.on_trial.reason) == (TWO, None, "")
        with installer.lock(PATIENCE):
            assert installer.confirm()
        assert other.ask() == {"calls": 0, "status": "Restarting: 2.0.0"}  # without asking anybody

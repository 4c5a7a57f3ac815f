"""What an updater tells of its updates, to a server that is not real."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from semver import Version

from patchify.client.reporter import Reporter
from patchify.client.state import Release
from patchify.errors import (
    ClosedError,
    FailedHashVerificationError,
    HttpError,
    HttpRequestFailedError,
    QuarantinedError,
    ServerBusyError,
    SmokeTestError,
    UnableToReadFileError,
    UnableToWriteDownloadError,
    UpdateInProgressError,
)
from patchify.reports import Event
from tests.client.offering import offered
from tests.client.test_offers import NEW, TWO, Desk
from tests.running import PATIENCE, wait_until


@pytest.fixture
def make_desk(key, tmp_path):
    desks = []

    def make(**config) -> Desk:
        desk = Desk(key, **{"reports": True, "automatic": "stage", **config})
        desk.installer.folder = tmp_path
        desk.start_anew()
        desks.append(desk)
        return desk

    yield make
    for desk in desks:
        desk.updater.close()


def told(desk):
    return [
        (report["event"], report["version"], report["release"], report["reason"])
        for batch in desk.transport.reports
        for report in batch["reports"]
    ]


def test_an_update_is_told_of_step_by_step_in_one_batch(make_desk):
    desk = make_desk(channel="beta")
    desk.serve(desk.offer(), channel="beta")
    desk.updater.tick()
    assert told(desk) == [
        ("checked", "1.0.0", None, ""),
        ("downloaded", "1.0.0", "2.0.0", "whole (300 bytes)"),
        ("staged", "1.0.0", "2.0.0", ""),
    ]
    (batch,) = desk.transport.reports
    assert (batch["appname"], batch["platform"], batch["channel"]) == ("app", "linux-x86_64", "beta")
    assert batch["installation"] is None


def test_nothing_is_told_unless_it_is_wanted(make_desk, tmp_path):
    desk = make_desk(reports=False, report_installation=True)
    desk.serve(desk.offer())
    desk.updater.tick()
    assert "report" not in desk.transport.calls
    assert list(tmp_path.iterdir()) == []


def test_the_id_of_the_installation_is_told_if_that_is_wanted(make_desk):
    desk = make_desk(report_installation=True)
    desk.serve()
    desk.updater.tick()
    assert desk.transport.reports[0]["installation"] == desk.installer.memory().installation


def test_a_version_that_proves_good_is_told_of_at_once(make_desk):
    desk = make_desk(version="2.0.0", trial_period=timedelta())
    desk.installer.on_trial(TWO, NEW)
    desk.start_anew()
    desk.serve()
    desk.updater.start()
    wait_until(lambda: ("running", "2.0.0", None, "") in told(desk), "the report")


def test_a_host_that_confirms_does_not_wait_for_the_server_of_the_reports(make_desk):
    desk = make_desk(version="2.0.0", confirm_automatically=False)
    desk.installer.on_trial(TWO, NEW)
    desk.start_anew()
    desk.serve()
    go_on = threading.Event()
    desk.transport.before["report"] = lambda: go_on.wait(PATIENCE)
    desk.updater.start()
    wait_until(lambda: desk.updater.on_trial, "the trial")
    assert desk.updater.confirm()
    assert told(desk) == []
    go_on.set()
    wait_until(lambda: told(desk), "the report")


def test_a_release_that_was_taken_back_is_told_of_by_the_one_that_survives(make_desk):
    desk = make_desk()
    desk.installer.remembered = desk.installer.state().condemned(Release(TWO, "22" * 32), "crashed")
    desk.serve()
    desk.updater.start()
    wait_until(lambda: ("rolled-back", "1.0.0", "2.0.0", "crashed") in told(desk), "the report")


def test_a_failure_is_told_of_once_however_often_it_comes(make_desk):
    desk = make_desk()
    desk.serve(offered("2.0.0", "99" * 32))
    for _ in range(3):
        desk.updater.tick()
    failures = [each for each in told(desk) if each[0] == "failed"]
    assert len(failures) == 1
    assert failures[0][1:3] == ("1.0.0", "2.0.0")
    assert failures[0][3] == "FailedHashVerificationError"


def test_a_check_that_fails_is_no_failure_of_a_release(make_desk):
    desk = make_desk()
    desk.serve()
    desk.transport.always["update"] = HttpRequestFailedError("https://x", "no network")
    desk.updater.tick()
    assert told(desk) == []


def test_reports_wait_until_the_application_is_known(make_desk):
    desk = make_desk(appname=None)
    desk.transport.releases = {"1.0.0": b"one"}
    desk.updater.tick()  # by the original protocol, which does not tell
    assert desk.transport.reports == []
    desk.serve()
    desk.updater.tick()
    assert told(desk) == [("checked", "1.0.0", None, "")] * 2


def test_a_server_that_takes_none_now_gets_them_another_time(make_desk):
    desk = make_desk()
    desk.serve()
    desk.transport.once["report"] = HttpRequestFailedError("https://x", "no network")
    desk.updater.tick()
    assert told(desk) == []
    desk.updater.tick()
    assert told(desk) == [("checked", "1.0.0", None, "")]
    desk.updater.tick()
    assert told(desk) == [("checked", "1.0.0", None, "")] * 3


def test_after_an_attempt_that_failed_the_next_process_does_not_try_at_once(make_desk):
    desk = make_desk(least_interval=timedelta(minutes=1))
    desk.serve()
    desk.transport.always["report"] = HttpRequestFailedError("https://x", "no network")
    for _ in range(3):
        desk.updater.tick()
        desk.start_anew()
    assert desk.transport.calls.count("report") == 1


def tell_of(desk, *errors, release=TWO):
    reporter = Reporter(desk.config, desk.installer, desk.transport.report)
    for error in errors:
        reporter.tell_of_failure(release, error)
    reporter.flush()
    return [(event, reason) for event, _, version, reason in told(desk) if version == str(release)]


DAMAGED = FailedHashVerificationError("2.0.0", expected="22", found="33")
CRASHED = SmokeTestError("2.0.0", "it was killed by signal 11, saying: /home/bob")


def test_failures_of_several_kinds_that_take_turns_are_told_of_once_each(make_desk):
    desk = make_desk()
    assert tell_of(desk, DAMAGED, CRASHED, DAMAGED, CRASHED) == [
        ("failed", "FailedHashVerificationError"),
        ("failed", "SmokeTestError (it was killed by signal 11)"),
    ]
    again = tell_of(desk, CRASHED, DAMAGED, release=Version(3))
    assert [reason.split()[0] for _, reason in again] == ["SmokeTestError", "FailedHashVerificationError"]


@pytest.mark.parametrize(
    "error",
    [
        HttpRequestFailedError("https://x", "no network"),
        UnableToWriteDownloadError("/home/bob/app", "No space left on device"),
        UpdateInProgressError("busy"),
        HttpError("https://x", 403),
        ClosedError(),
        QuarantinedError("2.0.0", "ended with exit status 1"),
    ],
)
def test_a_release_is_not_blamed_for_what_may_be_its_users_network_disk_or_wish(make_desk, error):
    desk = make_desk()
    assert tell_of(desk, error, DAMAGED) == [("failed", "FailedHashVerificationError")]


def test_reports_go_by_the_channel_that_was_chosen(make_desk):
    desk = make_desk()
    desk.updater.choose(channel="beta")
    desk.serve(channel="beta")
    desk.updater.tick()
    assert desk.transport.reports[0]["channel"] == "beta"


def test_a_server_that_wants_to_be_left_alone_gets_no_reports(make_desk):
    desk = make_desk()
    desk.serve()
    desk.transport.once["report"] = ServerBusyError("https://x", 429, 3600)
    desk.updater.tick()
    desk.start_anew()
    desk.updater.tick()
    assert len(desk.transport.asked) == 1, "nor is it asked for anything else"
    Reporter(desk.config, desk.installer, desk.transport.report).flush()
    assert desk.transport.calls.count("report") == 1
    past = datetime.now(UTC) - timedelta(seconds=1)
    desk.installer.memorized = replace(desk.installer.memorized, retry_at=past)
    desk.updater.tick()
    assert told(desk) == [("checked", "1.0.0", None, "")]


def test_reports_are_sent_by_a_thread_of_their_own_where_nobody_is_to_wait(make_desk):
    desk = make_desk()
    reporter = Reporter(desk.config, desk.installer, desk.transport.report)
    reporter.tell(Event.CHECKED)
    seen = []
    desk.transport.before["report"] = lambda: seen.append(threading.current_thread())
    reporter.flush_soon()
    wait_until(lambda: told(desk), "the report")
    seen[0].join()
    assert (seen[0].name, seen[0].daemon) == ("patchify-reports", True)


def test_without_a_thread_to_be_had_reports_wait(make_desk, monkeypatch):
    def none(thread):
        raise RuntimeError("can't start new thread")

    desk = make_desk()
    reporter = Reporter(desk.config, desk.installer, desk.transport.report)
    reporter.tell(Event.CHECKED)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        reporter.flush_soon()
    reporter.flush()
    assert told(desk) == [("checked", "1.0.0", None, "")]


def test_where_reports_are_not_wanted_no_thread_is_started_for_them(make_desk, monkeypatch):
    desk = make_desk(reports=False)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: pytest.fail("a thread"))
    Reporter(desk.config, desk.installer, desk.transport.report).flush_soon()


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("memory", UnableToReadFileError("memory.json", "Input/output error")),
        ("remember", UpdateInProgressError("busy")),
    ],
)
def test_what_stands_in_the_way_of_a_report_stands_in_the_way_of_nothing_else(make_desk, monkeypatch, step, error):
    desk = make_desk()

    def fail(*arguments):
        raise error

    monkeypatch.setattr(desk.installer, step, fail)
    reporter = Reporter(desk.config, desk.installer, desk.transport.report)
    reporter.tell(Event.CHECKED)
    reporter.tell_of_failure(TWO, DAMAGED)
    reporter.flush()
    assert "failed" not in {each[0] for each in told(desk)}

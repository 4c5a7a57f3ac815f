"""What an updater tells of its updates, to a server that is not real."""

from datetime import timedelta

import pytest
from semver import Version

from patchify.client.reporter import Reporter
from patchify.client.state import Release
from patchify.errors import HttpRequestFailedError, UnableToReadFileError, UpdateInProgressError
from patchify.reports import Event
from tests.client.offering import offered
from tests.client.test_offers import NEW, TWO, Desk
from tests.running import wait_until


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
        ("downloaded", "1.0.0", "2.0.0", ""),
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
    assert failures[0][3].startswith("FailedHashVerificationError: ")


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


@pytest.mark.parametrize(
    ("step", "error"),
    [("memory", UnableToReadFileError("memory.json", "Input/output error")), ("lock", UpdateInProgressError("busy"))],
)
def test_what_stands_in_the_way_of_a_report_stands_in_the_way_of_nothing_else(make_desk, monkeypatch, step, error):
    desk = make_desk()

    def fail(*arguments):
        raise error

    monkeypatch.setattr(desk.installer, step, fail)
    reporter = Reporter(desk.config, desk.installer, desk.transport.report)
    reporter.tell(Event.CHECKED)
    reporter.tell_of_failure(Version(2), error)
    reporter.flush()
    assert "failed" not in {each[0] for each in told(desk)}

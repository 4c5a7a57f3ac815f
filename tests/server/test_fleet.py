import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import delete, event, func, select

from patchify import signals
from patchify.errors import CatalogueError, CatalogueUnavailableError
from patchify.releases import Placement, Release, ReleaseState, Schedule
from patchify.reports import Batch, Event, Report
from patchify.server import fleet as module
from patchify.server import fleet_schema, outcomes
from patchify.server.fleet import KEPT_DAYS, OTHER, SEEN_DAYS, Fleet
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.versions import parse_version

NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
DAY = timedelta(days=1)
LINUX = "linux-x86_64"


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request, tmp_path_factory):
    """Return a catalogue of either kind, which all tests here share."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('fleet') / 'catalogue.db'}"
    else:
        url = request.getfixturevalue("postgresql")()
    return made(url)


def made(url) -> SqlCatalogue:
    catalogue = SqlCatalogue(url, look_every=0)
    if url.startswith("sqlite"):  # nothing of it is to be kept
        event.listen(catalogue.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    catalogue.create()
    return catalogue


@pytest.fixture
def catalogue(database):
    """Return the catalogue, in which nothing is."""
    with database.transaction() as transaction:
        for each in list(transaction.releases().values()):
            transaction.remove(each)
    with database.writing() as connection:
        for table in fleet_schema.metadata.sorted_tables:
            connection.execute(delete(table))
    return database


@pytest.fixture
def fleet(catalogue, publish, clock):
    """Return the fleet of a catalogue that knows three versions, in two channels, none of which is watched."""
    published = (release(version, pause_above=None) for version in ("1.0.0", "2.0.0", "3.0.0"))
    beta = replace(release().placed("stable"), channel="beta", pause_above=None)
    publish(*(each.with_placement(beta) for each in published))
    return Fleet(catalogue, now=clock)


@pytest.fixture
def record(fleet, clock):
    """Return a function that records a batch: ``("running", "1.0.0", "2.0.0")``, ..."""
    numbers = iter(range(10**6))

    def record(*told, at=None, installation=None, platform=LINUX, channel="stable", number=None) -> bool:
        reports = tuple(
            Report(
                Event(event), at or clock.now, parse_version(version), parse_version(release[0]) if release else None
            )
            for event, version, *release in told
        )
        name = f"{next(numbers) if number is None else number:032x}"
        known = None if installation is None else str(UUID(int=installation))
        return fleet.record(Batch(name, "app", platform, channel, known, reports))

    return record


def release(version="2.0.0", platform="any", **place) -> Release:
    place = {"channel": "stable", "state": ReleaseState.LIVE, "pause_above": 50, "pause_after": 3, **place}
    placement = Placement(since=NOW - DAY, changed=NOW - DAY, schedule=Schedule.parse("10"), seed="seed", **place)
    return Release(parse_version(version), "ab" * 32, size=5, platform=platform, published=NOW, placements=(placement,))


@pytest.fixture
def publish(catalogue):
    def publish(*releases):
        with catalogue.transaction() as transaction:
            for each in releases:
                transaction.put(each)

    return publish


@pytest.fixture
def place(catalogue):
    """Return a function that returns the place of a release in a channel."""
    return lambda name=("2.0.0", "any"), channel="stable": catalogue.snapshot().releases[name].placed(channel)


def rows(fleet, table) -> int:
    with fleet._catalogue.writing() as connection:
        return connection.scalar(select(func.count()).select_from(table))


# Counting -------------------------------------------------------------------------------------------------------------


def test_nothing_is_known_of_an_empty_fleet(fleet):
    assert fleet.versions() == []


def test_what_is_told_is_counted_for_the_version_that_it_is_about(fleet, record):
    record(("checked", "1.0.0"), ("downloaded", "1.0.0", "2.0.0"), ("staged", "1.0.0", "2.0.0"))
    record(("checked", "1.0.0"), ("checked", "2.0.0"), ("running", "2.0.0", "2.0.0"))
    record(("checked", "1.0.0"), ("failed", "1.0.0", "2.0.0"), ("rolled-back", "1.0.0", "2.0.0"))
    one, two = fleet.versions()
    assert one.to_json() == {
        "version": "1.0.0",
        "installations": 0,
        "checks": 3,
        "share": 0.75,
        "downloaded": 0,
        "staged": 0,
        "running": 0,
        "failed": 0,
        "rolled_back": 0,
        "patch_failed": 0,
    }
    assert (two.version, two.checks, two.share) == ("2.0.0", 1, 0.25)
    assert (two.downloaded, two.staged, two.running, two.failed, two.rolled_back) == (1, 1, 1, 1, 1)


def test_a_batch_is_counted_once(fleet, record):
    assert record(("checked", "1.0.0"), number=7)
    assert not record(("checked", "1.0.0"), number=7)
    assert [each.checks for each in fleet.versions()] == [1]


def test_the_share_is_that_of_installations_where_they_tell_their_id(fleet, record):
    for installation in range(3):
        record(("checked", "1.0.0"), installation=installation)
    record(("checked", "2.0.0"), installation=2)
    record(*[("checked", "3.0.0")] * 50)
    found = {each.version: (each.installations, each.share) for each in fleet.versions()}
    assert found == {"1.0.0": (2, 2 / 3), "2.0.0": (1, 1 / 3), "3.0.0": (0, 0.0)}


def test_one_channel_or_platform_can_be_looked_at(fleet, record):
    record(("checked", "1.0.0"), installation=1)
    record(("checked", "2.0.0"), installation=2, channel="beta")
    record(("checked", "3.0.0"), installation=3, platform="macos-arm64")

    def shown(**where):
        return {each.version: (each.installations, each.checks, each.share) for each in fleet.versions(**where)}

    assert shown(channel="beta") == {"2.0.0": (1, 1, 1.0)}
    assert shown(platform="macos-arm64") == {"3.0.0": (1, 1, 1.0)}
    assert shown(channel="beta", platform="macos-arm64") == {}
    assert len(shown(channel="stable")) == 2


def test_what_was_not_heard_of_for_a_week_is_not_in_the_field_but_its_outcomes_count(fleet, record, clock):
    record(("checked", "1.0.0"), ("running", "1.0.0", "1.0.0"), installation=1)
    clock.now += SEEN_DAYS * DAY
    record(("checked", "2.0.0"), installation=2)
    two, one = fleet.versions()
    assert (two.installations, two.checks, two.share) == (1, 1, 1.0)
    assert (one.installations, one.checks, one.share, one.running) == (0, 0, 0.0, 1)


def test_outcomes_without_any_check_make_no_share(fleet, record):
    record(("running", "1.0.0"))
    assert [(each.version, each.share) for each in fleet.versions()] == [("1.0.0", 0.0)]


def test_a_report_counts_for_its_own_day_unless_that_is_long_ago_or_to_come(fleet, record, clock):
    record(("checked", "1.0.0"), at=NOW - 2 * DAY)
    record(("checked", "1.0.0"), at=NOW - (SEEN_DAYS - 1) * DAY)
    for days in (SEEN_DAYS, KEPT_DAYS, 10_000):
        record(("checked", "1.0.0"), at=NOW - days * DAY)  # told late, or by a wrong clock: counts as of a week ago
    record(("checked", "1.0.0"), at=NOW + 1000 * DAY)  # counts as of today
    assert rows(fleet, fleet_schema.counts) == 3
    assert [each.checks for each in fleet.versions()] == [6]
    clock.now += DAY
    assert [each.checks for each in fleet.versions()] == [2]
    clock.now += (SEEN_DAYS - 1) * DAY
    assert fleet.versions() == []


def test_what_the_catalogue_does_not_know_takes_up_no_room(fleet, record):
    for number in range(5):
        record(("checked", f"9.{number}.0"), installation=number)
        record(("checked", "1.0.0"), platform=f"linux-made{number}", installation=10 + number)
        record(("checked", "1.0.0"), channel=f"made{number}", installation=20 + number)
    record(("checked", "1.0.0"), platform="windows-arm64")  # no build is for it, but programs run there
    assert rows(fleet, fleet_schema.counts) == 4
    shown = {each.version: (each.checks, each.installations) for each in fleet.versions()}
    assert shown == {"1.0.0": (11, 10), OTHER: (5, 5)}
    assert fleet.versions(platform=OTHER)[0].to_json()["installations"] == 5
    assert fleet.versions(channel=OTHER)[0].to_json()["installations"] == 5


def test_a_platform_that_a_build_is_for_is_counted_under_its_name(fleet, record, publish):
    publish(release("1.0.0", platform="haiku-x86_64"))
    record(("checked", "1.0.0"), platform="haiku-x86_64")
    assert [each.checks for each in fleet.versions(platform="haiku-x86_64")] == [1]


@pytest.fixture
def crowded(monkeypatch):
    """Let tables of a fleet that is made later have two rows."""
    monkeypatch.setattr(module, "MOST_ROWS", 2)


@pytest.mark.usefixtures("crowded")
def test_beyond_a_limit_of_rows_all_is_counted_as_one(fleet, record):
    for version in ("1.0.0", "2.0.0", "3.0.0", "3.0.0", "1.0.0"):
        record(("checked", version))
    assert {each.version: each.checks for each in fleet.versions()} == {"1.0.0": 2, "2.0.0": 1, OTHER: 2}
    assert rows(fleet, fleet_schema.counts) == 3


@pytest.mark.usefixtures("crowded")
def test_beyond_a_limit_of_installations_further_ones_are_not_kept(fleet, record):
    for installation in (1, 2, 3, 4):
        record(("checked", "1.0.0"), installation=installation)
    record(("checked", "2.0.0"), installation=2)
    record(("checked", "2.0.0"), installation=3)
    found = {each.version: (each.installations, each.checks) for each in fleet.versions()}
    assert found == {"1.0.0": (1, 4), "2.0.0": (1, 2)}


@pytest.mark.usefixtures("crowded")
def test_beyond_a_limit_of_batches_further_ones_are_counted_but_not_remembered(fleet, record):
    assert [record(("checked", "1.0.0"), number=number) for number in (1, 2, 3, 4, 1, 2)] == [True] * 4 + [False] * 2
    assert rows(fleet, fleet_schema.batches) == 2
    assert [each.checks for each in fleet.versions()] == [4]


def test_no_report_makes_all_rows_be_counted(catalogue, fleet, record):
    record(("checked", "1.0.0"), installation=1)
    asked = []

    def hear(connection, cursor, statement, *_):
        asked.append(statement.lower())

    event.listen(catalogue.engine, "before_cursor_execute", hear)
    try:
        record(("checked", "2.0.0"), ("checked", "9.0.0"), installation=2)
    finally:
        event.remove(catalogue.engine, "before_cursor_execute", hear)
    assert any("fleet_counts" in each for each in asked)
    assert not any("count(*)" in each for each in asked)


def test_what_is_old_is_forgotten_once_a_day(fleet, record, clock, publish):
    publish(release())
    record(("checked", "1.0.0"), ("running", "1.0.0", "2.0.0"), installation=1)
    tables = (fleet_schema.batches, fleet_schema.counts, fleet_schema.installations, fleet_schema.outcomes)
    assert [rows(fleet, table) for table in tables] == [1, 2, 1, 1]
    clock.now += (KEPT_DAYS - 1) * DAY
    record(("checked", "1.0.0"), installation=2)
    assert [rows(fleet, table) for table in tables] == [1, 3, 2, 1]  # a batch comes again soon or never
    clock.now += DAY
    record(("checked", "1.0.0"), installation=2)
    assert [rows(fleet, table) for table in tables] == [2, 2, 1, 0]


def test_forgetting_can_wait(fleet, record, monkeypatch, caplog):
    caplog.set_level(logging.INFO)

    def fail(table):
        raise CatalogueUnavailableError("sqlite://", "locked")

    monkeypatch.setattr(module, "delete", fail)
    assert record(("checked", "1.0.0"))
    assert "old counts stay for now" in caplog.text


def test_a_database_that_fails_is_one_error_and_nothing_is_counted(catalogue_url):
    catalogue = made(catalogue_url)
    fleet = Fleet(catalogue)
    with catalogue.writing() as connection:
        fleet_schema.counts.drop(connection)
    report = Report(Event.CHECKED, NOW, parse_version("1.0.0"))
    with pytest.raises(CatalogueError):
        fleet.record(Batch("0" * 32, "app", LINUX, "stable", None, (report,)))
    with pytest.raises(CatalogueError):
        fleet.versions()
    assert rows(fleet, fleet_schema.batches) == 0


def test_several_count_at_once(catalogue, fleet, record):
    def tell(number):
        other = Fleet(catalogue, now=lambda: NOW)
        report = Report(Event.CHECKED, NOW, parse_version("1.0.0"))
        return other.record(Batch(f"{number % 8:032x}", "app", LINUX, "stable", None, (report,)))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(tell, range(16))) == 8
    assert [each.checks for each in fleet.versions()] == [8]


# Pausing --------------------------------------------------------------------------------------------------------------


def tell(record, good: int, bad: int, event="rolled-back", **where) -> None:
    for _ in range(good):
        record(("running", "2.0.0"), **where)
    for _ in range(bad):
        record((event, "1.0.0", "2.0.0"), **where)


@pytest.mark.parametrize("event", ["failed", "rolled-back"])
def test_a_release_that_does_too_badly_is_paused(record, publish, place, event, caplog):
    publish(release(), release("1.0.0"))
    tell(record, 1, 2, event)
    assert place().state is ReleaseState.PAUSED
    assert place().why == "2 of 3 outcomes were failures, 66.7 %, and 50 % is the limit"
    assert place().changed == NOW
    assert place(("1.0.0", "any")).state is ReleaseState.LIVE
    assert "2.0.0 is paused in the channel stable: 2 of 3" in caplog.text


def test_a_release_at_its_limit_goes_on(record, publish, place):
    publish(release(pause_after=2))
    tell(record, 1, 1)
    assert place().state is ReleaseState.LIVE


def test_a_release_goes_on_before_there_are_enough_outcomes(record, publish, place):
    publish(release())
    tell(record, 0, 2)
    assert place().state is ReleaseState.LIVE
    tell(record, 1, 0)  # it was the last outcome that was good, and there are enough now
    assert place().state is ReleaseState.PAUSED


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"pause_above": None}, ReleaseState.LIVE),
        ({"pause_above": 99, "pause_after": 4}, ReleaseState.LIVE),
        ({"channel": "beta"}, ReleaseState.LIVE),
        ({"state": ReleaseState.WITHDRAWN}, ReleaseState.WITHDRAWN),
        ({"state": ReleaseState.DRAFT}, ReleaseState.DRAFT),
    ],
)
def test_a_release_that_is_not_watched_stays_as_it_is(record, publish, place, fleet, changes, state):
    publish(release(**changes))
    tell(record, 0, 3)
    assert place(channel=changes.get("channel", "stable")).state is state
    assert fleet.versions()[0].rolled_back == 3


def test_only_the_build_that_the_client_gets_is_paused(record, publish, place):
    publish(release(), release(platform=LINUX), release(platform="macos-arm64"))
    tell(record, 0, 3)
    assert place(("2.0.0", LINUX)).state is ReleaseState.PAUSED
    assert place().state is ReleaseState.LIVE
    tell(record, 0, 3, platform="windows-x86_64")
    assert place().state is ReleaseState.PAUSED
    assert place(("2.0.0", "macos-arm64")).state is ReleaseState.LIVE


def test_a_failure_of_no_release_is_no_outcome(record, publish, place):
    publish(release())
    for _ in range(3):
        record(("failed", "2.0.0"))
    record(("downloaded", "1.0.0", "2.0.0"))
    assert place().state is ReleaseState.LIVE


def test_a_client_that_fails_again_and_again_is_one_failure(record, publish, place):
    publish(release())
    record(*[("failed", "1.0.0", "2.0.0")] * 4)
    for _ in range(2):
        record(("failed", "1.0.0", "2.0.0"), installation=1)
        record(("checked", "1.0.0"), installation=1)
    assert place().state is ReleaseState.LIVE
    record(("failed", "1.0.0", "2.0.0"), installation=2)
    assert place().state is ReleaseState.PAUSED
    assert place().why.startswith("3 of 3 outcomes")


def test_an_installation_that_failed_and_then_succeeded_counts_for_both(record, publish, place):
    publish(release(pause_after=2, pause_above=49))
    record(("failed", "1.0.0", "2.0.0"), installation=1)
    record(("running", "2.0.0", "2.0.0"), installation=1)
    assert place().why.startswith("1 of 2 outcomes")


def test_who_resumes_a_release_has_seen_what_went_wrong_before(record, publish, place, catalogue, clock):
    publish(release())
    tell(record, 0, 3)
    clock.now += DAY
    with catalogue.transaction() as transaction:
        paused = transaction.releases()["2.0.0", "any"]
        transaction.put(paused.with_placement(paused.placed("stable").become(ReleaseState.LIVE, clock.now)))
    tell(record, 0, 2)
    assert place().state is ReleaseState.LIVE
    tell(record, 0, 1)
    assert place().state is ReleaseState.PAUSED
    assert place().why.startswith("3 of 3 outcomes")


@pytest.mark.parametrize("changed", ["removed", "rescheduled"])
def test_a_release_that_was_changed_meanwhile_is_left_to_who_did_that(catalogue, publish, changed):
    old = release()
    publish(old)
    placement = old.placed("stable")
    with catalogue.transaction() as transaction:
        if changed == "removed":
            transaction.remove(old)
        else:
            transaction.put(old.with_placement(placement.scheduled(Schedule.parse("50"), NOW)))
    before = dict(catalogue.snapshot().releases)
    assert outcomes.pause(catalogue, outcomes.Tally(old.name, placement, 0, 5), NOW) is None
    assert catalogue.snapshot().releases == before


def test_a_pause_that_fails_is_logged_and_tried_again_with_the_next_outcome(
    record, publish, place, catalogue, monkeypatch, caplog
):
    @contextmanager
    def fail():
        raise CatalogueUnavailableError("sqlite://", "locked")
        yield

    publish(release())
    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "transaction", fail)
        tell(record, 0, 3)
    assert "2.0.0 for any is not paused, although 3 of 3" in caplog.text
    assert place().state is ReleaseState.LIVE
    tell(record, 0, 1)
    assert place().state is ReleaseState.PAUSED


def test_signals_tell_of_reports_and_of_a_pause(record, publish, fleet):
    heard = []

    def hear(sender, **facts):
        heard.append((sender, facts))

    publish(release(pause_after=1))
    with signals.reports_received.connected_to(hear), signals.rollout_paused.connected_to(hear):
        record(("failed", "1.0.0", "2.0.0"), number=7)
        record(("failed", "1.0.0", "2.0.0"), number=7)
    (first, received), (second, paused) = heard
    assert first is second is fleet
    assert received["batch"].batch == f"{7:032x}"
    assert (str(paused["release"]), paused["channel"]) == ("2.0.0", "stable")
    assert paused["release"].placed("stable").why == paused["why"]
    assert paused["why"].startswith("1 of 1")


def test_a_long_version_can_be_counted(fleet, record, publish):
    version = "1.0.0-" + "x" * 250
    publish(replace(release(), version=parse_version(version)))
    record(("running", version, version), installation=1)
    assert [each.version for each in fleet.versions()] == [version]

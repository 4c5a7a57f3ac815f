from datetime import UTC, datetime, timedelta

import pytest

from patchify.releases import (
    EVERYBODY,
    MOST_NOTES,
    Placement,
    Release,
    ReleaseState,
    Schedule,
    check_notes,
    in_cohort,
    new_seed,
    newest_first,
    parse_channel,
    parse_time,
    spell_time,
)
from patchify.versions import parse_version

NOW = datetime(2026, 11, 23, 18, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = 24 * HOUR


def placement(state=ReleaseState.LIVE, schedule="10,50@1d,100@3d", **changes) -> Placement:
    return Placement(
        **{
            "channel": "stable",
            "state": state,
            "since": NOW,
            "changed": NOW,
            "schedule": Schedule.parse(schedule),
            "seed": "5eed",
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("10", "10%"),
        ("10%", "10%"),
        ("0", "0%"),
        ("100", "100%"),
        ("10, 50@1d, 100@3d", "10%,50%@1d,100%@3d"),
        ("1%,2%@30m,3%@1h,4%@1w", "1%,2%@30m,3%@1h,4%@1w"),
        ("5,10@24h", "5%,10%@1d"),
    ],
)
def test_a_schedule_is_read_and_written(text, spelled):
    schedule = Schedule.parse(text)
    assert str(schedule) == spelled
    assert Schedule.parse(str(schedule)) == schedule


@pytest.mark.parametrize(
    "text",
    ["", "ten", "101", "-1", "10@1d", "10,5@1d", "10,10@1d", "10,50@1d,60@1d", "10,50@2d,60@1d", "10,50", "1@1y"],
)
def test_what_is_no_schedule_is_refused(text):
    with pytest.raises(ValueError, match=r"schedule|percentage"):
        Schedule.parse(text)


def test_a_rollout_widens_by_its_schedule():
    placed = placement()
    assert [placed.percent(NOW + each) for each in (-HOUR, 0 * HOUR, DAY - HOUR, DAY, 3 * DAY, 99 * DAY)] == [
        10, 10, 10, 50, 100, 100,
    ]  # fmt: skip
    assert [placed.next_step(NOW + each) for each in (0 * DAY, DAY, 3 * DAY)] == [NOW + DAY, NOW + 3 * DAY, None]


@pytest.mark.parametrize("state", [ReleaseState.DRAFT, ReleaseState.PAUSED, ReleaseState.WITHDRAWN])
def test_only_what_is_live_is_offered_to_anybody(state):
    assert placement(state).percent(NOW + 9 * DAY) == 0
    assert placement(state).next_step(NOW) is None


def test_the_schedule_stands_still_in_a_pause():
    paused = placement().become(ReleaseState.PAUSED, NOW + 12 * HOUR, "fails")
    assert (paused.state, paused.why, paused.since, paused.changed) == (
        ReleaseState.PAUSED, "fails", NOW, NOW + 12 * HOUR,
    )  # fmt: skip
    resumed = paused.become(ReleaseState.LIVE, NOW + 10 * DAY)
    assert resumed.percent(NOW + 10 * DAY) == 10
    assert resumed.next_step(NOW + 10 * DAY) == NOW + 10 * DAY + 12 * HOUR
    assert resumed.why == ""
    assert resumed.seed == "5eed"


def test_a_change_of_the_limit_in_a_pause_does_not_let_the_schedule_go_on():
    paused = placement().become(ReleaseState.PAUSED, NOW + 12 * HOUR, "fails")
    limited = paused.limited(5, 30, NOW + 10 * DAY)
    assert (limited.pause_above, limited.pause_after, limited.state, limited.why) == (
        5, 30, ReleaseState.PAUSED, "fails",
    )  # fmt: skip
    again = limited.become(ReleaseState.PAUSED, NOW + 15 * DAY, "still fails")
    resumed = again.become(ReleaseState.LIVE, NOW + 20 * DAY)
    assert resumed.percent(NOW + 20 * DAY) == 10
    assert resumed.next_step(NOW + 20 * DAY) == NOW + 20 * DAY + 12 * HOUR


def test_a_change_of_the_limit_of_what_is_live_leaves_its_schedule_alone():
    limited = placement().limited(None, 20, NOW + 12 * HOUR)
    assert (limited.since, limited.changed) == (NOW, NOW + 12 * HOUR)


def test_a_schedule_that_is_given_in_a_pause_begins_when_that_ends():
    paused = placement().become(ReleaseState.PAUSED, NOW + HOUR)
    resumed = paused.scheduled(Schedule.parse("20,40@1d"), NOW + DAY).become(ReleaseState.LIVE, NOW + 9 * DAY)
    assert resumed.since == NOW + 9 * DAY


def test_a_pause_that_began_by_a_clock_that_was_ahead_does_not_put_the_schedule_forward():
    paused = placement().become(ReleaseState.PAUSED, NOW + 365 * DAY)
    assert paused.become(ReleaseState.LIVE, NOW + HOUR).percent(NOW + HOUR) == 10


def test_the_schedule_of_a_draft_begins_when_it_goes_live():
    live = placement(ReleaseState.DRAFT).become(ReleaseState.LIVE, NOW + 5 * DAY)
    assert live.since == NOW + 5 * DAY
    assert live.percent(NOW + 5 * DAY) == 10


def test_a_new_schedule_begins_now_and_keeps_the_cohort():
    widened = placement().scheduled(Schedule.parse("20"), NOW + DAY)
    assert (widened.percent(NOW + DAY), widened.since, widened.seed) == (20, NOW + DAY, "5eed")


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 99, 100])
def test_a_cohort_is_as_large_as_was_asked_for(percent):
    among = sum(in_cohort(str(number), "5eed", percent) for number in range(20_000))
    assert abs(among / 200 - percent) < 1
    assert percent not in (0, 100) or among == percent * 200


def test_seeds_are_random():
    assert len({new_seed() for _ in range(100)}) == 100


def release(version="1.0.0", **changes) -> Release:
    return Release(parse_version(version), "aa" * 32, **changes)


def test_a_release_goes_to_json_and_back():
    full = release(
        size=3,
        platform="linux-x86_64",
        format="tar.zst",
        notes="# New\n\n- ümlaut",
        published=NOW,
        critical=True,
        floor=parse_version("0.9.0"),
        placements=(placement(channel="beta"), placement(pause_above=5, why="x")),
    )
    for each in (full, release()):
        assert Release.from_json(each.to_json()) == each


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": "1"},
        {"sha256": "aa"},
        {"format": "zip"},
        {"platform": "No"},
        {"notes": "\0"},
        {"floor": "old"},
        {"channels": [{}]},
        {"published": "yesterday"},
        {"size": None},
    ],
)
def test_json_that_is_no_release_is_refused(wrong):
    with pytest.raises((ValueError, KeyError, TypeError)):
        Release.from_json({**release().to_json(), **wrong})


def test_a_placement_takes_the_place_of_the_one_in_its_channel():
    placed = release().with_placement(placement()).with_placement(placement(channel="beta"))
    assert [each.channel for each in placed.placements] == ["beta", "stable"]
    paused = placed.with_placement(placement(ReleaseState.PAUSED))
    assert [each.state.value for each in paused.placements] == ["live", "paused"]
    assert paused.placed("stable").state is ReleaseState.PAUSED
    assert paused.placed("nightly") is None


def test_a_release_is_named_by_version_and_platform():
    assert (str(release()), str(release(platform="macos-arm64"))) == ("1.0.0", "1.0.0 for macos-arm64")
    assert release("1.0.0+b1").name == ("1.0.0+b1", "any")


def test_releases_are_ordered_from_the_newest_and_builds_for_one_platform_before_those_for_all():
    releases = [release("1.0.0"), release("10.0.0"), release("1.0.0", platform="linux-x86_64"), release("2.0.0-rc.1")]
    names = [str(each) for each in sorted(releases, key=newest_first, reverse=True)]
    assert names == ["10.0.0", "2.0.0-rc.1", "1.0.0 for linux-x86_64", "1.0.0"]


@pytest.mark.parametrize("text", ["", "Stable", "a b", "-a", "a-", "a" * 41, "ä", "a/b"])
def test_what_is_no_name_of_a_channel_is_refused(text):
    with pytest.raises(ValueError, match="not the name of a channel"):
        parse_channel(text)


def test_notes_are_bounded_and_hold_no_control_characters():
    assert check_notes("# A\n\tb ü") == "# A\n\tb ü"
    with pytest.raises(ValueError, match=f"{MOST_NOTES + 2} bytes long"):
        check_notes("ü" * (MOST_NOTES // 2 + 1))
    with pytest.raises(ValueError, match="control character"):
        check_notes("a\rb")


def test_times_are_written_in_utc_and_read_strictly():
    assert spell_time(NOW.astimezone(tz=None)) == "2026-11-23T18:00:00Z"
    assert parse_time("2026-11-23T18:00:00Z") == NOW
    for wrong in ("2026-11-23T18:00:00", "2026-02-30T18:00:00Z", "2026-11-23T18:00:00Z\n", ""):
        with pytest.raises(ValueError):
            parse_time(wrong)


def test_everybody_is_a_schedule_of_one_step():
    assert str(EVERYBODY) == "100%"

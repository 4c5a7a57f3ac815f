"""What the steps of publishing do, and which make no sense; each through the publisher that takes them."""

from datetime import timedelta

import pytest

from patchify.errors import LowerVersionError, NotPublishedError, PartlyRefusedError, PublicationError
from patchify.releases import EVERYBODY, ReleaseState, Schedule
from patchify.versions import parse_version

V1, V2 = parse_version("1.0.0"), parse_version("2.0.0")
DRAFT, LIVE, PAUSED, WITHDRAWN = ReleaseState.DRAFT, ReleaseState.LIVE, ReleaseState.PAUSED, ReleaseState.WITHDRAWN
TEN = Schedule.parse("10")


def states(catalogue):
    return {
        (str(release), placement.channel): placement.state
        for release in catalogue.snapshot().releases.values()
        for placement in release.placements
    }


def placed(catalogue, version="1.0.0", channel="stable", platform="any"):
    return catalogue.snapshot().releases[(version, platform)].placed(channel)


# pause, resume, withdraw ----------------------------------------------------------------------------------------------


def test_a_release_is_paused_resumed_and_withdrawn_and_why_is_kept(publisher, put, catalogue, clock):
    put("1.0.0")
    begun = clock.time
    clock.time += timedelta(hours=1)
    (paused,) = publisher.pause(V1, why="crashes")
    assert paused == catalogue.snapshot().releases[("1.0.0", "any")]
    assert (placed(catalogue).state, placed(catalogue).why, placed(catalogue).changed) == (
        PAUSED,
        "crashes",
        clock.time,
    )
    clock.time += timedelta(hours=2)
    publisher.resume(V1)
    assert (placed(catalogue).state, placed(catalogue).since) == (LIVE, begun + timedelta(hours=2))
    publisher.withdraw(V1, why="eats data")
    assert (placed(catalogue).state, placed(catalogue).why) == (WITHDRAWN, "eats data")


def test_what_is_as_asked_for_already_is_not_changed(publisher, put, catalogue):
    put("1.0.0")
    for step, times in [(publisher.resume, 1), (publisher.pause, 2), (publisher.withdraw, 2)]:
        answers = [step(V1) for _ in range(times)]
        before = catalogue.changes
        assert step(V1) == []
        assert catalogue.changes == before
        assert len(answers) == times


@pytest.mark.parametrize(
    ("settings", "before", "step", "said"),
    [
        ({"draft": True}, None, "pause", "1.0.0 cannot be paused: it is still a draft in stable; only what is live"),
        ({}, "withdraw", "pause", "1.0.0 cannot be paused: it is withdrawn in stable"),
        ({}, "withdraw", "resume", "1.0.0 cannot be resumed: it is withdrawn in stable; publish a new version"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused(publisher, put, catalogue, settings, before, step, said):
    put("1.0.0", **settings)
    if before:
        getattr(publisher, before)(V1)
    changes = catalogue.changes
    with pytest.raises(PublicationError, match=said):
        getattr(publisher, step)(V1)
    assert catalogue.changes == changes


def test_a_draft_goes_live_when_it_is_resumed_and_its_schedule_begins_then(publisher, put, catalogue, clock):
    put("1.0.0", draft=True, schedule=Schedule.parse("10,50@1d"))
    assert placed(catalogue).state is DRAFT
    clock.time += timedelta(days=3)
    publisher.resume(V1)
    assert (placed(catalogue).since, placed(catalogue).percent(clock.time)) == (clock.time, 10)


def test_a_step_is_for_all_builds_and_channels_unless_one_is_named(publisher, put, catalogue):
    for platform in ("linux-x86_64", "windows-x86_64"):
        put("1.0.0", platform=platform)
        put("1.0.0", platform=platform, channel="beta")
    assert len(publisher.pause(V1, "beta", "linux-x86_64")) == 1
    assert states(catalogue) == {
        ("1.0.0 for linux-x86_64", "beta"): PAUSED,
        ("1.0.0 for linux-x86_64", "stable"): LIVE,
        ("1.0.0 for windows-x86_64", "beta"): LIVE,
        ("1.0.0 for windows-x86_64", "stable"): LIVE,
    }
    assert [str(each) for each in publisher.pause(V1)] == ["1.0.0 for windows-x86_64", "1.0.0 for linux-x86_64"]
    assert set(states(catalogue).values()) == {PAUSED}


def test_of_several_those_are_left_alone_for_which_it_makes_no_sense(publisher, put, catalogue):
    put("1.0.0")
    put("1.0.0", channel="beta")
    publisher.withdraw(V1, "beta")
    with pytest.raises(PartlyRefusedError, match=r"^changed 1\.0\.0 in stable; but .*withdrawn in beta") as caught:
        publisher.pause(V1)
    assert (caught.value.changed, len(caught.value.refusals)) == (["1.0.0 in stable"], 1)
    assert states(catalogue) == {("1.0.0", "beta"): WITHDRAWN, ("1.0.0", "stable"): PAUSED}
    with pytest.raises(PublicationError, match="withdrawn in beta"):
        publisher.pause(V1, "beta")


@pytest.mark.parametrize("step", ["pause", "resume", "withdraw"])
def test_a_reason_that_would_play_tricks_on_a_terminal_is_refused(publisher, put, step):
    put("1.0.0")
    with pytest.raises(PublicationError, match="the reason cannot be kept"):
        getattr(publisher, step)(V1, why="\x1b[2J")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({}, "version 2.0.0 is not published in any channel"),
        ({"channel": "beta"}, "version 2.0.0 is not published in the channel beta"),
        ({"channel": "beta", "platform": "any"}, "version 2.0.0 is not published in the channel beta for any"),
    ],
)
def test_what_is_not_published_is_named_with_the_place(publisher, put, where, said):
    put("1.0.0")
    with pytest.raises(NotPublishedError) as caught:
        publisher.pause(V2, **where)
    assert str(caught.value) == said


def test_versions_that_differ_in_build_metadata_are_steered_apart(publisher, put, catalogue):
    put("1.0.0+b1")
    put("1.0.0+b2")
    publisher.pause(parse_version("1.0.0+b1"))
    assert states(catalogue) == {("1.0.0+b1", "stable"): PAUSED, ("1.0.0+b2", "stable"): LIVE}


# rollout --------------------------------------------------------------------------------------------------------------


def test_a_new_schedule_begins_when_it_is_given_and_keeps_the_cohort(publisher, put, catalogue, clock):
    put("1.0.0", schedule=TEN)
    seed = placed(catalogue).seed
    clock.time += timedelta(days=1)
    publisher.rollout(V1, "stable", Schedule.parse("20,100@1d"), pause_above=5)
    now = placed(catalogue)
    assert (now.since, now.percent(clock.time), now.pause_above, now.seed) == (clock.time, 20, 5, seed)
    assert publisher.rollout(V1, "stable", Schedule.parse("20,100@1d"), pause_above=5) == []
    assert publisher.rollout(V1, "stable", Schedule.parse("20,100@1d")) == []
    publisher.rollout(V1, "stable", EVERYBODY)
    assert (placed(catalogue).schedule, placed(catalogue).pause_above) == (EVERYBODY, 5)


def test_another_limit_leaves_the_clock_of_a_pause_as_it_is(publisher, put, catalogue, clock):
    schedule = Schedule.parse("10,100@1d")
    put("1.0.0", schedule=schedule)
    clock.time += timedelta(hours=1)
    publisher.pause(V1)
    clock.time += timedelta(days=2)
    publisher.rollout(V1, "stable", schedule, pause_above=5)
    clock.time += timedelta(days=2)
    publisher.resume(V1)
    assert (placed(catalogue).percent(clock.time), placed(catalogue).pause_above) == (10, 5)
    assert placed(catalogue).since == clock.time - timedelta(hours=1)


def test_what_is_withdrawn_is_not_rolled_out(publisher, put):
    put("1.0.0")
    publisher.withdraw(V1)
    with pytest.raises(PublicationError, match="cannot be rolled out: it is withdrawn"):
        publisher.rollout(V1, "stable", TEN)


def test_a_limit_of_failures_is_a_percentage(publisher, put):
    put("1.0.0")
    with pytest.raises(PublicationError, match="pausing above 200 %"):
        publisher.rollout(V1, "stable", TEN, pause_above=200)


# promote --------------------------------------------------------------------------------------------------------------


def test_what_is_promoted_is_in_both_channels_with_a_cohort_of_its_own(publisher, put, catalogue, clock):
    put("1.0.0", channel="beta", pause_above=5, pause_after=3)
    clock.time += timedelta(days=1)
    publisher.promote(V1, "beta", "stable", schedule=TEN)
    beta, stable = placed(catalogue, channel="beta"), placed(catalogue)
    assert (stable.state, stable.schedule, stable.since) == (LIVE, TEN, clock.time)
    assert (stable.pause_above, stable.pause_after) == (5, 3)
    assert stable.seed != beta.seed
    assert beta.schedule == EVERYBODY
    assert publisher.promote(V1, "beta", "stable") == []


def test_what_is_a_draft_in_the_target_goes_live(publisher, put, catalogue):
    put("1.0.0", channel="beta")
    put("1.0.0", draft=True)
    publisher.promote(V1, "beta", "stable", schedule=TEN)
    assert (placed(catalogue).state, placed(catalogue).schedule) == (LIVE, TEN)


def test_only_the_build_for_one_platform_is_promoted_if_it_is_named(publisher, put, catalogue):
    put("1.0.0", channel="beta", platform="linux-x86_64")
    put("1.0.0", channel="beta", platform="windows-x86_64")
    publisher.promote(V1, "beta", "stable", "linux-x86_64")
    assert catalogue.snapshot().releases[("1.0.0", "windows-x86_64")].placed("stable") is None
    assert placed(catalogue, platform="linux-x86_64").state is LIVE


@pytest.mark.parametrize(
    ("settings", "before", "target", "said"),
    [
        ({"draft": True}, None, "stable", "cannot be promoted: it is still a draft in beta"),
        ({}, "pause", "stable", "cannot be promoted: it is paused in beta"),
        ({}, "withdraw", "stable", "cannot be promoted: it is withdrawn in beta"),
        ({}, None, "beta", "cannot be promoted from beta to itself"),
        ({}, None, "No", "'No' is not the name of a channel"),
    ],
)
def test_a_promotion_that_makes_no_sense_is_refused(publisher, put, settings, before, target, said):
    put("1.0.0", channel="beta", **settings)
    if before:
        getattr(publisher, before)(V1)
    with pytest.raises(PublicationError, match=said):
        publisher.promote(V1, "beta", target)


def test_what_is_paused_in_the_target_is_to_be_resumed_there(publisher, put, catalogue):
    put("1.0.0")
    put("1.0.0", channel="beta")
    publisher.pause(V1, "stable")
    with pytest.raises(PublicationError, match="cannot be promoted: it is paused in stable; resume it there"):
        publisher.promote(V1, "beta", "stable")
    assert placed(catalogue).state is PAUSED


def test_a_promotion_changes_no_rollout_that_there_is(publisher, put, catalogue):
    put("1.0.0", schedule=TEN)
    put("1.0.0", channel="beta")
    assert publisher.promote(V1, "beta", "stable", schedule=TEN) == []
    with pytest.raises(PublicationError, match=r"live in stable with the rollout 10%.*patchify rollout changes"):
        publisher.promote(V1, "beta", "stable", schedule=EVERYBODY)


def test_what_was_withdrawn_in_the_target_is_not_promoted_to_it_again(publisher, put):
    put("1.0.0")
    put("1.0.0", channel="beta")
    publisher.withdraw(V1, "stable")
    with pytest.raises(PublicationError, match="cannot be promoted: it is withdrawn in stable"):
        publisher.promote(V1, "beta", "stable")


def test_a_lower_version_than_is_live_in_the_target_is_promoted_only_by_force(publisher, put, catalogue):
    put("1.0.0", channel="beta")
    put("2.0.0")
    with pytest.raises(LowerVersionError) as caught:
        publisher.promote(V1, "beta", "stable")
    assert (caught.value.version, caught.value.live) == ("1.0.0", "2.0.0")
    publisher.promote(V1, "beta", "stable", force=True)
    assert placed(catalogue).state is LIVE


# publishing again -----------------------------------------------------------------------------------------------------


def test_what_is_published_again_keeps_its_place_and_takes_what_is_said_of_it_anew(publisher, put, catalogue, clock):
    put("1.0.0", notes="new", schedule=TEN)
    before = catalogue.snapshot().releases[("1.0.0", "any")]
    clock.time += timedelta(days=1)
    assert put("1.0.0") == put("1.0.0", notes="new", schedule=TEN) == before
    assert catalogue.changes == 1
    again = put("1.0.0", notes="better", critical=True, floor="0.5.0", force=True)
    assert (again.notes, again.critical, str(again.floor)) == ("better", True, "0.5.0")
    assert (again.published, again.placements) == (before.published, before.placements)
    assert put("1.0.0", critical=True, floor="0.5.0") == again
    back = put("1.0.0", critical=False, floor="0.0.0")
    assert (back.notes, back.critical, back.floor) == ("better", False, None)
    publisher.pause(V1)
    assert put("1.0.0").placed("stable").state is PAUSED


@pytest.mark.parametrize("state", ["live", "paused", "draft"])
@pytest.mark.parametrize(
    "said", [{"schedule": EVERYBODY}, {"pause_above": 6}, {"pause_after": 8}, {"schedule": TEN, "pause_above": 0}]
)
def test_another_rollout_of_what_is_published_is_refused(publisher, put, catalogue, state, said):
    first = {"schedule": TEN, "pause_above": 5, "pause_after": 7, "draft": state == "draft"}
    release = put("1.0.0", **first)
    if state == "paused":
        [release] = publisher.pause(V1)
    changes = catalogue.changes
    with pytest.raises(
        PublicationError, match=r"rollout 10%, paused above 5 % after 7 outcomes, and stays so; patchify"
    ):
        put("1.0.0", **{"draft": state == "draft"} | said)
    assert put("1.0.0", **first) == release
    assert catalogue.changes == changes


@pytest.mark.parametrize("said", [{"critical": True}, {"floor": "0.5.0"}, {"critical": True, "floor": "0.5.0"}])
def test_what_a_release_is_elsewhere_is_changed_by_force_only(publisher, put, said):
    put("0.9.0")
    put("1.0.0", schedule=TEN)
    put("1.0.0", channel="nightly")
    publisher.withdraw(V1, "nightly")
    with pytest.raises(PublicationError, match=r"1\.0\.0 is in stable, too, and would be .*--force changes that"):
        put("1.0.0", channel="beta", **said)
    put("1.0.0", channel="beta", notes="new", critical=False, floor="0.0.0")
    forced = put("1.0.0", channel="beta", force=True, **said)
    assert (forced.critical, str(forced.floor)) == (said.get("critical", False), said.get("floor", "None"))
    with pytest.raises(PublicationError, match="would be not critical and have the floor none there"):
        put("1.0.0", critical=False, floor="0.0.0")
    back = put("1.0.0", critical=False, floor="0.0.0", force=True)
    assert (back.critical, back.floor) == (False, None)


def test_a_draft_that_is_published_again_keeps_the_rollout_that_it_was_given(put, catalogue):
    put("1.0.0", draft=True, schedule=TEN, pause_above=5)
    put("1.0.0")
    now = placed(catalogue)
    assert (now.state, now.schedule, now.pause_above) == (LIVE, TEN, 5)


def test_a_draft_that_is_published_again_goes_live_unless_it_is_a_draft_again(put, catalogue):
    put("1.0.0", draft=True)
    put("1.0.0", draft=True)
    assert placed(catalogue).state is DRAFT
    put("1.0.0", schedule=TEN, pause_above=5)
    now = placed(catalogue)
    assert (now.state, now.schedule, now.pause_above) == (LIVE, TEN, 5)


def test_what_was_withdrawn_is_not_published_again(publisher, put):
    put("1.0.0")
    publisher.withdraw(V1)
    with pytest.raises(PublicationError, match="cannot be published again: it is withdrawn in stable"):
        put("1.0.0")


@pytest.mark.parametrize(
    ("live", "lower", "refused"),
    [
        ({}, {}, True),
        ({}, {"platform": "linux-x86_64"}, True),
        ({"platform": "linux-x86_64"}, {}, True),
        ({"platform": "macos-universal"}, {"platform": "macos-arm64"}, True),
        ({}, {"draft": True}, True),
        ({}, {"force": True}, False),
        ({}, {"channel": "beta"}, False),
        ({"draft": True}, {}, False),
        ({"platform": "windows-x86_64"}, {"platform": "linux-x86_64"}, False),
    ],
)
def test_a_lower_version_than_is_live_for_the_same_machines_is_published_only_by_force(
    put, catalogue, live, lower, refused
):
    put("2.0.0", **live)
    if refused:
        with pytest.raises(LowerVersionError, match=r"is lower than 2\.0\.0, which is live in stable"):
            put("1.0.0", **lower)
        assert len(catalogue.snapshot().releases) == 1
    else:
        put("1.0.0", **lower)
        assert len(catalogue.snapshot().releases) == 2


def test_a_draft_goes_live_by_publishing_only_if_no_higher_version_is_live_by_then(put):
    put("1.0.0", draft=True)
    put("2.0.0")
    with pytest.raises(LowerVersionError):
        put("1.0.0")
    assert put("1.0.0", force=True).placed("stable").state is LIVE


def test_a_draft_is_resumed_only_by_force_below_a_higher_version_that_is_live(publisher, put, catalogue):
    put("1.0.0", draft=True)
    put("2.0.0")
    with pytest.raises(LowerVersionError):
        publisher.resume(V1)
    publisher.resume(V1, force=True)
    publisher.pause(V1)
    publisher.resume(V1)
    assert placed(catalogue).state is LIVE


# floors ---------------------------------------------------------------------------------------------------------------

UNREACHABLE = r"could not be reached in stable by clients below its floor 2\.0\.0 on {}: nothing is live there"


@pytest.mark.parametrize(
    ("others", "settings", "platforms"),
    [
        ([], {}, "any"),
        ([("1.0.0", {})], {}, "any"),
        ([("1.0.0", {}), ("2.0.0", {})], {}, None),
        ([("2.0.0", {})], {}, None),
        ([("2.9.0", {})], {}, None),
        ([("2.0.0", {"channel": "beta"})], {}, "any"),
        ([("2.0.0", {"draft": True})], {}, "any"),
        ([("2.0.0", {})], {"platform": "linux-x86_64"}, None),
        ([("2.0.0", {"platform": "windows-x86_64"})], {"platform": "linux-x86_64"}, "linux-x86_64"),
        ([("1.0.0", {}), ("2.0.0", {"platform": "linux-x86_64"})], {}, "any"),
        ([("1.0.0", {"draft": True}), ("2.0.0", {"platform": "linux-x86_64"})], {}, None),
        ([("1.0.0", {"platform": "linux-x86_64"}), ("1.0.0", {})], {}, "any, linux-x86_64"),
        ([("1.0.0", {}), ("2.0.0", {}), ("2.0.0", {"platform": "linux-x86_64", "draft": True})], {}, None),
        ([("2.0.0", {"platform": "macos-universal"})], {"platform": "macos-arm64"}, None),
    ],
)
def test_a_floor_that_nobody_reaches_is_refused_unless_by_force(publisher, put, others, settings, platforms):
    for version, how in others:
        put(version, **how)
    if platforms is None:
        put("3.0.0", floor="2.0.0", **settings)
        return
    with pytest.raises(PublicationError, match=UNREACHABLE.format(platforms)):
        put("3.0.0", floor="2.0.0", **settings)
    assert "3.0.0" not in {str(each.version) for each in publisher.releases()}
    put("3.0.0", floor="2.0.0", force=True, **settings)
    put("3.0.0", floor="2.0.0", **settings)


def test_a_floor_is_to_be_reached_when_a_draft_goes_live_or_what_is_live_gets_it(publisher, put):
    put("3.0.0", floor="2.0.0", draft=True)
    put("3.0.0", channel="beta", force=True)
    v3 = parse_version("3.0.0")
    for go_live in (
        lambda: put("3.0.0"),
        lambda: publisher.resume(v3, "stable"),
        lambda: publisher.promote(v3, "beta", "stable"),
    ):
        with pytest.raises(PublicationError, match=UNREACHABLE.format("any")):
            go_live()
    put("2.0.0")
    publisher.resume(v3, "stable")
    publisher.pause(V2)
    publisher.pause(v3, "stable")
    publisher.resume(v3, "stable")
    put("4.0.0")
    with pytest.raises(PublicationError, match=r"floor 3\.5\.0 on any: nothing is live there"):
        put("4.0.0", floor="3.5.0")

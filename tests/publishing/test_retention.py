from datetime import UTC, datetime, timedelta

import pytest

from patchify.errors import PublicationError
from patchify.publishing.retention import superseded
from patchify.releases import Placement, Release, ReleaseState, Schedule
from patchify.versions import parse_version

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def release(version, *, channels=("stable",), state=ReleaseState.LIVE, rollout="100", floor=None, **settings):
    placements = tuple(
        Placement(each, state, since=NOW - timedelta(hours=1), changed=NOW, schedule=Schedule.parse(rollout))
        for each in channels
    )
    floor = floor and parse_version(floor)
    return Release(parse_version(version), "0" * 64, placements=placements, floor=floor, **settings)


def forgotten(keep, *releases):
    return [str(each) for each in superseded(releases, keep, NOW)]


def test_the_newest_so_many_are_kept():
    releases = [release(f"{number}.0.0") for number in range(1, 11)]
    assert forgotten(9, *releases) == ["1.0.0"]
    assert forgotten(1, *releases[:3]) == ["2.0.0", "1.0.0"]
    assert forgotten(3, *releases[:3]) == []


def test_what_not_everybody_is_offered_does_not_count():
    releases = [release("1.0.0"), release("2.0.0"), release("3.0.0", rollout="10,100@1d")]
    assert forgotten(1, *releases) == ["1.0.0"]
    assert forgotten(1, *releases[:2], release("3.0.0", rollout="10", critical=True)) == ["2.0.0", "1.0.0"]
    assert forgotten(1, *releases[:2], release("3.0.0", rollout="10,100@1h")) == ["2.0.0", "1.0.0"]


def test_pre_releases_count_apart():
    releases = [release(each) for each in ("1.0.0", "2.0.0", "3.0.0-rc.1", "3.0.0-rc.2")]
    assert forgotten(1, *releases) == ["3.0.0-rc.1", "1.0.0"]


def test_each_platform_and_each_channel_counts_by_itself():
    assert forgotten(1, release("1.0.0"), release("2.0.0", platform="linux-x86_64")) == []
    assert forgotten(1, release("1.0.0"), release("2.0.0", channels=("beta",))) == []
    both = release("1.0.0", channels=("beta", "stable"))
    assert forgotten(1, both, release("2.0.0")) == []
    assert forgotten(1, both, release("2.0.0"), release("2.0.0-rc.1", channels=("beta",))) == []
    assert forgotten(1, both, release("2.0.0", channels=("beta", "stable"))) == ["1.0.0"]


@pytest.mark.parametrize("state", [ReleaseState.DRAFT, ReleaseState.PAUSED, ReleaseState.WITHDRAWN])
def test_what_is_not_live_neither_counts_nor_is_forgotten(state):
    assert forgotten(1, release("1.0.0", state=state), release("2.0.0"), release("3.0.0", state=state)) == []


def test_what_clients_below_a_floor_go_to_first_is_kept_with_its_own_floor():
    releases = [release(f"{number}.0.0") for number in (1, 2, 3, 5)]
    assert forgotten(1, *releases, release("6.0.0", floor="3.0.0")) == ["5.0.0", "2.0.0", "1.0.0"]
    assert forgotten(1, *releases, release("6.0.0", floor="4.0.0")) == ["3.0.0", "2.0.0", "1.0.0"]
    assert forgotten(1, *releases, release("6.0.0", floor="5.5.0")) == ["5.0.0", "3.0.0", "2.0.0", "1.0.0"]
    assert forgotten(2, *releases, release("6.0.0", floor="5.0.0")) == ["3.0.0", "2.0.0", "1.0.0"]
    chain = [release("1.0.0"), release("2.0.0"), release("3.0.0", floor="1.0.0"), release("4.0.0"), release("5.0.0")]
    assert forgotten(1, *chain, release("6.0.0", floor="3.0.0")) == ["5.0.0", "4.0.0", "2.0.0"]


def test_what_runs_on_the_same_machines_is_a_way_to_a_floor():
    universal = [release("1.0.0"), release("2.0.0"), release("3.0.0")]
    assert forgotten(1, *universal, release("4.0.0", platform="linux-x86_64", floor="2.0.0")) == ["1.0.0"]
    special = [release(f"{number}.0.0", platform="linux-x86_64") for number in (1, 2, 3)]
    assert forgotten(1, *special, release("4.0.0", floor="2.0.0")) == ["1.0.0 for linux-x86_64"]
    assert forgotten(1, *special, release("4.0.0", platform="windows-x86_64", floor="2.0.0")) == [
        "2.0.0 for linux-x86_64",
        "1.0.0 for linux-x86_64",
    ]


@pytest.mark.parametrize("state", list(ReleaseState)[:3])
@pytest.mark.parametrize(
    "stones",
    [
        [release("2.0.0", rollout="10"), release("2.1.0")],
        [release("2.0.0", platform="linux-x86_64"), release("2.0.1")],
        [release("2.1.0-rc.1"), release("2.1.0")],
        [release("2.0.0", rollout="10"), release("2.0.1", rollout="10", critical=True)],
        [release("2.0.0", platform="linux-x86_64", state=ReleaseState.PAUSED), release("2.0.0"), release("2.0.1")],
    ],
    ids=lambda stones: " ".join(map(str, stones)),
)
def test_all_is_kept_from_a_floor_up_to_what_everybody_is_offered_on_each_platform(stones, state):
    others = [release("1.0.0"), release("2.5.0"), release("2.6.0")]
    top = [release("3.0.0", floor="2.0.0", state=state)]
    top += [] if state is ReleaseState.LIVE else [release("2.7.0")]
    assert forgotten(1, *others, *stones, *top) == ["2.6.0", "2.5.0", "1.0.0"]


def test_a_withdrawn_release_needs_no_stones_but_one_that_is_live_elsewhere_does():
    older = [release(f"{number}.0.0") for number in (1, 2)]
    top = release("3.0.0", floor="1.0.0", state=ReleaseState.WITHDRAWN)
    assert forgotten(1, *older, top) == ["1.0.0"]
    live = release("3.0.0").placements[0]
    beta = release("3.0.0", floor="1.0.0", channels=("beta",), state=ReleaseState.WITHDRAWN)
    assert forgotten(1, *older, release("4.0.0"), beta.with_placement(live)) == ["2.0.0"]


def test_to_keep_nothing_makes_no_sense():
    with pytest.raises(PublicationError, match="keeping 0 releases"):
        superseded([], 0, NOW)

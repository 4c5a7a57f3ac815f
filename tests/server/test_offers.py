from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify.releases import Placement, Release, ReleaseState, newest_first
from patchify.server.offers import MOST, Offer, choose
from patchify.versions import parse_version

MOMENT = datetime(2026, 11, 23, 18, tzinfo=UTC)
LIVE = Placement("stable", ReleaseState.LIVE, since=MOMENT, changed=MOMENT)


def offers(text: str) -> list[Offer]:
    """Read ``version[@percent][>=floor][!]``, in any order."""
    found = []
    for each in text.split():
        word, critical = each.removesuffix("!"), each.endswith("!")
        word, _, floor = word.partition(">=")
        version, _, percent = word.partition("@")
        release = Release(
            parse_version(version), "aa" * 32, critical=critical, floor=parse_version(floor) if floor else None
        )
        found.append(Offer(release, LIVE, int(percent or 100)))
    return sorted(found, key=lambda offer: newest_first(offer.release), reverse=True)


@pytest.mark.parametrize(
    ("given", "listed"),
    [
        ("", ""),
        ("1.0.0 1.0.1 1.0.2", "1.0.2"),
        ("1.0.0 1.0.1@50 1.0.2@10", "1.0.2 1.0.1 1.0.0"),
        ("1.0.0 1.0.1 1.0.2@10", "1.0.2 1.0.1"),
        ("1.0.0 1.0.1@10! 1.0.2@10", "1.0.2 1.0.1"),
        ("1.0.0 1.0.1-rc.1 1.0.1-rc.2", "1.0.1-rc.2 1.0.1-rc.1 1.0.0"),
        ("1.0.0-rc.1!", "1.0.0-rc.1"),
    ],
)
def test_the_newest_are_listed_down_to_the_first_that_everybody_may_have(given, listed):
    assert [str(offer.version) for offer in choose(offers(given))] == listed.split()


@pytest.mark.parametrize(
    ("given", "listed"),
    [
        ("1.0.0 1.0.1 2.0.0 2.0.1 2.1.0", "2.1.0 2.0.1 1.0.1"),
        ("1.0.0 1.0.1@10 2.0.0", "2.0.0 1.0.1 1.0.0"),
        ("1.0.0 1.0.1@10 1.0.2@10 1.0.3@10 1.0.4@10 2.0.0", "2.0.0 1.0.4 1.0.3 1.0.2"),
        ("1.9.0 2.0.0 2.0.1-rc.1", "2.0.1-rc.1 2.0.0 1.9.0"),
    ],
)
def test_of_each_older_line_the_newest_are_listed_for_who_is_pinned_to_it(given, listed):
    assert [str(offer.version) for offer in choose(offers(given))] == listed.split()


@pytest.mark.parametrize(
    ("given", "listed"),
    [
        ("1.0.0 1.0.1 1.0.2 1.0.3>=1.0.1", "1.0.3 1.0.2 1.0.1"),
        ("1.0.0 1.0.2 1.0.3 1.0.4>=1.0.1", "1.0.4 1.0.3 1.0.2"),  # 1.0.1 is not there
        ("1.0.0 1.0.1>=1.0.0 1.0.2>=1.0.1 1.0.3>=1.0.2", "1.0.3 1.0.2 1.0.1 1.0.0"),
        ("1.0.0 1.0.1@10 1.0.2 1.0.3 1.0.4 1.0.5>=1.0.1", "1.0.5 1.0.4 1.0.2 1.0.1"),
        ("1.0.0 1.0.1@10 1.0.2@10 1.0.3@10 1.0.4@10 1.0.5 1.0.6>=1.0.1", "1.0.6 1.0.5 1.0.3 1.0.2 1.0.1"),
        ("1.0.0>=0.9.0", "1.0.0"),
        ("1.0.0>=2.0.0", "1.0.0"),
    ],
)
def test_what_clients_below_a_floor_take_first_is_listed(given, listed):
    assert [str(offer.version) for offer in choose(offers(given))] == listed.split()


def test_few_are_listed_however_many_there_are_and_the_one_for_everybody_is_among_them():
    partial = " ".join(f"2.0.{n}@10" for n in range(50))
    lines = " ".join(f"1.{n}.0" for n in range(50))
    listed = [str(offer.version) for offer in choose(offers(f"{partial} {lines}"))]
    assert len(listed) == MOST
    assert listed[:13] == [*(f"2.0.{n}" for n in range(49, 37, -1)), "1.49.0"]
    assert listed[13:] == [f"1.{n}.0" for n in range(48, 37, -1)]


VERSIONS = st.builds("{}.{}.{}{}".format, *[st.integers(0, 3)] * 3, st.sampled_from(["", "", "-rc.1"]))
OFFERS = st.lists(
    st.tuples(VERSIONS, st.sampled_from([1, 50, 100]), st.none() | VERSIONS, st.booleans()),
    unique_by=lambda each: each[0],
)


@given(OFFERS, VERSIONS)
def test_who_may_have_only_what_everybody_may_have_finds_a_way_up_wherever_there_is_one(made, running):
    found = offers(" ".join(f"{v}@{p}" + (f">={f}" if f else "") + "!" * c for v, p, f, c in made))
    listed = choose(found)
    assert len(listed) <= MOST
    assert listed == [offer for offer in found if offer in listed]

    def way(offered, at):
        """Return where a client ends that takes the first that it may have, again and again."""
        for offer in offered:
            floor = offer.release.floor
            if offer.version <= at:
                return at
            if offer.for_everybody and (floor is None or floor <= at):
                return way(offered, offer.version)
        return at

    running = parse_version(running)
    if len(listed) < MOST // 2:
        assert way(listed, running) == way(found, running)

import uuid
from datetime import timedelta
from itertools import pairwise

import pytest

from patchify.client import Choices, Config
from patchify.client.selection import Wishes, select
from patchify.keys import SigningKey
from patchify.releases import in_cohort
from patchify.versions import parse_version
from tests.client.offering import NOW, offered

KEY = SigningKey.from_hex("11" * 32).verifying_key
FIRST = next(each for each in map(str, range(1000)) if in_cohort(each, "5eed", 10))
LAST = next(each for each in map(str, range(1000)) if not in_cohort(each, "5eed", 90))


def wishes(running="1.0.0", installation=LAST, asked=False, choices=None, leave=False, **config) -> Wishes:
    made = Config(version=running, api="https://x", key=KEY, **config)
    found = Wishes.of(made, choices or Choices(), installation, NOW, asked=asked)
    return found.leaving() if leave else found


def selected(releases, of: Wishes, bad=()):
    release = select(releases, of, lambda sha256: sha256 in bad)
    return None if release is None else str(release.version)


def test_the_newest_is_taken_and_nothing_that_is_not_newer():
    releases = [offered("2.0.0"), offered("1.5.0"), offered("1.0.0")]
    assert selected(releases, wishes("1.0.0")) == "2.0.0"
    assert selected(releases, wishes("2.0.0")) is None
    assert selected(releases, wishes("2.0.0+b1")) is None  # builds are no updates of each other
    assert selected([], wishes()) is None


def test_one_not_among_the_first_gets_the_newest_that_is_for_everybody():
    releases = [offered("3.0.0", percent=10), offered("2.0.0", percent=90), offered("1.5.0")]
    assert selected(releases, wishes(installation=FIRST)) == "3.0.0"
    assert selected(releases, wishes(installation=LAST)) == "1.5.0"


@pytest.mark.parametrize("passes", ["critical", "asked"])
def test_a_critical_release_and_a_persons_check_pass_a_rollout_by(passes):
    releases = [offered("2.0.0", percent=10, critical=passes == "critical")]
    assert selected(releases, wishes(asked=passes == "asked")) == "2.0.0"
    assert selected([offered("2.0.0", percent=10)], wishes()) is None


def test_who_is_among_the_first_stays_there_while_the_rollout_widens():
    installations = [str(uuid.UUID(int=number)) for number in range(2000)]
    widening = [{each for each in installations if in_cohort(each, "5eed", percent)} for percent in range(0, 101, 5)]
    assert widening[0] == set()
    assert widening[-1] == set(installations)
    assert all(one < other for one, other in pairwise(widening))


def test_cohorts_differ_from_release_to_release():
    installations = [str(uuid.UUID(int=number)) for number in range(20_000)]
    one, other = ({each for each in installations if in_cohort(each, seed, 10)} for seed in ("5eed", "5eee"))
    assert 0.05 < len(one & other) / len(one) < 0.15  # as many as chance brings, not the same ones


def test_a_version_below_the_floor_goes_there_first():
    releases = [offered("3.0.0", floor="2.0.0"), offered("2.0.0", floor="1.0.0"), offered("1.0.0")]
    assert selected(releases, wishes("0.9.0")) == "1.0.0"
    assert selected(releases, wishes("1.0.0")) == "2.0.0"
    assert selected(releases, wishes("2.0.0")) == "3.0.0"


def test_the_floor_holds_for_a_person_and_for_a_critical_release_too():
    assert selected([offered("3.0.0", floor="2.0.0", critical=True)], wishes(asked=True)) is None


@pytest.mark.parametrize(
    ("config", "choices", "running", "found"),
    [
        ({}, {}, "1.0.0", "1.5.0"),
        ({"prereleases": True}, {}, "1.0.0", "2.0.0-rc.1"),
        ({"channel": "beta"}, {}, "1.0.0", "2.0.0-rc.1"),
        ({"channel": "beta", "prereleases": False}, {}, "1.0.0", "1.5.0"),
        ({}, {"channel": "beta"}, "1.0.0", "2.0.0-rc.1"),
        ({}, {"prereleases": True}, "1.0.0", "2.0.0-rc.1"),
        ({"prereleases": True}, {"prereleases": False}, "1.0.0", "1.5.0"),
        ({}, {}, "2.0.0-alpha", "2.0.0-rc.1"),
    ],
)
def test_prereleases_are_for_those_who_want_them(config, choices, running, found):
    releases = [offered("2.0.0-rc.1"), offered("1.5.0")]
    assert selected(releases, wishes(running, choices=Choices(**choices), **config)) == found


@pytest.mark.parametrize(
    ("pin", "found"),
    [("1.5.0", "1.5.0"), (">=1.0.0, <2.0.0", "1.5.0"), ("1.0.0", None), ("<9.0.0,!=2.0.0", "1.5.0"), (None, "2.0.0")],
)
def test_a_pin_holds_a_version_or_a_range(pin, found):
    releases = [offered("2.0.0"), offered("1.5.0"), offered("1.4.0")]
    assert selected(releases, wishes(pin=pin)) == found
    assert selected(releases, wishes(pin="<1.0.0", choices=Choices(pin=pin or ">1.9.0"))) == found


def test_a_version_that_is_skipped_never_comes_again_not_even_when_asked_for():
    skipping = Choices().skipping("2.0.0")
    releases = [offered("2.0.0", critical=True), offered("1.5.0")]
    assert selected(releases, wishes(choices=skipping)) == "1.5.0"
    assert selected(releases, wishes(choices=skipping, asked=True)) == "1.5.0"
    assert selected([offered("2.0.1"), *releases], wishes(choices=skipping)) == "2.0.1"


def test_what_was_put_off_comes_when_its_time_has_come_or_when_a_person_asks():
    releases = [offered("2.0.0")]
    later = Choices().putting_off("2.0.0", NOW + timedelta(hours=1))
    assert selected(releases, wishes(choices=later)) is None
    assert selected(releases, wishes(choices=later, asked=True)) == "2.0.0"
    assert selected(releases, wishes(choices=Choices().putting_off("2.0.0", NOW))) == "2.0.0"
    assert selected([offered("2.0.1"), *releases], wishes(choices=later)) == "2.0.1"


def test_what_is_in_quarantine_is_passed_over():
    releases = [offered("2.0.0", sha256="aa" * 32), offered("1.5.0")]
    assert selected(releases, wishes(), bad={"aa" * 32}) == "1.5.0"


@pytest.mark.parametrize(
    ("leave", "allowed", "chosen", "found"),
    [
        (True, True, None, "1.5.0"),
        (True, False, True, "1.5.0"),
        (True, False, None, None),
        (True, True, False, None),
        (False, True, True, None),
    ],
)
def test_an_older_version_comes_only_if_this_one_was_withdrawn_and_going_down_is_allowed(leave, allowed, chosen, found):
    releases = [offered("2.0.0"), offered("1.5.0")][1:]
    of = wishes("2.0.0", leave=leave, allow_downgrade=allowed, choices=Choices(allow_downgrade=chosen))
    assert selected(releases, of) == found


def test_a_version_that_was_withdrawn_is_not_its_own_replacement():
    assert selected([offered("2.0.0")], wishes("2.0.0", leave=True, allow_downgrade=True)) is None
    assert selected([offered("2.0.1")], wishes("2.0.0", leave=True)) == "2.0.1"


def test_versions_are_wanted_by_semver_and_not_by_their_text():
    assert selected([offered("10.0.0"), offered("9.0.0")], wishes("9.0.0")) == "10.0.0"
    assert wishes("1.0.0").want(parse_version("1.0.1"))

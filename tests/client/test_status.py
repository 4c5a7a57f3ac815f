from datetime import UTC, datetime
from itertools import product

import pytest
from semver import Version

from patchify.client import Checking, Downloading, Idle, Installing, PendingRestart, Restarting

TWO = Version(2)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
ALL = [
    Idle(),
    Checking(),
    Downloading(TWO, 45),
    Installing(TWO, 45),
    PendingRestart(TWO, 1, ("saving",), NOON),
    Restarting(TWO),
]

FOLLOWERS = {
    Idle: "Checking Downloading Installing PendingRestart Restarting",
    Checking: "Idle Downloading Installing PendingRestart Restarting",
    Downloading: "Idle Downloading Installing",
    Installing: "Idle Installing PendingRestart Restarting",
    PendingRestart: "Idle PendingRestart Restarting",
    Restarting: "Idle",
}


TEXTS = [
    "Idle",
    "Checking",
    "Downloading: 2.0.0 (45%)",
    "Installing: 2.0.0",
    "Pending restart: 2.0.0",
    "Restarting: 2.0.0",
]


@pytest.mark.parametrize(("status", "text"), list(zip(ALL, TEXTS, strict=True)))
def test_it_prints_as_in_the_original(status, text):
    assert str(status) == text
    assert f"{status}" == text


@pytest.mark.parametrize(("status", "other"), list(product(ALL, ALL)), ids=lambda each: type(each).__name__)
def test_one_follows_another_only_as_the_story_goes(status, other):
    assert status.may_become(other) is (type(other).__name__ in FOLLOWERS[type(status)].split())


def test_every_status_leads_back_to_idle():
    assert all(status.may_become(Idle()) for status in ALL if status != Idle())


@pytest.mark.parametrize("status", ALL, ids=lambda each: type(each).__name__)
def test_it_is_a_value(status):
    assert status in set(ALL)
    with pytest.raises(AttributeError):
        status.percent = 1


def test_what_is_waited_for_is_part_of_it():
    status = PendingRestart(TWO, 2, ("saving",), NOON)
    assert (status.version, status.actions, status.reasons, status.since) == (TWO, 2, ("saving",), NOON)

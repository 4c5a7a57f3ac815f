from datetime import timedelta

import pytest

from patchify.client import Choices
from tests.client.offering import NOW


def test_they_are_read_as_they_were_written():
    made = Choices("beta", ">=1.0.0,<2.0.0", True, False, ("1.1.0", "1.2.0+b1"), "1.3.0", NOW)
    assert Choices.from_json(made.to_json()) == made
    assert Choices.from_json(Choices().to_json()) == Choices()


@pytest.mark.parametrize(
    "wrong",
    [
        {"channel": "No Channel"},
        {"channel": ""},
        {"pin": "1.0"},
        {"pin": ">=1.0.0,<two"},
        {"skipped": ("1",)},
        {"later": "soon"},
        {"prereleases": "yes"},
        {"allow_downgrade": 2},
        {"channel": 1},
        {"later_until": "tomorrow"},
        {"later_until": NOW.replace(tzinfo=None)},
    ],
)
def test_what_is_no_choice_is_refused(wrong):
    with pytest.raises((ValueError, TypeError)):
        Choices(**wrong)


def test_a_version_is_skipped_once_and_only_so_many_are_remembered():
    choices = Choices().skipping("1.0.0").skipping("1.1.0").skipping("1.0.0")
    assert choices.skipped == ("1.1.0", "1.0.0")
    for number in range(100):
        choices = choices.skipping(f"2.{number}.0")
    assert len(choices.skipped) == 50
    assert choices.skipped[-1] == "2.99.0"


def test_a_version_is_put_off_until_its_time():
    choices = Choices().putting_off("1.0.0", NOW)
    assert choices.is_put_off("1.0.0", NOW - timedelta(seconds=1))
    assert not choices.is_put_off("1.0.0", NOW)
    assert not choices.is_put_off("1.0.1", NOW - timedelta(seconds=1))
    assert not Choices().is_put_off("1.0.0", NOW)

import math
from datetime import timedelta
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from semver import Version

from patchify.client import Config
from patchify.errors import ConfigError
from patchify.keys import SigningKey
from patchify.platforms import detect

KEY = SigningKey.from_hex("11" * 32).verifying_key


def config(**changes) -> Config:
    return Config(**{"version": "1.0.0", "api": "https://updates.example.com/api/", "key": KEY, **changes})


def problem(**changes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    assert caught.value.key == next(iter(changes))
    assert str(caught.value).startswith(f"{caught.value.key}: ")
    return caught.value


def test_texts_are_parsed_and_kept_beside_what_was_given():
    made = config(version="1.2.3-rc.1+b7", key=KEY.to_hex().upper(), executable="/opt/app")
    assert made.version == "1.2.3-rc.1+b7"
    assert made.current == Version.parse("1.2.3-rc.1+b7")
    assert made.verifying_key == KEY
    assert made.executable == Path("/opt/app")


def test_values_are_taken_as_they_are():
    version = Version(1, 2, 3)
    made = config(version=version, executable=Path("app"))
    assert made.current is version
    assert made.verifying_key is KEY
    assert made.executable == Path("app")


def test_it_is_frozen_compared_by_value_and_usable_as_a_key():
    assert config() == config()
    assert hash(config()) == hash(config())
    assert config() != config(retries=1)
    with pytest.raises(AttributeError):
        config().retries = 1


def test_the_hosts_session_is_kept():
    with requests.Session() as session:
        assert config(session=session).session is session


@pytest.mark.parametrize("value", ["", "1.0", "v1.0.0", "1.0.0\n", "\u0660.0.0", None, 1, b"1.0.0"])
def test_a_version_must_be_semver(value):
    assert "SemVer" in problem(version=value).problem


@pytest.mark.parametrize("value", ["", "12", "g" * 64, "01" + "00" * 31, "00" * 32, None, b"\0" * 32])
def test_a_key_must_be_usable(value):
    problem(key=value)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://h", "https://h/"),
        ("https://h/", "https://h/"),
        ("HTTP://h/api", "http://h/api/"),
        ("http://h:8080/a/b//", "http://h:8080/a/b/"),
        ("http://[::1]:80/api", "http://[::1]:80/api/"),
    ],
)
def test_the_api_gets_one_slash_and_keeps_its_prefix(given, kept):
    assert config(api=given).api == kept


@pytest.mark.parametrize(
    "value",
    [
        "",
        "updates.example.com/api",
        "ftp://h/",
        "file:///etc",
        "https://",
        "https:///api",
        "https://:80/",
        "https://h:0/",
        "https://h:99999/",
        "https://h:x/",
        "https://[::1/",
        "https://h/?a=b",
        "https://h/#a",
        None,
        b"https://h/",
        7,
    ],
)
def test_an_api_must_be_an_http_address(value):
    assert "https://updates.example.com/api/" in problem(api=value).problem


@given(st.text())
def test_no_text_as_api_raises_anything_else(text):
    try:
        made = config(api=text)
    except ConfigError:
        return
    assert made.api.startswith(("http://", "https://"))
    assert made.api.endswith("/")


@pytest.mark.parametrize("value", ["", "all", None, True, 1])
def test_how_far_to_go_is_one_of_four_words(value):
    assert "check, download, stage, restart" in problem(automatic=value).problem


@pytest.mark.parametrize("value", [timedelta(), timedelta(seconds=0.9), timedelta(days=-1), timedelta.max, 60, "1h"])
def test_an_interval_is_a_second_at_least(value):
    assert "1 s" in problem(check_interval=value).problem


@pytest.mark.parametrize("value", [timedelta(microseconds=-1), timedelta.max, 60])
def test_a_ceiling_may_be_nothing_but_not_less(value):
    problem(restart_wait_ceiling=value)
    assert config(restart_wait_ceiling=timedelta()).restart_wait_ceiling == timedelta()


LIMITS = ["connect_timeout", "idle_timeout", "document_timeout", "release_timeout", "max_document", "max_release"]


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, 1e12, True, "10", None])
def test_a_limit_is_a_number_above_zero_and_no_mistake_of_units(name, value):
    assert "number above 0" in problem(**{name: value}).problem


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [0.001, 1, 1e8])
def test_a_limit_may_be_whole_or_not(name, value):
    assert getattr(config(**{name: value}), name) == value


@pytest.mark.parametrize("value", [-1, 1.5, True, None, "3"])
def test_retries_are_a_count(value):
    assert "count" in problem(retries=value).problem
    assert "MiB" in problem(patch_memory=value).problem
    assert config(retries=0).retries == 0


@pytest.mark.parametrize("value", ["", 5, ["app"]])
def test_an_executable_is_the_path_of_a_file(value):
    assert "path" in problem(executable=value).problem


# The trial ------------------------------------------------------------------------------------------------------------


def test_by_default_every_version_is_on_trial_for_half_a_minute():
    made = config()
    assert (made.trial_period, made.trial_timeout) == (timedelta(seconds=30), timedelta(minutes=5))
    assert (made.trial_tries, made.confirm_automatically, made.health) == (1, True, None)
    assert (made.smoke_test, made.smoke_timeout, made.supervised) == (None, timedelta(minutes=1), None)
    assert made.guardian


@pytest.mark.parametrize(
    ("name", "least"),
    [("trial_period", timedelta()), ("trial_timeout", timedelta(seconds=1)), ("smoke_timeout", timedelta(seconds=0.1))],
)
@pytest.mark.parametrize("value", [timedelta(microseconds=-1), timedelta.max, 60, "1h", None])
def test_a_time_of_the_trial_is_a_duration_within_reason(name, least, value):
    assert f"{least.total_seconds():g} s" in problem(**{name: value}).problem
    assert getattr(config(**{"trial_period": timedelta(), name: least}), name) == least


def test_a_trial_may_last_longer_than_it_takes_to_prove_good():
    assert "not longer than trial_period" in problem(trial_timeout=timedelta(seconds=30)).problem
    assert config(trial_timeout=timedelta(seconds=30.001)).trial_timeout == timedelta(seconds=30.001)


@pytest.mark.parametrize("value", [-1, 1.5, True, None, "3"])
def test_tries_are_a_count(value):
    assert "count" in problem(trial_tries=value).problem
    assert config(trial_tries=0).trial_tries == 0


@pytest.mark.parametrize("value", ["", "localhost/health", "ftp://h/", "https://h:0/", "https://[::1/", 7, True])
def test_health_is_a_callable_or_an_http_address(value):
    assert "http://127.0.0.1:8000/health" in problem(health=value).problem
    address = "http://[::1]:8000/health?deep=1"
    assert config(health=address).health == address
    assert config(health=bool).health is bool


@pytest.mark.parametrize("value", ["--version", [1], 7, {"--version"}, [b"--version"]])
def test_a_smoke_test_is_a_list_of_arguments(value):
    assert "['--version']" in problem(smoke_test=value).problem
    assert config(smoke_test=["--version", "-v"]).smoke_test == ("--version", "-v")
    assert config(smoke_test=[]).smoke_test == ()


# Which releases -------------------------------------------------------------------------------------------------------


def test_by_default_the_stable_channel_is_asked_for_this_platform():
    made = config()
    assert (made.channel, made.platform, made.update_documents) == ("stable", detect(), "auto")
    assert (made.appname, made.pin, made.prereleases, made.allow_downgrade) == (None, None, None, False)
    assert (made.reports, made.report_installation) == (False, False)
    assert made.clock_tolerance == timedelta(minutes=10)


@pytest.mark.parametrize(
    ("interval", "least"),
    [(None, timedelta(minutes=1)), (timedelta(hours=4), timedelta(minutes=1)), (timedelta(seconds=5),) * 2],
)
def test_automatic_checks_are_a_minute_apart_or_the_interval_if_that_is_shorter(interval, least):
    assert config(check_interval=interval).least_interval == least
    assert config(check_interval=interval, least_interval=timedelta()).least_interval == timedelta()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("channel", ["", "A", "a b", None, 1]),
        ("platform", ["", "Linux", "a/b", None]),
        ("pin", ["", "1.0", 1, ">=1.0.0,"]),
        ("appname", ["", 1]),
        ("update_documents", ["", "yes", True, None]),
        ("clock_tolerance", [None, 600, timedelta(seconds=-1)]),
        ("least_interval", [60, timedelta(seconds=-1), timedelta.max]),
    ],
)
def test_what_decides_about_releases_is_checked(name, values):
    for value in values:
        assert problem(**{name: value}).problem


def test_another_channel_needs_update_documents():
    assert "update documents" in problem(channel="beta", update_documents="never").problem


def test_a_range_a_channel_and_a_platform_are_kept_as_given():
    made = config(pin=">=1.0.0,<2.0.0", channel="beta", platform="freebsd-x86_64", appname="My App")
    assert (made.pin, made.channel, made.platform, made.appname) == (
        ">=1.0.0,<2.0.0", "beta", "freebsd-x86_64", "My App",
    )  # fmt: skip

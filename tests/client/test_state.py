import errno
import io
import json
import logging
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from semver import Version

from patchify.client import state as module
from patchify.client.state import (
    MAX_INTERRUPTIONS,
    Bad,
    Phase,
    Release,
    State,
    UnusableStateError,
    Update,
    Verdict,
    load,
    read,
    save,
    set_aside,
    settle,
)
from patchify.errors import UnableToReadFileError, UnableToWriteStateError

A = Release(Version.parse("1.0.0"), "aa" * 32)
B = Release(Version.parse("2.0.0-rc.1+b7"), "bb" * 32)
C = Release(Version.parse("3.0.0"), "cc" * 32)
AT = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
STAGED = State().staged(B, A)
ON_TRIAL = STAGED.armed(tries=1).reported(4711, 30.5, "no health yet")
FULL = State(
    good=B,
    previous=A,
    update=Update(C, B, Phase.RETURNING, tries=3, failures=2, interruptions=1, process=7, patience=1.5, reason="why"),
    bad=(Bad(A, "was bad", AT), Bad(B, "was worse", AT)),
    untold=Bad(B, "was worse", AT),
    checked=AT,
    error="no net",
)
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.json"


# On disk --------------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(path):
    for state in (STAGED, FULL, ON_TRIAL, State()):
        save(path, state)
        assert load(path) == read(path) == state


def test_a_missing_file_is_a_program_just_installed_without_a_word(path, caplog):
    assert read(path) is None
    assert load(path) == State()
    assert not caplog.records


def unusable(path):
    """Check that the state is nothing to go by, and that nobody fails for that."""
    with pytest.raises(UnusableStateError, match=r"state\.json is not usable"):
        read(path)
    assert load(path) == State()


def test_a_damaged_file_is_logged(path, caplog):
    path.write_bytes(b"{")
    assert load(path) == State()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in caplog.text


@pytest.mark.parametrize("error", [errno.EACCES, errno.EISDIR])
def test_a_file_that_is_not_ours_is_not_usable(path, monkeypatch, error):
    save(path, FULL)
    path.chmod(0)
    monkeypatch.setattr(io, "open", failing(error))  # root may read it all the same
    unusable(path)


def failing(error):
    def fail(*_, **__):
        raise OSError(error, os.strerror(error))

    return fail


def test_nor_is_a_folder(path):
    path.mkdir()
    unusable(path)


@pytest.mark.parametrize("error", [errno.EIO, errno.EMFILE, errno.ENOMEM, errno.EACCES])
def test_a_file_that_cannot_be_read_just_now_is_told_from_one_that_is_no_good(path, monkeypatch, error, caplog):
    save(path, FULL)
    with monkeypatch.context() as patch:
        patch.setattr(io, "open", failing(error))
        with pytest.raises(UnableToReadFileError) as caught:
            read(path)
        assert load(path) == State()
    assert caught.value.errno == error
    assert "unable to read" in caplog.text
    assert load(path) == FULL


@in_one_folder
@given(st.binary())
def test_no_bytes_raise(path, data):
    path.write_bytes(data)
    unusable(path)


GOOD = module._members(FULL)
NAMES = [*GOOD, *GOOD["update"], *GOOD["bad"][0]]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([2, "aa" * 32, "2.0.0"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=4),
)


@in_one_folder
@given(JSON)
def test_no_json_raises(path, value):
    path.write_text(json.dumps(value))
    load(path)


@in_one_folder
@given(st.sampled_from([name for name in GOOD if name != "format"]), JSON)
def test_no_member_of_another_kind_raises(path, name, value):
    path.write_text(json.dumps({**GOOD, name: value}))
    load(path)


@in_one_folder
@given(st.sampled_from(list(GOOD["update"])), JSON)
def test_no_member_of_the_update_of_another_kind_raises_or_changes_the_others(path, name, value):
    path.write_text(json.dumps({**GOOD, "update": {**GOOD["update"], name: value}}))
    found = load(path).update
    assert found is None or replace(found, **{name: getattr(FULL.update, name)}) == FULL.update


@pytest.mark.parametrize(
    "damage",
    [
        {"format": 1},
        {"format": 3},
        {"format": "2"},
        {"good": {"version": "1.0", "sha256": "aa" * 32}},
        {"good": {"version": "1.0.0", "sha256": "aa" * 31}},
        {"good": {"version": "1.0.0", "sha256": "zz" * 32}},
        {"good": {"version": 1, "sha256": "aa" * 32}},
        {"good": {"version": "1.0.0"}},
        {"good": 0},
        {"previous": []},
        {"update": "x"},
        {"update": {**GOOD["update"], "phase": "armored"}},
        {"update": {**GOOD["update"], "phase": ["armed"]}},
        {"update": {**GOOD["update"], "failures": -1}},
        {"update": {**GOOD["update"], "failures": 1.5}},
        {"update": {**GOOD["update"], "interruptions": True}},
        {"update": {**GOOD["update"], "tries": "1"}},
        {"update": {**GOOD["update"], "process": "7"}},
        {"update": {**GOOD["update"], "patience": float("nan")}},
        {"update": {**GOOD["update"], "patience": float("inf")}},
        {"update": {**GOOD["update"], "patience": -0.5}},
        {"update": {**GOOD["update"], "patience": 10**400}},
        {"update": {**GOOD["update"], "patience": None}},
        {"update": {**GOOD["update"], "reason": None}},
        {"bad": {"a": 1}},
        {"bad": "x"},
        {"bad": None},
        {"bad": [{**GOOD["bad"][0], "at": "yesterday"}]},
        {"bad": [{**GOOD["bad"][0], "at": 1700000000}]},
        {"bad": [{**GOOD["bad"][0], "reason": 1}]},
        {"untold": {}},
        {"checked": "2024-13-01"},
        {"error": None},
    ],
    ids=str,
)
def test_another_format_or_a_wrong_member_makes_it_unusable(path, damage):
    path.write_text(json.dumps({**GOOD, **damage}))
    unusable(path)


@pytest.mark.parametrize("name", [*GOOD])
def test_a_member_that_is_missing_makes_it_unusable(path, name):
    path.write_text(json.dumps({each: value for each, value in GOOD.items() if each != name}))
    unusable(path)


@in_one_folder
@given(st.data())
def test_a_file_cut_short_or_overwritten_is_unusable(path, data):
    whole = json.dumps(GOOD).encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:cut] + b"\0" * data.draw(st.integers(0, len(whole))))
    unusable(path)


def test_a_file_far_too_large_is_not_read_whole(path):
    path.write_bytes(json.dumps(GOOD).encode() + b" " * 100_000_000)
    assert load(path) == FULL  # the blanks after the first MiB are not looked at


@pytest.mark.parametrize(
    "data", [b"[" * 60_000, b"9" * 10_000, b'{"format":' * 50_000], ids=["lists", "digits", "members"]
)
def test_deep_nesting_and_endless_numbers_are_unusable(path, data):
    path.write_bytes(data)
    unusable(path)


def test_texts_of_any_length_and_kind_are_kept_within_bounds(path):
    bad = Bad(A, "\ud800ä\0" * 10_000, AT)
    save(path, State(bad=(bad,) * 100, error="x" * 1_000_000))
    found = load(path)
    assert len(found.error) == 2000
    assert {len(each.reason) for each in found.bad} == {300}
    assert path.stat().st_size < 1024 * 1024  # what is read of it at most


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_state_that_cannot_be_written_leaves_the_old_one(path, monkeypatch, call):
    save(path, STAGED)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(errno.ENOSPC))
        with pytest.raises(UnableToWriteStateError) as caught:
            save(path, State())
    assert caught.value.errno == errno.ENOSPC
    assert load(path) == STAGED
    assert os.listdir(path.parent) == [path.name]


def test_an_unusable_file_is_kept_under_another_name(path):
    path.write_bytes(b"{")
    set_aside(path)
    assert not path.exists()
    assert path.with_name("state.json.unusable").read_bytes() == b"{"
    set_aside(path)  # it is gone already


def test_a_refusal_that_the_file_is_not_known_to_cause_may_pass(path, monkeypatch):
    monkeypatch.setattr(io, "open", failing(errno.EACCES))
    with pytest.raises(UnableToReadFileError):  # the file is not even there to look at
        read(path)


# The clock ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "time",
    [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(-timedelta(hours=14))),
    ],
    ids=str,
)
def test_a_clock_in_the_far_past_or_future_is_only_noted(path, time, monkeypatch):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return time

    monkeypatch.setattr(module, "datetime", Clock)
    state = replace(STAGED.condemned(C, "was bad"), checked=time)
    monkeypatch.undo()
    save(path, state)
    assert load(path) == state
    assert load(path).quarantined(C.sha256).at == time.replace(microsecond=0)


def test_a_time_without_a_zone_is_utc(path):
    path.write_text(json.dumps({**GOOD, "checked": "2024-05-06T07:08:09"}))
    assert load(path).checked == AT


# The steps ------------------------------------------------------------------------------------------------------------


def test_the_first_release_that_is_staged_replaces_the_good_one():
    assert State(good=A, update=Update(B, A)) == STAGED
    assert (STAGED.update.phase, STAGED.on_trial) == (Phase.STAGED, None)


def test_a_release_is_on_trial_from_the_order_to_its_confirmation():
    armed = STAGED.armed(tries=2)
    assert armed.on_trial == Update(B, A, Phase.ARMED, tries=2)
    reported = armed.reported(4711, 30.5, "no health yet")
    assert reported.on_trial == replace(armed.update, process=4711, patience=30.5, reason="no health yet")
    assert reported.confirmed() == State(good=B, previous=A)
    assert State().on_trial is None


def test_an_order_forgets_what_was_reported_before_and_keeps_the_counts():
    counted = replace(ON_TRIAL, update=replace(ON_TRIAL.update, failures=1, interruptions=2))
    assert counted.armed(tries=5).update == Update(B, A, Phase.ARMED, tries=5, failures=1, interruptions=2)


def test_a_trial_that_goes_on_counts_as_interrupted_and_waits_for_a_report():
    assert ON_TRIAL.resumed().on_trial == replace(ON_TRIAL.update, interruptions=1, process=None)


@pytest.mark.parametrize(("failed", "failures", "interruptions"), [(True, 1, 0), (False, 0, 1), (None, 0, 0)])
def test_a_return_counts_a_failure_an_interruption_or_neither(failed, failures, interruptions):
    returning = ON_TRIAL.returning("was killed", failed=failed)
    assert returning.update == replace(
        ON_TRIAL.update, phase=Phase.RETURNING, failures=failures, interruptions=interruptions, reason="was killed"
    )
    assert returning.on_trial is None
    waiting = returning.returned()
    assert waiting.update == replace(returning.update, phase=Phase.STAGED, process=None)
    assert (waiting.good, waiting.bad, waiting.untold) == (A, (), None)


@pytest.mark.parametrize("tries", [0, 1, 3])
def test_a_release_that_fails_once_more_than_is_tolerated_is_in_quarantine(tries):
    state = STAGED
    for attempt in range(tries + 1):
        assert state.update.failures == attempt
        assert not state.update.spent
        state = state.armed(tries).returning("ended with exit status 1", failed=True).returned()
    assert state.update is None
    assert state.good == A
    assert state.previous is None
    assert [(bad.release, bad.reason) for bad in state.bad] == [(B, "ended with exit status 1")]
    assert state.untold == state.bad[0] == state.quarantined(B.sha256)
    assert state.error == "ended with exit status 1"
    assert state.quarantined(A.sha256) is None


def test_interruptions_are_no_failures_but_are_not_tolerated_for_ever():
    state = STAGED
    for attempt in range(MAX_INTERRUPTIONS + 1):
        assert state.update.interruptions == attempt
        assert not state.update.spent
        state = state.armed(tries=0).returning("was ended (SIGTERM)", failed=False).returned()
    assert state.update is None
    expected = f"was ended {MAX_INTERRUPTIONS + 1} times before it was confirmed, at last: was ended (SIGTERM)"
    assert [bad.reason for bad in state.bad] == [expected]


def test_what_was_never_started_may_be_tried_without_end():
    state = STAGED
    for _ in range(50):
        state = state.armed(tries=0).returning("cannot be started", failed=None).returned()
    assert state.update == replace(STAGED.update, reason="cannot be started")


def test_a_release_that_is_staged_again_keeps_its_counts_and_another_begins_anew():
    failed = ON_TRIAL.returning("was killed", failed=True).returned()
    again = failed.staged(B, A)
    assert (again.update.failures, again.update.phase) == (1, Phase.STAGED)
    assert failed.staged(C, A).update == Update(C, A)


def test_a_new_release_while_one_returns_takes_its_place():
    state = ON_TRIAL.returning("was killed", failed=True).staged(C, B)
    assert state == State(good=B, previous=A, update=Update(C, B))


def test_the_previous_version_is_the_one_before_the_good_one():
    second = STAGED.armed(0).confirmed().staged(C, B)
    assert (second.good, second.previous) == (B, A)  # until the third is confirmed
    assert second.armed(0).confirmed() == State(good=C, previous=B)


def test_a_release_in_quarantine_is_there_once_with_its_last_reason():
    state = State().condemned(A, "one").condemned(B, "two").condemned(A, "three")
    assert [(bad.release, bad.reason) for bad in state.bad] == [(B, "two"), (A, "three")]


def test_the_quarantine_is_bounded_and_the_oldest_go_first():
    state = State()
    releases = [Release(Version(number), f"{number:064x}") for number in range(103)]
    for release in releases:
        state = state.condemned(release, "was bad")
    assert [bad.release for bad in state.bad] == releases[3:]


def test_only_the_release_that_is_condemned_is_not_on_its_way_any_more():
    assert STAGED.condemned(C, "was bad").update == STAGED.update
    assert STAGED.condemned(B, "was bad").update is None


def test_a_recall_orders_the_previous_version_back_and_condemns_the_good_one():
    confirmed = STAGED.armed(0).confirmed()
    recalled = confirmed.recalled("was taken back by hand")
    assert (recalled.good, recalled.previous) == (A, None)
    assert settle(recalled.update, B.sha256) is Verdict.PUT_BACK
    assert settle(recalled.update, A.sha256) is Verdict.BACK
    returned = recalled.returned()
    assert (returned.good, returned.previous, returned.update) == (A, None, None)
    assert returned.quarantined(B.sha256).reason == "was taken back by hand"


@pytest.mark.parametrize("state", [State(), STAGED, State(previous=A)])
def test_nothing_is_recalled_where_no_previous_version_is_known(state):
    with pytest.raises(ValueError, match="no previous version"):
        state.recalled("by hand")


def test_a_step_of_an_update_needs_one():
    for step in (
        lambda: State().armed(1),
        lambda: State().reported(1, 1, ""),
        lambda: State().returning("", failed=True),
        State().returned,
        State().confirmed,
    ):
        with pytest.raises(ValueError, match="no update"):
            step()


@pytest.mark.parametrize(
    ("phase", "installed", "verdict"),
    [
        (Phase.STAGED, A, Verdict.NOTHING),
        (Phase.STAGED, B, Verdict.STALE),
        (Phase.STAGED, C, Verdict.STALE),
        (Phase.ARMED, A, Verdict.UNSWAPPED),
        (Phase.ARMED, B, Verdict.NOTHING),
        (Phase.ARMED, C, Verdict.STALE),
        (Phase.RETURNING, A, Verdict.BACK),
        (Phase.RETURNING, B, Verdict.PUT_BACK),
        (Phase.RETURNING, C, Verdict.STALE),
    ],
)
def test_a_look_at_the_program_says_what_is_left_to_be_done(phase, installed, verdict):
    assert settle(Update(B, A, phase), installed.sha256) is verdict


def test_without_an_update_nothing_is_left_to_be_done():
    assert settle(None, A.sha256) is Verdict.NOTHING

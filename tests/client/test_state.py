import json
import logging
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from semver import Version

from patchify.client.state import Staged, Verdict, judge, load, save
from patchify.errors import UnableToWriteStateError

OLD, NEW, THIRD = "aa" * 32, "bb" * 32, "cc" * 32
STAGED = Staged(Version.parse("2.0.0-rc.1+b7"), NEW, OLD)
GOOD = {"format": 1, "staged": {"version": "2.0.0", "sha256": NEW, "replaces": OLD}}
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.json"


def test_what_is_saved_is_loaded(path):
    save(path, STAGED)
    assert load(path) == STAGED
    save(path, None)
    assert load(path) is None


def test_a_missing_file_says_nothing_is_staged_without_a_word(path, caplog):
    assert load(path) is None
    assert not caplog.records


def test_a_damaged_file_is_logged(path, caplog):
    path.write_bytes(b"{")
    assert load(path) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in caplog.text


def test_a_file_that_cannot_be_read_says_nothing_is_staged(path):
    path.mkdir()
    assert load(path) is None


@in_one_folder
@given(st.binary())
def test_no_bytes_raise(path, data):
    path.write_bytes(data)
    assert load(path) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([1, NEW, OLD, "2.0.0"]),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from([*GOOD, *GOOD["staged"]]) | st.text(), inner, max_size=4)
    ),
)


@in_one_folder
@given(JSON)
def test_no_json_raises(path, value):
    path.write_text(json.dumps(value))
    load(path)


@in_one_folder
@given(st.sampled_from(["version", "sha256", "replaces"]), JSON)
def test_no_member_of_another_kind_raises_or_counts(path, name, value):
    path.write_text(json.dumps({**GOOD, "staged": {**GOOD["staged"], name: value}}))
    staged = load(path)
    assert staged is None or value in (NEW, OLD, "2.0.0")


@in_one_folder
@given(st.data())
def test_a_file_cut_short_or_overwritten_says_nothing_is_staged_or_the_same(path, data):
    whole = json.dumps(GOOD).encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:cut] + b"\0" * data.draw(st.integers(0, len(whole))))
    assert load(path) is None


@pytest.mark.parametrize("damage", [{"format": 2}, {"format": "1"}, {"staged": []}, {"staged": "x"}])
def test_another_format_says_nothing_is_staged(path, damage):
    path.write_text(json.dumps({**GOOD, **damage}))
    assert load(path) is None


def test_a_file_far_too_large_is_not_read_whole(path):
    path.write_bytes(json.dumps(GOOD).encode() + b" " * 100_000_000)
    assert load(path) == Staged(Version(2), NEW, OLD)  # the blanks after the first 64 KiB are not looked at


def test_deep_nesting_says_nothing_is_staged(path):
    path.write_bytes(b"[" * 60_000)
    assert load(path) is None


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_state_that_cannot_be_written_leaves_the_old_one(path, monkeypatch, call):
    save(path, STAGED)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(UnableToWriteStateError) as caught:
            save(path, None)
    assert caught.value.errno == 28
    assert load(path) == STAGED
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("staged", "installed", "verdict"),
    [
        (Staged(Version(2), NEW, OLD), OLD, Verdict.WAITING),
        (Staged(Version(2), NEW, OLD), NEW, Verdict.SWAPPED),
        (Staged(Version(2), NEW, OLD), THIRD, Verdict.STALE),
        (Staged(Version(2), NEW, NEW), NEW, Verdict.SWAPPED),
        (Staged(Version(2), NEW, NEW), OLD, Verdict.STALE),
    ],
)
def test_a_look_at_the_program_says_where_a_swap_stands(staged, installed, verdict):
    assert judge(staged, installed) is verdict

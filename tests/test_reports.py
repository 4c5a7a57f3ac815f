import contextlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify.members import MalformedDocumentError
from patchify.reports import MOST_BYTES, MOST_REASON, MOST_REPORTS, Batch, Event, Report
from patchify.versions import parse_version

AT = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
INSTALLATION = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
REPORT = {"event": "failed", "at": "2026-11-24T09:30:00Z", "version": "1.0.0", "release": "2.0.0", "reason": "why"}
BATCH = {
    "kind": "patchify/reports/1",
    "batch": "ab" * 16,
    "appname": "app",
    "platform": "linux-x86_64",
    "channel": "stable",
    "installation": INSTALLATION,
    "reports": [REPORT],
}


def rendered(changes=(), report=()) -> bytes:
    return json.dumps({**BATCH, "reports": [{**REPORT, **dict(report)}], **dict(changes)}).encode()


def test_a_batch_has_this_form():
    report = Report(Event.FAILED, AT, parse_version("1.0.0"), parse_version("2.0.0"), "why")
    batch = Batch("ab" * 16, "app", "linux-x86_64", "stable", INSTALLATION, (report,))
    assert batch.to_bytes() == json.dumps(BATCH, separators=(",", ":")).encode()
    assert Batch.parse(batch.to_bytes()) == batch


def test_a_report_may_be_about_no_release_and_a_batch_of_no_installation():
    batch = Batch.parse(rendered({"installation": None}, {"event": "checked", "release": None, "reason": ""}))
    assert (batch.installation, batch.reports[0].release) == (None, None)
    assert Batch.parse(batch.to_bytes()) == batch


def test_a_report_is_about_its_release_or_else_about_what_ran():
    assert str(Batch.parse(rendered()).reports[0].subject) == "2.0.0"
    assert str(Batch.parse(rendered(report={"release": None})).reports[0].subject) == "1.0.0"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kind": "patchify/update/1"}, "not patchify/reports/1"),
        ({"more": 1}, "are expected"),
        ({"batch": "AB" * 16}, "not 32 lower-case hex digits"),
        ({"batch": "ab" * 15}, "not 32 lower-case hex digits"),
        ({"batch": 5}, "are texts"),
        ({"appname": None}, "are texts"),
        ({"platform": "Linux"}, "not the name of a platform"),
        ({"channel": "no channel"}, "not the name of a channel"),
        ({"installation": "me"}, "neither null nor a UUID"),
        ({"installation": INSTALLATION.upper()}, "neither null nor a UUID"),
        ({"installation": 5}, "neither null nor a UUID"),
        ({"reports": []}, f"not a list of 1 to {MOST_REPORTS}"),
        ({"reports": {}}, f"not a list of 1 to {MOST_REPORTS}"),
        ({"reports": [REPORT] * (MOST_REPORTS + 1)}, f"not a list of 1 to {MOST_REPORTS}"),
        ({"reports": [5]}, "a report has the members"),
        ({"reports": [{"event": "failed"}]}, "a report has the members"),
    ],
)
def test_a_batch_that_is_wrong_is_refused_with_what_is_wrong(changes, problem):
    with pytest.raises(MalformedDocumentError, match=problem):
        Batch.parse(rendered(changes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"event": "exploded"}, "exploded"),
        ({"event": ["failed"]}, "has texts"),
        ({"at": "yesterday"}, "is not a time"),
        ({"at": 5}, "has texts"),
        ({"version": "1.0"}, "not a SemVer version"),
        ({"version": None}, "has texts"),
        ({"release": ""}, "not a SemVer version"),
        ({"release": 2}, "has texts"),
        ({"reason": "x" * (MOST_REASON + 1)}, "not one line"),
        ({"reason": "two\nlines"}, "not one line"),
        ({"reason": "\ud800"}, "not one line"),
        ({"reason": None}, "has texts"),
        ({"more": 1}, "a report has the members"),
    ],
)
def test_a_report_that_is_wrong_is_refused_with_what_is_wrong(changes, problem):
    with pytest.raises(MalformedDocumentError, match=problem):
        Batch.parse(rendered(report=changes))


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"\xff", b"{" * 5000, rendered()[:-1], rendered().replace(b'"batch"', b'"kind"'), b" " * MOST_BYTES],
)
def test_what_is_no_object_is_refused(body):
    with pytest.raises(MalformedDocumentError):
        Batch.parse(body)


def test_a_batch_is_bounded():
    with pytest.raises(MalformedDocumentError, match="longer than"):
        Batch.parse(rendered() + b" " * MOST_BYTES)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_nothing_else_is_raised(value):
    for key in BATCH:
        with contextlib.suppress(MalformedDocumentError):
            Batch.parse(rendered({key: value}))

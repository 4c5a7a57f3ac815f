import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify.members import MalformedDocumentError
from patchify.messages import OfferedRelease, Rollout, UpdateDocument, WithdrawnRelease
from patchify.versions import parse_version
from tests.client.offering import document, offered, withdrawn

TIMES = st.integers(0, 2**32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
VERSIONS = st.sampled_from(["0.0.0", "1.2.3", "2.0.0-rc.1", "1.0.0+b1"]).map(parse_version)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
RELEASES = st.builds(
    OfferedRelease,
    version=VERSIONS,
    size=st.integers(1, 2**53 - 1),
    sha256=DIGESTS,
    format=st.sampled_from(["file", "tar.zst"]),
    path=st.sampled_from(["releases/1.0.0", "releases/1.0.0%2Bb1?platform=linux-x86_64"]),
    published=TIMES,
    notes=st.text(max_size=40),
    critical=st.booleans(),
    floor=st.none() | VERSIONS,
    rollout=st.none() | st.builds(Rollout, st.integers(0, 100), st.text(max_size=16)),
)
SOME = document(offered(floor="1.0.0", percent=10), offered("1.0.0"), withdrawn=(withdrawn("1.9.0", "19" * 32),))


@settings(max_examples=50)
@given(st.lists(RELEASES, max_size=3), st.lists(st.builds(WithdrawnRelease, VERSIONS, DIGESTS), max_size=2))
def test_it_is_read_as_it_was_written(releases, left):
    made = document(*releases, withdrawn=tuple(left))
    assert UpdateDocument.parse(made.to_bytes()) == made


def test_its_bytes_are_compact_and_begin_with_its_kind():
    assert document(serial=42).to_bytes() == (
        b'{"kind":"patchify/update/1","appname":"app","channel":"stable","platform":"linux-x86_64","serial":42,'
        b'"issued":"2026-11-23T17:00:00Z","expires":"2026-11-29T18:00:00Z","releases":[],"withdrawn":[]}'
    )
    members = json.loads(SOME.to_bytes())
    assert "version" not in members
    assert members["releases"][0] == {
        "version": "2.0.0",
        "size": 300,
        "sha256": "22" * 32,
        "format": "file",
        "published": "2026-11-22T18:00:00Z",
        "path": "releases/2.0.0",
        "notes": "What is **new**",
        "floor": "1.0.0",
        "rollout": {"percent": 10, "seed": "5eed"},
    }


def test_members_that_are_not_known_are_passed_over():
    members = json.loads(SOME.to_bytes())
    for each in (members, *members["releases"], *members["withdrawn"], members["releases"][0]["rollout"]):
        each["from the years to come"] = {"version": "9.0.0"}
    assert UpdateDocument.parse(json.dumps(members).encode()) == SOME


MEMBERS = [
    (path, wrong)
    for path, wrongs in {
        ("kind",): ["patchify/update/2", None],
        ("appname",): [None, 1],
        ("channel",): ["", "No", "a/b", 1],
        ("platform",): ["", "..", "Linux", None],
        ("serial",): [0, -1, 2**53, 1.5, "42", True, None],
        ("issued",): ["2026-11-23", "2026-11-23T17:00:00+00:00", "2026-13-23T17:00:00Z", 5, "2027-01-01T00:00:00Z"],
        ("expires",): ["never", None, "2026-11-23T17:00:00Z"],
        ("releases",): [None, {}, [1], [[]]],
        ("withdrawn",): [None, {}, ["1.0.0"]],
        ("withdrawn", 0, "version"): ["1", None],
        ("withdrawn", 0, "sha256"): ["19" * 31, None],
        ("releases", 0, "version"): ["2.0", None, 2],
        ("releases", 0, "size"): [0, -1, 2**53, "300", True],
        ("releases", 0, "sha256"): ["22" * 33, "zz" * 32, 0],
        ("releases", 0, "format"): [None, 1],
        ("releases", 0, "path"): [
            "",
            "/releases/2.0.0",
            "//elsewhere/2.0.0",
            "https://elsewhere/2.0.0",
            "../2.0.0",
            "releases/../../2.0.0",
            "releases/./2.0.0",
            "releases/%2e%2E/2.0.0",
            "releases/%5c2.0.0",
            "releases\\2.0.0",
            "releases/2.0.0#a",
            "releases/2.0.0\n",
            "r?a=/../b",
            1,
        ],
        ("releases", 0, "published"): ["", None],
        ("releases", 0, "notes"): [None, []],
        ("releases", 0, "critical"): [None, 0, "no"],
        ("releases", 0, "floor"): ["1", 1],
        ("releases", 0, "rollout"): [10, "10", {}],
        ("releases", 0, "rollout", "percent"): [-1, 101, "10", 9.5],
        ("releases", 0, "rollout", "seed"): [None, 5],
    }.items()
    for wrong in wrongs
]


@pytest.mark.parametrize(("path", "wrong"), MEMBERS)
def test_a_member_that_is_wrong_is_refused_by_its_name(path, wrong):
    members = json.loads(SOME.to_bytes())
    inner = members
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = wrong
    with pytest.raises(MalformedDocumentError, match=rf"kind|{path[-1]}|expires|release|version|percent"):
        UpdateDocument.parse(json.dumps(members).encode())


OPTIONAL = ("path", "notes", "critical", "floor", "rollout")


@pytest.mark.parametrize("path", dict.fromkeys(path for path, _ in MEMBERS if path[-1] not in OPTIONAL))
def test_a_member_that_is_missing_is_refused(path):
    members = json.loads(SOME.to_bytes())
    inner = members
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    with pytest.raises(MalformedDocumentError):
        UpdateDocument.parse(json.dumps(members).encode())


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'"patchify/update/1"', b"[" * 100_000])
def test_anything_else_is_no_document(body):
    with pytest.raises(MalformedDocumentError):
        UpdateDocument.parse(body)


def test_a_key_that_stands_twice_is_refused_wherever_it_stands():
    body = SOME.to_bytes()
    for text in (b'"serial"', b'"size"', b'"percent"'):
        place = body.index(text)
        with pytest.raises(MalformedDocumentError, match="twice"):
            UpdateDocument.parse(body[:place] + text + b":1," + body[place:])

import contextlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from patchify.members import MalformedDocumentError
from patchify.messages import LatestVersion, VersionHash, split_signature, with_signature
from patchify.versions import parse_version

HASH = "ab" * 32
NUMBER = st.integers(0, 2**64 - 1)
VERSIONS = st.builds("{}.{}.{}{}".format, NUMBER, NUMBER, NUMBER, st.sampled_from(["", "-rc.1", "+b1", "-0a.b+001"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | VERSIONS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(VERSIONS)
def test_latest_is_read_as_it_was_written(version):
    body = LatestVersion(parse_version(version)).to_bytes()
    assert body == b'{"version":"%s"}' % version.encode()
    assert str(LatestVersion.parse(body).version) == version


@given(VERSIONS, st.binary(min_size=32, max_size=32))
def test_a_hash_is_read_as_it_was_written(version, digest):
    body = VersionHash(parse_version(version), digest.hex()).to_bytes()
    assert body == b'{"version":"%s","hash":"%s"}' % (version.encode(), digest.hex().encode())
    parsed = VersionHash.parse(body)
    assert (str(parsed.version), parsed.sha256) == (version, digest.hex())


def test_a_hash_in_upper_case_is_read_as_lower_case():
    assert VersionHash.parse(b'{"version":"1.0.0","hash":"%s"}' % HASH.upper().encode()).sha256 == HASH


def test_order_and_blanks_do_not_matter_when_reading():
    assert VersionHash.parse(f'{{ "hash" : "{HASH}",\n"version":"1.0.0" }}'.encode()).sha256 == HASH


@given(st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode()))
@example(b"")
@example(b"\xff")
@example(b"\xef\xbb\xbf{}")
def test_anything_else_is_no_document(body):
    for document in (LatestVersion, VersionHash):
        with pytest.raises(MalformedDocumentError):
            document.parse(body)


@given(st.dictionaries(st.sampled_from(["version", "hash", "kind"]), VALUES, max_size=3))
def test_whatever_the_members_are_a_document_or_one_error_comes_back(members):
    for document in (LatestVersion, VersionHash):
        with contextlib.suppress(MalformedDocumentError):
            assert document.parse(json.dumps(members).encode()).version


HUGE = b"1" * 10_000


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"version":"1.0.0","version":"2.0.0"}', "stands twice"),
        (b'{"version":"1.0.0","\\u0076ersion":"1.0.0"}', "stands twice"),
        (b'{"version":{"a":1,"a":1}}', "stands twice"),
        (b'{"version":"1.0.0","hash":"%s"}' % HASH.encode(), "the keys version are expected"),
        (b'{"kind":"patchify/update/1","version":"1.0.0"}', "the keys version are expected"),
        (b'{"version":"1.0.0","\\ud800\\n":0}', "the keys version are expected"),
        (b"{}", "the keys version are expected"),
        (b'{"Version":"1.0.0"}', "the keys version are expected"),
        (b'["1.0.0"]', "a JSON object is expected"),
        (b'"1.0.0"', "a JSON object is expected"),
        (b"null", "a JSON object is expected"),
        (b'{"version":1}', "version is 1, not a text"),
        (b'{"version":null}', "version is None, not a text"),
        (b'{"version":["1.0.0"]}', "not a text"),
        (b'{"version":NaN}', "not a text"),
        (b'{"version":"1.0"}', "'1.0' is not a SemVer version"),
        (b'{"version":"1.0.0\\n"}', "not a SemVer version"),
        (b'{"version":"\\ud800"}', "not a SemVer version"),
        (b'{"version":"1.0.\\u0660"}', "not a SemVer version"),
        (b'{"version":"1.0.0"} {}', "not JSON"),
        (b'{"version":"1.0.0"', "not JSON"),
        (b"{'version':'1.0.0'}", "not JSON"),
        (b'{"version":"1.0.0\xff"}', "not JSON"),
        ('{"version":"1.0.0"}'.encode("utf-16"), "not JSON"),
        (b'\xef\xbb\xbf{"version":"1.0.0"}', "not JSON"),
        (b'{"version":' + HUGE + b"}", "not JSON"),
        (b'{"version":1e' + HUGE + b"}", "not a text"),
        (b'{"version":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
        (b'{"version":' + b'{"a":' * 100_000, "not JSON"),
        (b'{"' + b"a" * 100_000 + b'":1}', "the keys version are expected"),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else None,
)
def test_a_latest_document_is_refused(body, problem):
    with pytest.raises(MalformedDocumentError, match=problem) as caught:
        LatestVersion.parse(body)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("depth", range(100, 1100, 100))
def test_no_depth_of_nesting_gets_past_the_error(depth):
    with pytest.raises(MalformedDocumentError):
        LatestVersion.parse(b'{"version":' + b"[" * depth + b"]" * depth + b"}")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"version":"1.0.0"}', "the keys version, hash are expected"),
        (b'{"version":"1.0.0","hash":1}', "hash is 1, not a text"),
        (b'{"version":"1.0.0","hash":"%s"}' % HASH[1:].encode(), "not 64 hex digits"),
        (b'{"version":"1.0.0","hash":"%sg"}' % HASH[1:].encode(), "not 64 hex digits"),
        (b'{"version":"1.0","hash":"%s"}' % HASH.encode(), "not a SemVer version"),
        (b'{"version":"1.0.0","hash":"%s","hash":"%s"}' % ((HASH.encode(),) * 2), "stands twice"),
    ],
)
def test_a_hash_document_is_refused(body, problem):
    with pytest.raises(MalformedDocumentError, match=problem):
        VersionHash.parse(body)


def test_a_document_carries_its_signature_as_its_second_line():
    assert with_signature(b'{"a":1}', "AB") == b'{"a":1}\nAB\n'
    assert split_signature(b'{"a":1}\nAB\n') == (b'{"a":1}', "AB")
    assert split_signature(b'{"a":1}\r\nAB\r\n') == (b'{"a":1}\r', "AB")  # which no signature belongs to
    for data in (b'{"a":1}', b'{"a":1}\n', b""):
        assert split_signature(data) == (data, None)

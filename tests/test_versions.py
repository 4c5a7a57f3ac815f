import itertools
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from semver import Version

from patchify.errors import InvalidVersionError
from patchify.versions import VersionRange, newest, parse_version

IDENTIFIER = st.text(string.ascii_letters + string.digits + "-", min_size=1, max_size=6)
NUMBER = st.integers(0, 2**64 - 1).map(str)
VERSION_LIKE = st.builds(
    lambda core, pre, build: (
        ".".join(core) + (f"-{'.'.join(pre)}" if pre else "") + (f"+{'.'.join(build)}" if build else "")
    ),
    st.lists(NUMBER | IDENTIFIER, min_size=2, max_size=4),
    st.lists(IDENTIFIER, max_size=3),
    st.lists(IDENTIFIER, max_size=3),
)


def accepted(text: str) -> bool:
    try:
        parse_version(text)
    except InvalidVersionError:
        return False
    return True


@given(st.text("0123456789.-+aZ", max_size=20) | VERSION_LIKE)
@example("1.0.0-alpha.beta")
@example("1.0.0-0a")
@example("1.0.0--")
@example("1.0.0+007")
@example("1.0.0-01")
@example("01.0.0")
def test_ascii_texts_are_versions_exactly_if_semver_says_so(text):
    assert accepted(text) == Version.is_valid(text)


@given(st.text(max_size=300) | VERSION_LIKE.map(lambda text: text + "\n"))
@example("1.0.\u0660")
@example("1.0.0\n")
@example(" 1.0.0")
def test_what_is_accepted_is_written_back_as_it_was_read(text):
    if accepted(text):
        assert str(parse_version(text)) == text


@pytest.mark.parametrize("text", ["1.0.0\n", "v1.0.0", "1.0.0 ", "\u0661.0.0", "1.0.\u00b2", "1.0.0-\u00e9", "1.0"])
def test_only_plain_ascii_versions_are_accepted(text):
    assert not accepted(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty string, expected a semver version"),
        ("1", "unexpected end of input while parsing major version number"),
        ("1.", "unexpected end of input while parsing minor version number"),
        ("1.2", "unexpected end of input while parsing minor version number"),
        ("1.2.", "unexpected end of input while parsing patch version number"),
        ("x", "unexpected character 'x' while parsing major version number"),
        ("1.x.0", "unexpected character 'x' while parsing minor version number"),
        ("1x", "unexpected character 'x' after major version number"),
        ("1.2.3.4", "unexpected character '.' after patch version number"),
        ("01.2.3", "invalid leading zero in major version number"),
        ("1.00.3", "invalid leading zero in minor version number"),
        ("1.2.18446744073709551616", "value of patch version number exceeds u64::MAX"),
        ("1.2.3-", "empty identifier segment in pre-release identifier"),
        ("1.2.3-a..b", "empty identifier segment in pre-release identifier"),
        ("1.2.3-a.01", "invalid leading zero in pre-release identifier"),
        ("1.2.3-a_b", "unexpected character '_' after pre-release identifier"),
        ("1.2.3+", "empty identifier segment in build metadata"),
        ("1.2.3+a+b", "unexpected character '+' after build metadata"),
        ("1.2.3'", r"unexpected character '\'' after patch version number"),
        ("1.2.3\n", r"unexpected character '\n' after patch version number"),
        ("1.2.3\0", r"unexpected character '\0' after patch version number"),
        ("1.2.3\x7f", r"unexpected character '\u{7f}' after patch version number"),
        ("1.2.3é", "unexpected character 'é' after patch version number"),
    ],
)
def test_the_reason_is_the_one_that_the_original_gives(text, reason):
    with pytest.raises(InvalidVersionError) as caught:
        parse_version(text)
    assert caught.value.reason == reason
    assert caught.value.text == text


def test_an_endless_text_is_refused_without_being_read():
    with pytest.raises(InvalidVersionError, match="longer than 256 characters") as caught:
        parse_version("1" * 1_000_000)
    assert len(str(caught.value)) < 200


def test_the_largest_number_of_the_original_is_a_version():
    assert parse_version("18446744073709551615.0.0").major == 2**64 - 1


def test_the_order_is_that_of_semver_section_11():
    before = ["-alpha", "-alpha.1", "-alpha.beta", "-beta", "-beta.2", "-beta.11", "-rc.1", ""]
    ascending = [*("1.0.0" + suffix for suffix in before), "2.0.0", "2.1.0", "2.1.1"]
    versions = [parse_version(text) for text in ascending]
    assert all(low < high for low, high in itertools.combinations(versions, 2))
    for end in range(1, len(versions) + 1):
        assert str(newest(versions[:end])) == ascending[end - 1]


def test_build_metadata_does_not_count_when_comparing():
    assert parse_version("1.0.0+a") == parse_version("1.0.0+b")


def test_nothing_is_older_than_no_version_at_all():
    assert str(newest([])) == "0.0.0"


@given(st.permutations(["", "+0", "+00", "+1", "+01", "+001", "+2", "+10", "+10.a", "+a", "+a.1", "+b"]))
def test_the_original_decides_between_versions_that_differ_only_in_build_metadata(builds):
    # Its order: nothing, then numbers by value and, if equal, by length, then words.
    order = ["", "+0", "+00", "+1", "+01", "+001", "+2", "+10", "+10.a", "+a", "+a.1", "+b"]
    for size in range(1, len(builds) + 1):
        shown = str(newest([parse_version("1.0.0" + build) for build in builds[:size]]))
        assert shown == "1.0.0" + max(builds[:size], key=order.index)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("1.4.2", ["1.4.2", "1.4.2+b1"], ["1.4.3", "1.4.2-rc.1"]),
        ("==1.4.2+b1", ["1.4.2+b1", "1.4.2"], ["1.4.1"]),
        (">=1.4.0,<2.0.0", ["1.4.0", "1.99.0"], ["2.0.0", "1.3.9", "1.4.0-rc.1"]),
        (" > 1.0.0 , <= 1.2.0 ", ["1.0.1", "1.2.0"], ["1.0.0", "1.2.1"]),
        ("!=1.1.0", ["1.0.0"], ["1.1.0"]),
    ],
)
def test_a_range_holds_versions(text, inside, outside):
    versions = VersionRange.parse(text)
    assert all(parse_version(each) in versions for each in inside)
    assert not any(parse_version(each) in versions for each in outside)
    assert VersionRange.parse(str(versions)) == versions


@pytest.mark.parametrize("text", ["", ",", "1.0", ">=", "1.0.0,", "=>1.0.0", "~1.0.0", "1.x", ">=1.0.0 <2.0.0"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(InvalidVersionError):
        VersionRange.parse(text)

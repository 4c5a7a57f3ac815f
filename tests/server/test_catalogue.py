from datetime import UTC, datetime

import pytest
from semver import Version

from patchify.errors import InvalidVersionError, VersionNotFoundError
from patchify.releases import Placement, Release, ReleaseState
from patchify.server.catalogue import Snapshot
from patchify.versions import parse_version

MOMENT = datetime(2026, 11, 23, 18, tzinfo=UTC)
HASHES = {"1.0.0": "aa" * 32, "1.0.0+b1": "bb" * 32, "1.0.0+b2": "cc" * 32, "2.0.0-rc.1": "dd" * 32}


def release(version, sha256="aa" * 32, state=ReleaseState.LIVE, channel="stable", **members):
    placement = Placement(channel, state, since=MOMENT, changed=MOMENT)
    return Release(parse_version(version), sha256, placements=(placement,), **members)


@pytest.fixture
def snapshot():
    return Snapshot(release(version, sha256) for version, sha256 in HASHES.items())


def test_a_release_is_found_by_text_and_by_version(snapshot):
    assert snapshot.find("2.0.0-rc.1") is snapshot.find(Version.parse("2.0.0-rc.1"))
    assert snapshot.find("2.0.0-rc.1").sha256 == "dd" * 32


def test_build_metadata_is_part_of_the_name(snapshot):
    assert [snapshot.find(name).sha256[:2] for name in ("1.0.0", "1.0.0+b1", "1.0.0+b2")] == ["aa", "bb", "cc"]
    with pytest.raises(VersionNotFoundError, match=r"^Version 1\.0\.0\+b3 not found$"):
        snapshot.find("1.0.0+b3")


def test_what_is_no_version_is_not_looked_for(snapshot):
    with pytest.raises(InvalidVersionError):
        snapshot.find("../1.0.0")


def test_a_snapshot_does_not_change(snapshot):
    with pytest.raises(TypeError):
        snapshot.releases["3.0.0", "any"] = None


@pytest.mark.parametrize(("state", "there"), [("live", True), ("paused", True), ("draft", False), ("withdrawn", False)])
def test_drafts_and_what_was_withdrawn_are_not_found(state, there):
    snapshot = Snapshot([release("1.0.0", state=ReleaseState(state))])
    if there:
        assert str(snapshot.find("1.0.0")) == "1.0.0"
    else:
        with pytest.raises(VersionNotFoundError):
            snapshot.find("1.0.0")


def test_of_each_version_the_best_build_for_a_platform_is_found():
    builds = [release("1.0.0", platform=each) for each in ("any", "macos-arm64", "macos-universal")]
    snapshot = Snapshot([*builds, release("2.0.0", platform="linux-x86_64"), release("0.9.0")])
    found = {
        platform: [f"{each.version} {each.platform}" for each in snapshot.placed("stable", platform)]
        for platform in ("macos-arm64", "macos-x86_64", "linux-x86_64", "any")
    }
    assert found == {
        "macos-arm64": ["1.0.0 macos-arm64", "0.9.0 any"],
        "macos-x86_64": ["1.0.0 macos-universal", "0.9.0 any"],
        "linux-x86_64": ["2.0.0 linux-x86_64", "1.0.0 any", "0.9.0 any"],
        "any": ["1.0.0 any", "0.9.0 any"],
    }
    assert snapshot.find("1.0.0", "macos-arm64").platform == "macos-arm64"
    assert list(snapshot.placed("beta", "any")) == []
    assert snapshot.channels == {"stable"}
    assert snapshot.platforms == {"any", "macos-arm64", "macos-universal", "linux-x86_64"}


@pytest.mark.parametrize(
    ("state", "placed", "found"),
    [
        ("draft", "1.0.0", "1.0.0"),
        ("live", "1.0.0 for linux-x86_64", "1.0.0 for linux-x86_64"),
        ("paused", "1.0.0 for linux-x86_64", "1.0.0 for linux-x86_64"),
        ("withdrawn", "1.0.0 for linux-x86_64", None),
    ],
)
def test_a_build_hides_the_one_for_all_platforms_unless_it_is_a_draft(state, placed, found):
    build = release("1.0.0", state=ReleaseState(state), platform="linux-x86_64")
    snapshot = Snapshot([release("1.0.0"), build])
    assert [str(each) for each in snapshot.placed("stable", "linux-x86_64")] == [placed]
    if found:
        assert str(snapshot.find("1.0.0", "linux-x86_64")) == found
    else:
        with pytest.raises(VersionNotFoundError):
            snapshot.find("1.0.0", "linux-x86_64")


def test_what_is_found_stands_in_the_channel():
    snapshot = Snapshot([release("1.0.0"), release("1.0.0", channel="beta", platform="linux-x86_64")])
    assert snapshot.find("1.0.0", "linux-x86_64").platform == "any"
    assert snapshot.find("1.0.0", "linux-x86_64", "beta").platform == "linux-x86_64"
    with pytest.raises(VersionNotFoundError):
        snapshot.find("1.0.0", "any", "beta")


def test_a_build_is_found_by_its_platform_in_whatever_channel_it_is():
    snapshot = Snapshot(
        [
            release("1.0.0", channel="beta", platform="linux-x86_64"),
            release("1.0.0", state=ReleaseState.DRAFT),
            release("2.0.0"),
        ]
    )
    assert snapshot.build("1.0.0", "linux-x86_64").platform == "linux-x86_64"
    for version, platform in (("1.0.0", "any"), ("2.0.0", "linux-x86_64")):
        with pytest.raises(VersionNotFoundError):
            snapshot.build(version, platform)

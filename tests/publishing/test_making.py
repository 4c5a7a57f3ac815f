"""Which forms are missing, and in which order: rules on values."""

from datetime import UTC, datetime, timedelta

import pytest

from patchify.forms import LEAST_SEGMENTED, Compressed, Forms, Patch, Segments, Tree
from patchify.publishing.making import Limits, bases, in_demand, least_saving, missing, useless_patches
from patchify.releases import Placement, Release, ReleaseState, Schedule
from patchify.versions import parse_version

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MIB = 1024 * 1024


def release(version, *, channels=("stable",), state=ReleaseState.LIVE, rollout="100", **settings):
    placements = tuple(
        Placement(each, state, since=NOW - timedelta(hours=1), changed=NOW, schedule=Schedule.parse(rollout))
        for each in channels
    )
    settings = {"size": MIB, "sha256": version[-1] * 64} | settings
    return Release(parse_version(version), placements=placements, **settings)


def tasks(*releases, limits=None, given_up=(), shares=None):
    wanted = in_demand(releases, NOW)
    return [str(each) for each in missing(wanted, releases, limits or Limits(), given_up, shares)]


def bases_of(target, *releases, limits=None, shares=None):
    return [str(each) for each in bases(target, [target, *releases], limits or Limits(), shares or {})]


def test_what_everybody_can_use_comes_before_the_patches_and_the_newest_release_first():
    old, new = release("1.0.1"), release("1.0.2", size=LEAST_SEGMENTED, rollout="10")
    assert tasks(old, new) == ["1.0.2 compressed", "1.0.2 segments", "1.0.1 → 1.0.2", "1.0.1 compressed"]


def test_nothing_is_made_of_what_nobody_is_offered_any_more():
    old, new, gone = release("1.0.1"), release("1.0.2"), release("1.0.3", state=ReleaseState.WITHDRAWN)
    assert tasks(old, new, gone) == ["1.0.2 compressed", "1.0.1 → 1.0.2"]


def test_the_newest_of_each_line_is_wanted_by_who_is_pinned_to_it():
    releases = [release(each) for each in ("1.0.1", "1.0.2", "1.1.3", "1.1.4", "2.0.5")]
    assert [str(each) for each in in_demand(releases, NOW)] == ["2.0.5", "1.1.4", "1.0.2"]
    older = release("1.0.3", rollout="10", floor=parse_version("1.0.1"))
    assert [str(each) for each in in_demand([*releases, older], NOW)] == ["2.0.5", "1.1.4", "1.0.3", "1.0.2", "1.0.1"]


def test_drafts_are_made_ready_before_they_go_live():
    assert tasks(release("1.0.1"), release("1.0.2", state=ReleaseState.DRAFT))[:2] == [
        "1.0.2 compressed",
        "1.0.1 → 1.0.2",
    ]


def test_what_is_there_is_not_made_again():
    forms = Forms(
        segments=Segments("a" * 64), compressed=Compressed("b" * 64, 1), patches=(Patch("1" * 64, "c" * 64, 1),)
    )
    assert tasks(release("1.0.1"), release("1.0.2", size=LEAST_SEGMENTED, forms=forms)) == []


def test_what_was_given_up_is_not_made():
    old, new = release("1.0.1"), release("1.0.2")
    keys = {each.key for each in missing([new], [old, new], Limits())}
    assert keys == {f"compressed {'2' * 64}", f"patch {'2' * 64} {'1' * 64}"}
    assert tasks(old, new, given_up=keys) == []


@pytest.mark.parametrize("form", ["tar.gz", "tar.xz", "tar.zst"])
def test_what_is_compressed_is_not_compressed_again(form):
    tree = Forms(tree=Tree("d" * 64, MIB))
    assert tasks(release("1.0.1", format=form, forms=tree)) == []


def test_the_trees_of_folders_come_before_the_patches_that_need_them():
    old, new = release("1.0.1", format="tar.gz"), release("1.0.2", format="tar.gz")
    assert tasks(old, new) == ["1.0.2 tree", "1.0.1 tree"]
    old, new = (
        release(f"1.0.{number}", format="tar.gz", forms=Forms(tree=Tree(f"{number + 4}" * 64, MIB)))
        for number in (1, 2)
    )
    assert tasks(old, new) == ["1.0.1 → 1.0.2"]
    assert tasks(release("1.0.2", format="tar.gz"), limits=Limits(patches=0)) == []


def test_a_patch_is_made_if_clients_have_the_memory_to_apply_it():
    old, new = release("1.0.1", size=MIB), release("1.0.2", size=MIB)
    assert "1.0.1 → 1.0.2" in tasks(old, new, limits=Limits(patch_memory=3))
    assert "1.0.1 → 1.0.2" not in tasks(old, new, limits=Limits(patch_memory=2))


def test_patches_are_from_the_last_so_many_that_are_live_for_the_same_platform_in_the_same_channel():
    target = release("1.0.9", channels=("beta", "stable"))
    others = [
        release("1.0.8", state=ReleaseState.PAUSED),
        release("1.0.7", channels=("nightly",)),
        release("1.0.6", platform="linux-x86_64"),
        release("1.0.5", format="tar", forms=Forms(tree=Tree("e" * 64, MIB))),
        release("1.0.4"),
        release("1.0.3", channels=("beta",)),
        release("1.0.2"),
        release("1.0.1", channels=("beta",)),
    ]
    assert bases_of(target, *others) == ["1.0.4", "1.0.3", "1.0.2", "1.0.1"]
    assert bases_of(target, *others, limits=Limits(patches=1)) == ["1.0.4", "1.0.3"]
    assert bases_of(target, *others, limits=Limits(patches=0)) == []
    assert bases_of(others[-1], target) == []


def test_what_most_installations_run_comes_first():
    others = [release("1.0.3"), release("1.0.2"), release("1.0.1")]
    assert bases_of(release("1.0.4"), *others, shares={"1.0.2": 0.7, "1.0.3": 0.1}) == ["1.0.2", "1.0.3", "1.0.1"]
    assert bases_of(release("1.0.4"), *others, limits=Limits(patches=2), shares={"1.0.1": 1.0}) == ["1.0.3", "1.0.2"]


def test_the_same_bytes_need_no_patch():
    assert bases_of(release("1.0.2", sha256="1" * 64), release("1.0.1")) == []


def test_a_patch_is_measured_by_what_a_client_would_load_without_it():
    assert least_saving(release("1.0.1", size=1000)) == 700
    assert least_saving(release("1.0.1", size=1000, forms=Forms(compressed=Compressed("a" * 64, 100)))) == 70


def test_patches_from_what_is_neither_live_nor_paused_are_useless():
    patches = tuple(Patch(f"{number}" * 64, "f" * 64, 1) for number in (1, 2, 3))
    target = release("1.0.4", forms=Forms(patches=patches))
    known = [target, release("1.0.3"), release("1.0.2", state=ReleaseState.PAUSED)]
    assert useless_patches(target, known) == [patches[0]]
    known[2] = release("1.0.2", state=ReleaseState.WITHDRAWN)
    assert useless_patches(target, known) == [patches[0], patches[1]]

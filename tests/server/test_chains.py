from patchify.forms import Forms, Patch
from patchify.releases import Release
from patchify.server.chains import MOST_LISTED, bases, patches_to, that_fit
from patchify.versions import parse_version


def release(number: int, *olds: int) -> Release:
    patches = tuple(Patch(sha256(old), f"{old:02x}{number:02x}" * 16, 10) for old in olds)
    return Release(parse_version(f"{number}.0.0"), sha256(number), 100, forms=Forms(patches=patches))


def sha256(number: int) -> str:
    return f"{number:02x}" * 32


def listed(newest: Release, *others: Release) -> list[tuple[str, str | None]]:
    return [(each.base[:2], each.result and each.result[:2]) for each in patches_to(newest, bases([newest, *others]))]


def test_direct_patches_come_first_and_then_the_steps_to_their_bases():
    assert listed(release(4, 3, 2), release(3, 2, 1), release(2, 1), release(1)) == [
        ("03", None),
        ("02", None),
        ("01", "02"),
        ("01", "03"),
    ]


def test_a_step_says_what_it_makes():
    (_, step) = patches_to(release(3, 2), bases([release(2, 1)]))
    assert (step.result, step.result_size) == (sha256(2), 100)


def test_releases_that_nobody_may_have_are_no_step():
    assert listed(release(3, 2)) == [("02", None)]


def test_circles_and_long_ways_end():
    assert listed(release(2, 1), release(1, 2)) == [("01", None)]
    long = [release(number, number - 1) for number in range(60, 1, -1)]
    assert len(listed(*long)) == MOST_LISTED


def test_a_folder_whose_tree_is_not_known_has_no_step():
    folder = Release(
        parse_version("2.0.0"), sha256(2), 100, format="tar", forms=Forms(patches=(Patch("0" * 64, "1" * 64, 5),))
    )
    assert bases([folder]) == {}
    assert len(list(patches_to(folder, {}))) == 1


def test_only_what_has_room_is_listed():
    one = release(2, 1).forms.patches
    size = 199  # of one patch: hashes, names and numbers
    assert list(that_fit([one, one], 10**6)) == [one, one]
    assert list(that_fit([one * 3], 0)) == [()]
    fitting = list(that_fit([one * 3, one], 2 * size + 10))
    assert [len(each) for each in fitting] == [2, 0]

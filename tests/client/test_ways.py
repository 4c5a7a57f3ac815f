"""Which way is taken, compared with what comes of trying all of them."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify.client.ways import MOST_STEPS, Leg, Way, ways
from patchify.forms import Compressed, Forms, Patch, Segments

MIB = 1024 * 1024


def name(number: int) -> str:
    return f"{number:064x}"


WHOLE, TREE, HERE = (name(100), 10_000), (name(101), 30_000), (name(1), 9_000)
PACKED = Compressed(name(102), 4_000, Segments(name(103)))


def patch(number: int, base: int, size: int, result: int | None = None, result_size=None, form="hdiffpatch") -> Patch:
    made = None if result is None else name(result)
    return Patch(name(base), name(200 + number), size, form, made, result_size or (None if result is None else 9_000))


def kinds(forms: Forms, **changes) -> list[str]:
    return [each.kind for each in find(forms, **changes)]


def find(forms: Forms, **changes) -> tuple[Way, ...]:
    return ways(WHOLE, forms, **{"target": WHOLE, "basis": HERE, "memory": MIB, "zstd": True, **changes})


def test_all_ways_come_the_cheapest_first_and_the_whole_last():
    segments = Segments(name(104))
    direct, one, two = patch(1, 1, 3_000), patch(2, 1, 100, 2), patch(3, 2, 200)
    found = find(Forms(segments, PACKED, patches=(direct, one, two)))
    assert found == (
        Way("chain", (Leg(one.sha256, 100, name(2), 9_000, name(1)), Leg(two.sha256, 200, *WHOLE, name(2)))),
        Way("patch", (Leg(direct.sha256, 3_000, *WHOLE, name(1)),)),
        Way("zstd", (Leg(PACKED.sha256, 4_000, *WHOLE, segments=PACKED.segments),)),
        Way("whole", (Leg(*WHOLE, *WHOLE, segments=segments),)),
    )
    assert [each.size for each in found] == [300, 3_000, 4_000, 10_000]
    assert found[0].uses(two.sha256)
    assert not found[1].uses(two.sha256)
    assert [str(each) for each in found] == [
        "a chain of 2 patches of 300 bytes",
        "a patch of 3,000 bytes",
        "the compressed file of 4,000 bytes",
        "the whole file of 10,000 bytes",
    ]


@pytest.mark.parametrize(
    ("patches", "expected"),
    [
        ([patch(1, 1, 3_600)], ["patch", "zstd", "whole"]),
        ([patch(1, 1, 3_601)], ["zstd", "whole"]),
        ([patch(1, 1, 1_000), patch(2, 1, 400, 2), patch(3, 2, 500)], ["chain", "patch", "zstd", "whole"]),
        ([patch(1, 1, 1_000), patch(2, 1, 401, 2), patch(3, 2, 500)], ["patch", "zstd", "whole"]),
        ([patch(2, 1, 2_000, 2), patch(3, 2, 1_600)], ["chain", "zstd", "whole"]),
        ([patch(2, 1, 2_000, 2), patch(3, 2, 1_601)], ["zstd", "whole"]),
    ],
)
def test_of_ways_that_are_nearly_as_cheap_the_simpler_one_is_taken(patches, expected):
    assert kinds(Forms(compressed=PACKED, patches=tuple(patches))) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["patch", "zstd", "whole"]),
        ({"zstd": False}, ["patch", "whole"]),
        ({"basis": None}, ["zstd", "whole"]),
        ({"target": None}, ["zstd", "whole"]),
        ({"basis": (name(5), 9_000)}, ["zstd", "whole"]),
        ({"memory": 0}, ["zstd", "whole"]),
        ({"memory": 9_000 + 2 * 10_000 + 1_000}, ["patch", "zstd", "whole"]),
        ({"memory": 9_000 + 2 * 10_000 + 999}, ["zstd", "whole"]),
        ({"bad": {name(201)}}, ["zstd", "whole"]),
        ({"bad": {PACKED.sha256}}, ["patch", "whole"]),
        ({"bad": {PACKED.sha256, name(201)}}, ["whole"]),
    ],
)
def test_only_what_can_be_done_here_is_a_way(changes, expected):
    assert kinds(Forms(compressed=PACKED, patches=(patch(1, 1, 1_000),)), **changes) == expected


def test_what_is_of_no_use_is_no_way():
    assert kinds(Forms()) == ["whole"]
    assert kinds(Forms(compressed=Compressed(name(102), 10_000))) == ["whole"]
    assert kinds(Forms(patches=(patch(1, 1, 100, form="bsdiff"),))) == ["whole"]


def test_for_a_folder_patches_lead_to_its_tree():
    (found, _) = find(Forms(tree=None, patches=(patch(1, 1, 100),)), target=TREE)
    assert found.legs == (Leg(name(201), 100, *TREE, name(1)),)


def test_the_memory_of_every_step_counts():
    forms = Forms(patches=(patch(1, 1, 100, 2, 500_000), patch(2, 2, 100)))
    assert kinds(forms, memory=1_009_100) == ["chain", "whole"]
    assert kinds(forms, memory=1_009_099) == ["whole"]


def test_a_chain_has_so_many_steps_and_no_more():
    steps = [patch(each, each, 10, each + 1) for each in range(1, MOST_STEPS)] + [patch(99, MOST_STEPS, 10)]
    assert len(find(Forms(patches=tuple(steps)))[0].legs) == MOST_STEPS
    longer = [*steps[:-1], patch(98, MOST_STEPS, 10, MOST_STEPS + 1), patch(99, MOST_STEPS + 1, 10)]
    assert kinds(Forms(patches=tuple(longer))) == ["whole"]


NODES = st.sampled_from([1, 2, 3, 100])
EDGES = st.tuples(NODES, st.one_of(st.none(), NODES), st.integers(1, 12_000))


def tried(forms: Forms, memory: int, steps: int) -> int | None:
    """Return the fewest bytes of a way by so many patches, by trying all."""
    found = []
    for path in product(forms.patches, repeat=steps):
        at = HERE
        for each in path:
            made = WHOLE if each.result is None else (each.result, each.result_size)
            if each.base != at[0] or at[1] + 2 * made[1] + each.size > memory:
                break
            at = made
        else:
            if at == WHOLE:
                found.append(sum(each.size for each in path))
    return min(found, default=None)


@given(st.lists(EDGES, max_size=5), st.one_of(st.none(), st.integers(1, 12_000)), st.sampled_from([0, 35_000, MIB]))
def test_no_way_is_cheaper_than_those_that_are_found(edges, packed, memory):
    sizes = {1: 9_000, 2: 5_000, 3: 20_000, 100: 10_000}
    patches = [
        patch(number, base, size, result, None if result is None else sizes[result])
        for number, (base, result, size) in enumerate(edges)
    ]
    forms = Forms(compressed=None if packed is None else Compressed(name(102), packed), patches=tuple(patches))
    expected = [("whole", 10_000)]
    if packed is not None and packed < 10_000:
        expected.append(("zstd", packed))
    direct = tried(forms, memory, 1)
    if direct is not None and direct * 10 <= expected[-1][1] * 9:
        expected.append(("patch", direct))
    chain = min((each for steps in (2, 3, 4) if (each := tried(forms, memory, steps)) is not None), default=None)
    if chain is not None and chain * 10 <= expected[-1][1] * 9:
        expected.append(("chain", chain))
    assert [(each.kind, each.size) for each in find(forms, memory=memory)] == expected[::-1]

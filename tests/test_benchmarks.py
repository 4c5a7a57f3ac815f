"""The pieces of the benchmark suite that could lie."""

import pytest

from tests.benchmarks.table import Row, at_least, at_most, shown, table


@pytest.mark.parametrize(
    ("ours", "beside", "target", "met"),
    [
        (11, 10, at_most(1.1), True),
        (11.1, 10, at_most(1.1), False),
        (9, 10, at_least(0.9), True),
        (8.9, 10, at_least(0.9), False),
        (6000, 35_000_000, at_most(6000, "B"), True),
        (6001, 35_000_000, at_most(6000, "B"), False),
        (1, None, at_most(1.1), None),
        (None, None, at_most(6000, "B"), None),
        (1, 2, None, None),
    ],
)
def test_a_row_says_whether_its_target_is_reached(ours, beside, target, met):
    row = Row("name", ours, "B", beside, "it", target)
    assert row.met is met
    assert row.cells()[-1] == ("" if target is None else {True: "yes", False: "**no**", None: "not measured"}[met])


def test_the_table_shows_figures_and_notes():
    rows = [
        Row("size", 4350, "B", 35_528_256, "the whole", at_most(6000, "B"), "all requests"),
        Row("time", 0.0421, "s", 0.04, "nginx 1.2", at_most(1.1), "all requests"),
        Row.skipped("front", "there is no nginx", at_least(3)),
    ]
    lines = table(rows).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "size (1)", "4,350 B", "35,528,256 B", "the whole", "0.000122", "≤ 6,000 B", "yes",
    ]  # fmt: skip
    assert "| 0.0421 s |" in lines[3]
    assert "| 1.05 " in lines[3]
    assert lines[4].endswith("| ≥ 3 ×     | not measured |")  # noqa: RUF001 - that sign is meant
    assert lines[5:] == ["", "1. all requests", "2. not measured: there is no nginx"]
    assert len({len(line) for line in lines[:5]}) == 1


@pytest.mark.parametrize(("figure", "text"), [(1234.5, "1,234"), (0.04213, "0.0421"), (5, "5"), (12.34, "12.3")])
def test_figures_have_three_digits_or_are_whole(figure, text):
    assert shown(figure) == text

"""The rows of the suite, and how they are shown: ``python -m tests.benchmarks``.

A module of the suite has ``rows(options) -> Iterator[Row]``. It yields a row as soon as it is measured, and
``Row.skipped(name, reason)`` for one that cannot be measured here; it cleans up what it started and made, also when it
is closed early. Files go into a folder of its own below ``options.folder``.
"""

import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MIB = 1024 * 1024
LARGE = 1000  # from which on a figure is shown as a whole number
COLUMNS = ("row", "ours", "beside it", "beside what", "ratio", "to reach", "reached")


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        folder: Where files may be; exists, is removed afterwards.
        shared: The same for what several modules use, such as programs that take long to build.
        quick: Few rounds and small files: to see that it works, not for figures.
    """

    folder: Path
    shared: Path
    quick: bool = False

    def rounds(self, thorough: int, quick: int = 2) -> int:
        """Return how often to measure."""
        return quick if self.quick else thorough


@dataclass(frozen=True)
class Target:
    """What a row is to reach: see `at_most` and `at_least`."""

    bound: float
    unit: str
    least: bool

    def met(self, row: "Row") -> bool | None:
        """Tell whether a row reaches it; None if it has no such figure."""
        figure = row.ours if self.unit else row.ratio
        if figure is None:
            return None
        return figure >= self.bound if self.least else figure <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {shown(self.bound)} {self.unit or '×'}"  # noqa: RUF001 - that sign is meant


def at_most(bound: float, unit: str = "") -> Target:
    """Return the target that the ratio (with ``unit``: our figure, in that unit) is not above ``bound``."""
    return Target(bound, unit, least=False)


def at_least(bound: float, unit: str = "") -> Target:
    """Return the target that the ratio (with ``unit``: our figure, in that unit) is not below ``bound``."""
    return Target(bound, unit, least=True)


@dataclass(frozen=True)
class Row:
    """One comparison, measured side by side in one run.

    Attributes:
        name: What was measured.
        ours: Our figure, the median of the rounds; None: it could not be measured, and ``note`` says why.
        unit: Of both figures.
        beside: The same of what it is compared with; None: there is nothing, or it is missing, as ``note`` says.
        against: What that is, with its version.
        target: None: it is only shown.
        note: What one must know to read it.
    """

    name: str
    ours: float | None
    unit: str = ""
    beside: float | None = None
    against: str = ""
    target: Target | None = None
    note: str = ""

    @classmethod
    def skipped(cls, name: str, reason: str, target: Target | None = None) -> Self:
        """Return the row of what cannot be measured here."""
        return cls(name, None, target=target, note=f"not measured: {reason}")

    @property
    def ratio(self) -> float | None:
        """Our figure by the one beside it."""
        return self.ours / self.beside if self.ours is not None and self.beside else None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None if there is none, or nothing to compare with it."""
        return None if self.target is None else self.target.met(self)

    def cells(self) -> tuple[str, ...]:
        """Return what the table shows of it, a text for each of `COLUMNS`."""
        ours, beside = (
            "-" if figure is None else f"{shown(figure)} {self.unit}".strip() for figure in (self.ours, self.beside)
        )
        ratio = "-" if self.ratio is None else f"{self.ratio:.3g}"
        reached = "" if self.target is None else {True: "yes", False: "**no**", None: "not measured"}[self.met]
        return self.name, ours, beside, self.against or "-", ratio, str(self.target or ""), reached


def shown(figure: float) -> str:
    """Return a figure with three digits, or as a whole number if it is large."""
    return f"{figure:,.0f}" if abs(figure) >= LARGE or figure == int(figure) else f"{figure:.3g}"


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a table in Markdown, with the notes below it."""
    lines: list[Sequence[str]] = [COLUMNS]
    notes: list[str] = []
    for row in rows:
        name, *rest = row.cells()
        if row.note:
            if row.note not in notes:
                notes.append(row.note)
            name += f" ({notes.index(row.note) + 1})"
        lines.append((name, *rest))
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    lines.insert(1, ["-" * width for width in widths])
    text = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    return "\n".join(text + [""] * bool(notes) + [f"{number}. {note}" for number, note in enumerate(notes, 1)])


def median(figures: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(figures)


def say(text: str) -> None:
    """Tell whoever watches how far it is."""
    print(f"… {text}", file=sys.stderr, flush=True)

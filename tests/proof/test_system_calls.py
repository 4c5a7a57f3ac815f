"""A kill, and errors, at every system call by which an update touches the program's folder.

Every call that changes something gets a kill; every call that can report an error at all gets two kinds of error, taken
in turn from those that it can report (a read or an fstat reports only EIO), and those that give a file its name get all
five. After each, the program at the path is the old or the new one and starts; an error was reported as one of ours, or
nothing came of it; and a later attempt succeeds and leaves nothing behind.
"""

import signal
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pytest

import patchify.errors
from patchify.errors import PatchifyError
from tests import injection
from tests.forking import Forks
from tests.injection import ERRORS, KILL
from tests.proof import story

CASES = [  # lay-out, act, and whether errors are tried, too
    ("file", "install", True),
    ("file", "by-patch", True),
    ("file", "confirm", True),
    ("file", "give-back", True),
    ("file", "recall", True),
    ("file", "recover", True),
    ("file, updated before", "install", False),
    ("file, updated before", "confirm", False),
    ("folder", "install", True),
    ("folder", "by-patch", False),
    ("folder", "confirm", True),
    ("folder", "give-back", True),
    ("folder", "recall", True),
    ("folder", "recover", True),
    ("link to a folder", "install", False),
    ("link to a folder", "give-back", False),
    ("folder, updated before", "install", False),
    ("folder, updated before", "confirm", False),
]
AT_LEAST = 200  # kills, over both kinds
KINDS_OF_ERROR = 2  # that every call gets, if it can report so many
NAMING = {"rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "mkdir", "mkdirat"}
COLUMNS = ("calls", "kills", *ERRORS, "one kind", "reported", "tolerated", "missed", "bad")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def leaves(error=PatchifyError):
    """Return the names of the errors that stand for one thing each."""
    below = error.__subclasses__()
    return {error.__name__} if not below else set().union(*map(leaves, below))


LEAVES = leaves() & vars(patchify.errors).keys()


@dataclass
class Figures:
    """What was found, to be printed."""

    counts: Counter = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name, number=1):
        with self.lock:
            self.counts[name] += number

    def line(self, layout, act):
        return f"{layout:<24}{act:<12}" + "".join(f"{self.counts[each]:>{len(each) + 2}}" for each in COLUMNS)


@pytest.fixture(scope="module", autouse=True)
def possible():
    if reason := injection.why_not():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def total():
    return Figures()


@pytest.fixture(scope="module")
def forks():
    with Forks(story.MODULE) as forks:
        yield forks


def command(layout, act):
    return lambda folder: [story.LAYOUTS[layout], act, folder]


def kills(folder, layout, act, forks):
    story.prepare(layout, act, folder)
    return injection.points(injection.calls(command(layout, act)(folder), [folder], forks=forks), KILL)[0]


def plan(found):
    """Return which errors each call gets, by name and number, and how many calls report only one kind."""
    possible = defaultdict(list)
    for fault in ERRORS:
        for point in injection.points(found, fault)[0]:
            possible[point.name, point.nth].append(fault)
    chosen = set()
    for turn, ((name, nth), faults) in enumerate(possible.items()):
        number = len(faults) if name in NAMING else min(len(faults), KINDS_OF_ERROR)
        chosen |= {(name, nth, faults[(turn + each) % len(faults)]) for each in range(number)}
    return chosen, sum(len(faults) == 1 for faults in possible.values())


@pytest.mark.parametrize(("layout", "act", "errors"), CASES)
def test_a_fault_at_any_call_leaves_a_program_and_a_later_attempt_succeeds(
    layout, act, errors, tmp_path, forks, total, show
):
    kind = story.LAYOUTS[layout]
    counting = tmp_path / "count0"  # of the length of the names in a sweep
    counting.mkdir()
    story.prepare(layout, act, counting)
    found = injection.calls(command(layout, act)(counting), [counting], forks=forks)
    assert story.outcome(kind, counting) == story.ACTS[act].comes_to
    chosen, single = plan(found) if errors else (set(), 0)
    figures = Figures()
    figures.add("calls", len(found))
    figures.add("one kind", single)

    def check(folder, outcome):
        figures.add("kills" if outcome.fault == KILL else outcome.fault)
        assert story.examine(kind, folder) in story.OLD_OR_NEW
        if outcome.fault == KILL:
            assert outcome.returncode == -signal.SIGKILL, f"ended with {outcome.returncode}: {outcome.output}"
        elif outcome.returncode == 0:
            came_to = story.outcome(kind, folder)
            assert came_to == story.ACTS[act].comes_to, f"was not reported, but it came to {came_to}"
            figures.add("tolerated")
        else:
            assert outcome.returncode == story.REPORTED, f"ended with {outcome.returncode}: {outcome.output}"
            name = outcome.output.splitlines()[-1].partition(":")[0]
            assert name in LEAVES, f"was reported as {name}"
            figures.add("reported")
        story.act(kind, "finish", folder)
        story.verify_finished(layout, folder)

    report = injection.sweep(
        tmp_path / "sweep",
        prepare=lambda folder: story.prepare(layout, act, folder),
        command=command(layout, act),
        check=check,
        faults=(KILL, *ERRORS) if errors else (KILL,),
        choose=lambda point, fault: fault == KILL or (point.name, point.nth, fault) in chosen,
        forks=forks,
    )
    figures.add("missed", len(report.missed))
    figures.add("bad", len(report.failures))
    total.counts.update(figures.counts)
    rows = [figures.line(layout, act)]
    if (layout, act, errors) == CASES[0]:
        rows.insert(0, f"{'lay-out':<24}{'act':<12}" + "".join(f"  {each}" for each in COLUMNS))
    if (layout, act, errors) == CASES[-1]:
        rows.append(total.line("together", ""))
    show("\n".join(rows))
    report.verify()
    assert report.runs == figures.counts["kills"] + len(chosen), "some were not tried"


def test_there_are_enough_calls_to_be_killed_at(tmp_path, forks):
    found = Counter()
    for number, (layout, act, _) in enumerate(CASES):
        folder = tmp_path / f"{number:04d}"
        folder.mkdir()
        found[story.LAYOUTS[layout]] += len(kills(folder, layout, act, forks))
    assert found.total() >= AT_LEAST, found
    assert set(found) == {"file", "folder"}

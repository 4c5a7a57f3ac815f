"""``kill -9`` at every named crash point, every time that it is reached, in every act and from every lay-out.

A first run of each act counts the points. Then each of them kills the process of a run of its own, a look is taken at
what stands at the program's path, and a fresh process recovers and brings the newest good version to its confirmation.
"""

import os
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from patchify.client import points
from tests.forking import Forks
from tests.proof import story

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="kill -9, links and shell scripts are those of POSIX"),
]

SOME = ("install", "confirm", "give-back", "recall", "finish")
ALL = {"file": tuple(story.ACTS), "folder": tuple(story.ACTS)}
CASES = [(layout, act) for layout in story.LAYOUTS for act in ALL.get(layout, SOME)]


def run(forks, kind, act, folder, *point):
    """Do an act in a process; return its exit status and its output."""
    output = folder.with_suffix(".output")
    output.unlink(missing_ok=True)
    return forks.run([kind, act, folder, *point], output, timeout=story.PATIENCE)


def count(forks, folder, layout, act):
    """Return the points that an act reaches, with what it comes to as it should be."""
    folder.mkdir()
    story.prepare(layout, act, folder)
    status, output = run(forks, story.LAYOUTS[layout], act, folder)
    assert status == 0, f"{layout}: {act}: {output}"
    assert story.outcome(story.LAYOUTS[layout], folder) == story.ACTS[act].comes_to
    return story.reached(output)


def occurrences(reached):
    """Return each point with its number among those of its name."""
    seen = Counter()
    for point in reached:
        seen[point] += 1
        yield point, seen[point]


def kill(forks, folder, layout, act, point, nth):
    """Kill one run, and let a fresh process go on; raise if anything is not as it should be."""
    kind = story.LAYOUTS[layout]
    folder.mkdir()
    story.prepare(layout, act, folder)
    status, output = run(forks, kind, act, folder, point, nth)
    assert status == -signal.SIGKILL, f"was not killed, but ended with {status}: {output}"
    assert story.examine(kind, folder) in story.OLD_OR_NEW
    status, output = run(forks, kind, "finish", folder)
    assert status == 0, f"the next updater fails: {output}"
    story.verify_finished(layout, folder)


@pytest.fixture(scope="module")
def forks():
    with Forks(story.MODULE) as forks:
        yield forks


@pytest.fixture(scope="module")
def reached(forks, tmp_path_factory):
    """Return the points that each act reaches from each lay-out."""
    root = tmp_path_factory.mktemp("count")
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda case: count(forks, root / str(CASES.index(case)), *case), CASES)
        return dict(zip(CASES, found, strict=True))


def test_every_named_point_is_reached(reached):
    found = Counter(point for each in reached.values() for point in each)
    assert set(points.POINTS) - set(found) == set(), "these points are never reached"
    assert set(found) - set(points.POINTS) == set(), "these points are not in the list"


@pytest.mark.timeout(900)
def test_a_kill_at_any_point_leaves_the_old_or_the_new_program_and_the_next_updater_goes_on(
    forks, reached, tmp_path, show
):
    todo = [(*case, *each) for case in CASES for each in occurrences(reached[case])]

    def attempt(number):
        try:
            kill(forks, tmp_path / f"{number:04d}", *todo[number])
        except Exception as error:
            return f"{tmp_path / f'{number:04d}'}: {type(error).__name__}: {error}"
        return ""

    with ThreadPoolExecutor(2) as pool:
        wrong = list(pool.map(attempt, range(len(todo))))
    kills = Counter(each[:2] for each in todo)
    bad = Counter(each[:2] for each, problem in zip(todo, wrong, strict=True) if problem)
    rows = [f"{'lay-out':<24}{'act':<16}{'points':>8}{'kills':>8}{'bad':>6}"]
    rows += [f"{each[0]:<24}{each[1]:<16}{len(set(reached[each])):>8}{kills[each]:>8}{bad[each]:>6}" for each in CASES]
    rows += [f"{'together':<40}{len(points.POINTS):>8}{kills.total():>8}{bad.total():>6}"]
    show("\n".join(rows))
    lines = [f"{each}: {problem}" for each, problem in zip(todo, wrong, strict=True) if problem]
    assert not lines, f"{len(lines)} of {len(todo)} kills:\n" + "\n".join(lines)

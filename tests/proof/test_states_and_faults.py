"""States, faults and kinds of program, each with each: what runs at every instant, and that the newest good version is reached at last.

In a simulated world (`tests.proof.world`) an update is brought to a state, a fault strikes at that point, once or for
half an hour, and then there are no more faults. SAFETY is looked at whenever anything happens: what stands at the
program's path is one release, whole, and none in quarantine; the state can be read. Afterwards LIVENESS: the newest
version that did not fail too often by what could be seen is in place, confirmed, and runs, and then so is the next one.
"""

import errno
import math
import subprocess
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta

import pytest

from patchify.client.state import MAX_INTERRUPTIONS
from tests.conftest import folder_in_memory
from tests.proof.world import BEHAVIOURS, HOMES, KINDS, STEP, TRIES, Clock, World

pytestmark = pytest.mark.slow

WHILE = 1800.0  # seconds that a fault lasts that is for ever, and that one has to show what it leads to
AT_LAST = 6 * 3600.0  # seconds until all must be well again: after failures, the updater waits up to an hour
STEP_OF_USER = 60.0  # seconds between two attempts by hand
MOST_MOVES = 2 * (TRIES + 1 + 6)  # a release is put in place for each try and interruption, and back
MOST_MOVES_IN_A_DAY = 80  # … and when it was not even started, which says nothing of it, at each check, ever rarer


@dataclass(frozen=True)
class Stage:
    """A state of the update: the point at which it is reached, for the nth time, and by what release."""

    point: str
    behaviour: str = "good"
    nth: int = 1
    kinds: tuple[str, ...] = KINDS
    untold: bool = False  # only where something was taken back and nobody has told of it
    recalled: bool = False  # only after a user goes back by hand


STATES = {
    "idle": Stage("asking"),
    "downloading": Stage("downloading"),
    "downloaded": Stage("download-named"),
    "unpacked": Stage("unpacked", kinds=("folder",)),
    "made ready": Stage("made-ready"),
    "old one kept": Stage("backup-named", kinds=("file",)),
    "staged": Stage("staged"),
    "armed, not swapped": Stage("placing"),
    "swapped": Stage("placed"),
    "swapped, not restarted": Stage("restarting"),
    "on trial, unreported": Stage("starting"),
    "on trial, reported": Stage("reported"),
    "about to be confirmed": Stage("confirming"),
    "confirmed": Stage("confirmed"),
    "returning": Stage("returning", "crash"),
    "put back, not remembered": Stage("put-back", "crash"),
    "returned, tries left": Stage("returned", "crash"),
    "tried again": Stage("placed", "crash", nth=2),
    "quarantined": Stage("returned", "crash", nth=2),
    "quarantined, untold": Stage("starting", "crash", untold=True),
    "recalled": Stage("returning", recalled=True),
    "recalled and put back": Stage("put-back", recalled=True),
}
FAULTS = (
    "error once",
    "error for ever",
    "disk full for ever",
    "network error once",
    "network error for ever",
    "kill once",
    "kill for ever",
    "hang",
    "machine restarts",
)
ERRORS = {  # which, how often, and whether only what takes space fails
    "error once": (errno.EIO, 1, False),
    "error for ever": (errno.EROFS, math.inf, False),
    "disk full for ever": (errno.ENOSPC, math.inf, True),
}
CASES = [
    (state, fault, kind, home)
    for state, stage in STATES.items()
    for fault in FAULTS
    for kind in stage.kinds
    for home in HOMES
    if home == "alone" or fault in ("kill once", "hang", "machine restarts")
]


class Strike:
    """A fault that waits at a point."""

    def __init__(self, world, stage, fault):
        self.world, self.stage, self.fault = world, stage, fault
        self.seen = 0
        self.struck = False
        self.lifted = False

    def __call__(self, point):
        if point != self.stage.point or self.lifted or not self._there():
            return
        self.seen += 1
        if self.seen < self.stage.nth or (self.struck and not self.fault.endswith("for ever")):
            return
        world = self.world
        if not self.struck:
            world.later(WHILE, self.lift)
        self.struck = True
        world._say(f"{self.fault} at {point}")
        if self.fault in ERRORS:
            world.disk.number, world.disk.times, world.disk.only_new = ERRORS[self.fault]
        elif "network" in self.fault:
            world.server.failures = 1 if "once" in self.fault else math.inf
        elif "kill" in self.fault:
            world.kill()
        elif self.fault == "hang":
            world.hang()
        else:
            Clock.offset += timedelta(days=-400)  # with an empty clock battery
            world.reboot()

    def _there(self):
        """Return whether it is the process, or the release, that is meant."""
        if self.stage.untold:
            return self.world.state.untold is not None
        if self.stage.point == "starting" and self.stage.behaviour == "good":
            return self.world.state.on_trial is not None
        return True

    def lift(self):
        self.lifted = True
        self.world.disk.times = self.world.server.failures = 0
        self.world.unhang()


def strike(world, state, fault):
    """Bring a world to a state, let a fault strike, and lift it; return the release that was on its way."""
    stage = STATES[state]
    strike = Strike(world, stage, fault)
    world.advance(30)  # the first version runs
    if not stage.recalled:
        world.traps.append(strike)
    two = world.publish("2.0.0", stage.behaviour)
    if stage.recalled:
        assert world.advance_until(lambda: world.confirmed(two), WHILE)
        world.traps.append(strike)
        world.recall()
    assert world.advance_until(lambda: strike.struck, 2 * WHILE), "the state was never reached"
    if stage.recalled and fault.endswith("for ever"):  # the user tries again
        for _ in range(3):
            world.advance(STEP_OF_USER)
            world.recall()
    assert world.advance_until(lambda: strike.lifted, 2 * WHILE)
    if stage.recalled and not world.state.quarantined(world.release(two).sha256):
        world.advance(STEP_OF_USER)
        assert (error := world.recall()) is None, f"cannot be taken back by hand: {error}"
    if stage.recalled and world.running:  # it does not know, and would be ended by its user
        world.end(world.program, 15)
    return two


def verify(world, state, two):
    """Fail unless all becomes well, and stays so with the next release."""
    stage = STATES[state]

    def wanted():
        bad = world.state.quarantined(world.release(two).sha256)
        if bad is not None and not stage.recalled:
            by_hand = world.rescues and stage.behaviour != "good"
            assert by_hand or world.may_be_quarantined(two), f"in quarantine without a reason: {bad.reason}"
        return world.first if bad or stage.behaviour != "good" else two

    if not world.advance_until(lambda: world.confirmed(wanted()), AT_LAST):
        world.quit()  # what runs may not be what stands there any more: then it takes a next start
        assert world.advance_until(lambda: world.confirmed(wanted()), AT_LAST), f"{wanted()} is never reached"
    if stage.behaviour != "good":
        assert world.state.quarantined(world.release(two).sha256), "the broken release is not in quarantine"
    three = world.publish("3.0.0")
    assert world.advance_until(lambda: world.confirmed(three), AT_LAST), "the next release is never reached"
    for release, moves in world.moves_of.items():
        assert moves <= MOST_MOVES, f"{release} was moved {moves} times"
    left = [path.name for path in (world.inside / ".app.patchify").iterdir() if path.name.startswith((".", "staged-"))]
    assert not left, f"left behind: {left}"
    program = world.path if world.kind == "file" else world.path / "run"
    said = subprocess.run([program], capture_output=True, text=True, check=True)
    assert said.stdout.split()[0] == "3.0.0"


def attempt(folder, state, fault, kind, home):
    """Return what is wrong with one case, or nothing, and how often a user had to go back by hand."""
    with World(folder, kind, home) as world:
        try:
            two = strike(world, state, fault)
            verify(world, state, two)
        except Exception as error:
            story = "".join(f"\n    {each}" for each in world.seen[-60:])
            return f"{type(error).__name__}: {error}{story}", world.rescues
        return "", world.rescues


@pytest.fixture(scope="module")
def outcomes():
    """Return what is wrong with each case."""
    with folder_in_memory() as root:
        return {case: attempt(root / f"{number:04d}", *case) for number, case in enumerate(CASES)}


@pytest.mark.timeout(900)
def test_every_fault_in_every_state_leaves_a_program_that_runs_and_at_last_the_newest_good_one(outcomes, show):
    by_hand = [case for case, (_, rescues) in outcomes.items() if rescues]
    outcomes = {case: problem for case, (problem, _) in outcomes.items()}
    count = Counter((state, fault) for state, fault, *_ in outcomes)
    bad = Counter((state, fault) for (state, fault, *_), problem in outcomes.items() if problem)
    heads = (f"{fault.replace(' for ever', ' ∞'):>18}" for fault in FAULTS)
    rows = [f"{'cases (bad outcomes)':<26}" + "".join(heads)]
    for state in STATES:
        cells = (f"{count[state, fault]} ({bad[state, fault]})" for fault in FAULTS)
        rows.append(f"{state:<26}" + "".join(f"{cell:>18}" for cell in cells))
    rows.append(f"{count.total()} cases, {bad.total()} bad outcomes; {len(by_hand)} with a rollback by hand")
    show("\n".join(rows))
    assert count.total() >= 120
    for state, fault, *_ in by_hand:  # it takes a version that cannot start, and a guardian that is no more
        assert STATES[state].behaviour != "good"
        assert fault in ("kill once", "kill for ever", "hang", "machine restarts")
    wrong = [f"{', '.join(case)}: {problem}" for case, problem in outcomes.items() if problem]
    assert not wrong, f"{len(wrong)} of {len(outcomes)}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_version_that_does_not_prove_good_is_taken_back_a_few_times_only(in_memory, kind, home, behaviour):
    with World(in_memory / "world", kind, home) as world:
        world.advance(30)
        two = world.publish("2.0.0", behaviour)
        for _ in range(TRIES + 1):
            world.advance(WHILE)
            world.unhang()  # one that hangs at its start, as a process of its own, is known to nobody
        wanted = two if behaviour == "good" else world.first
        assert world.advance_until(lambda: world.confirmed(wanted), AT_LAST)
        assert bool(world.state.quarantined(world.release(two).sha256)) is (behaviour != "good")
        assert world.moves_of[two] <= 2 * (TRIES + 1)
        moves = world.moves.total()
        world.publish("2.0.0", "good", edition=2)  # the same version with other bytes
        world.advance(WHILE)
        assert world.stands().behaviour == "good"
        assert (world.moves.total() > moves) is (behaviour != "good")
        assert not world.rescues


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_started_for_a_day_is_tried_ever_more_rarely_and_blamed_for_nothing(in_memory, kind):
    with World(in_memory / "world", kind) as world:
        world.advance(30)
        two = world.publish("2.0.0")

        def refuse(point):
            if point == "restarting":
                raise OSError(errno.ENOMEM, "Cannot allocate memory")

        world.traps.append(refuse)
        world.advance(24 * 3600)
        assert world.stands() == world.first
        assert 2 <= world.moves.total() <= MOST_MOVES_IN_A_DAY
        world.traps.clear()
        assert world.advance_until(lambda: world.confirmed(two), AT_LAST)
        assert not world.state.bad


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_who_ends_it_again_and_again_quarantines_it_at_the_sixth_time(in_memory, kind):
    with World(in_memory / "world", kind) as world:
        world.advance(30)
        two = world.publish("2.0.0")
        for time in range(1, MAX_INTERRUPTIONS + 2):
            assert world.advance_until(lambda: world.running and world.program.image == two, WHILE)
            world.advance(STEP)
            world.interrupt()
            world.advance(STEP)
            assert world.stands() == world.first
            assert bool(world.state.bad) is (time > MAX_INTERRUPTIONS)


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_crashes_at_its_third_start_on_trial_is_taken_back(in_memory, kind):
    with World(in_memory / "world", kind) as world:
        world.advance(30)
        two = world.publish("2.0.0", "third")
        for _ in range(2):
            assert world.advance_until(lambda: world.running and world.program.image == two, WHILE)
            world.advance(STEP)
            world.interrupt()
        assert world.advance_until(lambda: bool(world.state.bad), WHILE)
        assert world.state.bad[0].reason == "ended with exit status 7"
        assert world.advance_until(lambda: world.confirmed(world.first), WHILE)

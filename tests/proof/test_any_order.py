"""Anything in any order, by Hypothesis, in a simulated world around the real client (`tests.proof.world`).

After every step, and at every point that a process reaches within one: a whole release stands at the program's path,
none in quarantine, and the state can be read. No release is moved or started more often than its tries allow. In the
end, when nothing fails any more, the newest version that is good is reached within a bounded number of starts.
"""

import errno
import math
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from patchify.client import points
from patchify.client.state import MAX_INTERRUPTIONS
from tests.proof.world import HOMES, KINDS, POINTS, STEP, TRIES, Clock, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BROKEN = ("crash", "hang", "late", "ill", "unrunnable")
AT_LAST = 6 * 3600.0  # seconds; the updater waits up to an hour after failures
MOST_STARTS = 40  # until all is well

DONE: Counter[str] = Counter()  # what came about, in all stories


class AnyOrder(RuleBasedStateMachine):
    """A machine to which things happen."""

    def __init__(self):
        super().__init__()
        self.place = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.world = None
        self.number = 1
        self.disturbed = 0  # kills, errors and the like, each of which may cost a release one try

    @initialize(kind=st.sampled_from(KINDS), home=st.sampled_from(HOMES))
    def begin(self, kind, home):
        self.world = World(Path(self.place.name) / "world", kind, home)
        self.world.advance(STEP)

    # What the publisher does ------------------------------------------------------------------------------------------

    @rule(behaviour=st.sampled_from(("good", "good", *BROKEN)))
    def publish(self, behaviour):
        self.number += 1
        self.world.publish(f"{self.number}.0.0", behaviour)

    @precondition(lambda self: self.world.server.releases)
    @rule()
    def publish_again_with_other_bytes(self):
        newest = self.world.server.newest
        edition = self.world.server.releases[newest].edition + 1
        self.world.publish(newest, "good", edition)

    @precondition(lambda self: self.world.server.releases)
    @rule()
    def withdraw(self):
        del self.world.server.releases[self.world.server.newest]

    @precondition(lambda self: self.world.server.releases)
    @rule()
    def tamper(self):
        self.world.server.tampered.add(self.world.server.newest)

    # What goes wrong --------------------------------------------------------------------------------------------------

    @rule(times=st.sampled_from((1, 3, math.inf)))
    def lose_the_network(self, times):
        self.world.server.failures = times
        self.world.later(1200, self._mend_network)

    def _mend_network(self):
        self.world.server.failures = 0

    @rule(
        point=st.sampled_from((*points.POINTS, *POINTS)),
        how=st.sampled_from(("kill", "kill", "hang", "reboot", "EIO", "ENOSPC", "EROFS")),
    )
    def trap(self, point, how):
        """Let something happen as soon as a point is reached."""
        world = self.world

        def spring(reached):
            if reached != point or spring not in world.traps:
                return
            world.traps.remove(spring)
            self.disturbed += 1
            if how in ("kill", "hang", "reboot"):
                getattr(world, how)()
            world.disk.number, world.disk.only_new = getattr(errno, how), how == "ENOSPC"
            world.disk.times = 1 if how == "EIO" else math.inf
            world.later(900, self._mend_disk)

        world.traps.append(spring)

    def _mend_disk(self):
        self.world.disk.times = 0

    @rule(days=st.integers(-4000, 4000))
    def set_the_clock(self, days):
        Clock.offset = timedelta(days=days)

    @rule()
    def kill_the_program(self):
        if self.world.running:
            self.disturbed += 1
            self.world.end(self.world.program, 9)

    @rule()
    def kill_the_guardian(self):
        if self.world.guardian is not None:
            self.disturbed += 1
            self.world.end(self.world.guardian.actor, 9)

    @rule()
    def restart_the_machine(self):
        self.disturbed += 1
        self.world.reboot()

    # What the user does -----------------------------------------------------------------------------------------------

    @rule()
    def press_ctrl_c(self):
        self.world.interrupt()

    @rule()
    def quit(self):
        self.world.quit()

    @rule()
    def start(self):
        self.world.start()

    @rule()
    def roll_back(self):
        self.world.recall()

    @rule(minutes=st.sampled_from((1, 1, 5, 20)))
    def wait(self, minutes):
        self.world.advance(60 * minutes)

    # What holds -------------------------------------------------------------------------------------------------------

    @invariant()
    def all_is_as_it_must_be(self):
        if self.world is None:
            return
        self.world.look()
        for image, moves in self.world.moves_of.items():
            allowed = 2 * (TRIES + 1 + MAX_INTERRUPTIONS + 1) + 2 * self.disturbed + 2 * self.world.rescues
            assert moves <= allowed, f"{image} was moved {moves} times"

    def teardown(self):
        try:
            if self.world is not None:
                with self.world as world:
                    self._end_well()
                    DONE.update(stories=1, starts=world.starts, moves=world.moves.total(), rollbacks=world.rescues)
                    DONE.update(faults=self.disturbed, confirmed=world.reached["confirmed"])
                    DONE.update(returned=world.reached["returned"], quarantined=len(world.state.bad))
        finally:
            self.place.cleanup()

    def _end_well(self):
        world = self.world
        world.traps.clear()
        world.events.clear()
        world.disk.times = world.server.failures = 0
        world.server.tampered.clear()
        world.unhang()
        starts = world.starts
        for _ in range(2 * (TRIES + 1)):
            if world.advance_until(self._well, AT_LAST):
                break
            world.quit()  # what runs may hang, or be not what stands there any more: then it takes a next start
            world.unhang()
            if world.guardian is None and world.stands().behaviour == "hang":  # its guardian was killed as well
                world.recall()
                world.rescues += 1
        assert world.advance_until(self._well, AT_LAST), self._story("the newest good version is never reached")
        allowed = MOST_STARTS if world.home == "alone" else 4 * 60 + MOST_STARTS  # a supervisor tries every few seconds
        assert world.starts - starts <= allowed, self._story(f"it took {world.starts - starts} starts")
        last = world.publish(f"{self.number + 1}.0.0")
        assert world.advance_until(lambda: world.confirmed(last), AT_LAST), self._story("the last is never reached")

    def _well(self):
        """Return whether nothing is on its way, and the newest release is confirmed or in quarantine, or older."""
        world = self.world
        newest = world.server.newest
        state = world.state
        if not world.running or world.program.hung or state.update is not None:
            return False
        if world.program.image != world.stands() or not world.confirmed(world.stands()):
            return False
        if newest is None or state.quarantined(world.release(world.server.releases[newest]).sha256):
            return True
        return int(newest.split(".")[0]) <= int(world.stands().version.split(".")[0])

    def _story(self, what):
        return "\n".join([what, str(self.world.state), *self.world.seen[-80:]])


def test_anything_in_any_order_leaves_a_program_that_runs_and_at_last_the_newest_good_one(show):
    DONE.clear()
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=400,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=[Phase.generate],  # a failure tells its own story, and to shrink it takes minutes
        ),
    )
    show(", ".join(f"{count} {what}" for what, count in DONE.items()))

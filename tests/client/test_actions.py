import random
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from patchify.client.actions import Actions
from tests.running import PATIENCE


class Cleared:
    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1


@pytest.fixture
def cleared():
    return Cleared()


@pytest.fixture
def actions(cleared):
    return Actions(cleared)


def test_actions_are_counted(actions):
    assert [actions.register() for _ in range(3)] == [1, 2, 3]
    assert [actions.deregister() for _ in range(4)] == [2, 1, 0, None]


def test_reasons_are_told_oldest_first(actions):
    for reason in ("saving", None, "sending"):
        actions.register(reason)
    assert actions.running() == (3, ("saving", "sending"))


def test_the_action_with_the_same_reason_ends(actions):
    for reason in ("saving", "sending", "saving"):
        actions.register(reason)
    actions.deregister("saving")
    assert actions.running() == (2, ("sending", "saving"))


def test_without_a_reason_one_without_a_reason_ends_first(actions):
    for reason in (None, "saving"):
        actions.register(reason)
    assert actions.deregister() == 1
    assert actions.running() == (1, ("saving",))
    assert actions.deregister() == 0


def test_a_reason_that_nobody_gave_ends_nothing(actions):
    actions.register("saving")
    assert actions.deregister("sending") is None
    assert actions.running() == (1, ("saving",))


def test_the_gate_shuts_at_once_when_nobody_is_busy(actions, cleared):
    assert actions.shut()
    assert actions.register() is None
    assert cleared.times == 0


def test_while_one_waits_none_may_start_and_the_last_to_end_clears(actions, cleared):
    actions.register()
    actions.register()
    assert not actions.shut()
    assert actions.register() is None
    assert actions.deregister() == 1
    assert cleared.times == 0
    assert actions.deregister() == 0
    assert cleared.times == 1
    assert actions.register() is None


def test_one_that_ends_below_zero_does_not_clear_again(actions, cleared):
    actions.register()
    actions.shut()
    actions.deregister()
    assert actions.deregister() is None
    assert cleared.times == 1


def test_after_reopening_actions_may_start_and_their_end_clears_nothing(actions, cleared):
    actions.register()
    actions.shut()
    actions.reopen()
    assert actions.register() == 2
    assert (actions.deregister(), actions.deregister()) == (1, 0)
    assert cleared.times == 0


def test_it_clears_with_no_lock_held_and_the_gate_already_shut():
    seen = []
    actions = Actions(lambda: seen.extend([actions.running(), actions.register(), actions.shut()]))
    actions.register()
    actions.shut()
    actions.deregister()
    assert seen == [(0, ()), None, True]


def test_an_error_of_who_hears_of_it_leaves_the_gate_shut():
    def fail():
        raise ZeroDivisionError

    actions = Actions(fail)
    actions.register()
    actions.shut()
    with pytest.raises(ZeroDivisionError):
        actions.deregister()
    assert actions.register() is None
    assert actions.running() == (0, ())


def test_a_fresh_lock_frees_one_that_a_vanished_thread_holds(actions):
    actions.register()
    actions._lock.acquire()  # as a thread of the parent would hold it
    actions.renew_lock()
    assert actions.register() == 2


class Model(RuleBasedStateMachine):
    """The same calls to `Actions` and to a count kept by hand."""

    def __init__(self):
        super().__init__()
        self.cleared = Cleared()
        self.actions = Actions(self.cleared)
        self.running = []
        self.gate = "open"
        self.expected = 0

    reasons = st.sampled_from([None, "a", "b"])

    @rule(reason=reasons)
    def register(self, reason):
        count = self.actions.register(reason)
        if self.gate == "open":
            self.running.append(reason)
            assert count == len(self.running)
        else:
            assert count is None

    @rule(reason=reasons)
    def deregister(self, reason):
        left = self.actions.deregister(reason)
        if reason is None and self.running and None not in self.running:
            self.running.pop()
        elif reason in self.running:
            self.running.remove(reason)
        else:
            assert left is None
            return
        assert left == len(self.running)
        if self.gate == "waiting" and not self.running:
            self.gate = "shut"
            self.expected += 1

    @rule()
    def shut(self):
        assert self.actions.shut() is (not self.running)
        self.gate = "waiting" if self.running else "shut"

    @precondition(lambda self: self.gate != "open")
    @rule()
    def reopen(self):
        self.actions.reopen()
        self.gate = "open"

    @invariant()
    def agrees(self):
        assert self.actions.running() == (len(self.running), tuple(each for each in self.running if each))
        assert self.cleared.times == self.expected


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=150, stateful_step_count=30)


def test_under_many_threads_none_runs_once_the_gate_is_shut():
    rounds, workers = 1000, 8
    inside = [False] * workers
    violations = []
    clears = []
    ended = threading.Event()

    def clear():
        clears.append(list(inside))
        ended.set()

    actions = Actions(clear)
    stop = threading.Event()

    def work(number):
        rng = random.Random(number)
        while not stop.is_set():
            if actions.register(str(number)) is None:
                continue
            inside[number] = True
            for _ in range(rng.randrange(20)):
                pass
            inside[number] = False  # before it ends: whoever sees True saw a running action
            actions.deregister(str(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for times in range(rounds):
            ended.clear()
            before = len(clears)
            at_once = actions.shut()
            if at_once:
                violations += [list(inside)] if any(inside) else []
            else:
                assert ended.wait(PATIENCE)
            violations += [clears[-1]] if clears and any(clears[-1]) else []
            assert len(clears) - before == (0 if at_once else 1), times
            assert actions.running() == (0, ())
            assert not any(inside)
            actions.reopen()
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert not violations


def test_under_many_threads_the_last_of_all_clears_exactly_once():
    for _ in range(100):
        cleared = Cleared()
        actions = Actions(cleared)
        together = threading.Barrier(6)

        def end(actions=actions, together=together):
            together.wait(PATIENCE)
            actions.deregister()

        for _ in range(5):
            actions.register()
        threads = [threading.Thread(target=end) for _ in range(5)]
        for thread in threads:
            thread.start()
        together.wait(PATIENCE)
        at_once = actions.shut()
        for thread in threads:
            thread.join(PATIENCE)
        assert actions.running() == (0, ())
        assert cleared.times == (0 if at_once else 1)

import os
import subprocess
import sys
import threading
from datetime import timedelta

import pytest

from patchify.client import polling
from patchify.client.polling import Poller
from tests.running import PATIENCE, ROOT


class Ticks:
    """A tick that can be waited for, and that does something else each time."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.threads = []
        self._changed = threading.Condition()

    def __call__(self):
        outcome = self.outcomes.pop(0) if self.outcomes else 0.0
        try:
            return outcome() if callable(outcome) else outcome
        finally:
            with self._changed:
                self.threads.append(threading.current_thread())
                self._changed.notify_all()

    def wait_for(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.threads) >= count, PATIENCE)


@pytest.fixture
def poll():
    """Return a function that starts a poller of these ticks, closed in the end."""
    pollers = []

    def start(ticks, interval=0.001):
        pollers.append(Poller(ticks, interval))
        pollers[-1].start()
        return pollers[-1]

    yield start
    for poller in pollers:
        poller.close(PATIENCE)


def test_one_tick_follows_another(poll):
    ticks = Ticks()
    poll(ticks)
    ticks.wait_for(3)


def test_without_an_interval_there_is_one_tick(poll):
    ticks = Ticks()
    poller = poll(ticks, None)
    ticks.wait_for(1)
    assert poller.wait(10) is None
    ticks.threads[0].join(PATIENCE)
    assert len(ticks.threads) == 1


def test_its_threads_are_daemons_with_a_name(poll):
    ticks = Ticks()
    poll(ticks)
    ticks.wait_for(2)
    assert {(thread.daemon, thread.name) for thread in ticks.threads} == {(True, "patchify-poll")}


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 90.0), (0.5, 100.0), (1.0, 110.0)])
def test_the_wait_is_up_to_a_tenth_longer_or_shorter(chance, wait):
    poller = Poller(Ticks(), 100, chance=lambda: chance)
    poller.wait()
    assert poller.wait() == poller.wait() == pytest.approx(wait)


@pytest.mark.parametrize(("chance", "wait"), [(0.0, 5.0), (0.01, 5.0), (0.5, 50.0), (1.0, 100.0)])
def test_the_first_wait_is_anywhere_within_the_interval_but_not_too_short(chance, wait):
    assert Poller(Ticks(), 100, 5, lambda: chance).wait() == wait


def test_a_tick_may_ask_for_more_time_but_not_for_less():
    poller = Poller(Ticks(), 100, chance=lambda: 0.5)
    assert poller.wait(500) == 500
    assert poller.wait(1) == 100


def test_the_next_one_comes_after_the_time_that_a_tick_asked_for(poll, monkeypatch):
    delays = []

    class Timer(threading.Timer):
        def __init__(self, delay, function):
            delays.append(delay)
            super().__init__(0, function)

    monkeypatch.setattr(polling.threading, "Timer", Timer)
    ticks = Ticks(7.5, 0.0)
    poll(ticks, 0.001)
    ticks.wait_for(3)
    assert delays[:2] == [0, 7.5]
    assert delays[2] < 0.01


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_what_a_tick_raises_is_logged_and_the_chain_goes_on(poll, caplog, error):
    def fail():
        raise error("by the tick")

    ticks = Ticks(fail)
    poll(ticks)
    ticks.wait_for(2)
    assert "by the tick" in caplog.text


def test_the_longest_interval_that_may_be_configured_can_be_waited_for(poll):
    ticks = Ticks()
    poller = poll(ticks, timedelta(days=1000).total_seconds())
    ticks.wait_for(1)
    poller.close(PATIENCE)
    assert len(ticks.threads) == 1


def test_no_tick_follows_once_it_is_closed(poll):
    ticks = Ticks()
    poller = poll(ticks)
    ticks.wait_for(1)
    poller.close(PATIENCE)
    count = len(ticks.threads)
    poller.start()
    assert not [thread for thread in threading.enumerate() if thread.name == "patchify-poll"]
    assert len(ticks.threads) == count


def test_closing_before_the_start_is_harmless():
    poller = Poller(Ticks(), 0.001)
    poller.close()
    poller.close()
    poller.start()
    assert not [thread for thread in threading.enumerate() if thread.name == "patchify-poll"]


def test_closing_waits_for_the_tick_that_runs(poll):
    begun, go_on = threading.Event(), threading.Event()

    def slow():
        begun.set()
        go_on.wait(PATIENCE)
        return 0.0

    ticks = Ticks(slow)
    poller = poll(ticks)
    assert begun.wait(PATIENCE)
    closing = threading.Thread(target=poller.close, args=(PATIENCE,))
    closing.start()
    assert not ticks.threads
    go_on.set()
    closing.join(PATIENCE)
    assert len(ticks.threads) == 1
    assert not ticks.threads[0].is_alive()


def test_closing_does_not_wait_for_ever(poll):
    begun, go_on = threading.Event(), threading.Event()
    ticks = Ticks(lambda: begun.set() or go_on.wait(PATIENCE) or 0.0)
    poller = poll(ticks)
    assert begun.wait(PATIENCE)
    poller.close(0.01)
    assert not ticks.threads
    go_on.set()


def test_a_tick_may_close_its_own_poller(poll):
    made = []
    given = threading.Event()

    def close():
        assert given.wait(PATIENCE)
        made[0].close(PATIENCE)
        return 0.0

    ticks = Ticks(close)
    made.append(poll(ticks))
    given.set()
    ticks.wait_for(1)
    ticks.threads[0].join(PATIENCE)
    assert len(ticks.threads) == 1


def test_no_thread_at_the_end_of_the_interpreter_is_no_error(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    poller = Poller(Ticks(), 1)
    poller.start()
    poller.close()


def run(program: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_without_a_thread_for_the_next_tick_the_last_one_goes_on(monkeypatch):
    ticks = Ticks()
    poller = Poller(ticks, 0.001)
    poller.start()
    ticks.wait_for(1)

    def no_thread(timer):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(polling.threading.Timer, "start", no_thread)
        ticks.wait_for(len(ticks.threads) + 3)
    ticks.wait_for(len(ticks.threads) + 3)
    poller.close()


def test_a_chain_of_ticks_does_not_keep_the_program_alive_or_disturb_its_end():
    ended = run(
        "import threading\n"
        "from patchify.client.polling import Poller\n"
        "ticked = threading.Event()\n"
        "Poller(lambda: ticked.set() or 0.0, 0.000001).start()\n"
        "assert ticked.wait(30)\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_poller_that_is_first_started_while_the_interpreter_shuts_down_is_silent():
    ended = run(
        "import atexit\n"
        "from patchify.client.polling import Poller\n"
        "poller = Poller(lambda: 0.0, 0.000001)\n"
        "atexit.register(poller.close)\n"
        "atexit.register(poller.start)\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_it_does_not_run_in_a_forked_child_which_may_have_its_own():
    ended = run(
        "import os, threading, warnings\n"
        "from patchify.client.polling import Poller\n"
        "warnings.simplefilter('ignore', DeprecationWarning)  # of forking with threads, which is the point\n"
        "ticked = threading.Event()\n"
        "parent = Poller(lambda: ticked.set() or 0.0, 1000)\n"
        "parent.start()\n"
        "assert ticked.wait(30)\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    alone = threading.active_count() == 1\n"
        "    own = threading.Event()\n"
        "    child = Poller(lambda: own.set() or 0.0, 1000)\n"
        "    child.start()\n"
        "    os._exit(0 if alone and own.wait(30) else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "parent.close()\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "0\n", "")

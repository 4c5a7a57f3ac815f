import gc
import logging
import os
import threading

import pytest
from semver import Version

from patchify import signals
from patchify.client import notifier as module
from patchify.client.notifier import Notifier
from patchify.client.status import Checking, Downloading, Idle, Installing
from tests.running import PATIENCE

TWO = Version(2)


class Sender:
    pass


@pytest.fixture
def sender():
    return Sender()


@pytest.fixture
def notifier(sender):
    made = Notifier(sender, PATIENCE)
    yield made
    made.close()


class Slow:
    """A handler that stays in its first call until `go_on`."""

    def __init__(self):
        self.heard = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, status):
        self.heard.append(status)
        self.begun.set()
        assert self.go_on.wait(PATIENCE)


def say(notifier, *statuses):
    for status in statuses:
        notifier.announce(signals.status_changed, status=status)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "patchify-signals"]


def test_what_is_announced_was_heard_when_that_returns(notifier):
    heard = []
    notifier.subscribe(heard.append)
    say(notifier, Checking())
    assert heard == [Checking()]


def test_order_is_kept_and_a_quick_handler_misses_nothing(notifier):
    heard = []
    notifier.subscribe(heard.append)
    told = [Checking(), *(Downloading(TWO, percent) for percent in range(101)), Installing(TWO), Idle()]
    say(notifier, *told)
    assert heard == told


def test_handlers_are_called_in_a_daemon_thread_with_a_name(notifier):
    seen = []
    notifier.subscribe(lambda status: seen.append(threading.current_thread()))
    say(notifier, Idle())
    assert (seen[0].name, seen[0].daemon) == ("patchify-signals", True)


def test_nothing_is_started_when_nobody_listens(notifier):
    say(notifier, Idle())
    notifier.announce(signals.update_failed, error=ValueError())
    assert not threads()


def test_a_handler_of_statuses_starts_nothing_for_other_signals(notifier):
    notifier.subscribe(print)
    notifier.announce(signals.update_failed, error=ValueError())
    assert not threads()


def test_signals_go_to_their_receivers_with_sender_and_facts(notifier, sender):
    heard = []

    def receive(*args, **facts):
        heard.append((*args, facts))

    with signals.update_available.connected_to(receive, sender):
        notifier.announce(signals.update_available, version=TWO)
    notifier.announce(signals.update_available, version=TWO)
    assert heard == [(sender, {"version": TWO})]


def test_receivers_of_another_sender_hear_nothing(notifier):
    heard, other = [], Sender()
    with signals.status_changed.connected_to(lambda *_, **__: heard.append(1), other):
        say(notifier, Idle())
    assert not heard
    assert not threads()


def test_a_receiver_that_is_gone_is_not_called(notifier, sender):
    heard = []

    def receive(*_, **__):
        heard.append(1)

    signals.status_changed.connect(receive, sender)
    del receive
    gc.collect()
    say(notifier, Idle())
    assert not heard


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_a_handler_that_raises_is_logged_and_keeps_nobody_from_hearing(notifier, sender, caplog, error):
    heard = []

    def fail(*_, **__):
        raise error("by the handler")

    notifier.subscribe(fail)
    notifier.subscribe(heard.append)
    with signals.status_changed.connected_to(fail, sender):
        say(notifier, Checking(), Idle())
    assert heard == [Checking(), Idle()]
    assert len([record for record in caplog.records if "failed" in record.message]) == 4


def test_a_slow_handler_is_waited_for_once_and_then_not(sender, caplog):
    notifier, slow = Notifier(sender, 0.01), Slow()
    notifier.subscribe(slow)
    say(notifier, Checking(), Downloading(TWO, 0))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    slow.go_on.set()
    notifier.announce(signals.update_failed, error=ValueError())
    Notifier.close(notifier)
    for thread in threads():
        thread.join(PATIENCE)
    assert slow.heard == [Checking(), Downloading(TWO, 0)]


def test_of_the_progress_that_a_slow_handler_missed_only_the_newest_is_kept(sender):
    notifier, slow = Notifier(sender, 0.01), Slow()
    notifier.subscribe(slow)
    say(notifier, Checking())
    say(notifier, *(Downloading(TWO, percent) for percent in range(101)))
    say(notifier, *(Installing(TWO, percent) for percent in range(101)))
    say(notifier, Idle(), Checking(), Idle())
    slow.go_on.set()
    notifier.close()
    for thread in threads():
        thread.join(PATIENCE)
    assert slow.heard == [Checking(), Downloading(TWO, 100), Installing(TWO, 100), Idle(), Checking(), Idle()]


def test_one_that_has_caught_up_is_waited_for_again(sender):
    notifier, slow = Notifier(sender, 0.01), Slow()
    notifier.subscribe(slow)
    say(notifier, Checking())
    slow.go_on.set()
    last = notifier.post(signals.status_changed, status=Idle())
    assert last.heard.wait(PATIENCE)
    notifier._patience = PATIENCE
    for _ in range(20):  # the first after catching up may still come before the thread has noticed
        say(notifier, Checking(), Idle())
    assert len(slow.heard) == 42
    notifier.close()


def test_one_that_catches_up_in_the_last_moment_does_not_count_as_slow(notifier):
    posted = module.Posted(signals.status_changed, {"status": Idle()})

    class Late:
        def is_set(self):
            return threading.current_thread() is threading.main_thread() and self.waited

        def wait(self, seconds):
            self.waited = True
            return False

        waited = False

    posted.heard = Late()
    notifier.wait(posted)
    assert not notifier._behind


def test_a_handler_may_announce_subscribe_and_unsubscribe(notifier):
    heard, later = [], []

    def handler(status):
        heard.append(status)
        notifier.unsubscribe(handler)
        notifier.subscribe(later.append)
        say(notifier, Idle())

    notifier.subscribe(handler)
    say(notifier, Checking())
    say(notifier, Checking())
    assert heard == [Checking()]
    assert later == [Idle(), Checking()]


def test_who_subscribes_twice_hears_twice_until_it_unsubscribes_twice(notifier):
    heard = []
    notifier.subscribe(heard.append)
    notifier.subscribe(heard.append)
    say(notifier, Idle())
    notifier.unsubscribe(heard.append)
    say(notifier, Idle())
    notifier.unsubscribe(heard.append)
    notifier.unsubscribe(heard.append)
    say(notifier, Idle())
    assert len(heard) == 3


def test_posting_does_not_wait(notifier):
    slow = Slow()
    notifier.subscribe(slow)
    posted = [notifier.post(signals.status_changed, status=status) for status in (Checking(), Idle())]
    assert slow.begun.wait(PATIENCE)
    assert not posted[1].heard.is_set()
    slow.go_on.set()
    assert posted[1].heard.wait(PATIENCE)


def test_closing_waits_until_all_was_heard(notifier):
    slow = Slow()
    notifier.subscribe(slow)
    for status in (Checking(), Idle()):
        notifier.post(signals.status_changed, status=status)
    assert slow.begun.wait(PATIENCE)
    slow.go_on.set()
    notifier.close()
    assert slow.heard == [Checking(), Idle()]
    assert not threads()


def test_closing_within_a_handler_and_speaking_on_keeps_order_in_one_thread(notifier):
    heard, seen = [], set()

    def handler(status):
        notifier.close()
        heard.append(status)
        seen.add(threading.current_thread())
        if len(heard) == 1:
            for percent in range(50):
                notifier.post(signals.status_changed, status=Checking() if percent % 2 else Idle())

    notifier.subscribe(handler)
    say(notifier, Checking())
    notifier.close()
    assert heard == [Checking(), *[Idle(), Checking()] * 25]
    assert len(seen) == 1


def test_what_is_announced_after_closing_is_still_heard(notifier):
    heard = []
    notifier.subscribe(heard.append)
    notifier.close()
    say(notifier, Checking(), Idle())
    assert heard == [Checking(), Idle()]


def test_its_thread_ends_when_there_is_nothing_to_say_and_comes_again(notifier, monkeypatch):
    monkeypatch.setattr(module, "_LINGER", 0.001)
    heard = []
    notifier.subscribe(heard.append)
    for _ in range(3):
        say(notifier, Idle())
        for thread in threads():
            thread.join(PATIENCE)
    assert heard == [Idle()] * 3


def test_announcing_while_the_interpreter_shuts_down_is_silent(notifier, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    notifier.subscribe(print)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    say(notifier, Checking(), Idle())


def test_many_threads_announce_and_each_is_heard_once_in_its_order(notifier):
    heard = []

    def receive(_, **facts):
        heard.append(facts["version"])

    def announce(number):
        for patch in range(50):
            notifier.announce(signals.update_available, version=Version(number, 0, patch))

    with signals.update_available.connected_to(receive):
        speakers = [threading.Thread(target=announce, args=(number,)) for number in range(4)]
        for speaker in speakers:
            speaker.start()
        for speaker in speakers:
            speaker.join(PATIENCE)
    for number in range(4):
        assert [each.patch for each in heard if each.major == number] == list(range(50))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_after_a_fork_it_begins_anew_with_its_handlers(notifier):
    slow = Slow()
    notifier.subscribe(slow)
    notifier.post(signals.status_changed, status=Checking())
    assert slow.begun.wait(PATIENCE)
    notifier._changed.acquire()  # as a thread of the parent might, when the fork comes
    before = notifier._changed
    notifier.renew_lock()
    slow.go_on.set()
    say(notifier, Idle())
    before.release()
    assert slow.heard[-1] == Idle()

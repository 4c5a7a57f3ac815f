"""What a user decides about updates, and how politely a server is asked: an updater with a server that is not real."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from semver import Version

from patchify import signals
from patchify.client import Choices, Config, Idle, PendingRestart, Updater
from patchify.client.state import Phase
from patchify.errors import (
    ClosedError,
    HttpRequestFailedError,
    NothingStagedError,
    ReplayedDocumentError,
    ServerBusyError,
    UnableToWriteStateError,
)
from patchify.forms import Compressed, Forms, Patch
from tests.client.fakes import FakeInstaller, FakeRestarter, FakeTransport, sha256
from tests.client.offering import document, offered, withdrawn
from tests.client.test_updater import in_thread
from tests.running import wait_until

TWO, NEW = Version(2), b"two" * 100
PAST, SOON = timedelta(hours=-1), timedelta(days=1)


class Desk:
    """A program of version 1.0.0, and a server that offers what a test says."""

    def __init__(self, key, **config):
        self.transport = FakeTransport(key, {"1.0.0": b"one", "1.5.0": b"old", "2.0.0": NEW, "2.0.1": NEW + b"!"})
        self.installer = FakeInstaller()
        self.restarter = FakeRestarter()
        self.config = Config(
            **{
                "version": "1.0.0",
                "api": "https://updates.example.com",
                "key": key.verifying_key,
                "appname": "app",
                "platform": "linux-x86_64",
                "guardian": False,
                "least_interval": timedelta(),
                **config,
            }
        )
        self.heard = []
        self.ears = {each: self.hear(each.name) for each in (signals.update_available, signals.version_withdrawn)}
        for signal, ear in self.ears.items():
            signal.connect(ear, weak=False)
        self.serial = 0
        self.start_anew()

    def start_anew(self):
        self.updater = Updater(
            self.config, transport=self.transport, installer=self.installer, restarter=self.restarter
        )

    def hear(self, name):
        return lambda sender, **facts: self.heard.append((name, {each: str(facts[each]) for each in facts}))

    def serve(self, *releases, **changes):
        """Serve a document that was issued an hour ago."""
        now = datetime.now(UTC).replace(microsecond=0)
        self.serial += 1
        times = {
            "issued": now + PAST,
            "expires": now + SOON,
            "serial": int((now + PAST).timestamp()) * 1000 + self.serial,
        }
        self.transport.document = document(*releases, **{**times, **changes})

    def offer(self, version="2.0.0", **changes):
        data = self.transport.releases[version]
        return offered(version, sha256(data), size=len(data), **changes)

    @property
    def staged(self):
        update = self.installer.state().update
        return update and str(update.release.version)


@pytest.fixture
def make_desk(key):
    desks = []

    def make(**config) -> Desk:
        desks.append(Desk(key, **config))
        return desks[-1]

    yield make
    for desk in desks:
        desk.updater.close()
        for signal, ear in desk.ears.items():
            signal.disconnect(ear)


@pytest.fixture
def desk(make_desk):
    return make_desk()


# What is offered ------------------------------------------------------------------------------------------------------


def test_what_is_available_tells_a_user_what_to_decide_by(desk):
    desk.serve(desk.offer(critical=True))
    assert desk.updater.check() == TWO
    offer = desk.updater.available
    assert (offer.version, offer.size, offer.notes, offer.critical) == (TWO, 300, "What is **new**", True)
    assert offer.published is not None
    wait_until(lambda: desk.heard, "the signal")
    assert desk.heard[0][1] == {"version": "2.0.0", "offer": "2.0.0"}


def test_the_file_comes_from_where_the_document_says_and_has_the_signed_hash_and_size(desk):
    desk.serve(desk.offer(path="releases/2.0.0?platform=linux-x86_64"))
    assert desk.updater.install() == TWO
    assert desk.transport.downloaded == [("releases/2.0.0?platform=linux-x86_64", 300)]
    assert "hash" not in desk.transport.calls
    assert "latest" not in desk.transport.calls
    assert desk.staged == "2.0.0"


def test_an_automatic_check_waits_for_the_rollout_and_a_persons_does_not(desk):
    desk.serve(desk.offer(percent=0))
    desk.updater.tick()
    assert desk.updater.available is None
    assert desk.staged is None
    assert desk.updater.check() == TWO
    assert desk.updater.update()
    assert desk.restarter.launches


def test_the_version_that_runs_was_withdrawn_and_an_older_one_takes_its_place_where_that_is_allowed(make_desk):
    desk = make_desk(version="2.0.0", allow_downgrade=True)
    desk.installer.replace(NEW)
    desk.serve(desk.offer("1.5.0"), withdrawn=(withdrawn("2.0.0", sha256(NEW)),))
    assert desk.updater.update()
    assert desk.installer.program == b"old"
    wait_until(lambda: len(desk.heard) == 2, "the signals")
    assert ("version-withdrawn", {"version": "2.0.0", "replacement": "1.5.0"}) in desk.heard


def test_a_downgrade_that_was_ordered_is_finished_by_the_next_start(make_desk):
    desk = make_desk(version="2.0.0", allow_downgrade=True)
    desk.installer.replace(NEW)
    desk.serve(desk.offer("1.5.0"), withdrawn=(withdrawn("2.0.0", sha256(NEW)),))
    desk.updater.install()
    desk.updater.close()
    desk.start_anew()
    desk.updater.start()
    wait_until(lambda: desk.installer.program == b"old", "the swap")


def test_the_version_that_runs_was_withdrawn_and_going_down_is_not_allowed(make_desk, caplog):
    desk = make_desk(version="2.0.0")
    desk.serve(desk.offer("1.5.0"), withdrawn=(withdrawn("2.0.0", sha256(NEW)),))
    assert desk.updater.check() is None
    assert "version 2.0.0, which runs, was withdrawn" in caplog.text
    wait_until(lambda: desk.heard, "the signal")
    assert desk.heard == [("version-withdrawn", {"version": "2.0.0", "replacement": "None"})]


def test_with_the_original_protocol_pre_releases_count_unless_they_are_refused(make_desk):
    for refused in (None, False):
        desk = make_desk(prereleases=refused)
        desk.transport.releases = {"1.0.0": b"one", "2.0.0-rc.1": NEW}
        assert desk.updater.update() == (refused is None)
        assert desk.installer.program == (NEW if refused is None else b"one")


def test_a_pre_release_of_the_original_protocol_that_is_ready_is_put_in_place_by_the_next_start(desk):
    desk.transport.releases = {"1.0.0": b"one", "2.0.0-rc.1": NEW}
    desk.updater.install()
    desk.updater.close()
    desk.start_anew()
    desk.updater.start()
    wait_until(lambda: desk.restarter.launches, "the restart")
    assert desk.installer.program == NEW


# Withdrawn while it waits ---------------------------------------------------------------------------------------------


def test_a_release_that_waits_for_an_action_is_dropped_when_it_is_withdrawn(desk):
    desk.serve(desk.offer())
    desk.updater.register_action("saving")
    assert desk.updater.update() is False
    assert isinstance(desk.updater.status, PendingRestart)
    desk.updater.tick()
    assert isinstance(desk.updater.status, PendingRestart)
    desk.serve(withdrawn=(withdrawn("2.0.0", sha256(NEW)),))
    desk.updater.tick()
    assert isinstance(desk.updater.status, Idle)
    assert desk.updater.staged is None
    assert desk.staged is None
    assert desk.updater.register_action("again") == 2, "actions may start again"
    desk.updater.deregister_action("again")
    desk.updater.deregister_action("saving")
    assert desk.installer.program == b"one"
    assert desk.restarter.launches == []


def test_a_restart_that_waits_is_given_up_when_its_release_was_dropped_and_the_look_failed(desk):
    desk.serve(desk.offer())
    desk.updater.register_action("saving")
    desk.updater.update()
    desk.serve(desk.offer("2.0.1", format="tar"), withdrawn=(withdrawn("2.0.0", sha256(NEW)),))
    desk.updater.tick()
    assert isinstance(desk.updater.status, Idle)
    desk.updater.deregister_action("saving")


def test_a_restart_that_waits_is_given_up_when_another_process_has_let_go_of_its_release(desk):
    desk.transport.document = None  # by the original protocol, too
    desk.updater.register_action("saving")
    desk.updater.update()
    desk.updater.tick()
    assert isinstance(desk.updater.status, PendingRestart)
    desk.installer.forget()
    desk.updater.tick()
    assert isinstance(desk.updater.status, Idle)
    desk.updater.deregister_action("saving")


@pytest.mark.parametrize("when", ["withdrawn", "paused"])
def test_what_is_ready_is_not_put_in_place_by_hand_either_if_it_is_not_offered_any_more(desk, monkeypatch, when):
    desk.serve(desk.offer())
    desk.updater.install()
    desk.serve(withdrawn=(withdrawn("2.0.0", sha256(NEW)),) if when == "withdrawn" else ())
    monkeypatch.setattr("patchify.client.updater._FRESH", 0)
    with pytest.raises(NothingStagedError):
        desk.updater.restart()
    assert desk.installer.program == b"one"
    assert desk.staged == (None if when == "withdrawn" else "2.0.0")


def test_what_was_found_a_while_ago_is_asked_for_again_before_it_is_downloaded(desk, monkeypatch):
    desk.serve(desk.offer())
    desk.updater.check()
    desk.serve(withdrawn=(withdrawn("2.0.0", sha256(NEW)),))
    monkeypatch.setattr("patchify.client.updater._FRESH", 0)
    assert desk.updater.install() is None
    assert desk.transport.downloaded == []


def test_a_disk_that_cannot_forget_what_was_withdrawn_keeps_it_from_being_put_in_place(desk, caplog):
    desk.serve(desk.offer())
    desk.updater.install()
    desk.updater.close()
    desk.serve(withdrawn=(withdrawn("2.0.0", sha256(NEW)),))

    def fail():
        raise UnableToWriteStateError("state.json", "No space left on device")

    desk.installer.forget = fail
    desk.start_anew()
    desk.updater.start()
    wait_until(lambda: "is not put in place now" in caplog.text, "the look")
    desk.updater.close()
    assert desk.installer.program == b"one"


def test_what_is_staged_is_asked_about_once_and_not_more_often_than_is_polite(make_desk):
    desk = make_desk(check_on_startup=True, automatic="stage")
    desk.serve(desk.offer())
    desk.updater.install()
    desk.updater.close()
    desk.start_anew()
    desk.updater.start()
    wait_until(lambda: not desk.updater._first and isinstance(desk.updater.status, Idle), "the first tick")
    wait_until(lambda: len(desk.transport.asked) >= 2, "the look")
    desk.updater.close()
    assert len(desk.transport.asked) == 2
    desk.config = replace(desk.config, least_interval=timedelta(minutes=1))
    desk.start_anew()
    desk.updater.start()
    wait_until(lambda: not desk.updater._first, "the first tick")
    desk.updater.close()
    assert len(desk.transport.asked) == 2


def test_a_release_that_was_staged_before_the_start_is_dropped_when_it_is_withdrawn(desk):
    desk.serve(desk.offer())
    desk.updater.install()
    desk.updater.close()
    desk.serve(withdrawn=(withdrawn("2.0.0", sha256(NEW)),))
    desk.start_anew()
    desk.updater.start()
    wait_until(lambda: desk.staged is None, "the drop")
    desk.updater.close()
    assert desk.installer.program == b"one"


def test_a_release_that_was_staged_is_put_in_place_when_the_server_cannot_be_asked(desk, caplog):
    desk.serve(desk.offer())
    desk.updater.install()
    desk.updater.close()
    desk.transport.always["update"] = HttpRequestFailedError("https://x", "no network")
    desk.start_anew()
    desk.updater.start()
    wait_until(lambda: desk.restarter.launches, "the restart")
    assert desk.installer.program == NEW
    assert "not known whether version 2.0.0 was withdrawn" in caplog.text


def test_a_server_that_wants_to_be_left_alone_is_heeded_when_it_is_asked_about_what_is_staged(desk):
    desk.serve(desk.offer())
    desk.updater.install()
    desk.updater.close()
    desk.transport.once["update"] = ServerBusyError("https://x", 503, 3600)
    desk.start_anew()
    desk.updater.start()
    wait_until(lambda: desk.restarter.launches, "the restart")
    assert desk.installer.memory().retry_at > datetime.now(UTC) + timedelta(minutes=50)


# What a user chooses --------------------------------------------------------------------------------------------------


def test_choices_are_kept_and_go_before_the_configuration(desk):
    desk.serve(channel="beta")
    assert desk.updater.choices == Choices()
    assert desk.updater.choose(channel="beta", prereleases=True) == Choices(channel="beta", prereleases=True)
    desk.updater.close()
    desk.start_anew()
    assert desk.updater.choices.channel == "beta"
    desk.updater.check()
    assert desk.transport.asked == [("beta", "linux-x86_64")]
    assert desk.updater.choose(channel=None).channel is None


@pytest.mark.parametrize("wrong", [{"channel": "No!"}, {"pin": "new"}, {"skipped": ("x",)}, {"colour": "red"}])
def test_a_choice_that_is_none_changes_nothing(desk, wrong):
    desk.updater.choose(channel="beta")
    with pytest.raises((ValueError, TypeError)):
        desk.updater.choose(**wrong)
    assert desk.updater.choices == Choices(channel="beta")


def test_a_choice_that_cannot_be_kept_says_so(desk):
    desk.installer.once["remember"] = UnableToWriteStateError("memory.json", "No space left on device")
    with pytest.raises(UnableToWriteStateError):
        desk.updater.skip("2.0.0")
    assert desk.updater.choices == Choices()


def test_a_version_that_is_skipped_is_never_offered_again(desk):
    desk.serve(desk.offer())
    desk.updater.check()
    desk.updater.skip()
    assert desk.updater.available is None
    assert desk.updater.check() is None
    desk.serve(desk.offer("2.0.1"), desk.offer())
    assert desk.updater.check() == Version(2, 0, 1)


def test_what_has_begun_to_come_goes_when_its_release_is_not_to_be_had_any_more(desk):
    forms = Forms(compressed=Compressed("22" * 32, 2), patches=(Patch("33" * 32, "44" * 32, 1),))
    offer = desk.offer("2.0.1", forms=forms)
    desk.serve(desk.offer(), offer)
    desk.updater.check()
    files = {"22" * 32, "44" * 32}
    assert desk.installer.wanted == {desk.offer().sha256, offer.sha256, *files}
    desk.updater.skip("2.0.1")
    desk.updater.check()
    assert desk.installer.wanted == {desk.offer().sha256}
    desk.serve(withdrawn=(withdrawn("2.0.0", desk.offer().sha256),))
    desk.updater.check()
    assert desk.installer.wanted == set()


def test_a_version_is_put_off_for_automatic_checks(desk):
    desk.serve(desk.offer())
    desk.updater.check()
    desk.updater.remind(timedelta(hours=1))
    desk.updater.tick()
    assert desk.updater.available is None
    assert desk.updater.check() == TWO
    desk.updater.remind(timedelta(seconds=-1), "2.0.0")
    desk.updater.tick()
    assert desk.restarter.launches


@pytest.mark.parametrize("choose", ["skip", "remind"])
def test_what_is_meant_must_be_known(desk, choose):
    arguments = [SOON] if choose == "remind" else []
    with pytest.raises(ValueError, match="which one is meant"):
        getattr(desk.updater, choose)(*arguments)
    with pytest.raises(ValueError, match="SemVer"):
        getattr(desk.updater, choose)(*arguments, "two")


@pytest.mark.parametrize("unwanted", [{"pin": "<2.0.0"}, {"skipped": ("2.0.0",)}])
def test_what_is_staged_is_dropped_when_it_is_not_wanted_any_more(desk, unwanted):
    desk.serve(desk.offer())
    desk.updater.register_action("saving")
    desk.updater.update()
    desk.updater.choose(prereleases=True)
    assert desk.staged == "2.0.0"
    desk.updater.choose(**unwanted)
    assert desk.staged is None
    assert isinstance(desk.updater.status, Idle)
    desk.updater.deregister_action("saving")
    assert desk.restarter.launches == []


def test_what_is_on_trial_is_not_dropped(make_desk):
    desk = make_desk(version="2.0.0")
    desk.installer.on_trial(TWO, NEW)
    desk.updater.choose(pin="<2.0.0")
    assert desk.installer.state().update.phase is Phase.ARMED


@pytest.mark.parametrize("decide", ["skip", "remind"])
def test_a_choice_in_the_middle_of_a_download_is_heeded_and_not_waited_for(desk, decide):
    desk.serve(desk.offer())

    def choose():
        if decide == "skip":
            desk.updater.skip("2.0.0")
        else:
            desk.updater.remind(timedelta(days=1), "2.0.0")

    desk.installer.before["stage"] = lambda: in_thread(choose).join()
    desk.updater.tick()
    assert desk.staged is None
    assert desk.restarter.launches == []
    assert desk.installer.program == b"one"


def test_a_person_who_asks_for_what_was_put_off_gets_it(desk):
    desk.serve(desk.offer())
    desk.updater.remind(timedelta(days=1), "2.0.0")
    assert desk.updater.update()
    assert desk.installer.program == NEW


def test_a_restart_that_waits_is_given_up_when_its_user_puts_it_off_and_what_is_ready_stays(desk):
    desk.serve(desk.offer())
    desk.updater.register_action("saving")
    desk.updater.update()
    desk.updater.remind(timedelta(days=1), "2.0.0")
    assert isinstance(desk.updater.status, Idle)
    desk.updater.deregister_action("saving")
    assert desk.staged == "2.0.0"
    desk.updater.close()
    desk.start_anew()
    desk.updater.start()
    wait_until(lambda: not desk.updater._first, "the first tick")
    assert desk.restarter.launches == []
    assert desk.updater.restart()
    assert desk.installer.program == NEW


def test_another_channel_lets_go_of_what_the_one_before_had_ready(desk):
    desk.serve(desk.offer())
    desk.updater.install()
    desk.updater.choose(channel="stable")
    assert desk.staged == "2.0.0"
    desk.updater.choose(channel="beta")
    assert desk.staged is None


def test_a_configuration_that_does_not_want_what_is_ready_lets_go_of_it(desk):
    desk.serve(desk.offer())
    desk.updater.install()
    desk.updater.close()
    desk.config = replace(desk.config, pin="<2.0.0")
    desk.start_anew()
    desk.updater.start()
    wait_until(lambda: desk.staged is None, "the drop")
    assert desk.installer.program == b"one"


def test_a_downgrade_that_is_ready_survives_other_choices(make_desk):
    desk = make_desk(version="2.0.0", allow_downgrade=True)
    desk.installer.replace(NEW)
    desk.serve(desk.offer("1.5.0"), withdrawn=(withdrawn("2.0.0", sha256(NEW)),))
    desk.updater.install()
    desk.updater.choose(prereleases=True)
    assert desk.staged == "1.5.0"
    desk.updater.choose(allow_downgrade=False)
    assert desk.staged is None


def test_a_wait_beyond_all_measure_is_refused(desk):
    with pytest.raises(ValueError, match="too long"):
        desk.updater.remind(timedelta.max, "2.0.0")


# Politeness -----------------------------------------------------------------------------------------------------------


def test_a_program_that_crashes_and_starts_again_does_not_hammer_the_server(make_desk):
    desk = make_desk(check_on_startup=True, least_interval=timedelta(minutes=1), automatic="check")
    desk.serve()
    for _ in range(5):
        desk.updater.start()
        wait_until(lambda: not desk.updater._starting, "the first tick")
        desk.updater._poller.close()
        desk.updater.close()
        desk.start_anew()
    assert len(desk.transport.asked) == 1
    desk.updater.check()
    assert len(desk.transport.asked) == 2, "a person may ask at any time"


def test_of_many_processes_only_one_asks_when_they_are_started_together(make_desk):
    desk = make_desk(check_on_startup=True, least_interval=timedelta(minutes=1), automatic="check")
    desk.serve()
    desk.updater.tick()  # of the elected one
    desk.installer.elected = False
    desk.start_anew()
    desk.updater.start()
    wait_until(lambda: not desk.updater._starting, "the first tick")
    desk.updater.close()
    assert len(desk.transport.asked) == 1


def test_a_look_at_what_waits_is_remembered_as_a_check(desk):
    desk.serve(desk.offer())
    desk.updater.register_action("saving")
    desk.updater.update()
    desk.installer.note("what went wrong before")
    desk.updater.tick()
    assert desk.installer.state().error == ""
    desk.updater.deregister_action("saving")


def test_a_failed_check_counts_as_one(make_desk):
    desk = make_desk(least_interval=timedelta(minutes=1))
    desk.transport.always["update"] = HttpRequestFailedError("https://x", "no network")
    desk.serve()
    desk.updater.tick()
    desk.start_anew()
    desk.updater.tick()
    assert len(desk.transport.asked) == 1


@pytest.mark.parametrize("ago", [timedelta(minutes=2), timedelta(days=-1)])
def test_after_a_while_or_with_another_clock_it_is_asked_again(make_desk, ago):
    desk = make_desk(least_interval=timedelta(minutes=1))
    desk.serve()
    desk.installer.remembered = replace(desk.installer.remembered, checked=datetime.now(UTC) - ago)
    desk.updater.tick()
    assert len(desk.transport.asked) == 1


def test_once_it_has_asked_a_process_keeps_to_its_interval(make_desk):
    desk = make_desk(least_interval=timedelta(minutes=1), automatic="check")
    desk.serve()
    for _ in range(3):
        desk.updater.tick()
    assert len(desk.transport.asked) == 3


def test_a_server_that_wants_to_be_left_alone_is_by_the_next_process_too(make_desk):
    desk = make_desk()
    desk.serve(desk.offer())
    desk.transport.once["update"] = ServerBusyError("https://x", 503, 3600)
    assert desk.updater.tick() == 3600
    desk.updater.close()
    desk.start_anew()
    assert desk.updater.tick() == 0
    assert len(desk.transport.asked) == 1
    assert desk.updater.check() == TWO
    past = replace(desk.installer.memorized, retry_at=datetime.now(UTC) - timedelta(seconds=1))
    desk.installer.memorized = past
    desk.updater.tick()
    assert len(desk.transport.asked) == 3


def test_what_a_server_answers_to_a_person_holds_for_the_next_automatic_check(desk):
    desk.serve()
    desk.transport.once["update"] = ServerBusyError("https://x", 503, 3600)
    with pytest.raises(ServerBusyError):
        desk.updater.check()
    desk.updater.tick()
    assert len(desk.transport.asked) == 1


def test_a_time_beyond_all_measure_is_not_waited_for(make_desk):
    desk = make_desk()
    desk.serve()
    far = datetime.now(UTC) + timedelta(days=400)
    desk.installer.memorized = replace(desk.installer.memorized, retry_at=far)
    desk.updater.tick()
    assert len(desk.transport.asked) == 1


def test_what_is_refused_is_told_and_remembered(desk):
    desk.serve(desk.offer())
    desk.updater.check()
    served = desk.transport.document
    desk.transport.document = replace(served, serial=served.serial - 1)
    with pytest.raises(ReplayedDocumentError):
        desk.updater.check()
    assert "accepted before" in desk.installer.state().error
    assert desk.updater.available is None


def test_nothing_is_chosen_after_the_end(desk):
    desk.updater.close()
    with pytest.raises(ClosedError):
        desk.updater.check()

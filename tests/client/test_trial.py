"""The trial of the version that runs: by a clock of the test's, with real signals, and with a real lock."""

import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
from semver import Version

from patchify.client import Config, FileInstaller
from patchify.client import trial as module
from patchify.client.state import Phase, Release, State, Update
from patchify.client.trial import Trial
from patchify.errors import UnableToWriteStateError, UpdateInProgressError
from tests.client.fakes import FakeInstaller, sha256
from tests.client.misbehaving import Exchange, Misbehaving, answer, broken
from tests.running import PATIENCE, ROOT, wait_until

TWO = Version(2)
posix = pytest.mark.skipif(os.name != "posix", reason="these are signals of POSIX")


class Clock:
    """Time that passes only where the trial waits; its event, which a test may set, ends everything after 100 s."""

    def __init__(self):
        self.now = 0.0
        self.waits = []
        self.ended = False

    def set(self):
        self.ended = True

    def is_set(self):
        return self.ended

    def wait(self, seconds):
        self.waits.append(seconds)
        self.now += seconds
        return self.ended or self.now > 100


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


@pytest.fixture
def installer():
    made = FakeInstaller()
    made.on_trial(TWO, b"two")
    return made


@pytest.fixture
def make(key, installer):
    """Return a function that makes a trial, and notes in ``confirmed`` how often it was told of."""
    made = []

    def make(process=None, **changes):
        settings = {"version": "2.0.0", "api": "https://x", "key": key.verifying_key, **changes}
        trial = Trial(Config(**settings), installer, lambda: make.confirmed.append(True), process)
        made.append(trial)
        return trial

    make.confirmed = []
    yield make
    for trial in made:
        trial.close(orderly=False)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def prove(trial, clock):
    """Go through the whole of a trial, here and now."""
    trial._over = clock
    trial._prove()


# The proof ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("period", "waits"), [(0, []), (2.5, [1, 1, 0.5]), (3, [1, 1, 1])])
def test_a_version_that_has_run_for_the_trial_period_is_confirmed(make, installer, clock, period, waits):
    prove(make(trial_period=seconds(period)), clock)
    assert clock.waits == waits
    assert installer.state() == State(
        good=Release(TWO, sha256(b"two")), previous=Release(Version(1), sha256(b"one")), update=None
    )
    assert make.confirmed == [True]


def test_a_version_that_is_closed_before_is_not_confirmed(make, installer, clock):
    trial = make(trial_period=seconds(30))
    clock.set()
    prove(trial, clock)
    assert installer.state().on_trial is not None
    assert make.confirmed == []


def test_a_version_that_was_well_all_the_time_is_confirmed(make, installer, clock):
    looks = []
    prove(make(trial_period=seconds(3), health=lambda: looks.append(clock.now) or True), clock)
    assert looks == [0, 1, 2, 3]
    assert installer.state().good.version == TWO


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        (lambda: False, "the health check says no"),
        (lambda: None, "the health check says no"),
        (lambda: 1 / 0, "the health check failed: ZeroDivisionError"),
    ],
)
def test_a_version_that_is_not_well_is_not_confirmed_and_says_once_why(make, installer, clock, health, reason, caplog):
    prove(make(trial_period=seconds(3), trial_timeout=seconds(50), health=health), clock)
    trial = installer.state().on_trial
    assert trial.reason.startswith(reason)
    assert (trial.process, trial.patience) == (os.getpid(), 50)
    assert installer.calls.count("report") == 1
    assert caplog.text.count("not well") == 1
    assert make.confirmed == []


def test_the_time_counts_from_when_it_was_well_again(make, installer, clock):
    reasons = []

    def health():
        reasons.append(installer.state().update.reason)
        return clock.now != 4

    prove(make(trial_period=seconds(5), health=health), clock)
    assert clock.now == 9
    assert reasons == [""] * 5 + ["the health check says no"] + [""] * 4
    assert make.confirmed == [True]


def test_what_cannot_be_said_now_harms_nobody(make, installer, clock):
    installer.once["report"] = UnableToWriteStateError("state.json", "disk full")
    prove(make(trial_period=seconds(5), health=lambda: clock.now > 1), clock)
    assert make.confirmed == [True]


@pytest.mark.parametrize("error", [UnableToWriteStateError("state.json", "disk full"), UpdateInProgressError("busy")])
def test_a_confirmation_that_is_not_possible_now_is_tried_again(make, installer, clock, error):
    installer.once["lock" if isinstance(error, UpdateInProgressError) else "confirm"] = error
    prove(make(trial_period=seconds(0)), clock)
    assert clock.waits == [1]
    assert make.confirmed == [True]


@pytest.mark.parametrize(
    ("act", "problem"),
    [
        (answer(200, b"well"), ""),
        (answer(204), "answers with HTTP status 204"),
        (answer(302, Location="/"), "answers with HTTP status 302"),
        (answer(503), "answers with HTTP status 503"),
        (broken(b"", Exchange.close), "the health check failed: ConnectionError"),
    ],
)
def test_an_address_is_well_if_it_answers_200(act, problem):
    with Misbehaving() as server:
        server.on("/health", act)
        said = module._problem(f"{server.url}/health")
    assert problem in said
    assert bool(said) == bool(problem)


def test_an_address_is_asked_itself_whatever_proxy_the_environment_names(monkeypatch):
    with Misbehaving() as proxy, Misbehaving() as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        proxy.on("/health", answer(200))
        server.on("/health", answer(503))
        assert "HTTP status 503" in module._problem(f"{server.url}/health")


# Beginning, and confirming by hand ------------------------------------------------------------------------------------


def test_it_reports_this_process_and_the_time_it_has(make, installer):
    trial = make(trial_timeout=seconds(60))
    assert not trial.running
    trial.begin()
    assert trial.running
    update = installer.state().on_trial
    assert (update.process, update.patience, update.reason) == (os.getpid(), 60, "")
    trial.close(orderly=False)
    assert not trial.running


def test_a_launcher_reports_the_process_that_it_has_started(make, installer, clock):
    trial = make(process=4711, health=lambda: False)
    trial.begin("no")
    assert installer.state().on_trial.process == 4711
    prove(trial, clock)
    assert installer.state().on_trial.process == 4711


def test_a_version_that_cannot_be_confirmed_has_no_time_and_proves_nothing(make, installer):
    trial = make(trial_period=seconds(0))
    trial.begin("it calls itself otherwise")
    assert trial.running
    update = installer.state().on_trial
    assert (update.process, update.patience, update.reason) == (os.getpid(), 0, "it calls itself otherwise")
    assert not [each for each in threading.enumerate() if each.name == "patchify-trial"]


def test_it_confirms_itself_in_a_thread_of_its_own(make, installer):
    trial = make(trial_period=seconds(0))
    trial.begin()
    wait_until(lambda: make.confirmed, "the confirmation")
    assert not trial.running
    assert installer.state().good.version == TWO


def test_by_hand_alone_if_it_is_told_so(make, installer):
    trial = make(trial_period=seconds(0), confirm_automatically=False)
    trial.begin()
    assert trial.running  # so that the host knows that there is something to confirm
    assert not [each for each in threading.enumerate() if each.name == "patchify-trial"]
    assert trial.confirm() is True
    assert not trial.running
    assert trial.confirm() is False
    assert make.confirmed == [True]


def test_a_confirmation_by_hand_may_fail_and_be_tried_again(make, installer):
    trial = make(confirm_automatically=False)
    trial.begin()
    installer.locked = True
    with pytest.raises(UpdateInProgressError):
        trial.confirm()
    assert trial.running
    installer.locked = False
    assert trial.confirm() is True


def test_a_check_does_not_undo_a_confirmation_that_another_thread_makes_meanwhile(key, tmp_path):
    (tmp_path / "app").write_bytes(b"two")
    installer = FileInstaller(tmp_path / "app")
    update = Update(Release(TWO, sha256(b"two")), Release(Version(1), sha256(b"one")), Phase.ARMED)
    with installer.lock():
        installer.save(State(update=update))
    trial = Trial(Config(version="2.0.0", api="https://x", key=key.verifying_key), installer, lambda: None)
    thread = threading.Thread(target=trial._confirm)
    with installer.lock():  # an operation is under way
        before = installer.state()
        thread.start()
        assert not trial._over.wait(0.2)
        installer.save(before)
    thread.join(PATIENCE)
    assert installer.state().on_trial is None


def test_a_process_that_is_not_on_trial_confirms_nothing(make, installer):
    trial = make(confirm_automatically=False)  # such as an old worker, beside the new ones
    assert trial.confirm() is False
    assert installer.state().on_trial is not None


def test_a_version_that_calls_itself_otherwise_cannot_confirm_itself(make, installer):
    trial = make(confirm_automatically=False)
    trial.begin("it calls itself 2.5.0")
    assert trial.confirm() is False
    assert installer.state().on_trial is not None


def test_a_confirmation_that_comes_early_counts_as_soon_as_the_trial_has_begun(make, installer):
    trial = make(confirm_automatically=False)
    trial.confirm()
    trial.begin()
    assert installer.state().on_trial is None


# The end --------------------------------------------------------------------------------------------------------------


def test_closing_in_good_order_leaves_word(make, installer):
    trial = make(confirm_automatically=False)
    trial.begin()
    trial.close(orderly=True)
    assert installer.ended(os.getpid()) == "it closed its updater"


def test_closing_leaves_no_word_of_what_went_wrong(make, installer):
    trial = make(confirm_automatically=False)
    trial.begin()
    trial.close(orderly=False)
    trial.close(orderly=True)
    assert installer.words == {}


def test_closing_leaves_no_word_when_nothing_is_on_trial(make, installer):
    trial = make(confirm_automatically=False)
    trial.begin()
    trial.confirm()
    trial.close(orderly=True)
    installer.remembered = State()
    make().close(orderly=True)
    assert installer.words == {}


@pytest.fixture
def handlers():
    """Put the handlers of the test's own process back as they were."""
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@posix
def test_a_signal_during_the_trial_leaves_word_and_goes_its_usual_way(make, installer, handlers):
    heard = []

    def handler(number, frame):
        heard.append((number, frame is not None))

    signal.signal(signal.SIGTERM, handler)
    trial = make()
    trial.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [(signal.SIGTERM, True)]
    assert installer.words == {os.getpid(): "SIGTERM"}
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert installer.words == {os.getpid(): "SIGINT"}
    installer.words.clear()
    trial._confirm()
    os.kill(os.getpid(), signal.SIGTERM)
    assert len(heard) == 2
    assert installer.words == {}
    trial.close(orderly=False)
    assert signal.getsignal(signal.SIGTERM) is handler


@posix
def test_the_handlers_go_with_a_confirmation_in_the_main_thread(make, handlers):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = [signal.getsignal(number) for number in numbers]
    trial = make(confirm_automatically=False)
    trial.listen()
    trial.begin()
    trial.deafen()  # it is not over
    assert not {signal.getsignal(number) for number in numbers} & set(before)
    trial.confirm()
    assert [signal.getsignal(number) for number in numbers] == before


@posix
@pytest.mark.parametrize("how", ["signal", "deafen"])
def test_after_a_confirmation_in_another_thread_they_go_with_the_next_signal_or_call(make, installer, handlers, how):
    heard = []

    def handler(number, frame):
        heard.append(number)

    signal.signal(signal.SIGTERM, handler)
    before = signal.getsignal(signal.SIGINT)
    trial = make(trial_period=seconds(0))
    trial.listen()
    trial.begin()
    wait_until(lambda: make.confirmed, "the confirmation")
    assert signal.getsignal(signal.SIGTERM) is not handler
    if how == "signal":
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    else:
        trial.deafen()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.getsignal(signal.SIGINT) is before
    assert installer.words == {}


@posix
def test_what_the_program_ignores_stays_ignored(make, handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    trial = make()
    trial.listen()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@posix
def test_a_handler_that_the_program_has_set_since_is_left_alone(make, handlers):
    trial = make()
    trial.listen()

    def handler(number, frame):
        pass

    signal.signal(signal.SIGTERM, handler)
    trial.close(orderly=False)
    assert signal.getsignal(signal.SIGTERM) is handler


@posix
def test_another_thread_neither_sets_handlers_nor_takes_them_away(make, handlers):
    before = signal.getsignal(signal.SIGTERM)
    trial = make()
    thread = threading.Thread(target=trial.listen)
    thread.start()
    thread.join(PATIENCE)
    assert signal.getsignal(signal.SIGTERM) is before
    trial.listen()
    mine = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=trial.close, kwargs={"orderly": False})
    thread.start()
    thread.join(PATIENCE)
    assert signal.getsignal(signal.SIGTERM) is mine is not before


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from patchify.client import Config, FileInstaller
from patchify.client.trial import Trial
installer = FileInstaller(Path(sys.argv[1]))
trial = Trial(Config(version="2.0.0", api="https://x", key={key!r}), installer, lambda: None)
trial.listen()
print(os.getpid(), flush=True)
while True:
    signal.pause()
"""


@posix
def test_a_program_without_a_handler_is_ended_by_the_signal_as_ever(key, tmp_path):
    (tmp_path / "app").write_bytes(b"two")
    installer = FileInstaller(tmp_path / "app")
    with installer.lock():
        pass
    source = KILLED.format(root=str(ROOT), key=key.verifying_key.to_hex())
    with subprocess.Popen(
        [sys.executable, "-c", source, tmp_path / "app"], stdout=subprocess.PIPE, text=True
    ) as process:
        pid = int(process.stdout.readline())
        process.terminate()
        assert process.wait(PATIENCE) == -signal.SIGTERM
    assert installer.ended(pid) == "SIGTERM"
    assert installer.ended(pid + 1) == ""

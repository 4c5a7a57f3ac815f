"""A launcher in this process, with real programs as its children, and disks that fail."""

import errno
import json
import os
import signal
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from patchify import signals
from patchify.client import child, launcher, supply, watch
from patchify.client.config import Config
from patchify.client.file_installer import FileInstaller
from patchify.client.launcher import Launcher
from patchify.client.plan import Plan
from patchify.client.state import MAX_INTERRUPTIONS, Bad, Phase, State
from patchify.client.supply import Supply, launch_of, running_version
from patchify.errors import (
    InvalidSignatureError,
    ServerBusyError,
    UnableToSwapError,
    UnableToWriteStateError,
)
from patchify.keys import SigningKey
from patchify.reports import Event
from patchify.versions import parse_version
from tests.client.fakes import FakeTransport
from tests.client.offering import document, offered, withdrawn
from tests.client.test_commands import release
from tests.conftest import KEY
from tests.running import wait_until

pytestmark = pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="the launcher needs it")

PUBLIC = SigningKey.from_hex(KEY).verifying_key.to_hex()
CLOSED = "http://127.0.0.1:9/"  # where nobody listens


def program(name: str, does: str = "exit 0") -> bytes:
    return f'#!/bin/sh\necho {name} >> "$(dirname "$0")/said"\n{does}\n'.encode()


class Place:
    def __init__(self, folder: Path):
        self.folder = folder
        self.app = folder / "app"
        self.install("1.0.0")
        self.installer = FileInstaller(self.app)
        self.config = Config(
            version="1.0.0",
            api=CLOSED,
            key=PUBLIC,
            check_interval=timedelta(hours=1),
            automatic="stage",
            executable=self.app,
            trial_period=timedelta(seconds=0.2),
            trial_timeout=timedelta(seconds=20),
            trial_tries=0,
            guardian=False,
            retries=0,
        )

    def install(self, name: str, does: str = "exit 0") -> None:
        self.app.write_bytes(program(name, does))
        self.app.chmod(0o755)

    def stage(self, version: str, data: bytes):
        new = release(version, data)
        with self.installer.lock(10):
            part = self.installer.part(new.sha256)
            part.write(data)
            self.installer.stage(new.version, part, new.sha256)
            part.close()
            self.installer.prepare(new, self.config.current)
        return new

    def plan(self, **options) -> Plan:
        return Plan(**{"command": (str(self.app),), "config": self.config, "stop_timeout": 2.0, **options})

    def run(self, **options) -> int:
        return os.waitstatus_to_exitcode(Launcher(self.plan(**options)).run())

    def said(self) -> list[str]:
        path = self.folder / "said"
        return path.read_text().split() if path.exists() else []

    def state(self) -> State:
        return self.installer.state()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "_PAUSE", 0.01)
    monkeypatch.setattr(launcher, "_LOCK_PATIENCE", 0.2)
    monkeypatch.setattr(watch, "_ATTEMPTS", 2)
    before = (
        signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        [signal.getsignal(n) for n in sorted(signal.valid_signals())],
    )
    yield Place(tmp_path)
    after = (
        signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        [signal.getsignal(n) for n in sorted(signal.valid_signals())],
    )
    assert before == after


@pytest.fixture
def heard():
    heard = []

    def hear_good(sender, version):
        heard.append(("confirmed", str(version)))

    def hear_bad(sender, version, sha256, reason):
        heard.append(("rolled back", str(version), sha256, reason))

    with signals.update_confirmed.connected_to(hear_good), signals.rolled_back.connected_to(hear_bad):
        yield heard


# Trials ---------------------------------------------------------------------------------------------------------------


def test_what_waits_is_put_in_place_before_the_program_is_started_and_confirmed_in_time(place, heard):
    new = place.stage("2.0.0", program("2.0.0", "sleep 1; exit 4"))
    assert place.run() == 4
    assert place.said() == ["2.0.0"]
    assert place.state().good == new
    assert heard == [("confirmed", "2.0.0")]


def test_a_version_that_fails_is_told_of_once_and_the_status_is_that_of_the_one_before(place, heard):
    place.install("1.0.0", "exit 6")
    new = place.stage("2.0.0", program("2.0.0", "exit 1"))
    assert place.run() == 6
    assert place.run() == 6
    assert place.said() == ["2.0.0", "1.0.0", "1.0.0"]
    assert heard == [("rolled back", "2.0.0", new.sha256, "ended with exit status 1")]
    assert place.state().untold is None


def test_what_becomes_of_a_release_is_reported_if_that_is_wanted(place):
    queued = place.installer.folder / "reports.jsonl"
    place.stage("2.0.0", program("2.0.0", "exit 1"))
    assert place.run() == 0
    assert not queued.exists()
    place.config = replace(place.config, reports=True, appname="app")
    place.stage("3.0.0", program("3.0.0", "exit 1"))
    assert place.run() == 0
    place.stage("4.0.0", program("4.0.0", "sleep 1; exit 0"))
    assert place.run() == 0
    told = [json.loads(line) for line in queued.read_text().splitlines()]
    found = [(each["event"], each["release"], each["reason"]) for each in told if each["event"] != "checked"]
    assert found == [("rolled-back", "3.0.0", "ended with exit status 1"), ("running", "4.0.0", "")]


@pytest.mark.parametrize("tries", [0, 1, 3])
def test_a_version_is_tried_as_often_as_told(place, tries):
    place.config = replace(place.config, trial_tries=tries)
    place.stage("2.0.0", program("2.0.0", "exit 1"))
    assert place.run() == 0
    assert place.said() == ["2.0.0"] * (tries + 1) + ["1.0.0"]


def test_a_version_that_may_not_be_tried_again_is_not_the_moment_of_another(place):
    place.stage("2.0.0", program("2.0.0", "exit 1"))
    assert place.run(restart="on-signal") == 0
    assert place.said() == ["1.0.0"]
    assert place.state().update.phase is Phase.STAGED


def test_what_was_taken_back_while_no_launcher_ran_is_told_by_one_that_updates(place, heard):
    bad = Bad(release("2.0.0", b"bad"), "was bad", datetime(2024, 5, 6, tzinfo=UTC))
    with place.installer.lock():
        place.installer.save(State(untold=bad))
    assert place.run(config=None) == 0
    assert (heard, place.state().untold) == ([], bad)  # the program itself will tell
    assert place.run() == 0
    assert heard == [("rolled back", "2.0.0", bad.release.sha256, "was bad")]
    assert place.state().untold is None


def test_interrupted_trials_are_counted_whatever_has_ended_them(place):
    new = place.stage("2.0.0", program("2.0.0"))
    for times in range(MAX_INTERRUPTIONS + 1):
        with place.installer.lock():  # a launcher that was killed just then
            place.installer.swap(place.state().update, 0)
        assert place.run(config=None) == 0
        assert place.state().update is None or place.state().update.interruptions == times + 1
    assert place.said() == ["1.0.0"] * (MAX_INTERRUPTIONS + 1)
    assert place.state().quarantined(new.sha256)


def test_a_version_whose_predecessor_is_damaged_stays_and_its_status_is_told(place, caplog):
    place.stage("2.0.0", program("2.0.0", "exit 5"))
    previous = place.installer.previous_path(place.installer.installed())
    previous.unlink()  # it is a link to the program as well
    previous.write_text("damaged")
    assert place.run() == 5
    assert place.said() == ["2.0.0"]
    assert "version 2.0.0 ended with exit status 5, and cannot be taken back" in caplog.text
    assert place.run() == 5  # and at the next start it is not taken for another one


def test_a_swap_that_fails_lets_the_old_version_run_and_is_not_made_again(place, monkeypatch, caplog):
    calls = []

    def fail(*_):
        calls.append(1)
        raise UnableToSwapError(place.app, OSError(errno.EROFS, "Read-only file system"))

    monkeypatch.setattr(FileInstaller, "_place", fail)
    place.install("1.0.0", "sleep 0.7")
    place.stage("2.0.0", program("2.0.0"))
    assert place.run(restart="at-once") == 0
    assert place.said() == ["1.0.0"]
    assert len(calls) == 1
    assert "Read-only file system" in caplog.text


def test_a_swap_that_fails_while_the_program_runs_starts_it_again_once(place, monkeypatch):
    def fail(*_):
        raise UnableToSwapError(place.app, OSError(errno.EROFS, "Read-only file system"))

    monkeypatch.setattr(FileInstaller, "_place", fail)
    place.install("1.0.0", "[ $(wc -l < $(dirname $0)/said) = 2 ] && sleep 1.2 && exit 3; exec sleep 30")
    in_the_middle(place, lambda: place.stage("2.0.0", program("2.0.0")))
    assert place.run(restart="at-once") == 3
    assert place.said() == ["1.0.0", "1.0.0"]
    place.thread.join()


def in_the_middle(place, act) -> None:
    """Let ``act`` be called by another thread once the program has said something."""

    def wait():
        wait_until(place.said, "the start")
        act()

    place.thread = threading.Thread(target=wait)
    place.thread.start()


def test_a_locked_installation_is_left_alone_and_the_program_runs(place, caplog):
    place.stage("2.0.0", program("2.0.0"))
    with FileInstaller(place.app).lock():
        assert place.run() == 0
    assert place.said() == ["1.0.0"]
    assert "another process is updating" in caplog.text


def test_a_report_that_cannot_be_written_is_no_reason_to_end(place, monkeypatch, caplog):
    def fail(*_):
        raise UnableToWriteStateError(place.installer.state_path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(FileInstaller, "report", fail)
    place.stage("2.0.0", program("2.0.0", "exit 9"))
    assert place.run() == 0
    assert place.said() == ["2.0.0", "1.0.0"]
    assert "No space left on device" in caplog.text


def test_a_confirmation_that_cannot_be_written_counts_as_an_interruption(place, monkeypatch):
    def fail(*_):
        raise UnableToWriteStateError(place.installer.state_path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(FileInstaller, "confirm", fail)
    place.stage("2.0.0", program("2.0.0"))
    assert place.run(confirm_on_success=True) == 0
    assert place.state().update.interruptions == 1


def test_an_updater_in_the_program_that_ends_it_for_its_successor_is_followed(place, tmp_path):
    """As `exit_restart` does, whose successor somebody else has to start."""
    swap = (
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from pathlib import Path\n"
        "from patchify.client.file_installer import FileInstaller\n"
        f"installer = FileInstaller(Path({str(place.app)!r}))\n"
        "with installer.lock(): installer.swap(installer.state().update, 0)\n"
    )
    (tmp_path / "swap.py").write_text(swap)
    place.install("1.0.0", f"{sys.executable} {tmp_path}/swap.py; kill $$; sleep 9")
    place.stage("2.0.0", program("2.0.0", "exit 0"))
    assert place.run(config=None) == 0
    assert place.said() == ["1.0.0", "2.0.0"]
    assert place.state().update.interruptions == 1  # version 2 has ended by itself


# What the server says of a release that waits -------------------------------------------------------------------------


class Server:
    """Answers what a launcher asks before it puts in place what is ready."""

    def __init__(self, place: Place, monkeypatch):
        self.place = place
        self.transport, self.post = (FakeTransport(SigningKey.from_hex(KEY), {}) for _ in range(2))
        self.asked_with = []
        monkeypatch.setattr(supply, "Transport", self._transport)
        place.config = replace(place.config, appname="app", platform="linux-x86_64")

    def _transport(self, config, pause):
        assert not pause(0)
        if config.document_timeout != 5:
            return self.post  # for reports
        self.asked_with.append(config)
        return self.transport

    @property
    def asked(self) -> int:
        return len(self.transport.asked)

    def say(self, *releases, withdrawn=()) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        times = {"serial": int(now.timestamp() * 1000), "issued": now, "expires": now + timedelta(days=1)}
        self.transport.document = document(*releases, withdrawn=withdrawn, **times)

    def teach(self) -> None:
        """Let the installation have accepted an update document before."""
        self.place.installer.remember(lambda before: replace(before, taught=True))


@pytest.fixture
def server(place, monkeypatch):
    return Server(place, monkeypatch)


@pytest.fixture
def new(place, server, request):
    """Make version 2 ready, which the program has heard of by an update document."""
    if does := getattr(request, "param", ""):
        place.install("1.0.0", does)
    new = place.stage("2.0.0", program("2.0.0", "sleep 1; exit 4"))
    server.teach()
    return new


def test_what_was_withdrawn_while_it_waited_is_dropped_at_the_start(place, server, new, caplog):
    server.say(withdrawn=(withdrawn("2.0.0", new.sha256),))
    assert place.run() == 0
    assert place.said() == ["1.0.0"]
    assert place.state().update is None
    assert not place.installer.staged_path(new.sha256).exists()
    assert "not offered now" not in caplog.text
    assert "version 2.0.0, which was ready, was withdrawn and is dropped" in caplog.text
    assert server.asked == 1


def test_what_is_still_offered_is_put_in_place_and_the_server_was_asked_for_seconds_only(place, server, new):
    server.say(offered("2.0.0", new.sha256))
    assert place.run() == 4
    assert place.state().good == new
    assert server.asked == 1
    (config,) = server.asked_with
    assert (config.connect_timeout, config.idle_timeout, config.retries) == (3, 3, 0)
    assert server.transport.closed


ORDERS = "kill -USR2 $PPID; sleep 1.5; echo on >> $(dirname $0)/said"
SECOND_STOPS = "[ $(wc -l < $(dirname $0)/said) = 1 ] && exit; sleep 1.2; kill -TERM $PPID; exec sleep 9"


@pytest.mark.parametrize("new", [SECOND_STOPS], indirect=True)
def test_what_is_not_offered_now_waits_and_is_not_asked_for_again_at_once(place, server, new, caplog):
    place.config = replace(place.config, least_interval=timedelta())
    server.say()
    assert place.run(restart="at-once", keep_running=True) == -signal.SIGTERM
    assert place.said() == ["1.0.0", "1.0.0"]
    assert place.state().update.phase is Phase.STAGED
    assert caplog.text.count("version 2.0.0 is ready but not offered now") == 1
    assert server.asked == 1


@pytest.mark.parametrize("new", [ORDERS], indirect=True)
def test_an_order_that_cannot_be_followed_now_is_answered_once(place, server, new, caplog):
    place.config = replace(place.config, least_interval=timedelta())
    server.say()
    assert place.run(restart="on-signal") == 0
    assert place.said() == ["1.0.0", "on"]
    assert caplog.text.count("version 2.0.0 is ready but not offered now") == 1
    assert server.asked == 1


@pytest.mark.parametrize("new", [ORDERS], indirect=True)
def test_while_the_program_runs_the_server_is_asked_before_it_is_ended(place, server, new, caplog):
    place.config = replace(place.config, least_interval=timedelta())
    server.say(withdrawn=(withdrawn("2.0.0", new.sha256),))
    assert place.run(restart="on-signal") == 0
    assert place.said() == ["1.0.0", "on"]
    assert "version 2.0.0, which was ready, was withdrawn and is dropped" in caplog.text
    assert place.state().update is None


def test_without_an_answer_what_is_ready_is_put_in_place(place, server, new, caplog):
    server.say()
    server.transport.always["update"] = ServerBusyError("https://updates.example.com/", 503, 60.0)
    assert place.run() == 4
    assert place.state().good == new
    assert "it is not known whether it was withdrawn" in caplog.text
    assert place.installer.memory().retry_at


def test_an_answer_that_is_not_to_be_believed_leaves_what_is_ready_for_another_time(place, server, new, caplog):
    server.say()
    server.transport.always["update"] = InvalidSignatureError("https://updates.example.com/", "none")
    assert place.run() == 0
    assert place.said() == ["1.0.0"]
    assert place.state().update.release == new
    assert "version 2.0.0 is not put in place now" in caplog.text
    assert "malformed signature" in place.state().error


def test_a_server_that_was_asked_a_moment_ago_is_not_asked_again(place, server, new):
    server.say()
    place.installer.note("")
    assert place.run() == 4
    assert server.asked == 0


@pytest.mark.parametrize(("documents", "times"), [("auto", 0), ("never", 0), ("required", 1)])
def test_a_server_without_update_documents_is_not_asked(place, server, documents, times):
    new = place.stage("2.0.0", program("2.0.0", "sleep 1; exit 4"))
    server.say(offered("2.0.0", new.sha256))
    place.config = replace(place.config, update_documents=documents)
    if documents == "never":
        server.teach()
    assert place.run() == 4
    assert server.asked == times
    assert "latest" not in server.transport.calls


def test_a_version_that_the_program_is_now_kept_from_is_dropped(place, server, new, caplog):
    place.config = replace(place.config, pin="<2.0.0")
    assert place.run() == 0
    assert place.said() == ["1.0.0"]
    assert place.state().update is None
    assert "version 2.0.0, which was ready, is not wanted any more" in caplog.text
    assert server.asked == 0


def test_what_was_held_back_is_judged_anew_after_the_interval_and_not_before(place, server, new, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(supply.time, "monotonic", lambda: now[0])
    brings = Supply(place.plan(), place.config, child.Ears(takes_usr2=False))
    update = place.state().update
    with place.installer.lock():
        server.say()
        assert not brings.allows(place.installer, update)
        assert brings.holds(new)
        assert not brings.holds(replace(new, sha256="00" * 32))
        now[0] += 3601
        assert not brings.holds(new)
        assert not brings.allows(place.installer, update)  # the server was asked a moment ago, as it is
        assert server.asked == 1
        place.installer.save(replace(place.state(), checked=None, error="no route"))
        server.say(offered("2.0.0", new.sha256))
        assert brings.allows(place.installer, update)
        assert not brings.holds(new)
    assert place.state().error == ""
    brings.close()


def test_the_way_back_is_judged_by_the_version_that_runs_now(place, server):
    before = place.config
    place.config = replace(before, version="2.0.0")
    place.stage("1.0.0", program("1.0.0 again"))
    brings = Supply(place.plan(config=before), replace(before, allow_downgrade=True), child.Ears(takes_usr2=False))
    with place.installer.lock():
        assert brings.allows(place.installer, place.state().update)
    brings.close()


def test_what_became_of_a_release_is_sent_at_once(place, server):
    place.stage("2.0.0", program("2.0.0"))
    brings = Supply(place.plan(), replace(place.config, reports=True), child.Ears(takes_usr2=False))
    brings.tell(Event.RUNNING, parse_version("2.0.0"))
    (batch,) = wait_until(lambda: server.post.reports, "the report")
    assert [each["event"] for each in batch["reports"]] == ["running"]
    brings.close()


def test_a_supply_looks_for_the_version_that_runs_now(place, monkeypatch):
    asked_for = []

    class Updater:
        def __init__(self, config, *, installer, launch):
            self.config = config

        def tick(self):
            asked_for.append(str(self.config.current))
            return 7.0

        def close(self):
            asked_for.append("closed")

    monkeypatch.setattr(supply, "Updater", Updater)
    brings = Supply(place.plan(), place.config, child.Ears(takes_usr2=False))
    assert [brings._look(), brings._look()] == [7.0, 7.0]
    new = place.stage("2.0.0", program("2.0.0"))
    with place.installer.lock():
        place.installer.swap(place.state().update, 0)
        place.installer.confirm()
    assert brings._look() == 7.0
    assert asked_for == ["1.0.0", "1.0.0", "closed", str(new.version)]
    brings.close()


# Signals --------------------------------------------------------------------------------------------------------------


def test_a_signal_before_the_program_is_started_ends_the_launcher(place, monkeypatch):
    start = child.Ears.__enter__

    def enter(ears):
        start(ears)
        ears._take(signal.SIGTERM)
        return ears

    monkeypatch.setattr(child.Ears, "__enter__", enter)
    assert place.run() == -signal.SIGTERM
    assert place.said() == []


def test_a_sigint_explains_an_end_for_a_while_and_a_sigterm_for_ever(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(child.time, "monotonic", lambda: now[0])
    ears = child.Ears(takes_usr2=True)
    assert (ears.asked, ears.asked_name) == (0, "")
    ears._take(signal.SIGINT)
    ears._take(signal.SIGUSR2)
    assert (ears.asked_name, ears.wanted) == ("SIGINT", True)
    now[0] += 31
    assert ears.asked_name == ""
    ears._take(signal.SIGTERM)
    ears._take(signal.SIGINT)
    now[0] += 1000
    assert ears.asked_name == "SIGTERM"


def test_an_ignored_signal_is_ignored_by_the_program_too(place):
    place.install("1.0.0", "kill -HUP $$; echo survived >> $(dirname $0)/said")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert place.run() == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert place.said() == ["1.0.0", "survived"]


def test_a_stop_during_the_pause_before_a_new_start_is_heard(place, monkeypatch):
    monkeypatch.setattr(launcher, "_PAUSE", 60)
    place.install("1.0.0", f"(sleep 1.5; kill -TERM {os.getpid()}) & exit 3")
    assert place.run(keep_running=True) == -signal.SIGTERM
    assert place.said() == ["1.0.0"]


def test_an_interpreter_that_is_gone_is_not_the_fault_of_the_version_on_trial(place, tmp_path, caplog):
    new = place.stage("2.0.0", program("2.0.0"))
    command = (str(tmp_path / "interpreter"), str(place.app))
    for _ in range(MAX_INTERRUPTIONS + 2):
        with pytest.raises(FileNotFoundError):
            place.run(command=command, program=place.app)
    assert caplog.text.count("2.0.0 cannot be started") == MAX_INTERRUPTIONS + 2
    update = place.state().update
    assert (update.phase, update.failures, update.interruptions) == (Phase.STAGED, 0, 0)
    (tmp_path / "interpreter").symlink_to("/bin/sh")
    assert place.run(command=command, program=place.app, confirm_on_success=True) == 0
    assert place.state().good == new


# What is run ----------------------------------------------------------------------------------------------------------


def test_a_program_that_cannot_be_started_is_an_error_of_the_system(place):
    place.app.write_bytes(b"\x7fELF")
    with pytest.raises(OSError, match="Exec format error"):
        place.run()
    place.app.unlink()
    with pytest.raises(FileNotFoundError):
        place.run()


def test_a_program_that_is_being_written_by_another_process_is_waited_for(place):
    with place.app.open("ab"), pytest.raises(OSError, match="Text file busy"):
        place.run()
    assert place.run() == 0


def test_the_program_is_the_first_word_as_a_shell_finds_it(tmp_path, monkeypatch):
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Plan(command=("tool",)).target == tmp_path / "tool"
    assert Plan(command=("missing",)).executable == "missing"
    monkeypatch.chdir(tmp_path)
    assert Plan(command=("./tool",)).target == tmp_path / "tool"
    assert Plan(command=("tool",), program=Path("other")).target == tmp_path / "other"


def test_the_smoke_test_knows_which_word_is_the_program(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new = release("2.0.0", b"two")
    staged = str(place.installer.staged_path(new.sha256))
    for command, expected in (
        (("./app", "x"), (staged, "--version")),
        (("/bin/sh", "-e", "./app", "x"), ("/bin/sh", "-e", staged, "--version")),
        (("/bin/sh", "-c", "exec ./app"), (staged, "--version")),
    ):
        launch = launch_of(Plan(command=command, program=place.app))
        assert place.installer.trial_launch(launch, new, ("--version",)) == expected


def test_the_version_is_known_by_the_hash_alone(place):
    assert running_version(place.installer) is None
    new = place.stage("2.0.0", program("2.0.0"))
    assert str(running_version(place.installer)) == "1.0.0"
    with place.installer.lock():
        place.installer.swap(place.state().update, 0)
    assert running_version(place.installer) == new.version
    place.install("of somebody else")
    assert running_version(place.installer) is None

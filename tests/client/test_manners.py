"""When a server is asked unasked: what one process remembers for the next, beside a program that is real."""

from datetime import UTC, datetime, timedelta

import pytest

from patchify.client import Config
from patchify.client.file_installer import FileInstaller
from patchify.client.manners import Manners
from patchify.client.state import State
from patchify.errors import (
    DeadlineExceededError,
    HttpError,
    ServerBusyError,
    UnableToReadFileError,
    UnableToWriteStateError,
)

URL = "https://updates.example.com/"


@pytest.fixture
def installer(tmp_path):
    program = tmp_path / "app"
    program.write_bytes(b"one")
    return FileInstaller(program)


@pytest.fixture
def manners(key, installer):
    """The manners of a process; called, those of the next one."""
    config = Config(
        version="1.0.0",
        api=URL,
        key=key.verifying_key,
        check_interval=timedelta(minutes=10),
        least_interval=timedelta(minutes=1),
    )
    return lambda: Manners(config, FileInstaller(installer.path))


def test_a_process_that_dies_before_it_has_an_answer_has_asked(manners):
    assert manners().may_ask()
    assert not manners().may_ask()


def test_what_went_wrong_the_last_time_is_known_until_there_is_an_answer(manners, installer):
    with installer.lock():
        installer.save(State(error="no network", checked=datetime(2026, 1, 1, tzinfo=UTC)))
    assert manners().may_ask()
    assert installer.state().error == "no network"
    assert installer.state().checked > datetime(2026, 1, 1, tzinfo=UTC)


def test_where_it_cannot_be_remembered_the_server_is_asked_all_the_same(manners, monkeypatch):
    def fail(installer, state):
        raise UnableToWriteStateError(installer.state_path, "No space left on device")

    monkeypatch.setattr(FileInstaller, "save", fail)
    assert manners().may_ask()


def test_after_a_success_the_wait_begins_anew(manners):
    mine = manners()
    assert [mine.failed(ZeroDivisionError()) for _ in range(2)] == [600, 1200]
    mine.went_well()
    assert mine.failed(ZeroDivisionError()) == 600


@pytest.mark.parametrize("heard", [Manners.keep_quiet, Manners.failed])
def test_a_server_that_wants_to_be_left_alone_is_by_all_that_ask_unasked(manners, installer, heard):
    first = manners()
    assert first.may_ask()
    heard(first, ServerBusyError(URL, 429, 7200))
    assert not first.may_ask()
    assert not manners().may_ask()
    wait = installer.memory().retry_at - datetime.now(UTC)
    assert timedelta(hours=1) < wait <= timedelta(hours=2)


def test_who_waits_for_longer_than_the_server_asks_for_waits_no_less(manners):
    assert [manners().failed(ServerBusyError(URL, 503, seconds)) for seconds in (60, 7200)] == [600, 7200]


@pytest.mark.parametrize("error", [HttpError(URL, 404), DeadlineExceededError(URL, "slow"), ZeroDivisionError()])
def test_who_does_not_ask_for_quiet_gets_none(manners, installer, error):
    manners().keep_quiet(error)
    assert installer.memory().retry_at is None


def test_a_wish_that_cannot_be_remembered_harms_nobody(manners, monkeypatch):
    def fail(*_):
        raise UnableToReadFileError("memory.json", "Input/output error")

    monkeypatch.setattr(FileInstaller, "memory", fail)
    manners().keep_quiet(ServerBusyError(URL, 503, 60))

"""Whole installations, recoveries, returns: as often as they have file operations, another one failing each time.

Whatever fails, there is a whole program at the path, the error is ours, and what was to be done can be done later.
"""

import contextlib
import errno
import os

import pytest
from semver import Version

from patchify.client.state import Phase, State
from patchify.errors import FileOperationError
from tests.client.faults import ERRORS, disk
from tests.client.installations import KINDS, Installation, archive

TWO = Version(2)
EVERY_ERROR = pytest.mark.parametrize(
    "number",
    [pytest.param(number, id=name, marks=[pytest.mark.slow] * (name != "EIO")) for name, number in ERRORS.items()],
)


def nothing(made) -> None:
    pass


def locked(step):
    def act(made) -> None:
        with made.installer.lock():
            step(made)

    return act


def ordered(made) -> None:
    """Be where a crash between the order and the swap leads to."""
    made.prepare()
    made.installer.save(made.installer.state().armed(1))


def returning(made) -> None:
    """Be where a crash between a failure and the return leads to."""
    made.swap()
    made.installer.save(made.installer.state().returning("was killed", failed=True))


def confirmed_and_waiting(made) -> None:
    made.confirm()
    made.prepare(3, TWO)


def recover(made) -> None:
    made.installer.recover()


def give_back(made) -> None:
    made.installer.give_back("was killed", failed=True)


STORIES = {  # what was done before, what is disturbed, and what the program may be if that fails
    "installing": (nothing, Installation.swap, {1}),
    "installing the next one": (Installation.confirm, lambda made: made.swap(3, running=TWO), {2}),
    "recovering what waits": (Installation.prepare, recover, {1}),
    "recovering what was ordered": (ordered, recover, {1}),
    "recovering what is on trial": (Installation.swap, recover, {2}),
    "recovering what returns": (returning, recover, {1, 2}),
    "giving back": (Installation.swap, give_back, {1, 2}),
    "confirming": (Installation.swap, lambda made: made.installer.confirm(), {2}),
    "recalling": (Installation.confirm, lambda made: made.installer.recall(), {1, 2}),
    "recalling while one waits": (confirmed_and_waiting, lambda made: made.installer.recall(), {1, 2}),
    "condemning": (Installation.prepare, lambda made: made.installer.quarantine(made.release(2), "was bad"), {1}),
}


def refuse(*_, **__):
    raise PermissionError(errno.EPERM, "Operation not permitted")


def goes_on(made, name) -> None:
    """Check that a later process gets along with what is there, and that nothing is left over in the end."""
    made.installer = made.another()
    with made.installer.lock():
        state = made.installer.recover()
        assert made.installer.recover() == state == made.installer.state(), name
        assert state.update is None or state.update.phase is not Phase.RETURNING, name
        before = made.looks_like
        if state.on_trial:
            made.installer.give_back("was killed", failed=False)
            before = made.looks_like
        made.confirm(5, Version(before))
        assert made.looks_like == 5, name
        assert made.installer.recall().version == Version(before), name
        assert made.looks_like == before, name
        assert "5.0.0" in str(made.installer.state().bad[-1].release.version)
    left = {each for each in made.names() if not each.startswith(("previous-", "versions"))}
    assert left - {"state.json.unusable"} == {"lock", "state.json"}, name


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let nothing wait for the disk: no power is cut here. The releases are packed before anything is disturbed."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for number in (2, 3, 5):
        archive(number)


@pytest.mark.parametrize("kind", [*KINDS, "file without hard links"])
@EVERY_ERROR
@pytest.mark.parametrize(("before", "act", "programs"), STORIES.values(), ids=STORIES.keys())
def test_whatever_fails_is_our_error_harms_nothing_and_is_got_over(
    in_memory, before, act, programs, number, kind, monkeypatch
):
    if kind == "file without hard links":
        monkeypatch.setattr(os, "link", refuse)
    kind = kind.split()[0]
    before, act = locked(before), locked(act)
    for place in ("first", "counted"):  # the first does what is done only once in a process, such as late imports
        made = Installation(in_memory / place, kind)
        before(made)
        with disk() as steps:
            act(made)
    after = made.looks_like
    raised = 0
    for step, name in enumerate(steps):
        made = Installation(in_memory / str(step), kind)
        before(made)
        error = None
        with disk(step, number) as done:
            try:
                act(made)
            except FileOperationError as caught:
                error = caught
        assert len(done) > step
        if error:
            raised += 1
            assert error.errno == number, name
            assert made.looks_like in programs, name
        else:
            assert made.looks_like in {*programs, after}, name
        goes_on(made, f"{step}: {name}")
    assert 0 < raised < len(steps)  # some failures do no harm: those of what is only tidied up


@pytest.mark.parametrize("kind", KINDS)
@EVERY_ERROR
def test_a_program_is_there_at_every_step_of_an_installation_that_fails_twice(in_memory, number, kind):
    def install(made) -> None:
        with made.installer.lock():
            if made.installer.recover().on_trial is None:
                made.swap()

    for place in ("first", "counted"):
        made = Installation(in_memory / place, kind)
        with disk() as steps:
            install(made)
    for first in range(len(steps)):
        made = Installation(in_memory / str(first), kind)
        for step in (first, first // 2):  # the next attempt fails as well
            with contextlib.suppress(FileOperationError), disk(step, number):
                install(made)
            assert made.looks_like in (1, 2)
        made.installer = made.another()
        install(made)
        assert made.looks_like == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_with_a_disk_that_takes_no_byte_more_the_old_program_comes_back(in_memory, number, kind):
    made = Installation(in_memory / "place", kind)
    with made.installer.lock():
        made.swap()
        with disk(number=number, always="write"), pytest.raises(FileOperationError) as caught:
            give_back(made)
        assert caught.value.errno == number
        assert made.looks_like == 1
        assert made.installer.recover() != State()
    goes_on(made, "write")

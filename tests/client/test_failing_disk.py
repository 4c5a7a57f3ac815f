"""A whole installation, recovery and undo, as often as they have file operations, another one failing each time."""

import contextlib
import errno
import hashlib
import os
import stat

import pytest
from semver import Version

from patchify.client.installer import FileInstaller
from patchify.client.state import Staged
from patchify.errors import FileOperationError
from tests.client.faults import ERRORS, disk

TWO = Version(2)
OLD, NEW = b"one" * 100, b"two" * 500
SHA256 = hashlib.sha256(NEW).hexdigest()
KEPT = ["lock", "previous", "state.json"]


def ignore(done):
    pass


def program_at(folder):
    folder.mkdir()
    program = folder / "app"
    program.write_bytes(OLD)
    program.chmod(0o755)
    return program, FileInstaller(program)


def nothing(installer):
    pass


def prepare(installer) -> Staged:
    if not installer.is_staged(SHA256):
        part = installer.part(SHA256)
        try:
            part.take_up(ignore)
            part.write(NEW[part.size :])
            installer.stage(TWO, part, SHA256)
        finally:
            part.close()
    return installer.prepare(TWO, SHA256)


def wait(installer) -> Staged:
    with installer.lock():
        return prepare(installer)


def install(installer) -> Staged:
    with installer.lock():
        installer.recover()
        if installer.installed() == SHA256:
            return Staged(TWO, SHA256, SHA256)
        staged = prepare(installer)
        installer.swap(staged)
        return staged


def recover(installer, _):
    with installer.lock():
        installer.recover()


def undo(installer, staged):
    with installer.lock():
        installer.undo(staged)


STORIES = {  # what was done before, what is disturbed, and what the program may be if that fails
    "installing": (nothing, lambda installer, _: install(installer), {OLD}),
    "recovering": (wait, recover, {OLD}),
    "undoing": (install, undo, {OLD, NEW}),
}


def refuse(*_, **__):
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.fixture(params=[True, False], ids=["with hard links", "without hard links"])
def links(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("number", ERRORS.values(), ids=ERRORS.keys())
@pytest.mark.parametrize(("before", "act", "programs"), STORIES.values(), ids=STORIES.keys())
def test_whatever_fails_is_our_error_harms_nothing_and_is_got_over(tmp_path, before, act, programs, number):
    _, installer = program_at(tmp_path / "counted")
    fact = before(installer)
    with disk() as steps:
        act(installer, fact)
    raised = 0
    for step, name in enumerate(steps):
        program, installer = program_at(tmp_path / str(step))
        fact = before(installer)
        error = None
        with disk(step, number):
            try:
                act(installer, fact)
            except FileOperationError as caught:
                error = caught
        if error:
            raised += 1
            assert error.errno == number, name
            assert program.read_bytes() in programs, name
        assert stat.S_IMODE(program.stat().st_mode) == 0o755, name
        install(installer)
        assert program.read_bytes() == NEW, name
        assert stat.S_IMODE(program.stat().st_mode) == 0o755, name
        assert sorted(os.listdir(installer.folder)) == KEPT, name
    assert 0 < raised < len(steps)  # some failures do no harm: those of what is only tidied up


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("number", ERRORS.values(), ids=ERRORS.keys())
def test_a_program_is_there_at_every_step_of_an_installation(tmp_path, number):
    _, installer = program_at(tmp_path / "counted")
    with disk() as steps:
        install(installer)
    for first in range(len(steps)):
        program, installer = program_at(tmp_path / str(first))
        for step in (first, first // 2):  # the next attempt fails as well
            with contextlib.suppress(FileOperationError), disk(step, number):
                install(installer)
            assert program.read_bytes() in (OLD, NEW)
            assert stat.S_IMODE(program.stat().st_mode) == 0o755
        install(installer)
        assert program.read_bytes() == NEW

"""One patch in a process of its own; where its limits are tested, that finds another module instead of hdiffpatch."""

import errno
import hashlib
import os
import random
import subprocess
import sys

import hdiffpatch
import pytest

from patchify.errors import FormGivenUpError, StorageUnavailableError
from patchify.publishing.background import command, environment
from patchify.publishing.patching import PatchEndedError, make_patch
from tests.running import PATIENCE

OLD = random.Random(1).randbytes(100_000)
NEW = OLD[:50_000] + b"two lines" + OLD[50_010:]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "old").write_bytes(OLD)
    (tmp_path / "new").write_bytes(NEW)
    return tmp_path / "old", tmp_path / "new", tmp_path / "patch"


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """Return a function that lets the process find another hdiffpatch, whose ``diff`` has this body."""

    def pretend(body):
        (tmp_path / "modules").mkdir()
        lines = ["def diff(old, new, *_, **__):", f"    {body}", "apply = lambda old, patch: patch"]
        (tmp_path / "modules" / "hdiffpatch.py").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(tmp_path / "modules")

    return pretend


def test_a_patch_makes_the_new_file_of_the_old_one(files):
    made = make_patch(*files, PATIENCE)
    patch = files[2].read_bytes()
    assert hdiffpatch.apply(OLD, patch) == NEW
    assert (made.size, made.sha256) == (len(patch), hashlib.sha256(patch).hexdigest())
    assert (made.old, made.new) == (hashlib.sha256(OLD).hexdigest(), hashlib.sha256(NEW).hexdigest())
    assert made.size < 100


def test_a_patch_that_takes_too_long_is_given_up(files, pretend):
    pretend("import time; time.sleep(3600)")
    with pytest.raises(FormGivenUpError, match="given up after 1 s"):
        make_patch(*files, 1)


def test_a_patch_that_takes_too_much_memory_is_given_up(files, pretend):
    pretend("return bytes(1024**3)")
    with pytest.raises(FormGivenUpError, match="took more memory than it may"):
        make_patch(*files, PATIENCE)


def test_a_patch_that_makes_something_else_is_given_up(files, pretend):
    pretend("return bytes(100_000)")  # more than what is packed in other ways
    with pytest.raises(FormGivenUpError, match="what it made was wrong"):
        make_patch(*files, PATIENCE)
    assert not files[2].exists()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise RuntimeError('out of order')", "RuntimeError: out of order"),
        ("import os; os._exit(0)", "its process failed"),
    ],
    ids=["raises", "says nothing"],
)
def test_a_patch_whose_process_fails_is_given_up(files, pretend, body, why):
    pretend(body)
    with pytest.raises(FormGivenUpError, match=why):
        make_patch(*files, PATIENCE)


def test_a_patch_whose_process_is_ended_by_somebody_else_is_not_given_up(files, pretend):
    pretend("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(PatchEndedError, match="ended by signal 9"):
        make_patch(*files, PATIENCE)


def test_a_file_that_cannot_be_read_or_written_is_no_reason_to_give_up(files, tmp_path):
    with pytest.raises(StorageUnavailableError) as raised:
        make_patch(tmp_path / "missing", files[1], files[2], PATIENCE)
    assert raised.value.errno == errno.ENOENT
    assert raised.value.path == str(tmp_path / "missing")
    with pytest.raises(StorageUnavailableError):
        make_patch(*files[:2], tmp_path / "missing" / "patch", PATIENCE)


def test_the_process_ends_with_whoever_started_it(files, pretend):
    pretend("import sys, time; print('at it', flush=True); time.sleep(3600)")
    process = subprocess.Popen(
        command("patchify.publishing.patching", *map(str, files)),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"at it\n"
        process.stdin.close()
        assert process.wait(PATIENCE) == 1


def test_a_process_finds_the_modules_of_this_one_and_none_of_the_folder_it_is_in(tmp_path):
    (tmp_path / "semver.py").write_text("raise RuntimeError")
    asked = [sys.executable, "-P", "-c", "import semver, patchify; print(patchify.__file__)"]
    found = subprocess.run(
        asked, env=environment(), cwd=tmp_path, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert os.path.samefile(found.stdout.strip(), sys.modules["patchify"].__file__)
    assert command("x")[1:] == ["-P", "-m", "x"]

import hashlib
import os
import stat
from io import FileIO

import pytest

from patchify import files
from patchify.files import BLOCK, hash_file, hash_path, write_durably


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_the_hash_is_that_of_all_bytes(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    told = []
    assert hash_path(path, told.append) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert told == sorted(set(told))
    assert told[-1:] == ([size] if size else [])


def test_a_file_is_hashed_from_its_beginning_wherever_it_stands(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"all of it")
    with FileIO(path) as file:
        file.seek(4)
        assert hash_file(file) == hashlib.sha256(b"all of it").hexdigest()


def test_a_file_is_replaced_whole_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "state"
    write_durably(path, b"old")
    path.chmod(0o644)
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["state"]


def test_the_file_is_durable_before_its_name_and_its_name_before_the_return(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("rename"), replace(*paths)))
    write_durably(tmp_path / "state", b"new")
    assert done == ["file", "rename", "folder"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch, step):
    path = tmp_path / "state"
    write_durably(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]


def test_what_is_reached_is_told(tmp_path):
    seen = []

    def reach(point):
        seen.append((point, (tmp_path / "state").exists()))

    files.write_durably(tmp_path / "state", b"new", reach)
    assert seen == [("state-written", False), ("state-synced", False), ("state-named", True)]


def test_an_interruption_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "state"
    write_durably(path, b"old")

    def interrupt(point):
        if point == "state-synced":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_durably(path, b"new", interrupt)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]


def test_a_draft_is_being_written_until_it_has_its_name_or_is_old(tmp_path):
    path, seen = tmp_path / "state", []

    def reach(point):
        (draft,) = tmp_path.glob(".state.*")
        seen.append([files.is_being_written(draft, *paths) for paths in ([tmp_path / "other", path], [path / "other"])])
        os.utime(draft, (0, 0))
        seen.append(files.is_being_written(draft, path))
        draft.unlink()
        seen.append(files.is_being_written(draft, path))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_durably(path, b"new", reach)
    assert seen == [[True, False], False, False]

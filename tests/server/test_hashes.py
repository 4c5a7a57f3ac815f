import errno
import json
import logging
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from patchify.server import hashes as hashes_module
from patchify.server.hashes import NAME, Hashes
from tests.running import PATIENCE

SHA, OTHER = "ab" * 32, "cd" * 32
SECOND = 1_000_000_000
CHANGED = 1_790_000_000 * SECOND + 1  # ns since 1970
IDENTITY = (1, 2, 3, CHANGED, CHANGED)
LATER = CHANGED + 10 * SECOND


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "app-1.0.0"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def memory(tmp_path, path):
    """Return the path of a memory that knows one file."""
    known = Hashes(tmp_path)
    known.add(path, IDENTITY, SHA, LATER)
    known.save()
    return tmp_path / NAME


def test_what_was_saved_is_known_later_and_only_of_the_same_file(tmp_path, path, memory):
    known = Hashes(tmp_path)
    assert known.get(path, IDENTITY) == SHA
    for place in range(5):
        other = tuple(each + (at == place) for at, each in enumerate(IDENTITY))
        assert known.get(path, other) is None
    assert known.get(tmp_path / "other", IDENTITY) is None
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600


def test_what_was_added_is_known_before_it_is_saved_and_replaces_what_was(tmp_path, path, memory):
    known = Hashes(tmp_path)
    known.add(path, IDENTITY, OTHER, LATER)
    assert known.get(path, IDENTITY) == OTHER
    assert Hashes(tmp_path).get(path, IDENTITY) == SHA
    known.save()
    assert Hashes(tmp_path).get(path, IDENTITY) == OTHER


@pytest.mark.parametrize(
    ("changed", "seconds", "kept"),
    [
        (CHANGED, 0.05, False),
        (CHANGED, 0.15, True),
        (CHANGED, -5, False),  # the clock was set back
        (CHANGED - 1, 0.15, False),  # such a file system knows whole seconds only
        (CHANGED - 1, 1.9, False),
        (CHANGED - 1, 2.1, True),
    ],
)
def test_a_file_that_was_only_just_written_is_not_remembered(tmp_path, path, changed, seconds, kept):
    known, identity = Hashes(tmp_path), (1, 2, 3, 4, changed)
    known.add(path, identity, SHA, changed + int(seconds * SECOND))
    assert known.get(path, identity) == (SHA if kept else None)


def test_what_others_wrote_meanwhile_stays(tmp_path, path):
    one, other = Hashes(tmp_path), Hashes(tmp_path)
    second = tmp_path / ".forms" / SHA
    second.parent.mkdir()
    second.write_bytes(b"")
    assert one.get(path, IDENTITY) is other.get(path, IDENTITY) is None  # both have read: there is nothing
    one.add(path, IDENTITY, SHA, LATER)
    one.save()
    other.add(second, IDENTITY, OTHER, LATER)
    other.save()
    late = Hashes(tmp_path)
    assert (late.get(path, IDENTITY), late.get(second, IDENTITY)) == (SHA, OTHER)
    assert other.get(path, IDENTITY) == SHA


def test_a_file_that_is_gone_is_forgotten(tmp_path, path, memory):
    path.unlink()
    known = Hashes(tmp_path)
    known.save()
    assert SHA in memory.read_text()
    known.save(tidy=True)
    assert SHA not in memory.read_text()
    assert known.get(path, IDENTITY) is None


def test_what_a_writer_that_crashed_has_left_is_removed_and_what_one_writes_now_is_not(tmp_path, memory):
    left, written, other = (tmp_path / f".{name}" for name in (f"{NAME}.left", f"{NAME}.written", "other.left"))
    for path in (left, written, other):
        path.write_bytes(b"{")
    for path in (left, other):
        os.utime(path, (1, 1))
    Hashes(tmp_path).save()
    assert left.exists()
    Hashes(tmp_path).save(tidy=True)
    assert [path.exists() for path in (left, written, other)] == [False, True, True]


def test_nothing_is_written_unless_there_is_something_new(tmp_path, memory, monkeypatch):
    monkeypatch.setattr(hashes_module, "write_durably", lambda *_: pytest.fail("it was written"))
    known = Hashes(tmp_path)
    known.save()
    known.save(tidy=True)
    Hashes(tmp_path / "nowhere").save(tidy=True)


def test_writers_at_the_same_time_leave_a_whole_file_that_knows_what_all_of_them_added_last(tmp_path):
    line = threading.Barrier(4)
    paths = [tmp_path / f"app-{number}.0.0" for number in range(4)]

    def work(path):
        path.write_bytes(b"")
        known = Hashes(tmp_path)
        for turn in range(5):
            line.wait(PATIENCE)
            known.add(path, (turn, *IDENTITY[1:]), SHA, LATER)
            known.save()
            json.loads((tmp_path / NAME).read_bytes())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, paths))
    late = Hashes(tmp_path)
    assert any(late.get(path, (4, *IDENTITY[1:])) for path in paths)  # the last whole one wins
    assert sorted(each.name for each in tmp_path.iterdir()) == [NAME, *(path.name for path in paths)]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-10])


def foreign(path):
    path.write_bytes(b'{"kind":"other","files":{}}')


def entry(*value):
    return lambda path: path.write_text(json.dumps({"kind": "patchify/hashes/1", "files": {"app-1.0.0": list(value)}}))


def folder(path):
    path.unlink()
    path.mkdir()


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def link_to_itself(path):
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    "spoil",
    [
        truncated,
        foreign,
        folder,
        fifo,
        link_to_itself,
        pytest.param(entry(SHA, 1, 2, 3, 4), id="too short an entry"),
        pytest.param(entry(SHA, 1, 2, "3", 4, 5), id="no number"),
        pytest.param(entry("ab", 1, 2, 3, 4, 5), id="no hash"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"\xff\xfe\x00"), id="no text"),
        pytest.param(lambda path: path.write_bytes(b"[" * 1_000_000), id="brackets"),
        pytest.param(lambda path: path.write_bytes(b"[]"), id="a list"),
        pytest.param(lambda path: os.truncate(path, 65 * 1024 * 1024), id="huge"),
    ],
)
def test_a_memory_that_cannot_be_used_is_told_of_once_and_written_anew(tmp_path, path, memory, caplog, spoil):
    spoil(memory)
    known = Hashes(tmp_path)
    assert known.get(path, IDENTITY) is None
    known.add(path, IDENTITY, SHA, LATER)
    known.save()
    known.save(tidy=True)
    (message,) = caplog.messages
    assert message.startswith(f"{memory} cannot be used (")
    assert caplog.records[0].levelno == logging.WARNING
    if spoil is not folder:  # which nothing but an administrator should remove
        assert Hashes(tmp_path).get(path, IDENTITY) == SHA


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_memory_that_cannot_be_written_is_told_of_once(tmp_path, path, monkeypatch, caplog, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(hashes_module, "write_durably", fail)
    known = Hashes(tmp_path)
    for _ in range(3):
        known.add(path, IDENTITY, SHA, LATER)
        known.save()
    assert known.get(path, IDENTITY) == SHA
    assert caplog.messages == [
        f"{tmp_path / NAME} cannot be written ({os.strerror(code)}): releases are hashed again at the next start"
    ]

import errno
import hashlib
import io
import os
import random
import resource
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from patchify.errors import (
    StorageUnavailableError,
    UploadBusyError,
    UploadDamagedError,
    UploadOffsetError,
    UploadTooLargeError,
)
from patchify.server import incoming
from patchify.server.incoming import BLOCK, IDLE, MOST_UPLOADS, RESERVE, STALE, Incoming
from patchify.server.storage import FolderStorage

DATA = random.Random(1).randbytes(3 * BLOCK + 1000)
SHA = hashlib.sha256(DATA).hexdigest()
SIZE = len(DATA)


@pytest.fixture
def storage(tmp_path):
    return FolderStorage(tmp_path, "app")


@pytest.fixture
def uploads(storage):
    return Incoming(storage, limit=SIZE, patience=0)


@pytest.fixture
def hashed(monkeypatch):
    """Return the list of files that were read again for their hash."""
    hashed = []
    real = incoming.hash_file
    monkeypatch.setattr(incoming, "hash_file", lambda file: hashed.append(file) or real(file))
    return hashed


def reader(data):
    return io.BytesIO(data).read


def names(storage):
    return sorted(os.listdir(storage.incoming)) if storage.incoming.exists() else []


def test_a_piece_goes_on_where_the_last_one_ended(uploads, hashed):
    assert uploads.offset(SHA) == 0
    assert uploads.append(SHA, 0, SIZE, reader(DATA[:100])) == 100
    assert uploads.append(SHA, 100, SIZE, reader(DATA[100 : BLOCK + 7])) == BLOCK + 7
    assert uploads.append(SHA, BLOCK + 7, SIZE, reader(DATA[BLOCK + 7 :])) == SIZE
    with uploads.whole(SHA, SIZE) as path:
        assert path.read_bytes() == DATA
    assert hashed == []  # it was done on the way


def test_what_was_cut_short_stays_as_far_as_it_came(uploads):
    pieces = iter([DATA[:BLOCK], DATA[BLOCK : BLOCK + 5]])
    with pytest.raises(StopIteration):
        uploads.append(SHA, 0, SIZE, lambda count: next(pieces))
    assert uploads.offset(SHA) == BLOCK + 5
    assert uploads.append(SHA, BLOCK + 5, SIZE, reader(DATA[BLOCK + 5 :])) == SIZE


def test_another_process_may_write_the_next_piece(storage, uploads, hashed):
    other = Incoming(storage, SIZE)
    uploads.append(SHA, 0, SIZE, reader(DATA[:100]))
    other.append(SHA, 100, SIZE, reader(DATA[100:200]))
    uploads.append(SHA, 200, SIZE, reader(DATA[200:]))
    with uploads.whole(SHA, SIZE) as path:
        assert path.read_bytes() == DATA
    assert len(hashed) == 1  # none of the two has seen all of it


def test_what_is_moved_away_leaves_nothing(storage, uploads, tmp_path):
    uploads.append(SHA, 0, SIZE, reader(DATA))
    with uploads.whole(SHA, SIZE) as path:
        path.rename(tmp_path / "app-1.0.0")
    assert names(storage) == []
    assert uploads.offset(SHA) == 0


def test_what_is_left_stays_for_another_attempt(uploads):
    uploads.append(SHA, 0, SIZE, reader(DATA))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), uploads.whole(SHA, SIZE):
            raise ZeroDivisionError
    assert uploads.offset(SHA) == SIZE


def test_an_empty_file_is_whole_at_once(storage, uploads):
    with uploads.whole(hashlib.sha256().hexdigest(), 0) as path:
        assert path.read_bytes() == b""
    assert names(storage) == []


@pytest.mark.parametrize("offset", [0, 99, 101])
def test_a_piece_that_does_not_begin_at_the_end_is_refused_unread(uploads, offset):
    uploads.append(SHA, 0, SIZE, reader(DATA[:100]))
    with pytest.raises(UploadOffsetError, match="100 bytes of it are there") as caught:
        uploads.append(SHA, offset, SIZE, None)
    assert caught.value.offset == 100


def test_of_two_who_write_at_once_the_slower_one_is_told(uploads):
    def read(count):
        uploads.append(SHA, 0, SIZE, reader(DATA[:300]))
        return DATA[:200]

    with pytest.raises(UploadOffsetError) as caught:
        uploads.append(SHA, 0, SIZE, read)
    assert caught.value.offset == 300
    assert uploads.append(SHA, 300, SIZE, reader(DATA[300:])) == SIZE
    with uploads.whole(SHA, SIZE):
        pass


def test_bytes_beyond_the_announced_size_are_not_even_read(uploads):
    assert uploads.append(SHA, 0, 10, reader(DATA)) == 10
    assert uploads.offset(SHA) == 10


def test_a_file_beyond_the_limit_is_refused_unread(storage):
    with pytest.raises(UploadTooLargeError, match=r"10 bytes are too many: .* up to 9 bytes \(max_upload\)") as caught:
        Incoming(storage, limit=9).append(SHA, 0, 10, None)
    assert (caught.value.size, caught.value.limit) == (10, 9)
    assert names(storage) == []


def test_an_upload_that_is_not_whole_is_not_given(storage, uploads):
    with pytest.raises(UploadOffsetError) as caught, uploads.whole(SHA, SIZE):
        raise AssertionError
    assert caught.value.offset == 0
    assert names(storage) == []
    uploads.append(SHA, 0, SIZE, reader(DATA[:-1]))
    with pytest.raises(UploadOffsetError) as caught, uploads.whole(SHA, SIZE):
        raise AssertionError
    assert caught.value.offset == SIZE - 1


def test_what_is_not_as_announced_is_thrown_away(storage, uploads):
    uploads.append(SHA, 0, SIZE, reader(DATA[:-1] + b"?"))
    with pytest.raises(UploadDamagedError, match="send it again") as caught, uploads.whole(SHA, SIZE):
        raise AssertionError
    assert caught.value.expected == SHA
    assert names(storage) == []


def test_what_was_changed_on_disk_after_it_was_hashed_is_noticed(uploads):
    uploads.append(SHA, 0, SIZE, reader(DATA))
    path = uploads.path(SHA)
    path.write_bytes(b"?" * SIZE)
    with pytest.raises(UploadDamagedError), uploads.whole(SHA, SIZE):
        raise AssertionError


def test_while_one_publishes_an_upload_others_are_told_to_wait(uploads):
    uploads.append(SHA, 0, SIZE, reader(DATA[:-1]))
    with FileLock(uploads.path(SHA).with_suffix(".lock")):
        with pytest.raises(UploadBusyError, match="by another request"):
            uploads.append(SHA, SIZE - 1, SIZE, reader(DATA[-1:]))
        with pytest.raises(UploadBusyError), uploads.whole(SHA, SIZE):
            raise AssertionError
    assert uploads.append(SHA, SIZE - 1, SIZE, reader(DATA[-1:])) == SIZE


def test_what_cannot_fit_is_refused_before_a_byte_is_read(storage, uploads, monkeypatch):
    free = RESERVE + SIZE - 1
    monkeypatch.setattr(incoming.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    problem = f"{SIZE} more bytes are needed, its disk has {SIZE - 1} beside 64 MiB that stay free"
    with pytest.raises(StorageUnavailableError, match=problem) as caught:
        uploads.append(SHA, 0, SIZE, None)
    assert caught.value.errno == errno.ENOSPC
    assert names(storage) == []


def test_the_last_bytes_of_a_disk_stay_free_whoever_else_writes_meanwhile(uploads, monkeypatch):
    free = iter([RESERVE + SIZE, RESERVE + 10])
    monkeypatch.setattr(incoming.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    with pytest.raises(StorageUnavailableError, match="its disk has 10 beside"):
        uploads.append(SHA, 0, SIZE, reader(DATA))
    assert uploads.offset(SHA) == BLOCK  # as far as there was room; more of it may be there later


def test_what_is_whole_needs_no_room(uploads, monkeypatch):
    uploads.append(SHA, 0, SIZE, reader(DATA))
    monkeypatch.setattr(incoming.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert uploads.append(SHA, SIZE, SIZE, None) == SIZE
    with uploads.whole(SHA, SIZE):
        pass


@pytest.fixture
def begin(uploads):
    """Return a function that begins an upload; the last byte came so many seconds ago."""

    def begin(number, ago=0):
        sha256 = f"{number:064x}"
        uploads.append(sha256, 0, SIZE, reader(b"x"))
        then = time.time() - ago
        os.utime(uploads.path(sha256), (then, then))
        return sha256

    return begin


def begun(storage):
    return {name.partition(".")[0] for name in names(storage)}  # of its bytes, and of its lock


def test_only_so_many_uploads_may_be_unfinished(uploads, begin):
    for number in range(MOST_UPLOADS):
        begin(number, ago=IDLE - 100)
    with pytest.raises(StorageUnavailableError, match=f"{MOST_UPLOADS} others are not finished") as caught:
        uploads.append(SHA, 0, SIZE, None)
    assert caught.value.errno == errno.ENOSPC
    assert uploads.append(f"{0:064x}", 1, SIZE, reader(b"y")) == 2  # they may go on


def test_of_too_many_uploads_the_one_that_stands_still_for_longest_makes_room(storage, begin):
    old = [begin(number, ago=IDLE + number) for number in range(1, MOST_UPLOADS + 1)]
    new = begin(99)
    assert begun(storage) == {*old[:-1], new}


def test_uploads_that_were_given_up_go_when_another_one_begins(storage, begin):
    begin(1, ago=STALE + 100)
    begin(2, ago=STALE + 200)
    kept = begin(3, ago=STALE - 100)
    new = begin(4)
    assert begun(storage) == {kept, new}


def test_an_upload_that_goes_on_just_now_is_not_given_up(uploads, begin, monkeypatch):
    old = begin(1, ago=STALE + 100)
    real = uploads._opened

    def opened(sha256):
        os.utime(uploads.path(old))
        return real(sha256)

    monkeypatch.setattr(uploads, "_opened", opened)
    begin(2)
    assert uploads.offset(old) == 1


def test_an_upload_that_another_request_has_is_not_given_up(uploads, begin):
    old = begin(1, ago=STALE + 100)
    with FileLock(uploads.path(old).with_suffix(".lock")):
        begin(2)
    assert uploads.offset(old) == 1


def test_a_disk_that_is_full_is_not_kept_full(storage, uploads):
    uploads.append(SHA, 0, SIZE, reader(DATA[:BLOCK]))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK + 1000, hard))  # a write takes what fits, and the next one fails
    try:
        with pytest.raises(StorageUnavailableError, match="File too large"):
            uploads.append(SHA, BLOCK, SIZE, reader(DATA[BLOCK:]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(storage) == []


def test_a_folder_that_cannot_be_used_is_named(storage, uploads):
    storage.incoming.write_bytes(b"")
    with pytest.raises(StorageUnavailableError, match="incoming"):
        uploads.append(SHA, 0, SIZE, reader(DATA))


def test_a_folder_of_somebody_else_is_told_with_its_owner(storage, uploads, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(incoming.os, "listdir", refuse)
    problem = f"incoming cannot be changed now: Permission denied; it belongs to {storage.folder.owner()}$"
    with pytest.raises(StorageUnavailableError, match=problem) as caught:
        uploads.append(SHA, 0, SIZE, None)
    assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize("failure", [KeyError("getpwuid"), NotImplementedError(), OSError()])
def test_an_owner_that_has_no_name_is_not_told(uploads, monkeypatch, failure):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    def fail(path):
        raise failure

    monkeypatch.setattr(incoming.os, "open", refuse)
    monkeypatch.setattr(Path, "owner", fail)
    with pytest.raises(StorageUnavailableError, match=r"Permission denied$"):
        uploads.append(SHA, 0, SIZE, reader(DATA))


def test_a_link_in_the_place_of_an_upload_is_not_followed(storage, uploads, tmp_path):
    storage.make_incoming()
    uploads.path(SHA).symlink_to(tmp_path / "target")
    with pytest.raises(StorageUnavailableError):
        uploads.append(SHA, 0, SIZE, reader(DATA))
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("call", ["disk_usage", "fsync"])
def test_a_disk_that_fails_is_an_error_of_ours(uploads, monkeypatch, call):
    uploads.append(SHA, 0, SIZE, reader(DATA[:-1]))

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    if call == "disk_usage":
        monkeypatch.setattr(incoming.shutil, call, fail)
        with pytest.raises(StorageUnavailableError, match="Input/output"):
            uploads.append(SHA, SIZE - 1, SIZE, reader(DATA[-1:]))
    else:
        monkeypatch.setattr(incoming.os, call, fail)
        with pytest.raises(StorageUnavailableError, match="Input/output"), uploads.whole(SHA, SIZE - 1):
            raise AssertionError


def test_only_some_uploads_are_carried_from_piece_to_piece(uploads, monkeypatch):
    monkeypatch.setattr(incoming, "MOST_UPLOADS", 100)
    for number in range(incoming._REMEMBERED + 3):
        uploads.append(f"{number:064x}", 0, SIZE, reader(b"x"))
    assert len(uploads._digests) == incoming._REMEMBERED

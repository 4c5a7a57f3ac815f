import errno
import hashlib
import os
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchify.client import staging
from patchify.client.staging import PartFile
from patchify.errors import (
    FailedHashVerificationError,
    FileOperationError,
    NotEnoughSpaceError,
    UnableToCreateDownloadError,
    UnableToReadFileError,
    UnableToWriteDownloadError,
)
from tests.client.faults import ERRORS, disk

DATA = bytes(range(256)) * 20
SHA256 = hashlib.sha256(DATA).hexdigest()
EVERY_ERROR = pytest.mark.parametrize("number", ERRORS.values(), ids=ERRORS.keys())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "release.part"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "release"


@pytest.fixture
def opened(path):
    """Return a function that opens the part; it is closed in the end."""
    made = []

    def open_part() -> PartFile:
        made.append(PartFile(path))
        return made[-1]

    yield open_part
    for part in made:
        part.close()


def ignore(done):
    pass


def test_what_is_written_gets_its_name_when_its_hash_is_right(opened, path, target):
    part = opened()
    part.write(DATA[:1000])
    part.write(DATA[1000:])
    assert part.size == len(DATA)
    part.finish("2.0.0", SHA256, target)
    assert target.read_bytes() == DATA
    assert not path.exists()


def test_only_its_owner_may_read_it(opened, path):
    opened()
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_older_file_of_that_name_is_replaced(opened, target):
    target.write_bytes(b"older")
    part = opened()
    part.write(DATA)
    part.finish("2.0.0", SHA256, target)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("data", [b"", DATA[:-1], DATA + b"x"], ids=["nothing", "less", "more"])
def test_what_has_another_hash_is_removed(opened, path, target, data):
    part = opened()
    part.write(data)
    with pytest.raises(FailedHashVerificationError) as caught:
        part.finish("2.0.0", SHA256, target)
    assert (caught.value.expected, caught.value.found) == (SHA256, hashlib.sha256(data).hexdigest())
    assert not path.exists()
    assert not target.exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.binary(), st.sampled_from(["go on", "reopen", "take up", "clear"])), max_size=8))
def test_the_hash_is_of_the_file_however_it_came_about(path, target, steps):
    expected = b""
    part = PartFile(path)
    for data, step in steps:
        part.write(data)
        expected += data
        if step == "reopen":
            part.close()
            part = PartFile(path)
            assert part.size == len(expected)
            part.take_up(ignore)
        elif step == "take up":
            part.take_up(ignore)
        elif step == "clear":
            part.cut(0)
            expected = b""
    part.finish("2.0.0", hashlib.sha256(expected).hexdigest(), target)
    assert target.read_bytes() == expected


def test_what_is_there_is_read_once(opened, path):
    path.write_bytes(DATA)
    part = opened()
    told = []
    part.take_up(told.append)
    part.take_up(told.append)
    assert told == [len(DATA)]


def test_all_that_is_there_is_shown_also_when_it_was_hashed_before(opened, path, target):
    path.write_bytes(DATA[:1000])
    part = opened()
    part.take_up(ignore)
    part.write(DATA[1000:])
    shown = []
    part.take_up(ignore, shown.append)
    assert b"".join(shown) == DATA
    part.finish("2.0.0", SHA256, target)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("at", [0, 1, 700, 1999])
@pytest.mark.parametrize("taken_up", [False, True])
def test_what_is_mended_in_the_middle_is_hashed_as_it_stands_then(opened, path, target, at, taken_up):
    path.write_bytes(DATA[:at] + b"x" * (2000 - at))
    part = opened()
    if taken_up:
        part.take_up(ignore)
    part.write(DATA[at : at + 1], at)
    part.write(DATA[at + 1 : 2010], at + 1)
    assert part.size == 2010
    part.write(DATA[2010:])
    part.finish("2.0.0", SHA256, target)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001])
def test_a_part_that_is_cut_keeps_its_beginning_and_goes_on_from_there(opened, path, target, size):
    part = opened()
    part.write(DATA[:1000])
    part.cut(size)
    assert part.size == min(size, 1000)
    assert path.read_bytes() == DATA[:size][:1000]
    part.write(DATA[part.size :])
    part.finish("2.0.0", SHA256, target)
    assert target.read_bytes() == DATA


@EVERY_ERROR
def test_what_was_mended_and_cannot_be_read_is_our_error_and_kept(opened, path, target, number):
    with disk(number=number, always="read"):
        part = opened()
        part.write(DATA)
        part.write(DATA[:10], 0)
        part.write(DATA[10:20], 5)
        with pytest.raises(UnableToReadFileError):
            part.finish("2.0.0", SHA256, target)
    assert path.exists()
    assert not target.exists()


def test_after_an_error_in_the_middle_the_hash_is_of_what_is_there(opened, path, target, monkeypatch):
    with disk():
        part = opened()
    part.write(DATA)
    real = type(part._file).write
    calls = []

    def write(file, data):  # one byte, and then no more
        calls.append(len(data))
        if len(calls) == 1:
            return real(file, data[:1])
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(type(part._file), "write", write)
        with pytest.raises(UnableToWriteDownloadError):
            part.write(b"xy", 5)
    assert path.read_bytes() == DATA[:5] + b"x" + DATA[6:]
    with pytest.raises(FailedHashVerificationError):
        part.finish("2.0.0", SHA256, target)


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_no_link_is_followed_and_no_folder_used(path, target, kind):
    if kind == "link":
        target.write_bytes(b"precious")
        path.symlink_to(target)
    else:
        path.mkdir()
    with pytest.raises(UnableToCreateDownloadError) as caught:
        PartFile(path)
    assert caught.value.path == path
    assert kind == "folder" or target.read_bytes() == b"precious"


@EVERY_ERROR
@pytest.mark.parametrize("name", ["open", "fstat"])
def test_a_file_that_cannot_be_opened_is_our_error(opened, name, number):
    with disk(number=number, always=name), pytest.raises(UnableToCreateDownloadError) as caught:
        opened()
    assert caught.value.errno == number
    assert opened().size == 0


@EVERY_ERROR
@pytest.mark.parametrize("name", ["seek", "read"])
def test_a_beginning_that_cannot_be_read_is_our_error_and_kept(opened, path, name, number):
    path.write_bytes(DATA)
    with disk(number=number, always=name), pytest.raises(UnableToReadFileError):
        opened().take_up(ignore)
    assert path.read_bytes() == DATA


@EVERY_ERROR
def test_a_file_that_cannot_be_emptied_is_our_error(opened, number):
    with disk(number=number, always="truncate"):
        part = opened()
        part.write(DATA)
        with pytest.raises(UnableToWriteDownloadError):
            part.cut(0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_on_a_full_disk_what_was_there_is_given_up(opened, path, number):
    path.write_bytes(DATA)
    with disk(number=number, always="write"), pytest.raises(UnableToWriteDownloadError) as caught:
        opened().write(DATA)
    assert caught.value.errno == number
    assert not path.exists()


@pytest.mark.parametrize("and_truncate", [False, True])
def test_after_another_error_what_was_written_whole_is_kept(opened, path, monkeypatch, and_truncate):
    with disk():
        part = opened()
    part.write(DATA[:1000])
    real = type(part._file).write
    calls = []

    def write(file, data):  # some bytes, and then no more
        calls.append(len(data))
        if len(calls) == 1:
            return real(file, data[:10])
        raise OSError(errno.EIO, "broken")

    def truncate(file, size):
        raise OSError(errno.EIO, "broken, too")

    monkeypatch.setattr(type(part._file), "write", write)
    if and_truncate:
        monkeypatch.setattr(type(part._file), "truncate", truncate)
    with pytest.raises(UnableToWriteDownloadError):
        part.write(DATA[1000:])
    assert calls == [len(DATA) - 1000, len(DATA) - 1010]
    assert part.size == 1000
    assert path.read_bytes() == DATA[: 1010 if and_truncate else 1000]


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_them_all(opened, target, monkeypatch):
    with disk():
        part = opened()
    real = type(part._file).write
    monkeypatch.setattr(type(part._file), "write", lambda file, data: real(file, data[:7]))
    part.write(DATA)
    part.finish("2.0.0", SHA256, target)
    assert target.read_bytes() == DATA


def steps_of_finish(folder) -> list[str]:
    part = PartFile(folder / "counted.part")
    part.write(DATA)
    with disk() as done:
        part.finish("2.0.0", SHA256, folder / "counted")
    (folder / "counted").unlink()
    return done


@EVERY_ERROR
def test_what_cannot_be_made_durable_is_not_trusted_and_a_later_attempt_succeeds(opened, path, target, number):
    steps = steps_of_finish(path.parent)
    assert steps == ["fsync", "replace", "open", "fsync"]
    for step in range(len(steps)):
        part = opened()
        part.write(DATA)
        with disk(step, number), pytest.raises(UnableToWriteDownloadError) as caught:
            part.finish("2.0.0", SHA256, target)
        assert isinstance(caught.value, FileOperationError)
        assert caught.value.errno == number
        assert os.listdir(path.parent) == []
    part = opened()
    part.write(DATA)
    part.finish("2.0.0", SHA256, target)
    assert target.read_bytes() == DATA


def test_what_is_gone_already_may_be_discarded_and_closed(opened, path):
    part = opened()
    path.unlink()
    part.discard()
    part.discard()
    part.close()


def test_a_beginning_that_was_never_taken_up_is_hashed_in_the_end(opened, path, target):
    path.write_bytes(DATA)
    opened().finish("2.0.0", SHA256, target)
    assert target.read_bytes() == DATA


def test_a_wrong_beginning_that_was_never_taken_up_does_not_pass(opened, path, target):
    path.write_bytes(b"x" * 1000)
    part = opened()
    part.write(DATA[1000:])
    with pytest.raises(FailedHashVerificationError):
        part.finish("2.0.0", SHA256, target)


# Space ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def free(monkeypatch):
    """Return a function that sets how many bytes are free."""

    def set_free(size: int | None) -> None:
        def usage(folder):
            if size is None:
                raise OSError(errno.ENOSYS, "this file system does not say")
            return SimpleNamespace(free=size)

        monkeypatch.setattr(staging.shutil, "disk_usage", usage)

    return set_free


def test_what_does_not_fit_is_refused_before_a_byte_is_written(opened, path, free):
    part = opened()
    part.write(DATA[:1000])
    free(staging._MARGIN + len(DATA) - 1001)
    with pytest.raises(NotEnoughSpaceError, match=r"bytes are needed, .* are free") as caught:
        part.reserve(len(DATA))
    assert (caught.value.needed, caught.value.free) == (
        len(DATA) - 1000 + staging._MARGIN,
        len(DATA) - 1001 + staging._MARGIN,
    )
    assert caught.value.path == path
    assert isinstance(caught.value, FileOperationError)
    assert path.read_bytes() == DATA[:1000]  # it is kept, for when there is space


def test_what_is_there_already_needs_no_space(opened, free):
    part = opened()
    part.write(DATA[:1000])
    free(staging._MARGIN + len(DATA) - 1000)
    part.reserve(len(DATA))


def test_where_nobody_knows_how_much_is_free_the_download_will_tell(opened, free):
    free(None)
    opened().reserve(2**60)


def test_whether_it_has_a_hash_is_known_without_reading_it_again(tmp_path, monkeypatch):
    part = PartFile(tmp_path / "part")
    part.write(b"some bytes")
    monkeypatch.setattr(part, "take_up", lambda *_: pytest.fail("it was hashed as it grew"))
    assert part.matches(hashlib.sha256(b"some bytes").hexdigest())
    assert not part.matches(hashlib.sha256(b"other bytes").hexdigest())
    part.close()


def test_what_was_there_before_is_hashed_to_know_whether_it_has_a_hash(tmp_path):
    (tmp_path / "part").write_bytes(b"some ")
    part = PartFile(tmp_path / "part")
    part.write(b"bytes")
    assert part.matches(hashlib.sha256(b"some bytes").hexdigest())
    part.close()

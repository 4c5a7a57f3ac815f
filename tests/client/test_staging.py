import errno
import hashlib
import io
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchify.client import staging
from patchify.client.staging import PartFile
from patchify.errors import (
    FailedHashVerificationError,
    UnableToCreateDownloadError,
    UnableToReadFileError,
    UnableToWriteDownloadError,
)

DATA = bytes(range(256)) * 20
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "staged.part"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "staged"


@pytest.fixture
def part(path):
    made = PartFile(path)
    yield made
    made.close()


def quiet(done):
    pass


def failing(error):
    def fail(*_):
        raise OSError(error, os.strerror(error))

    return fail


def exchange_file(part, kind):
    """Let the part use another kind of file object for its file."""
    file = kind(os.dup(part._file.fileno()), "r+")
    part._file.close()
    part._file = file


def break_file(part, name, error):
    """Let one method of the part's file fail."""
    exchange_file(part, type("Broken", (io.FileIO,), {name: failing(error)}))


def test_what_is_written_gets_its_name_when_its_hash_is_right(part, path, target):
    part.write(DATA[:1000])
    part.write(DATA[1000:])
    assert part.size == len(DATA)
    part.finish("2.0.0", DIGEST, target)
    assert target.read_bytes() == DATA
    assert not path.exists()


def test_nobody_else_can_read_it(part, path):
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_durable_before_and_after_it_gets_its_name(part, target, monkeypatch):
    story = []
    monkeypatch.setattr(staging.os, "fsync", lambda descriptor: story.append("file"))
    replace = os.replace
    monkeypatch.setattr(staging.os, "replace", lambda *paths: story.append("name") or replace(*paths))
    monkeypatch.setattr(staging, "sync_folder", story.append)
    part.write(DATA)
    part.finish("2.0.0", DIGEST, target)
    assert story == ["file", "name", target.parent]


def test_it_goes_on_where_it_was_closed(path, target):
    first = PartFile(path)
    first.write(DATA[:1000])
    first.close()
    seen = []
    second = PartFile(path)
    assert second.size == 1000
    second.take_up(seen.append)
    second.write(DATA[1000:])
    second.finish("2.0.0", DIGEST, target)
    assert seen == [1000]
    assert target.read_bytes() == DATA


def test_what_it_wrote_itself_is_not_hashed_again(part, target):
    seen = []
    part.write(DATA[:1000])
    part.take_up(seen.append)
    part.write(DATA[1000:])
    part.take_up(seen.append)
    part.finish("2.0.0", DIGEST, target)
    assert not seen


def test_it_can_be_emptied_to_begin_anew(path, target):
    path.write_bytes(b"something else")
    part = PartFile(path)
    part.take_up(quiet)
    part.clear()
    assert part.size == 0
    part.write(DATA)
    part.finish("2.0.0", DIGEST, target)
    assert target.read_bytes() == DATA


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(1, 2000) | st.sampled_from(["close", "clear", "take up"]), max_size=12))
def test_however_it_comes_about_it_is_what_was_written(tmp_path, steps):
    path, target = tmp_path / "x.part", tmp_path / "x"
    path.unlink(missing_ok=True)
    part = PartFile(path)
    for step in [*steps, len(DATA)]:
        if step == "close":
            part.close()
            part = PartFile(path)
        elif step == "clear":
            part.clear()
        elif step == "take up":
            part.take_up(quiet)
        else:  # as the transport does
            part.take_up(quiet)
            part.write(DATA[part.size : part.size + step])
    part.finish("2.0.0", DIGEST, target)
    assert target.read_bytes() == DATA


def test_other_bytes_are_removed(part, path, target):
    part.write(DATA[::-1])
    with pytest.raises(FailedHashVerificationError) as caught:
        part.finish("2.0.0", DIGEST, target)
    assert (caught.value.version, caught.value.expected) == ("2.0.0", DIGEST)
    assert caught.value.found == hashlib.sha256(DATA[::-1]).hexdigest()
    assert not path.exists()
    assert not target.exists()


def test_a_beginning_that_was_never_taken_up_does_not_pass(path, target):
    path.write_bytes(DATA)
    part = PartFile(path)
    with pytest.raises(FailedHashVerificationError):
        part.finish("2.0.0", DIGEST, target)


def test_a_symbolic_link_in_its_place_is_not_followed(path, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    path.symlink_to(victim)
    with pytest.raises(UnableToCreateDownloadError) as caught:
        PartFile(path)
    assert caught.value.path == path
    assert caught.value.errno == errno.ELOOP
    assert victim.read_bytes() == b"mine"


def test_a_folder_in_its_place_is_an_error(path):
    path.mkdir()
    with pytest.raises(UnableToCreateDownloadError):
        PartFile(path)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_a_file_that_cannot_be_made_is_an_error(path, monkeypatch, error):
    monkeypatch.setattr(staging.os, "open", failing(error))
    with pytest.raises(UnableToCreateDownloadError) as caught:
        PartFile(path)
    assert caught.value.errno == error


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_on_a_full_disk_what_was_there_is_given_up(part, path, error):
    part.write(DATA)
    break_file(part, "write", error)
    with pytest.raises(UnableToWriteDownloadError) as caught:
        part.write(DATA)
    assert caught.value.errno == error
    assert not path.exists()


def test_after_another_error_what_was_there_is_kept_whole(part, path, target):
    part.write(DATA[:1000])
    break_file(part, "write", errno.EIO)
    io.FileIO.write(part._file, DATA[1000:1010])  # what reached the disk of a block that did not arrive as a whole
    with pytest.raises(UnableToWriteDownloadError):
        part.write(DATA[1000:])
    part.close()
    assert path.read_bytes() == DATA[:1000]
    again = PartFile(path)
    again.take_up(quiet)
    again.write(DATA[1000:])
    again.finish("2.0.0", DIGEST, target)


def test_a_disk_that_takes_little_at_once_gets_the_rest(part, path):
    class Small(io.FileIO):
        def write(self, data):
            return super().write(data[:7])

    exchange_file(part, Small)
    part.write(DATA)
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("name", ["seek", "truncate"])
def test_a_file_that_cannot_be_emptied_is_an_error(part, name):
    part.write(DATA)
    break_file(part, name, errno.EIO)
    with pytest.raises(UnableToWriteDownloadError):
        part.clear()


def test_a_beginning_that_cannot_be_read_is_an_error(path):
    path.write_bytes(DATA)
    part = PartFile(path)
    break_file(part, "read", errno.EIO)
    with pytest.raises(UnableToReadFileError):
        part.take_up(quiet)
    part.close()


@pytest.mark.parametrize("step", ["fsync", "replace", "sync_folder"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EACCES])
def test_what_cannot_be_made_durable_is_not_trusted_and_removed(part, path, target, monkeypatch, step, error):
    monkeypatch.setattr(staging if step == "sync_folder" else staging.os, step, failing(error))
    part.write(DATA)
    with pytest.raises(UnableToWriteDownloadError) as caught:
        part.finish("2.0.0", DIGEST, target)
    assert caught.value.errno == error
    assert not path.exists()
    assert not target.exists()


def test_closing_and_discarding_twice_is_harmless(part, path):
    part.close()
    part.close()
    part.discard()
    part.discard()
    assert not path.exists()

import hashlib
import os
import random
from io import FileIO

import pytest
from backports import zstd

from patchify.errors import FormGivenUpError, StorageUnavailableError
from patchify.forms import DIGEST, SEGMENT, Segments
from patchify.publishing import compressing
from patchify.publishing.compressing import compress, list_segments

NOISE = random.Random(1).randbytes(1024 * 1024)


@pytest.fixture
def opened(tmp_path):
    """Return a function that makes a file of bytes and opens it."""
    files = []

    def opened(data):
        (tmp_path / "source").write_bytes(data)
        files.append(FileIO(tmp_path / "source"))
        return files[-1]

    yield opened
    for file in files:
        file.close()


def test_what_is_compressed_is_what_it_was(opened, tmp_path):
    data = NOISE + bytes(3 * len(NOISE))
    written = compress(opened(data), tmp_path / "target")
    packed = (tmp_path / "target").read_bytes()
    assert zstd.decompress(packed) == data
    assert (written.size, written.sha256) == (len(packed), hashlib.sha256(packed).hexdigest())


@pytest.mark.parametrize("size", [1, 1000, len(NOISE)])
def test_what_is_not_much_smaller_is_not_kept(opened, tmp_path, size):
    with pytest.raises(FormGivenUpError, match="compressed it has"):
        compress(opened(NOISE[:size]), tmp_path / "target")


def test_a_long_file_is_given_up_as_soon_as_it_is_not_much_smaller(opened, tmp_path):
    with pytest.raises(FormGivenUpError, match=r"compressed it has 9\d %"):
        compress(opened(random.Random(2).randbytes(7_600_000) + bytes(400_000)), tmp_path / "target")


def test_samples_tell_what_cannot_be_compressed(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(compressing, "_LEAST_SAMPLED", 1)
    with pytest.raises(FormGivenUpError, match="samples of it have 100 % of their size"):
        compress(opened(NOISE), tmp_path / "target")
    assert not (tmp_path / "target").exists()
    compress(opened(NOISE + bytes(len(NOISE))), tmp_path / "target")


def test_a_disk_that_cannot_be_written_is_told(opened, tmp_path):
    with pytest.raises(StorageUnavailableError, match="missing"):
        compress(opened(b"data"), tmp_path / "missing" / "target")
    if os.path.exists("/dev/full"):
        (tmp_path / "full").symlink_to("/dev/full")
        with pytest.raises(StorageUnavailableError, match="No space left"):
            compress(opened(bytes(100)), tmp_path / "full")


@pytest.mark.parametrize("size", [1, SEGMENT, SEGMENT + 1, 2 * SEGMENT])
def test_the_segments_of_a_file_are_listed(opened, tmp_path, size):
    data = (NOISE * 9)[:size]
    written = list_segments(opened(data), tmp_path / "target")
    found = (tmp_path / "target").read_bytes()
    assert found == b"".join(
        hashlib.sha256(data[start : start + SEGMENT]).digest() for start in range(0, size, SEGMENT)
    )
    assert len(found) == Segments(written.sha256).list_size(size) == DIGEST * -(-size // SEGMENT)
    assert (written.size, written.sha256) == (len(found), hashlib.sha256(found).hexdigest())

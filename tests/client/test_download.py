"""What is fetched of a file and what is kept of it, without a network. Servers are in `test_misbehaving_files`."""

import hashlib
import itertools
import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify.client.download import MOST_BAD, FileDownload
from patchify.client.staging import PartFile
from patchify.errors import DamagedSegmentError, InvalidBodyError
from patchify.forms import Segments

LENGTH = 10  # bytes of a segment; that lists of real ones are longer makes no difference here
DATA = random.Random(6).randbytes(34)
SIZE = len(DATA)
STARTS = range(0, SIZE, LENGTH)
SHA256 = hashlib.sha256(DATA).hexdigest()


def hashes(data=DATA) -> bytes:
    return b"".join(hashlib.sha256(data[start : start + LENGTH]).digest() for start in range(0, len(data), LENGTH))


class Server:
    """Serves some bytes, in blocks, and breaks off after so many bytes of each answer.

    Attributes:
        fetched: Bytes that were sent.
        asked: The ranges that were asked for.
    """

    def __init__(self, data=DATA, *, block=7, cuts=(), ranges=True):
        self.data = data
        self.block = block
        self.cuts = list(cuts)
        self.ranges = ranges
        self.fetched = 0
        self.asked = []

    def answer(self, download: FileDownload) -> None:
        asked = download.headers().get("Range")
        self.asked.append(asked)
        start, stop, status = 0, len(self.data), 200
        if asked and self.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), int(last or len(self.data) - 1) + 1, 206
        length = stop - start
        found = {"Content-Range": f"bytes {start}-{stop - 1}/{len(self.data)}"} if status == 206 else {}
        response = SimpleNamespace(status_code=status, headers=found, url="https://h/f")
        assert not download.refuses(response, length)
        at = download.begin(response, length)
        body = self.data[start:stop][: self.cuts.pop(0) if self.cuts else None]
        for index in range(0, len(body), self.block):
            block = body[index : index + self.block]
            self.fetched += len(block)
            if not download.add(response.url, at, block):
                return
            at += len(block)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "part"


def fetch(path, server, *, segmented=True, size=SIZE, told=None):
    """Download as another process would that finds what is at ``path``; return what it is in the end."""
    part = PartFile(path)
    segments = {"segments": Segments("00" * 32, LENGTH), "hashes": hashes()} if segmented else {}
    try:
        download = FileDownload(part, size, lambda *both: None if told is None else told.append(both), **segments)
        download.open()
        while not download.is_complete:
            server.answer(download)
        part.finish("2.0.0", SHA256, path.with_name("whole"))
    finally:
        part.close()
    return path.with_name("whole").read_bytes()


def needed(before: bytes) -> int:
    """Return the bytes of all segments that are bad or missing, and of what is missing of one that is begun."""
    return sum(
        len(DATA[start : start + LENGTH])
        for start in STARTS
        if before[start : start + LENGTH] != DATA[start : start + LENGTH]
    )


def flipped(data: bytes, *places: int) -> bytes:
    return bytes(byte ^ (index in places) for index, byte in enumerate(data))


def test_only_what_is_missing_is_fetched(path):
    for kept in range(SIZE + 1):
        path.write_bytes(DATA[:kept])
        server = Server()
        assert fetch(path, server) == DATA
        assert server.fetched == SIZE - kept
        assert server.asked == ([] if kept == SIZE else [f"bytes={kept}-"] if kept else [None])


@pytest.mark.parametrize("kept", [SIZE, SIZE - 1, 30, 25])
def test_a_flipped_bit_costs_one_segment(path, kept):
    for place in range(kept):
        path.write_bytes(flipped(DATA[:kept], place))
        server = Server()
        assert fetch(path, server) == DATA
        start = place - place % LENGTH
        segment = len(DATA[start : start + LENGTH])
        if start + segment > kept:  # it shows when the segment is complete
            assert server.asked == [f"bytes={kept}-", f"bytes={start}-"]
            assert server.fetched <= SIZE - start + segment
        else:
            assert server.fetched == SIZE - kept + segment


def test_whatever_segments_are_bad_only_they_are_fetched_again(path):
    for bad in itertools.product([False, True], repeat=len(STARTS)):
        for kept in (SIZE, SIZE - 4, 30):
            before = flipped(DATA[:kept], *(start for start, is_bad in zip(STARTS, bad, strict=True) if is_bad))
            path.write_bytes(before)
            server = Server()
            assert fetch(path, server) == DATA
            assert server.fetched == needed(before)


@given(
    before=st.binary(max_size=SIZE + 5)
    | st.builds(lambda kept, places: flipped(DATA[:kept], *places), st.integers(0, SIZE), st.sets(st.integers(0, SIZE)))
    | st.builds(lambda more: DATA + more, st.binary(min_size=1, max_size=5)),
    cuts=st.lists(st.integers(0, SIZE), max_size=6),
    block=st.integers(1, SIZE),
    ranges=st.booleans(),
    new_process=st.booleans(),
)
def test_whatever_is_there_and_wherever_it_breaks_off_the_result_is_right(
    tmp_path_factory, before, cuts, block, ranges, new_process
):
    path = tmp_path_factory.getbasetemp() / "part-of-any"
    path.write_bytes(before)
    server = Server(block=block, cuts=cuts, ranges=ranges)
    if new_process and cuts:  # the first one dies when its connection breaks
        part = PartFile(path)
        segments = Segments("00" * 32, LENGTH)
        download = FileDownload(part, SIZE, lambda *_: None, segments=segments, hashes=hashes())
        download.open()
        if not download.is_complete:
            server.answer(download)
        part.close()
    assert fetch(path, server) == DATA
    if ranges:
        # A segment that was begun is known to be bad when it is complete, and what follows it in the same block is lost
        # if it began in what was there; and so is, for the next process, what a broken answer gave of it.
        lost = LENGTH if new_process and cuts else 0
        assert server.fetched <= needed(before) + LENGTH + block + lost


@pytest.mark.parametrize("kept", range(SIZE + 1))
def test_without_hashes_what_is_there_is_believed_until_the_end(path, kept):
    path.write_bytes(DATA[:kept])
    server = Server()
    assert fetch(path, server, segmented=False) == DATA
    assert server.fetched == SIZE - kept


@pytest.mark.parametrize("segmented", [False, True])
def test_a_server_without_ranges_is_read_from_the_start_as_far_as_need_be(path, segmented):
    path.write_bytes(flipped(DATA, 12))
    server = Server(ranges=False, block=10)
    if segmented:
        assert fetch(path, server) == DATA
        assert server.fetched == 20
    path.write_bytes(flipped(DATA[:20], 12))
    server = Server(ranges=False, block=10)
    assert fetch(path, server, segmented=segmented) == DATA
    assert server.fetched == SIZE


def test_a_segment_that_stays_bad_is_an_error_and_what_was_good_is_kept(path):
    for segment, start in enumerate(STARTS):
        path.unlink(missing_ok=True)
        server = Server(flipped(DATA, start + 3), block=1)
        with pytest.raises(DamagedSegmentError) as caught:
            fetch(path, server)
        assert (caught.value.segment, caught.value.offset, caught.value.url) == (segment, start, "https://h/f")
        assert path.read_bytes() == DATA[:start]
        assert server.fetched == start + MOST_BAD * len(DATA[start : start + LENGTH])
        again = Server()
        assert fetch(path, again) == DATA
        assert again.fetched == SIZE - start


def test_a_segment_that_comes_wrong_twice_and_then_right_is_taken(path):
    class Improving(Server):
        def answer(self, download):
            self.data = DATA if len(self.asked) == MOST_BAD - 1 else flipped(DATA, 15)
            super().answer(download)

    server = Improving(block=1)
    assert fetch(path, server) == DATA
    assert server.asked == [None, "bytes=10-", "bytes=10-"]
    assert server.fetched == SIZE + 2 * LENGTH


def test_a_segment_in_the_middle_that_stays_bad_leaves_the_others(path):
    path.write_bytes(flipped(DATA, 12))
    with pytest.raises(DamagedSegmentError):
        fetch(path, Server(flipped(DATA, 11)))
    kept = path.read_bytes()
    assert (kept[:10], kept[20:]) == (DATA[:10], DATA[20:])
    server = Server()
    assert fetch(path, server) == DATA
    assert server.fetched == LENGTH


def test_progress_is_of_the_bytes_that_are_right(path):
    path.write_bytes(flipped(DATA, 12))
    told = []
    fetch(path, Server(block=5), told=told)
    assert told == [(24, SIZE), (29, SIZE), (34, SIZE)]


def test_no_file_of_another_size_is_begun(path):
    with pytest.raises(InvalidBodyError, match="a file of 35 bytes, but 34 are signed"):
        fetch(path, Server(DATA + b"x"))
    assert path.read_bytes() == b""

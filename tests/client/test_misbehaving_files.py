"""Files that are named by their hash, from servers, and things between, that do what they should not."""

import hashlib
import random
import threading
import tracemalloc

import pytest
import requests

from patchify.client import connection, staging
from patchify.client.staging import PartFile
from patchify.client.transport import Transport
from patchify.errors import (
    DamagedSegmentError,
    DeadlineExceededError,
    FailedHashVerificationError,
    HttpError,
    HttpRequestFailedError,
    InvalidBodyError,
    MissingDataError,
    NotEnoughSpaceError,
    RedirectError,
    ServerBusyError,
    TooMuchDataError,
)
from patchify.forms import Segments, path_of
from tests.client.misbehaving import (
    BINARY,
    Exchange,
    Misbehaving,
    answer,
    broken,
    certificate,
    certificate_file,
    dripping,
    head,
    release,
    silence,
)
from tests.client.test_misbehaving import Pauses, config
from tests.running import wait_until

LENGTH = 65536
DATA = random.Random(3).randbytes(300_000)
SIZE = len(DATA)
STARTS = range(0, SIZE, LENGTH)
DIGEST = hashlib.sha256(DATA).hexdigest()
HASHES = b"".join(hashlib.sha256(DATA[start : start + LENGTH]).digest() for start in STARTS)
SEGMENTS = Segments(hashlib.sha256(HASHES).hexdigest(), LENGTH)
FILE, LIST = path_of(DIGEST), path_of(SEGMENTS.sha256)
START = {"Content_Type": BINARY, "ETag": '"of-a-static-server"'}
SEGMENTED = pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["whole", "segments"])


def flipped(*places: int, data: bytes = DATA) -> bytes:
    changed = bytearray(data)
    for place in places:
        changed[place] ^= 1
    return bytes(changed)


@pytest.fixture
def server():
    with Misbehaving() as made:
        made.on(FILE, release(DATA))
        made.on(LIST, answer(body=HASHES))
        yield made


@pytest.fixture
def pauses():
    return Pauses()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "part"


@pytest.fixture
def connect(server, pauses):
    """Return a function that makes a transport, closed in the end."""
    made = []

    def connect(**changes):
        made.append(Transport(config(server, **changes), pauses, lambda: 0.5))
        return made[-1]

    yield connect
    for transport in made:
        transport.close()


def download(transport, path, segments=SEGMENTS, told=None) -> bytes:
    """Download as a process that finds what is at ``path``; return what it is in the end."""
    part = PartFile(path)
    try:
        progress = lambda *both: None if told is None else told.append(both)  # noqa: E731
        transport.file(FILE, DIGEST, SIZE, part, progress, segments=segments)
        part.finish("2.0.0", DIGEST, path.with_name("whole"))
    finally:
        part.close()
    return path.with_name("whole").read_bytes()


def ranges(server) -> list[str | None]:
    return [headers.get("range") for headers in server.asked_for(FILE)]


# What goes well -------------------------------------------------------------------------------------------------------


def test_the_list_comes_first_and_all_over_one_connection(server, connect, path):
    told = []
    transport = connect()
    assert download(transport, path, told=told) == DATA
    assert [asked.rpartition("/api/")[2] for asked, _ in server.asked] == [LIST, FILE]
    assert server.connections == 1
    assert transport.received == SIZE + len(HASHES)
    assert told[-1] == (SIZE, SIZE)
    assert told == sorted(told)


def test_nothing_is_sent_that_goes_without_saying(server, connect, path):
    path.write_bytes(DATA[:7])
    download(connect(), path)
    expected = [{"host", "user-agent", "accept-encoding"}, {"host", "user-agent", "accept-encoding", "range"}]
    assert [set(headers) for _, headers in server.asked] == expected


@SEGMENTED
@pytest.mark.parametrize("kept", [0, 1, LENGTH - 1, LENGTH, LENGTH + 1, 2 * LENGTH, STARTS[-1] + 1, SIZE - 1, SIZE])
def test_another_process_goes_on_at_any_byte(server, connect, path, kept, segments):
    path.write_bytes(DATA[:kept])
    transport = connect()
    assert download(transport, path, segments) == DATA
    assert ranges(server) == ([] if kept == SIZE else [f"bytes={kept}-"] if kept else [None])
    assert not any("if-range" in headers for _, headers in server.asked)
    assert transport.received == SIZE - kept + (len(HASHES) if segments else 0)


@SEGMENTED
@pytest.mark.parametrize("cut", [1, LENGTH, 100_000, SIZE - 1])
def test_a_broken_download_goes_on_where_it_broke_off(server, connect, path, cut, segments):
    server.on(FILE, release(DATA, cut=cut, end=Exchange.close), release(DATA))
    assert download(connect(retries=1), path, segments) == DATA
    assert ranges(server) == [None, f"bytes={cut}-"]


@SEGMENTED
def test_progress_earns_more_retries(server, connect, pauses, path, segments):
    server.on(FILE, *[release(DATA, cut=30_000, end=Exchange.close)] * 9, release(DATA))
    assert download(connect(retries=1), path, segments) == DATA
    assert pauses.waited == [0.5] * 9


@pytest.mark.parametrize(
    "content_type", [BINARY, "binary/octet-stream", "text/plain", "text/html; charset=utf-8", None]
)
def test_a_static_server_guesses_the_type(server, connect, path, content_type):
    server.on(FILE, release(DATA, content_type=content_type, etag='W/"5f3-1a"'))
    server.on(LIST, answer(body=HASHES, Content_Type=content_type))
    path.write_bytes(DATA[:1000])
    assert download(connect(), path) == DATA


def test_whatever_is_kept_and_broken_and_bad_the_rest_is_fetched_and_no_more(server, connect, path, monkeypatch):
    monkeypatch.setattr(connection, "BLOCK", 4096)  # what comes in one block with the end of a bad segment is lost
    transport = connect(retries=1)
    for kept in (0, 5, LENGTH, 2 * LENGTH + 9, SIZE - 3, SIZE):
        for cut in (0, 1000, LENGTH, 2 * LENGTH + 1, SIZE):
            for bad in ((), (3,), (LENGTH + 3, 3 * LENGTH), (SIZE - 1,)):
                before = flipped(*(place for place in bad if place < kept))[:kept]
                path.write_bytes(before)
                server.on(FILE, release(DATA, cut=cut, end=Exchange.close), release(DATA))
                received = transport.received
                assert download(transport, path) == DATA
                needed = sum(
                    len(DATA[start : start + LENGTH])
                    for start in STARTS
                    if before[start : start + LENGTH] != DATA[start : start + LENGTH]
                )
                # A segment that was begun shows only in the end that its beginning is bad.
                assert transport.received - received - len(HASHES) <= needed + LENGTH + 4096


# Lists that are of no use ---------------------------------------------------------------------------------------------


BAD_LISTS = {
    "other bytes": answer(body=HASHES[::-1]),
    "a flipped bit": answer(body=flipped(0, data=HASHES)),
    "fewer hashes": answer(body=HASHES[:-32]),
    "more hashes": answer(body=HASHES + HASHES[:32]),
    "a truncated body": broken(head(Content_Type=BINARY, Content_Length=len(HASHES)) + HASHES[:-1], Exchange.close),
    "an endless body": dripping(head(Content_Type=BINARY), b"x" * 1024),
    "a length beyond all": answer(Content_Length=10**15),
    "no body": answer(),
    "nowhere": answer(404, b"not here"),
    "forbidden": answer(403, b"<Error>AccessDenied</Error>"),
    "a page": answer(200, b"<html>", Content_Type="text/html"),
    "an error of the server": answer(500),
    "compression": answer(body=HASHES, Content_Encoding="gzip"),
    "a redirect to another host": answer(302, Location="http://localhost/"),
    "a range": answer(206, HASHES[32:], Content_Range="bytes 32-159/160"),
    "a reset": broken(b""),
    "a dripping body": dripping(head(Content_Type=BINARY, Content_Length=len(HASHES)), b"x"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_without_a_list_the_whole_hash_decides(server, connect, path, name, caplog):
    server.on(LIST, BAD_LISTS[name])
    limits = {"document_timeout": 0.3} if "dripping" in name else {}
    assert download(connect(**limits), path) == DATA
    assert "can only be verified as a whole" in caplog.text
    path.write_bytes(flipped(7)[:1000])
    with pytest.raises(FailedHashVerificationError):
        download(connect(**limits), path)


def test_a_list_that_comes_at_the_second_attempt_is_used(server, connect, path):
    server.on(LIST, answer(500), answer(body=HASHES))
    path.write_bytes(flipped(7))
    assert download(connect(retries=1), path) == DATA
    assert ranges(server) == [f"bytes=0-{LENGTH - 1}"]


def test_a_server_that_asks_to_wait_is_not_asked_for_the_file_instead(server, connect, path):
    server.on(LIST, answer(429, Retry_After=120))
    with pytest.raises(ServerBusyError):
        download(connect(retries=3), path)
    assert not server.asked_for(FILE)


def test_a_signed_list_of_other_hashes_lets_nothing_pass(server, connect, path):
    other = HASHES[32:] + HASHES[:32]
    segments = Segments(hashlib.sha256(other).hexdigest(), LENGTH)
    server.on(path_of(segments.sha256), answer(body=other))
    with pytest.raises(DamagedSegmentError):
        download(connect(), path, segments)
    assert path.read_bytes() == b""


# Segments that are wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segment", range(len(STARTS)))
def test_a_segment_that_comes_wrong_is_fetched_again(server, connect, path, segment, pauses):
    server.on(FILE, release(flipped(STARTS[segment] + 9)), release(DATA))
    transport = connect()
    assert download(transport, path) == DATA
    assert ranges(server) == [None, f"bytes={STARTS[segment]}-" if segment else None]
    assert not pauses.waited
    assert transport.received <= len(HASHES) + SIZE + 2 * LENGTH + 262_144  # and what came in one block with it


@pytest.mark.parametrize("segment", range(len(STARTS)))
def test_a_segment_that_stays_wrong_ends_it_and_what_came_before_is_kept(server, connect, path, segment):
    start = STARTS[segment]
    server.on(FILE, release(flipped(start)))
    with pytest.raises(DamagedSegmentError, match=f"segment {segment}, which begins at byte {start}") as caught:
        download(connect(retries=3), path)
    assert (caught.value.url, caught.value.segment, caught.value.offset) == (server.api + FILE, segment, start)
    assert len(ranges(server)) == 3
    assert path.read_bytes() == DATA[:start]
    server.on(FILE, release(DATA))
    assert download(connect(), path) == DATA
    assert ranges(server)[3:] == [f"bytes={start}-" if start else None]


@pytest.mark.parametrize("segment", range(len(STARTS)))
@pytest.mark.parametrize("kept", [SIZE, SIZE - 7])
def test_a_flipped_bit_in_what_was_kept_costs_one_segment(server, connect, path, segment, kept):
    start = STARTS[segment]
    path.write_bytes(flipped(start + 99)[:kept])
    transport = connect()
    assert download(transport, path) == DATA
    again = len(DATA[start : start + LENGTH])
    if segment == len(STARTS) - 1:
        assert ranges(server)[-1] == f"bytes={start}-"
        assert transport.received == len(HASHES) + SIZE - kept + again
    else:
        rest = [] if kept == SIZE else [f"bytes={kept}-"]
        assert ranges(server) == [f"bytes={start}-{start + LENGTH - 1}", *rest]
        assert transport.received == len(HASHES) + again + SIZE - kept
    assert server.connections == 1


def test_a_segment_in_the_middle_that_comes_wrong_is_fetched_again_alone(server, connect, path):
    path.write_bytes(flipped(LENGTH))
    server.on(FILE, release(flipped(LENGTH + 1)), release(flipped(LENGTH + 1)), release(DATA))
    assert download(connect(), path) == DATA
    assert ranges(server) == [f"bytes={LENGTH}-{2 * LENGTH - 1}"] * 3


def test_more_than_was_signed_is_cut_off(server, connect, path):
    path.write_bytes(DATA + b"more")
    assert download(connect(), path) == DATA
    assert not server.asked_for(FILE)


@SEGMENTED
def test_without_any_right_byte_all_is_refused(server, connect, path, segments):
    server.on(FILE, release(DATA[::-1]))
    with pytest.raises(DamagedSegmentError if segments else FailedHashVerificationError):
        download(connect(), path, segments)


# Answers that are wrong -----------------------------------------------------------------------------------------------


@SEGMENTED
@pytest.mark.parametrize("kept", [1000, LENGTH, LENGTH + 1000])
def test_a_server_without_ranges_begins_anew(server, connect, path, segments, kept):
    path.write_bytes(DATA[:kept])
    server.on(FILE, release(DATA, ranges=False))
    assert download(connect(), path, segments) == DATA
    assert ranges(server) == [f"bytes={kept}-"]


def test_a_server_without_ranges_is_read_as_far_as_need_be(server, connect, path):
    path.write_bytes(flipped(9, LENGTH))
    server.on(FILE, dripping(head(**START, Content_Length=SIZE) + DATA[: 2 * LENGTH], b""))
    assert download(connect(), path) == DATA


@SEGMENTED
def test_without_progress_a_server_without_ranges_is_given_up(server, connect, path, segments):
    server.on(FILE, release(DATA, cut=1000, ranges=False, end=Exchange.close))
    with pytest.raises(MissingDataError):
        download(connect(retries=2), path, segments)
    assert len(server.asked_for(FILE)) == 3


BAD_RANGES = {
    "from the start": answer(206, DATA, **START, Content_Range=f"bytes 0-{SIZE - 1}/{SIZE}"),
    "from a byte later": answer(206, DATA[1001:], **START, Content_Range=f"bytes 1001-{SIZE - 1}/{SIZE}"),
    "too short": answer(206, DATA[1000:-1], **START, Content_Range=f"bytes 1000-{SIZE - 2}/{SIZE}"),
    "shorter than it says": answer(206, DATA[1000:-1], **START, Content_Range=f"bytes 1000-{SIZE - 1}/{SIZE}"),
    "longer than it says": answer(206, DATA[1000:] + b"x", **START, Content_Range=f"bytes 1000-{SIZE - 1}/{SIZE}"),
    "of a longer file": answer(206, DATA[1000:] + b"x", **START, Content_Range=f"bytes 1000-{SIZE}/{SIZE + 1}"),
    "of a file of unknown size": answer(206, DATA[1000:], **START, Content_Range=f"bytes 1000-{SIZE - 1}/*"),
    "of no range": answer(206, DATA[1000:], **START),
    "of two ranges": answer(206, DATA[1000:], Content_Type="multipart/byteranges; boundary=x"),
    "that cannot be had": answer(416, Content_Range=f"bytes */{SIZE}"),
    "that cannot be had, of a file that is shorter": answer(416, Content_Range="bytes */7"),
    "that cannot be had, without a word": answer(416, b"<html>"),
}


@SEGMENTED
@pytest.mark.parametrize("name", BAD_RANGES)
def test_after_a_range_that_was_not_asked_for_the_whole_is(server, connect, path, name, segments):
    path.write_bytes(DATA[:1000])
    server.on(FILE, BAD_RANGES[name], release(DATA))
    assert download(connect(), path, segments) == DATA
    assert ranges(server) == ["bytes=1000-", None]


@pytest.mark.parametrize("name", BAD_RANGES)
def test_a_range_that_never_comes_ends_it_and_nothing_that_was_there_is_lost(server, connect, path, name):
    path.write_bytes(DATA[:1000])
    server.on(FILE, BAD_RANGES[name])
    with pytest.raises((InvalidBodyError, HttpError)):
        download(connect(retries=3), path)
    assert ranges(server) == ["bytes=1000-", None]
    assert path.read_bytes() == DATA[:1000]


BAD_FILES = {
    "a stall before the header": (silence(), HttpRequestFailedError),
    "a stall in the body": (silence(head(**START, Content_Length=SIZE) + DATA[:1000]), MissingDataError),
    "no length": (broken(head(**START) + DATA, Exchange.close), InvalidBodyError),
    "chunks": (answer(**START, Content_Length=None, Transfer_Encoding="chunked", body=b"0\r\n\r\n"), InvalidBodyError),
    "a length that is no number": (answer(**START, body=DATA, Content_Length="1e5"), InvalidBodyError),
    "a byte less than was signed": (answer(**START, body=DATA[:-1]), InvalidBodyError),
    "a byte more than was signed": (answer(**START, body=DATA + b"x"), InvalidBodyError),
    "no byte": (answer(**START), InvalidBodyError),
    "an endless body": (dripping(head(**START), b"x" * 65536), InvalidBodyError),
    "a page": (answer(body=b"<html>", Content_Type="text/html"), InvalidBodyError),
    "compression": (answer(body=DATA, **START, Content_Encoding="gzip"), InvalidBodyError),
    "a range that nobody asked for": (
        answer(206, DATA, **START, Content_Range=f"bytes 0-{SIZE - 1}/{SIZE}"),
        InvalidBodyError,
    ),
    "416 that nobody asked for": (answer(416), HttpError),
    "nowhere": (answer(404), HttpError),
    "forbidden": (answer(403), HttpError),
    "a truncated body": (broken(head(**START, Content_Length=SIZE) + DATA[:-1], Exchange.close), MissingDataError),
    "a reset in the body": (broken(head(**START, Content_Length=SIZE) + DATA[:9000]), MissingDataError),
    "an error of the server": (answer(500), ServerBusyError),
    "too much traffic": (answer(429, Retry_After=120), ServerBusyError),
    "a redirect to another host": (answer(302, Location="http://localhost/file"), RedirectError),
}
KEPT = {"a stall in the body": 1000, "a truncated body": SIZE - 1}  # bytes of them


@SEGMENTED
@pytest.mark.parametrize("name", BAD_FILES)
def test_after_a_bad_answer_a_later_attempt_succeeds(server, connect, path, name, segments):
    act, error = BAD_FILES[name]
    server.on(FILE, act)
    with pytest.raises(error) as caught:
        download(connect(**({"idle_timeout": 0.3} if "stall" in name else {})), path, segments)
    assert type(caught.value) is error
    server.on(FILE, release(DATA))
    kept = path.read_bytes()
    if name in KEPT:
        assert kept == DATA[: KEPT[name]]
    else:  # a reset may take with it what was not read yet
        assert kept in (b"", DATA[:9000]) if name == "a reset in the body" else kept == b""
    assert download(connect(), path, segments) == DATA
    assert ranges(server)[1:] == [f"bytes={len(kept)}-" if kept else None]


# Limits ---------------------------------------------------------------------------------------------------------------


@SEGMENTED
def test_a_server_that_is_busy_in_the_middle_is_asked_again_when_it_wants(server, connect, path, pauses, segments):
    server.on(
        FILE, release(DATA, cut=100_000, end=Exchange.close), answer(429, Retry_After=7), answer(503), release(DATA)
    )
    assert download(connect(retries=3), path, segments) == DATA
    assert pauses.waited == [0.5, 7, 2.0]
    assert ranges(server) == [None, *["bytes=100000-"] * 3]


def test_a_server_that_is_busy_for_long_is_left_alone_and_all_is_kept(server, connect, path, pauses):
    server.on(FILE, release(DATA, cut=100_000, end=Exchange.close), answer(429, Retry_After=3600))
    with pytest.raises(ServerBusyError) as caught:
        download(connect(retries=3), path)
    assert caught.value.retry_after == 3600
    assert path.read_bytes() == DATA[:100_000]


@SEGMENTED
def test_a_file_has_one_deadline_for_all_its_connections(server, connect, path, segments):
    rest = {"Content_Length": SIZE - 30, "Content_Range": f"bytes 30-{SIZE - 1}/{SIZE}"}
    server.on(FILE, *[release(DATA, cut=10, end=Exchange.close)] * 3, silence(head(206, **START, **rest)))
    with pytest.raises(DeadlineExceededError):
        download(connect(retries=1, release_timeout=0.5), path, segments)
    assert path.read_bytes() == DATA[:30]


def test_the_list_counts_towards_the_deadline(server, connect, path):
    server.on(LIST, silence())
    with pytest.raises(DeadlineExceededError):
        download(connect(release_timeout=0.3), path)
    assert not server.asked_for(FILE)


def test_a_file_beyond_the_limit_is_not_asked_for(server, connect, path):
    megabyte = 1024 * 1024
    with pytest.raises(TooMuchDataError) as caught:
        download(connect(max_release=(SIZE - 1) / megabyte), path)
    assert caught.value.limit == SIZE - 1
    assert not server.asked
    assert download(connect(max_release=SIZE / megabyte), path) == DATA


def test_a_file_that_does_not_fit_on_the_disk_is_not_begun(server, connect, path, monkeypatch):
    path.write_bytes(DATA[:1000])
    monkeypatch.setattr(staging, "_free", lambda folder: 1_000_000)
    with pytest.raises(NotEnoughSpaceError) as caught:
        download(connect(), path)
    assert caught.value.needed == SIZE - 1000 + 1024 * 1024
    assert not server.asked_for(FILE)
    assert path.read_bytes() == DATA[:1000]


@SEGMENTED
def test_closing_ends_it_and_keeps_what_came(server, connect, path, pauses, segments):
    server.on(FILE, silence(head(**START, Content_Length=SIZE) + DATA[:100_000]))
    transport = connect(retries=3)
    closing = threading.Thread(target=lambda: server.stalled.wait() and close(), name="closing")

    def close():
        wait_until(lambda: path.stat().st_size == 100_000, "the beginning of the file")
        pauses.closing = True
        transport.close()

    closing.start()
    with pytest.raises((MissingDataError, HttpRequestFailedError)):
        download(transport, path, segments)
    closing.join()
    assert path.read_bytes() == DATA[:100_000]
    assert len(server.asked_for(FILE)) == 1


@SEGMENTED
def test_closing_ends_the_reading_of_what_was_kept(server, connect, path, pauses, segments):
    kept = DATA * 8  # more than is read at once
    path.write_bytes(kept)
    told = []

    def progress(done, total):
        told.append(done)
        pauses.closing = True

    part = PartFile(path)
    with pytest.raises(HttpRequestFailedError, match="being closed"):
        connect().file(FILE, DIGEST, len(kept), part, progress, segments=segments)
    part.close()
    assert len(told) == 1
    assert path.read_bytes() == kept


def test_a_download_takes_little_memory(server, connect, path):
    size = 32 * 1024 * 1024
    block = random.Random(4).randbytes(LENGTH)
    hashes = hashlib.sha256(block).digest() * (size // LENGTH)
    segments = Segments(hashlib.sha256(hashes).hexdigest(), LENGTH)
    server.on(path_of(segments.sha256), answer(body=hashes))

    def act(exchange):
        exchange.send(head(**START, Content_Length=size))
        for _ in range(size // LENGTH):
            exchange.send(block)

    server.on(FILE, act)
    part = PartFile(path)
    tracemalloc.start()
    try:
        connect().file(FILE, DIGEST, size, part, lambda done, total: None, segments=segments)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        part.close()
    assert part.size == size
    assert peak < 4 * 1024 * 1024


def test_the_range_goes_along_with_a_redirect(server, connect, path):
    path.write_bytes(DATA[:1000])
    server.on(FILE, answer(302, Location="/elsewhere"))
    server.on("/elsewhere", release(DATA))
    assert download(connect(), path) == DATA
    assert server.asked[-1][1]["range"] == "bytes=1000-"


def test_the_bytes_after_the_announced_end_are_not_taken(server, connect, path):
    server.on(FILE, answer(**START, body=DATA + b"more", Content_Length=SIZE))
    assert download(connect(), path) == DATA


def test_over_tls_it_is_the_same(path):
    with Misbehaving(certificate()) as server, requests.Session() as session:
        session.verify = str(certificate_file())
        session.trust_env = False
        server.on(LIST, answer(body=HASHES))
        server.on(FILE, release(flipped(LENGTH, 9), cut=2 * LENGTH + 1, end=Exchange.close), release(DATA))
        path.write_bytes(flipped(3)[:70_000])
        transport = Transport(config(server, session=session, retries=1), Pauses())
        assert download(transport, path) == DATA
        assert ranges(server)[0] == f"bytes=0-{LENGTH - 1}"

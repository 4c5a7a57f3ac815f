import contextlib
import errno
import os
import socket
import threading
from io import FileIO

import pytest
from flask import Flask, request
from hypothesis import given
from hypothesis import strategies as st

from patchify.server import Config, patchify_bp
from patchify.server.delivery import Slice, deliver
from tests.conftest import KEY
from tests.running import PATIENCE

DATA = bytes(range(256)) * 8  # 2 KiB
SHA = "ab" * 32
app = Flask(__name__)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


class Answer:
    """What `deliver` made of a request, read as a server without sendfile reads it."""

    def __init__(self, path, headers=(), method="GET", threshold=1000):
        config = Config(appname="app", key=KEY, releases=path.parent, versions={}, stream_threshold=threshold)
        self.sent = []
        self.file = FileIO(path)
        with app.test_request_context("/", method=method, headers=dict(headers)):
            response = deliver(request, self.file, SHA, config, self.sent.append)
            self.streamed = response.direct_passthrough
            iterator, status, headers = response.get_wsgi_response(request.environ)
            self.headers = dict(headers)
            self.status = int(status.split()[0])
            self.body = b"".join(iterator)
            response.close()


BOTH_WAYS = pytest.mark.parametrize("threshold", [1000, 0], ids=["in one piece", "streamed"])


@BOTH_WAYS
def test_a_whole_file_is_sent_with_its_length_and_its_hash(path, threshold):
    answer = Answer(path, threshold=threshold)
    assert (answer.status, answer.body) == (200, DATA)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Length"] == str(len(DATA))
    assert answer.headers["ETag"] == f'"{SHA}"'
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.streamed == (threshold == 0)
    assert answer.sent == ([len(DATA)] if answer.streamed else [])
    assert answer.file.closed


@pytest.mark.parametrize(("size", "streamed"), [(1024, False), (1025, True), (0, False)])
def test_the_threshold_is_the_largest_body_in_one_piece(path, size, streamed):
    path.write_bytes(DATA[:size])
    assert Answer(path, threshold=1).streamed == streamed


def test_the_threshold_counts_what_is_asked_for(path):
    assert not Answer(path, {"Range": "bytes=0-1023"}, threshold=1).streamed
    assert Answer(path, {"Range": "bytes=0-1024"}, threshold=1).streamed


@BOTH_WAYS
@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, 2048),
        ("bytes=100-199", 100, 200),
        ("bytes=2047-", 2047, 2048),
        ("bytes=2000-99999999999999999999999", 2000, 2048),
        ("bytes=-1", 2047, 2048),
        ("bytes=-2048", 0, 2048),
        ("bytes=-99999999999999999999999", 0, 2048),  # longer than the file: all of it
        ("Bytes = 5-9", 5, 10),
    ],
)
def test_a_range_is_sent_and_described(path, asked, start, stop, threshold):
    answer = Answer(path, {"Range": asked}, threshold=threshold)
    assert answer.status == 206
    assert answer.body == DATA[start:stop]
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/2048"
    assert answer.headers["Content-Length"] == str(stop - start)
    assert answer.file.closed


@given(st.integers(0, 2500), st.none() | st.integers(0, 2500))
def test_any_range_is_what_slicing_gives(tmp_path_factory, first, last):
    path = tmp_path_factory.getbasetemp() / "ranged"
    path.write_bytes(DATA)
    answer = Answer(path, {"Range": f"bytes={first}-{'' if last is None else last}"}, threshold=0)
    if last is not None and last < first:  # RFC 9110 section 14.1.1: invalid, so ignored
        assert (answer.status, answer.body) == (200, DATA)
    elif first >= len(DATA):
        assert (answer.status, answer.body) == (416, b"")
    else:
        assert (answer.status, answer.body) == (206, DATA[first : len(DATA) if last is None else last + 1])


@pytest.mark.parametrize("asked", ["bytes=2048-", "bytes=5000-6000", "bytes=99999999999999999999999-"])
def test_a_range_outside_the_file_is_416_with_its_size(path, asked):
    answer = Answer(path, {"Range": asked}, threshold=0)
    assert (answer.status, answer.body) == (416, b"")
    assert answer.headers["Content-Range"] == "bytes */2048"
    assert answer.headers["Content-Length"] == "0"
    assert answer.file.closed


@pytest.mark.parametrize("asked", ["bytes=0-", "bytes=-1"])
def test_no_range_of_an_empty_file_exists(path, asked):
    path.write_bytes(b"")
    assert Answer(path, {"Range": asked}).status == 416


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-1,5-6",
        "bytes=5-6,0-1",
        "bytes=0-99,50-149",
        "bytes=" + ",".join(f"{at}-{at}" for at in range(0, 2000, 2)),  # not a thousand answers for one
        "bytes=9-5",
        "bytes=-0",
        "bytes=a-b",
        "bytes=",
        "bytes",
        "lines=0-1",
        "bytes=" + "9" * 5000 + "-",
        "bytes=\u0661-",
    ],
)
def test_several_ranges_and_nonsense_are_answered_whole(path, asked):
    answer = Answer(path, {"Range": asked.encode().decode("latin-1")})
    assert (answer.status, answer.body) == (200, DATA)
    assert "Content-Range" not in answer.headers


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (f'"{SHA}"', 206),
        (f'"{SHA[1:]}"', 200),
        (f'W/"{SHA}"', 200),  # RFC 9110 section 13.1.5: only a strong validator
        (SHA, 200),
        ("Sat, 21 Nov 2026 18:00:00 GMT", 200),
        ("", 200),
    ],
)
def test_a_range_is_sent_only_of_the_file_that_the_client_knows(path, condition, status):
    assert Answer(path, {"Range": "bytes=5-", "If-Range": condition}).status == status


@pytest.mark.parametrize("condition", [f'"{SHA}"', f'"other", "{SHA}"', f'W/"{SHA}"', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_client_that_has_the_file_gets_304(path, condition, method):
    answer = Answer(path, {"If-None-Match": condition, "Range": "bytes=5-"}, method, threshold=0)
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["ETag"] == f'"{SHA}"'
    assert "Content-Length" not in answer.headers
    assert "Content-Range" not in answer.headers
    assert answer.file.closed


def test_a_client_that_has_another_file_gets_this_one(path):
    assert Answer(path, {"If-None-Match": f'"{SHA[1:]}"'}).status == 200


@BOTH_WAYS
def test_head_has_the_headers_of_the_whole_and_no_body(path, threshold):
    answer = Answer(path, {"Range": "bytes=5-9"}, "HEAD", threshold)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == "2048"
    assert answer.headers["ETag"] == f'"{SHA}"'
    assert answer.file.closed


def test_a_file_that_ends_early_is_no_body_in_one_piece(path, monkeypatch):
    stat = os.fstat

    def larger(descriptor):
        found = list(stat(descriptor))
        found[6] += 1
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", larger)
    with pytest.raises(OSError, match="ended after 2048 of 2049 bytes"):
        Answer(path)


# Slices ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cut(path):
    """Return a function that cuts a `Slice` out of the file; what it sent is appended to ``cut.sent``."""

    def cut(start, size):
        return Slice(FileIO(path), start, size, 16, cut.sent.append)

    cut.sent = []
    return cut


@given(st.integers(0, 2048), st.integers(0, 2048), st.lists(st.integers(-1, 300), max_size=5))
def test_any_slice_reads_like_a_slice(tmp_path_factory, start, size, steps):
    path = tmp_path_factory.getbasetemp() / "sliced"
    path.write_bytes(DATA)
    size = min(size, len(DATA) - start)
    sent = []
    piece = Slice(FileIO(path), start, size, 16, sent.append)
    assert b"".join([*(piece.read(step) for step in steps), piece.read()]) == DATA[start : start + size]
    assert piece.read(1) == b""
    piece.close()
    assert sent == [size]


def test_closing_tells_once_how_far_it_came(cut):
    piece = cut(100, 50)
    piece.read(20)
    piece.close()
    piece.close()
    assert cut.sent == [20]


def send(piece, count, receive=True):
    """Send a slice as gunicorn does, over a real socket; return what arrived."""
    ours, theirs = socket.socketpair()
    arrived = []

    def drain():
        while data := theirs.recv(65536):
            arrived.append(data)

    reader = threading.Thread(target=drain)
    with theirs, ours:
        if receive:
            reader.start()
        else:
            theirs.close()
        try:
            ours.sendfile(piece, os.lseek(piece.fileno(), 0, os.SEEK_CUR), count)
        finally:
            ours.close()
            if receive:
                reader.join(PATIENCE)
    return b"".join(arrived)


def test_the_kernel_sends_from_the_start_of_the_slice(cut):
    piece = cut(1000, 500)
    assert send(piece, 500) == DATA[1000:1500]
    piece.close()
    assert cut.sent == [500]


def test_a_client_that_is_gone_is_no_fault_of_the_file(cut, path):
    path.write_bytes(DATA * 10)
    piece = cut(1000, 15_000)
    with pytest.raises(BrokenPipeError):
        send(piece, 15_000, receive=False)
    piece.close()
    assert cut.sent[0] < 15_000


@pytest.mark.parametrize("left", [1200, 1000, 10, 0])
def test_a_file_cut_short_on_disk_is_an_error_even_if_nothing_was_sent(cut, path, left):
    piece = cut(1000, 500)
    os.truncate(path, left)
    arrived = send(piece, 500)
    assert arrived == DATA[1000:left]
    with pytest.raises(OSError, match=f"ended after {len(arrived)} of 500 bytes") as caught:
        piece.close()
    assert caught.value.errno == errno.EIO
    assert cut.sent == [len(arrived)]
    piece.close()


@pytest.mark.parametrize("left", [1200, 1000, 10, 0])
def test_a_file_cut_short_on_disk_is_an_error_for_who_reads(cut, path, left):
    piece = cut(1000, 500)
    os.truncate(path, left)
    with pytest.raises(OSError, match="while it was sent"):
        piece.read()
    with pytest.raises(OSError, match="while it was sent"):
        piece.close()
    assert cut.sent == [max(left - 1000, 0)]


class Connection:
    """A socket, as far as gunicorn's is used: the options that it has, and all that were set."""

    def __init__(self, error=None):
        self.error = error
        self.options = {socket.TCP_CORK: 0, socket.TCP_USER_TIMEOUT: 5000}
        self.set = []

    def getsockopt(self, level, option):
        assert level == socket.IPPROTO_TCP
        return self.options[option]

    def setsockopt(self, level, option, value):
        assert level == socket.IPPROTO_TCP
        self.set.append((option, value))
        if self.error:
            raise self.error
        self.options[option] = value


on_linux = pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has these options")


@pytest.fixture
def ask(publish):
    """Return a function that asks for a release of so many bytes over a connection."""

    def ask(connection, size, method="GET", headers=(), **settings):
        content = bytes(size)
        host = Flask("host")
        configured = publish({"1.0.0": content}) | settings
        host.config.update({f"PATCHIFY_{name.upper()}": value for name, value in configured.items()})
        host.register_blueprint(patchify_bp, url_prefix="/api")
        environ = {"gunicorn.socket": connection}
        return host.test_client().open(
            "/api/releases/1.0.0", method=method, headers=dict(headers), environ_overrides=environ, buffered=False
        )

    return ask


@on_linux
@pytest.mark.parametrize("error", [None, OSError(95, "Operation not supported")])
def test_a_stream_goes_out_in_whole_segments_and_its_rest_is_not_kept_back(ask, error):
    connection = Connection(error)
    response = ask(connection, 1001 * 1024, stall_timeout=0)
    assert connection.set == [(socket.TCP_CORK, 1)]
    assert response.data == bytes(1001 * 1024)
    response.close()
    assert connection.set == [(socket.TCP_CORK, 1), (socket.TCP_CORK, 0)]


@on_linux
@pytest.mark.parametrize("size", [100, 1001 * 1024], ids=["in one piece", "streamed"])
@pytest.mark.parametrize(
    ("settings", "limit"), [({}, 60_000), ({"stall_timeout": 7}, 7000), ({"stall_timeout": 0}, 5000)]
)
def test_a_client_that_stalls_is_dropped_while_a_file_is_sent_and_not_longer(ask, size, settings, limit):
    connection = Connection()
    response = ask(connection, size, **settings)
    assert connection.options[socket.TCP_USER_TIMEOUT] == limit
    response.close()
    assert connection.options == {socket.TCP_CORK: 0, socket.TCP_USER_TIMEOUT: 5000}  # as the host has it


@on_linux
@pytest.mark.parametrize(
    ("method", "headers"),
    [("HEAD", {}), ("GET", {"If-None-Match": "*"}), ("GET", {"Range": "bytes=9000000-"})],
    ids=["head", "known", "outside"],
)
def test_a_connection_is_let_alone_when_no_file_is_sent(ask, method, headers):
    connection = Connection()
    ask(connection, 1001 * 1024, method, headers).close()
    assert connection.set == []


@on_linux
@pytest.mark.parametrize("size", [100, 1001 * 1024], ids=["in one piece", "streamed"])
def test_what_is_no_tcp_connection_is_sent_to_as_ever(ask, size):
    ours, theirs = socket.socketpair()
    with ours, theirs, ask(ours, size) as response:
        assert response.data == bytes(size)


@on_linux
@pytest.mark.parametrize("size", [100, 1001 * 1024], ids=["in one piece", "streamed"])
@pytest.mark.parametrize(
    ("error", "told"), [(TimeoutError(110, "timed out"), BrokenPipeError), (ValueError(), ValueError)]
)
def test_a_client_that_was_dropped_is_to_gunicorn_one_that_has_left(ask, size, error, told):
    with pytest.raises(told), contextlib.closing(ask(Connection(), size)):
        raise error  # as from the socket

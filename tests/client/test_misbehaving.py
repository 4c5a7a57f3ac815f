"""The client against servers, and things between, that do what they should not. What one signs, `test_trust` covers."""

import email.utils
import hashlib
import os
import random
import threading
import time
import tracemalloc

import pytest
import requests

from patchify.client import Config, Idle, Updater, staging
from patchify.client.answers import LONGEST_RETRY_AFTER
from patchify.client.connection import MAX_REDIRECTS
from patchify.client.staging import PartFile
from patchify.client.transport import Transport
from patchify.errors import (
    DeadlineExceededError,
    FailedHashVerificationError,
    FailedSignatureVerificationError,
    HttpError,
    HttpRequestFailedError,
    InvalidBodyError,
    InvalidPayloadError,
    InvalidSignatureError,
    MissingDataError,
    MissingSignatureError,
    NotEnoughSpaceError,
    RedirectError,
    ServerBusyError,
    TooMuchDataError,
    UnexpectedContentTypeError,
    VersionNotFoundError,
)
from patchify.keys import SigningKey
from tests.client.misbehaving import (
    BINARY,
    KEY,
    Exchange,
    Misbehaving,
    answer,
    broken,
    certificate,
    certificate_file,
    document,
    document_parts,
    dripping,
    head,
    release,
    silence,
)
from tests.running import PATIENCE

OLD = b"version one"
DATA = random.Random(2).randbytes(300_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
RELEASES = {"1.0.0": OLD, "2.0.0": DATA}
LATEST, HASH, FILE = "latest", "hashes/2.0.0", "releases/2.0.0"
TWO = {"version": "2.0.0"}
OTHER = SigningKey.from_hex("22" * 32)


class Pauses:
    """Waits for nothing, and remembers for how long. Once ``closing`` is set, the updater is being closed."""

    def __init__(self):
        self.waited = []
        self.closing = False

    def __call__(self, seconds):
        if seconds:
            self.waited.append(seconds)
        return self.closing


class Memory:
    """A part that is kept in memory."""

    def __init__(self, data=b""):
        self.data = data
        self.taken_up = 0
        self.reserved = []  # the size of the whole, each time that was asked for

    @property
    def size(self):
        return len(self.data)

    def take_up(self, progress):
        self.taken_up += 1
        progress(self.size)

    def reserve(self, total):
        self.reserved.append(total)

    def write(self, data):
        self.data += data

    def cut(self, size):
        self.data = self.data[:size]


@pytest.fixture
def server():
    with Misbehaving() as made:
        made.behave(RELEASES)
        yield made


@pytest.fixture
def pauses():
    return Pauses()


def config(server, **changes) -> Config:
    limits = {"connect_timeout": PATIENCE, "idle_timeout": PATIENCE, "document_timeout": PATIENCE, "retries": 0}
    return Config(**{"version": "1.0.0", "api": server.api, "key": KEY.verifying_key, **limits, **changes})


@pytest.fixture
def connect(server, pauses):
    """Return a function that makes a transport, closed in the end."""
    made = []

    def connect(**changes):
        made.append(Transport(config(changes.pop("server", server), **changes), pauses, lambda: 0.5))
        return made[-1]

    yield connect
    for transport in made:
        transport.close()


def download(transport, part=None, seen=None):
    part = part or Memory()
    transport.release("2.0.0", DIGEST, part, lambda *both: seen.append(both) if seen is not None else None)
    return part.data


# The whole of an update: every failure is told by its class, leaves all as it was, and is no obstacle later ------------


class Host:
    """A program, a file of some bytes, that embeds an updater; a restart is only noted."""

    def __init__(self, folder, server, **changes):
        self.program = folder / "app"
        self.program.write_bytes(OLD)
        self.folder = folder / ".app.patchify"
        self.restarts = []
        settings = config(server, executable=self.program, guardian=False, **changes)  # nothing becomes version 2
        self.transport = Transport(settings, Pauses(), lambda: 0.5)
        self.updater = Updater(settings, restarter=self.restarts.append, transport=self.transport)

    def files(self):
        return {path.name for path in self.folder.iterdir()} if self.folder.exists() else set()


@pytest.fixture
def host(tmp_path, server):
    made = []

    def host(**changes):
        made.append(Host(tmp_path, server, **changes))
        return made[-1]

    yield host
    for each in made:
        each.updater.close()


JSON = "application/json"
BODY = document_parts(TWO)
HASHES = {"version": "2.0.0", "hash": DIGEST}
LENGTH = len(BODY["body"])
ANY_DOCUMENT = {
    "a stall before the header": (silence(), HttpRequestFailedError),
    "a stall in the header": (silence(b"HTTP/1.1 200 OK\r\nContent-"), HttpRequestFailedError),
    "a stall in the body": (silence(head(Content_Type=JSON, Content_Length=9) + b"{"), MissingDataError),
    "a stall in a chunk": (
        silence(head(Content_Type=JSON, Transfer_Encoding="chunked") + b"9\r\n{"),
        HttpRequestFailedError,
    ),
    "a dripping header": (dripping(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"), DeadlineExceededError),
    "endless preliminary answers": (dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), DeadlineExceededError),
    "a dripping body": (dripping(head(Content_Type=JSON, Content_Length=60000), b" "), DeadlineExceededError),
    "a dripping body without length": (dripping(head(Content_Type=JSON), b" "), DeadlineExceededError),
    "a dripping length of a chunk": (
        dripping(head(Content_Type=JSON, Transfer_Encoding="chunked"), b"0"),
        DeadlineExceededError,
    ),
    "a truncated body": (
        broken(head(Content_Type=JSON, Content_Length=99) + b"{}", Exchange.close),
        MissingDataError,
    ),
    "a truncated chunked body": (
        broken(head(Content_Type=JSON, Transfer_Encoding="chunked") + b"9\r\n{}", Exchange.close),
        HttpRequestFailedError,
    ),
    "a chunk without length": (
        answer(Content_Type=JSON, Content_Length=None, Transfer_Encoding="chunked", body=b"x\r\n"),
        HttpRequestFailedError,
    ),
    "a chunk of absurd length": (
        broken(head(Content_Type=JSON, Transfer_Encoding="chunked") + b"f" * 100 + b"\r\n", Exchange.close),
        HttpRequestFailedError,
    ),
    "a length that is too short": (
        answer(**{**BODY, "Content_Length": LENGTH - 1}),
        FailedSignatureVerificationError,
    ),
    "a length that is no number": (answer(**{**BODY, "Content_Length": "x"}), InvalidBodyError),
    "a negative length": (answer(**{**BODY, "Content_Length": "-1"}), InvalidBodyError),
    "two lengths": (answer(**{**BODY, "Content_Length": f"{LENGTH}, {LENGTH}"}), InvalidBodyError),
    "no body": (answer(**{**BODY, "body": b""}), FailedSignatureVerificationError),
    "a body announced as endless": (answer(**{**BODY, "Content_Length": 10**15}), TooMuchDataError),
    "a body just above the limit": (document(b" " * 65537), TooMuchDataError),
    "an endless body": (dripping(head(Content_Type=JSON), b" " * 65536), TooMuchDataError),
    "an endless chunked body": (
        dripping(head(Content_Type=JSON, Transfer_Encoding="chunked"), b"1000\r\n" + b" " * 4096 + b"\r\n"),
        TooMuchDataError,
    ),
    "another content type": (document(TWO, Content_Type="text/html"), UnexpectedContentTypeError),
    "no content type": (document(TWO, Content_Type=None), UnexpectedContentTypeError),
    "compression that nobody asked for": (document(TWO, Content_Encoding="gzip"), InvalidBodyError),
    "garbage": (document(b"\xff\x00garbage"), InvalidPayloadError),
    "an array": (document(b'["2.0.0"]'), InvalidPayloadError),
    "a deep array": (document(b"[" * 60000), InvalidPayloadError),
    "an empty object": (document({}), InvalidPayloadError),
    "duplicate keys": (
        document(f'{{"version":"2.0.0","version":"2.0.0","hash":"{DIGEST}"}}'.encode()),
        InvalidPayloadError,
    ),
    "no signature": (document(TWO, None), MissingSignatureError),
    "an empty signature": (document(TWO, X_Signature=""), MissingSignatureError),
    "a malformed signature": (document(TWO, X_Signature="ab"), InvalidSignatureError),
    "two signatures": (document(TWO, X_Signature=f"{'0' * 128}, {'0' * 128}"), InvalidSignatureError),
    "a wrong signature": (document(TWO, X_Signature="0" * 128), FailedSignatureVerificationError),
    "the signature of another key": (document(TWO, OTHER), FailedSignatureVerificationError),
    "a bad request": (answer(400, b"no"), HttpError),
    "no content": (answer(204), HttpError),
    "a partial answer": (answer(206, **BODY), HttpError),
    "a redirect to nowhere": (answer(302), HttpError),
    "not modified": (answer(304), HttpError),
    "a timeout of the server": (answer(408), ServerBusyError),
    "too many requests": (answer(429, Retry_After=7), ServerBusyError),
    "an error of the server": (answer(500, b"oh"), ServerBusyError),
    "a busy server": (answer(503, Retry_After="soon"), ServerBusyError),
    "a reset before the header": (broken(b""), HttpRequestFailedError),
    "a reset in the header": (broken(b"HTTP/1.1 200 OK\r\nConte"), HttpRequestFailedError),
    "a reset in the body": (broken(head(Content_Type=JSON, Content_Length=99) + b"{"), MissingDataError),
    "an end before the header": (broken(b"", Exchange.close), HttpRequestFailedError),
    "no HTTP": (broken(b"SSH-2.0-OpenSSH_9.6\r\n", Exchange.close), HttpRequestFailedError),
    "too many headers": (answer(**{f"X-{n}": n for n in range(200)}), HttpRequestFailedError),
    "a header that is too long": (answer(X="x" * 70000), HttpRequestFailedError),
    "a redirect to another host": (answer(302, Location="http://localhost/"), RedirectError),
    "a redirect to another port": (answer(302, Location="http://127.0.0.1:1/"), RedirectError),
    "a redirect to another scheme": (answer(302, Location="file:///etc/passwd"), RedirectError),
    "a redirect with an endless body": (
        dripping(head(302, Location="http://localhost/", Content_Encoding="gzip"), b"x" * 65536),
        RedirectError,
    ),
    "a redirect to no address": (answer(302, Location="http://[::1"), RedirectError),
    "a redirect to a port that is none": (answer(302, Location="http://127.0.0.1:x/"), RedirectError),
}
STALLS = {"idle_timeout": 0.4}
DRIPS = {"document_timeout": 0.5}


def limits(name):
    if "stall" in name:
        return STALLS
    return DRIPS if "dripping" in name or "preliminary" in name else {}


def fail_then_succeed(host, server, act, error, path, name):
    program = host(**limits(name))
    server.on(path, act)
    with pytest.raises(error) as caught:
        program.updater.update()
    assert type(caught.value) is error
    assert program.updater.status == Idle()
    assert program.program.read_bytes() == OLD
    assert not program.restarts
    server.behave(RELEASES)
    program.transport._config = program.transport._connection._config = config(server)  # what fails has short limits
    assert program.updater.update() is True
    assert program.program.read_bytes() == DATA
    assert len(program.restarts) == 1


@pytest.mark.parametrize("path", [LATEST, HASH])
@pytest.mark.parametrize("name", ANY_DOCUMENT)
def test_after_a_bad_document_all_is_as_it_was_and_a_later_attempt_succeeds(host, server, name, path):
    act, error = ANY_DOCUMENT[name]
    fail_then_succeed(host, server, act, error, path, name)


REPLAYS = {
    "the hashes as latest": (LATEST, document(HASHES), InvalidPayloadError),
    "latest as the hashes": (HASH, document(TWO), InvalidPayloadError),
    "the hashes of another version": (HASH, document({**HASHES, "version": "1.0.0"}), InvalidPayloadError),
    "the hashes of another build": (HASH, document({**HASHES, "version": "2.0.0+b1"}), InvalidPayloadError),
    "a version that is not there": (LATEST, document({"version": "3.0.0"}), VersionNotFoundError),
    "latest nowhere": (LATEST, answer(404), HttpError),
    "the hashes nowhere": (HASH, answer(404), VersionNotFoundError),
    "the file nowhere": (FILE, answer(404), VersionNotFoundError),
}


@pytest.mark.parametrize("name", REPLAYS)
def test_a_signed_answer_to_another_question_is_refused(host, server, name):
    path, act, error = REPLAYS[name]
    fail_then_succeed(host, server, act, error, path, name)


def test_an_old_answer_that_is_replayed_never_leads_back(host, server):
    program = host(version="2.0.0")
    server.on(LATEST, document({"version": "1.0.0"}))
    assert program.updater.update() is False
    assert not server.asked_for("hashes/1.0.0")


START = {"Content_Type": BINARY, "ETag": f'"{DIGEST}"'}
BAD_FILES = {
    "a stall before the header": (silence(), HttpRequestFailedError),
    "a stall in the body": (silence(head(**START, Content_Length=300_000) + DATA[:1000]), MissingDataError),
    "no length": (broken(head(**START) + DATA, Exchange.close), InvalidBodyError),
    "chunks": (answer(**START, Content_Length=None, Transfer_Encoding="chunked", body=b"0\r\n\r\n"), InvalidBodyError),
    "a length that is no number": (answer(**START, body=DATA, Content_Length="1e5"), InvalidBodyError),
    "a length above the limit": (answer(**START, Content_Length=2**40), TooMuchDataError),
    "an endless body": (dripping(head(**START), b"x" * 65536), InvalidBodyError),
    "another content type": (answer(body=DATA, Content_Type="text/html"), UnexpectedContentTypeError),
    "compression": (answer(body=DATA, **START, Content_Encoding="gzip"), InvalidBodyError),
    "a partial answer that nobody asked for": (
        answer(206, DATA[5:], **START, Content_Range="bytes 5-299999/300000"),
        InvalidBodyError,
    ),
    "a truncated body": (broken(head(**START, Content_Length=300_000) + DATA[:-1], Exchange.close), MissingDataError),
    "a reset in the body": (broken(head(**START, Content_Length=300_000) + DATA[:9000]), MissingDataError),
    "an error of the server": (answer(500), ServerBusyError),
    "too much traffic": (answer(429, Retry_After=120), ServerBusyError),
    "a redirect to another host": (answer(302, Location="http://localhost/file"), RedirectError),
    "other bytes": (release(DATA[::-1]), FailedHashVerificationError),
    "too few bytes": (release(DATA[:-1]), FailedHashVerificationError),
    "too many bytes": (release(DATA + b"x"), FailedHashVerificationError),
    "no bytes": (release(b""), FailedHashVerificationError),
    "a range that cannot be had": (answer(416, Content_Range="bytes */7", Content_Length=0), HttpRequestFailedError),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_after_a_bad_file_all_is_as_it_was_and_a_later_attempt_succeeds(host, server, name):
    act, error = BAD_FILES[name]
    fail_then_succeed(host, server, act, error, FILE, name)


def test_a_release_whose_bytes_never_match_is_downloaded_twice_and_leaves_nothing(host, server):
    program = host()
    server.on(FILE, release(DATA[::-1], etag=f'"{DIGEST}"'))
    with pytest.raises(FailedHashVerificationError) as caught:
        program.updater.update()
    assert caught.value.found == hashlib.sha256(DATA[::-1]).hexdigest()
    assert len(server.asked_for(FILE)) == 2
    assert not {name for name in program.files() if name.startswith(("staged", "."))}


def test_a_beginning_that_was_damaged_on_disk_costs_one_more_download(host, server):
    program = host()
    server.on(FILE, release(DATA, cut=100_000))
    with pytest.raises(MissingDataError):
        program.updater.update()
    (part,) = program.folder.glob("*.part")
    with part.open("r+b") as file:
        file.write(b"damage")
    server.behave(RELEASES)
    assert program.updater.update() is True
    assert program.program.read_bytes() == DATA
    assert ["range" in headers for headers in server.asked_for(FILE)] == [False, True, False]


def test_a_beginning_longer_than_the_release_is_thrown_away(host, server):
    program = host(retries=1)
    program.updater.check()
    (program.folder / f"staged-{DIGEST}.part").write_bytes(DATA + b"more")
    assert program.updater.update() is True
    assert program.program.read_bytes() == DATA


def test_closing_breaks_a_download_off_and_keeps_its_beginning(host, server, tmp_path):
    program = host()
    server.on(FILE, silence(head(**START, Content_Length=300_000, Connection="close") + DATA[:50_000]))
    errors = []

    def update():
        try:
            program.updater.update()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=update)
    thread.start()
    part = program.folder / f"staged-{DIGEST}.part"
    assert server.stalled.wait(PATIENCE)
    while not part.exists() or part.stat().st_size < 50_000:
        assert thread.is_alive()
        time.sleep(0.01)
    program.updater.close()
    thread.join(PATIENCE / 3)  # far less than the time that silence is allowed
    assert not thread.is_alive()
    assert isinstance(errors[0], MissingDataError | HttpRequestFailedError)
    assert part.read_bytes() == DATA[:50_000]
    assert program.updater.status == Idle()
    server.behave(RELEASES)
    again = Host(tmp_path, server)
    try:
        assert again.updater.update() is True
    finally:
        again.updater.close()
    assert again.program.read_bytes() == DATA
    assert server.asked_for(FILE)[-1]["range"] == "bytes=50000-"


# Requests that do not get through are repeated -------------------------------------------------------------------------


def test_a_request_is_repeated_with_growing_pauses(server, connect, pauses):
    server.on(LATEST, broken(b""), answer(500), broken(head(Content_Type=JSON, Content_Length=9)), document(TWO))
    assert connect(retries=3).latest().body == BODY["body"]
    assert pauses.waited == [0.5, 1.0, 2.0]


def test_it_is_given_up_after_so_many_retries(server, connect, pauses):
    server.on(LATEST, answer(500))
    with pytest.raises(ServerBusyError):
        connect(retries=2).latest()
    assert len(server.asked) == 3
    assert pauses.waited == [0.5, 1.0]


def test_what_is_wrong_is_not_repeated(server, connect, pauses):
    server.on(LATEST, answer(404))
    with pytest.raises(HttpError):
        connect(retries=3).latest()
    assert len(server.asked) == 1
    assert not pauses.waited


def test_a_deadline_is_not_met_twice(server, connect):
    server.on(LATEST, dripping(b"HTTP/1.1 200 OK\r\nX: ", b"x"))
    with pytest.raises(DeadlineExceededError):
        connect(retries=3, document_timeout=0.2).latest()
    assert len(server.asked) == 1


def test_nothing_is_repeated_while_closing(server, connect, pauses):
    transport = connect(retries=3)
    server.on(LATEST, lambda exchange: setattr(pauses, "closing", True) or exchange.reset())
    with pytest.raises(HttpRequestFailedError):
        transport.latest()
    assert len(server.asked) == 1


def test_nothing_is_asked_while_closing(server, connect, pauses):
    pauses.closing = True
    with pytest.raises(HttpRequestFailedError, match="closed"):
        connect().latest()
    assert not server.asked


def date(seconds):
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        ("0", 0.5),
        ("7", 7),
        pytest.param(date(-1000), 0.5, id="the past"),  # not by the date: each process that runs tests has its own
        ("soon", 0.5),
        ("-5", 0.5),
        ("1.5", 0.5),
        ("\xb2", 0.5),
        ("Sun, 99 Nov 9999 99:99:99 GMT", 0.5),
        ("", 0.5),
    ],
)
def test_the_server_may_ask_for_a_longer_pause(server, connect, pauses, status, asked, waited):
    server.on(LATEST, answer(status, Retry_After=asked), document(TWO))
    connect(retries=1).latest()
    assert pauses.waited == [waited]


def test_a_pause_until_a_date_is_kept(server, connect, pauses):
    server.on(LATEST, answer(503, Retry_After=date(40)), document(TWO))
    connect(retries=1).latest()
    assert 30 < pauses.waited[0] <= 40


@pytest.mark.parametrize(
    "asked",
    [
        "61",
        "99999999999999999999",
        pytest.param(date(10**9), id="in decades"),
        "Fri, 31 Dec 9999 23:59:59 GMT",
    ],
)
def test_a_long_pause_is_left_to_the_next_check_and_has_a_limit(server, connect, pauses, asked):
    server.on(LATEST, answer(503, Retry_After=asked))
    with pytest.raises(ServerBusyError) as caught:
        connect(retries=3).latest()
    assert not pauses.waited
    assert 60 < caught.value.retry_after <= LONGEST_RETRY_AFTER


# Redirects ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/elsewhere", "../elsewhere", "//127.0.0.1:{port}/elsewhere", "{url}/elsewhere"])
def test_a_redirect_on_the_same_host_is_followed(server, connect, status, location):
    server.on(LATEST, answer(status, Location=location.format(port=server.port, url=server.url)))
    server.on("/elsewhere", document(TWO))
    assert connect().latest().body == BODY["body"]


def test_the_range_goes_along_with_a_redirect(server, connect):
    server.on(FILE, answer(302, Location="/elsewhere"))
    server.on("/elsewhere", release(DATA))
    assert download(connect(), Memory(DATA[:1000])) == DATA
    assert server.asked[-1][1]["range"] == "bytes=1000-"


def test_an_endless_chain_of_redirects_ends(server, connect):
    server.on(LATEST, answer(302, Location=LATEST))
    with pytest.raises(RedirectError, match="more than"):
        connect().latest()
    assert len(server.asked) == MAX_REDIRECTS + 1


def test_redirects_have_one_deadline_together(server, connect):
    server.on(LATEST, answer(302, Location=LATEST), silence())
    with pytest.raises(DeadlineExceededError):
        connect(document_timeout=0.2).latest()


def test_from_https_to_http_no_redirect_is_followed():
    with Misbehaving(certificate()) as server, requests.Session() as session:
        session.verify = str(certificate_file())
        session.trust_env = False
        server.on(LATEST, answer(302, Location=server.api.replace("https", "http") + "x"))
        with pytest.raises(RedirectError, match="from https to http"):
            Transport(config(server, session=session), Pauses()).latest()


# Downloads that break off ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 4095, 65536, 150_000, 299_999])
@pytest.mark.parametrize("end", [Exchange.reset, Exchange.close])
def test_a_broken_download_goes_on_and_asks_only_for_what_is_missing(server, connect, cut, end):
    server.on(FILE, release(DATA, cut=cut, end=end), release(DATA))
    part = Memory()
    assert download(connect(retries=1), part) == DATA
    first, second = server.asked_for(FILE)
    assert "range" not in first
    start = int(second["range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= cut  # after a reset the system may drop what it had received
    assert end is Exchange.reset or start == cut
    assert second["if-range"] == f'"{DIGEST}"'
    assert part.taken_up == 1


def test_progress_earns_more_retries(server, connect, pauses):
    server.on(FILE, *[release(DATA, cut=30_000, end=Exchange.close)] * 9, release(DATA))
    assert download(connect(retries=1)) == DATA
    assert pauses.waited == [0.5] * 9


def test_without_progress_retries_come_to_an_end_also_where_ranges_are_not_known(server, connect, pauses):
    server.on(FILE, release(DATA, cut=1000, ranges=False, end=Exchange.close))
    with pytest.raises(MissingDataError):
        download(connect(retries=2))
    assert len(server.asked_for(FILE)) == 3
    assert len(pauses.waited) == 2


def test_a_server_without_ranges_is_asked_anew(server, connect):
    server.on(FILE, release(DATA, ranges=False, cut=1000, end=Exchange.close), release(DATA, ranges=False))
    assert download(connect(retries=1)) == DATA
    assert server.asked_for(FILE)[1]["range"] == "bytes=1000-"


def test_a_file_that_changed_between_two_connections_is_not_mixed(server, connect):
    other = DATA[::-1]
    etag = f'"{hashlib.sha256(other).hexdigest()}"'
    server.on(FILE, release(other, cut=1000, end=Exchange.close), release(DATA))
    assert download(connect(retries=1)) == DATA
    assert server.asked_for(FILE)[1]["if-range"] == etag


def test_another_strong_tag_is_used_for_going_on(server, connect):
    server.on(FILE, release(DATA, cut=1000, etag='"other"', end=Exchange.close), release(DATA, etag='"other"'))
    assert download(connect(retries=1)) == DATA
    assert [headers.get("if-range") for headers in server.asked_for(FILE)] == [None, '"other"']


def test_a_weak_tag_is_not(server, connect):
    server.on(FILE, release(DATA, cut=1000, etag='W/"x"', end=Exchange.close), release(DATA))
    assert download(connect(retries=1)) == DATA
    assert server.asked_for(FILE)[1]["if-range"] == f'"{DIGEST}"'


@pytest.mark.parametrize(
    "found",
    [
        "bytes 0-299999/300000",
        "bytes 1001-299999/300000",
        "bytes 1000-299998/300000",
        "bytes 1000-299999/*",
        "bytes 1000-299999/300001",
        "bytes */300000",
        "1000",
        None,
    ],
)
def test_another_range_than_was_asked_for_is_refused_and_not_asked_for_again(server, connect, found):
    part = Memory(DATA[:1000])
    server.on(FILE, answer(206, DATA[1000:], **START, Content_Range=found))
    with pytest.raises(InvalidBodyError, match="Content-Range"):
        download(connect(), part)
    assert part.data == b""
    server.behave(RELEASES)
    assert download(connect(), part) == DATA
    assert "range" not in server.asked_for(FILE)[-1]


def test_what_is_whole_already_is_not_downloaded_again(server, connect):
    seen = []
    part = Memory(DATA)
    assert download(connect(), part, seen) == DATA
    assert part.taken_up == 1
    assert seen[-1] == (len(DATA), len(DATA))
    assert len(server.asked_for(FILE)) == 1


def test_what_is_longer_than_the_release_is_thrown_away(server, connect):
    assert download(connect(retries=1), Memory(DATA + b"more")) == DATA
    assert ["range" in headers for headers in server.asked_for(FILE)] == [True, False]


def test_progress_is_told_from_where_it_goes_on(server, connect):
    seen = []
    download(connect(), Memory(DATA[:100_000]), seen)
    assert seen[0] == (100_000, 300_000)
    assert seen[-1] == (300_000, 300_000)
    assert seen == sorted(seen)


def test_whether_the_whole_of_it_fits_is_asked_before_more_of_it_arrives(server, connect):
    part = Memory(DATA[:100_000])
    download(connect(), part)
    assert part.reserved == [300_000]


def test_a_release_that_does_not_fit_on_the_disk_is_not_begun(host, server, monkeypatch):
    program = host()
    with monkeypatch.context() as patch:
        patch.setattr(staging, "_free", lambda folder: 1_000_000)
        with pytest.raises(NotEnoughSpaceError) as caught:
            program.updater.update()
    assert (caught.value.needed, caught.value.free) == (300_000 + 1024 * 1024, 1_000_000)
    assert program.program.read_bytes() == OLD
    assert program.updater.update() is True


def test_a_release_has_one_deadline_for_all_its_connections(server, connect):
    rest = {"Content_Length": len(DATA) - 30, "Content_Range": f"bytes 30-{len(DATA) - 1}/{len(DATA)}"}
    server.on(FILE, *[release(DATA, cut=10, end=Exchange.close)] * 3, silence(head(206, **START, **rest)))
    with pytest.raises(DeadlineExceededError):
        download(connect(retries=1, release_timeout=0.3))


def test_a_dripping_release_ends_at_the_deadline(server, connect):
    part = Memory()
    server.on(FILE, dripping(head(**START, Content_Length=300_000), b"x"))
    with pytest.raises(DeadlineExceededError):
        download(connect(release_timeout=0.3), part)
    assert part.size


def test_a_release_just_at_the_limit_is_taken(server, connect):
    megabyte = 1024 * 1024
    server.on(FILE, release(DATA))
    assert download(connect(max_release=300_000 / megabyte)) == DATA
    with pytest.raises(TooMuchDataError) as caught:
        download(connect(max_release=299_999 / megabyte))
    assert caught.value.limit == 299_999


def test_the_beginning_counts_towards_the_limit(server, connect):
    with pytest.raises(TooMuchDataError):
        download(connect(max_release=299_999 / 1024 / 1024), Memory(DATA[:200_000]))


def test_the_bytes_after_the_announced_end_are_not_taken(server, connect):
    server.on(FILE, answer(**START, body=DATA + b"more", Content_Length=len(DATA)))
    assert download(connect()) == DATA
    server.behave(RELEASES)


def test_a_download_takes_little_memory(server, connect, tmp_path):
    size = 64 * 1024 * 1024
    block = os.urandom(1024 * 1024)

    def act(exchange):
        exchange.send(head(Content_Type=BINARY, Content_Length=size))
        for _ in range(size // len(block)):
            exchange.send(block)

    server.on(FILE, act)
    part = PartFile(tmp_path / "part")
    tracemalloc.start()
    try:
        connect().release("2.0.0", DIGEST, part, lambda done, total: None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        part.close()
    assert part.size == size
    assert peak < 8 * 1024 * 1024


# Connections ----------------------------------------------------------------------------------------------------------


def test_one_connection_serves_a_whole_update(server, connect):
    transport = connect()
    transport.latest()
    transport.hash("2.0.0")
    download(transport)
    assert server.connections == 1


def test_chunked_documents_keep_their_connection_too(server, connect):
    body = BODY["body"]
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    server.on(LATEST, answer(**{**BODY, "body": chunks, "Content_Length": None, "Transfer_Encoding": "chunked"}))
    transport = connect()
    for _ in range(3):
        assert transport.latest().body == body
    assert server.connections == 1


def test_a_document_may_end_with_its_connection(server, connect):
    server.on(
        LATEST, broken(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + BODY["body"], Exchange.close)
    )
    assert connect().latest().body == BODY["body"]


def test_a_connection_that_was_closed_meanwhile_is_replaced_without_an_error(server, connect, pauses):
    ended = threading.Event()

    def close(exchange):
        document(TWO)(exchange)
        exchange.close()
        ended.set()

    server.on(LATEST, close)
    transport = connect()
    for _ in range(3):
        ended.clear()
        assert transport.latest().body == BODY["body"]
        assert ended.wait(PATIENCE)
    assert not pauses.waited
    assert server.connections == 3


def test_an_over_long_answer_does_not_spoil_the_next(server, connect):
    parts = {**BODY, "body": BODY["body"] + b"HTTP/1.1 500 No\r\n\r\n", "Content_Length": LENGTH}
    server.on(LATEST, answer(**parts), document(TWO))
    transport = connect(retries=1)
    assert transport.latest().body == BODY["body"]
    assert transport.latest().body == BODY["body"]


# The host's own session -----------------------------------------------------------------------------------------------


def test_the_hosts_session_is_used_and_neither_changed_nor_closed(server, connect):
    with requests.Session() as session:
        session.trust_env = False
        session.headers["X-Tenant"] = "seven"
        before = (dict(session.headers), dict(session.adapters), session.max_redirects, session.stream, session.verify)
        transport = connect(session=session)
        transport.latest()
        transport.close()
        after = (dict(session.headers), dict(session.adapters), session.max_redirects, session.stream, session.verify)
        assert after == before
        assert session.get(server.api + LATEST, timeout=PATIENCE).ok
        assert server.connections == 1
    assert server.asked[0][1]["x-tenant"] == "seven"
    assert server.asked[0][1]["accept-encoding"] == "identity"


def test_the_hooks_of_the_hosts_session_are_called(server, connect):
    seen = []
    server.on(LATEST, answer(302, Location="/elsewhere"))
    server.on("/elsewhere", document(TWO))
    with requests.Session() as session:
        session.trust_env = False
        session.hooks["response"].append(lambda response, **_: seen.append(response.status_code))
        assert connect(session=session).latest().body == BODY["body"]
        assert len(session.hooks["response"]) == 1
    assert seen == [302, 200]


def test_the_hosts_session_may_go_through_a_proxy(server, connect):
    with requests.Session() as session, Misbehaving() as proxy:
        session.trust_env = False
        session.proxies = {"http": proxy.url}
        proxy.on(server.api + LATEST, document(TWO))
        assert connect(session=session).latest().body == BODY["body"]
    assert not server.asked


def test_the_hosts_session_has_its_own_idle_time(server, connect):
    server.on(LATEST, silence(b"HTTP/1.1 200"))
    with requests.Session() as session:
        session.trust_env = False
        with pytest.raises(HttpRequestFailedError):
            connect(session=session, idle_timeout=0.2).latest()


def test_a_private_certificate_needs_the_hosts_session():
    with Misbehaving(certificate()) as server:
        server.behave(RELEASES)
        plain = Transport(config(server), Pauses())
        with pytest.raises(HttpRequestFailedError, match="certificate"):
            plain.latest()
        plain.close()
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(certificate_file())
            transport = Transport(config(server, session=session), Pauses())
            assert transport.latest().body == BODY["body"]
            assert download(transport) == DATA


def test_a_proxy_of_the_environment_is_used(server, connect, monkeypatch):
    with Misbehaving() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        proxy.on("http://updates.example.com/latest", document(TWO))
        transport = connect(api="http://updates.example.com/")
        assert transport.latest().body == BODY["body"]
        transport.close()
    assert not server.asked

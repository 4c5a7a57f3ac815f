"""What a server cannot show: errors of the network below it, as requests tells them. The rest is `test_misbehaving`."""

import socket
import ssl
import urllib.parse
from types import SimpleNamespace

import pytest
import requests
import responses
import urllib3
from hypothesis import example, given
from hypothesis import strategies as st
from semver import Version

from patchify import __version__
from patchify.client import Config, answers
from patchify.client import transport as module
from patchify.client.answers import LONGEST_RETRY_AFTER
from patchify.client.deadline import Deadline
from patchify.client.transport import Transport
from patchify.errors import (
    AnswerError,
    DeadlineExceededError,
    HttpError,
    HttpRequestFailedError,
    InvalidBodyError,
    InvalidUrlError,
    MissingDataError,
    RedirectError,
    ServerBusyError,
    TooMuchDataError,
    UnexpectedContentTypeError,
    VersionNotFoundError,
)
from patchify.keys import SigningKey, encode_signature
from patchify.messages import with_signature

KEY = SigningKey.from_hex("11" * 32)
API = "https://updates.example.com/prefix/"
BODY = b'{"version":"2.0.0"}'
SIGNED = {"X-Signature": encode_signature(KEY.sign(BODY)), "Content-Length": str(len(BODY))}


@pytest.fixture
def mocked():
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def transport():
    made = connect(retries=0)
    yield made
    made.close()


def connect(api=API, pause=lambda seconds: False, **changes) -> Transport:
    return Transport(Config(version="1.0.0", api=api, key=KEY.verifying_key, **changes), pause)


def test_latest_is_asked_for_below_the_prefix(mocked, transport):
    mocked.get(API + "latest", BODY, headers=SIGNED, content_type="application/json")
    answer = transport.latest()
    assert (answer.url, answer.body, answer.signature) == (API + "latest", BODY, SIGNED["X-Signature"])
    sent = mocked.calls[0].request.headers
    assert sent == {"User-Agent": f"patchify/{__version__}", "Accept-Encoding": "identity"}


def test_what_came_is_not_looked_at(mocked, transport):
    mocked.get(API + "latest", b"anything", content_type="application/json; charset=utf-8")
    assert transport.latest().body == b"anything"
    assert transport.latest().signature is None


@pytest.mark.parametrize("version", ["1.2.3", "2.0.0-rc.1", "1.0.0+build.7"])
def test_the_version_is_part_of_the_path(mocked, transport, version):
    mocked.get(f"{API}hashes/{version}", BODY, headers=SIGNED, content_type="application/json")
    transport.hash(version)
    assert urllib.parse.unquote(mocked.calls[0].request.path_url).endswith(f"/hashes/{version}")


def test_a_version_that_is_not_there_is_named(mocked, transport):
    mocked.get(f"{API}hashes/2.0.0", status=404)
    with pytest.raises(VersionNotFoundError) as caught:
        transport.hash("2.0.0")
    assert caught.value.version == "2.0.0"


FAILURES = {
    "the name is not known": requests.ConnectionError(
        urllib3.exceptions.NameResolutionError("updates.example.com", None, socket.gaierror(-2, "unknown"))
    ),
    "nobody listens": requests.ConnectionError(ConnectionRefusedError(111, "Connection refused")),
    "connecting takes too long": requests.ConnectTimeout("timed out"),
    "the answer takes too long": requests.ReadTimeout("timed out"),
    "the certificate is not trusted": requests.exceptions.SSLError(ssl.SSLCertVerificationError("self-signed")),
    "the proxy refuses": requests.exceptions.ProxyError("407"),
    "a body that cannot be read": requests.exceptions.ChunkedEncodingError("broken"),
    "an error of urllib3": urllib3.exceptions.ProtocolError("broken"),
    "an error of the system": OSError(101, "Network is unreachable"),
    "a header that is none": requests.exceptions.InvalidHeader("what"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_did_not_get_through_is_one_error_that_wraps_the_foreign_one(mocked, transport, name):
    mocked.get(API + "latest", body=FAILURES[name])
    with pytest.raises(HttpRequestFailedError) as caught:
        transport.latest()
    assert type(caught.value) is HttpRequestFailedError
    assert caught.value.url == API + "latest"
    assert caught.value.__cause__ is FAILURES[name]


def test_it_is_repeated(mocked):
    waited = []
    made = connect(retries=2, pause=lambda seconds: bool(seconds and waited.append(seconds)))
    mocked.get(API + "latest", body=requests.ConnectionError("reset"))
    mocked.get(API + "latest", body=requests.ConnectTimeout("timed out"))
    mocked.get(API + "latest", BODY, headers=SIGNED, content_type="application/json")
    assert made.latest().body == BODY
    assert 0.25 <= waited[0] <= 0.75
    assert 0.5 <= waited[1] <= 1.5
    made.close()


def test_an_error_after_the_deadline_tells_of_the_deadline(mocked):
    class Slow:
        def __init__(self, seconds):
            self.seconds = seconds
            self.times = 0

        def left(self):
            return self.seconds

        def passed(self):
            self.times += 1
            return self.times > 1

    made = connect(retries=3)
    mocked.get(API + "latest", body=requests.ReadTimeout("timed out"))
    with pytest.raises(DeadlineExceededError):
        made._connection._request("latest", {}, Slow(5), None)
    made.close()


@pytest.mark.parametrize(
    "error",
    [
        requests.exceptions.InvalidURL("no host"),
        requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support."),
        UnicodeError("label too long"),
    ],
)
def test_an_address_that_cannot_be_requested_is_an_error_of_its_own(mocked, transport, error):
    mocked.get(API + "latest", body=error)
    with pytest.raises(InvalidUrlError) as caught:
        transport.latest()
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("host", ["*", ".", "a" * 70, "exa mple", "ex%zzample", "-"])
def test_no_host_that_cannot_be_asked_raises_anything_else(host):
    made = connect(f"http://{host}.invalid/", retries=0)
    with pytest.raises((InvalidUrlError, HttpRequestFailedError)):
        made.latest()
    made.close()


def test_timeouts_are_those_of_the_configuration(mocked):
    made = connect(connect_timeout=3, idle_timeout=7)
    mocked.get(API + "latest", BODY, headers=SIGNED, content_type="application/json")
    made.latest()
    assert mocked.calls[0].request.req_kwargs["timeout"] == (3, 7)
    assert mocked.calls[0].request.req_kwargs["stream"] is True
    made.close()


def test_no_timeout_is_longer_than_the_deadline(mocked):
    made = connect(document_timeout=2)
    mocked.get(API + "latest", BODY, headers=SIGNED, content_type="application/json")
    made.latest()
    assert all(1 < each <= 2 for each in mocked.calls[0].request.req_kwargs["timeout"])
    made.close()


def test_a_body_that_ends_early_without_an_error_is_noticed(transport):
    pieces = [b'{"version"', b""]  # from an adapter that caches, say, and does not mind
    raw = SimpleNamespace(read1=lambda size, decode_content: pieces.pop(0))
    with pytest.raises(MissingDataError) as caught:
        list(transport._connection.blocks(SimpleNamespace(url=API, raw=raw), 19, Deadline(5)))
    assert (caught.value.received, caught.value.expected) == (10, 19)


SAME = "https://h/api/latest"


@pytest.mark.parametrize(
    ("url", "location", "target"),
    [
        (SAME, "/x", "https://h/x"),
        (SAME, "x?y=z", "https://h/api/x?y=z"),
        (SAME, "https://h:443/x", "https://h:443/x"),
        ("https://h:443/a", "https://h/x", "https://h/x"),
        ("http://h:80/a", "http://H/x", "http://H/x"),
        ("http://h/a", "https://h/x", "https://h/x"),
        ("http://h:8080/a", "https://h:8443/x", "https://h:8443/x"),
        (SAME, "https:///x", "https://h/x"),
        (SAME, "", SAME),
    ],
)
def test_a_redirect_leads_to_the_same_host_or_to_a_more_secure_scheme(url, location, target):
    assert answers.redirected(url, location) == target


@pytest.mark.parametrize(
    ("url", "location"),
    [
        (SAME, "http://h/x"),
        (SAME, "HTTP://h/x"),
        (SAME, "https://other/x"),
        (SAME, "//other/x"),
        (SAME, "https://h.other/x"),
        (SAME, "https://h@other/x"),
        (SAME, "https://h:8443/x"),
        (SAME, "https://h:0x1bb/x"),
        (SAME, "https://h:99999/x"),
        (SAME, "ftp://h/x"),
        (SAME, "file:///x"),
        (SAME, "javascript:alert(1)"),
        (SAME, "https://[::1/x"),
        ("http://h:8080/a", "http://h/x"),
    ],
)
def test_any_other_redirect_is_refused(url, location):
    with pytest.raises(RedirectError) as caught:
        answers.redirected(url, location)
    assert (caught.value.url, caught.value.location) == (url, location)


@given(st.text())
def test_no_redirect_leaves_the_host_or_raises_anything_else(location):
    try:
        target = answers.redirected(SAME, location)
    except RedirectError:
        return
    parts = urllib.parse.urlsplit(target)
    assert (parts.scheme, parts.hostname, parts.port or 443) == ("https", "h", 443)


@given(
    st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,6} [0-9:]{1,12} [+-]?\w+")
)
@example("Thu, 01 Jan 1970 00:00:00 -0000")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("9" * 5000)
@example(" ")
def test_no_wish_to_be_asked_later_raises_or_silences(text):
    class Response:
        headers = {"Retry-After": text}  # noqa: RUF012

    asked = answers.retry_after(Response())
    assert asked is None or 0 <= asked <= LONGEST_RETRY_AFTER


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 599])
def test_a_server_that_cannot_answer_now_may_be_asked_later(mocked, transport, status):
    mocked.get(API + "latest", status=status)
    with pytest.raises(ServerBusyError) as caught:
        transport.latest()
    assert caught.value.status == status
    assert caught.value.retry_after is None


@pytest.mark.parametrize("status", [201, 204, 300, 304, 400, 401, 403, 404, 410, 418, 451])
def test_any_other_status_is_an_answer(mocked, transport, status):
    mocked.get(API + "latest", status=status)
    with pytest.raises(AnswerError) as caught:
        transport.latest()
    assert caught.value.status == status


def test_reports_are_posted_below_the_prefix(mocked, transport):
    mocked.post(API + "reports", status=204)
    transport.report(b"{}")
    sent = mocked.calls[0].request
    assert (sent.body, sent.headers["Content-Type"]) == (b"{}", "application/json")


@pytest.mark.parametrize(
    ("status", "error"), [(200, HttpError), (404, HttpError), (429, ServerBusyError), (503, ServerBusyError)]
)
def test_reports_that_were_not_taken_are_an_error_after_one_attempt(mocked, status, error):
    mocked.post(API + "reports", b"a page of somebody else's", status=status)
    transport = connect(retries=3)
    with pytest.raises(error) as caught:
        transport.report(b"{}")
    assert caught.value.status == status
    assert len(mocked.calls) == 1
    transport.close()


@pytest.mark.parametrize("status", [307, 308])
def test_reports_follow_a_redirect_that_repeats_them(mocked, transport, status):
    mocked.post(API + "reports", status=status, headers={"Location": API + "elsewhere"})
    mocked.post(API + "elsewhere", status=204)
    transport.report(b"{}")
    assert mocked.calls[1].request.body == b"{}"


@pytest.mark.parametrize("status", [301, 302, 303])
def test_reports_follow_no_redirect_that_makes_another_request_of_them(mocked, transport, status):
    mocked.post(API + "reports", status=status, headers={"Location": API + "elsewhere"})
    with pytest.raises(RedirectError, match=f"status {status}"):
        transport.report(b"{}")


def test_reports_are_bounded_in_time(mocked):
    transport = connect(document_timeout=0.5, idle_timeout=30)
    mocked.post(API + "reports", status=204)
    transport.report(b"{}")
    assert all(0 < each <= 0.5 for each in mocked.calls[0].request.req_kwargs["timeout"])
    transport.close()


def test_closing_twice_is_harmless():
    made = connect()
    made.close()
    made.close()


@given(st.from_regex(r"[0-9A-Za-z.+-]{1,20}", fullmatch=True))
def test_any_version_makes_a_path_of_two_parts(text):
    try:
        version = str(Version.parse(text))
    except ValueError:
        version = text
    assert urllib.parse.unquote(module._quoted(version)) == version


# Update documents -----------------------------------------------------------------------------------------------------


class Part:
    """A download in memory."""

    def __init__(self, data=b""):
        self.data = data

    size = property(lambda self: len(self.data))

    def reserve(self, total):
        pass

    def take_up(self, progress):
        progress(self.size)

    def write(self, data):
        self.data += data

    def cut(self, size):
        self.data = self.data[:size]


def test_the_update_document_is_asked_for_by_channel_and_platform(mocked, transport):
    mocked.get(API + "updates/beta/linux-x86_64", BODY, headers=SIGNED, content_type="application/json")
    assert transport.update("beta", "linux-x86_64").body == BODY


def test_an_update_document_that_is_not_there_is_told_from_all_else(mocked, transport):
    mocked.get(API + "updates/stable/any", status=404)
    with pytest.raises(HttpError) as caught:
        transport.update("stable", "any")
    assert caught.value.status == 404


UPDATE = API + "updates/stable/any"
SIGNATURE = SIGNED["X-Signature"]
FILE = with_signature(BODY, SIGNATURE)
GUESSES = ["application/octet-stream", "binary/octet-stream", "text/plain; charset=utf-8", "application/json", None]


@pytest.mark.parametrize("content_type", GUESSES)
def test_an_update_document_may_be_a_file_that_carries_its_signature(mocked, transport, content_type):
    mocked.get(UPDATE, FILE, content_type=content_type)
    answer = transport.update("stable", "any")
    assert (answer.url, answer.body, answer.signature) == (UPDATE, BODY, SIGNATURE)


@pytest.mark.parametrize(
    ("file", "body", "signature"),
    [
        (FILE.replace(b"\n", b"\r\n"), BODY + b"\r", SIGNATURE),  # which is not what was signed
        (FILE.rstrip(), BODY, SIGNATURE),
        (FILE + b"more\n", BODY, SIGNATURE + "\nmore"),
        (b"\n" + FILE, b"", FILE.decode().rstrip()),
        (b"\xff\n\xff\xff", b"\xff", "\ufffd\ufffd"),
    ],
    ids=["other ends of lines", "no end of the line", "a third line", "an empty line", "garbage"],
)
def test_what_such_a_file_says_is_not_looked_at(mocked, transport, file, body, signature):
    mocked.get(UPDATE, file)
    answer = transport.update("stable", "any")
    assert (answer.body, answer.signature) == (body, signature)


@pytest.mark.parametrize("content_type", ["text/html", "application/octet-stream"])
@pytest.mark.parametrize("body", [b"<html>Log in</html>", BODY, b""])
def test_a_page_without_a_signature_is_no_document(mocked, transport, content_type, body):
    mocked.get(UPDATE, body, content_type=content_type)
    with pytest.raises(UnexpectedContentTypeError):
        transport.update("stable", "any")


def test_a_document_without_any_signature_is_told_as_such(mocked, transport):
    mocked.get(UPDATE, BODY, content_type="application/json")
    assert transport.update("stable", "any").signature is None


def test_with_the_header_a_document_is_as_ever(mocked, transport):
    mocked.get(UPDATE, FILE, headers={"X-Signature": SIGNATURE}, content_type="application/json")
    assert transport.update("stable", "any").body == FILE
    mocked.replace("GET", UPDATE, BODY, headers={"X-Signature": SIGNATURE}, content_type="text/plain")
    with pytest.raises(UnexpectedContentTypeError):
        transport.update("stable", "any")


@pytest.mark.parametrize("path", ["latest", "hashes/2.0.0"])
def test_the_answers_of_the_original_are_no_files(mocked, transport, path):
    mocked.get(API + path, FILE, content_type="application/octet-stream")
    with pytest.raises(UnexpectedContentTypeError):
        transport.latest() if path == "latest" else transport.hash("2.0.0")
    mocked.replace("GET", API + path, FILE, content_type="application/json")
    answer = transport.latest() if path == "latest" else transport.hash("2.0.0")
    assert (answer.body, answer.signature) == (FILE, None)


def test_a_file_is_bounded_as_any_document(mocked):
    made = connect(retries=0, max_document=1)
    mocked.get(UPDATE, with_signature(b" " * 1024, SIGNATURE))
    with pytest.raises(TooMuchDataError):
        made.update("stable", "any")
    made.close()


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_no_file_may_be_encoded(mocked, transport, encoding):
    mocked.get(UPDATE, FILE, headers={"Content-Encoding": encoding})
    with pytest.raises(InvalidBodyError, match="encoded"):
        transport.update("stable", "any")


def test_what_is_received_is_counted(mocked, transport):
    mocked.get(API + "latest", BODY, headers=SIGNED, content_type="application/json")
    mocked.get(UPDATE, FILE)
    assert transport.received == 0
    transport.latest()
    assert transport.received == len(BODY)
    transport.update("stable", "any")
    assert transport.received == len(BODY) + len(FILE)


def test_a_release_is_downloaded_from_where_the_document_says(mocked, transport):
    length = {"Content-Length": "3"}
    mocked.get(
        API + "releases/2.0.0?platform=linux-x86_64", b"two", headers=length, content_type="application/octet-stream"
    )
    part = Part()
    transport.release("2.0.0", "22" * 32, part, lambda *_: None, path="releases/2.0.0?platform=linux-x86_64", size=3)
    assert part.data == b"two"


@pytest.mark.parametrize("size", [2, 4])
def test_a_release_of_another_size_than_was_signed_is_refused_before_it_is_read(mocked, transport, size):
    mocked.get(API + "releases/2.0.0", b"two", headers={"Content-Length": "3"}, content_type="application/octet-stream")
    part = Part()
    with pytest.raises(InvalidBodyError, match=f"a file of 3 bytes, but {size} are signed"):
        transport.release("2.0.0", "22" * 32, part, lambda *_: None, size=size)
    assert part.data == b""


def test_a_release_that_is_resumed_must_have_the_signed_size_in_the_end(mocked, transport):
    mocked.get(
        API + "releases/2.0.0",
        b"o",
        status=206,
        headers={"Content-Range": "bytes 2-2/3", "Content-Length": "1"},
        content_type="application/octet-stream",
    )
    part = Part(b"tw")
    transport.release("2.0.0", "22" * 32, part, lambda *_: None, size=3)
    assert part.data == b"two"
    with pytest.raises(InvalidBodyError, match="4 are signed"):
        transport.release("2.0.0", "22" * 32, Part(b"tw"), lambda *_: None, size=4)

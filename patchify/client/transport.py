"""How bytes travel: bounded in size and time, resumed where they broke off, every foreign error turned into ours.

Nothing that comes from here is to be believed yet. Redirects are followed on the same host only, and never from https
to http. A request that did not get through is repeated with back-off; ``Retry-After`` is respected.
"""

from __future__ import annotations

import email.utils
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from http.client import HTTPException
from typing import Protocol, TypeVar
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import requests
import urllib3

from patchify import __version__
from patchify.client.config import Config
from patchify.client.deadline import Deadline, DeadlineAdapter
from patchify.client.trust import SignedAnswer
from patchify.errors import (
    ConnectionFailedError,
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
from patchify.messages import BINARY, JSON, SIGNATURE_HEADER

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

MAX_REDIRECTS = 5
BLOCK = 256 * 1024  # bytes read from the network at once
FIRST_PAUSE = 0.5  # seconds; doubled for each further attempt
LONGEST_PAUSE = 60.0  # seconds; a server that asks for more is asked again at the next check
LONGEST_RETRY_AFTER = 24 * 3600.0  # seconds; such answers are not signed, and must not silence a client for years
_BUSY = frozenset({408, 425, 429})
_REPEATING = frozenset({307, 308})  # the redirects that leave a request what it is (RFC 9110 section 15.4)
_FOREIGN = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError, ValueError, OverflowError)


class Part(Protocol):
    """Where a download goes: it grows at its end, and can be emptied."""

    size: int

    def reserve(self, total: int) -> None:
        """See whether so many bytes fit. Raises a `FileOperationError`."""

    def take_up(self, progress: Callable[[int], None]) -> None:
        """Read what is there from an earlier attempt. Raises a `FileOperationError`."""

    def write(self, data: bytes) -> None:
        """Append. Raises a `FileOperationError`."""

    def clear(self) -> None:
        """Empty it. Raises a `FileOperationError`."""


class Transport:
    """Talks to one update server, one request at a time.

    Args:
        config: Address, limits, and perhaps the host's own session.
        pause: Waits so many seconds; returns True if the updater is being closed meanwhile.
        chance: Gives a random number from 0 to 1.
    """

    def __init__(
        self, config: Config, pause: Callable[[float], bool], chance: Callable[[], float] = random.random
    ) -> None:
        self._config = config
        self._pause = pause
        self._chance = chance
        self._adapter: DeadlineAdapter | None = None
        if config.session is None:
            self._adapter = DeadlineAdapter()
            self._session = requests.Session()
            self._session.headers["User-Agent"] = f"patchify/{__version__}"
            self._session.mount("http://", self._adapter)
            self._session.mount("https://", self._adapter)
        else:
            self._session = config.session

    def close(self) -> None:
        """Cut what is under way and close what was opened here."""
        if self._adapter is not None:
            self._adapter.cut()
            self._session.close()

    def latest(self) -> SignedAnswer:
        """Ask for the newest version. Raises `AnswerError` and `ConnectionFailedError` leaves."""
        return self._retry(lambda: self._document("latest"))

    def hash(self, version: str) -> SignedAnswer:
        """Ask for the hash of a version's file. Raises as `latest`, and `VersionNotFoundError`."""
        with _naming(version):
            return self._retry(lambda: self._document(f"hashes/{_quoted(version)}"))

    def update(self, channel: str, platform: str) -> SignedAnswer:
        """Ask for the update document. Raises as `latest`; `HttpError` with status 404 if there is none."""
        return self._retry(lambda: self._document(f"updates/{channel}/{platform}"))

    def release(
        self,
        version: str,
        sha256: str,
        part: Part,
        progress: Callable[[int, int], None],
        *,
        path: str | None = None,
        size: int | None = None,
    ) -> None:
        """Download the file of a version to the end of ``part``, which may hold its beginning already.

        Args:
            version: Which release.
            sha256: Its hash, which is the ETag that our server gives it.
            part: Where to.
            progress: Called with the bytes that are there and the bytes that will be.
            path: Where it is below the address of the API. Default: where the original protocol has it.
            size: Its signed size in bytes. Default: whatever the server says.

        Raises:
            AnswerError, ConnectionFailedError, VersionNotFoundError, FileOperationError: what arrived is kept in
                ``part``, so that a later attempt can go on from there.
        """
        deadline = Deadline(self._config.release_timeout)
        download = _Download(part, sha256, progress, size)
        path = path or f"releases/{_quoted(version)}"
        with _naming(version):
            self._retry(lambda: self._fetch(path, download, deadline), lambda: part.size)

    def report(self, body: bytes) -> None:
        """Send a batch of reports, which is JSON, in one attempt: it is for whoever calls to keep what got lost.

        Raises:
            AnswerError, ConnectionFailedError: the server may not have it; `HttpError` if it refuses.
        """
        deadline = Deadline(self._config.document_timeout)
        headers = {"Content-Type": JSON}
        with self._bounded(deadline), closing(self._request("reports", headers, deadline, body)) as response:
            _expect_status(response, 204)

    def _retry(self, attempt: Callable[[], Result], progress: Callable[[], int] = lambda: 0) -> Result:
        """Return what ``attempt`` returns; repeat it while it does not get through, longer if it makes progress."""
        failures, before = 0, progress()
        while True:
            try:
                return attempt()
            except ConnectionFailedError as error:
                if progress() > before:
                    failures, before = 0, progress()
                delay = FIRST_PAUSE * 2**failures * (0.5 + self._chance())
                delay = max(delay, error.retry_after or 0)
                failures += 1
                if failures > self._config.retries or delay > LONGEST_PAUSE or isinstance(error, DeadlineExceededError):
                    raise
                _log.info("%s; trying again in %.1f s", error, delay)
                if self._pause(delay):
                    raise

    def _document(self, path: str) -> SignedAnswer:
        deadline = Deadline(self._config.document_timeout)
        limit = self._config.max_document * 1024
        with self._bounded(deadline), closing(self._get(path, {}, deadline)) as response:
            _expect(response, 200, JSON)
            length = _length(response)
            if length is not None and length > limit:
                raise TooMuchDataError(response.url, limit, "the largest document allowed (max_document)")
            body = b""
            for block in self._blocks(response, length, deadline):
                body += block
                if len(body) > limit:
                    raise TooMuchDataError(response.url, limit, "the largest document allowed (max_document)")
            return SignedAnswer(response.url, body, response.headers.get(SIGNATURE_HEADER))

    def _fetch(self, path: str, download: _Download, deadline: Deadline) -> None:
        with self._bounded(deadline), closing(self._get(path, download.headers(), deadline)) as response:
            if response.status_code == 416 and download.is_whole(response):
                return
            _expect(response, 206 if response.status_code == 206 else 200, BINARY)
            length = _length(response)
            if length is None:
                raise InvalidBodyError(response.url, "has no Content-Length, so that its end could not be told")
            limit = int(self._config.max_release * 1024 * 1024)
            total = download.begin(response, length)
            if total > limit:
                raise TooMuchDataError(response.url, limit, "the largest release allowed (max_release)")
            download.reserve(total)
            for block in self._blocks(response, length, deadline):
                download.add(block, total)

    def _bounded(self, deadline: Deadline) -> AbstractContextManager[None]:
        return nullcontext() if self._adapter is None else self._adapter.bounded(deadline)

    def _get(self, path: str, headers: dict[str, str], deadline: Deadline) -> requests.Response:
        return self._request(path, headers, deadline)

    def _request(
        self, path: str, headers: dict[str, str], deadline: Deadline, body: bytes | None = None
    ) -> requests.Response:
        """Return the answer to a GET, or to a POST of ``body``, not yet read, after redirects that may be followed."""
        url = urljoin(self._config.api, path)
        for _ in range(MAX_REDIRECTS + 1):
            response, location = self._send(url, headers, deadline, body)
            try:
                self._go_on(url, deadline)  # a header that was cut short counts as whole: do not look into it
            except ConnectionFailedError:
                response.close()
                raise
            if location is None:
                return response
            response.close()
            if body is not None and response.status_code not in _REPEATING:
                raise RedirectError(url, location, f"status {response.status_code} asks for another request there")
            url = _redirected(url, location)
        raise RedirectError(url, url, f"more than {MAX_REDIRECTS} redirects")

    def _send(
        self, url: str, headers: dict[str, str], deadline: Deadline, body: bytes | None
    ) -> tuple[requests.Response, str | None]:
        """Return an answer, and where it leads if it is a redirect."""
        locations: list[str] = []

        def hide_location(response: requests.Response, *args: object, **kwargs: object) -> None:
            # Even when it is not to follow a redirect, requests would read the whole of its body, however long.
            if response.is_redirect:
                locations.append(response.headers.pop("Location"))

        self._go_on(url, deadline)
        left = max(0.001, deadline.left())
        try:
            response = self._session.request(
                "GET" if body is None else "POST",
                url,
                data=body,
                headers={"Accept-Encoding": "identity", **headers},
                stream=True,
                timeout=(min(self._config.connect_timeout, left), min(self._config.idle_timeout, left)),
                allow_redirects=False,
                hooks={"response": [*self._session.hooks["response"], hide_location]},
            )
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError) as error:
            raise InvalidUrlError(url, f"cannot be requested: {error}") from error
        except _FOREIGN as error:
            raise self._translated(url, error, deadline) from error
        return response, locations[-1] if locations else None

    def _blocks(self, response: requests.Response, length: int | None, deadline: Deadline) -> Iterator[bytes]:
        """Yield the body as it arrives, and end only when it is complete."""
        received = 0
        while length is None or received < length:
            try:
                block = response.raw.read1(BLOCK, decode_content=False)
            except _FOREIGN as error:
                failure = self._translated(response.url, error, deadline)
                if length is not None and not isinstance(failure, DeadlineExceededError):
                    failure = MissingDataError(response.url, received=received, expected=length)
                raise failure from error
            if block:
                received += len(block)
                yield block
            self._go_on(response.url, deadline)
            if not block:
                break
        if length is not None and received < length:
            raise MissingDataError(response.url, received=received, expected=length)

    def _go_on(self, url: str, deadline: Deadline) -> None:
        """Raise if it is too late, or if the updater is being closed."""
        if deadline.passed():
            raise DeadlineExceededError(url, f"is not through within {deadline.seconds:g} s")
        if self._pause(0):
            raise HttpRequestFailedError(url, "given up because the updater is being closed")

    def _translated(self, url: str, error: Exception, deadline: Deadline) -> ConnectionFailedError:
        if deadline.passed():
            return DeadlineExceededError(url, f"is not through within {deadline.seconds:g} s")
        if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
            return HttpRequestFailedError(url, "timed out: no answer, or no byte, in time")
        return HttpRequestFailedError(url, f"the request failed: {error}")


class _Download:
    """One release on its way into a part, over as many connections as it takes."""

    def __init__(self, part: Part, sha256: str, progress: Callable[[int, int], None], size: int | None) -> None:
        self._part = part
        self._etag = f'"{sha256}"'
        self._progress = progress
        self._size = size

    def headers(self) -> dict[str, str]:
        """Return the headers that ask for what is still missing, of the same file only."""
        return {"Range": f"bytes={self._part.size}-", "If-Range": self._etag} if self._part.size else {}

    def is_whole(self, response: requests.Response) -> bool:
        """Return whether ``416`` came because nothing is missing; otherwise throw away what is there, to ask anew."""
        size = self._part.size
        if response.headers.get("Content-Range") == f"bytes */{size}":
            self._part.take_up(lambda done: self._progress(done, size))
            return True
        self._part.clear()
        raise HttpRequestFailedError(response.url, "what was there already is no beginning of this release")

    def begin(self, response: requests.Response, length: int) -> int:
        """Make the part fit the answer; return how long it will be in the end, which is as long as was signed."""
        total = self._begin(response, length)
        if self._size is not None and total != self._size:
            raise InvalidBodyError(response.url, f"is a file of {total} bytes, but {self._size} are signed")
        return total

    def _begin(self, response: requests.Response, length: int) -> int:
        etag = response.headers.get("ETag", "")
        if etag.startswith('"'):  # a strong one; behind another front it may not be the hash
            self._etag = etag
        if response.status_code == 200:
            if self._part.size:
                self._part.clear()
            return length
        expected = f"bytes {self._part.size}-{self._part.size + length - 1}/{self._part.size + length}"
        found = response.headers.get("Content-Range", "")
        if not self._part.size or found != expected:
            self._part.clear()  # a server that cannot do it would not another time either
            raise InvalidBodyError(response.url, f"has Content-Range {found[:80]!r}, but {expected!r} was asked for")
        total = self._part.size + length
        self._part.take_up(lambda done: self._progress(done, total))
        return total

    def reserve(self, total: int) -> None:
        """See whether the whole of it fits, before more of it arrives."""
        self._part.reserve(total)

    def add(self, block: bytes, total: int) -> None:
        """Append what arrived."""
        self._part.write(block)
        self._progress(self._part.size, total)


@contextmanager
def _naming(version: str) -> Iterator[None]:
    """Turn a ``404`` into the error that names the version that is not there."""
    try:
        yield
    except HttpError as error:
        if error.status == 404:
            raise VersionNotFoundError(version) from error
        raise


def _expect(response: requests.Response, status: int, content_type: str) -> None:
    """Raise unless the answer has this status and type, and is not encoded."""
    _expect_status(response, status)
    media_type = response.headers.get("Content-Type", "")
    if media_type.partition(";")[0].strip().lower() != content_type:
        raise UnexpectedContentTypeError(response.url, found=media_type, expected=content_type)
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise InvalidBodyError(response.url, f"is encoded as {encoding[:40]!r}, which was not asked for")


def _expect_status(response: requests.Response, status: int) -> None:
    found = response.status_code
    if found in _BUSY or found >= 500:
        raise ServerBusyError(response.url, found, _retry_after(response))
    if found != status:
        raise HttpError(response.url, found)


def _length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length")
    if text is None or "Transfer-Encoding" in response.headers:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidBodyError(response.url, f"has Content-Length {text[:40]!r}, which is no number")
    return int(text)


def _retry_after(response: requests.Response) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, as a number or as a date (RFC 9110 section 10.2.3)."""
    text = response.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_RETRY_AFTER)
    try:
        seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER)


def _redirected(url: str, location: str) -> str:
    """Return where a redirect leads, if it may be followed."""
    try:
        target = urljoin(url, location)
        old, new = urlsplit(url), urlsplit(target)
        same_host = old.hostname == new.hostname
        same_port = _port(old) == _port(new) or (old.scheme, new.scheme) == ("http", "https")
    except ValueError as error:
        raise RedirectError(url, location, f"not an address: {error}") from error
    if new.scheme not in ("http", "https") or (old.scheme == "https" and new.scheme != "https"):
        raise RedirectError(url, location, f"from {old.scheme} to {new.scheme}")
    if not same_host or not same_port:
        raise RedirectError(url, location, "another host; configure its address as api if it is the right one")
    return target


def _port(parts: SplitResult) -> int | None:
    return parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _quoted(version: str) -> str:
    return quote(version, safe="+")

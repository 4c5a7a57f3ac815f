"""How bytes travel: bounded in size and time, resumed where they broke off, every foreign error turned into ours.

Nothing that comes from here is to be believed yet. Redirects are followed on the same host only, and never from https
to http. A request that did not get through is repeated with back-off; ``Retry-After`` is respected.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from http.client import HTTPException
from typing import TypeVar
from urllib.parse import quote, urljoin

import requests
import urllib3

from patchify import __version__
from patchify.client.answers import (
    expect_plain,
    expect_status,
    expect_type,
    length_of,
    redirected,
    said_length,
)
from patchify.client.config import Config
from patchify.client.deadline import Deadline, DeadlineAdapter
from patchify.client.download import FileDownload, Part, ReleaseDownload
from patchify.client.trust import SignedAnswer
from patchify.errors import (
    AnswerError,
    ConnectionFailedError,
    DeadlineExceededError,
    HttpError,
    HttpRequestFailedError,
    InvalidBodyError,
    InvalidUrlError,
    MissingDataError,
    RedirectError,
    TooMuchDataError,
    VersionNotFoundError,
)
from patchify.forms import Segments, path_of
from patchify.messages import BINARY, JSON, SIGNATURE_HEADER, split_signature

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

MAX_REDIRECTS = 5
BLOCK = 256 * 1024  # bytes read from the network at once
FIRST_PAUSE = 0.5  # seconds; doubled for each further attempt
LONGEST_PAUSE = 60.0  # seconds; a server that asks for more is asked again at the next check
_REPEATING = frozenset({307, 308})  # the redirects that leave a request what it is (RFC 9110 section 15.4)
_FOREIGN = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError, ValueError, OverflowError)


class Transport:
    """Talks to one update server, one request at a time.

    Attributes:
        received: Bytes of all bodies so far.

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
        self.received = 0
        self._adapter: DeadlineAdapter | None = None
        if config.session is None:
            self._adapter = DeadlineAdapter()
            self._session = requests.Session()
            self._session.headers.clear()  # what goes without saying need not be sent each time
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
        """Ask for the update document. Raises as `latest`; `HttpError` with status 404 if there is none.

        A static server has it as a file, which carries its signature inside.
        """
        return self._retry(lambda: self._document(f"updates/{channel}/{platform}", static=True))

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
        download = ReleaseDownload(part, sha256, progress, size)
        path = path or f"releases/{_quoted(version)}"
        with _naming(version):
            self._retry(lambda: self._fetch_release(path, download, deadline), lambda: part.size)

    def file(
        self,
        path: str,
        sha256: str,
        size: int,
        part: Part,
        progress: Callable[[int, int], None],
        *,
        segments: Segments | None = None,
    ) -> None:
        """Download a file whose hash and size are known; ``part`` may hold some of it already.

        Args:
            path: Where it is below the address of the API. If that does not name the hash, an ETag has to.
            sha256: Its hash. Whether it is right is for whoever calls to see.
            size: Bytes. No more are read.
            part: Where to.
            progress: Called with the bytes that are there and ``size``.
            segments: Where there is a list of the hashes of its segments. Each is verified when it is complete, also
                what ``part`` holds, and what is wrong is fetched again alone. Without a list the whole is right or
                wrong.

        Raises:
            DamagedSegmentError: a segment is wrong on the server; what was right before is kept in ``part``.
            AnswerError, ConnectionFailedError, FileOperationError: what arrived is kept in ``part``, so that a later
                attempt can go on from there.
        """
        limit = int(self._config.max_release * 1024 * 1024)
        if size > limit:
            raise TooMuchDataError(urljoin(self._config.api, path), limit, "the largest release allowed (max_release)")
        deadline = Deadline(self._config.release_timeout)
        hashes = b"" if segments is None else self._hashes(segments, size)
        etag = None if path == path_of(sha256) else f'"{sha256}"'
        download = FileDownload(part, size, progress, segments=segments, hashes=hashes, etag=etag)
        download.open()
        while not download.is_complete:
            self._retry(lambda: self._fetch_file(path, download, deadline), download.done)

    def report(self, body: bytes) -> None:
        """Send a batch of reports, which is JSON, in one attempt: it is for whoever calls to keep what got lost.

        Raises:
            AnswerError, ConnectionFailedError: the server may not have it; `HttpError` if it refuses.
        """
        deadline = Deadline(self._config.document_timeout)
        headers = {"Content-Type": JSON}
        with self._bounded(deadline), closing(self._request("reports", headers, deadline, body)) as response:
            expect_status(response, 204)

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

    def _document(self, path: str, *, static: bool = False) -> SignedAnswer:
        deadline = Deadline(self._config.document_timeout)
        limit = self._config.max_document * 1024
        with self._bounded(deadline), closing(self._request(path, {}, deadline)) as response:
            expect_status(response, 200)
            signature = response.headers.get(SIGNATURE_HEADER)
            is_static = static and signature is None
            if not is_static:
                expect_type(response, JSON)
            expect_plain(response)
            body = self._body(response, limit, "the largest document allowed (max_document)", deadline)
            if is_static:
                body, signature = split_signature(body)
                if signature is None:
                    expect_type(response, JSON)  # which says more than that a signature is missing
            return SignedAnswer(response.url, body, signature)

    def _hashes(self, segments: Segments, size: int) -> bytes:
        """Return the list of the hashes of a file's segments, or nothing if it cannot be had."""
        try:
            return self._retry(lambda: self._list(segments, size))
        except (AnswerError, ConnectionFailedError) as error:
            if isinstance(error, DeadlineExceededError) or getattr(error, "retry_after", None) is not None:
                raise
            _log.warning("what is downloaded can only be verified as a whole: %s", error)
            return b""

    def _list(self, segments: Segments, size: int) -> bytes:
        deadline = Deadline(self._config.document_timeout)
        with (
            self._bounded(deadline),
            closing(self._request(path_of(segments.sha256), {}, deadline)) as response,
        ):
            expect_status(response, 200)
            expect_plain(response)
            body = self._body(response, segments.list_size(size), "the list of the file's segments", deadline)
            if hashlib.sha256(body).hexdigest() != segments.sha256:
                raise InvalidBodyError(response.url, "is not the list of segments that was signed")
            return body

    def _fetch_release(self, path: str, download: ReleaseDownload, deadline: Deadline) -> None:
        with self._bounded(deadline), closing(self._request(path, download.headers(), deadline)) as response:
            if response.status_code == 416 and download.is_whole(response):
                return
            expect_status(response, 206 if response.status_code == 206 else 200)
            expect_type(response, BINARY)
            expect_plain(response)
            length = said_length(response)
            limit = int(self._config.max_release * 1024 * 1024)
            total = download.begin(response, length)
            if total > limit:
                raise TooMuchDataError(response.url, limit, "the largest release allowed (max_release)")
            download.reserve(total)
            for block in self._blocks(response, length, deadline):
                download.add(block, total)

    def _fetch_file(self, path: str, download: FileDownload, deadline: Deadline) -> None:
        with self._bounded(deadline), closing(self._request(path, download.headers(), deadline)) as response:
            if download.refuses(response, length_of(response)):
                return
            expect_status(response, 206 if response.status_code == 206 else 200)
            expect_plain(response)
            length = said_length(response)
            at = download.begin(response, length)
            for block in self._blocks(response, length, deadline):
                if not download.add(response.url, at, block):
                    break  # closing the connection stops the rest
                at += len(block)

    def _bounded(self, deadline: Deadline) -> AbstractContextManager[None]:
        return nullcontext() if self._adapter is None else self._adapter.bounded(deadline)

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
            url = redirected(url, location)
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

    def _body(self, response: requests.Response, limit: int, what: str, deadline: Deadline) -> bytes:
        """Return the whole of a body that is not longer than ``limit`` bytes, which are ``what``."""
        length = length_of(response)
        if length is not None and length > limit:
            raise TooMuchDataError(response.url, limit, what)
        body = b""
        for block in self._blocks(response, length, deadline):
            body += block
            if len(body) > limit:
                raise TooMuchDataError(response.url, limit, what)
        return body

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
                self.received += len(block)
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


@contextmanager
def _naming(version: str) -> Iterator[None]:
    """Turn a ``404`` into the error that names the version that is not there."""
    try:
        yield
    except HttpError as error:
        if error.status == 404:
            raise VersionNotFoundError(version) from error
        raise


def _quoted(version: str) -> str:
    return quote(version, safe="+")

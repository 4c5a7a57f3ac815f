"""The way to one server: bounded in size and time, every foreign error turned into ours.

Redirects are followed on the same host only, and never from https to http. A request that did not get through is
repeated with back-off; ``Retry-After`` is respected.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from http.client import HTTPException
from typing import TypeVar
from urllib.parse import urljoin

import requests
import urllib3

from patchify import __version__
from patchify.client.answers import length_of, redirected
from patchify.client.config import Config
from patchify.client.deadline import Deadline, DeadlineAdapter
from patchify.errors import (
    ConnectionFailedError,
    DeadlineExceededError,
    HttpRequestFailedError,
    InvalidUrlError,
    MissingDataError,
    RedirectError,
    TooMuchDataError,
)

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

MAX_REDIRECTS = 5
BLOCK = 256 * 1024  # bytes read from the network at once
FIRST_PAUSE = 0.5  # seconds; doubled for each further attempt
LONGEST_PAUSE = 60.0  # seconds; a server that asks for more is asked again at the next check
_REPEATING = frozenset({307, 308})  # the redirects that leave a request what it is (RFC 9110 section 15.4)
_FOREIGN = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError, ValueError, OverflowError)


class Connection:
    """Asks one update server, one request at a time.

    Attributes:
        received: Bytes of all bodies so far.

    Args: as of `patchify.client.transport.Transport`.
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

    @contextmanager
    def ask(
        self, path: str, deadline: Deadline, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Iterator[requests.Response]:
        """Give the answer to a GET of a path below the API, or to a POST of ``body``; the answer's is not yet read.

        Raises:
            AnswerError, ConnectionFailedError: there is none; or not in time, also for what is done with it.
        """
        with self._bounded(deadline), closing(self._request(path, headers or {}, deadline, body)) as response:
            yield response

    def retry(self, attempt: Callable[[], Result], progress: Callable[[], int] = lambda: 0) -> Result:
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
                _log.info("%s; trying again in %.1f s", str(error), delay)
                if self._pause(delay):
                    raise

    def body(self, response: requests.Response, limit: int, what: str, deadline: Deadline) -> bytes:
        """Return the whole of a body that is not longer than ``limit`` bytes, which are ``what``."""
        length = length_of(response)
        if length is not None and length > limit:
            raise TooMuchDataError(response.url, limit, what)
        body = b""
        for block in self.blocks(response, length, deadline):
            body += block
            if len(body) > limit:
                raise TooMuchDataError(response.url, limit, what)
        return body

    def blocks(self, response: requests.Response, length: int | None, deadline: Deadline) -> Iterator[bytes]:
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
            self.go_on(response.url, deadline)
            if not block:
                break
        if length is not None and received < length:
            raise MissingDataError(response.url, received=received, expected=length)

    def go_on(self, url: str, deadline: Deadline) -> None:
        """Raise if it is too late, or if the updater is being closed."""
        if deadline.passed():
            raise DeadlineExceededError(url, f"is not through within {deadline.seconds:g} s")
        if self._pause(0):
            raise HttpRequestFailedError(url, "given up because the updater is being closed")

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
                self.go_on(url, deadline)  # a header that was cut short counts as whole: do not look into it
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

        self.go_on(url, deadline)
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

    def _translated(self, url: str, error: Exception, deadline: Deadline) -> ConnectionFailedError:
        if deadline.passed():
            return DeadlineExceededError(url, f"is not through within {deadline.seconds:g} s")
        if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
            return HttpRequestFailedError(url, "timed out: no answer, or no byte, in time")
        return HttpRequestFailedError(url, f"the request failed: {error}")

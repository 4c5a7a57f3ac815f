"""The way to a server for a publisher: the token, limits for time and size, and errors that say what the server said.

The token goes over TLS, or to this machine itself, and nowhere that a redirect, a proxy or an ``.netrc`` file leads to.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterable
from http.client import HTTPException
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from requests.auth import AuthBase

from patchify import __version__
from patchify.client.deadline import Deadline, DeadlineAdapter
from patchify.errors import (
    ConfigError,
    DeadlineExceededError,
    HttpError,
    HttpRequestFailedError,
    InvalidBodyError,
    InvalidPayloadError,
    PublicationError,
    PublishingFailedError,
    PublishingRefusedError,
    RedirectError,
    ServerBusyError,
    TooMuchDataError,
    UploadOffsetError,
)
from patchify.messages import JSON

Result = TypeVar("Result")

CONNECT_TIMEOUT = 15.0  # seconds, also for each block that is sent
MOST_ANSWER = 64 * 1024 * 1024  # bytes; ten thousand releases with long notes
_BLOCK = 64 * 1024  # bytes read at once
_LONGEST_ERROR = 2000  # characters of a server's text
_BUSY = frozenset({408, 425, 429})
_FOREIGN = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError)


class Connection:
    """Requests to one server, one at a time; to be closed.

    Args:
        url: Address of the API, as `check_url` returns it.
        token: Who asks.
    """

    def __init__(self, url: str, token: Token) -> None:
        self.url = url
        self._token = token
        self._adapter = DeadlineAdapter()
        self._session = requests.Session()
        self._session.trust_env = self.url.startswith("https:")  # nothing of this machine's own goes to a proxy
        self._session.headers["User-Agent"] = f"patchify/{__version__}"
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.mount("http://", self._adapter)
        self._session.mount("https://", self._adapter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def ask(
        self,
        method: str,
        path: str,
        seconds: float,
        data: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Make one request and return the JSON object that answers it.

        Args:
            method: Of HTTP.
            path: Below the address.
            seconds: In which all of it has to be over.
            data: The body.
            headers: More of them.

        Raises:
            PublishingRefusedError, PublicationError, AnswerError: asking again will not help.
            UploadOffsetError, PublishingFailedError, ConnectionFailedError: it may.
        """
        url = self.url + path
        deadline = Deadline(seconds)
        try:
            with (
                self._adapter.bounded(deadline),
                self._session.request(
                    method,
                    url,
                    data=data,
                    headers=headers,
                    auth=self._token,
                    stream=True,
                    allow_redirects=False,
                    timeout=(min(CONNECT_TIMEOUT, seconds), seconds),
                ) as response,
            ):
                body = b""
                for block in response.iter_content(_BLOCK):
                    body += block
                    if len(body) > MOST_ANSWER:
                        raise TooMuchDataError(url, MOST_ANSWER, "the longest answer that makes sense")
        except _FOREIGN as error:
            if deadline.passed():
                raise DeadlineExceededError(url, f"is not through within {seconds:g} s") from error
            raise HttpRequestFailedError(url, f"the request failed: {error}") from error
        return _members(url, response, body)


class Token(AuthBase):
    """What the server has as ``publish_token``; it is in no error and no ``repr``, and no ``.netrc`` takes its place.

    Raises:
        ConfigError: it is none.
    """

    def __init__(self, token: str) -> None:
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError("token", "is empty, or has characters that no token has; it is not shown here")
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put it into a request."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def check_url(url: str) -> str:
    """Return the address of an API with a slash at its end; plain http is for this machine. Raises `ConfigError`."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError("url", f"{url[:200]!r} is not an address: {error}") from error
    if parts.username is not None or parts.password is not None:
        raise ConfigError("url", "the address of the API has no user and no password in it; give the token by itself")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigError(
            "url", f"{url[:200]!r} is not the address of an API, such as https://updates.example.com/api/"
        )
    if parts.scheme == "http" and not _is_loopback(host):
        raise ConfigError("url", f"{url[:200]!r} is plain http, where others can read the token: use https")
    return url.rstrip("/") + "/"


def read_answer(url: str, read: Callable[[], Result]) -> Result:
    """Return what ``read`` makes of an answer. Raises `InvalidPayloadError` if it is not what was asked for."""
    try:
        return read()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidPayloadError(url, f"does not answer what was asked for: {error!r}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _members(url: str, response: requests.Response, body: bytes) -> dict[str, Any]:
    """Return the object that a body is, or raise what an answer says."""
    status = response.status_code
    found = _parsed(response, body)
    if status == 200:
        if found is None:
            raise InvalidBodyError(url, "does not answer with JSON; is the address of the API right?")
        return found
    if 300 <= status < 400:
        raise RedirectError(url, response.headers.get("Location", ""), "the token goes nowhere else; use that address")
    retry_after = _retry_after(response)
    text = found.get("error") if found is not None else None
    if found is None or not isinstance(text, str):
        if status == 404:
            raise PublishingRefusedError(
                f"{url} is not there: is the address of the API right, and is publishing over the network switched on "
                "at the server (PATCHIFY_PUBLISH_TOKEN)?",
                status,
            )
        if status in _BUSY or status >= 500:
            raise ServerBusyError(url, status, retry_after)
        raise HttpError(url, status)
    text = "".join(each if each.isprintable() else "?" for each in text[:_LONGEST_ERROR])
    if type(found.get("offset")) is int:
        raise UploadOffsetError(found["offset"])
    if found.get("retry") is True:
        raise PublishingFailedError(url, text, status, retry_after)
    if status in (401, 403):
        raise PublishingRefusedError(f"{url}: {text}", status)
    raise PublicationError(text)


def _parsed(response: requests.Response, body: bytes) -> dict[str, Any] | None:
    if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() != JSON:
        return None
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text[:9]) if text.isascii() and text.isdigit() else None

"""What the answers of a server say beside their bodies, and which of it is accepted."""

from __future__ import annotations

import email.utils
import time
from urllib.parse import SplitResult, urljoin, urlsplit

import requests

from patchify.errors import HttpError, InvalidBodyError, RedirectError, ServerBusyError, UnexpectedContentTypeError

LONGEST_RETRY_AFTER = 24 * 3600.0  # seconds; such answers are not signed, and must not silence a client for years
_BUSY = frozenset({408, 425, 429})


def expect_status(response: requests.Response, status: int) -> None:
    """Raise `ServerBusyError` or `HttpError` unless the answer has this status."""
    found = response.status_code
    if found in _BUSY or found >= 500:
        raise ServerBusyError(response.url, found, retry_after(response))
    if found != status:
        raise HttpError(response.url, found)


def expect_type(response: requests.Response, content_type: str) -> None:
    """Raise `UnexpectedContentTypeError` unless the answer has this type."""
    media_type = response.headers.get("Content-Type", "")
    if media_type.partition(";")[0].strip().lower() != content_type:
        raise UnexpectedContentTypeError(response.url, found=media_type, expected=content_type)


def expect_plain(response: requests.Response) -> None:
    """Raise `InvalidBodyError` if the body is encoded, compressed say."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise InvalidBodyError(response.url, f"is encoded as {encoding[:40]!r}, which was not asked for")


def length_of(response: requests.Response) -> int | None:
    """Return the bytes that the body has, None if that is not said. Raises `InvalidBodyError`."""
    text = response.headers.get("Content-Length")
    if text is None or "Transfer-Encoding" in response.headers:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidBodyError(response.url, f"has Content-Length {text[:40]!r}, which is no number")
    return int(text)


def said_length(response: requests.Response) -> int:
    """Return the bytes that the body has, which must be said. Raises `InvalidBodyError`."""
    length = length_of(response)
    if length is None:
        raise InvalidBodyError(response.url, "has no Content-Length, so that its end could not be told")
    return length


def retry_after(response: requests.Response) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, as a number or as a date (RFC 9110 section 10.2.3)."""
    text = response.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_RETRY_AFTER)
    try:
        seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER)


def redirected(url: str, location: str) -> str:
    """Return where a redirect leads, if it may be followed. Raises `RedirectError`."""
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

"""Who may publish: whoever has the token, over a way on which nobody else reads it.

A right token is always let in: behind a proxy all may seem to come from one address, and one of them who has a wrong
one is not to lock the others out. To guess 32 characters is hopeless at any rate; that wrong ones are limited keeps
the log short.

It decides from one request, before anything of its body is read. What may be published is decided elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
from urllib.parse import urlsplit

from flask import Request

from patchify.errors import PublishingRefusedError, TooManyAttemptsError
from patchify.server.limiter import RateLimiter

_log = logging.getLogger(__name__)

WRONG_TOKENS = 10  # from one address at once
NEXT_WRONG_TOKEN = 30.0  # seconds
_SCHEME = "bearer "  # RFC 6750
_FORWARDED = ("Forwarded", "Via", "X-Real-Ip", "X-Forwarded-")  # how the names of a proxy's headers begin


class Admission:
    """Lets requests with the right token pass.

    Args:
        token: The secret that publishers have.
        limiter: How often an address may have a wrong one; ten times at once and then every 30 s by default.
    """

    def __init__(self, token: str, limiter: RateLimiter | None = None) -> None:
        self._digest = _digest(token)
        self._limiter = limiter or RateLimiter(WRONG_TOKENS, NEXT_WRONG_TOKEN)

    def check(self, request: Request) -> None:
        """Let a request pass, or raise.

        Raises:
            PublishingRefusedError: it comes neither over TLS nor from this machine itself (403), or has not the right
                token (401).
            TooManyAttemptsError: it has not the right token, and wrong ones came from its address too often.
        """
        if not (request.is_secure or _is_local(request)):
            raise PublishingRefusedError(
                "the token may be read on its way here: publish over https. Behind a proxy that has the certificate "
                "the server must know of it, by PATCHIFY_PROXIES or gunicorn's forwarded_allow_ips. Plain http is for "
                "this machine itself, by the name localhost or an address such as 127.0.0.1",
                403,
            )
        given = request.headers.get("Authorization", "")
        token = given[len(_SCHEME) :].strip() if given[: len(_SCHEME)].lower() == _SCHEME else ""
        if hmac.compare_digest(_digest(token), self._digest):  # of digests: all have the same length
            return
        address = request.remote_addr or ""
        if wait := self._limiter.take(address):
            raise TooManyAttemptsError(wait)
        _log.warning("a wrong token for publishing came from %s", address or "a socket")
        raise PublishingRefusedError("the token (PATCHIFY_TOKEN, --token-file) is not the one that the server has", 401)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def _is_local(request: Request) -> bool:
    """Return whether a request was made on this machine, and not passed on by a proxy that is on it.

    A proxy tells of itself by a header of its own, by the name that its client asked for, or by the old protocol that
    nginx speaks to what is behind it. One that does none of this cannot be recognised.
    """
    if any(name.title().startswith(_FORWARDED) for name in request.headers.keys()):  # noqa: SIM118 - pairs otherwise
        return False
    if request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        return False
    try:
        host = urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return False
    return _is_loopback(request.remote_addr or "") and (host == "localhost" or _is_loopback(host))


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback

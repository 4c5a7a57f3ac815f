"""How much each client may have; beyond that ``429`` with ``Retry-After``. Nothing of it runs unless it is configured.

Counted are requests of documents and files, and bytes of files; not reports and what is published: these have limits of
their own. A window begins with the first request of a client, and nothing is left of it when it ends. Bytes count when
a file begins, as far as it was asked for, and a file may begin while any are left: so one that is larger than the limit
can be had, too. A store that cannot be reached limits nobody.

A client is where a request comes from as WSGI says; behind a proxy that is right only with Werkzeug's `ProxyFix`.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import cast

from flask import Response, current_app, request
from flask.blueprints import BlueprintSetupState

from patchify.errors import ConfigError, MissingExtraError
from patchify.server.blueprint import HANDED_OVER, log_request
from patchify.server.config import MEMORY, PREFIX, Config
from patchify.server.limiter import network
from patchify.server.rates import Rate

try:
    from limits import RateLimitItem, RateLimitItemPerSecond
    from limits.errors import ConfigurationError, StorageError
    from limits.storage import Storage, storage_from_string
    from limits.strategies import FixedWindowRateLimiter
except ModuleNotFoundError as error:
    raise MissingExtraError("limits of the server", "[server]", error.name) from error

_log = logging.getLogger(__name__)

MOST_CLIENTS = 16384  # whose windows a worker keeps; those that asked last
_FILES = frozenset({"releases", "files"})
_COUNTED = _FILES | {"latest", "hashes", "updates"}
_ONE_PART = re.compile(r"bytes=(?:[0-9]+-[0-9]*|-[0-9]+)")
_PATIENCE = 1.0  # seconds that an answer waits for a store


def set_up(state: BlueprintSetupState, config: Config) -> None:
    """Let the views of one application be limited as it is configured. Raises `ConfigError`."""
    limits = Limits(config)
    name = f"{state.name_prefix}.{state.name}".lstrip(".")  # as Flask names what it registers
    state.app.before_request_funcs.setdefault(name, []).append(limits.refuse)
    state.app.after_request_funcs.setdefault(name, []).append(limits.count)


class Limits:
    """What one application lets each client have.

    Args:
        config: The limits, and where they are counted.
        clock: Seconds that only grow; for what is counted here in memory.

    Raises:
        ConfigError: there is no such store, or what talks to it is not installed.
    """

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._appname = config.appname
        self._requests = _item(config.requests_rate)
        self._bandwidth = _item(config.bandwidth_rate)
        self._windows = FixedWindowRateLimiter(_storage(config.limits_storage, clock))
        self._failed = False

    def refuse(self) -> Response | None:
        """Return the answer to a request of a client that has had what it may; None lets it pass, and counts it."""
        view = _view()
        if view not in _COUNTED:
            return None
        try:
            wait = self._wait(view)
        except StorageError as error:
            if not self._failed:
                _log.warning("nobody is limited as long as the store of limits cannot be reached: %s", error)
            self._failed = True
            return None
        self._failed = False
        if not wait:
            return None
        response = current_app.response_class("Too many requests", 429, content_type="text/plain; charset=utf-8")
        response.headers["Retry-After"] = str(math.ceil(wait))
        response.headers["Cache-Control"] = "no-store"  # it is for this client alone
        log_request(request.method, request.path, 429, response.content_length or 0, time.perf_counter())
        return response

    def count(self, response: Response) -> Response:
        """Count the bytes of a file that is about to be sent."""
        if self._bandwidth and request.method == "GET" and response.status_code in (200, 206) and _view() in _FILES:
            try:
                self._windows.hit(self._bandwidth, *self._client("bytes"), cost=_length(response))
            except StorageError as error:
                _log.debug("bytes are not counted: %s", error)
        return response

    def _wait(self, view: str) -> float:
        """Return the seconds until a client may ask again; 0 if it may now, which counts as asked."""
        if self._bandwidth and view in _FILES and not self._windows.test(self._bandwidth, *self._client("bytes")):
            return self._left(self._bandwidth, "bytes")
        if self._requests and not self._windows.hit(self._requests, *self._client("requests")):
            return self._left(self._requests, "requests")
        return 0

    def _left(self, item: RateLimitItem, kind: str) -> float:
        """Return the seconds until the window of a client ends."""
        return max(1, self._windows.get_window_stats(item, *self._client(kind)).reset_time - time.time())

    def _client(self, kind: str) -> tuple[str, str, str]:
        return self._appname, kind, network(request.remote_addr or "")


class Memory(Storage):
    """The windows of the clients of one process.

    Unlike what `limits` has for this, it starts no thread, goes through none but the window that is asked for, and is
    bounded: the clients that asked last are remembered.

    Args:
        clock: Seconds that only grow.
    """

    STORAGE_SCHEME = None  # not registered: theirs stays what memory:// is for others

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._windows: OrderedDict[str, tuple[int, float]] = OrderedDict()  # what was counted, and when it ends
        self._lock = threading.Lock()

    @property
    def base_exceptions(self) -> type[Exception]:
        """The error of a store that cannot be reached, as there is none here."""
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count, in a window that ends after ``expiry`` seconds if this begins it, and return the sum."""
        with self._lock:
            now = self._clock()
            before, end = self._windows.pop(key, (0, 0.0))
            if end <= now:
                before, end = 0, now + expiry
            self._windows[key] = before + amount, end
            if len(self._windows) > MOST_CLIENTS:
                self._windows.popitem(last=False)
            return before + amount

    def get(self, key: str) -> int:
        """Return what was counted in the window that is open now."""
        count, end = self._windows.get(key, (0, 0.0))
        return count if end > self._clock() else 0

    def get_expiry(self, key: str) -> float:
        """Return when the window ends, in seconds since 1970."""
        return time.time() + max(0, self._windows.get(key, (0, 0.0))[1] - self._clock())

    def check(self) -> bool:
        """Return whether it can be reached."""
        return True

    def reset(self) -> int:
        """Forget everything; return how many windows there were."""
        with self._lock:
            count = len(self._windows)
            self._windows.clear()
            return count

    def clear(self, key: str) -> None:
        """Forget a window."""
        with self._lock:
            self._windows.pop(key, None)


def _item(rate: Rate | None) -> RateLimitItem | None:
    return None if rate is None else RateLimitItemPerSecond(rate.amount, rate.seconds, "patchify")


def _storage(url: str, clock: Callable[[], float]) -> Storage:
    """Return the store at a URL, which no error shows: it may hold a password."""
    if url == MEMORY:
        return Memory(clock)
    scheme = url.partition("://")[0]
    options = {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE} if "redis" in scheme else {}
    try:
        return cast("Storage", storage_from_string(url, wrap_exceptions=True, **options))
    except ConfigurationError:  # its text has the address, and that may hold a password
        problem = f"no store of the kind {scheme!r:.40} can be used here: see `limits` for what there is and needs"
        raise ConfigError(f"{PREFIX}LIMITS_STORAGE", problem) from None
    except Exception as error:
        raise ConfigError(f"{PREFIX}LIMITS_STORAGE", f"the store cannot be used: {type(error).__name__}") from None


def _length(response: Response) -> int:
    """Return the length of a body; of one that the server in front sends, as far as it was asked for."""
    size: int | None = request.environ.get(HANDED_OVER)
    if size is None:
        return response.content_length or 0
    environ = request.environ
    whole = environ.get("HTTP_IF_RANGE", etag := response.headers.get("ETag")) != etag
    if whole or not _ONE_PART.fullmatch(environ.get("HTTP_RANGE", "")):
        return size  # also where a front may read a range otherwise: it is not to send more than is counted
    part = request.range.range_for_length(size) if request.range else None
    return part[1] - part[0] if part else size


def _view() -> str:
    """Return the name of the view that answers this request."""
    return (request.endpoint or "").rpartition(".")[2]

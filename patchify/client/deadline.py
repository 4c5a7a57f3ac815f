"""A deadline for whole exchanges, which neither requests nor urllib3 has.

Their timeouts bound the silence between two bytes. A server that drips one byte at a time, into the header of its
answer say, would hold a client for hours. At the deadline the connection is shut down, which ends any read from it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection


class Deadline:
    """A moment after which nothing more is waited for.

    Args:
        seconds: From now.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left, 0 at the least."""
        return max(0.0, self._end - time.monotonic())

    def passed(self) -> bool:
        """Return whether the moment is over."""
        return self.left() == 0.0


class DeadlineAdapter(HTTPAdapter):
    """An `HTTPAdapter` whose connections can be cut from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_cut = False
        self._connections: WeakSet[HTTPConnection] = WeakSet()
        # One that is not kept alive lets go of its socket while the answer is still read from it.
        self._sockets: WeakSet[Any] = WeakSet()
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make pools whose connections are known here."""
        super().init_poolmanager(*args, **kwargs)
        self._adopt(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Make pools whose connections are known here, by way of a proxy."""
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not known:
            self._adopt(manager)
        return manager

    def cut(self) -> None:
        """Shut every connection down, also one that is being made: whatever waits for a byte ends with an error."""
        with self._lock:
            self._is_cut = True
            for sock in [*(connection.sock for connection in self._connections), *self._sockets]:
                _shut(sock)

    @contextlib.contextmanager
    def bounded(self, deadline: Deadline) -> Iterator[None]:
        """Cut all connections if the block is not left before the deadline."""
        self._is_cut = False
        watch = threading.Timer(deadline.left(), self.cut)
        watch.name = "patchify-deadline"
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def _adopt(self, manager: Any) -> None:
        """Put pools of connections that are known here in the place of the manager's own, of whatever kind."""
        manager.pool_classes_by_scheme = {
            scheme: self._watched(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
        }

    def _watched(self, pool: Any) -> Any:
        adapter = self

        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            def connect(self) -> None:
                adapter._begin(self)
                super().connect()
                adapter._watch(self.sock)

        class Pool(pool):  # type: ignore[misc]
            ConnectionCls = Connection

        return Pool

    def _begin(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._connections.add(connection)

    def _watch(self, sock: Any) -> None:
        with self._lock:
            self._sockets.add(sock)
            if self._is_cut:
                _shut(sock)


def _shut(sock: Any) -> None:
    """End all reading from a socket, but let what was received be read: TLS needs its state for that."""
    with contextlib.suppress(OSError, TypeError):  # it is closed already, or there is none
        socket.socket.shutdown(sock, socket.SHUT_RDWR)

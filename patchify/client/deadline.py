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
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection


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
        self._connections: WeakSet[HTTPConnection] = WeakSet()
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make pools whose connections are known here."""
        super().init_poolmanager(*args, **kwargs)
        self._adopt(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Make pools whose connections are known here, by way of a proxy."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        self._adopt(manager)
        return manager

    def cut(self) -> None:
        """Shut every connection down: whatever waits for a byte of it ends with an error."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def bounded(self, deadline: Deadline) -> Iterator[None]:
        """Cut all connections if the block is not left before the deadline."""
        watch = threading.Timer(deadline.left(), self.cut)
        watch.name = "patchify-deadline"
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def _adopt(self, manager: Any) -> None:
        known = self._connections

        class Connection(HTTPConnection):
            def connect(self) -> None:
                known.add(self)
                super().connect()

        class SecureConnection(HTTPSConnection):
            def connect(self) -> None:
                known.add(self)
                super().connect()

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = SecureConnection

        manager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}

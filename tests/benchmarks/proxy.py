"""A TCP proxy on loopback that counts what passes, and can hold it to the rate of a link."""

import contextlib
import socket
import threading
import time
from typing import Self

PIECE = 16 * 1024  # bytes passed on at once
CREDIT = 0.005  # seconds that a link may catch up on when it was late


class Link:
    """One direction: counts bytes, and lets them through no faster than ``rate`` bytes a second (None: at once)."""

    def __init__(self, rate: float | None) -> None:
        self.bytes = 0
        self._rate = rate
        self._free = 0.0
        self._lock = threading.Lock()

    def carry(self, count: int) -> None:
        """Wait until so many bytes have got through, and count them."""
        with self._lock:
            self.bytes += count
            if self._rate is None:
                return
            self._free = free = max(self._free, time.monotonic() - CREDIT) + count / self._rate
        time.sleep(max(0.0, free - time.monotonic()))


class Proxy:
    """Passes connections to its ``port`` on to a port of loopback, until it is left.

    Attributes:
        up: The direction to the server.
        down: The direction to the clients.
        connections: How many there were.
    """

    def __init__(self, server: int, rate: float | None = None) -> None:
        """Take the port of the server, and the rate of the link each way (bytes a second; None: as fast as it goes)."""
        self.up, self.down = Link(rate), Link(rate)
        self.connections = 0
        self._server = server
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def bytes(self) -> int:
        """All bytes that passed, both ways."""
        return self.up.bytes + self.down.bytes

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):  # it is closed on the other side
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._sockets):
            each.close()

    def _start(self, target, *arguments) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was left
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                self._sockets.add(client)
                server = socket.create_connection(("127.0.0.1", self._server))
                self._sockets.add(server)
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._start(self._pass, client, server, self.up)
                self._start(self._pass, server, client, self.down)

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket, link: Link) -> None:
        try:
            while data := source.recv(PIECE):
                link.carry(len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # one side has gone: the other is told
            for each in (source, target):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

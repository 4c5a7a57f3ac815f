"""A client that costs little itself, for measuring what servers cost."""

import socket


class Asker:
    """A connection that stays open and asks for one thing again and again, with little work of its own."""

    def __init__(self, port: int, path: str, span: tuple[int, int] | None = None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        wanted = f"Range: bytes={span[0]}-{span[1] - 1}\r\n" if span else ""
        self._request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{wanted}\r\n".encode()
        self._buffer = bytearray(1024 * 1024)

    def fetch(self) -> int:
        """Ask once and take the answer in; return the length of its body."""
        self.send()
        return self.receive()

    def send(self) -> None:
        self._socket.sendall(self._request)

    def receive(self) -> int:
        view, got = memoryview(self._buffer), 0
        while (end := self._buffer.find(b"\r\n\r\n", 0, got)) < 0:
            got += self._socket.recv_into(view[got:]) or self._broken("the header")
        head = bytes(view[:end]).lower()
        if not head.startswith((b"http/1.1 200", b"http/1.1 206")):
            self._broken(repr(head))
        length = int(head.partition(b"content-length:")[2].split()[0])
        left = length - (got - end - 4)
        while left:
            left -= self._socket.recv_into(view, min(left, len(view))) or self._broken("the body")
        return length

    def turn_to(self, path: str) -> None:
        """Ask for this on the same connection from now on."""
        self._request = b" ".join([b"GET", path.encode(), self._request.split(b" ", 2)[2]])

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def _broken(self, what: str) -> int:
        raise RuntimeError(f"no sound answer to {self._request!r}: {what}")

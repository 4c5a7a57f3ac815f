"""A server on loopback that does what HTTP servers and what stands between should not do.

An *act* answers one request: a function of the `Exchange`, which sends, waits, drips, or resets as it likes. Acts are
given for each path, one after the other; the last one stays. A well-behaved site is only a set of acts as well.
"""

import atexit
import contextlib
import functools
import hashlib
import ipaddress
import json
import shutil
import socket
import ssl
import struct
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from patchify.keys import SigningKey, encode_signature
from tests.running import PATIENCE

KEY = SigningKey.from_hex("11" * 32)
PREFIX = "/api/"


class Exchange:
    """One request, and the connection to answer it on."""

    def __init__(self, server, connection, path: str, headers: dict[str, str]):
        self.server = server
        self.connection = connection
        self.path = path
        self.headers = headers  # names in lower case

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def close(self) -> None:
        """End the connection, in order."""
        self.connection.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """End the connection by a reset, as a crash or a firewall does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def wait(self) -> None:
        """Be silent until the client leaves, or the server ends."""
        self.server.stalled.set()
        self.connection.recv(1)

    def drip(self, data: bytes, pause: float = 0.005) -> None:
        """Send the same again and again, until the client leaves."""
        for _ in range(int(PATIENCE / pause)):
            if self.server.ended.wait(pause):
                break
            self.send(data)


class Misbehaving:
    """The server, on a free port of 127.0.0.1, from `with` to the end of the block.

    Attributes: ``asked``, every request as path and headers; ``connections``, how many were made; ``stalled``, set
    when an act waits.
    """

    def __init__(self, tls: ssl.SSLContext | None = None):
        self._tls = tls
        self._acts: dict[str, list] = {}
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.ended = threading.Event()
        self.stalled = threading.Event()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.api = self.url + PREFIX

    def on(self, path: str, *acts) -> None:
        """Answer requests for the path below the API by these acts, one after the other; the last one stays.

        A path from the root, and what a proxy is asked for (``https://host/path``, ``host:port``), is meant as it is.
        """
        with self._lock:
            self._acts[path if path.startswith("/") or ":" in path else PREFIX + path] = list(acts)

    def behave(self, releases: dict[str, bytes], key: SigningKey = KEY, **options) -> None:
        """Be a good server of these releases, as on the first day."""
        with self._lock:
            self._acts.clear()
        for path, act in site(releases, key, **options).items():
            self.on(path, act)

    def asked_for(self, path: str) -> list[dict[str, str]]:
        """Return the headers of each request for this path below the API."""
        return [headers for asked, headers in self.asked if asked == PREFIX + path]

    def __enter__(self):
        self._start(self._accept)
        return self

    def __exit__(self, *_):
        self.ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()

    def _start(self, target, *arguments) -> None:
        thread = threading.Thread(target=target, args=arguments, name="misbehaving")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with self._lock:
                self._open.add(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        secure = None
        try:
            if self._tls:
                secure = self._tls.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._open.remove(connection)
                    self._open.add(secure)
            self._converse(secure or connection)
        except OSError:  # the client left, which is what these tests are about
            pass
        finally:
            with self._lock:
                self._open -= {connection, secure}
            for each in (secure, connection):
                if each is not None:
                    each.close()

    def _converse(self, connection: socket.socket) -> None:
        received = b""
        while not self.ended.is_set():
            while b"\r\n\r\n" not in received:
                data = connection.recv(65536)
                if not data:
                    return
                received += data
            head, _, received = received.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            path = first.split(" ")[1]
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            self.asked.append((path, headers))
            with self._lock:
                acts = self._acts.get(path, [not_found])
                act = acts.pop(0) if len(acts) > 1 else acts[0]
            act(Exchange(self, connection, path, headers))


# What is sent ---------------------------------------------------------------------------------------------------------


def head(status: int = 200, **headers) -> bytes:
    """Return the start of an answer; ``_`` in the names of headers stands for ``-``, and None leaves one out."""
    lines = [f"HTTP/1.1 {status} Whatever"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def answer(status: int = 200, body: bytes = b"", **headers):
    """Return the act of a whole answer, with its length unless that is given."""
    return lambda exchange: exchange.send(head(status, **{"Content_Length": len(body), **headers}) + body)


def document(members: dict | bytes, key: SigningKey | None = KEY, **headers):
    """Return the act of a signed document."""
    return answer(**document_parts(members, key, **headers))


def document_parts(members: dict | bytes, key: SigningKey | None = KEY, **headers) -> dict:
    body = members if isinstance(members, bytes) else json.dumps(members, separators=(",", ":")).encode()
    signature = encode_signature(key.sign(body)) if key else None
    return {"body": body, "Content_Type": "application/json", "X_Signature": signature, **headers}


def release(
    data: bytes,
    *,
    ranges: bool = True,
    etag: str | None = None,
    cut: int | None = None,
    end=Exchange.reset,
    content_type: str | None = "application/octet-stream",
):
    """Return the act of a release file; ``cut`` breaks the connection by ``end`` after so many bytes of the body."""
    etag = etag or f'"{hashlib.sha256(data).hexdigest()}"'

    def act(exchange: Exchange) -> None:
        asked = exchange.headers.get("range") if ranges else None
        start, stop, status, headers = 0, len(data), 200, {}
        if asked and exchange.headers.get("if-range", etag) == etag:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or len(data)), len(data) - 1) + 1
            status, headers = 206, {"Content_Range": f"bytes {start}-{stop - 1}/{len(data)}"}
            if start >= len(data):
                exchange.send(head(416, Content_Range=f"bytes */{len(data)}", Content_Length=0))
                return
        body = data[start:stop]
        exchange.send(
            head(status, Content_Type=content_type, Content_Length=len(body), ETag=etag, **headers) + body[:cut]
        )
        if cut is not None:
            end(exchange)

    return act


def site(releases: dict[str, bytes], key: SigningKey = KEY, **options) -> dict:
    """Return the acts of a good server: its paths below the API, the last release being the newest."""
    acts = {"latest": document({"version": list(releases)[-1]}, key)}
    for version, data in releases.items():
        digest = hashlib.sha256(data).hexdigest()
        acts[f"hashes/{version}"] = document({"version": version, "hash": digest}, key)
        acts[f"releases/{version}"] = release(data, **options)
    return acts


BINARY = "application/octet-stream"
not_found = answer(404, b"not here", Content_Type="text/plain")


def silence(before: bytes = b""):
    """Return the act of sending this much and then nothing."""

    def act(exchange: Exchange) -> None:
        exchange.send(before)
        exchange.wait()

    return act


def dripping(before: bytes, data: bytes):
    """Return the act of sending one thing, and then another, a byte say, again and again."""

    def act(exchange: Exchange) -> None:
        exchange.send(before)
        exchange.drip(data)

    return act


def broken(before: bytes, end=Exchange.reset):
    """Return the act of sending this much and ending the connection."""

    def act(exchange: Exchange) -> None:
        exchange.send(before)
        end(exchange)

    return act


# TLS ------------------------------------------------------------------------------------------------------------------


@functools.cache
def certificate_file() -> Path:
    """Return a PEM file, made once, with a key and a certificate for 127.0.0.1 that it signed itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = Path(tempfile.mkdtemp(prefix="patchify-certificate-"))
    atexit.register(shutil.rmtree, folder)
    path = folder / "both.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


def certificate() -> ssl.SSLContext:
    """Return the TLS settings of a server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file())
    return context

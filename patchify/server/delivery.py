"""A checked file becomes a response: whole or a range, in one piece or streamed, with its validator.

The ETag is the SHA-256, so it is the same on every mirror. A range is a seek, never a read of what it skips: the file
is handed to the server's ``wsgi.file_wrapper`` at its start, and gunicorn lets the kernel send it from there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from io import BufferedReader, FileIO

from flask import Request, Response, current_app
from werkzeug.datastructures import ContentRange, Range
from werkzeug.wsgi import wrap_file

from patchify.messages import BINARY
from patchify.server.config import Config

OnClose = Callable[[int], None]
"""Called once, when the body is done with or given up, with the number of bytes that went out."""


class Slice:
    """Part of an open file, as a file: what ``wsgi.file_wrapper`` reads or hands to ``sendfile(2)``.

    Args:
        file: Unbuffered; closed with this object.
        start, size: Bytes.
        read_buffer: Bytes; how much is read from the disk at once.
        on_close: Told how much was sent.
    """

    def __init__(self, file: FileIO, start: int, size: int, read_buffer: int, on_close: OnClose) -> None:
        self._file = file
        self._reader = BufferedReader(file, read_buffer)
        self._reader.seek(start)
        self._start = start
        self._size = size
        self._sent = 0
        self._on_close: OnClose | None = on_close

    def fileno(self) -> int:
        """Return the descriptor; the file stands at the start of the slice."""
        return self._file.fileno()

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes of the rest of the slice; nothing at its end. Raises `OSError` if it shrank."""
        left = self._size - self._sent
        wanted = left if size < 0 else min(size, left)
        data = self._reader.read(wanted)
        self._sent += len(data)
        if len(data) < wanted:
            raise self._shrunk()
        return data

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """Learn how far ``sendfile`` came: `socket.sendfile` ends by seeking to where it stopped."""
        position = self._file.seek(position, whence)
        self._sent = position - self._start
        return position

    def close(self) -> None:
        """Close the file and say how much was sent. May be called twice.

        Raises:
            OSError: the file ended before the slice did. ``sendfile`` says nothing of it, and if the server kept the
                connection, its next answer would fill the gap.
        """
        on_close, self._on_close = self._on_close, None
        if on_close is None:
            return
        shrunk = self._sent < self._size and os.fstat(self._file.fileno()).st_size < self._start + self._size
        self._reader.close()
        on_close(self._sent)
        if shrunk:
            raise self._shrunk()

    def _shrunk(self) -> OSError:
        return OSError(errno.EIO, f"the file ended after {self._sent} of {self._size} bytes while it was sent")


def deliver(request: Request, file: FileIO, sha256: str, config: Config, on_close: OnClose) -> Response:
    """Return the response that sends ``file``, or the part of it that was asked for.

    ``Range`` gives ``206`` or ``416`` (RFC 9110 section 14), tied by ``If-Range`` to the ETag; several ranges at once
    are answered whole, which section 14.2 allows. ``If-None-Match`` gives ``304``. Up to the configured threshold the
    body is read here and goes out in one piece; beyond it the response is marked ``direct_passthrough``.

    Args:
        request: The request being answered.
        file: Unbuffered, at its start; closed here or with the response.
        sha256: Its hash, which is the ETag.
        config: For threshold and buffers.
        on_close: Told of the end of a streamed body, and of no other.

    Raises:
        OSError: the file cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    start, stop = 0, size
    response = current_app.response_class(content_type=BINARY)
    response.set_etag(sha256)
    response.accept_ranges = "bytes"
    if request.if_none_match.contains_weak(sha256):
        response.status_code = 304
        stop = 0
    elif asked := _range(request, sha256):
        start, stop = _bounds(asked, size)
        response.status_code = 206 if stop else 416
        response.content_range = ContentRange("bytes", start if stop else None, stop or None, size)
    length = stop - start
    if request.method == "HEAD" or length <= config.stream_threshold * 1024:
        with BufferedReader(file) as reader:
            reader.seek(start)
            if request.method != "HEAD":
                response.data = _read_exactly(reader, length)
    else:
        connection = request.environ.get("gunicorn.socket")

        def finish(sent: int) -> None:
            _cork(connection, 0)
            on_close(sent)

        _cork(connection, 1)
        piece = Slice(file, start, length, config.read_buffer * 1024, finish)
        response.response = wrap_file(request.environ, piece, config.stream_buffer * 1024)  # type: ignore[arg-type]
        response.direct_passthrough = True
    if response.status_code != 304:
        response.content_length = length
    return response


def _cork(connection: socket.socket | None, corked: int) -> None:
    """Let the kernel send whole segments only, and in the end the rest: a fifth less work (nginx's ``tcp_nopush``)."""
    if connection is not None and hasattr(socket, "TCP_CORK"):
        with contextlib.suppress(OSError):  # not TCP, or closed meanwhile
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, corked)


def _range(request: Request, sha256: str) -> Range | None:
    """Return the one range of bytes that is asked for, or None where the whole file is the answer."""
    asked = request.range
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1 or request.method != "GET":
        return None
    # RFC 9110 section 13.1.5 wants a strong comparison; a date never matches, as no Last-Modified is sent.
    return asked if request.headers.get("If-Range", f'"{sha256}"') == f'"{sha256}"' else None


def _bounds(asked: Range, size: int) -> tuple[int, int]:
    """Return where a range starts and stops in ``size`` bytes, (0, 0) if it lies outside (RFC 9110 section 14.1.2)."""
    start, stop = asked.ranges[0]
    if start < 0:  # the last bytes; of a file that has fewer, all of them
        start = max(size + start, 0)
    return (start, min(stop or size, size)) if start < size else (0, 0)


def _read_exactly(reader: BufferedReader[FileIO], size: int) -> bytes:
    data = reader.read(size)
    if len(data) < size:
        raise OSError(errno.EIO, f"the file ended after {len(data)} of {size} bytes")
    return data

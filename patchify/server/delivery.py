"""A checked file becomes a response: whole or a range, in one piece or streamed, with its validator; or just its path.

The ETag is the SHA-256, so it is the same on every mirror. A range is a seek, never a read of what it skips: the file
is handed to the server's ``wsgi.file_wrapper`` at its start, and gunicorn lets the kernel send it from there. Where a
server stands in front that can send files, it may be told only which one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Callable
from io import BufferedReader, FileIO
from pathlib import Path
from urllib.parse import quote

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
    response = _with_validator(sha256)
    response.accept_ranges = "bytes"
    if request.if_none_match.contains_weak(sha256):
        response.status_code = 304
        stop = 0
    elif asked := _range(request, sha256):
        start, stop = _bounds(asked, size)
        response.status_code = 206 if stop else 416
        response.content_range = ContentRange("bytes", start if stop else None, stop or None, size)
    length = stop - start
    if request.method == "HEAD" or not length:
        file.close()
    else:
        connection = request.environ.get("gunicorn.socket")
        patient = _drop_if_it_stalls(connection, config.stall_timeout)
        if length <= config.stream_threshold * 1024:
            with BufferedReader(file) as reader:
                reader.seek(start)
                response.data = _read_exactly(reader, length)
            response.call_on_close(patient)
        else:

            def finish(sent: int) -> None:
                _set(connection, "TCP_CORK", 0)
                on_close(sent)
                patient()

            # Let the kernel send whole segments only, and in the end the rest: a fifth less work (nginx's tcp_nopush).
            _set(connection, "TCP_CORK", 1)
            piece = Slice(file, start, length, config.read_buffer * 1024, finish)
            response.response = wrap_file(request.environ, piece, config.stream_buffer * 1024)  # type: ignore[arg-type]
            response.direct_passthrough = True
    if response.status_code != 304:
        response.content_length = length
    return response


def hands_over(config: Config) -> bool:
    """Return whether files are sent by a server in front, so that `hand_over` is the way, and not `deliver`."""
    return config.x_accel_redirect is not None or config.x_sendfile


def hand_over(request: Request, path: Path, sha256: str, config: Config) -> Response:
    """Return the response that lets the server in front send a file, and is marked ``direct_passthrough`` then.

    ``Range``, ``If-Range`` and ``HEAD`` are its business, so none of the headers that answer them is here. To who has
    the file ``304`` is the answer, as from `deliver`: the front may know another validator, or none, at that moment.

    Args:
        request: The request being answered.
        path: Of the file, in the folder of the releases.
        sha256: Its hash, which is the ETag.
        config: For the way that the front is told.
    """
    response = _with_validator(sha256)
    if request.if_none_match.contains_weak(sha256):
        response.status_code = 304
        return response
    if config.x_accel_redirect is not None:
        name = path.relative_to(config.folder).as_posix()
        response.headers["X-Accel-Redirect"] = config.x_accel_redirect + quote(os.fsencode(name))
    else:
        response.headers["X-Sendfile"] = quote(os.fsencode(path.absolute()))  # Apache and lighttpd decode it
    response.direct_passthrough = True
    return response


def _with_validator(sha256: str) -> Response:
    response = current_app.response_class(content_type=BINARY)
    response.set_etag(sha256)
    return response


def _drop_if_it_stalls(connection: socket.socket | None, seconds: int) -> Callable[[], None]:
    """Let the kernel drop a client that takes nothing for so many seconds (0: never); return what undoes that.

    A timeout of the socket would not do: after it, there must be room for a third of what the kernel holds for the
    client, some MiB, so that one which is only slow would be dropped, too. What is returned raises `BrokenPipeError`
    where it is called because the client was dropped: gunicorn has a traceback for a timeout, and none for who left.
    """
    before = _set(connection, "TCP_USER_TIMEOUT", seconds * 1000) if seconds else None

    def undo() -> None:
        if before is not None:
            _set(connection, "TCP_USER_TIMEOUT", before)
            if isinstance(error := sys.exception(), TimeoutError):
                raise BrokenPipeError(errno.EPIPE, f"the client took nothing for {seconds} s") from error

    return undo


def _set(connection: socket.socket | None, name: str, value: int) -> int | None:
    """Set an option of a TCP connection and return what it was; None if there is no such connection or option."""
    option = getattr(socket, name, None)
    if connection is not None and option is not None:
        with contextlib.suppress(OSError):  # not TCP, or closed meanwhile
            before = connection.getsockopt(socket.IPPROTO_TCP, option)
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
            return before
    return None


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

"""What travels between a client and its server: documents, releases and their forms, reports.

Nothing that comes from here is to be believed yet, but for segments that have the hash that is signed.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote, urljoin

from patchify.client.answers import expect_plain, expect_status, expect_type, length_of, said_length
from patchify.client.config import Config
from patchify.client.connection import Connection
from patchify.client.deadline import Deadline
from patchify.client.download import FileDownload, Part, ReleaseDownload
from patchify.client.trust import SignedAnswer
from patchify.errors import (
    AnswerError,
    ConnectionFailedError,
    HttpError,
    InvalidBodyError,
    TooMuchDataError,
    VersionNotFoundError,
)
from patchify.forms import Segments, path_of
from patchify.messages import BINARY, JSON, SIGNATURE_HEADER, split_signature

_log = logging.getLogger(__name__)


class Transport:
    """Talks to one update server, one request at a time.

    Args:
        config: Address, limits, and perhaps the host's own session.
        pause: Waits so many seconds; returns True if the updater is being closed meanwhile.
        chance: Gives a random number from 0 to 1.
    """

    def __init__(
        self, config: Config, pause: Callable[[float], bool], chance: Callable[[], float] = random.random
    ) -> None:
        self._config = config
        self._connection = Connection(config, pause, chance)

    def close(self) -> None:
        """Cut what is under way and close what was opened here."""
        self._connection.close()

    @property
    def received(self) -> int:
        """Bytes of all bodies so far."""
        return self._connection.received

    def latest(self) -> SignedAnswer:
        """Ask for the newest version. Raises `AnswerError` and `ConnectionFailedError` leaves."""
        return self._connection.retry(lambda: self._document("latest"))

    def hash(self, version: str) -> SignedAnswer:
        """Ask for the hash of a version's file. Raises as `latest`, and `VersionNotFoundError`."""
        with _naming(version):
            return self._connection.retry(lambda: self._document(f"hashes/{_quoted(version)}"))

    def update(self, channel: str, platform: str) -> SignedAnswer:
        """Ask for the update document. Raises as `latest`; `HttpError` with status 404 if there is none.

        A static server has it as a file, which carries its signature inside.
        """
        return self._connection.retry(lambda: self._document(f"updates/{channel}/{platform}", static=True))

    def release(
        self,
        version: str,
        sha256: str,
        part: Part,
        progress: Callable[[int, int], None],
        *,
        path: str | None = None,
        size: int | None = None,
    ) -> None:
        """Download the file of a version to the end of ``part``, which may hold its beginning already.

        Args:
            version: Which release.
            sha256: Its hash, which is the ETag that our server gives it.
            part: Where to.
            progress: Called with the bytes that are there and the bytes that will be.
            path: Where it is below the address of the API. Default: where the original protocol has it.
            size: Its signed size in bytes. Default: whatever the server says.

        Raises:
            AnswerError, ConnectionFailedError, VersionNotFoundError, FileOperationError: what arrived is kept in
                ``part``, so that a later attempt can go on from there.
        """
        deadline = Deadline(self._config.release_timeout)
        download = ReleaseDownload(part, sha256, progress, size)
        path = path or f"releases/{_quoted(version)}"
        with _naming(version):
            self._connection.retry(lambda: self._fetch_release(path, download, deadline), lambda: part.size)

    def file(
        self,
        path: str,
        sha256: str,
        size: int,
        part: Part,
        progress: Callable[[int, int], None],
        *,
        segments: Segments | None = None,
    ) -> None:
        """Download a file whose hash and size are known; ``part`` may hold some of it already.

        Any static server will do. What a part has of it is gone on with, since the path names the hash.

        Args:
            path: Where it is below the address of the API.
            sha256: Its hash. That the whole has it is for whoever calls to see.
            size: Bytes. No more are read.
            part: Where to.
            progress: Called with the bytes that are there and ``size``.
            segments: Where there is a list of the hashes of its segments. Each is verified when it is complete, also
                what ``part`` holds, and what is wrong is fetched again alone. Without a list the whole is right or
                wrong.

        Raises:
            DamagedSegmentError: a segment is wrong on the server; what was right before is kept in ``part``.
            AnswerError, ConnectionFailedError, FileOperationError: what arrived is kept in ``part``, so that a later
                attempt can go on from there.
        """
        url = urljoin(self._config.api, path)
        limit = int(self._config.max_release * 1024 * 1024)
        if size > limit:
            raise TooMuchDataError(url, limit, "the largest release allowed (max_release)")
        deadline = Deadline(self._config.release_timeout)
        hashes = b"" if segments is None else self._hashes(segments, size, deadline)
        download = FileDownload(part, size, progress, segments, hashes)
        download.open(lambda: self._connection.go_on(url, deadline))
        while not download.is_complete:
            self._connection.retry(lambda: self._fetch_file(path, download, deadline), download.done)

    def report(self, body: bytes) -> None:
        """Send a batch of reports, which is JSON, in one attempt: it is for whoever calls to keep what got lost.

        Raises:
            AnswerError, ConnectionFailedError: the server may not have it; `HttpError` if it refuses.
        """
        deadline = Deadline(self._config.document_timeout)
        with self._connection.ask("reports", deadline, {"Content-Type": JSON}, body) as response:
            expect_status(response, 204)

    def _document(self, path: str, *, static: bool = False) -> SignedAnswer:
        deadline = Deadline(self._config.document_timeout)
        limit = self._config.max_document * 1024
        with self._connection.ask(path, deadline) as response:
            expect_status(response, 200)
            signature = response.headers.get(SIGNATURE_HEADER)
            is_static = static and signature is None
            if not is_static:
                expect_type(response, JSON)
            expect_plain(response)
            body = self._connection.body(response, limit, "the largest document allowed (max_document)", deadline)
            if is_static:
                body, signature = split_signature(body)
                if signature is None:
                    expect_type(response, JSON)  # which says more than that a signature is missing
            return SignedAnswer(response.url, body, signature)

    def _hashes(self, segments: Segments, size: int, deadline: Deadline) -> bytes:
        """Return the list of the hashes of a file's segments, or nothing if it cannot be had."""
        try:
            return self._connection.retry(lambda: self._list(segments, size, deadline.left()))
        except (AnswerError, ConnectionFailedError) as error:
            if isinstance(error, ConnectionFailedError) and error.retry_after is not None:
                raise
            # Not the error itself: its traceback holds the connection, as long as somebody keeps the record.
            _log.warning("what is downloaded can only be verified as a whole: %s", str(error))
            return b""

    def _list(self, segments: Segments, size: int, seconds: float) -> bytes:
        deadline = Deadline(min(seconds, self._config.document_timeout))
        with self._connection.ask(path_of(segments.sha256), deadline) as response:
            expect_status(response, 200)
            expect_plain(response)
            body = self._connection.body(
                response, segments.list_size(size), "the list of the file's segments", deadline
            )
            if hashlib.sha256(body).hexdigest() != segments.sha256:
                raise InvalidBodyError(response.url, "is not the list of segments that was signed")
            return body

    def _fetch_release(self, path: str, download: ReleaseDownload, deadline: Deadline) -> None:
        with self._connection.ask(path, deadline, download.headers()) as response:
            if response.status_code == 416 and download.is_whole(response):
                return
            expect_status(response, 206 if response.status_code == 206 else 200)
            expect_type(response, BINARY)
            expect_plain(response)
            length = said_length(response)
            limit = int(self._config.max_release * 1024 * 1024)
            total = download.begin(response, length)
            if total > limit:
                raise TooMuchDataError(response.url, limit, "the largest release allowed (max_release)")
            download.reserve(total)
            for block in self._connection.blocks(response, length, deadline):
                download.add(block, total)

    def _fetch_file(self, path: str, download: FileDownload, deadline: Deadline) -> None:
        with self._connection.ask(path, deadline, download.headers()) as response:
            if download.refuses(response, length_of(response)):
                return
            expect_status(response, 206 if response.status_code == 206 else 200)
            expect_plain(response)
            length = said_length(response)
            at = download.begin(response, length)
            for block in self._connection.blocks(response, length, deadline):
                if not download.add(response.url, at, block):
                    break  # closing the connection stops the rest
                at += len(block)


@contextmanager
def _naming(version: str) -> Iterator[None]:
    """Turn a ``404`` into the error that names the version that is not there."""
    try:
        yield
    except HttpError as error:
        if error.status == 404:
            raise VersionNotFoundError(version) from error
        raise


def _quoted(version: str) -> str:
    return quote(version, safe="+")

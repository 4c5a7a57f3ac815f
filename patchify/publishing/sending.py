"""How a file gets to a server: in pieces, from where it broke off, until the server says that it is published.

A piece is as large as goes through in some seconds, and no larger than what stands before the server takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from patchify.errors import (
    ConnectionFailedError,
    HttpError,
    InvalidPayloadError,
    PublishingFailedError,
    UploadOffsetError,
)
from patchify.messages import BINARY, JSON
from patchify.publishing.connection import Connection, read_answer
from patchify.publishing.patience import Patience
from patchify.publishing.publisher import Publication
from patchify.publishing.upload import Upload
from patchify.releases import Release

PUBLISH_TIMEOUT = 900.0  # seconds; the server may have to read gigabytes once more
PIECE_TIMEOUT = 300.0  # seconds
FIRST_PIECE = 1024 * 1024  # bytes; what nginx takes unless told otherwise
LEAST_PIECE = 128 * 1024  # bytes
MOST_PIECE = 32 * 1024 * 1024  # bytes
_SHORT, _LONG = (
    2.0,
    10.0,
)  # seconds; after a piece that took less comes a larger one, after one that took more a smaller

_TOO_LARGE = 413
_DAMAGED = 422
_NO_ROOM = 507  # nothing that some seconds would change


class Sending:
    """One file on its way.

    Args:
        connection: Where to.
        upload: The file.
        publication: What to say of it.
        patience: How long it is tried.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        connection: Connection,
        upload: Upload,
        publication: Publication,
        patience: Patience,
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._upload = upload
        self._patience = patience
        self._clock = clock
        members = {"publication": publication.to_json(), "sha256": upload.sha256, "size": upload.size}
        self._body = json.dumps(members).encode()
        self._there: int | None = None  # bytes that the server has; None: it has to be asked
        self._piece = FIRST_PIECE
        self._most = MOST_PIECE
        self._was_damaged = False

    def run(self) -> Release:
        """Ask for it to be published, send what the server says is missing, and ask again, until it is.

        What makes no sense is refused by the server when it is first asked, before a byte was sent.

        Raises:
            UnreadableFileError, FileChangedError: the file cannot be read, or changed meanwhile.
            PublicationError, PublishingRefusedError, AnswerError: nothing was published.
            UploadOffsetError, ConnectionFailedError, PublishingFailedError: it was tried for long enough.
        """
        while True:
            try:
                if self._there in (None, self._upload.size):
                    return self._publish()
                self._send(self._there)
            except UploadOffsetError as error:
                self._follow(error)
            except (ConnectionFailedError, PublishingFailedError) as error:
                self._recover(error)

    def _publish(self) -> Release:
        self._upload.check()
        answer = self._connection.ask("POST", "publications", PUBLISH_TIMEOUT, self._body, {"Content-Type": JSON})
        return read_answer(self._connection.url, lambda: Release.from_json(answer["release"]))

    def _send(self, start: int) -> None:
        length = min(self._piece, self._upload.size - start)
        path = f"uploads/{self._upload.sha256}"
        headers = {"Content-Type": BINARY, "Upload-Offset": str(start), "Upload-Length": str(self._upload.size)}
        began = self._clock()
        try:
            answer = self._connection.ask("POST", path, PIECE_TIMEOUT, self._upload.piece(start, length), headers)
        except HttpError as error:
            if error.status != _TOO_LARGE or length <= LEAST_PIECE:
                raise
            self._piece = self._most = max(LEAST_PIECE, length // 2)
            return
        there = answer.get("offset")
        if type(there) is not int or not start < there <= self._upload.size:
            raise InvalidPayloadError(self._connection.url, f"has offset {there!r:.80} after {start + length} bytes")
        self._there = there
        self._patience.reached(there)
        took = self._clock() - began
        if took < _SHORT:
            self._piece = min(self._most, self._piece * 2)
        elif took > _LONG:
            self._piece = max(LEAST_PIECE, self._piece // 2)

    def _follow(self, error: UploadOffsetError) -> None:
        """Go on where the server says."""
        asked = self._there in (None, self._upload.size)
        if not 0 <= error.offset <= self._upload.size or (asked and error.offset == self._upload.size):
            raise error
        self._patience.reached(error.offset)
        if self._there is not None:  # another one sends the same file, or what was there is gone
            self._patience.wait(error)
        self._there = error.offset

    def _recover(self, error: ConnectionFailedError | PublishingFailedError) -> None:
        """Wait, and ask the server then what it has."""
        status = getattr(error, "status", None)
        if status == _NO_ROOM or (status == _DAMAGED and self._was_damaged):
            raise error
        self._was_damaged = self._was_damaged or status == _DAMAGED
        self._piece = max(LEAST_PIECE, self._piece // 2)
        self._patience.wait(error)
        self._there = None

"""What an answer of the update server is not, and what kept one from arriving."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patchify.errors.families import RejectedError, UnavailableError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path


class AnswerError(RejectedError):
    """An answer of the update server cannot be accepted. Attribute: ``url``."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"{url}: {problem}")
        self.url = url


class InvalidUrlError(AnswerError):
    """A URL cannot be requested."""


class RedirectError(AnswerError):
    """The server redirects to another host, to a less secure scheme, or endlessly. Attribute: ``location``."""

    def __init__(self, url: str, location: str, problem: str) -> None:
        super().__init__(url, f"redirects to {location[:200]!r}, which is refused: {problem}")
        self.location = location


class HttpError(AnswerError):
    """The status is one that asking again will not change. Attribute: ``status``."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(url, f"answered with HTTP status {status}; is the address of the API right?")
        self.status = status


class UnexpectedContentTypeError(AnswerError):
    """The content type is not the one of this endpoint. Attributes: ``found``, ``expected``."""

    def __init__(self, url: str, *, found: str, expected: str) -> None:
        super().__init__(url, f"has content type {found[:80]!r}, but {expected!r} is expected")
        self.found = found
        self.expected = expected


class InvalidBodyError(AnswerError):
    """The body cannot be read as what its headers say: no or wrong length, an encoding nobody asked for."""


class TooMuchDataError(AnswerError):
    """The body is longer than announced or allowed. Attribute: ``limit`` (bytes)."""

    def __init__(self, url: str, limit: int, what: str) -> None:
        super().__init__(url, f"body is longer than {limit} bytes, {what}")
        self.limit = limit


class DamagedSegmentError(AnswerError):
    """A segment of a file is another than was signed, however often it is fetched. Attributes: ``segment``, ``offset``.

    Segments count from 0; the offset is that of its first byte.
    """

    def __init__(self, url: str, *, segment: int, offset: int) -> None:
        super().__init__(
            url,
            f"has other bytes than were signed in its segment {segment}, which begins at byte {offset}, also when they "
            "are fetched again: the file on the server is damaged, or something on the way changes it",
        )
        self.segment = segment
        self.offset = offset


class MissingSignatureError(AnswerError):
    """The answer has no ``X-Signature`` header."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "has no X-Signature header; is this a Patchify server?")


class InvalidSignatureError(AnswerError):
    """The ``X-Signature`` header is not 128 hex digits. Attribute: ``signature``."""

    def __init__(self, url: str, signature: str) -> None:
        super().__init__(url, f"has the malformed signature {signature[:140]!r}; 128 hex digits are expected")
        self.signature = signature


class FailedSignatureVerificationError(AnswerError):
    """The signature does not belong to this body and the configured key."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "is not signed by the configured key; is the public key in the configuration right?")


class InvalidPayloadError(AnswerError):
    """A verified body is not the document that was asked for."""


class DocumentError(AnswerError):
    """An update document is signed and well-formed, but must not be believed here and now."""


class WrongApplicationError(DocumentError):
    """The document is another application's. Attributes: ``found``, ``expected``."""

    def __init__(self, url: str, *, found: str, expected: str) -> None:
        super().__init__(
            url,
            f"is about the application {found[:80]!r}, not {expected!r}: is the address of the API right? Where no "
            "appname is configured, it is the one of the first document",
        )
        self.found = found
        self.expected = expected


class WrongChannelError(DocumentError):
    """The document is another channel's. Attributes: ``found``, ``expected``."""

    def __init__(self, url: str, *, found: str, expected: str) -> None:
        super().__init__(url, f"is about the channel {found!r}, but {expected!r} was asked for")
        self.found = found
        self.expected = expected


class WrongPlatformError(DocumentError):
    """The document is another platform's. Attributes: ``found``, ``expected``."""

    def __init__(self, url: str, *, found: str, expected: str) -> None:
        super().__init__(url, f"is about the platform {found!r}, but {expected!r} was asked for")
        self.found = found
        self.expected = expected


class ClockSetBackError(DocumentError):
    """The clock is behind a time that was accepted before. Attributes: ``seen``, ``now`` (UTC)."""

    def __init__(self, url: str, *, seen: datetime, now: datetime) -> None:
        super().__init__(
            url,
            f"cannot be judged: a document of {seen:%Y-%m-%d %H:%M} UTC was accepted before, and the clock of this "
            f"machine says {now:%Y-%m-%d %H:%M} UTC: set the clock",
        )
        self.seen = seen
        self.now = now


class ExpiredDocumentError(DocumentError):
    """The document has expired, or the clock is wrong. Attributes: ``expires``, ``now`` (UTC)."""

    def __init__(self, url: str, *, expires: datetime, now: datetime) -> None:
        super().__init__(
            url,
            f"expired at {expires:%Y-%m-%d %H:%M} UTC, and the clock of this machine says {now:%Y-%m-%d %H:%M} UTC: "
            "set the clock if it is wrong; if it is right, somebody serves old answers, or the server's clock is wrong",
        )
        self.expires = expires
        self.now = now


class FutureDocumentError(DocumentError):
    """The document comes from the future, or the clock is wrong. Attributes: ``issued``, ``now`` (UTC)."""

    def __init__(self, url: str, *, issued: datetime, now: datetime) -> None:
        super().__init__(
            url,
            f"was issued at {issued:%Y-%m-%d %H:%M} UTC, and the clock of this machine says {now:%Y-%m-%d %H:%M} UTC: "
            "set the clock, here or on the server",
        )
        self.issued = issued
        self.now = now


class ReplayedDocumentError(DocumentError):
    """The document is older than one that was accepted before. Attributes: ``serial``, ``seen``."""

    def __init__(self, url: str, *, serial: int, seen: int) -> None:
        super().__init__(
            url,
            f"has the serial {serial}, but {seen} was accepted before: somebody serves old answers, or the server's "
            "catalogue was put back to an older one; any change of the catalogue gives it a new serial",
        )
        self.serial = serial
        self.seen = seen


class RunawaySerialError(DocumentError):
    """The serial is higher than any honest one can be by now. Attributes: ``serial``, ``limit``."""

    def __init__(self, url: str, *, serial: int, limit: int) -> None:
        super().__init__(
            url,
            f"has the serial {serial}, beyond {limit}, the highest that there can be by the clock of this machine; "
            "accepting it would shut out all honest ones: set the clock, here or on the server",
        )
        self.serial = serial
        self.limit = limit


class DowngradeRefusedError(DocumentError):
    """All that is offered is older than what was confirmed. Attributes: ``offered``, ``confirmed`` (versions)."""

    def __init__(self, url: str, *, offered: str, confirmed: str) -> None:
        super().__init__(
            url,
            f"offers {offered} as the newest version, but {confirmed} has proved good here, and was not withdrawn: an "
            "older version is installed only if this one is withdrawn, and allow_downgrade is on",
        )
        self.offered = offered
        self.confirmed = confirmed


class DocumentsRequiredError(DocumentError):
    """The server has no update documents, but they are required, or were seen from it before."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            url, f"is not there, and the answers of the original protocol, which can be replayed, are refused: {why}"
        )


class ChannelNotFoundError(AnswerError):
    """The server has no such channel for this platform. Attributes: ``channel``, ``platform``."""

    def __init__(self, url: str, channel: str, platform: str) -> None:
        super().__init__(url, f"is not there: the server has no channel {channel!r} for {platform}")
        self.channel = channel
        self.platform = platform


class UnsuitableFormatError(RejectedError):
    """A release is an archive and the program one file, or the other way round. Attributes: ``version``, ``format``."""

    def __init__(self, version: str, form: str, program: Path) -> None:
        super().__init__(f"release {version} is of the format {form!r}, which cannot take the place of {program}")
        self.version = version
        self.format = form


class FailedHashVerificationError(RejectedError):
    """A downloaded file does not have the signed SHA-256. Attributes: ``version``, ``expected``, ``found``."""

    def __init__(self, version: str, *, expected: str, found: str) -> None:
        super().__init__(f"the downloaded release {version} has SHA-256 {found}, but {expected} is signed")
        self.version = version
        self.expected = expected
        self.found = found


class PatchError(RejectedError):
    """A patch, or a compressed file, does not make a release.

    Attributes:
        version: Of the release.
        sha256: Of the file.
        reason: What is wrong, to go on with a sentence that begins with the file.
        damage: Whether the file itself is at fault, so that it would be at the next attempt, too.
    """

    def __init__(self, version: str, sha256: str, reason: str, *, damage: bool = False) -> None:
        super().__init__(f"the file {sha256}, of which release {version} was to be made, {reason}")
        self.version = version
        self.sha256 = sha256
        self.reason = reason
        self.damage = damage


class WrongVersionError(RejectedError):
    """The newest release is already running, but calls itself by another version."""

    def __init__(self, *, released: str, running: str) -> None:
        super().__init__(
            f"the running program is release {released} but is configured as version {running}: it would update "
            "for ever; publish a build whose Config.version is the version it is released as"
        )
        self.released = released
        self.running = running


class ConnectionFailedError(UnavailableError):
    """A request did not get through. Attributes: ``url``, ``retry_after`` (seconds, or None)."""

    def __init__(self, url: str, problem: str, retry_after: float | None = None) -> None:
        super().__init__(f"{url}: {problem}")
        self.url = url
        self.retry_after = retry_after


class HttpRequestFailedError(ConnectionFailedError):
    """The connection could not be made or broke: DNS, refused, reset, TLS, proxy."""


class DeadlineExceededError(ConnectionFailedError):
    """The answer did not arrive within its time."""


class MissingDataError(ConnectionFailedError):
    """The body ended before its announced length. Attributes: ``received``, ``expected`` (bytes)."""

    def __init__(self, url: str, *, received: int, expected: int) -> None:
        super().__init__(url, f"body ended after {received} of {expected} bytes")
        self.received = received
        self.expected = expected


class ServerBusyError(ConnectionFailedError):
    """The server cannot answer now (408, 425, 429 or 5xx). Attributes: ``status``, ``retry_after``."""

    def __init__(self, url: str, status: int, retry_after: float | None) -> None:
        wait = "" if retry_after is None else f"; it asks to wait {retry_after:.0f} s"
        super().__init__(url, f"answered with HTTP status {status}{wait}", retry_after)
        self.status = status

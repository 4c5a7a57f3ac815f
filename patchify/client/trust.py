"""Which answers are believed. No I/O: what came from the network goes in, checked values come out.

One pinned Ed25519 key signs every document. The bytes are verified first and parsed afterwards; what they say must be
what was asked for. An update document carries time and sequence, and is refused when these are not right. The
original's answers carry neither, so an old one can be replayed; that shows as "no newer version", never as an older
program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from semver import Version

from patchify.errors import (
    ClockSetBackError,
    ExpiredDocumentError,
    FailedSignatureVerificationError,
    FutureDocumentError,
    InvalidPayloadError,
    InvalidSignatureError,
    MissingSignatureError,
    ReplayedDocumentError,
    RunawaySerialError,
    WrongApplicationError,
    WrongChannelError,
    WrongPlatformError,
)
from patchify.keys import VerifyingKey, decode_signature
from patchify.members import MalformedDocumentError
from patchify.messages import LatestVersion, UpdateDocument, VersionHash

Document = TypeVar("Document")


@dataclass(frozen=True)
class SignedAnswer:
    """A body as it arrived, not yet to be believed, and its ``X-Signature`` header."""

    url: str
    body: bytes
    signature: str | None


@dataclass(frozen=True)
class Expected:
    """What an update document must be about, and when.

    Attributes:
        appname: Which application; empty: whichever it is.
        channel, platform: What was asked for.
        serial: The highest that was accepted before.
        issued: When the latest that was accepted before was issued, UTC.
        now: The time, UTC.
        tolerance: How far the clocks of server and client may differ.
    """

    appname: str
    channel: str
    platform: str
    serial: int
    now: datetime
    tolerance: timedelta
    issued: datetime | None = None


class PinnedKey:
    """Believes what one key has signed."""

    def __init__(self, key: VerifyingKey) -> None:
        self._key = key

    def latest(self, answer: SignedAnswer) -> Version:
        """Return the newest version that the server announces.

        Raises:
            MissingSignatureError, InvalidSignatureError, FailedSignatureVerificationError: who says so?
            InvalidPayloadError: it is signed, but no answer to this question.
        """
        return self._open(answer, LatestVersion.parse).version

    def sha256(self, answer: SignedAnswer, version: Version) -> str:
        """Return the hash of the file of ``version``, as lower-case hex. Raises as `latest`."""
        document = self._open(answer, VersionHash.parse)
        if str(document.version) != str(version):
            raise InvalidPayloadError(answer.url, f"speaks of version {document.version}, but {version} was asked for")
        return document.sha256

    def update(self, answer: SignedAnswer, expected: Expected) -> UpdateDocument:
        """Return the update document, which is for this client, from now, and not from before the last one.

        Raises:
            MissingSignatureError, InvalidSignatureError, FailedSignatureVerificationError, InvalidPayloadError: as
                `latest`.
            DocumentError: the leaf says what it is not.
        """
        document = self._open(answer, UpdateDocument.parse)
        for found, right, error in (
            (document.appname, expected.appname or document.appname, WrongApplicationError),
            (document.channel, expected.channel, WrongChannelError),
            (document.platform, expected.platform, WrongPlatformError),
        ):
            if found != right:
                raise error(answer.url, found=found, expected=right)
        latest, earliest = expected.now + expected.tolerance, expected.now - expected.tolerance
        if expected.issued is not None and expected.issued > latest:
            raise ClockSetBackError(answer.url, seen=expected.issued, now=expected.now)
        if document.issued > latest:
            raise FutureDocumentError(answer.url, issued=document.issued, now=expected.now)
        if document.expires < earliest:
            raise ExpiredDocumentError(answer.url, expires=document.expires, now=expected.now)
        highest = int(latest.timestamp() * 1000)
        if document.serial > highest:
            raise RunawaySerialError(answer.url, serial=document.serial, limit=highest)
        if document.serial < expected.serial:
            raise ReplayedDocumentError(answer.url, serial=document.serial, seen=expected.serial)
        return document

    def _open(self, answer: SignedAnswer, parse: Callable[[bytes], Document]) -> Document:
        if not answer.signature:
            raise MissingSignatureError(answer.url)
        signature = decode_signature(answer.signature)
        if signature is None:
            raise InvalidSignatureError(answer.url, answer.signature)
        if not self._key.verify(answer.body, signature):
            raise FailedSignatureVerificationError(answer.url)
        try:
            return parse(answer.body)
        except MalformedDocumentError as error:
            raise InvalidPayloadError(answer.url, f"is signed, but not the document asked for: {error}") from error

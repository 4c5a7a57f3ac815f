"""Which answers are believed. No I/O: what came from the network goes in, checked values come out.

One pinned Ed25519 key signs every document. The bytes are verified first and parsed afterwards; what they say must be
what was asked for. The original's answers carry neither time nor sequence, so an old one can be replayed; that shows
as "no newer version", never as an older program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from semver import Version

from patchify.errors import (
    FailedSignatureVerificationError,
    InvalidPayloadError,
    InvalidSignatureError,
    MissingSignatureError,
)
from patchify.keys import VerifyingKey, decode_signature
from patchify.messages import LatestVersion, MalformedDocumentError, VersionHash

Document = TypeVar("Document")


@dataclass(frozen=True)
class SignedAnswer:
    """A body as it arrived, not yet to be believed, and its ``X-Signature`` header."""

    url: str
    body: bytes
    signature: str | None


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

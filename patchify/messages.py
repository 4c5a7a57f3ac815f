"""The documents on the wire, as values.

Each renders to the exact bytes that the original 0.2.2 sends, and parses from bytes **whose signature was already
verified**. Parsing is strict: exactly the keys of the document, each once, of the right type. A document of one
endpoint is never taken for another's, although all are signed by the same key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

from semver import Version

from patchify.errors import InvalidVersionError
from patchify.keys import decode_hex
from patchify.versions import parse_version

SIGNATURE_HEADER = "X-Signature"
JSON = "application/json"
BINARY = "application/octet-stream"


class MalformedDocumentError(ValueError):
    """Verified bytes are not the document; the transport adds the URL."""


@dataclass(frozen=True)
class LatestVersion:
    """The answer of ``latest``: the newest version there is."""

    version: Version

    def to_bytes(self) -> bytes:
        """Render as compact JSON."""
        return _render({"version": str(self.version)})

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read verified bytes. Raises `MalformedDocumentError`."""
        return cls(_version(_object(body, ("version",))["version"]))


@dataclass(frozen=True)
class VersionHash:
    """The answer of ``hashes/<version>``: that version's file has this SHA-256 (lower-case hex)."""

    version: Version
    sha256: str

    def to_bytes(self) -> bytes:
        """Render as compact JSON."""
        return _render({"version": str(self.version), "hash": self.sha256})

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read verified bytes. Raises `MalformedDocumentError`."""
        members = _object(body, ("version", "hash"))
        digest = members["hash"]
        if not isinstance(digest, str) or decode_hex(digest, 64) is None:
            raise MalformedDocumentError(f"hash is {digest!r:.80}, not 64 hex digits")
        return cls(_version(members["version"]), digest.lower())


def _render(members: dict[str, str]) -> bytes:
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()


def _object(body: bytes, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the JSON object that ``body`` is, if it has exactly these keys."""
    try:
        members = json.loads(body.decode(), object_pairs_hook=_without_duplicates)
    except MalformedDocumentError:
        raise
    except (ValueError, RecursionError) as error:
        raise MalformedDocumentError(f"not JSON: {error}") from error
    if not isinstance(members, dict):
        raise MalformedDocumentError(f"a JSON object is expected, not {body[:80]!r}")
    if set(members) != set(keys):
        raise MalformedDocumentError(f"the keys {', '.join(keys)} are expected, not {list(members)!r:.80}")
    return members


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedDocumentError("a key stands twice")
    return members


def _version(value: object) -> Version:
    if not isinstance(value, str):
        raise MalformedDocumentError(f"version is {value!r:.80}, not a text")
    try:
        return parse_version(value)
    except InvalidVersionError as error:
        raise MalformedDocumentError(str(error)) from error

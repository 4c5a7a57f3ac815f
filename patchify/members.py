"""The members of JSON objects, read strictly: each key once, of the right type and within bounds."""

from __future__ import annotations

import json
from typing import Any

from patchify.keys import decode_hex


class MalformedDocumentError(ValueError):
    """What was read is not what it should be; whoever knows where it came from adds that."""


def load_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that ``body`` is."""
    try:
        members = json.loads(body.decode(), object_pairs_hook=_without_duplicates)
    except MalformedDocumentError:
        raise
    except (ValueError, RecursionError) as error:
        raise MalformedDocumentError(f"not JSON: {error}") from error
    if not isinstance(members, dict):
        raise MalformedDocumentError(f"a JSON object is expected, not {body[:80]!r}")
    return members


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedDocumentError("a key stands twice")
    return members


def object_of(value: object, what: str) -> dict[str, Any]:
    """Return a JSON object."""
    if not isinstance(value, dict):
        raise MalformedDocumentError(f"a {what} is {value!r:.80}, not a JSON object")
    return value


def list_of(members: dict[str, Any], key: str) -> list[Any]:
    """Return the list that a member is."""
    value = members.get(key)
    if not isinstance(value, list):
        raise MalformedDocumentError(f"{key} is {value!r:.80}, not a list")
    return value


def text_of(members: dict[str, Any], key: str) -> str:
    """Return the text that a member is."""
    value = members.get(key)
    if not isinstance(value, str):
        raise MalformedDocumentError(f"{key} is {value!r:.80}, not a text")
    return value


def truth_of(members: dict[str, Any], key: str) -> bool:
    """Return the truth value that a member is."""
    value = members.get(key)
    if not isinstance(value, bool):
        raise MalformedDocumentError(f"{key} is {value!r:.80}, neither true nor false")
    return value


def whole_of(members: dict[str, Any], key: str, least: int, most: int) -> int:
    """Return the whole number within bounds that a member is."""
    value = members.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise MalformedDocumentError(f"{key} is {value!r:.80}, not a whole number from {least} to {most}")
    return value


def sha256_of(members: dict[str, Any], key: str) -> str:
    """Return the SHA-256 that a member is, as lower-case hex."""
    digest = text_of(members, key)
    if decode_hex(digest, 64) is None:
        raise MalformedDocumentError(f"{key} is {digest!r:.80}, not 64 hex digits")
    return digest.lower()

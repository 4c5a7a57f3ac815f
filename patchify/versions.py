"""SemVer versions: the one grammar and the one order that both halves use.

`semver.Version` is the value. It leaves build metadata out when comparing, as SemVer 2.0.0 section 10 says, so two
versions that differ only there are equal to Python: where a version is a *name* (a release, a key of a mapping), use
``str(version)``, which is canonical.
"""

from __future__ import annotations

import re
from typing import Any

from semver import Version

from patchify.errors import InvalidVersionError

_LIMIT = 256  # characters; nothing in SemVer needs more, and int() is quadratic
_LARGEST_NUMBER = 2**64 - 1  # the original's numbers are u64
_NUMBER = re.compile(r"[0-9]+")
_IDENTIFIERS = re.compile(r"[0-9A-Za-z.-]*")


def parse_version(text: str) -> Version:
    """Return the version that ``text`` is, exactly: no blanks, no prefix, ASCII only.

    Raises:
        InvalidVersionError: with the same reason, word for word, that the Rust crate ``semver`` gives, which the
            original server shows in its ``400`` answers.
    """
    if len(text) > _LIMIT:
        raise InvalidVersionError(text, f"longer than {_LIMIT} characters")
    if reason := _flaw(text):
        raise InvalidVersionError(text, reason)
    return Version.parse(text)


def newest(versions: list[Version]) -> Version:
    """Return the highest version, or 0.0.0 if there is none.

    Between versions that differ only in build metadata, the original's order decides, so that both give one answer.
    """
    return max(versions, key=lambda version: (version, _build_order(version.build or "")), default=Version(0))


def _build_order(build: str) -> list[tuple[Any, ...]]:
    """Return a key that sorts build metadata as the Rust crate ``semver`` does: 0 < 00 < 1 < 01 < 2 < 10 < a."""
    key: list[tuple[Any, ...]] = []
    for segment in build.split("."):
        if segment.isdigit() or not segment:
            value = segment.lstrip("0")
            key.append((0, len(value), value, len(segment)))
        else:
            key.append((1, segment))
    return key


def _flaw(text: str) -> str | None:
    """Return why ``text`` is no version, or None if it is one."""
    if not text:
        return "empty string, expected a semver version"
    rest = text
    place = ""
    for part in ("major", "minor", "patch"):
        place = f"{part} version number"
        digits = _NUMBER.match(rest)
        if not digits:
            return f"unexpected {_quoted(rest) or 'end of input'} while parsing {place}"
        number = digits.group()
        if number != "0" and number.startswith("0"):
            return f"invalid leading zero in {place}"
        if int(number) > _LARGEST_NUMBER:
            return f"value of {place} exceeds u64::MAX"
        rest = rest.removeprefix(number)
        if part == "patch":
            break
        if not rest:
            return f"unexpected end of input while parsing {place}"
        if not rest.startswith("."):
            return f"unexpected {_quoted(rest)} after {place}"
        rest = rest[1:]
    for sign, identifiers in (("-", "pre-release identifier"), ("+", "build metadata")):
        if not rest.startswith(sign):
            continue
        place = identifiers
        found = _IDENTIFIERS.match(rest, 1)
        for segment in found.group().split(".") if found else ():
            if not segment:
                return f"empty identifier segment in {place}"
            if sign == "-" and segment.isdigit() and len(segment) > 1 and segment.startswith("0"):
                return f"invalid leading zero in {place}"
        rest = rest[found.end() :] if found else rest
    return f"unexpected {_quoted(rest)} after {place}" if rest else None


def _quoted(rest: str) -> str:
    """Return the first character of ``rest`` as Rust prints one, or nothing at the end of the text."""
    if not rest:
        return ""
    character = rest[0]
    escaped = {"\0": "\\0", "\t": "\\t", "\r": "\\r", "\n": "\\n", "'": "\\'", "\\": "\\\\"}.get(character)
    if escaped is None:
        escaped = character if character.isprintable() else f"\\u{{{ord(character):x}}}"
    return f"character '{escaped}'"

"""SemVer versions: the one grammar and the one order that both halves use.

`semver.Version` is the value. It leaves build metadata out when comparing, as SemVer 2.0.0 section 10 says, so two
versions that differ only there are equal to Python: where a version is a *name* (a release, a key of a mapping), use
``str(version)``, which is canonical.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import Any, Self

from semver import Version

from patchify.errors import InvalidVersionError

_LIMIT = 256  # characters; nothing in SemVer needs more, and int() is quadratic
_LARGEST_NUMBER = 2**64 - 1  # the original's numbers are u64
_DIGITS = string.digits
_IDENTIFIERS = string.digits + string.ascii_letters + "-."


class _FlawError(Exception):
    """Why a text is no version."""


def parse_version(text: str) -> Version:
    """Return the version that ``text`` is, exactly: no blanks, no prefix, ASCII only.

    Raises:
        InvalidVersionError: with the same reason, word for word, that the Rust crate ``semver`` gives, which the
            original server shows in its ``400`` answers.
    """
    if len(text) > _LIMIT:
        raise InvalidVersionError(text, f"longer than {_LIMIT} characters")
    try:
        _scan(text)
    except _FlawError as flaw:
        raise InvalidVersionError(text, str(flaw)) from None
    return Version.parse(text)


def total_order(version: Version) -> tuple[Any, ...]:
    """Return a key to sort by: SemVer precedence, and where that sees no difference the original's order of builds."""
    return version, _build_order(version.build or "")


def newest(versions: list[Version]) -> Version:
    """Return the highest version in the total order, the answer that the original gives, or 0.0.0 if there is none."""
    return max(versions, key=total_order, default=Version(0))


_COMPARISON = re.compile(r"(>=|<=|==|!=|>|<|)\s*(.*)", re.ASCII)


@dataclass(frozen=True)
class VersionRange:
    """Which versions are meant: comparisons that must all hold, by SemVer precedence."""

    comparisons: tuple[tuple[str, Version], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``1.4.2``, which is that version alone, or ``>=1.4.0,<2.0.0``.

        Raises:
            InvalidVersionError: a part of it is no version.
        """
        comparisons = []
        for part in text.split(","):
            found = _COMPARISON.fullmatch(part.strip())
            operator, version = found.groups() if found else ("", part)
            comparisons.append((operator or "==", parse_version(version)))
        return cls(tuple(comparisons))

    def __contains__(self, version: Version) -> bool:
        return all(version.match(f"{operator}{other}") for operator, other in self.comparisons)

    def __str__(self) -> str:
        return ",".join(f"{operator}{version}".removeprefix("==") for operator, version in self.comparisons)


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


def _scan(text: str) -> None:
    """Raise `_FlawError` with the first thing that keeps ``text`` from being a version, read from left to right."""
    if not text:
        raise _FlawError("empty string, expected a semver version")
    rest = _skip_dot(_skip_number(text, "major version number"), "major version number")
    rest = _skip_dot(_skip_number(rest, "minor version number"), "minor version number")
    place = "patch version number"
    rest = _skip_number(rest, place)
    for sign, identifiers in (("-", "pre-release identifier"), ("+", "build metadata")):
        if rest.startswith(sign):
            place = identifiers
            rest = _skip_identifiers(rest[1:], place)
    if rest:
        raise _FlawError(f"unexpected {_quoted(rest)} after {place}")


def _skip_number(rest: str, place: str) -> str:
    tail = rest.lstrip(_DIGITS)
    number = rest[: len(rest) - len(tail)]
    if not number:
        raise _FlawError(f"unexpected {_quoted(rest)} while parsing {place}")
    if number != "0" and number.startswith("0"):
        raise _FlawError(f"invalid leading zero in {place}")
    if int(number) > _LARGEST_NUMBER:
        raise _FlawError(f"value of {place} exceeds u64::MAX")
    return tail


def _skip_dot(rest: str, place: str) -> str:
    if not rest:
        raise _FlawError(f"unexpected {_quoted(rest)} while parsing {place}")
    if not rest.startswith("."):
        raise _FlawError(f"unexpected {_quoted(rest)} after {place}")
    return rest[1:]


def _skip_identifiers(rest: str, place: str) -> str:
    tail = rest.lstrip(_IDENTIFIERS)
    for segment in rest[: len(rest) - len(tail)].split("."):
        if not segment:
            raise _FlawError(f"empty identifier segment in {place}")
        if place.startswith("pre") and segment.isdigit() and len(segment) > 1 and segment.startswith("0"):
            raise _FlawError(f"invalid leading zero in {place}")
    return tail


def _quoted(rest: str) -> str:
    """Return the first character of ``rest`` as Rust prints one."""
    if not rest:
        return "end of input"
    character = rest[0]
    escaped = {"\0": "\\0", "\t": "\\t", "\r": "\\r", "\n": "\\n", "'": "\\'", "\\": "\\\\"}.get(character)
    if escaped is None:
        escaped = character if character.isprintable() else f"\\u{{{ord(character):x}}}"
    return f"character '{escaped}'"

"""Where an installation stands, on disk: ``state.json``, replaced whole and fsynced, so that it is old or new.

What to do after a crash is a pure function of this state and of the hash of what stands at the program's path.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from semver import Version

from patchify.errors import InvalidVersionError, UnableToWriteStateError
from patchify.files import write_durably
from patchify.keys import decode_hex
from patchify.versions import parse_version

_log = logging.getLogger(__name__)
_FORMAT = 1
_LIMIT = 64 * 1024  # bytes


@dataclass(frozen=True)
class Staged:
    """A verified release that waits to be swapped in, and the hash of the program it is to replace."""

    version: Version
    sha256: str
    replaces: str


class Verdict(Enum):
    """What a look at the program says of a staged release."""

    WAITING = auto()  # the program is still the old one: swap when the moment comes
    SWAPPED = auto()  # the program is the staged release: only the state was not yet written
    STALE = auto()  # the program is a third one, put there by somebody else: forget what was staged


def judge(staged: Staged, installed: str) -> Verdict:
    """Say where a swap stands, given the hash of what stands at the program's path."""
    if installed == staged.sha256:
        return Verdict.SWAPPED
    return Verdict.WAITING if installed == staged.replaces else Verdict.STALE


def load(path: Path) -> Staged | None:
    """Return what is staged according to the state file; a missing or damaged one says: nothing is."""
    try:
        with path.open("rb") as file:
            members = json.loads(file.read(_LIMIT))
        return _staged(members)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, InvalidVersionError) as error:
        _log.warning("%s is not usable, so nothing counts as staged: %r", path, error)
        return None


def save(path: Path, staged: Staged | None) -> None:
    """Write the state durably. Raises `UnableToWriteStateError`; the old state then still stands."""
    members: dict[str, Any] = {"format": _FORMAT, "staged": None}
    if staged is not None:
        members["staged"] = {
            "version": str(staged.version),
            "sha256": staged.sha256,
            "replaces": staged.replaces,
        }
    try:
        write_durably(path, json.dumps(members, indent=1).encode())
    except OSError as error:
        raise UnableToWriteStateError(path, error) from error


def _staged(state: dict[str, Any]) -> Staged | None:
    if state["format"] != _FORMAT:
        raise ValueError(f"format {state['format']!r} is not known")
    members = state["staged"]
    if members is None:
        return None
    hashes = (members["sha256"], members["replaces"])
    if not all(isinstance(each, str) and decode_hex(each, 64) for each in hashes):
        raise ValueError("a hash is not 64 hex digits")
    if not isinstance(members["version"], str):
        raise TypeError("the version is not a text")
    return Staged(parse_version(members["version"]), *hashes)

"""What an installation remembers from one update to the next: ``memory.json``, beside the state, replaced whole.

It decides nothing about what is started, so one that is lost or damaged costs no program: what was chosen and what was
seen is then forgotten.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from patchify.client.choices import Choices
from patchify.client.state import forbids, set_aside
from patchify.errors import UnableToReadFileError, UnableToWriteStateError
from patchify.files import write_durably
from patchify.messages import UpdateDocument
from patchify.releases import parse_time, spell_time

_log = logging.getLogger(__name__)
_FORMAT = 1
_LIMIT = 256 * 1024  # bytes
_MOST_BAD_FILES = 50


@dataclass(frozen=True)
class Memory:
    """What is remembered.

    Attributes:
        installation: A random id, which tells this installation from others and says nothing else about it.
        key: The public key whose update documents were accepted, 64 hex digits; empty: none were.
        appname: Which application they were about.
        serial: The highest serial of them.
        issued: When the latest of them was issued, UTC.
        taught: Whether any document was ever accepted; then the original's answers never are again.
        retry_at: Before this time (UTC) the server does not want to be asked.
        failure: The failure that was reported last, so that each is counted once.
        choices: What the user has chosen.
        bad_files: The hashes of patches and compressed files that did not make what they were to, the latest last.
    """

    installation: str = field(default_factory=lambda: str(uuid.uuid4()))
    key: str = ""
    appname: str = ""
    serial: int = 0
    issued: datetime | None = None
    taught: bool = False
    retry_at: datetime | None = None
    failure: str = ""
    choices: Choices = field(default_factory=Choices)
    bad_files: tuple[str, ...] = ()

    def of_key(self, key: str) -> Self:
        """Return it without what another key has signed."""
        return self if self.key in ("", key) else replace(self, key="", appname="", serial=0)

    def with_document(self, document: UpdateDocument, key: str, *, learn_name: bool = True) -> Self:
        """Return it with a document that was accepted; its application's name is learned, if any may be."""
        return replace(
            self,
            key=key,
            appname=document.appname if learn_name else self.appname,
            serial=max(self.serial, document.serial),
            issued=document.issued if self.issued is None else max(self.issued, document.issued),
            taught=True,
        )

    def with_bad_file(self, sha256: str) -> Self:
        """Return it with a file that is not to be used again; of many the oldest are forgotten."""
        return replace(
            self, bad_files=(*(each for each in self.bad_files if each != sha256), sha256)[-_MOST_BAD_FILES:]
        )

    def without_bad_files(self, hashes: Collection[str]) -> Self:
        """Return it without these files among those that are not to be used again."""
        return replace(self, bad_files=tuple(each for each in self.bad_files if each not in hashes))


def load(path: Path) -> Memory:
    """Return what is remembered; where there is nothing, or nothing usable, a new installation's memory.

    Raises:
        UnableToReadFileError: it may be readable another time, and is not to be replaced by a guess.
    """
    try:
        with path.open("rb") as file:
            return _memory(json.loads(file.read(_LIMIT)))
    except FileNotFoundError:
        return Memory()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem: Exception = error
    except OSError as error:
        if not (isinstance(error, PermissionError) and forbids(path)):
            raise UnableToReadFileError(path, error) from error
        problem = error
    _log.warning("%s is not usable, counts as not there and is set aside: %r", path, problem)
    set_aside(path)
    return Memory()


def save(path: Path, memory: Memory) -> None:
    """Remember durably. Raises `UnableToWriteStateError`; what was remembered before still is."""
    members = {
        "format": _FORMAT,
        "installation": memory.installation,
        "key": memory.key,
        "appname": memory.appname,
        "serial": memory.serial,
        "issued": memory.issued and spell_time(memory.issued),
        "taught": memory.taught,
        "retry_at": memory.retry_at and spell_time(memory.retry_at),
        "failure": memory.failure,
        "choices": memory.choices.to_json(),
        "bad_files": list(memory.bad_files),
    }
    try:
        write_durably(path, json.dumps(members, indent=1).encode())
    except OSError as error:
        raise UnableToWriteStateError(path, error) from error


def _memory(members: dict[str, Any]) -> Memory:
    if members["format"] != _FORMAT:
        raise ValueError(f"format {members['format']!r} is not known, {_FORMAT} is")
    serial, issued, retry_at = members["serial"], members["issued"], members["retry_at"]
    if not isinstance(serial, int) or isinstance(serial, bool):
        raise TypeError(f"serial is {serial!r:.80}, not a whole number")
    return Memory(
        installation=str(uuid.UUID(members["installation"])),
        key=str(members["key"]),
        appname=str(members["appname"]),
        serial=serial,
        issued=None if issued is None else parse_time(issued),
        taught=bool(members["taught"]),
        retry_at=None if retry_at is None else parse_time(retry_at),
        failure=str(members["failure"]),
        choices=Choices.from_json(members["choices"]),
        bad_files=tuple(str(each) for each in members.get("bad_files", ())),  # it is younger than the format
    )

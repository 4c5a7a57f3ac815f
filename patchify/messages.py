"""The documents on the wire, as values.

They parse from bytes **whose signature was already verified**, strictly: each key once, of the right type. A document
of one endpoint is never taken for another's, although all are signed by the same key. Those of the original render to
the exact bytes that its version 0.2.2 sends, and have exactly its keys; in an update document keys that are not known
are passed over, so that programs in the field understand the servers of the years to come.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self
from urllib.parse import unquote

from semver import Version

from patchify.errors import InvalidVersionError
from patchify.forms import Forms, path_of
from patchify.members import (
    MalformedDocumentError,
    list_of,
    load_object,
    object_of,
    sha256_of,
    text_of,
    truth_of,
    whole_of,
)
from patchify.platforms import parse_platform
from patchify.releases import MOST_SIZE, parse_channel, parse_time, spell_time
from patchify.versions import parse_version

SIGNATURE_HEADER = "X-Signature"
JSON = "application/json"
BINARY = "application/octet-stream"


UPDATE_KIND = "patchify/update/1"

_PATH = re.compile(r"[A-Za-z0-9_.~%+-]+(?:/[A-Za-z0-9_.~%+-]+)*(?:\?[A-Za-z0-9_.~%+=&-]*)?")


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
        return cls(_version(members["version"]), sha256_of(members, "hash"))


@dataclass(frozen=True)
class Rollout:
    """The share of the clients, in per cent, that a release is offered to; ``seed`` decides which."""

    percent: int
    seed: str


@dataclass(frozen=True)
class OfferedRelease:
    """A release as an update document offers it; see `patchify.releases.Release` for what the attributes mean.

    Attributes:
        path: Where its file is, relative to the address of the API; where that is not said, it is by its hash.
        rollout: None if it is for everybody.
        forms: In which forms it can be had, beside the whole file. Its patches may be steps on the way, too.
    """

    version: Version
    size: int
    sha256: str
    format: str
    path: str
    published: datetime
    notes: str = ""
    critical: bool = False
    floor: Version | None = None
    rollout: Rollout | None = None
    forms: Forms = field(default_factory=Forms)

    @property
    def basis(self) -> tuple[str, int] | None:
        """SHA-256 and size (bytes) of what its patches make; None of a folder whose tree is not known."""
        return self.forms.basis(self.format, self.sha256, self.size)

    def to_members(self) -> dict[str, Any]:
        """Return the members of the JSON object, in their order; what goes without saying is not said."""
        said: dict[str, Any] = {
            "path": None if self.path == path_of(self.sha256) else self.path,
            "notes": self.notes,
            "critical": self.critical,
            "floor": self.floor and str(self.floor),
            "rollout": self.rollout and {"percent": self.rollout.percent, "seed": self.rollout.seed},
        }
        return {
            "version": str(self.version),
            "size": self.size,
            "sha256": self.sha256,
            "format": self.format,
            "published": spell_time(self.published),
            **{name: value for name, value in said.items() if value},
            **self.forms.to_json(),
        }

    @classmethod
    def parse(cls, members: object) -> Self:
        """Read verified members. Raises `MalformedDocumentError`."""
        found = object_of(members, "release")
        sha256 = sha256_of(found, "sha256")
        path = text_of(found, "path") if "path" in found else path_of(sha256)
        steps = unquote(path.partition("?")[0]).split("/")
        if not _PATH.fullmatch(path) or any(set(step) <= {"."} or "\\" in step for step in steps):
            raise MalformedDocumentError(f"path is {path!r:.80}, not one below the address of the API")
        floor, rollout = found.get("floor"), found.get("rollout")
        return cls(
            version=_version(found.get("version")),
            size=whole_of(found, "size", 1, MOST_SIZE),
            sha256=sha256,
            format=text_of(found, "format"),
            path=path,
            published=_time(found, "published"),
            notes=text_of(found, "notes") if "notes" in found else "",
            critical=truth_of(found, "critical") if "critical" in found else False,
            floor=None if floor is None else _version(floor),
            rollout=None if rollout is None else _rollout(object_of(rollout, "rollout")),
            forms=Forms.from_json(found),
        )


@dataclass(frozen=True)
class WithdrawnRelease:
    """A release that nobody should run any more: its version and its hash."""

    version: Version
    sha256: str


@dataclass(frozen=True)
class UpdateDocument:
    """The answer of ``updates/<channel>/<platform>``: all that a client needs to know.

    Attributes:
        appname, channel, platform: Whom it is for.
        serial: Of the catalogue that it was made from: never lower than that of an earlier one. It is a time, in
            milliseconds since 1970, so that it can be told from one that is out of reach.
        issued, expires: UTC. Before and after it is not to be believed.
        releases: What is offered, newest first: a client takes the first that it may have.
        withdrawn: What is to be left, latest first.
    """

    appname: str
    channel: str
    platform: str
    serial: int
    issued: datetime
    expires: datetime
    releases: tuple[OfferedRelease, ...] = ()
    withdrawn: tuple[WithdrawnRelease, ...] = ()

    def to_bytes(self) -> bytes:
        """Render as compact JSON."""
        return _render(
            {
                "kind": UPDATE_KIND,
                "appname": self.appname,
                "channel": self.channel,
                "platform": self.platform,
                "serial": self.serial,
                "issued": spell_time(self.issued),
                "expires": spell_time(self.expires),
                "releases": [each.to_members() for each in self.releases],
                "withdrawn": [{"version": str(each.version), "sha256": each.sha256} for each in self.withdrawn],
            }
        )

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read verified bytes. Raises `MalformedDocumentError`."""
        members = load_object(body)
        if members.get("kind") != UPDATE_KIND:
            raise MalformedDocumentError(f"its kind is {members.get('kind')!r:.80}, not {UPDATE_KIND}")
        issued, expires = _time(members, "issued"), _time(members, "expires")
        if issued >= expires:
            raise MalformedDocumentError("it expires before it is issued")
        return cls(
            appname=text_of(members, "appname"),
            channel=_named(members, "channel", parse_channel),
            platform=_named(members, "platform", parse_platform),
            serial=whole_of(members, "serial", 1, MOST_SIZE),
            issued=issued,
            expires=expires,
            releases=tuple(OfferedRelease.parse(each) for each in list_of(members, "releases")),
            withdrawn=tuple(
                WithdrawnRelease(_version(each.get("version")), sha256_of(each, "sha256"))
                for each in (object_of(one, "withdrawn release") for one in list_of(members, "withdrawn"))
            ),
        )


def with_signature(body: bytes, signature: str) -> bytes:
    """Return a document as a file that carries its signature, for servers that cannot send it as a header.

    The signature, as ``X-Signature`` has it, is the second line; a document is one line.
    """
    return body + b"\n" + signature.encode() + b"\n"


def split_signature(data: bytes) -> tuple[bytes, str | None]:
    """Return a document and the signature that the file of `with_signature` carries; None if there is none.

    Neither is to be believed yet.
    """
    body, newline, rest = data.partition(b"\n")
    return (body, rest.decode("ascii", "replace").strip()) if newline and rest.strip() else (data, None)


def _render(members: dict[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()


def _object(body: bytes, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the JSON object that ``body`` is, if it has exactly these keys."""
    members = load_object(body)
    if set(members) != set(keys):
        raise MalformedDocumentError(f"the keys {', '.join(keys)} are expected, not {list(members)!r:.80}")
    return members


def _version(value: object) -> Version:
    if not isinstance(value, str):
        raise MalformedDocumentError(f"version is {value!r:.80}, not a text")
    try:
        return parse_version(value)
    except InvalidVersionError as error:
        raise MalformedDocumentError(str(error)) from error


def _time(members: dict[str, Any], key: str) -> datetime:
    try:
        return parse_time(text_of(members, key))
    except ValueError as error:
        raise MalformedDocumentError(f"{key}: {error}") from error


def _named(members: dict[str, Any], key: str, parse: Callable[[str], str]) -> str:
    try:
        return parse(text_of(members, key))
    except ValueError as error:
        raise MalformedDocumentError(f"{key}: {error}") from error


def _rollout(members: dict[str, Any]) -> Rollout:
    return Rollout(whole_of(members, "percent", 0, 100), text_of(members, "seed"))

"""The routes for publishing over the network, which are there only if a token is configured.

A publisher says what a file is to be (``POST publications``), is told how many bytes of it are there, sends the rest in
pieces (``POST uploads/<sha256>``), and says it again. Answers are JSON, errors as well: what was wrong, and whether it
may go well another time. None of them is signed, so nobody can take them for answers about updates.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import click
from flask import Flask, Response, current_app, request
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import ClientDisconnected

from patchify.errors import (
    CatalogueError,
    CatalogueUnavailableError,
    ConfigError,
    PatchifyError,
    PublicationError,
    PublishingRefusedError,
    ReleaseError,
    StorageUnavailableError,
    TooManyAttemptsError,
    UnavailableError,
    UploadBusyError,
    UploadDamagedError,
    UploadOffsetError,
    UploadTooLargeError,
)
from patchify.keys import decode_hex
from patchify.messages import JSON
from patchify.platforms import parse_platform
from patchify.publishing import steering
from patchify.publishing.publisher import Publication
from patchify.releases import MOST_SIZE, Release, Schedule, now, parse_channel
from patchify.server.admission import Admission
from patchify.server.blueprint import core_of, log_request, patchify_bp
from patchify.server.catalogue import EditableCatalogue
from patchify.server.config import PREFIX
from patchify.server.core import Core
from patchify.server.incoming import Incoming
from patchify.versions import parse_version

if TYPE_CHECKING:
    from patchify.publishing.local import LocalPublisher

_log = logging.getLogger(__name__)

MOST_JSON = 256  # KiB that the body of a request which is not a piece of a file may have

_STATUSES: tuple[tuple[type[PatchifyError], int], ...] = (  # the first that fits
    (UploadOffsetError, 409),
    (UploadBusyError, 423),
    (UploadDamagedError, 422),
    (UploadTooLargeError, 413),
    (TooManyAttemptsError, 429),
    (StorageUnavailableError, 507),
    (UnavailableError, 503),
    (CatalogueError, 500),
    (PatchifyError, 409),
)
_BUSY = 1  # second; so long whoever comes second should wait

_ACTIONS = ("promote", "rollout", "pause", "resume", "withdraw")
_ARGUMENTS: dict[str, tuple[type, Callable[[Any], Any]]] = {  # of the actions: their type in JSON, what reads them
    "version": (str, parse_version),
    "source": (str, parse_channel),
    "target": (str, parse_channel),
    "channel": (str, parse_channel),
    "platform": (str, parse_platform),
    "schedule": (str, Schedule.parse),
    "pause_above": (int, int),
    "why": (str, str),
    "force": (bool, bool),
}


class _MalformedError(PublicationError):
    """A request is not what its route takes."""


@patchify_bp.record
def _set_up(state: BlueprintSetupState) -> None:
    """Add the routes to the blueprint's where they are switched on. Otherwise nothing tells that there could be any."""
    core = core_of(cast("Flask", state.app))
    if core.config.token is None:
        return
    if not hasattr(core.catalogue, "transaction"):
        raise ConfigError(
            f"{PREFIX}PUBLISH_TOKEN",
            f"releases can only be published into a catalogue that can be changed: configure {PREFIX}CATALOGUE",
        )
    from patchify.publishing.background import starter  # noqa: PLC0415 - it imports this half itself
    from patchify.publishing.local import LocalPublisher  # noqa: PLC0415 - as well

    catalogue = cast("EditableCatalogue", core.catalogue)
    changed = starter(core.config, resume=click.get_current_context(silent=True) is None)  # a command only looks
    api = _Api(core, catalogue, LocalPublisher(catalogue, core.storage, changed=changed), Admission(core.config.token))
    for method, rule, view in (
        ("GET", "/uploads/<sha256>", api.offset),
        ("POST", "/uploads/<sha256>", api.upload),
        ("GET", "/publications", api.publications),
        ("POST", "/publications", api.publish),
        ("POST", "/publications/<action>", api.steer),
    ):
        name = f"publishing_{view.__name__}"
        state.add_url_rule(rule, name, api.answering(view), methods=[method], provide_automatic_options=False)


class _Api:
    """What the routes do for one application."""

    def __init__(
        self, core: Core, catalogue: EditableCatalogue, publisher: LocalPublisher, admission: Admission
    ) -> None:
        self._storage = core.storage
        self._catalogue = catalogue
        self._publisher = publisher
        self._admission = admission
        self._incoming = Incoming(core.storage, core.config.max_upload * 1024 * 1024)

    def answering(self, view: Callable[..., dict[str, Any]]) -> Callable[..., Response]:
        """Return a view that lets nobody in without the token, and whose errors are answers."""

        def answer(**arguments: str) -> Response:
            started = time.perf_counter()
            try:
                self._admission.check(request)
                response = _json(200, view(**arguments))
            except PatchifyError as error:
                response = _refusal(error)
            log_request(request.method, request.path, response.status_code, response.content_length or 0, started)
            return response

        return answer

    def offset(self, sha256: str) -> dict[str, Any]:
        """Tell how many bytes of an upload are there."""
        return {"offset": self._incoming.offset(_sha256(sha256))}

    def upload(self, sha256: str) -> dict[str, Any]:
        """Take a piece of a file, as it comes."""
        name, offset, size = _sha256(sha256), _number("Upload-Offset"), _number("Upload-Length")
        length = request.content_length
        if length is None or offset + length > size:
            raise _MalformedError(f"a piece has a Content-Length, and ends within the {size} bytes of its file")
        try:
            there = self._incoming.append(name, offset, size, request.stream.read)
        except (ClientDisconnected, OSError):
            there = self._incoming.offset(name)
        if there < offset + length:
            _log.info("the upload %s broke off after %d bytes", name, there)
        return {"offset": there}

    def publish(self) -> dict[str, Any]:
        """Make a release of an upload that is whole, or tell how much of it is missing."""
        members = _members()
        publication = Publication.from_json(members.get("publication"))
        sha256, size = _sha256(members.get("sha256")), members.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MOST_SIZE:
            raise _MalformedError(f"size is {size!r:.80}, not a number of bytes")
        try:
            with self._incoming.whole(sha256, size) as staged:
                release = self._publisher.commit(staged, sha256, size, publication)
        except UploadOffsetError:
            if (present := self._present(publication, sha256, size)) is None:
                raise
            release = self._publisher.publish(self._storage.path(present), publication)
        _log.info("%s published %s in %s", request.remote_addr, release, publication.channel)
        return {"release": release.to_json()}

    def publications(self) -> dict[str, Any]:
        """List all releases."""
        return _listed(self._publisher.releases())

    def steer(self, action: str) -> dict[str, Any]:
        """Do what the publisher's method of this name does, with its arguments."""
        if action not in _ACTIONS:
            raise _MalformedError(f"{action[:80]!r} is none of {', '.join(_ACTIONS)}")
        arguments = {name: _argument(name, value) for name, value in _members().items()}
        method = getattr(self._publisher, action)
        try:
            inspect.signature(method).bind(**arguments)
        except TypeError as error:
            raise _MalformedError(f"{action}: {error}") from error
        changed = method(**arguments)
        _log.info("%s asked for %s: %s", request.remote_addr, action, json.dumps(arguments, default=str))
        return _listed(changed)

    def _present(self, publication: Publication, sha256: str, size: int) -> Release | None:
        """Return the release that is published already with these bytes, which need not come again then.

        Raises:
            PublicationError: it makes no sense, and need not be sent to find that out.
        """
        if size > self._incoming.limit:
            raise UploadTooLargeError(size, self._incoming.limit)
        known = self._catalogue.snapshot().releases
        release = steering.publish(known, publication, sha256=sha256, size=size, form="file", now=now())
        if release.name not in known:
            return None
        try:
            self._storage.open(release).close()
        except ReleaseError:  # it is missing or damaged: to publish it again repairs it
            return None
        return release


def _members() -> dict[str, Any]:
    """Return the JSON object that is the body of the request."""
    length = request.content_length
    if length is None or length > MOST_JSON * 1024:
        raise _MalformedError(f"the body has a Content-Length, of {MOST_JSON} KiB at most")
    try:
        members = json.loads(request.get_data(), object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise _MalformedError(f"the body is not JSON: {error}") from error
    if not isinstance(members, dict):
        raise _MalformedError("the body is not a JSON object")
    return members


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key is there twice")
    return members


def _argument(name: str, value: object) -> Any:
    wanted, read = _ARGUMENTS.get(name, (None, None))
    if wanted is None or read is None:
        raise _MalformedError(f"{name[:80]!r} is none of {', '.join(_ARGUMENTS)}")
    if type(value) is not wanted:
        raise _MalformedError(f"{name} is {value!r:.80}, which has the wrong type")
    try:
        return read(value)
    except ValueError as error:
        raise _MalformedError(f"{name}: {error}") from error


def _sha256(text: object) -> str:
    if not isinstance(text, str) or decode_hex(text, 64) is None:
        raise _MalformedError(f"{text!r:.80} is not a SHA-256, 64 hex digits")
    return text.lower()


def _number(header: str) -> int:
    text = request.headers.get(header, "")
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MOST_SIZE))):
        raise _MalformedError(f"the header {header} is {text[:40]!r}, not a number of bytes")
    return int(text)


def _listed(releases: list[Release]) -> dict[str, Any]:
    return {"releases": [each.to_json() for each in releases]}


def _json(status: int, members: dict[str, Any]) -> Response:
    body = json.dumps(members, ensure_ascii=False, separators=(",", ":")) + "\n"
    response = current_app.response_class(body, status, content_type=JSON)
    response.headers["Cache-Control"] = "no-store"
    return response


def _refusal(error: PatchifyError) -> Response:
    if isinstance(error, _MalformedError):
        status = 400
    elif isinstance(error, PublishingRefusedError):
        status = error.status
    else:
        status = next(status for kind, status in _STATUSES if isinstance(error, kind))
    text = str(error)
    if status >= 500:
        _log.error("publishing failed: %s", error)
        if isinstance(error, StorageUnavailableError):
            reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else os.strerror(error.errno or 0)
            text = f"the server cannot store it now: {reason}"
        else:  # where the database is, is for the log
            text = "the server cannot use its catalogue; its log says why"
    members = {"error": text, "retry": isinstance(error, UnavailableError)}
    response = _json(status, members | ({"offset": error.offset} if isinstance(error, UploadOffsetError) else {}))
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="patchify"'
    if isinstance(error, TooManyAttemptsError):
        response.headers["Retry-After"] = str(math.ceil(error.retry_after))
    elif isinstance(error, UploadBusyError | CatalogueUnavailableError):
        response.headers["Retry-After"] = str(_BUSY)
    return response

"""The routes: requests in, `Core`'s answers out, errors as the status and text that the original gives.

Paths, bodies, headers and signatures are those of the Rust crate 0.2.2, byte for byte, and so are the answers to what
is not there, as long as the host has no handler of its own for them.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial, wraps
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, cast

from flask import Blueprint, Flask, Response, current_app, request
from flask.blueprints import BlueprintSetupState
from werkzeug.datastructures import Headers
from werkzeug.exceptions import NotFound

from patchify import signals
from patchify.errors import (
    InvalidVersionError,
    PlaceNotFoundError,
    ReleaseError,
    ReleaseInvalidError,
    ReleaseMissingError,
    ReleaseUnreadableError,
    VersionNotFoundError,
)
from patchify.keys import SigningKey, encode_signature
from patchify.messages import JSON, SIGNATURE_HEADER
from patchify.platforms import parse_platform
from patchify.server.config import Config
from patchify.server.core import Core
from patchify.server.delivery import deliver, hand_over, hands_over
from patchify.server.documents import SignedDocument

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

View = Callable[..., Response]

_log = logging.getLogger(__name__)
_request_log = logging.getLogger("patchify.server.requests")

_EXTENSION = "patchify"
HANDED_OVER = "patchify.handed_over"  # in the environ: bytes of the file that the server in front is to send
_STARTED = "patchify.started"  # in the environ: when the request arrived here, for its line in the log
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_BRIEFLY = "max-age=1, stale-while-revalidate=1"  # seconds: a pause or a withdrawal counts for everybody in a moment
_FOR_EVER = "public, max-age=31536000, immutable"  # what is named by its hash
_FAILURES = {  # the path goes to the log, never into an answer
    ReleaseMissingError: "Release file missing",
    ReleaseUnreadableError: "Cannot open release file",
    ReleaseInvalidError: "Release file changed",
}

patchify_bp = Blueprint("patchify", __name__)
"""Register this on a Flask application, with any ``url_prefix``; it reads the ``PATCHIFY_*`` configuration then."""


def core_of(app: Flask) -> Core:
    """Return the `Core` that serves an application's releases. Raises `KeyError` before the blueprint is registered."""
    core: Core = app.extensions[_EXTENSION]
    return core


def sign_response(key: SigningKey | str, response: Response) -> Response:
    """Sign the body of a response, for a host's own JSON endpoints: adds ``X-Signature`` and returns the response.

    What the clients of this key believe must not be signed with it by accident: never sign a body that somebody else
    chooses, nor one whose only members are ``version``, or ``version`` and ``hash``, nor one whose ``kind`` begins
    with ``patchify/``. Such a body could be passed off as an answer of the update API. Give endpoints that have
    nothing to do with updates a key of their own.

    Args:
        key: A `SigningKey`, 64 hex digits, or the path of a key file.
        response: A response whose whole body is known.

    Raises:
        ValueError: the response is streamed, so its body is not known yet.
        InvalidKeyError: the key is none.
    """
    if response.is_streamed or response.direct_passthrough:
        raise ValueError("a streamed response cannot be signed: its body is not known yet")
    signing_key = key if isinstance(key, SigningKey) else SigningKey.load(key)
    response.headers[SIGNATURE_HEADER] = encode_signature(signing_key.sign(response.get_data()))
    return response


@patchify_bp.record
def _set_up(state: BlueprintSetupState) -> None:
    """Build the `Core` of this application: what is wrong with its configuration or releases stops the start here."""
    if _EXTENSION not in state.app.extensions:
        state.app.extensions[_EXTENSION] = Core(Config.from_mapping(state.app.config))
    config = core_of(cast("Flask", state.app)).config
    if config.requests_rate or config.bandwidth_rate:
        from patchify.server.limits import set_up  # noqa: PLC0415 - not for every server, and it needs this module

        set_up(state, config)
    prefix = (state.url_prefix or "").strip("/")
    if prefix:  # without one, what is nobody's is the host's
        state.app.before_request(partial(_answer_for_nothing, f"/{prefix}/"))


def _route(rule: str, *, as_original: bool = False) -> Callable[[View], View]:
    """Register a view for GET and HEAD: its errors become answers, and one line a request goes to the log.

    What is ``as_original`` has errors with just the headers that the original's have.
    """

    def register(view: View) -> View:
        @wraps(view)
        def answer(**arguments: str) -> Response:
            environ = request.environ  # one way through the context for all that is asked of it
            environ[_STARTED] = time.perf_counter()
            method = environ["REQUEST_METHOD"]
            try:
                response = view(**arguments) if method in ("GET", "HEAD") else _not_allowed()
            except (VersionNotFoundError, PlaceNotFoundError) as error:
                response = _text(404, str(error))
            except InvalidVersionError as error:
                response = _text(400, f"Invalid URL: Cannot parse `version` with value `{error.text}`: {error.reason}")
            except (ReleaseError, OSError) as error:
                _tell_of_failure(error, arguments.get("version"))
                response = _text(500, _FAILURES.get(type(error), "Cannot read release file"))
            if response.status_code >= 400 and not as_original:
                response.headers["Cache-Control"] = "no-store"  # what is not there now may be there in a moment
            if _request_log.isEnabledFor(logging.INFO) and not response.direct_passthrough:  # a stream: when it ends
                sent = 0 if method == "HEAD" else response.content_length or 0
                log_request(method, request.path, response.status_code, sent, environ[_STARTED])
            return response

        patchify_bp.add_url_rule(rule, view.__name__, answer, methods=_METHODS, provide_automatic_options=False)
        return answer

    return register


@_route("/latest", as_original=True)
def latest() -> Response:
    """Answer with the signed newest version."""
    core = core_of(current_app)
    version, document = core.latest()
    signals.emit(signals.version_checked, core, version=version)
    return _signed(document)


@_route("/hashes/<version>", as_original=True)
def hashes(version: str) -> Response:
    """Answer with the signed hash of a version's file."""
    core = core_of(current_app)
    document = core.hash_document(version)
    signals.emit(signals.hash_sent, core, version=version)
    return _signed(document)


@_route("/updates/<channel>/<platform>")
def updates(channel: str, platform: str) -> Response:
    """Answer with the signed update document of a channel and platform."""
    core = core_of(current_app)
    try:
        document = core.update_document(channel, platform)
    except ValueError as error:
        return _text(400, f"Invalid URL: {error}")
    signals.emit(signals.update_document_sent, core, channel=channel, platform=platform)
    return _signed(document)


@_route("/releases/<version>", as_original=True)
def releases(version: str) -> Response:
    """Answer with the file of a version, or a range of it: that of the build whose platform the query names."""
    core = core_of(current_app)
    platform = request.args.get("platform")
    try:
        platform = None if platform is None else parse_platform(platform)
    except ValueError as error:
        return _text(400, f"Invalid URL: {error}")
    release, file = core.open_release(version, platform)
    return _send(core, file, core.storage.path(release), release.sha256, version)


@_route("/files/<sha256>")
def files(sha256: str) -> Response:
    """Answer with the file that has a hash, or a range of it: a release, or one of its forms.

    A form that is not as it was made is one that is not there: clients go another way then, and not by a release.
    """
    core = core_of(current_app)
    try:
        published, file = core.open_file(sha256)
        path, version = core.storage.file_path(published), str(published.release.version)
        response = _send(core, file, path, published.sha256, version)
    except (ReleaseError, OSError) as error:
        if core.catalogue.snapshot().file(sha256).whole:
            raise
        _tell_of_failure(error, None)
        return _text(404, "Form of a release not available")
    if response.status_code < 400:
        # nginx keeps a Cache-Control for its own error, too, if it cannot send the file; so it has another name.
        name = "X-Cache-Control" if "X-Accel-Redirect" in response.headers else "Cache-Control"
        response.headers[name] = _FOR_EVER
    return response


def _send(core: Core, file: FileIO, at: Path, sha256: str, version: str) -> Response:
    """Return the response that sends a file, or lets the server in front send it, and tell of it when it has ended."""
    method, path, started = request.method, request.path, request.environ[_STARTED]

    def finish(sent: int) -> None:
        """Tell of the end of a body: here for one sent in one piece, from the server's thread for a stream."""
        start = response.content_range.start or 0
        size = response.content_length or 0
        if sent == size:
            signals.emit(signals.release_sent, core, version=version, start=start, size=size)
        else:
            _log.warning("%s ended after %d of %d bytes", path, sent, size)
            signals.emit(signals.release_aborted, core, version=version, sent=sent, size=size)
        if response.direct_passthrough:
            log_request(method, path, response.status_code, sent, started)

    if hands_over(core.config):
        with file:
            request.environ[HANDED_OVER] = size = os.fstat(file.fileno()).st_size
        response = hand_over(request, at, sha256, core.config)
        if response.direct_passthrough:
            log_request(method, path, response.status_code, None, started)
            if method == "GET":
                signals.emit(signals.release_handed_over, core, version=version, size=size)
        return response
    response = deliver(request, file, sha256, core.config, finish)
    if not response.direct_passthrough and response.status_code < 300 and method == "GET":
        finish(response.content_length or 0)
    return response


def _tell_of_failure(error: ReleaseError | OSError, version: str | None) -> None:
    """Tell the operator and the host of a file that cannot be served, of a version unless the error knows better."""
    _log.error("%s cannot be served: %s", request.path, error)
    version = getattr(error, "version", version)
    signals.emit(signals.release_failed, core_of(current_app), error=error, version=version)


def _answer_for_nothing(prefix: str) -> Response | None:
    """Answer for a path below the prefix that nobody serves: as the original, unless the host has its own way."""
    if not isinstance(request.routing_exception, NotFound) or not request.path.startswith(prefix):
        return None
    handlers = current_app.error_handler_spec[None]
    if handlers.get(404) or handlers.get(None):
        return None
    log_request(request.method, request.path, 404, 0, time.perf_counter())
    return _empty(404)


class _Document(Response):
    """A response whose headers are right as they are; to copy and look through them costs as much as all else here."""

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        """Return the headers."""
        return self.headers


def _signed(document: SignedDocument) -> Response:
    """Return the response that has a document, or tells who asks that it has it already."""
    if "HTTP_IF_NONE_MATCH" in request.environ and request.if_none_match.contains_weak(document.tag):
        response = _empty(304)
    else:
        response = _Document([document.body], content_type=JSON)
        response.headers.add("Content-Length", str(len(document.body)))  # to set one looks first whether it is there
        response.headers.add(SIGNATURE_HEADER, document.signature)
    response.headers.add("ETag", f'"{document.tag}"')
    response.headers.add("Cache-Control", _BRIEFLY)
    return response


def _text(status: int, text: str) -> Response:
    return current_app.response_class(text, status, content_type="text/plain; charset=utf-8")


def _empty(status: int) -> Response:
    response = current_app.response_class(status=status)
    del response.headers["Content-Type"]
    return response


def _not_allowed() -> Response:
    response = _empty(405)
    response.headers["Allow"] = "GET,HEAD"
    return response


def log_request(method: str, path: str, status: int, sent: int | None, started: float) -> None:
    """Write the line of a request to the log ``patchify.server.requests``.

    Args:
        method: Of the request.
        path: Of the request.
        status: Of the answer.
        sent: Bytes of its body; None: another server was told to send it.
        started: When the request arrived, of `time.perf_counter`.
    """
    if _request_log.isEnabledFor(logging.INFO):
        shown = path if path.isascii() and path.isprintable() else ascii(path)  # no forged lines
        milliseconds = (time.perf_counter() - started) * 1000
        body = "handed over" if sent is None else f"{sent} bytes"
        _request_log.info("%s %s %d %s %.1f ms", method, shown, status, body, milliseconds)

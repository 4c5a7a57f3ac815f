"""The route that takes the reports of clients, which is there only if it is switched on.

It answers ``204`` for what was counted, now or before. Nobody has to prove who he is, so a request is small, of one
kind that no web page can send for its visitor, and an address can send only so many.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, cast

from flask import Flask, Response, current_app, request
from flask.blueprints import BlueprintSetupState

from patchify.errors import CatalogueError, CatalogueUnavailableError, ConfigError
from patchify.members import MalformedDocumentError
from patchify.messages import JSON
from patchify.reports import MOST_BYTES, Batch
from patchify.server.blueprint import core_of, log_request, patchify_bp
from patchify.server.config import PREFIX
from patchify.server.core import Core
from patchify.server.limiter import RateLimiter

if TYPE_CHECKING:
    from patchify.server.fleet import Fleet

_log = logging.getLogger(__name__)

BURST = 120  # requests of one address at once: an office may stand behind it
EVERY = 0.5  # seconds until there is one more
_BUSY = 60  # seconds; so long a client should wait if the catalogue cannot be used
_LONGEST_LINE = 1000  # characters of the log


class _RefusedError(Exception):
    """A request is not taken; the client should wait so many seconds before it sends another one."""

    def __init__(self, status: int, text: str, wait: float = 0) -> None:
        super().__init__(text)
        self._status = status
        self._wait = wait

    def response(self) -> Response:
        """Return the answer that says so."""
        response = current_app.response_class(str(self), self._status, content_type="text/plain; charset=utf-8")
        if self._wait:
            response.headers["Retry-After"] = str(math.ceil(self._wait))
        return response


@patchify_bp.record
def _set_up(state: BlueprintSetupState) -> None:
    """Add the route to the blueprint's where it is switched on. Otherwise nothing tells that there could be one."""
    core = core_of(cast("Flask", state.app))
    if not core.config.reports:
        return
    from patchify.server.fleet import Fleet  # noqa: PLC0415 - SQLAlchemy is not for everybody
    from patchify.server.sql_catalogue import SqlCatalogue  # noqa: PLC0415

    if not isinstance(core.catalogue, SqlCatalogue):
        raise ConfigError(f"{PREFIX}REPORTS", f"reports are counted in a database: give its URL as {PREFIX}CATALOGUE")
    view = _Reports(core, Fleet(core.catalogue)).answer
    state.add_url_rule("/reports", "reports", view, methods=["POST"], provide_automatic_options=False)


class _Reports:
    """What the route does for one application."""

    def __init__(self, core: Core, fleet: Fleet) -> None:
        self._appname = core.config.appname
        self._fleet = fleet
        self._limiter = RateLimiter(BURST, EVERY)

    def answer(self) -> Response:
        """Take the batch that a request holds."""
        started = time.perf_counter()
        try:
            self._take(self._batch())
            response = current_app.response_class(status=204)
            del response.headers["Content-Type"]
        except _RefusedError as error:
            response = error.response()
        log_request(request.method, request.path, response.status_code, response.content_length or 0, started)
        return response

    def _batch(self) -> Batch:
        """Return the batch that a request holds, if it is one for this application."""
        wait = self._limiter.take(request.remote_addr or "")
        if wait:
            raise _RefusedError(429, "Too many reports", wait)
        if request.mimetype != JSON:
            raise _RefusedError(415, f"Reports are {JSON}")
        if request.content_length is None:
            raise _RefusedError(411, "Reports have a Content-Length")
        if request.content_length > MOST_BYTES:
            raise _RefusedError(413, f"Reports have {MOST_BYTES} bytes at most")
        try:
            batch = Batch.parse(request.get_data(cache=False))
        except MalformedDocumentError as error:
            raise _RefusedError(400, f"Invalid reports: {error}") from error
        if batch.appname != self._appname:
            raise _RefusedError(400, f"Invalid reports: they are about the application {batch.appname!r:.80}")
        return batch

    def _take(self, batch: Batch) -> None:
        try:
            if self._fleet.record(batch):
                _log.info("%s on %s, %s: %s", batch.appname, batch.platform, batch.channel, _told(batch))
        except (CatalogueError, CatalogueUnavailableError) as error:
            _log.error("reports cannot be counted: %s", error)
            raise _RefusedError(503, "Reports cannot be counted now", _BUSY) from error


def _told(batch: Batch) -> str:
    """Return what a batch tells, on one line of ASCII: it goes to the log, and anybody may have written it."""
    events = (
        f"{each.event.value} {each.subject}" + (f" ({each.reason})" if each.reason else "") for each in batch.reports
    )
    return ", ".join(events)[:_LONGEST_LINE].encode("ascii", "backslashreplace").decode()

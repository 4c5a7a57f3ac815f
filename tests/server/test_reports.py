import io
import json
import logging
from datetime import UTC, datetime

import pytest
from flask import Flask

from patchify.client.reports import Reports
from patchify.errors import CatalogueUnavailableError, ConfigError
from patchify.reports import MOST_BYTES, Batch, Event, Report
from patchify.server import patchify_bp
from patchify.server import reports as module
from patchify.server.catalogue import FixedCatalogue
from patchify.server.fleet import Fleet
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.versions import parse_version
from tests.conftest import KEY

AT = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
JSON = {"content_type": "application/json"}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('reports') / 'catalogue.db'}"
    SqlCatalogue(url).create()
    return url


@pytest.fixture
def application(url, tmp_path):
    """Return a function that makes an application; reports are switched on unless it is told otherwise."""

    def application(**changes) -> Flask:
        (tmp_path / "releases").mkdir(exist_ok=True)
        settings = {"appname": "app", "key": KEY, "releases": tmp_path / "releases", "catalogue": url, "reports": True}
        app = Flask("host")
        app.config.update({f"PATCHIFY_{name.upper()}": value for name, value in (settings | changes).items()})
        app.register_blueprint(patchify_bp, url_prefix="/api")
        return app

    return application


@pytest.fixture
def client(application):
    return application().test_client()


@pytest.fixture
def checks(url):
    """Return a function that returns how many checks were counted since the test began."""

    def count() -> int:
        return sum(each.checks for each in Fleet(SqlCatalogue(url)).versions())

    before = count()
    return lambda: count() - before


numbers = iter(range(10**6))


def batch(event=Event.CHECKED, appname="app", reason="", number=None) -> bytes:
    report = Report(event, datetime.now(UTC).replace(microsecond=0), parse_version("1.0.0"), None, reason)
    name = f"{next(numbers) if number is None else number:032x}"
    return Batch(name, appname, "linux-x86_64", "stable", None, (report,)).to_bytes()


def test_reports_are_counted_once_and_answered_with_nothing(client, checks):
    body = batch()
    for _ in range(2):
        response = client.post("/api/reports", data=body, **JSON)
        assert (response.status_code, response.data) == (204, b"")
        assert "Content-Type" not in response.headers
    assert checks() == 1


def test_the_queue_of_a_client_is_what_is_taken(client, checks, tmp_path):
    def send(body):
        assert client.post("/api/reports", data=body, **JSON).status_code == 204

    reports = Reports(tmp_path / "reports.jsonl", send)
    reports.add(Event.CHECKED, "1.0.0")
    reports.add(Event.FAILED, "1.0.0", "2.0.0", "Error: \u00dcberlauf in\n/home/somebody")
    reports.flush("app", "linux-x86_64", "stable", "1b4e28ba-2fa1-41d2-883f-0016d3cca427")
    assert (tmp_path / "reports.jsonl").read_bytes() == b""
    assert checks() == 1


def test_a_request_and_what_it_tells_are_logged(client, caplog):
    caplog.set_level(logging.INFO)
    body = batch(Event.FAILED, reason="Überlauf")
    for _ in range(2):
        client.post("/api/reports", data=body, **JSON)
    told = [each.message for each in caplog.records if each.name == "patchify.server.reports"]
    assert told == ["app on linux-x86_64, stable: failed 1.0.0 (\\xdcberlauf)"]
    lines = [each.message for each in caplog.records if each.name == "patchify.server.requests"]
    assert len(lines) == 2
    assert lines[0].startswith("POST /api/reports 204 0 bytes")


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"{}", 400, "Invalid reports: the members kind, "),
        (batch(appname="other"), 400, "Invalid reports: they are about the application 'other'"),
        (b" " * (MOST_BYTES + 1), 413, f"Reports have {MOST_BYTES} bytes at most"),
    ],
)
def test_what_is_not_taken_is_answered_with_why(client, checks, body, status, text):
    response = client.post("/api/reports", data=body, **JSON)
    assert response.status_code == status
    assert response.text.startswith(text)
    assert response.content_type == "text/plain; charset=utf-8"
    assert checks() == 0


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_no_web_page_can_send_them_for_its_visitor(client, checks, content_type):
    response = client.post("/api/reports", data=batch(), content_type=content_type)
    assert response.status_code == 415
    assert checks() == 0


def test_their_length_is_told_before(client):
    environ = {"wsgi.input": io.BytesIO(batch()), "wsgi.input_terminated": True}
    response = client.post("/api/reports", environ_overrides=environ, **JSON)
    assert response.status_code == 411


def test_an_address_can_send_only_so_many(application, monkeypatch):
    monkeypatch.setattr(module, "BURST", 2)
    monkeypatch.setattr(module, "EVERY", 3600)
    client = application().test_client()
    statuses = [client.post("/api/reports", data=batch(), **JSON).status_code for _ in range(3)]
    assert statuses == [204, 204, 429]
    response = client.post("/api/reports", data=batch(), **JSON)
    assert 3500 < int(response.headers["Retry-After"]) <= 3600
    elsewhere = {"environ_overrides": {"REMOTE_ADDR": "192.0.2.7"}}
    assert client.post("/api/reports", data=batch(), **JSON, **elsewhere).status_code == 204


def test_a_catalogue_that_cannot_be_used_now_is_an_answer_without_where_it_is(client, monkeypatch, caplog):
    def fail(self, batch):
        raise CatalogueUnavailableError("postgresql://secret.example.com/db", "down")

    monkeypatch.setattr(Fleet, "record", fail)
    response = client.post("/api/reports", data=batch(), **JSON)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "60")
    assert "secret" not in response.text
    assert "secret" in caplog.text


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_they_can_only_be_sent(client, method):
    assert client.open("/api/reports", method=method).status_code == 405


def test_nothing_tells_of_reports_where_they_are_off(application):
    client = application(reports=False).test_client()
    off, unknown = (client.post(f"/api/{path}", data=batch(), **JSON) for path in ("reports", "nothing"))
    assert (off.status_code, off.data, list(off.headers)) == (404, b"", list(unknown.headers))


def test_they_need_a_database(application):
    with pytest.raises(ConfigError, match="PATCHIFY_CATALOGUE") as caught:
        application(catalogue=FixedCatalogue([]))
    assert caught.value.key == "PATCHIFY_REPORTS"


def test_what_a_batch_tells_is_one_line_of_a_bounded_length():
    reports = tuple(Report(Event.FAILED, AT, parse_version("1.0.0"), None, "\U0001f600" * 300) for _ in range(50))
    told = module._told(Batch("0" * 32, "app", "any", "stable", None, reports))
    assert told.isascii()
    assert len(told) < 12_000
    assert json.loads(f'"{told}"'.replace("\\U0001f600", "x")).startswith("failed 1.0.0 (xxx")

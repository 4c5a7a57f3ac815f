import hashlib
import io
import json
import logging
import os
import random
from types import SimpleNamespace

import pytest
from flask import Flask

from patchify.errors import CatalogueError, CatalogueUnavailableError, ConfigError
from patchify.server import core_of, incoming, patchify_bp
from tests.conftest import KEY
from tests.publishing.fakes import MemoryCatalogue

TOKEN = "only-those-who-have-this-may-publish"
DATA = random.Random(1).randbytes(10_000)
SHA = hashlib.sha256(DATA).hexdigest()
SIZE = len(DATA)
LOCAL = {"REMOTE_ADDR": "127.0.0.1"}
REMOTE = {"REMOTE_ADDR": "192.0.2.1"}


@pytest.fixture
def catalogue():
    return MemoryCatalogue()


@pytest.fixture
def app(tmp_path, catalogue):
    (tmp_path / "releases").mkdir()
    return make(tmp_path, catalogue=catalogue, publish_token=TOKEN, max_upload=1)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "releases"


@pytest.fixture
def ask(app):
    """Return a function that makes a request with the token, and returns the status and the JSON of its answer."""
    client = app.test_client()

    def ask(method, path, *, token=TOKEN, environ=LOCAL, headers=None, scheme="http", host=None, **options):
        host = host or ("127.0.0.1:8000" if scheme == "http" else "updates.test")
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        answer = client.open(
            f"/api/{path}",
            method=method,
            headers=headers,
            environ_base=environ,
            base_url=f"{scheme}://{host}",
            **options,
        )
        ask.headers = answer.headers
        return answer.status_code, answer.json

    return ask


@pytest.fixture
def send(ask):
    def send(data=DATA, offset=0, size=SIZE, sha256=SHA, **options):
        headers = {"Upload-Offset": str(offset), "Upload-Length": str(size)}
        return ask("POST", f"uploads/{sha256}", data=data, headers=headers, **options)

    return send


@pytest.fixture
def publish(ask):
    def publish(version="1.0.0", sha256=SHA, size=SIZE, **publication):
        members = {"publication": {"version": version, **publication}, "sha256": sha256, "size": size}
        return ask("POST", "publications", json=members)

    return publish


def make(tmp_path, **settings):
    app = Flask("host")
    settings = {"appname": "app", "key": KEY, "releases": tmp_path / "releases"} | settings
    app.config.update({f"PATCHIFY_{name.upper()}": value for name, value in settings.items()})
    app.register_blueprint(patchify_bp, url_prefix="/api")
    return app


def left(folder):
    return sorted(os.listdir(folder / ".incoming"))


# Who is let in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "publications"), ("POST", "publications"), ("GET", f"uploads/{SHA}")]
)
def test_without_a_configured_token_the_paths_are_those_of_nothing(tmp_path, catalogue, method, path):
    (tmp_path / "releases").mkdir()
    client = make(tmp_path, catalogue=catalogue).test_client()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer, unknown = (
        client.open(f"/api/{each}", method=method, headers=headers, environ_base=LOCAL) for each in (path, "nothing")
    )
    assert (answer.status_code, answer.data, dict(answer.headers)) == (404, unknown.data, dict(unknown.headers))


def test_a_token_without_a_catalogue_that_can_be_changed_stops_the_start(tmp_path):
    (tmp_path / "releases").mkdir()
    with pytest.raises(ConfigError, match=r"PATCHIFY_PUBLISH_TOKEN: .* configure PATCHIFY_CATALOGUE"):
        make(tmp_path, versions={}, publish_token=TOKEN)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_this_machine_itself_may_ask_without_tls(ask, address):
    assert ask("GET", "publications", environ={"REMOTE_ADDR": address}) == (200, {"releases": []})
    assert ask.headers["Cache-Control"] == "no-store"
    assert "X-Signature" not in ask.headers


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "", "unix:"])
def test_others_need_tls(ask, address):
    status, answer = ask("GET", "publications", environ={"REMOTE_ADDR": address})
    assert (status, answer["retry"]) == (403, False)
    assert "publish over https" in answer["error"]
    assert ask("GET", "publications", environ={"REMOTE_ADDR": address}, scheme="https")[0] == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "X-Real-IP", "Via"])
def test_what_a_proxy_on_this_machine_passes_on_did_not_begin_here(ask, header):
    assert ask("GET", "publications", headers={header: "https"})[0] == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.1.2.3:80", "[::1]:8000"])
def test_this_machine_itself_asks_for_a_name_of_its_own(ask, host):
    assert ask("GET", "publications", host=host)[0] == 200


@pytest.mark.parametrize("host", ["updates.test", "localhost.updates.test", "192.0.2.1:8000", "[2001:db8::1]", "[::1"])
def test_what_a_proxy_passes_on_without_a_word_was_asked_of_another_name(ask, host):
    assert ask("GET", "publications", environ_overrides={"HTTP_HOST": host})[0] == 403


def test_what_a_proxy_passes_on_with_its_own_name_is_of_the_old_protocol(ask):
    assert ask("GET", "publications", environ_overrides={"SERVER_PROTOCOL": "HTTP/1.0"})[0] == 403


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], "ü" * 40])
def test_a_wrong_token_is_refused(ask, token, caplog):
    status, answer = ask("GET", "publications", token=token)
    assert (status, answer["retry"]) == (401, False)
    assert ask.headers["WWW-Authenticate"] == 'Bearer realm="patchify"'
    assert "a wrong token for publishing came from 127.0.0.1" in caplog.text


@pytest.mark.parametrize("given", [f"Basic {TOKEN}", TOKEN, f"Bearer{TOKEN}", "Bearer"])
def test_a_token_is_taken_as_a_bearer_token_only(ask, given):
    assert ask("GET", "publications", token=None, headers={"Authorization": given})[0] == 401


def test_who_guesses_is_slowed_down(ask, caplog):
    statuses = [ask("GET", "publications", token="wrong", environ=REMOTE, scheme="https")[0] for _ in range(11)]
    assert statuses == [401] * 10 + [429]
    status, answer = ask("GET", "publications", token="wrong", environ=REMOTE, scheme="https")
    assert (status, answer["retry"]) == (429, True)
    assert 1 <= int(ask.headers["Retry-After"]) <= 30
    assert caplog.text.count("a wrong token") == 10


def test_wrong_tokens_of_others_with_the_same_address_lock_nobody_out(ask):
    for _ in range(20):
        ask("GET", "publications", token="wrong")
    assert [ask("GET", "publications")[0] for _ in range(2)] == [200, 200]


def test_nothing_of_a_refused_request_is_kept(send, folder):
    assert send(token="wrong")[0] == 401
    assert not (folder / ".incoming").exists()


def test_each_request_has_its_line_in_the_log_and_none_has_the_token(ask, caplog):
    with caplog.at_level(logging.INFO):
        ask("GET", "publications")
        ask("GET", "publications", token="wrong-token")
    lines = [each.getMessage() for each in caplog.records if each.name == "patchify.server.requests"]
    assert [line.rsplit(" ", 4)[0] for line in lines] == [
        "GET /api/publications 200",
        "GET /api/publications 401",
    ]
    assert TOKEN not in caplog.text
    assert "wrong-token" not in caplog.text


# Publishing -----------------------------------------------------------------------------------------------------------


def test_a_file_is_sent_in_pieces_and_published(app, ask, send, publish, folder, caplog):
    caplog.set_level(logging.INFO)
    status, answer = publish(notes="Grüße", channel="beta")
    assert (status, answer["offset"], answer["retry"]) == (409, 0, True)
    assert send(DATA[:100]) == (200, {"offset": 100})
    assert ask("GET", f"uploads/{SHA}") == (200, {"offset": 100})
    assert send(DATA[100:], 100) == (200, {"offset": SIZE})
    status, answer = publish(notes="Grüße", channel="beta")
    assert status == 200
    release = answer["release"]
    assert (release["version"], release["size"], release["sha256"], release["notes"]) == ("1.0.0", SIZE, SHA, "Grüße")
    assert [each["channel"] for each in release["channels"]] == ["beta"]
    assert (folder / "app-1.0.0").read_bytes() == DATA
    assert left(folder) == []
    assert str(core_of(app).catalogue.snapshot().find("1.0.0", channel="beta").version) == "1.0.0"
    assert ask("GET", "publications") == (200, {"releases": [release]})
    assert "127.0.0.1 published 1.0.0 in beta" in caplog.text


def test_what_is_published_need_not_be_sent_again(send, publish, folder):
    send()
    first = publish()
    assert publish() == first
    status, answer = publish(channel="beta")
    assert (status, [each["channel"] for each in answer["release"]["channels"]]) == (200, ["beta", "stable"])
    assert left(folder) == []


def test_what_is_published_and_damaged_is_to_be_sent_again(send, publish, folder):
    send()
    publish()
    (folder / "app-1.0.0").write_bytes(b"?")
    assert publish()[0] == 409
    send()
    assert publish()[0] == 200
    assert (folder / "app-1.0.0").read_bytes() == DATA


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"version": "1.0.0", "sha256": "0" * 64}, "what was published never changes"),
        ({"version": "0.9.0", "sha256": "0" * 64}, "is lower than 1.0.0"),
        ({"version": "2.0.0", "sha256": "0" * 64, "floor": "3.0.0"}, "floor"),
        ({"version": "2.0.0", "sha256": "0" * 64, "size": 1024 * 1024 + 1}, "too many"),
    ],
)
def test_what_makes_no_sense_is_refused_before_it_is_sent(send, publish, settings, problem):
    send()
    publish()
    status, answer = publish(**settings)
    assert status in (409, 413)
    assert answer["retry"] is False
    assert problem in answer["error"]
    assert "offset" not in answer


def test_what_makes_no_sense_is_refused_when_it_is_there_as_well(send, publish, folder):
    send()
    publish()
    other = b"other bytes"
    sha256 = hashlib.sha256(other).hexdigest()
    send(other, size=len(other), sha256=sha256)
    assert publish(sha256=sha256, size=len(other))[0] == 409
    assert (folder / "app-1.0.0").read_bytes() == DATA


def test_another_file_than_was_announced_is_thrown_away(ask, send, publish, folder):
    send(DATA[:-1] + b"?")
    status, answer = publish()
    assert (status, answer["retry"]) == (422, True)
    assert "send it again" in answer["error"]
    assert ask("GET", f"uploads/{SHA}") == (200, {"offset": 0})
    assert not (folder / "app-1.0.0").exists()


def test_a_piece_that_does_not_go_on_is_told_where_to(send):
    send(DATA[:100])
    assert send(DATA[50:], 50) == (
        409,
        {
            "error": "the upload is not whole: 100 bytes of it are there, and it goes on behind them",
            "retry": True,
            "offset": 100,
        },
    )


class CutShort(io.BytesIO):
    """The body of a request whose client goes away."""

    def __init__(self, data, failure):
        super().__init__(data)
        self.failure = failure

    def read(self, *size):
        data = super().read(*size)
        if not data and self.failure:
            raise self.failure
        return data


@pytest.mark.parametrize("is_terminated", [True, False])  # by the server, as gunicorn does, or by Werkzeug
@pytest.mark.parametrize("failure", [None, ConnectionResetError()])
def test_a_piece_that_breaks_off_stays_as_far_as_it_came(send, ask, caplog, failure, is_terminated):
    caplog.set_level(logging.INFO)
    body = {"wsgi.input": CutShort(DATA[:300], failure), "wsgi.input_terminated": is_terminated}
    assert send(environ_overrides=body) == (200, {"offset": 300})
    assert ask("GET", f"uploads/{SHA}") == (200, {"offset": 300})
    assert f"the upload {SHA} broke off after 300 bytes" in caplog.text


def test_a_file_that_is_too_large_is_refused(send):
    status, answer = send(b"x", size=1024 * 1024 + 1)
    assert (status, answer["retry"]) == (413, False)
    assert "(max_upload)" in answer["error"]


def test_an_upload_that_another_request_has_is_to_be_waited_for(send, monkeypatch, app, folder):
    monkeypatch.setattr(incoming.FileLock, "acquire", lambda *_: (_ for _ in ()).throw(incoming.Timeout("lock")))
    assert send()[0] == 423


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({"Upload-Offset": "0"}, "Upload-Length is ''"),
        ({"Upload-Offset": "-1", "Upload-Length": "9"}, "Upload-Offset is '-1'"),
        ({"Upload-Offset": "٣", "Upload-Length": "9"}, "Upload-Offset"),
        ({"Upload-Offset": "1" * 17, "Upload-Length": "9"}, "Upload-Offset"),
        ({"Upload-Offset": "0", "Upload-Length": "3"}, "within the 3 bytes"),
    ],
)
def test_a_piece_says_where_it_belongs(ask, headers, problem):
    headers = {name: value.encode().decode("latin-1") for name, value in headers.items()}
    status, answer = ask("POST", f"uploads/{SHA}", data=b"four", headers=headers)
    assert status == 400
    assert problem in answer["error"]


def test_a_piece_without_length_is_refused(ask):
    headers = {"Upload-Offset": "0", "Upload-Length": "9"}
    environ = LOCAL | {"wsgi.input_terminated": True}
    assert ask("POST", f"uploads/{SHA}", headers=headers, environ=environ)[0] == 400


@pytest.mark.parametrize("name", ["x", SHA[:-1], SHA + "0", "..%2f" + SHA])
def test_an_upload_is_named_by_a_hash(ask, name):
    assert ask("GET", f"uploads/{name}")[0] in (400, 404)


def test_a_hash_may_be_spelled_in_upper_case(send, publish):
    send(sha256=SHA.upper())
    assert publish(sha256=SHA.upper())[0] == 200


def test_a_disk_that_is_full_is_told_without_its_path(send, monkeypatch, folder, caplog):
    monkeypatch.setattr(incoming.shutil, "disk_usage", lambda _: SimpleNamespace(free=9))
    status, answer = send()
    assert (status, answer["retry"]) == (507, True)
    assert answer["error"].startswith(f"the server cannot store it now: {SIZE} more bytes are needed, its disk has 0 ")
    assert str(folder) in caplog.text


@pytest.mark.parametrize(
    ("failure", "status", "retry", "wait"),
    [
        (CatalogueUnavailableError("sqlite:///secret", "locked"), 503, True, "1"),
        (CatalogueError("sqlite:///secret", "damaged"), 500, False, None),
    ],
)
def test_a_catalogue_that_fails_is_told_without_its_place(ask, send, publish, catalogue, failure, status, retry, wait):
    send()
    catalogue.failure = failure
    found, answer = publish()
    assert (found, answer["retry"], ask.headers.get("Retry-After")) == (status, retry, wait)
    assert "secret" not in answer["error"]
    assert catalogue.snapshot().releases == {}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"size":1,"size":1}',
        b"[" * 100_000,
        b"\xff",
        json.dumps({"publication": {"version": "1.0.0"}, "sha256": "x", "size": 1}).encode(),
        json.dumps({"publication": {"version": "1.0.0"}, "sha256": SHA, "size": -1}).encode(),
        json.dumps({"publication": {"version": "1.0.0"}, "sha256": SHA, "size": True}).encode(),
        json.dumps({"publication": {"version": "1.0.0"}, "sha256": SHA, "size": 2**53}).encode(),
        b" " * 300_000 + b"{}",
    ],
)
def test_what_is_no_request_is_refused(ask, body):
    status, answer = ask("POST", "publications", data=body)
    assert (status, answer["retry"]) == (400, False)


def test_a_publication_that_cannot_be_read_is_refused(ask):
    status, answer = ask("POST", "publications", json={"publication": {"version": "one"}, "sha256": SHA, "size": 1})
    assert status == 409
    assert "one" in answer["error"]


# Steering -------------------------------------------------------------------------------------------------------------


def test_releases_are_steered_by_the_publisher_of_the_server(ask, send, publish):
    def states(answer):
        return {each["channel"]: each["state"] for each in answer["releases"][0]["channels"]}

    send()
    publish(channel="beta")
    members = {"version": "1.0.0", "source": "beta", "target": "stable", "schedule": "10,100@1d", "force": True}
    status, answer = ask("POST", "publications/promote", json=members)
    assert (status, states(answer)) == (200, {"beta": "live", "stable": "live"})
    assert answer["releases"][0]["channels"][1]["rollout"] == "10%,100%@1d"
    members = {"version": "1.0.0", "channel": "stable", "schedule": "50", "pause_above": 5, "platform": "any"}
    status, answer = ask("POST", "publications/rollout", json=members)
    assert (status, answer["releases"][0]["channels"][1]["pause_above"]) == (200, 5)
    _, answer = ask("POST", "publications/pause", json={"version": "1.0.0", "channel": "stable", "why": "slow"})
    assert states(answer) == {"beta": "live", "stable": "paused"}
    assert (
        ask("POST", "publications/pause", json={"version": "1.0.0"})[1]["releases"][0]["channels"][0]["state"]
        == "paused"
    )
    assert states(ask("POST", "publications/resume", json={"version": "1.0.0"})[1]) == {
        "beta": "live",
        "stable": "live",
    }
    assert states(ask("POST", "publications/withdraw", json={"version": "1.0.0", "why": "bad"})[1]) == {
        "beta": "withdrawn",
        "stable": "withdrawn",
    }
    assert ask("POST", "publications/withdraw", json={"version": "1.0.0"}) == (200, {"releases": []})
    status, answer = ask("POST", "publications/pause", json={"version": "1.0.0"})
    assert (status, answer["retry"]) == (409, False)
    assert "withdrawn" in answer["error"]


@pytest.mark.parametrize(
    ("action", "members", "problem"),
    [
        ("publish", {"version": "1.0.0"}, "'publish' is none of promote, rollout"),
        ("__init__", {"version": "1.0.0"}, "is none of"),
        ("pause", {}, "missing a required argument: 'version'"),
        ("pause", {"version": "1.0.0", "target": "beta"}, "unexpected keyword argument 'target'"),
        ("pause", {"version": "1.0.0", "who": "me"}, "'who' is none of"),
        ("pause", {"version": 1}, "wrong type"),
        ("pause", {"version": "1"}, "version: "),
        ("pause", {"version": "1.0.0", "channel": "A channel"}, "channel: "),
        ("rollout", {"version": "1.0.0", "channel": "beta", "schedule": "much"}, "schedule: "),
        ("rollout", {"version": "1.0.0", "channel": "beta", "schedule": "5", "pause_above": True}, "wrong type"),
    ],
)
def test_steering_that_cannot_be_understood_is_refused(ask, action, members, problem):
    status, answer = ask("POST", f"publications/{action}", json=members)
    assert (status, answer["retry"]) == (400, False)
    assert problem in answer["error"]


def test_what_is_not_there_cannot_be_steered(ask):
    assert ask("POST", "publications/pause", json={"version": "1.0.0"})[0] == 409

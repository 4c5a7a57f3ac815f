import hashlib
import importlib
import logging
import re
import sys
from datetime import UTC, datetime
from urllib.parse import unquote

import pytest
from flask import Blueprint, Flask, Response, jsonify

from patchify import signals
from patchify.errors import ConfigError, InvalidKeyError, MissingExtraError, ReleaseInvalidError, ReleaseMissingError
from patchify.forms import Forms, Patch
from patchify.keys import decode_signature
from patchify.messages import UpdateDocument
from patchify.releases import Placement, Release, ReleaseState
from patchify.server import Core, core_of, patchify_bp, sign_response
from patchify.server.catalogue import FixedCatalogue
from patchify.versions import parse_version
from tests.conftest import KEY

CONTENTS = {"1.0.0": b"one" * 100, "2.0.0": b"two" * 1000}


@pytest.fixture
def app(serve):
    return serve(CONTENTS, stream_threshold=1)  # 1.0.0 goes out in one piece, 2.0.0 is streamed


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def heard():
    """Return the list of the server's signals, by name, with their facts."""
    heard = []

    def receiver(name):
        return lambda sender, **facts: heard.append((name, sender, facts))

    names = [
        "version_checked",
        "hash_sent",
        "update_document_sent",
        "release_sent",
        "release_aborted",
        "release_failed",
        "release_handed_over",
    ]
    receivers = [(getattr(signals, name), receiver(name)) for name in names]
    for signal, each in receivers:
        signal.connect(each)
    yield heard
    for signal, each in receivers:
        signal.disconnect(each)


def request_lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "patchify.server.requests"]


# Registration ---------------------------------------------------------------------------------------------------------


def test_one_blueprint_serves_several_applications_each_from_its_own_configuration(serve, tmp_path):
    one = serve({"1.0.0": b"one"})
    other = serve({"2.0.0": b"two"})
    assert one.test_client().get("/api/latest").json == {"version": "1.0.0"}
    assert other.test_client().get("/api/latest").json == {"version": "2.0.0"}
    assert core_of(one) is not core_of(other)
    assert isinstance(core_of(one), Core)


def test_two_prefixes_of_one_application_share_their_releases(app):
    core = core_of(app)
    app.register_blueprint(patchify_bp, url_prefix="/other", name="other")
    assert core_of(app) is core
    client = app.test_client()
    assert client.get("/other/latest").data == client.get("/api/latest").data
    assert client.get("/other/nothing").status_code == 404


def test_the_blueprint_may_stand_inside_another(publish):
    app = Flask("host")
    app.config.update({f"PATCHIFY_{name.upper()}": value for name, value in publish(CONTENTS).items()})
    outer = Blueprint("outer", "outer", url_prefix="/outer")
    outer.register_blueprint(patchify_bp, url_prefix="/inner")
    app.register_blueprint(outer)
    assert app.test_client().get("/outer/inner/latest").status_code == 200


def test_without_a_prefix_it_answers_for_nothing_but_its_own_paths(publish):
    app = Flask("host")
    app.config.update({f"PATCHIFY_{name.upper()}": value for name, value in publish(CONTENTS).items()})
    app.register_blueprint(patchify_bp)
    client = app.test_client()
    assert client.get("/latest").status_code == 200
    assert b"<!doctype html>" in client.get("/nothing").data  # Flask's own


def test_what_the_host_answers_below_the_prefix_stays_as_it_is(app):
    app.add_url_rule("/api/thing", view_func=lambda: "made", methods=["POST"], endpoint="thing")
    client = app.test_client()
    assert client.post("/api/thing").data == b"made"
    assert client.get("/api/thing").status_code == 405
    assert b"<!doctype html>" in client.get("/elsewhere").data


@pytest.mark.parametrize("prefix", [None, "/"])
def test_at_the_root_what_is_nobodys_is_the_hosts(publish, prefix):
    app = Flask("host")
    app.config.update({f"PATCHIFY_{name.upper()}": value for name, value in publish(CONTENTS).items()})
    app.register_blueprint(patchify_bp, url_prefix=prefix)
    assert b"<!doctype html>" in app.test_client().get("/nothing").data


def test_an_application_without_the_blueprint_has_no_core():
    with pytest.raises(KeyError):
        core_of(Flask("host"))


def test_a_wrong_configuration_stops_the_registration(serve, tmp_path):
    with pytest.raises(ConfigError, match=r"^PATCHIFY_APPNAME: "):
        serve({}, appname="")
    with pytest.raises(ReleaseMissingError):
        serve(CONTENTS, releases=tmp_path / "nowhere")
    with pytest.raises(ReleaseInvalidError):
        serve({"1.0.0": b"one"}, versions={"1.0.0": "ab" * 32})


def test_a_missing_package_says_which_extra_brings_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("patchify.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flask", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'patchify-updater\[server\]'"):
        importlib.import_module("patchify.server")


# Documents ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["latest", "hashes/1.0.0"])
def test_a_document_is_signed_over_exactly_its_bytes(client, key, path):
    answer = client.get(f"/api/{path}")
    assert key.verifying_key.verify(answer.data, decode_signature(answer.headers["X-Signature"]))
    assert dict(answer.headers).keys() == {"Content-Type", "Content-Length", "X-Signature", "ETag", "Cache-Control"}
    head = client.head(f"/api/{path}")
    assert (head.status_code, head.data, dict(head.headers)) == (200, b"", dict(answer.headers))


@pytest.mark.parametrize("path", ["hashes", "releases"])
def test_what_is_no_version_or_does_not_exist_says_so(client, path):
    answer = client.get(f"/api/{path}/1.0.0%2Bb1")
    assert (answer.status_code, answer.data) == (404, b"Version 1.0.0+b1 not found")
    answer = client.get(f"/api/{path}/%3Cscript%3E")
    assert answer.status_code == 400
    assert answer.content_type == "text/plain; charset=utf-8"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["latest", "hashes/1.0.0", "releases/1.0.0", "releases/nonsense"])
def test_only_get_and_head_are_answered(client, method, path):
    answer = client.open(f"/api/{path}", method=method)
    assert (answer.status_code, answer.data, answer.headers["Allow"]) == (405, b"", "GET,HEAD")


@pytest.mark.parametrize("path", ["..%2F..%2Fetc%2Fpasswd", "..", "1.0.0/x", "1.0.0%00", "%2e%2e/key"])
def test_no_path_leads_out_of_the_folder(client, path):
    for kind in ("releases", "hashes"):
        assert client.get(f"/api/{kind}/{path}").status_code in (400, 404)


def test_a_host_with_its_own_page_for_404_is_asked_for_it(app):
    @app.errorhandler(404)
    def own(error):
        return "own", 404

    assert app.test_client().get("/api/nothing").data == b"own"


def test_a_host_with_its_own_page_for_every_error_is_asked_for_it(app):
    @app.errorhandler(Exception)
    def own(error):
        return "own", 404

    assert app.test_client().get("/api/nothing").data == b"own"
    assert app.test_client().get("/api/hashes/3.0.0").data == b"Version 3.0.0 not found"


@pytest.mark.parametrize("path", ["latest", "hashes/1.0.0", "updates/stable/any"])
def test_who_has_a_document_gets_304_as_long_as_it_says_the_same(client, path):
    answer = client.get(f"/api/{path}")
    etag = answer.headers["ETag"]
    again = client.get(f"/api/{path}", headers={"If-None-Match": etag})
    assert (again.status_code, again.data) == (304, b"")
    assert dict(again.headers) == {"ETag": etag, "Cache-Control": answer.headers["Cache-Control"]}
    for known in (f"W/{etag}", f'"other", {etag}', "*"):
        assert client.get(f"/api/{path}", headers={"If-None-Match": known}).status_code == 304
    for other in ('"other"', "", "nonsense"):
        assert client.get(f"/api/{path}", headers={"If-None-Match": other}).data == answer.data


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("hashes/9.0.0", None),  # as the original answers
        ("hashes/x", None),
        ("releases/9.0.0", None),
        ("updates/unknown/any", "no-store"),
        ("updates/Big/any", "no-store"),
        (f"files/{'ab' * 32}", "no-store"),
    ],
)
def test_an_error_may_not_be_kept(client, path, kept):
    answer = client.get(f"/api/{path}")
    assert answer.status_code >= 400
    assert answer.headers.get("Cache-Control") == kept


@pytest.mark.parametrize(
    ("headers", "status", "kept"),
    [
        ({}, 200, "public, max-age=31536000, immutable"),
        ({"Range": "bytes=1-2"}, 206, "public, max-age=31536000, immutable"),
        ({"If-None-Match": "*"}, 304, "public, max-age=31536000, immutable"),
        ({"Range": "bytes=9000-"}, 416, "no-store"),
    ],
)
def test_a_file_that_is_named_by_its_hash_may_be_kept_for_ever(client, headers, status, kept):
    with client.get(f"/api/files/{hashlib.sha256(CONTENTS['2.0.0']).hexdigest()}", headers=headers) as answer:
        assert (answer.status_code, answer.headers.get("Cache-Control")) == (status, kept)


def test_an_answer_has_few_bytes_beside_its_document(client):
    answer = client.get("/api/updates/stable/any")
    assert sum(len(f"{name}: {value}\r\n") for name, value in answer.headers) < 280


# Update documents -----------------------------------------------------------------------------------------------------


def test_an_update_document_is_signed_and_may_be_kept_for_a_second(client, key, app):
    answer = client.get("/api/updates/stable/linux-x86_64")
    assert key.verifying_key.verify(answer.data, decode_signature(answer.headers["X-Signature"]))
    assert dict(answer.headers) == {
        "Content-Type": "application/json",
        "Content-Length": str(len(answer.data)),
        "X-Signature": answer.headers["X-Signature"],
        "ETag": f'"{answer.headers["X-Signature"][:12]}"',
        "Cache-Control": "max-age=1, stale-while-revalidate=1",
    }
    document = UpdateDocument.parse(answer.data)
    assert (document.appname, document.channel, document.platform) == ("app", "stable", "linux-x86_64")
    offer, _ = document.releases
    assert (str(offer.version), offer.size, offer.format) == ("2.0.0", 3000, "file")
    with client.get(f"/api/{offer.path}") as sent:
        assert sent.data == CONTENTS["2.0.0"]
    head = client.head("/api/updates/stable/linux-x86_64")
    assert (head.data, dict(head.headers)) == (b"", dict(answer.headers))


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("updates/nightly/any", 404, b"Channel nightly not found"),
        ("releases/1.0.0?platform=linux-x86_64", 404, b"Version 1.0.0 not found"),
        ("updates/Stable/any", 400, b"Invalid URL: 'Stable' is not the name of a channel"),
        ("updates/stable/%3Cb%3E", 400, b"Invalid URL: '<b>' is not the name of a platform"),
        ("updates/stable", 404, b""),
        ("updates/stable/any/", 404, b""),
        ("releases/1.0.0?platform=../key", 400, b"Invalid URL: '../key' is not the name of a platform"),
        ("releases/1.0.0?platform=", 400, b"Invalid URL: '' is not the name of a platform"),
    ],
)
def test_what_is_no_place_or_is_not_there_says_so(client, path, status, text):
    answer = client.get(f"/api/{path}")
    assert answer.status_code == status
    assert answer.data.startswith(text)
    assert bool(text) == bool(answer.data)
    assert "X-Signature" not in answer.headers
    if text:
        assert answer.content_type == "text/plain; charset=utf-8"


def test_update_documents_are_read_only_and_counted(app, client, heard):
    assert client.post("/api/updates/stable/any").headers["Allow"] == "GET,HEAD"
    client.get("/api/updates/nightly/any")
    assert heard == []
    client.get("/api/updates/stable/any")
    assert heard == [("update_document_sent", core_of(app), {"channel": "stable", "platform": "any"})]


# Releases on a disk that changes --------------------------------------------------------------------------------------


@pytest.fixture
def release(tmp_path):
    return tmp_path / "releases" / "app-2.0.0"


def make_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "broken",
    [
        (lambda path: path.unlink(), b"Release file missing"),
        (make_folder, b"Release file missing"),
        (lambda path: path.write_bytes(b"other"), b"Release file changed"),
        (lambda path: (path.unlink(), path.symlink_to(path)), b"Cannot open release file"),
    ],
    ids=["deleted", "a folder", "changed", "a loop"],
)
def test_a_release_that_is_not_what_it_was_is_500_and_its_path_only_in_the_log(client, release, heard, caplog, broken):
    change, text = broken
    change(release)
    answer = client.get("/api/releases/2.0.0")
    assert (answer.status_code, answer.data) == (500, text)
    assert answer.content_type == "text/plain; charset=utf-8"
    assert str(release) in caplog.text
    ((name, _, facts),) = heard
    assert (name, facts["version"], facts["error"].path) == ("release_failed", "2.0.0", release)
    assert client.get("/api/releases/1.0.0").status_code == 200


@pytest.mark.parametrize(
    "change",
    [lambda path: path.unlink(), make_folder, lambda path: path.write_bytes(b"other")],
    ids=["deleted", "a folder", "changed"],
)
def test_a_form_that_is_not_what_it_was_is_404_and_its_path_only_in_the_log(serve, publish, heard, caplog, change):
    app, sha256 = with_a_patch(serve, publish)
    path = core_of(app).storage.form_path(sha256)
    change(path)
    answer = app.test_client().get(f"/api/files/{sha256}")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (404, "no-store")
    assert "Content-Length" in answer.headers
    assert str(path) not in answer.text
    assert str(path) in caplog.text
    ((name, _, facts),) = heard
    assert (name, facts["version"], facts["error"].path) == ("release_failed", "1.0.0", path)
    whole = core_of(app).release_file("1.0.0")
    whole.write_bytes(b"other")
    assert app.test_client().get(f"/api/files/{hashlib.sha256(b'one').hexdigest()}").status_code == 500


def with_a_patch(serve, publish, **more):
    """Return an application whose release has a patch, and the patch's hash."""
    settings = publish({"1.0.0": b"one"}) | {"versions": None} | more
    sha256 = hashlib.sha256(b"patch").hexdigest()
    moment = datetime(2026, 11, 23, 18, tzinfo=UTC)
    live = Placement("stable", ReleaseState.LIVE, since=moment, changed=moment)
    forms = Forms(patches=(Patch("ab" * 32, sha256, 5),))
    release = Release(parse_version("1.0.0"), hashlib.sha256(b"one").hexdigest(), 3, placements=(live,), forms=forms)
    app = serve({}, **settings | {"catalogue": FixedCatalogue([release])})
    storage = core_of(app).storage
    (storage.make_incoming() / "patch").write_bytes(b"patch")
    storage.place_form(storage.incoming / "patch", sha256)
    return app, sha256


def test_a_disk_that_fails_is_500(client, caplog, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("patchify.server.delivery._read_exactly", fail)
    answer = client.get("/api/releases/1.0.0")
    assert (answer.status_code, answer.data) == (500, b"Cannot read release file")
    assert "Input/output error" in caplog.text


# Log and signals ------------------------------------------------------------------------------------------------------


def test_every_request_has_one_line_in_the_log(client, caplog):
    caplog.set_level(logging.INFO, "patchify")
    requests = [
        ("GET", "latest", 200, 19),
        ("HEAD", "latest", 200, 0),
        ("GET", "hashes/1.0.0", 200, 93),
        ("GET", "hashes/3.0.0", 404, 23),
        ("GET", "releases/1.0.0", 200, 300),
        ("GET", "releases/2.0.0", 200, 3000),
        ("HEAD", "releases/2.0.0", 200, 0),
        ("POST", "latest", 405, 0),
        ("GET", "nothing", 404, 0),
    ]
    for method, path, *_ in requests:
        client.open(f"/api/{path}", method=method).close()
    for line, (method, path, status, size) in zip(request_lines(caplog), requests, strict=True):
        assert re.fullmatch(rf"{method} /api/{path} {status} {size} bytes \d+\.\d ms", line)


def test_a_range_is_logged_with_what_went_out(client, caplog):
    caplog.set_level(logging.INFO, "patchify")
    for asked, status, size in [("bytes=1000-2999", 206, 2000), ("bytes=-5", 206, 5), ("bytes=3000-", 416, 0)]:
        client.get("/api/releases/2.0.0", headers={"Range": asked}).close()
        assert f"GET /api/releases/2.0.0 {status} {size} bytes" in request_lines(caplog)[-1]


def test_a_path_forges_no_line_of_the_log(client, caplog):
    caplog.set_level(logging.INFO, "patchify")
    client.get("/api/hashes/1.0.0%0AGET%20forged")
    client.get("/api/nothing%C3%A9%1B")
    for line in request_lines(caplog):
        assert line.isprintable()
        assert line.isascii()
    assert len(request_lines(caplog)) == 2


def test_nobody_who_does_not_listen_to_requests_pays_for_their_lines(client, caplog):
    caplog.set_level(logging.WARNING, "patchify")
    client.get("/api/latest")
    assert not caplog.records


def test_what_a_host_may_want_to_count_is_signalled(app, client, heard):
    client.get("/api/latest")
    client.get("/api/hashes/1.0.0")
    client.get("/api/releases/1.0.0")
    client.get("/api/releases/2.0.0").close()
    client.get("/api/releases/2.0.0", headers={"Range": "bytes=1000-2999"}).close()
    client.get("/api/releases/1.0.0", headers={"Range": "bytes=10-19"})
    assert [(name, facts) for name, _, facts in heard] == [
        ("version_checked", {"version": core_of(app).latest_version()}),
        ("hash_sent", {"version": "1.0.0"}),
        ("release_sent", {"version": "1.0.0", "start": 0, "size": 300}),
        ("release_sent", {"version": "2.0.0", "start": 0, "size": 3000}),
        ("release_sent", {"version": "2.0.0", "start": 1000, "size": 2000}),
        ("release_sent", {"version": "1.0.0", "start": 10, "size": 10}),
    ]
    assert {sender for _, sender, _ in heard} == {core_of(app)}


def test_what_sends_no_release_is_no_release_sent(client, heard):
    etag = client.head("/api/releases/1.0.0").headers["ETag"]
    assert client.get("/api/releases/1.0.0", headers={"If-None-Match": etag}).status_code == 304
    assert client.get("/api/releases/1.0.0", headers={"Range": "bytes=300-"}).status_code == 416
    client.get("/api/releases/3.0.0")
    client.get("/api/hashes/3.0.0")
    assert heard == []


def test_a_client_that_leaves_early_is_told_apart(serve, heard, caplog):
    caplog.set_level(logging.INFO, "patchify")
    app = serve({"1.0.0": bytes(10_000)}, stream_threshold=0, stream_buffer=1)
    answer = app.test_client().get("/api/releases/1.0.0")
    assert len(next(answer.iter_encoded())) == 1024
    answer.close()
    ((name, _, facts),) = heard
    assert (name, facts) == ("release_aborted", {"version": "1.0.0", "sent": 1024, "size": 10_000})
    assert "/api/releases/1.0.0 ended after 1024 of 10000 bytes" in caplog.text
    assert "GET /api/releases/1.0.0 200 1024 bytes" in request_lines(caplog)[0]


def test_a_receiver_that_raises_does_not_keep_a_client_from_its_release(client, caplog):
    def broken(sender, **facts):
        raise RuntimeError("broken on purpose")

    with signals.release_sent.connected_to(broken):
        assert client.get("/api/releases/1.0.0").data == CONTENTS["1.0.0"]
    assert "broken on purpose" in caplog.text


# A host's own answers -------------------------------------------------------------------------------------------------


def test_a_host_signs_its_own_answer(client, app, key, tmp_path):
    key.write(tmp_path / "key")
    with app.app_context():
        for given in (key, KEY, str(tmp_path / "key")):
            response = jsonify(news="none")
            assert sign_response(given, response) is response
            signature = decode_signature(response.headers["X-Signature"])
            assert key.verifying_key.verify(response.get_data(), signature)


def test_a_second_signature_replaces_the_first(key):
    response = sign_response(key, Response("one"))
    response.data = "two"
    sign_response(key, response)
    (signature,) = response.headers.getlist("X-Signature")
    assert key.verifying_key.verify(b"two", decode_signature(signature))


def test_what_is_streamed_cannot_be_signed(key):
    for response in (Response(iter(["a", "b"])), Response("a", direct_passthrough=True)):
        with pytest.raises(ValueError, match="its body is not known yet"):
            sign_response(key, response)


def test_no_key_signs_nothing():
    with pytest.raises(InvalidKeyError):
        sign_response("11" * 31, Response("body"))


# A front that sends the files -----------------------------------------------------------------------------------------


def in_front(app, path, **headers):
    return app.test_client().get(f"/api/{path}", headers=headers)


@pytest.mark.parametrize("path", ["releases/2.0.0", "files/{sha256}"])
@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=5-9"}, {"Range": "bytes=5-9", "If-Range": '"other"'}])
def test_nginx_is_told_which_file_to_send_and_all_else_about_ranges_is_its_business(serve, path, headers):
    sha256 = hashlib.sha256(CONTENTS["2.0.0"]).hexdigest()
    answer = in_front(serve(CONTENTS, x_accel_redirect="/_patchify/"), path.format(sha256=sha256), **headers)
    assert (answer.status_code, answer.data) == (200, b"")
    found = dict(answer.headers)
    kept = None if "releases" in path else "public, max-age=31536000, immutable"
    assert found.pop("X-Cache-Control", None) == kept  # nginx gives it the right name where it sends the file
    assert found == {
        "Content-Type": "application/octet-stream",
        "Content-Length": "0",
        "ETag": f'"{sha256}"',
        "X-Accel-Redirect": "/_patchify/app-2.0.0",
    }


def test_apache_is_told_the_absolute_path(serve, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = in_front(serve(CONTENTS, x_sendfile=True, releases="releases"), "releases/2.0.0")
    assert answer.headers["X-Sendfile"] == f"{tmp_path}/releases/app-2.0.0"
    assert "X-Accel-Redirect" not in answer.headers


@pytest.mark.parametrize("way", [{"x_accel_redirect": "/files/"}, {"x_sendfile": True}], ids=["nginx", "Apache"])
def test_a_name_is_quoted_as_a_front_decodes_it(serve, publish, way):
    settings = publish({"1.0.0+b1": b"one"}, appname="Größe 100%?#+")
    answer = in_front(serve({}, **settings | way), "releases/1.0.0+b1")
    told = answer.headers.get("X-Accel-Redirect", answer.headers.get("X-Sendfile"))
    assert told.endswith("/Gr%C3%B6%C3%9Fe%20100%25%3F%23%2B-1.0.0%2Bb1")
    assert unquote(told).endswith("/Größe 100%?#+-1.0.0+b1")


def test_a_form_is_told_of_where_it_is(serve, publish):
    app, sha256 = with_a_patch(serve, publish, x_accel_redirect="/_patchify/")
    assert in_front(app, f"files/{sha256}").headers["X-Accel-Redirect"] == f"/_patchify/.forms/{sha256}"


def test_who_has_the_file_is_told_so_without_asking_the_front(serve, heard):
    app = serve(CONTENTS, x_accel_redirect="/_patchify/")
    etag = in_front(app, "releases/2.0.0").headers["ETag"]
    heard.clear()
    answer = in_front(app, "releases/2.0.0", **{"If-None-Match": etag})
    assert (answer.status_code, answer.headers["ETag"]) == (304, etag)
    assert "X-Accel-Redirect" not in answer.headers
    assert heard == []


def test_a_front_is_told_of_no_file_that_is_wrong(serve, publish):
    app = serve(CONTENTS, x_accel_redirect="/_patchify/")
    (core_of(app).config.folder / "app-2.0.0").write_bytes(b"other")
    answer = in_front(app, "releases/2.0.0")
    assert (answer.status_code, answer.data) == (500, b"Release file changed")
    assert "X-Accel-Redirect" not in answer.headers


def test_what_was_handed_over_is_told_of_as_that_and_not_as_sent(serve, heard, caplog):
    caplog.set_level(logging.INFO, "patchify.server.requests")
    app = serve(CONTENTS, x_accel_redirect="/_patchify/")
    client = app.test_client()
    client.get("/api/releases/1.0.0")
    client.get("/api/releases/2.0.0", headers={"Range": "bytes=100-"})
    assert client.head("/api/releases/2.0.0").headers["X-Accel-Redirect"] == "/_patchify/app-2.0.0"
    assert [(name, facts) for name, _, facts in heard] == [
        ("release_handed_over", {"version": "1.0.0", "size": 300}),
        ("release_handed_over", {"version": "2.0.0", "size": 3000}),
    ]
    assert [re.sub(r"[\d.]+ ms", "T ms", line) for line in request_lines(caplog)] == [
        "GET /api/releases/1.0.0 200 handed over T ms",
        "GET /api/releases/2.0.0 200 handed over T ms",
        "HEAD /api/releases/2.0.0 200 handed over T ms",
    ]

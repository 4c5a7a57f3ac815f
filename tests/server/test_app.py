import hashlib
import logging

import pytest
from flask import request

from patchify.errors import ConfigError
from patchify.server import core_of, create_app
from tests.conftest import KEY


@pytest.fixture
def settings(tmp_path):
    """Write the settings of a server with one release; return their path."""
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / "app-1.0.0").write_bytes(b"one")
    path = tmp_path / "patchify.toml"
    path.write_text(f"""
        PATCHIFY_APPNAME = "app"
        PATCHIFY_KEY = "{KEY}"
        PATCHIFY_RELEASES = "releases"
        PATCHIFY_VERSIONS = {{"1.0.0" = "{hashlib.sha256(b"one").hexdigest()}"}}
    """)
    return path


def served(app) -> list[bytes]:
    client = app.test_client()
    return [client.get(f"/api/{path}").data for path in ("latest", "releases/1.0.0")]


def test_an_application_is_made_of_a_file(settings):
    app = create_app(settings)
    assert served(app) == [b'{"version":"1.0.0"}', b"one"]
    assert core_of(app).config.folder == settings.parent / "releases"
    assert app.test_client().get("/static/x").status_code == 404


def test_the_environment_names_the_file_or_it_is_the_one_in_the_folder(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("PATCHIFY_CONFIG", str(settings))
    assert served(create_app())[1] == b"one"
    monkeypatch.delenv("PATCHIFY_CONFIG")
    monkeypatch.chdir(tmp_path)
    assert served(create_app())[1] == b"one"
    monkeypatch.setenv("PATCHIFY_CONFIG", "")
    assert served(create_app())[1] == b"one"
    settings.unlink()
    with pytest.raises(ConfigError, match=r"^patchify\.toml: cannot be read: it is not there; `patchify init NAME`"):
        create_app()


@pytest.mark.parametrize(
    ("proxies", "seen"),
    [
        (0, ["127.0.0.1", "http", "localhost"]),
        (1, ["192.0.2.7", "https", "updates.example.com"]),
        (2, ["198.51.100.1", "https", "updates.example.com"]),
    ],
)
def test_the_headers_of_as_many_proxies_are_believed_as_there_are(settings, proxies, seen):
    settings.write_text(f"PATCHIFY_PROXIES = {proxies}\n{settings.read_text()}")
    app = create_app(settings)
    found = []
    app.before_request(lambda: found.extend([request.remote_addr, request.scheme, request.host]))
    headers = {
        "X-Forwarded-For": "198.51.100.1, 192.0.2.7",
        "X-Forwarded-Proto": "https, https",
        "X-Forwarded-Host": "updates.example.com, updates.example.com",
    }
    assert app.test_client().get("/api/latest", headers=headers).status_code == 200
    assert found == seen


def test_what_is_logged_is_to_be_seen_where_nobody_set_up_logging(settings, monkeypatch):
    asked = []
    monkeypatch.setattr(logging, "basicConfig", lambda **given: asked.append(given["level"]))
    create_app(settings)
    assert asked == [logging.INFO]

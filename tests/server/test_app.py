import hashlib

import pytest

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
    with pytest.raises(ConfigError, match=r"^patchify\.toml: cannot be read: No such file"):
        create_app()

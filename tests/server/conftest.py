import time

import pytest
from flask import Flask

from patchify.server import Config, Core, patchify_bp


@pytest.fixture
def core(publish):
    """Return a function that makes a `Core` of releases."""
    return lambda contents, **settings: Core(Config(**{**publish(contents), **settings}))


@pytest.fixture
def serve(publish):
    """Return a function that makes an application serving releases below ``/api``."""

    def serve(contents, **settings) -> Flask:
        app = Flask("host")
        app.config.update({f"PATCHIFY_{name.upper()}": value for name, value in (publish(contents) | settings).items()})
        app.register_blueprint(patchify_bp, url_prefix="/api")
        return app

    return serve


@pytest.fixture
def settled(monkeypatch):
    """Let it be an hour later for what hashes files, so that none of them counts as just written."""
    clock = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: clock() + 3_600_000_000_000)

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

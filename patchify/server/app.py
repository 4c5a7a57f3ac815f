"""A ready-made application around the blueprint, for who has none: ``gunicorn 'patchify.server:create_app()'``."""

from __future__ import annotations

import logging
import os

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from patchify.server.blueprint import core_of, patchify_bp
from patchify.server.config import read_settings

CONFIG_VARIABLE = "PATCHIFY_CONFIG"
CONFIG_FILE = "patchify.toml"
"""The file of settings where the environment names none: in the folder that the server is started in."""


def create_app(path: str | os.PathLike[str] | None = None) -> Flask:
    """Build a Flask application that serves the API below ``/api``, and log to stderr where no logging is set up.

    Args:
        path: Of the TOML file of ``PATCHIFY_*`` keys; None is the one that the variable ``PATCHIFY_CONFIG`` names, or
            else ``patchify.toml``.

    Raises:
        ConfigError: the file cannot be read, or a setting is wrong.
        PatchifyError: the key, the catalogue or a release is not as it should be.
    """
    # Does nothing in a host that has set up logging before.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    app = Flask("patchify", static_folder=None)
    app.config.update(read_settings(path or os.environ.get(CONFIG_VARIABLE) or CONFIG_FILE))
    app.register_blueprint(patchify_bp, url_prefix="/api")
    if proxies := core_of(app).config.proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, proxies, proxies, proxies)  # type: ignore[method-assign]
    return app

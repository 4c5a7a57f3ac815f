"""An update server: Patchify's blueprint in a small Flask application, with settings from dynaconf.

Start it in the project's folder, with ``gunicorn examples.server:app`` to try it, or for real with
``gunicorn -c config/gunicorn.conf.py examples.server:app``.
"""

import logging
from pathlib import Path
from urllib.parse import quote

from dynaconf import FlaskDynaconf  # type: ignore[import-untyped]
from flask import Flask, Response, request
from werkzeug.middleware.proxy_fix import ProxyFix

from examples.settings import ROOT, load_settings, one_line_if_refused
from patchify.errors import InvalidKeyError
from patchify.keys import SigningKey
from patchify.server import core_of, patchify_bp
from patchify.server.config import resolve_paths

_PREFIX = "/api"

_log = logging.getLogger(__name__)


def create_app() -> Flask:
    """Build the application from the settings as they are now.

    Raises:
        PatchifyError: a setting, the key or a release is not as it should be.
    """
    settings = load_settings()
    # Does nothing in a host that has set up logging before, such as a test.
    logging.basicConfig(level=settings.LOG_LEVEL, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    app = Flask(__name__, static_folder=None)
    FlaskDynaconf(app, dynaconf_instance=settings)
    resolve_paths(app.config, ROOT)  # from wherever the server is started
    if app.config.get("PATCHIFY_KEY") is None:
        app.config["PATCHIFY_KEY"] = _own_key(ROOT / settings.KEY_FILE)

    app.register_blueprint(patchify_bp, url_prefix=_PREFIX)
    app.add_url_rule(f"{_PREFIX}/ping", view_func=ping)
    app.after_request(_log_request)
    if proxies := settings.PROXIES:
        app.wsgi_app = ProxyFix(app.wsgi_app, proxies, proxies, proxies)  # type: ignore[method-assign]

    config = core_of(app).config
    address = f"http://{settings.HOST}:{settings.PORT}{_PREFIX}/"
    _log.info("%s at %s, public key %s", config.appname, address, config.signing_key.verifying_key.to_hex())
    return app


def ping() -> Response:
    """Answer: for load balancers and for people who want to know whether anybody is there."""
    return Response("pong", content_type="text/plain; charset=utf-8")


def _own_key(path: Path) -> SigningKey:
    """Return the key of this server, made when it is first asked for; workers that start at once get the same one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidKeyError(f"no folder for the key file {path} can be made: {error.strerror}") from error
    return SigningKey.load_or_create(path)


def _log_request(response: Response) -> Response:
    """Write the line of a request that is not the blueprint's, which writes its own."""
    if request.blueprint != patchify_bp.name:
        _log.info("%s %s %d", request.method, quote(request.path), response.status_code)
    return response


with one_line_if_refused():
    app = create_app()

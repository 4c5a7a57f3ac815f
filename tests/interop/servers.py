"""Applications for gunicorn: our server, and one that signs a hash which is not its release's."""

import json
import os
from hashlib import sha256

from flask import Flask, jsonify, send_file

from patchify.server import patchify_bp, sign_response


def honest() -> Flask:
    app = Flask(__name__)
    app.config.update({f"PATCHIFY_{name.upper()}": value for name, value in _settings().items()})
    app.register_blueprint(patchify_bp, url_prefix="/api")
    return app


def lying() -> Flask:
    app = Flask(__name__)
    app.json.compact = True
    settings = _settings()

    @app.get("/api/latest")
    def latest():
        return sign_response(settings["key"], jsonify(version="2.0.0"))

    @app.get("/api/hashes/<version>")
    def hashes(version):
        return sign_response(settings["key"], jsonify(version=version, hash=sha256(b"another file").hexdigest()))

    @app.get("/api/releases/<version>")
    def releases(version):
        return send_file(f"{settings['releases']}/{settings['appname']}-{version}", mimetype="application/octet-stream")

    return app


def _settings() -> dict:
    return json.loads(os.environ["INTEROP_SERVER"])

"""The update server of the end-to-end tests: a real one, told in a file what to serve, which it reads at each start."""

import json
import logging
import os

from flask import Flask

from patchify.server import patchify_bp

logging.basicConfig(level="INFO", format="%(message)s")
app = Flask(__name__)
app.config.from_file(os.environ["PATCHIFY_SETTINGS"], load=json.load)
app.register_blueprint(patchify_bp, url_prefix="/api")

"""The application that the gunicorn of these tests serves: what the environment says, with log and signals on stderr."""

import json
import logging
import os

from flask import Flask, request

from patchify import signals
from patchify.server import core_of, patchify_bp

logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
log = logging.getLogger("serving")

app = Flask("serving")
app.config.update(json.loads(os.environ["SERVED"]))
app.register_blueprint(patchify_bp, url_prefix="/api")


@app.after_request
def cut_short(response):
    """Cut the release short on disk when it is open already and nothing was sent yet, if a test asks for it."""
    if left := request.headers.get("X-Cut-Short"):
        os.truncate(core_of(app).release_file(request.view_args["version"]), int(left))
    return response


@signals.release_sent.connect
def sent(_, **facts):
    log.info("sent %s", json.dumps(facts))


@signals.release_aborted.connect
def aborted(_, **facts):
    log.info("aborted %s", json.dumps(facts))

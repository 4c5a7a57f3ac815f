"""The server half: a Flask blueprint that serves signed JSON and release files, and its engine without Flask."""

from patchify.errors import MissingExtraError

try:
    import flask as _flask  # noqa: F401 - asked for here so that its absence has one clear error
except ModuleNotFoundError as error:
    raise MissingExtraError("patchify.server", "[server]", error.name) from error

from patchify.server import commands as _commands  # noqa: F401 - gives the blueprint its commands
from patchify.server import reports as _reports  # noqa: F401 - gives the blueprint the route for reports
from patchify.server import uploads as _uploads  # noqa: F401 - gives the blueprint the routes for publishing
from patchify.server.app import create_app
from patchify.server.blueprint import core_of, patchify_bp, sign_response
from patchify.server.config import Config
from patchify.server.core import Core

__all__ = ["Config", "Core", "core_of", "create_app", "patchify_bp", "sign_response"]

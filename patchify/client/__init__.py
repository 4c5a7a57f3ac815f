"""The client half: an updater to embed in a long-running program."""

from patchify.errors import MissingExtraError

try:
    import filelock as _filelock  # noqa: F401 - asked for here so that an absence has one clear error
    import requests as _requests  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingExtraError("patchify.client", "", error.name) from error

from patchify.client.choices import Choices
from patchify.client.config import Automatic, Config, Health, UpdateDocuments
from patchify.client.file_installer import FileInstaller
from patchify.client.folder_installer import FolderInstaller
from patchify.client.installer import Installer
from patchify.client.restarter import (
    Launch,
    Restarter,
    exec_restart,
    exit_restart,
    gunicorn_restart,
    spawn_restart,
)
from patchify.client.source import Offer
from patchify.client.status import Checking, Downloading, Idle, Installing, PendingRestart, Restarting, Status
from patchify.client.updater import Updater

__all__ = [
    "Automatic",
    "Checking",
    "Choices",
    "Config",
    "Downloading",
    "FileInstaller",
    "FolderInstaller",
    "Health",
    "Idle",
    "Installer",
    "Installing",
    "Launch",
    "Offer",
    "PendingRestart",
    "Restarter",
    "Restarting",
    "Status",
    "UpdateDocuments",
    "Updater",
    "exec_restart",
    "exit_restart",
    "gunicorn_restart",
    "spawn_restart",
]

"""The client half: an updater to embed in a long-running program.

What is named here is loaded when it is first asked for, so that a process which needs little of this half, as the
guardian of a program does, starts fast.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from patchify.errors import MissingExtraError

if TYPE_CHECKING:
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

_ROOMS = {
    "choices": ("Choices",),
    "config": ("Automatic", "Config", "Health", "UpdateDocuments"),
    "file_installer": ("FileInstaller",),
    "folder_installer": ("FolderInstaller",),
    "installer": ("Installer",),
    "restarter": ("Launch", "Restarter", "exec_restart", "exit_restart", "gunicorn_restart", "spawn_restart"),
    "source": ("Offer",),
    "status": ("Checking", "Downloading", "Idle", "Installing", "PendingRestart", "Restarting", "Status"),
    "updater": ("Updater",),
}

for _name in ("filelock", "requests"):
    if find_spec(_name) is None:
        raise MissingExtraError("patchify.client", "", _name)


def __getattr__(name: str) -> Any:
    for room, names in _ROOMS.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{room}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


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

"""Which kind of program is to be kept up to date, and so which installer it takes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from patchify.client.file_installer import FileInstaller
from patchify.client.folder_installer import VERSIONS, FolderInstaller
from patchify.client.installer import Installer
from patchify.client.restarter import running_executable


def installer_for(path: str | os.PathLike[str] | None) -> Installer:
    """Return the installer of the program at ``path``, or of the one that runs.

    A folder, or a symbolic link to one, is a program of many files; all else is one of a single file.

    Raises:
        UnableToObtainExecutableError: it is not clear which file is the running program.
    """
    if path is None:
        path = _running_folder() or running_executable()
    return FolderInstaller(Path(path)) if os.path.isdir(path) else FileInstaller(Path(path))


def _running_folder() -> Path | None:
    """Return the folder of the PyInstaller one-folder program that runs, as its user knows it."""
    unpacked = getattr(sys, "_MEIPASS", None)
    folder = Path(sys.executable).parent
    if not getattr(sys, "frozen", False) or unpacked is None or folder not in (Path(unpacked), Path(unpacked).parent):
        return None
    ours = folder.parent.parent
    if folder.parent.name == VERSIONS and ours.name.startswith(".") and ours.name.endswith(".patchify"):
        return ours.with_name(ours.name[1 : -len(".patchify")])
    return folder

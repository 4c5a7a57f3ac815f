"""How PyInstaller packs Patchify: it finds this by the entry point ``pyinstaller40`` (see "Hooks" in its manual)."""

import os


def get_hook_dirs() -> list[str]:
    """Return the folder of the hooks."""
    return [os.path.dirname(__file__)]

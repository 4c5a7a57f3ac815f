"""What was not worth it is not tried again at each publication: it is remembered in a file among the forms."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Container
from pathlib import Path

from patchify.files import write_durably

NAME = "given-up.json"


class GivenUp:
    """Why tasks were given up, by their keys, which are a word and hashes of releases; see `making.Task.key`.

    Args:
        folder: Where the file is.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def all(self) -> dict[str, str]:
        """Return what is remembered; nothing if the file cannot be read: then all is tried again, and that is all."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._path.read_bytes())
            if isinstance(found, dict):
                return {key: str(why) for key, why in found.items()}
        return {}

    def add(self, key: str, why: str, known: Container[str]) -> None:
        """Remember one more, and only those of releases that are still known, by their hashes. Raises `OSError`."""
        kept = {each: why for each, why in self.all().items() if all(one in known for one in each.split()[1:])}
        write_durably(self._path, json.dumps(kept | {key: why}, indent=1).encode())

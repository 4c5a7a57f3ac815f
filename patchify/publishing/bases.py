"""The bases of releases as files, which patches are made from: a program itself, or the one archive of a folder."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from patchify import trees
from patchify.files import BLOCK
from patchify.forms import Tree
from patchify.releases import Release
from patchify.server.storage import FolderStorage

_MOST_UNPACKED = 16 * 1024**3  # bytes, and
_MOST_RATIO = 200  # times the archive, and
_MOST_SMALL = 1024 * 1024  # bytes more: as clients allow by default
_KEPT = 2  # archives: the one that a patch makes, and the one that it applies to


class Bases:
    """Finds or makes them. Raises `ReleaseError`, `UnsafeArchiveError`, `OSError`.

    Args:
        storage: Where the releases are.
        folder: Where what is made may be, for as long as this object is used.
    """

    def __init__(self, storage: FolderStorage, folder: Path) -> None:
        self._storage = storage
        self._folder = folder
        self._packed: list[Path] = []  # the one that was asked for last comes last

    def measure(self, release: Release) -> Tree:
        """Return the tree of a folder."""
        with self._unpacked(release) as folder:
            return Tree(*trees.measure(folder))

    def file(self, release: Release) -> Path:
        """Return the file, which is as it was published; that of a folder is there until two others were asked for."""
        if release.format == "file":
            self._storage.open(release).close()
            return self._storage.path(release)
        path = self._folder / f"{release.sha256}.tree"
        if path in self._packed:
            self._packed.remove(path)
        else:
            with self._unpacked(release) as folder, path.open("wb", buffering=BLOCK) as file:
                trees.pack(folder, file.write)
        self._packed.append(path)
        while len(self._packed) > _KEPT:
            self._packed.pop(0).unlink(missing_ok=True)
        return path

    @contextlib.contextmanager
    def _unpacked(self, release: Release) -> Iterator[Path]:
        """Give the folder that a release is when it is installed."""
        from patchify.client.archive import unpack  # noqa: PLC0415 - only here publishing needs the client's half

        folder = self._folder / "unpacked"
        most = min(_MOST_UNPACKED, release.size * _MOST_RATIO + _MOST_SMALL)
        with self._storage.open(release) as archive:
            unpack(archive, folder, max_bytes=most, progress=lambda done: None)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

"""Publishing on the server's machine: into the folder of the releases, then into the catalogue.

A release is seen when the catalogue has it, and by then its bytes are in place and durable. Whatever ends in between
leaves at most a file that the catalogue does not know, which `LocalPublisher.prune` removes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from patchify import releases
from patchify.files import Progress
from patchify.publishing.publisher import Publication
from patchify.releases import Release
from patchify.server.catalogue import EditableCatalogue
from patchify.server.storage import FolderStorage


@dataclass(frozen=True)
class Staged:
    """A copy of a file in the incoming folder, durable: where it is, its SHA-256 (lower-case hex), its size (bytes)."""

    path: Path
    sha256: str
    size: int


class LocalPublisher:
    """A `Publisher` that changes a catalogue and a folder."""

    def __init__(
        self,
        catalogue: EditableCatalogue,
        storage: FolderStorage,
        now: Callable[[], datetime] = releases.now,
    ) -> None:
        self._catalogue = catalogue
        self._storage = storage
        self._now = now

    def stage(self, file: Path, progress: Progress | None = None) -> Staged:
        """Copy a file into the incoming folder, hashing it on the way. Nobody sees it yet.

        Raises:
            UnreadableFileError, FileChangedError: the file cannot be read, or changed meanwhile.
            StorageUnavailableError: the copy cannot be written.
        """
        raise NotImplementedError

    def commit(self, staged: Path, sha256: str, size: int, publication: Publication) -> Release:
        """Publish what is staged, by its caller's word for hash and size: the caller has just found them out.

        Args:
            staged: A file in the incoming folder (`FolderStorage.incoming`), fsynced. It is moved away; after an error
                it may still be there, for the caller to remove or to try again.
            sha256: Of its bytes, lower-case hex.
            size: In bytes.
            publication: What to say of it.

        Raises:
            PublicationError: and its leaves; nothing was changed.
            StorageUnavailableError, CatalogueError, CatalogueUnavailableError: it was not published.
        """
        raise NotImplementedError

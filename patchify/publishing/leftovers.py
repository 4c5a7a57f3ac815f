"""Files that nobody needs any more: what `LocalPublisher.prune` finds."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from patchify.publishing import retention, steering
from patchify.server.storage import FolderStorage

STALE = timedelta(days=1)
"""How long nothing must have been added to what is on its way before it is taken for given up."""

_Name = tuple[str, str]


@dataclass(frozen=True)
class Leftover:
    """A file that nobody needs any more, or a folder: where it is, its size (bytes), and why."""

    path: Path
    size: int
    why: str

    def remove(self) -> None:
        """Remove it. Raises `OSError`."""
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)


def leftovers(
    storage: FolderStorage,
    known: steering.Releases,
    forgotten: Collection[_Name],
    now: datetime,
    kept: Collection[str] = (),
) -> Iterator[Leftover]:
    """Yield what is left over: files of releases, of their forms, and what was on its way.

    Args:
        storage: Where to look.
        known: The releases that there are, by name.
        forgotten: Names of those that there were until now.
        now: The time, UTC.
        kept: SHA-256 of forms that are not left over yet, whoever has them.

    Raises:
        StorageUnavailableError, OSError: it cannot be looked at.
    """
    for name, path in storage.files().items():
        if name in forgotten:
            yield _leftover(path, "superseded")
        elif name not in known:
            yield _leftover(path, "not in the catalogue")
        elif retention.withdrawn(known[name]):
            yield _leftover(path, "withdrawn")
    named = {sha256 for each in known.values() for sha256, _ in each.forms.files(each.size)}
    for sha256, path in storage.forms().items():
        if sha256 not in named and sha256 not in kept:
            yield _leftover(path, "a form of no release")
    oldest = (now - STALE).timestamp()
    with contextlib.suppress(FileNotFoundError), os.scandir(storage.incoming) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.stat(follow_symlinks=False).st_mtime < oldest:
                yield _leftover(Path(entry), "given up")


def _leftover(path: Path, why: str) -> Leftover:
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else (path,)
    return Leftover(path, sum(each.lstat().st_size for each in inside if not each.is_dir()), why)

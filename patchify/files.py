"""Files that must be right: hashed with progress, written whole, durable.

Durable means fsynced: the file, then the rename, then the folder. Errors are the operating system's; callers wrap
them in the error of what they were doing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path

Progress = Callable[[int], None]
"""Called with the number of bytes done so far, from the thread that does the work."""

BLOCK = 1024 * 1024  # bytes read at once: large enough that hashing, not Python, is the cost
_FRESH = 60.0  # seconds; an older draft was left by a crash


def hash_file(file: FileIO, progress: Progress | None = None) -> str:
    """Return the SHA-256, as lower-case hex, of the whole of ``file``, which must be unbuffered."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(BLOCK))
    done = file.seek(0)
    while count := file.readinto(block):
        digest.update(block[:count])
        done += count
        if progress:
            progress(done)
    return digest.hexdigest()


def hash_path(path: Path, progress: Progress | None = None) -> str:
    """Return the SHA-256, as lower-case hex, of the file at ``path``."""
    with FileIO(path) as file:
        return hash_file(file, progress)


def write_durably(path: Path, data: bytes, reach: Callable[[str], None] = lambda point: None) -> None:
    """Replace ``path`` by a file of mode 0600 that holds ``data``: after a crash it is the old one or the new one.

    ``reach`` is called with ``"state-written"``, ``"state-synced"`` and ``"state-named"`` as these are true.
    """
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            reach("state-written")
            os.fsync(descriptor)
            reach("state-synced")
        os.replace(draft, path)
        reach("state-named")
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    sync_folder(path.parent)


def is_being_written(draft: Path, *paths: Path) -> bool:
    """Return whether a file may be what `write_durably` is just about to give one of these names."""
    with contextlib.suppress(OSError):
        names = tuple(f".{path.name}." for path in paths)
        return draft.name.startswith(names) and abs(time.time() - draft.stat().st_mtime) < _FRESH
    return False  # it has its name by now


def sync_folder(folder: Path) -> None:
    """Make renames, links and removals in ``folder`` durable. Windows has no such call and needs none."""
    if os.name == "nt":  # pragma: no cover - Linux runs the tests
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""What files were hashed to, remembered in a file beside them, so that no later start reads again what one has read.

A file is the one that was hashed if its identity is: device, inode, size and times. This saves work and nothing else: a
memory that is damaged or cannot be kept costs the hashing. Clients do not rely on it, but on the signed hash.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import threading
from pathlib import Path

from patchify.files import is_being_written, write_durably
from patchify.keys import decode_hex

NAME = ".hashes.json"

Identity = tuple[int, int, int, int, int]
"""Device, inode, size (bytes), time of the last write and of the last change (both ns since 1970) of a file."""

_KIND = "patchify/hashes/1"
_MOST = 64 * 1024 * 1024  # bytes; some 300,000 files
_SECOND = 1_000_000_000  # ns
_COARSE = 2 * _SECOND  # FAT tells the time in such steps, others in whole seconds
_FINE = _SECOND // 10  # more than a tick of the clock that a kernel takes the times of files from

_Entry = tuple[str, Identity]
_log = logging.getLogger(__name__)


class Hashes:
    """The remembered hashes of the files below one folder. Any number of threads and processes may use them at once.

    Args:
        folder: Where the files are, and the memory: `NAME`, which only its owner can read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._lock = threading.Lock()
        self._read: dict[str, _Entry] | None = None  # by the path in the folder; None: not read yet
        self._added: dict[str, _Entry] = {}
        self._unsaved = False
        self._told = False

    def get(self, path: Path, identity: Identity) -> str | None:
        """Return what the file at a path was hashed to, if it is still the same one."""
        with self._lock:
            name = self._name(path)
            found = self._added.get(name) or self._known().get(name)
        return found[0] if found is not None and found[1] == identity else None

    def add(self, path: Path, identity: Identity, sha256: str, began: int) -> None:
        """Remember what a file was hashed to, unless a later write could leave it with the same identity.

        Args:
            path: Of the file.
            identity: The same before and after it was hashed.
            sha256: Lower-case hex.
            began: When hashing it began, ns since 1970.
        """
        if _may_hide_a_write(identity, began):
            return
        with self._lock:
            self._added[self._name(path)] = sha256, identity
            self._unsaved = True

    def save(self, *, tidy: bool = False) -> None:
        """Write down what was added, with what others wrote meanwhile, and without the files that are gone.

        Args:
            tidy: Do so also if nothing was added, but files are gone; and remove what writers that crashed have left.
        """
        with self._lock:
            if tidy:
                self._sweep()
            if not self._unsaved and not (tidy and any(map(self._is_gone, self._known()))):
                return
            self._unsaved = False
            self._read = self._load() | self._added
            self._read = {name: entry for name, entry in self._read.items() if not self._is_gone(name)}
            files = {name: [sha256, *identity] for name, (sha256, identity) in self._read.items()}
            try:
                write_durably(self._path, json.dumps({"kind": _KIND, "files": files}, separators=(",", ":")).encode())
            except OSError as error:
                self._tell("cannot be written", error)

    def _known(self) -> dict[str, _Entry]:
        if self._read is None:
            self._read = self._load()
        return self._read

    def _load(self) -> dict[str, _Entry]:
        try:
            found = os.stat(self._path)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST:
                raise ValueError("it is no file of hashes")  # noqa: TRY301 - as what is in it may be none
            return _parsed(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:  # RecursionError: of brackets alone
            self._tell("cannot be used", error)
            return {}

    def _sweep(self) -> None:
        with contextlib.suppress(OSError):
            for draft in self._folder.glob(f".{NAME}.*"):
                if not is_being_written(draft, self._path):
                    draft.unlink()

    def _tell(self, what: str, error: Exception) -> None:
        if not self._told:
            self._told = True
            reason = error.strerror if isinstance(error, OSError) else error
            _log.warning("%s %s (%s): releases are hashed again at the next start", self._path, what, reason)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _is_gone(self, name: str) -> bool:
        return not os.path.lexists(self._folder / name)


def _may_hide_a_write(identity: Identity, began: int) -> bool:
    """Return whether a file changed so short a time before that the next change may get the same time.

    Where the times of files have no fraction of a second, a short time is longer.
    """
    changed = identity[4] if os.name == "posix" else identity[3]  # Windows: the one is when it was made
    return changed > began - (_FINE if changed % _SECOND else _COARSE)


def _parsed(found: object) -> dict[str, _Entry]:
    """Return the entries of a memory. Raises `ValueError`."""
    files = found.get("files") if isinstance(found, dict) and found.get("kind") == _KIND else None
    if not isinstance(files, dict):
        raise ValueError(f"it is not of the kind {_KIND}")  # noqa: TRY004 - what is read is wrong, not who calls
    return {name: _entry(value) for name, value in files.items()}


def _entry(value: object) -> _Entry:
    match value:
        case [str(sha256), int(device), int(inode), int(size), int(written), int(changed)]:
            if decode_hex(sha256, 64) is not None:
                return sha256, (device, inode, size, written, changed)
    raise ValueError(f"{value!r:.80} is no hash and identity of a file")

"""What a folder program consists of, as a text, to know later whether it still does.

The text has a head with the hash of what follows, then a line for the folder itself and for each file, folder and
symbolic link in it, sorted by path. Paths are percent-encoded, so that every name a file system can hold is one word
of ASCII. Times and owners are not part of it: a copy of the folder is as good as the folder.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from patchify.files import Progress, hash_path
from patchify.trees import walk

_FORM = b"patchify-manifest-1"  # a text of another form would have another number
_FILE, _FOLDER, _LINK, _OTHER, _NOTHING = "file", "folder", "link", "other", "nothing"


def describe(folder: Path, progress: Progress) -> bytes:
    """Return the manifest of ``folder``, in which no link is followed; devices, pipes and sockets are left out.

    Args:
        folder: An existing folder.
        progress: Called with the number of bytes hashed so far.

    Raises:
        OSError: something in it cannot be read.
    """
    root = os.fsencode(folder)
    hashing = _Hashing(progress)
    lines = []
    for path in sorted([b".", *walk(root)]):
        facts = _look(root, path)
        if facts[0] == _FILE:
            facts = (*facts, hashing.hash(root, path))
        if facts[0] in {_FILE, _FOLDER, _LINK}:
            lines.append(" ".join((*facts, quote_from_bytes(path))))
    body = "\n".join([*lines, ""]).encode("ascii")
    return _head(body) + body


def matches(folder: Path, manifest: bytes, progress: Progress, *, used: bool = False) -> str | None:
    """Say what the first difference of ``folder`` to ``manifest`` is; None if there is none.

    What is in the folder but not in the manifest is no difference: programs write beside themselves, Python does.

    Args:
        folder: The folder, which may be missing.
        manifest: What `describe` returned.
        progress: Called with the number of bytes hashed so far.
        used: The program has run, and may have written into its own files: only executable ones must be as they were.

    Raises:
        OSError: something is there, but cannot be read.
    """
    _, _, body = manifest.partition(b"\n")
    if manifest != _head(body) + body:
        return "the manifest itself is damaged"
    root = os.fsencode(folder)
    hashing = _Hashing(progress)
    for line in body.decode("ascii").splitlines():
        *listed, name = line.split(" ")
        path = unquote_to_bytes(name)
        found = _look(root, path)
        if used and found[:2] == tuple(listed[:2]) == (_FILE, "-"):
            continue
        if found == tuple(listed[:3]) and found[0] == _FILE:  # the size is right: now it is worth to hash
            found = (*found, hashing.hash(root, path))
        if found != tuple(listed):
            return f"{os.fsdecode(path)!r} {_difference(listed, found)}"
    return None


def paths(manifest: bytes) -> list[bytes] | None:
    """Return what ``manifest`` lists, relative to the folder and without it; None if it is damaged."""
    _, _, body = manifest.partition(b"\n")
    if manifest != _head(body) + body:
        return None
    found = (unquote_to_bytes(line.rpartition(" ")[2]) for line in body.decode("ascii").splitlines())
    return [path for path in found if path != b"."]


def _head(body: bytes) -> bytes:
    return b"%s %s\n" % (_FORM, hashlib.sha256(body).hexdigest().encode("ascii"))


def _look(root: bytes, path: bytes) -> tuple[str, ...]:
    """Return the kind of what is there, and of a file ``x`` or ``-`` and its size, of a link its quoted target."""
    whole = os.path.join(root, path)
    try:
        status = os.lstat(whole)
    except (FileNotFoundError, NotADirectoryError):
        return (_NOTHING,)
    if stat.S_ISREG(status.st_mode):
        return (_FILE, "x" if status.st_mode & stat.S_IXUSR else "-", str(status.st_size))
    if stat.S_ISLNK(status.st_mode):
        return (_LINK, quote_from_bytes(os.readlink(whole)))
    return (_FOLDER if stat.S_ISDIR(status.st_mode) else _OTHER,)


def _difference(listed: list[str], found: tuple[str, ...]) -> str:
    if found[0] == _NOTHING:
        return "is missing"
    if found[0] != listed[0]:
        return f"is not the {listed[0]} that it was"
    if found[0] == _LINK:
        return "leads elsewhere"
    if found[1] != listed[1]:
        return "may be executed no more" if listed[1] == "x" else "may be executed now"
    if found[2] != listed[2]:
        return f"has {found[2]} bytes instead of {listed[2]}"
    return "has another content"


class _Hashing:
    """Hashes file after file, and tells the number of bytes of them all."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = 0  # bytes

    def hash(self, root: bytes, path: bytes) -> str:
        before = self._done
        return hash_path(Path(os.fsdecode(root), os.fsdecode(path)), lambda count: self._tell(before + count))

    def _tell(self, done: int) -> None:
        self._done = done
        self._progress(done)

"""All that clients need as static files, for a CDN or an object store that runs no Python.

In the folder are ``updates/<channel>/<platform>``, each an update document with its signature inside
(`patchify.messages.with_signature`), and ``files/<sha256>``, all that these documents name. The folder may be served
while it is written: files come first, then the documents that name them, each by a rename. So whatever ends an export
in between leaves documents that are old or new, and the files of both.

What is no longer needed stays until the last document that named it has expired, and a day longer: a client may be in
the middle of it, and clocks differ. Only what an export has written is ever removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from patchify.errors import (
    ExportBusyError,
    ExportRefusedError,
    ReleaseInvalidError,
    ReleaseUnreadableError,
    StorageUnavailableError,
)
from patchify.files import BLOCK, Progress, hash_path, sync_folder, write_durably
from patchify.publishing.export_plan import Plan
from patchify.releases import parse_time, spell_time
from patchify.server.catalogue import PublishedFile
from patchify.server.storage import FolderStorage

OWN = ".patchify-export"
"""The folder, in the one that is exported to, that makes it an export: the lock, what was written, drafts."""

GRACE = timedelta(days=1)
"""How long a file stays after the last document that named it has expired."""

_WRITTEN = re.compile(r"files/[0-9a-f]{64}|updates/[a-z0-9][a-z0-9._-]*/[a-z0-9_-]+")
_READABLE = 0o644  # by the server of the files, which is somebody else


@dataclass
class Outcome:
    """What an export has changed: documents written, files linked and copied, bytes of these, paths removed."""

    written: int = 0
    linked: int = 0
    copied: int = 0
    added: int = 0
    removed: list[str] = field(default_factory=list)


class Export:
    """A folder to export to.

    Args:
        folder: New, empty, or an export of the same application.
        storage: Where the release files are.
    """

    def __init__(self, folder: Path, storage: FolderStorage) -> None:
        self._folder = folder
        self._own = folder / OWN
        self._draft = self._own / "draft"
        self._state = self._own / "export.json"
        self._storage = storage

    def write(
        self, plan: Plan, time: datetime, *, full: bool = False, prune: bool = False, progress: Progress | None = None
    ) -> Outcome:
        """Bring the folder to what is planned. What is there with the right size is not written again.

        Args:
            plan: What to hold.
            time: Now.
            full: Hash the files that are there, and write those again that are damaged.
            prune: Remove what no document needs that may still be believed.
            progress: Told the bytes of files that are done.

        Raises:
            ExportRefusedError: it is no folder to export to.
            ExportBusyError: another export to it is under way.
            ReleaseError: and its leaves; a release file is not as it was published. The documents are the old ones.
            StorageUnavailableError: the folder cannot be written. The documents are old or new, with all their files.
        """
        self._check_place()
        with _writing(self._folder), self._opened():
            needed = self._needed(plan)
            outcome = Outcome()
            self._remember(plan, needed)  # first, so that all that is ever written is known as ours
            self._add_files(plan, outcome, full=full, progress=progress)
            self._write_documents(plan, outcome)
            if prune:
                self._prune(plan, needed, time, outcome)
            return outcome

    def _check_place(self) -> None:
        """Refuse a folder that is somebody's, or of the server's own. Raises `ExportRefusedError`."""
        place, releases = self._folder.resolve(), self._storage.folder.resolve()
        if place == releases or releases in place.parents:
            raise ExportRefusedError(self._folder, "it is where the releases are kept; name one outside of that")
        if not place.parent.is_dir():
            raise ExportRefusedError(self._folder, f"{place.parent} is not there; is its disk mounted? mkdir makes it")
        if place.exists() and not place.is_dir():
            raise ExportRefusedError(self._folder, "it is no folder")
        with _writing(self._folder):
            found = set(os.listdir(place)) if place.exists() else set()
        if found - {OWN} and not self._state.is_file():
            raise ExportRefusedError(self._folder, "it is neither empty nor an export; name a new folder")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        """Make the folder; while the block runs nobody else exports to it. Raises `ExportBusyError`, `OSError`."""
        _make_folder(self._folder)
        _make_folder(self._own, 0o700)
        lock = FileLock(self._own / "lock", timeout=0, mode=0o600)
        try:
            lock.acquire()
        except Timeout:
            raise ExportBusyError(self._folder) from None
        try:
            self._draft.unlink(missing_ok=True)  # and never written to: it may be a link to a release
            yield
        finally:
            with contextlib.suppress(OSError):
                self._draft.unlink(missing_ok=True)
            lock.release()

    # What was written -------------------------------------------------------------------------------------------------

    def _needed(self, plan: Plan) -> dict[str, datetime]:
        """Return until when each path is needed that this export writes, or an earlier one has."""
        needed = dict(plan.needed)
        if self._state.exists():
            appname, before = self._read_state()
            if appname != plan.appname:
                raise ExportRefusedError(self._folder, f"it is the export of {appname}, and this is {plan.appname}")
            for path, until in before.items():
                needed[path] = max(until, needed.get(path, until))
        return needed

    def _read_state(self) -> tuple[str, dict[str, datetime]]:
        try:
            state: Any = json.loads(self._state.read_bytes())
            needed = {path: parse_time(until) for path, until in state["needed"].items() if _WRITTEN.fullmatch(path)}
            return str(state["appname"]), needed
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ExportRefusedError(self._folder, f"{self._state} cannot be read: {error}") from error

    def _remember(self, plan: Plan, needed: Mapping[str, datetime]) -> None:
        state = {"appname": plan.appname, "needed": {path: spell_time(needed[path]) for path in sorted(needed)}}
        write_durably(self._state, json.dumps(state, indent=1, ensure_ascii=False).encode())

    # Files ------------------------------------------------------------------------------------------------------------

    def _add_files(self, plan: Plan, outcome: Outcome, *, full: bool, progress: Progress | None) -> None:
        _make_folder(self._folder / "files")
        done = 0

        def tell(count: int) -> None:
            if progress:
                progress(done + count)

        for path, file in plan.files.items():
            target = self._folder / path
            if _size(target) != file.size or (full and hash_path(target) != file.sha256):
                self._add(file, target, outcome, tell)
                outcome.added += file.size
            done += file.size
            tell(0)
        self._sync(self._folder / "files")

    def _add(self, file: PublishedFile, target: Path, outcome: Outcome, tell: Progress) -> None:
        source = self._storage.file_path(file)
        with self._storage.open_file(file) as opened:
            if self._link(source, opened):
                outcome.linked += 1
            else:
                self._copy(source, opened, file, tell)
                outcome.copied += 1
        os.replace(self._draft, target)

    def _link(self, source: Path, opened: FileIO) -> bool:
        """Make the draft a link to the file that was opened, if that can be and all may read it; return whether."""
        found = os.fstat(opened.fileno())
        if found.st_mode & 0o444 != 0o444:
            return False
        try:
            os.fsync(opened.fileno())
            os.link(source, self._draft)
        except OSError:  # another file system, or one without links
            return False
        linked = self._draft.lstat()  # the link of a symbolic link is one itself
        if (linked.st_dev, linked.st_ino) == (found.st_dev, found.st_ino):
            return True
        self._draft.unlink()
        return False

    def _copy(self, source: Path, opened: FileIO, file: PublishedFile, tell: Progress) -> None:
        digest = hashlib.sha256()
        block = memoryview(bytearray(BLOCK))
        with self._drafted() as draft:
            while count := _read(file, source, opened, block):
                digest.update(block[:count])
                draft.write(block[:count])
                tell(draft.tell())
        if digest.hexdigest() != file.sha256:
            raise ReleaseInvalidError(str(file.release.version), source, expected=file.sha256, found=digest.hexdigest())

    @contextlib.contextmanager
    def _drafted(self) -> Iterator[Any]:
        """Give a new file, the draft, which all may read; it is durable when the block has ended."""
        with open(self._draft, "xb") as draft:
            yield draft
            draft.flush()
            os.chmod(self._draft, _READABLE)
            os.fsync(draft.fileno())

    def _sync(self, *folders: Path) -> None:
        """Make what was renamed into folders durable: a rename is certain when it is so in both of its folders."""
        for folder in (*folders, self._own):
            sync_folder(folder)

    # Documents --------------------------------------------------------------------------------------------------------

    def _write_documents(self, plan: Plan, outcome: Outcome) -> None:
        _make_folder(self._folder / "updates")
        changed = set()
        for path, data in plan.documents.items():
            target = self._folder / path
            if _size(target) == len(data) and target.read_bytes() == data:
                continue
            if target.parent not in changed:
                _make_folder(target.parent)
                changed.add(target.parent)
            with self._drafted() as draft:
                draft.write(data)
            os.replace(self._draft, target)
            outcome.written += 1
        self._sync(*sorted(changed))

    def _prune(self, plan: Plan, needed: Mapping[str, datetime], time: datetime, outcome: Outcome) -> None:
        """Remove what is not planned and not needed any more, documents before files."""
        gone = {path for path, until in needed.items() if path not in plan.needed and until + GRACE < time}
        for path in sorted(gone, reverse=True):  # updates/… before files/…
            target = self._folder / path
            if _size(target) is not None:
                target.unlink()
                outcome.removed.append(path)
            if path.startswith("updates/"):
                with contextlib.suppress(OSError):  # others are in it, or it is gone
                    target.parent.rmdir()
        self._remember(plan, {path: until for path, until in needed.items() if path not in gone})


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Tell of what the operating system refuses in the block as `StorageUnavailableError`."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailableError(error.filename or folder, error) from error


def _make_folder(folder: Path, mode: int = 0o755) -> None:
    """Make a folder if it is not there, durably, also where one that was killed has made it."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)
        os.chmod(folder, mode)
    sync_folder(folder.parent)


def _size(path: Path) -> int | None:
    """Return the size of a regular file (bytes), None if there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _read(file: PublishedFile, source: Path, opened: FileIO, block: memoryview) -> int:
    try:
        return opened.readinto(block)
    except OSError as error:
        raise ReleaseUnreadableError(str(file.release.version), source, str(error.strerror)) from error

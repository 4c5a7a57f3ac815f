"""Publishing on the server's machine: into the folder of the releases, then into the catalogue.

A release is seen when the catalogue has it, and by then its bytes are in place and durable. Whatever ends in between
leaves at most a file that the catalogue does not know, which `LocalPublisher.prune` removes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from semver import Version

from patchify import releases
from patchify.errors import (
    FileChangedError,
    PublicationError,
    ReleaseError,
    ReleaseMissingError,
    StorageUnavailableError,
    UnreadableFileError,
)
from patchify.files import Progress
from patchify.publishing import retention, staging, steering
from patchify.publishing.publisher import Publication, check_name
from patchify.releases import Release, Schedule
from patchify.server.catalogue import EditableCatalogue
from patchify.server.formats import detect_format
from patchify.server.storage import FolderStorage

STALE = timedelta(days=1)
"""How long nothing must have been added to an upload before `LocalPublisher.prune` takes it for given up."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Leftover:
    """A file that nobody needs any more: where it is, its size (bytes), and why."""

    path: Path
    size: int
    why: str


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

    # A new release ----------------------------------------------------------------------------------------------------

    def publish(self, file: Path, publication: Publication, progress: Progress | None = None) -> Release:
        """Publish a copy of a file: `stage`, then `commit`."""
        self._check_name(publication)
        staged = self.stage(file, progress)
        try:
            return self.commit(staged.path, staged.sha256, staged.size, publication)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(staged.path)

    def stage(self, file: Path, progress: Progress | None = None) -> staging.Staged:
        """Copy a file into the incoming folder, hashing it on the way. Nobody sees it yet.

        Raises:
            UnreadableFileError, FileChangedError: the file cannot be read, or changed meanwhile.
            StorageUnavailableError: the copy cannot be written.
        """
        return staging.stage(file, self._storage.make_incoming(), progress)

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
        self._check_name(publication)
        form = _format(staged, size, publication)
        with self._catalogue.transaction() as transaction:
            known = transaction.releases()
            release = steering.publish(known, publication, sha256=sha256, size=size, form=form, now=self._now())
            self._storage.place(staged, release)  # also what was there already, in case its file was damaged
            if known.get(release.name) != release:
                transaction.put(release)
        _log.info("published %s in %s: %d bytes, SHA-256 %s", release, publication.channel, size, sha256)
        return release

    def _check_name(self, publication: Publication) -> None:
        release = Release(publication.version, "", platform=publication.platform)
        check_name(self._storage.path(release).name)

    # Steering ---------------------------------------------------------------------------------------------------------

    def releases(self) -> list[Release]:
        """Return all releases, newest first."""
        return list(self._catalogue.snapshot().releases.values())

    def promote(
        self,
        version: Version,
        source: str,
        target: str,
        platform: str | None = None,
        schedule: Schedule | None = None,
        *,
        force: bool = False,
    ) -> list[Release]:
        """Offer what is live in one channel in another one, too."""
        return self._steer(
            version,
            source,
            platform,
            lambda known, now: steering.promote(known, target, schedule, now, force=force),
        )

    def rollout(
        self,
        version: Version,
        channel: str,
        schedule: Schedule,
        platform: str | None = None,
        pause_above: int | None = None,
    ) -> list[Release]:
        """Give a release another schedule, which begins now."""
        return self._steer(version, channel, platform, lambda known, now: steering.rollout(schedule, pause_above, now))

    def pause(
        self, version: Version, channel: str | None = None, platform: str | None = None, why: str = ""
    ) -> list[Release]:
        """Offer a live release no longer for now."""
        return self._steer(version, channel, platform, lambda known, now: steering.pause(now, why))

    def resume(
        self,
        version: Version,
        channel: str | None = None,
        platform: str | None = None,
        why: str = "",
        *,
        force: bool = False,
    ) -> list[Release]:
        """Offer a paused release again, or a draft for the first time."""
        return self._steer(version, channel, platform, lambda known, now: steering.resume(known, now, why, force=force))

    def withdraw(
        self, version: Version, channel: str | None = None, platform: str | None = None, why: str = ""
    ) -> list[Release]:
        """Never offer a release again, and tell clients that have it to leave it."""
        return self._steer(version, channel, platform, lambda known, now: steering.withdraw(now, why))

    def _steer(
        self,
        version: Version,
        channel: str | None,
        platform: str | None,
        step: Callable[[steering.Releases, datetime], steering.Step],
    ) -> list[Release]:
        with self._catalogue.transaction() as transaction:
            known = transaction.releases()
            changed, refused = steering.steer(known, version, channel, platform, step(known, self._now()))
            for release in changed:
                transaction.put(release)
        for release in changed:
            states = ", ".join(f"{each.state.value} in {each.channel} ({each.schedule})" for each in release.placements)
            _log.info("changed %s: %s", release, states)
        if refused is not None:
            raise refused
        return list(changed)

    # Upkeep -----------------------------------------------------------------------------------------------------------

    def verify(self, progress: Progress | None = None) -> list[str]:
        """Hash the file of every release and return what is wrong, one line each; nothing if all is well.

        A release that is withdrawn everywhere needs no file. ``progress`` is called with the bytes of all files so far.
        """
        problems = []
        done = 0
        for release in self.releases():
            counter = None if progress is None else _Counter(progress, done)
            try:
                self._storage.check(release, counter)
            except ReleaseError as error:
                if not (isinstance(error, ReleaseMissingError) and retention.withdrawn(release)):
                    problems.append(str(error))
            done += release.size
        return problems

    def prune(self, keep: int | None = None, *, dry_run: bool = False) -> list[Leftover]:
        """Remove the files that nobody needs any more, and return them.

        That is: files of releases that are withdrawn everywhere (the catalogue still knows these), files named as
        releases that the catalogue does not know, and uploads that were given up.

        Args:
            keep: Forget old releases, too, but never the newest so many that everybody is offered in a channel for a
                platform, nor what clients below a floor go to first; see `retention.superseded`. None: forget none.
            dry_run: Remove nothing.

        Raises:
            PublicationError: ``keep`` is less than 1.
            StorageUnavailableError, CatalogueError, CatalogueUnavailableError: part of it may have been done.
        """
        surplus: list[Release] = []
        if keep is not None:
            with self._catalogue.transaction() as transaction:
                surplus = retention.superseded(transaction.releases().values(), keep, self._now())
                for release in () if dry_run else surplus:
                    transaction.remove(release)
        with (
            self._catalogue.transaction() as transaction
        ):  # a second one: files go when nobody is told of them any more
            try:
                found = list(self._leftovers(transaction.releases(), surplus))
                for each in () if dry_run else found:
                    each.path.unlink(missing_ok=True)
            except OSError as error:
                raise StorageUnavailableError(error.filename or self._storage.folder, error) from error
        return found

    def _leftovers(self, known: steering.Releases, surplus: list[Release]) -> Iterator[Leftover]:
        forgotten = {each.name for each in surplus}
        for name, path in self._storage.files().items():
            if name in forgotten:
                yield Leftover(path, path.stat().st_size, "superseded")
            elif name not in known:
                yield Leftover(path, path.stat().st_size, "not in the catalogue")
            elif retention.withdrawn(known[name]):
                yield Leftover(path, path.stat().st_size, "withdrawn")
        oldest = (self._now() - STALE).timestamp()
        with contextlib.suppress(FileNotFoundError), os.scandir(self._storage.incoming) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                if entry.stat(follow_symlinks=False).st_mtime < oldest:
                    yield Leftover(Path(entry), entry.stat(follow_symlinks=False).st_size, "given up")


def _format(staged: Path, size: int, publication: Publication) -> str:
    """Return the format of what is staged, having looked whether it is what its caller says."""
    try:
        found = staged.stat().st_size
        form = detect_format(staged)
    except OSError as error:
        raise StorageUnavailableError(staged, error) from error
    if found != size:
        raise FileChangedError(staged, f"it has {found} bytes, not {size}")
    if size == 0:
        raise UnreadableFileError(f"version {publication.version}", "its file is empty")
    if publication.format in (None, form):
        return form
    if publication.format == "file":
        return "file"
    raise PublicationError(f"version {publication.version} is of the format {form!r}, not {publication.format!r}")


class _Counter:
    """Adds what one file has come to, to what the ones before it had."""

    def __init__(self, progress: Progress, before: int) -> None:
        self._progress = progress
        self._before = before

    def __call__(self, done: int) -> None:
        self._progress(self._before + done)

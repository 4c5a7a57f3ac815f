"""Publishing on the server's machine: into the folder of the releases, then into the catalogue.

A release is seen when the catalogue has it, and by then its bytes are in place and durable. Whatever ends in between
leaves at most a file that the catalogue does not know, which `LocalPublisher.prune` removes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
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
from patchify.forms import Forms
from patchify.publishing import retention, staging, steering
from patchify.publishing.leftovers import Leftover, leftovers
from patchify.publishing.making import useless_patches
from patchify.publishing.publisher import Publication, check_name
from patchify.releases import Release, Schedule
from patchify.server.catalogue import EditableCatalogue, PublishedFile
from patchify.server.formats import detect_format
from patchify.server.storage import FolderStorage

_log = logging.getLogger(__name__)


class LocalPublisher:
    """A `Publisher` that changes a catalogue and a folder.

    Args:
        catalogue: Which releases there are.
        storage: Where their files are.
        now: Gives the time, UTC.
        changed: Called when releases were published or steered: there may be forms to make.
    """

    def __init__(
        self,
        catalogue: EditableCatalogue,
        storage: FolderStorage,
        now: Callable[[], datetime] = releases.now,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._catalogue = catalogue
        self._storage = storage
        self._now = now
        self._changed = changed

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
        self._changed()
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
        if changed:
            self._changed()
        if refused is not None:
            raise refused
        return list(changed)

    # Upkeep -----------------------------------------------------------------------------------------------------------

    def verify(self, progress: Progress | None = None) -> list[str]:
        """Hash the files of every release and return what is wrong, one line each; nothing if all is well.

        A release that is withdrawn everywhere needs none. ``progress`` is called with the bytes of all files so far.
        """
        problems = []
        done = 0
        for release in self.releases():
            for sha256, size in ((release.sha256, release.size), *release.forms.files(release.size)):
                counter = None if progress is None else _Counter(progress, done)
                try:
                    self._storage.check_file(PublishedFile(sha256, size, release), counter)
                except ReleaseError as error:
                    if not (isinstance(error, ReleaseMissingError) and retention.withdrawn(release)):
                        problems.append(str(error))
                done += size
        return problems

    def prune(self, keep: int | None = None, *, patches: bool = False, dry_run: bool = False) -> list[Leftover]:
        """Remove the files that nobody needs any more, and return them.

        That is: files of releases that are withdrawn everywhere (the catalogue still knows these), files named as
        releases that the catalogue does not know, forms that no release has, and uploads that were given up. Forms that
        a release has until now go the next time, as clients may just have been told of them.

        Args:
            keep: Forget old releases, too, but never the newest so many that everybody is offered in a channel for a
                platform, nor what clients below a floor go to first; see `retention.superseded`. None: forget none.
            patches: Forget patches, too, that are from what is neither live nor paused in any channel.
            dry_run: Remove nothing.

        Raises:
            PublicationError: ``keep`` is less than 1.
            StorageUnavailableError, CatalogueError, CatalogueUnavailableError: part of it may have been done.
        """
        with self._catalogue.transaction() as transaction:
            known = dict(transaction.releases())
            named = retention.forms_of(known.values())  # documents that are on their way may still name them
            surplus = [] if keep is None else retention.superseded(known.values(), keep, self._now())
            for release in surplus:
                del known[release.name]
            lighter = list(_with_fewer_forms(known, patches=patches))
            if not dry_run:
                for release in surplus:
                    transaction.remove(release)
                for release in lighter:
                    transaction.put(release)
        forgotten = {each.name for each in surplus}
        # in a second one: files go when nobody is told of them any more
        with self._catalogue.transaction() as transaction:
            known = dict(transaction.releases())
            if dry_run:
                known = {name: each for name, each in known.items() if name not in forgotten}
                known |= {each.name: each for each in lighter}
            try:
                found = list(leftovers(self._storage, known, forgotten, self._now(), named))
                for each in () if dry_run else found:
                    each.remove()
            except OSError as error:
                raise StorageUnavailableError(error.filename or self._storage.folder, error) from error
        return found


def _with_fewer_forms(known: steering.Releases, *, patches: bool) -> Iterator[Release]:
    """Yield releases without the forms that are not needed any more: all of a withdrawn one, and useless patches."""
    for release in known.values():
        useless = useless_patches(release, known.values()) if patches else []
        kept = tuple(each for each in release.forms.patches if each not in useless)
        forms = Forms() if retention.withdrawn(release) else replace(release.forms, patches=kept)
        if forms != release.forms:
            yield replace(release, forms=forms)


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

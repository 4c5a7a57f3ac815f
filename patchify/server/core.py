"""Every answer of the server, without Flask: catalogue, storage and key in one place.

What can be known is worked out once: the releases are checked when a `Core` is made, and a document is rendered and
signed the first time it is asked for after a change. The releases of the configuration are all hashed at the start, but
for those that an earlier start has hashed, and one that is wrong stops it. In a catalogue others publish while the
server runs: there the start looks only whether the files are there, and what is not is no reason not to serve the rest;
a file is hashed before it first goes out.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from semver import Version

from patchify import signals
from patchify.errors import VersionNotFoundError
from patchify.releases import Placement, Release, ReleaseState, now
from patchify.server.catalogue import Catalogue, FixedCatalogue, PublishedFile
from patchify.server.config import Config
from patchify.server.documents import Clock, Issuer, SignedDocument
from patchify.server.formats import detect_format
from patchify.server.storage import FolderStorage
from patchify.versions import parse_version

_log = logging.getLogger(__name__)

CheckProgress = Callable[[int, int], None]
"""Called with the bytes hashed so far and the bytes to hash in all."""

_REPORT_EVERY = 5.0  # seconds between two lines of the log about a long check


class Core:
    """The releases of one application, and the documents about them, signed."""

    def __init__(self, config: Config, progress: CheckProgress | None = None, *, clock: Clock = now) -> None:
        """Check the releases: those of the configuration by their SHA-256, several at once, others by their size.

        A file is not hashed again if it is remembered, by its identity, that it was.

        Args:
            config: What to serve.
            progress: Called, from more than one thread, while long checks go on; the log tells of them anyway.
            clock: Returns the time.

        Raises:
            ReleaseMissingError, ReleaseUnreadableError, ReleaseInvalidError: naming version and path of a release of
                the configuration.
            CatalogueError, CatalogueUnavailableError: the catalogue cannot be used.
        """
        self.config = config
        self.storage = FolderStorage(config.folder, config.appname)
        self._clock = clock
        started = time.monotonic()
        if config.catalogue is None:
            bare = [Release(parse_version(version), sha256) for version, sha256 in config.hashes.items()]
            size, hashed = self._check(bare, progress)
            how = f", hashed: {hashed}, remembered: {len(bare) - hashed}"
            self.catalogue: Catalogue = FixedCatalogue(self._described(each) for each in bare)
        else:
            self.catalogue = _opened(config.catalogue)
            size, how = self._look(), ""
        self._issuer = Issuer(config, self.catalogue.snapshot(), clock)
        self._tell(size, time.monotonic() - started, how)

    def latest(self) -> tuple[Version, SignedDocument]:
        """Return the newest version that every cohort may have, and the signed answer of ``latest``.

        Pre-releases are included; 0.0.0 if there is none.
        """
        return self._documents().latest()

    def latest_version(self) -> Version:
        """Return the version that `latest` is about."""
        return self.latest()[0]

    @property
    def latest_document(self) -> SignedDocument:
        """The signed answer of ``latest``."""
        return self.latest()[1]

    def versions(self) -> Mapping[str, str]:
        """Return every version live in the configured channel, with the SHA-256 (lower-case hex) of its file."""
        channel = self.config.channel
        placed = self.catalogue.snapshot().placed(channel, self.config.platform)
        live = (each for each in placed if (found := each.placed(channel)) and found.state is ReleaseState.LIVE)
        return {str(each.version): each.sha256 for each in live}

    def release_file(self, version: Version | str) -> Path | None:
        """Return the path of a version's file, or None if there is no such version. The file is not looked at."""
        try:
            return self.storage.path(self._found(version))
        except VersionNotFoundError:
            return None

    def hash_document(self, version: str) -> SignedDocument:
        """Return the signed answer of ``hashes/<version>``.

        Raises:
            InvalidVersionError, VersionNotFoundError: there is no such version.
        """
        return self._documents().version_hash(version)

    def update_document(self, channel: str, platform: str) -> SignedDocument:
        """Return the signed answer of ``updates/<channel>/<platform>``.

        Raises:
            ValueError: one of the names has not the form of one.
            PlaceNotFoundError: there is no such channel.
        """
        return self._documents().update(channel, platform)

    def open_release(self, version: str, platform: str | None = None) -> tuple[Release, FileIO]:
        """Open the file of a release, known to have the right bytes; the caller closes it.

        Args:
            version: Which.
            platform: Of the build; None: the best one for the configured platform in the configured channel, which
                is the one that ``hashes/<version>`` is about.

        Raises:
            InvalidVersionError, VersionNotFoundError: there is no such version.
            ReleaseMissingError, ReleaseUnreadableError, ReleaseInvalidError: the file is not as it was published.
        """
        release = self._found(version) if platform is None else self.catalogue.snapshot().build(version, platform)
        return release, self.storage.open(release)

    def open_file(self, sha256: str) -> tuple[PublishedFile, FileIO]:
        """Open a release or one of its forms by its hash, known to have the right bytes; the caller closes it.

        Raises:
            PlaceNotFoundError: there is none with this hash.
            ReleaseMissingError, ReleaseUnreadableError, ReleaseInvalidError: the file is not as it was published.
        """
        file = self.catalogue.snapshot().file(sha256)
        return file, self.storage.open_file(file)

    def _found(self, version: Version | str) -> Release:
        """Return the release that the three answers of the original protocol are about."""
        return self.catalogue.snapshot().find(version, self.config.platform, self.config.channel)

    def _documents(self) -> Issuer:
        """Return who signs what is said of the snapshot of now."""
        snapshot, issuer = self.catalogue.snapshot(), self._issuer
        if issuer.snapshot is not snapshot:
            issuer = self._issuer = Issuer(self.config, snapshot, self._clock)
        return issuer

    def _described(self, release: Release) -> Release:
        """Return a release of the configuration with what its file says of it; all may have it."""
        with self.storage.open(release) as file:
            found = os.fstat(file.fileno())
            form = detect_format(file)
        published = datetime.fromtimestamp(int(found.st_mtime), UTC)
        live = Placement(self.config.channel, ReleaseState.LIVE, since=published, changed=published, seed="")
        return replace(release, size=found.st_size, format=form, published=published, placements=(live,))

    def _check(self, releases: list[Release], progress: CheckProgress | None) -> tuple[int, int]:
        """Check all files, and return their bytes and how many were hashed; the first that is wrong raises."""
        sizes = {release: self.storage.size(release) for release in releases}
        meter = _Meter(sum(sizes.values()), progress)
        largest_first = sorted(releases, key=lambda release: -sizes[release])
        pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="patchify-check")  # hashing releases the GIL
        try:
            hashed = pool.map(lambda each: self.storage.check(each, meter.counter(), anew=False), largest_first)
            return meter.total, sum(hashed)
        finally:
            pool.shutdown(cancel_futures=True)
            self.storage.remember()  # also if one is wrong: the rest need not be hashed again

    def _look(self) -> int:
        """Return the bytes of all files; one that is missing or has another size is an error in the log."""
        total = 0
        for release in self.catalogue.snapshot().releases.values():
            size = self.storage.size(release)
            total += size
            if size != release.size and not all(each.state is ReleaseState.WITHDRAWN for each in release.placements):
                _log.error(
                    "release %s cannot be served: %s has %d bytes, and %d were published",
                    release,
                    self.storage.path(release),
                    size,
                    release.size,
                )
        return total

    def _tell(self, size: int, seconds: float, how: str) -> None:
        count = len(self.catalogue.snapshot().releases)
        _log.info(
            "%s: releases checked: %d (%d bytes in %.2f s%s), latest is %s, public key %s",
            self.config.appname,
            count,
            size,
            seconds,
            how,
            self.latest_version(),
            self.config.signing_key.verifying_key.to_hex(),
        )
        signals.emit(signals.releases_checked, self, releases=count, size=size)


def _opened(catalogue: str | Catalogue) -> Catalogue:
    if not isinstance(catalogue, str):
        return catalogue
    from patchify.server.sql_catalogue import SqlCatalogue  # noqa: PLC0415 - SQLAlchemy is not for everybody

    return SqlCatalogue(catalogue)


class _Meter:
    """Adds up what several threads have hashed and tells of it now and then."""

    def __init__(self, total: int, progress: CheckProgress | None) -> None:
        self.total = total
        self._progress = progress
        self._done = 0
        self._told = time.monotonic()
        self._lock = threading.Lock()

    def counter(self) -> Callable[[int], None]:
        """Return the progress callable of one file."""
        before = 0

        def count(done: int) -> None:
            nonlocal before
            with self._lock:
                self._done += done - before
                overall, now = self._done, time.monotonic()
                tell = now - self._told >= _REPORT_EVERY
                if tell:
                    self._told = now
            before = done
            if tell:
                _log.info("checking releases: %d of %d bytes", overall, self.total)
            if self._progress:
                self._progress(overall, self.total)

        return count

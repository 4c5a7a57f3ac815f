"""Every answer of the server, without Flask: catalogue, storage and key in one place.

What can be known is worked out once: the releases are checked when a `Core` is made, and a document is rendered and
signed the first time it is asked for.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from semver import Version

from patchify import signals
from patchify.errors import VersionNotFoundError
from patchify.keys import encode_signature
from patchify.messages import LatestVersion, VersionHash
from patchify.releases import Placement, Release, ReleaseState, now
from patchify.server.catalogue import FixedCatalogue
from patchify.server.config import Config
from patchify.server.storage import FolderStorage
from patchify.versions import newest, parse_version

_log = logging.getLogger(__name__)

CheckProgress = Callable[[int, int], None]
"""Called with the bytes hashed so far and the bytes to hash in all."""

_REPORT_EVERY = 5.0  # seconds between two lines of the log about a long check


@dataclass(frozen=True)
class SignedDocument:
    """A JSON body and the value of its ``X-Signature`` header."""

    body: bytes
    signature: str


class Core:
    """The releases of one application, checked, and the documents about them, signed."""

    def __init__(self, config: Config, progress: CheckProgress | None = None) -> None:
        """Check every release file: there, readable, with the configured SHA-256. Several are hashed at once.

        Args:
            config: What to serve.
            progress: Called, from more than one thread, while long checks go on; the log tells of them anyway.

        Raises:
            ReleaseMissingError, ReleaseUnreadableError, ReleaseInvalidError: naming version and path.
        """
        self.config = config
        moment = now()
        live = Placement("stable", ReleaseState.LIVE, since=moment, changed=moment)
        self.catalogue = FixedCatalogue(
            Release(parse_version(version), sha256, placements=(live,)) for version, sha256 in config.hashes.items()
        )
        self._latest = newest([each.version for each in self.catalogue.snapshot().releases.values()])
        self.storage = FolderStorage(config.folder, config.appname)
        self._hash_documents: dict[str, SignedDocument] = {}
        self._check(progress)
        self.latest_document = self._sign(LatestVersion(self._latest).to_bytes())

    def latest_version(self) -> Version:
        """Return the highest version by SemVer precedence, pre-releases included; 0.0.0 if there is none."""
        return self._latest

    def versions(self) -> Mapping[str, str]:
        """Return every version with the SHA-256 (lower-case hex) of its file."""
        return self.config.hashes

    def release_file(self, version: Version | str) -> Path | None:
        """Return the path of a version's file, or None if there is no such version. The file is not looked at."""
        try:
            return self.storage.path(self.catalogue.snapshot().find(version))
        except VersionNotFoundError:
            return None

    def hash_document(self, version: str) -> SignedDocument:
        """Return the signed answer of ``hashes/<version>``.

        Raises:
            InvalidVersionError, VersionNotFoundError: there is no such version.
        """
        document = self._hash_documents.get(version)
        if document is None:
            release = self.catalogue.snapshot().find(version)
            document = self._sign(VersionHash(release.version, release.sha256).to_bytes())
            self._hash_documents[str(release.version)] = document
        return document

    def open_release(self, version: str) -> tuple[Release, FileIO]:
        """Open the file of a release, known to be the one that was checked; the caller closes it.

        Raises:
            InvalidVersionError, VersionNotFoundError: there is no such version.
            ReleaseMissingError, ReleaseUnreadableError, ReleaseInvalidError: it changed on disk since the start.
        """
        release = self.catalogue.snapshot().find(version)
        return release, self.storage.open(release)

    def _sign(self, body: bytes) -> SignedDocument:
        return SignedDocument(body, encode_signature(self.config.signing_key.sign(body)))

    def _check(self, progress: CheckProgress | None) -> None:
        releases = self.catalogue.snapshot().releases.values()
        sizes = {release: self.storage.size(release) for release in releases}
        meter = _Meter(sum(sizes.values()), progress)
        started = time.monotonic()
        largest_first = sorted(releases, key=lambda release: -sizes[release])
        pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="patchify-check")  # hashing releases the GIL
        try:
            for _ in pool.map(lambda release: self.storage.check(release, meter.counter()), largest_first):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
        _log.info(
            "%s: releases checked: %d (%d bytes in %.2f s), latest is %s, public key %s",
            self.config.appname,
            len(releases),
            meter.total,
            time.monotonic() - started,
            self._latest,
            self.config.signing_key.verifying_key.to_hex(),
        )
        signals.emit(signals.releases_checked, self, releases=len(releases), size=meter.total)


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

"""How the bytes of a release come here: by the cheapest way that works.

A patch or a compressed file that turns out to be of no use is remembered and not tried again, and the next way is
taken; the last one is always the whole file. What comes of a way is believed for its hash only, which is signed. What
could not be reached or written now is no fault of a way: it is gone on with at the next check.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from patchify import signals
from patchify.client import patches
from patchify.client.installer import Fraction, Installer, as_error
from patchify.client.memory import Memory
from patchify.client.points import reach
from patchify.client.reports import reason_of
from patchify.client.staging import PartFile
from patchify.client.state import Release
from patchify.client.ways import Basis, Kind, Leg, Way, ways
from patchify.errors import (
    ConnectionFailedError,
    DamagedSegmentError,
    FailedHashVerificationError,
    FileOperationError,
    NotEnoughSpaceError,
    PatchError,
    PatchifyError,
    RejectedError,
    ServerBusyError,
    TooMuchDataError,
    UnableToReadFileError,
    UnsafeArchiveError,
)
from patchify.forms import path_of
from patchify.reports import Event

if TYPE_CHECKING:
    from patchify.client.config import Config
    from patchify.client.reporter import Reporter
    from patchify.client.source import Offer
    from patchify.client.transport import Transport

_log = logging.getLogger(__name__)
_MIB = 1024 * 1024
_PASSING = frozenset({408, 425, 429, 503})  # what a server answers that has no time now; other errors may well stay
_DAMAGE = (DamagedSegmentError, FailedHashVerificationError, UnsafeArchiveError)


class Fetcher:
    """Brings the bytes of a release here.

    Args:
        config: How much memory a patch may take.
        installer: What they are for, and where they go.
        transport: How they travel.
        reporter: Tells the server of it.
        announce: Sends a signal.
    """

    def __init__(
        self,
        config: Config,
        installer: Installer,
        transport: Transport,
        reporter: Reporter,
        announce: Callable[..., None],
    ) -> None:
        self._config = config
        self._memory = config.patch_memory * _MIB
        self._installer = installer
        self._transport = transport
        self._reporter = reporter
        self._announce = announce
        self._has_said = False  # that patches are not used
        self._stuck: set[str] = set()  # the files of which not a byte came at the last attempt

    def fetch(self, release: Release, offer: Offer, begin: Callable[[], Fraction]) -> None:
        """Have a release staged.

        Args:
            release: Which.
            offer: Where it is, and in which forms.
            begin: Called when a way is taken; returns what is called with the bytes that are here and those of the way.

        Raises:
            AnswerError, ConnectionFailedError, FailedHashVerificationError, FileOperationError: it is not staged.
        """
        self._bound(offer)
        way, *others = self._ways(release, offer)
        while others:
            try:
                self._make(release, way, begin())
            except (PatchError, NotEnoughSpaceError) as error:
                way, *others = self._left(release, error, others)
            else:
                self._tell(release, way.kind, way.size, str(way), offer.size)
                return
        size = self._download(release, offer, begin)
        self._tell(release, way.kind, size, f"the whole file of {size:,} bytes")

    def _bound(self, offer: Offer) -> None:
        """Raise `TooMuchDataError` if the release is larger than may be, in whichever form it comes."""
        limit = int(self._config.max_release * _MIB)
        if offer.size is not None and offer.size > limit:
            url = urljoin(self._config.api, offer.path or f"releases/{offer.version}")
            raise TooMuchDataError(url, limit, "the largest release allowed (max_release)")

    def _ways(self, release: Release, offer: Offer) -> tuple[Way, ...]:
        if offer.size is None:  # the original protocol
            return ways((release.sha256, 0), offer.forms)
        return ways(
            (release.sha256, offer.size),
            offer.forms,
            target=offer.forms.basis(offer.format, release.sha256, offer.size),
            basis=self._basis() if offer.forms.patches else None,
            memory=self._memory,
            zstd=offer.forms.compressed is not None and patches.can_decompress(),
            bad=self._installer.memory().bad_files,
            begun=self._installer.begun(),
        )

    def _basis(self) -> Basis | None:
        """Return what patches can apply to; None if they cannot be used here."""
        if not self._memory:
            return None
        if not patches.can_apply():
            if not self._has_said:
                _log.info("patches are not used: pip install 'patchify-updater[patches]'")
                self._has_said = True
            return None
        try:
            return self._installer.basis()
        except FileOperationError as error:
            _log.info("patches are not used: %s", error)
            return None

    def _make(self, release: Release, way: Way, progress: Fraction) -> None:
        """Have a release staged by a way on which something is made of what is fetched.

        Raises:
            PatchError: by this way it cannot be.
        """
        part = self._installer.part(release.sha256, [leg.sha256 for leg in way.legs])
        try:
            begun = self._installer.begun()
            missing = sum(max(0, leg.size - begun.get(leg.sha256, 0)) for leg in way.legs)
            part.reserve(missing + way.legs[-1].result_size)
            there = 0
            for leg in way.legs:
                self._fetch(release, leg, _after(there, way.size, progress))
                there += leg.size
            if way.kind == "zstd":
                self._decompress(release, way.legs[0], part)
            else:
                self._patch(release, way.legs, part)
        finally:
            part.close()
        for leg in way.legs:
            with contextlib.suppress(OSError):
                self._installer.form_path(leg.sha256).unlink(missing_ok=True)

    def _fetch(self, release: Release, leg: Leg, progress: Fraction) -> None:
        """Have a file here that a release is made of; what is there of it from an earlier attempt is made use of."""
        path = self._installer.form_path(leg.sha256)
        with _blaming(release, leg):
            while True:
                part = self._installer.form(leg.sha256)
                begun = part.size > 0
                try:
                    self._receive(release, leg, part, progress)
                    if part.matches(leg.sha256):
                        reach("form-fetched")
                        return
                finally:
                    part.close()
                part.discard()
                if not begun:
                    reason = "has another hash than the one that is signed"
                    raise PatchError(str(release.version), leg.sha256, reason, damage=True)
                _log.warning("%s: what was there of it was damaged; downloading it once more", path)

    def _receive(self, release: Release, leg: Leg, part: PartFile, progress: Fraction) -> None:
        """Download what is missing of a file.

        Raises:
            PatchError: the server has it not, or not a byte of it came now and at the attempt before; to wait for it
                would keep the release from coming in another way.
        """
        before = part.size
        try:
            self._transport.file(path_of(leg.sha256), leg.sha256, leg.size, part, progress, segments=leg.segments)
        except ConnectionFailedError as error:
            if error.retry_after is not None:  # then nothing else is to be asked for either
                raise
            broken = isinstance(error, ServerBusyError) and error.status not in _PASSING
            if broken or (part.size <= before and leg.sha256 in self._stuck):
                raise PatchError(str(release.version), leg.sha256, f"cannot be had ({reason_of(error)})") from error
            if part.size > before:
                self._stuck.discard(leg.sha256)
            else:
                self._stuck.add(leg.sha256)
            raise
        self._stuck.discard(leg.sha256)

    def _decompress(self, release: Release, leg: Leg, part: PartFile) -> None:
        with _blaming(release, leg):
            part.cut(0)
            try:
                patches.decompress(str(release.version), self._installer.form_path(leg.sha256), leg, part.write)
            except PatchError:
                part.discard()  # it is no beginning of the release
                raise
            self._installer.stage(release.version, part, release.sha256)

    def _patch(self, release: Release, legs: tuple[Leg, ...], part: PartFile) -> None:
        try:
            made = self._installer.read_basis()
            with self._suspecting(legs):
                for leg in legs:
                    path = self._installer.form_path(leg.sha256)
                    with as_error(UnableToReadFileError, path):
                        patch = path.read_bytes()
                    made = patches.apply(str(release.version), made, patch, leg)
            reach("patched")
            with _blaming(release, legs[-1]):
                self._installer.stage_basis(release, part, made)
        except MemoryError as error:
            raise PatchError(str(release.version), legs[-1].sha256, "takes more memory than there is") from error

    @contextlib.contextmanager
    def _suspecting(self, legs: tuple[Leg, ...]) -> Iterator[None]:
        """Let files count as bad while they are applied: what ends the process then would do so at each attempt."""
        hashes = [leg.sha256 for leg in legs]
        self._remember(lambda before: functools.reduce(Memory.with_bad_file, hashes, before))
        try:
            yield
        finally:
            self._remember(lambda before: before.without_bad_files(hashes))

    def _remember(self, change: Callable[[Memory], Memory]) -> None:
        """Remember something of the files, if that can be: if not, they are only tried once more than need be."""
        try:
            self._installer.remember(change)
        except PatchifyError as problem:
            _log.warning("%s", problem)

    def _download(self, release: Release, offer: Offer, begin: Callable[[], Fraction]) -> int:
        """Have a release staged as it was published; return its bytes."""
        try:
            return self._download_once(release, offer, begin())
        except FailedHashVerificationError as error:
            # It may have gone on from a beginning that was damaged. Once, from the start, shows whose fault it is.
            _log.warning("%s; downloading it once more", error)
            return self._download_once(release, offer, begin())

    def _download_once(self, release: Release, offer: Offer, progress: Fraction) -> int:
        sha256, size = release.sha256, offer.size
        part = self._installer.part(sha256)
        try:
            if size is not None and offer.path == path_of(sha256):
                self._transport.file(offer.path, sha256, size, part, progress, segments=offer.forms.segments)
            else:
                self._transport.release(str(release.version), sha256, part, progress, path=offer.path, size=size)
            self._installer.stage(release.version, part, sha256)
            return part.size
        finally:
            part.close()

    def _left(self, release: Release, error: PatchError | NotEnoughSpaceError, others: list[Way]) -> list[Way]:
        """Return the ways that are left when one came to nothing, after telling of it; there is always the last."""
        if isinstance(error, NotEnoughSpaceError):
            _log.info("%s; version %s is tried by %s", error, release.version, others[0])
            return others
        if error.damage:
            others = [each for each in others if not each.uses(error.sha256)]
            self._remember(lambda before: before.with_bad_file(error.sha256))
        _log.warning("%s; it is tried by %s", error, others[0])
        facts = {"version": release.version, "sha256": error.sha256, "reason": error.reason, "next": others[0].kind}
        self._announce(signals.patch_failed, **facts)
        self._reporter.tell(Event.PATCH_FAILED, release.version, error.reason)
        return others

    def _tell(self, release: Release, kind: Kind, size: int, how: str, of: int | None = None) -> None:
        share = f" ({100 * size / of:.2f} % of {of:,})" if of else ""
        _log.info("version %s came by %s%s", release.version, how, share)
        self._announce(signals.release_downloaded, version=release.version, way=kind, size=size)
        self._reporter.tell(Event.DOWNLOADED, release.version, f"{kind} ({size} bytes)")


def _after(there: int, total: int, progress: Fraction) -> Fraction:
    """Return the progress of one of several files."""
    return lambda done, _: progress(there + done, total)


@contextlib.contextmanager
def _blaming(release: Release, leg: Leg) -> Iterator[None]:
    """Turn what is wrong, and would be at the next attempt, into the error that names the file."""
    try:
        yield
    except PatchError:
        raise
    except RejectedError as error:
        reason = f"came to nothing ({reason_of(error)})"
        damage = isinstance(error, _DAMAGE)  # and not whoever has answered in its place, as a captive portal does
        raise PatchError(str(release.version), leg.sha256, reason, damage=damage) from error

"""Every document that the server signs: what it says, from when until when, and each of them signed once.

All workers, and servers that share a catalogue, sign the same bytes: what a document says follows from the snapshot
and from fixed points in time alone. Which releases an update document lists is decided in `patchify.server.offers`.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property

from semver import Version

from patchify.errors import PlaceNotFoundError
from patchify.forms import path_of
from patchify.keys import encode_signature
from patchify.messages import LatestVersion, OfferedRelease, Rollout, UpdateDocument, VersionHash, WithdrawnRelease
from patchify.platforms import ANY, KNOWN, fallbacks, parse_platform
from patchify.releases import Placement, Release, ReleaseState, parse_channel
from patchify.server.catalogue import Snapshot
from patchify.server.chains import bases, patches_to, that_fit
from patchify.server.config import Config
from patchify.server.offers import Offer, choose

Clock = Callable[[], datetime]
"""Returns the time, UTC."""

MOST_BYTES = 60 * 1024
"""No update document is longer; clients stop reading at 64 KiB."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_TAG = 12  # hex digits of the signature: every answer has them, and only answers to the same question are compared
_MOST_RARE = 128  # documents for platforms that nothing was built for and that are not in use, as anybody makes up
_MOST_PATCHES = 16 * 1024  # bytes of JSON, in all
_MOST_NOTES = 32 * 1024  # bytes of JSON, in all
_MOST_WITHDRAWN = 100
_MOST_OF_WITHDRAWN = 12 * 1024  # bytes of JSON; only absurd versions come near


@dataclass(frozen=True)
class SignedDocument:
    """A JSON body and the value of its ``X-Signature`` header."""

    body: bytes
    signature: str

    @cached_property
    def tag(self) -> str:
        """What its ETag has between the quotes: of other bytes it would be another one."""
        return self.signature[:_TAG]


@dataclass(frozen=True)
class _Place:
    """What there is for one channel and platform."""

    live: tuple[tuple[Release, Placement], ...]  # newest first
    withdrawn: tuple[WithdrawnRelease, ...]  # latest first
    changes: tuple[datetime, ...]  # when what is said changes, in order: the snapshot itself, and steps of schedules

    def offers(self, time: datetime) -> list[Offer]:
        """Return what is offered to anybody at this time, newest first."""
        offers = (Offer(release, placement, placement.percent(time)) for release, placement in self.live)
        return [offer for offer in offers if offer.percent or offer.complete]


@dataclass(frozen=True)
class _Period:
    """From when until when a document says the same, and what it says of that."""

    start: datetime
    stop: datetime
    issued: datetime
    serial: int

    def __contains__(self, time: datetime) -> bool:
        return self.start <= time < self.stop


class Issuer:
    """The signed documents about one snapshot of the catalogue."""

    def __init__(self, config: Config, snapshot: Snapshot, clock: Clock) -> None:
        self.snapshot = snapshot
        self._config = config
        self._clock = clock
        self._life = timedelta(hours=config.document_life)
        self._lock = threading.Lock()  # of those who ask at once for what is not there yet, one makes it
        self._places: dict[tuple[str, str], _Place] = {}
        self._hashes: dict[str, SignedDocument] = {}
        self._drafts: dict[tuple[str, str], tuple[_Period, UpdateDocument]] = {}
        self._updates: dict[tuple[str, str], tuple[_Period, SignedDocument]] = {}
        self._rare: dict[tuple[str, str], tuple[_Period, SignedDocument]] = {}  # in the order in which they were made
        self._latest: tuple[_Period, Version, SignedDocument] | None = None
        self._bases = bases(snapshot.seen)

    def version_hash(self, version: str) -> SignedDocument:
        """Return the answer of ``hashes/<version>``. Raises `InvalidVersionError`, `VersionNotFoundError`."""
        document = self._hashes.get(version)
        if document is None:
            release = self.snapshot.find(version, self._config.platform, self._config.channel)
            document = self._sign(VersionHash(release.version, release.sha256).to_bytes())
            self._hashes[str(release.version)] = document
        return document

    def latest(self) -> tuple[Version, SignedDocument]:
        """Return the newest version that every cohort may have, 0.0.0 if there is none, and the answer of ``latest``.

        It is that of the configured channel and platform.
        """
        now, found = self._clock(), self._latest
        if found is None or now not in found[0]:
            with self._lock:
                found = self._latest
                if found is None or now not in found[0]:
                    place = self._place(self._config.channel, self._config.platform)
                    period = self._period(place, now)
                    complete = (offer.version for offer in place.offers(period.issued) if offer.complete)
                    version = next(complete, Version(0))
                    found = self._latest = period, version, self._sign(LatestVersion(version).to_bytes())
        return found[1:]

    def update(self, channel: str, platform: str) -> SignedDocument:
        """Return the answer of ``updates/<channel>/<platform>``.

        Raises:
            ValueError: one of the names has not the form of one.
            PlaceNotFoundError: there is no such channel.
        """
        now, name = self._clock(), (channel, platform)
        known = platform in KNOWN or platform in self.snapshot.platforms
        kept = self._updates if known else self._rare
        found = kept.get(name)
        if found is None or now not in found[0]:
            parse_channel(channel)
            parse_platform(platform)
            if channel != self._config.channel and channel not in self.snapshot.channels:
                raise PlaceNotFoundError("Channel", channel)
            with self._lock:
                found = kept.get(name)
                if found is None or now not in found[0]:
                    period, document = self._draft(channel, self._built_for(platform), now)
                    found = kept[name] = period, self._sign(replace(document, platform=platform).to_bytes())
                    if len(self._rare) > _MOST_RARE:
                        del self._rare[next(iter(self._rare))]
        return found[1]

    def _built_for(self, platform: str) -> str:
        """Return the platform whose builds a platform gets: itself, or what nothing was built for has in common."""
        return next((each for each in fallbacks(platform) if each in self.snapshot.platforms), ANY)

    def _draft(self, channel: str, platform: str, now: datetime) -> tuple[_Period, UpdateDocument]:
        """Return what is said now of a channel and of all platforms that get the builds for this one."""
        found = self._drafts.get((channel, platform))
        if found is None or now not in found[0]:
            period = self._period(self._place(channel, platform), now)
            found = self._drafts[channel, platform] = period, self._document(channel, platform, period)
        return found

    def _sign(self, body: bytes) -> SignedDocument:
        return SignedDocument(body, encode_signature(self._config.signing_key.sign(body)))

    def _place(self, channel: str, platform: str) -> _Place:
        place = self._places.get((channel, platform))
        if place is None:
            place = self._places[channel, platform] = _survey(self.snapshot, channel, platform)
        return place

    def _period(self, place: _Place, now: datetime) -> _Period:
        """Return the period that ``now`` is in: it begins at a point of the grid, or at a change that came after it.

        The points of the grid are a quarter of a document's life apart. So no document is served that is older than
        that, and all who have the snapshot cut time at the same points. Where nobody counts changes, the serial is the
        hour, whatever the life is: it must not go down when that is changed.
        """
        grid = self._life // 4
        point = _floor(now, grid)
        index = bisect_right(place.changes, now)
        before, after = place.changes[:index][-1:], place.changes[index:][:1]
        issued, stop = max((point, *before)), min((point + grid, *after))
        if self.snapshot.revision is not None:
            return _Period(issued, stop, issued, self.snapshot.revision)
        hour = _floor(now, _HOUR)
        return _Period(max(issued, hour), min(stop, hour + _HOUR), issued, int(hour.timestamp()) * 1000)

    def _document(self, channel: str, platform: str, period: _Period) -> UpdateDocument:
        """Return what is said of a channel and platform in a period."""
        place = self._place(channel, platform)
        offers = choose([offer for offer in place.offers(period.issued) if offer.release.size])  # clients refuse others
        offered = {offer.release.sha256 for offer in offers}  # the same bytes may have two names
        document = UpdateDocument(
            appname=self._config.appname,
            channel=channel,
            platform=platform,
            serial=period.serial,
            issued=period.issued,
            expires=period.issued + self._life,
            releases=tuple(self._offered(offer) for offer in offers),
            withdrawn=tuple(each for each in place.withdrawn if each.sha256 not in offered),
        )
        document = self._with_patches(document, offers)
        room = min(_MOST_NOTES, MOST_BYTES - len(document.to_bytes()))
        notes = _that_fit([offer.release.notes for offer in offers], room)
        releases = (replace(release, notes=text) for release, text in zip(document.releases, notes, strict=True))
        return replace(document, releases=tuple(releases))

    def _with_patches(self, document: UpdateDocument, offers: Sequence[Offer]) -> UpdateDocument:
        """Return a document with as many patches as have room, those of the newest release first."""
        room = min(_MOST_PATCHES, MOST_BYTES - len(document.to_bytes()))
        lists = that_fit((patches_to(offer.release, self._bases) for offer in offers), room)
        releases = (
            replace(release, forms=replace(release.forms, patches=patches))
            for release, patches in zip(document.releases, lists, strict=True)
        )
        return replace(document, releases=tuple(releases))

    @staticmethod
    def _offered(offer: Offer) -> OfferedRelease:
        release, placement = offer.release, offer.placement
        return OfferedRelease(
            version=release.version,
            size=release.size,
            sha256=release.sha256,
            format=release.format,
            path=path_of(release.sha256),
            published=release.published or placement.since,
            critical=release.critical,
            floor=release.floor,
            rollout=None if offer.percent == 100 else Rollout(offer.percent, placement.seed),
            forms=replace(release.forms, patches=()),
        )


def _floor(time: datetime, grid: timedelta) -> datetime:
    return _EPOCH + (time - _EPOCH) // grid * grid


def _survey(snapshot: Snapshot, channel: str, platform: str) -> _Place:
    """Look for everything that documents say of a channel and platform."""
    placed = [(each, placement) for each in snapshot.placed(channel, platform) if (placement := each.placed(channel))]
    live = [(release, placement) for release, placement in placed if placement.state is ReleaseState.LIVE]
    changes = {
        placement.since + timedelta(seconds=after)
        for _, placement in live
        for after, _ in placement.schedule.steps
        if after  # the catalogue changed when a release went live
    }
    if snapshot.revision is not None:
        changes.add(datetime.fromtimestamp(snapshot.revision // 1000, UTC))
    return _Place(tuple(live), tuple(_withdrawn(snapshot, channel, platform)), tuple(sorted(changes)))


def _withdrawn(snapshot: Snapshot, channel: str, platform: str) -> Iterator[WithdrawnRelease]:
    """Yield what was withdrawn, latest first, as much of it as has room in a document."""
    suitable = fallbacks(platform)  # and not only the best build: a client may have got another one
    found = [
        (placement.changed, release)
        for release in snapshot.releases.values()
        if release.platform in suitable
        and (placement := release.placed(channel))
        and placement.state is ReleaseState.WITHDRAWN
    ]
    room = _MOST_OF_WITHDRAWN
    for _, release in sorted(found, key=lambda each: each[0], reverse=True)[:_MOST_WITHDRAWN]:
        room -= len(str(release.version)) + 100  # bytes of JSON
        if room < 0:
            return
        yield WithdrawnRelease(release.version, release.sha256)


def _that_fit(texts: list[str], room: int) -> Iterator[str]:
    """Yield texts as long as their JSON has ``room`` (bytes), and empty ones after that."""
    for text in texts:
        room -= len(json.dumps(text, ensure_ascii=False).encode())
        yield text if room >= 0 else ""

"""Which releases an update document lists: few, whoever asks and however many there are.

A client takes the first in the list that it may have, and whether it may is the client's to know: it may be in the
cohort or not, take pre-releases or not, be below a floor, be pinned to a line. So the list has, for each of these, the
one that is left for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, takewhile

from semver import Version

from patchify.releases import Placement, Release, newest_first

MOST = 24
"""So many releases are listed at most."""

_MOST_ON_TOP = 12  # further ones on top that some may not have; the older lines need room too
_MOST_IN_A_ROW = 3  # until there is one for everybody, in an older line and from a floor up


@dataclass(frozen=True)
class Offer:
    """A release that is live in a channel, and the percentage of the clients that it is offered to now."""

    release: Release
    placement: Placement
    percent: int

    @property
    def version(self) -> Version:
        """The release's."""
        return self.release.version

    @property
    def complete(self) -> bool:
        """Whether every cohort may have it."""
        return self.percent == 100 or self.release.critical

    @property
    def for_everybody(self) -> bool:
        """Whether no client is kept from it by its cohort or by not taking pre-releases."""
        return self.complete and not self.version.prerelease

    @property
    def for_everybody_at_once(self) -> bool:
        """Whether it is for everybody, from whatever version they come."""
        return self.for_everybody and self.release.floor is None


def choose(offers: Sequence[Offer]) -> list[Offer]:
    """Return the offers to list, newest first.

    They are those from the newest down to the first that everybody may have; of each further ``major.minor`` the same,
    for who is pinned to it; and where one has a floor, what older clients take before it.

    Args:
        offers: All of one channel and platform, newest first, none that nobody may have.
    """
    chosen: dict[str, Offer] = {}
    ascending = offers[::-1]

    def add(offer: Offer) -> None:
        name = str(offer.version)
        if name not in chosen and len(chosen) < MOST:
            chosen[name] = offer
            for step in _steps_to(offer, ascending):
                add(step)

    whole = list(islice((offer for offer in offers if offer.for_everybody_at_once), 1))
    above = takewhile(lambda offer: offer not in whole, offers)
    for offer in (*whole, *islice(above, _MOST_ON_TOP)):  # the one for everybody must not be the one without room
        add(offer)
    served = {_line(offer) for offer in chosen.values() if offer.for_everybody}
    for line, members in groupby(offers, _line):
        if line not in served:
            for offer in _until_for_everybody(members):
                add(offer)
    return sorted(chosen.values(), key=lambda offer: newest_first(offer.release), reverse=True)


def _line(offer: Offer) -> tuple[int, int]:
    return offer.version.major, offer.version.minor


def _steps_to(offer: Offer, ascending: Sequence[Offer]) -> Iterator[Offer]:
    """Yield what clients below the floor of ``offer`` take first: the floor, or what is next above it."""
    if offer.release.floor is not None:
        start = bisect_left(ascending, offer.release.floor, key=lambda each: each.version)
        between = takewhile(lambda each: each is not offer, ascending[start : start + _MOST_IN_A_ROW])
        yield from _until_for_everybody(between)


def _until_for_everybody(offers: Iterable[Offer]) -> Iterator[Offer]:
    """Yield offers up to the first that is for everybody, but few."""
    for offer in islice(offers, _MOST_IN_A_ROW):
        yield offer
        if offer.for_everybody:
            return

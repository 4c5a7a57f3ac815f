"""Which patches an update document lists for a release: those that make it, and the steps on the way to their bases.

An installation that is older than any base of a direct patch may still get there by several patches that are together
smaller than the whole. Whether they are is for the client to find out, which knows what it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from patchify.forms import Patch
from patchify.releases import Release

MOST_LISTED = 16  # patches for one release, steps on the way included

Bases = Mapping[str, Release]
"""Releases that anybody may have, by the SHA-256 of their basis."""


def bases(releases: Iterable[Release]) -> Bases:
    """Return releases by the SHA-256 of their basis."""
    return {basis[0]: release for release in releases if (basis := release.basis) is not None}


def patches_to(release: Release, known: Bases) -> Iterator[Patch]:
    """Yield the patches to list for a release, nearest first: a step that another patch needs comes after that one."""
    left = MOST_LISTED
    reached = {release.basis[0]} if release.basis else set()
    level: list[tuple[Release, Patch]] = [(release, patch) for patch in release.forms.patches]
    while level and left:
        for owner, patch in level[:left]:
            yield patch if owner is release else _step(patch, owner)
        left -= len(level[:left])
        found = {patch.base for _, patch in level}
        reached |= found
        befores = [known[base] for base in sorted(found) if base in known]
        level = [(before, each) for before in befores for each in before.forms.patches if each.base not in reached]


def that_fit(lists: Iterable[Iterable[Patch]], room: int) -> Iterator[tuple[Patch, ...]]:
    """Yield as much of each list as has ``room`` (bytes of JSON, for all of them)."""
    for patches in lists:
        fitting = []
        for patch in patches:
            size = len(json.dumps(patch.to_json(), separators=(",", ":"))) + 1
            if size > room:
                break
            room -= size
            fitting.append(patch)
        yield tuple(fitting)


def _step(patch: Patch, owner: Release) -> Patch:
    """Return a patch to another release than the one that it is listed for, which says what it makes."""
    assert owner.basis is not None  # it is known by it
    sha256, size = owner.basis
    return replace(patch, result=sha256, result_size=size)

"""Which releases exist. Immutable once made; a change is a new catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from semver import Version

from patchify.errors import VersionNotFoundError
from patchify.versions import newest, parse_version


@dataclass(frozen=True)
class Release:
    """One published version, and the SHA-256 (lower-case hex) of its file."""

    version: Version
    sha256: str


class Catalogue:
    """The releases of one application, by version. Build metadata is part of a version's name."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        """Take a checked mapping of version to SHA-256, as `Config.hashes` is."""
        releases = (Release(parse_version(version), sha256) for version, sha256 in hashes.items())
        self.releases: Mapping[str, Release] = MappingProxyType({str(each.version): each for each in releases})
        self.latest = newest([release.version for release in self.releases.values()])

    def find(self, version: Version | str) -> Release:
        """Return the release of this version.

        Raises:
            InvalidVersionError: the text is no SemVer version.
            VersionNotFoundError: there is no such release.
        """
        name = str(parse_version(version) if isinstance(version, str) else version)
        try:
            return self.releases[name]
        except KeyError:
            raise VersionNotFoundError(name) from None

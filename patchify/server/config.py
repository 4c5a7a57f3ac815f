"""What a server is told: which application, which key, which releases, how to send them.

Built by hand or from the flat ``PATCHIFY_*`` keys of a Flask application's configuration. Every value is checked
here, except what only the disk can tell: that is `Core`'s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from semver import Version

from patchify.errors import ConfigError, InvalidKeyError, InvalidVersionError
from patchify.keys import SigningKey, decode_hex
from patchify.versions import parse_version

PREFIX = "PATCHIFY_"
_REQUIRED = ("appname", "key", "releases", "versions")
_OPTIONAL = ("stream_threshold", "stream_buffer", "read_buffer")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The configuration of a server.

    Args:
        appname: Name of the application; a release is the file ``appname-version`` in the folder.
        key: The Ed25519 private key: a `SigningKey`, 64 hex digits, or the path of a file that holds them.
        releases: The folder of the release files.
        versions: SemVer version → SHA-256 of its file, 64 hex digits.
        stream_threshold: KiB; a body up to this size is read at once and sent in one piece. Default 1000.
        stream_buffer: KiB; size of the pieces of a larger one where the kernel cannot send it. Default 256.
        read_buffer: KiB; how much is read from the disk at once for these pieces. Default 128.

    Raises:
        ConfigError: naming the key, what was found and what would be right.
    """

    appname: str
    key: SigningKey | str | os.PathLike[str] = field(repr=False)
    releases: str | os.PathLike[str]
    versions: Mapping[str, str] | Mapping[Version, str]
    stream_threshold: int = 1000  # KiB
    stream_buffer: int = 256  # KiB
    read_buffer: int = 128  # KiB

    signing_key: SigningKey = field(init=False, repr=False, compare=False)
    folder: Path = field(init=False, repr=False, compare=False)
    hashes: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every value and keep the parsed ones: ``signing_key``, ``folder``, ``hashes``."""
        if not isinstance(self.appname, str) or not self.appname or not set("/\\\0").isdisjoint(self.appname):
            raise ConfigError("appname", f"{self.appname!r} is not a name; it begins the file name of every release")
        if not isinstance(self.releases, str | os.PathLike) or not str(self.releases) or "\0" in str(self.releases):
            raise ConfigError("releases", f"{self.releases!r} is not the path of a folder")
        for name in _OPTIONAL:
            _check_size(name, getattr(self, name))
        object.__setattr__(self, "signing_key", _signing_key(self.key))
        object.__setattr__(self, "folder", Path(self.releases))
        object.__setattr__(self, "hashes", MappingProxyType(dict(_hashes(self.versions))))

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> Self:
        """Take ``PATCHIFY_APPNAME``, ``PATCHIFY_KEY`` and so on from a mapping such as ``app.config``.

        Raises:
            ConfigError: a key is missing or wrong; it is named as it stands in the mapping.
        """
        for name in _REQUIRED:
            if settings.get(PREFIX + name.upper()) is None:
                raise ConfigError(PREFIX + name.upper(), "is not configured")
        found = {name: settings.get(PREFIX + name.upper()) for name in (*_REQUIRED, *_OPTIONAL)}
        try:
            return cls(**{name: value for name, value in found.items() if value is not None})
        except ConfigError as error:
            raise ConfigError(PREFIX + error.key.upper(), error.problem) from error.__cause__


def _check_size(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < (name != "stream_threshold"):
        raise ConfigError(name, f"{value!r} is not a size; a whole number of KiB is expected")


def _signing_key(key: object) -> SigningKey:
    if isinstance(key, SigningKey):
        return key
    if not isinstance(key, str | os.PathLike) or not str(key):
        found = "an empty text" if key == "" else f"a value of the type {type(key).__name__}"
        raise ConfigError("key", f"64 hex digits or the path of a key file is expected, not {found}")
    try:
        return SigningKey.load(key)
    except InvalidKeyError as error:
        raise ConfigError("key", str(error)) from error


def _hashes(versions: object) -> list[tuple[str, str]]:
    if not isinstance(versions, Mapping):
        raise ConfigError(
            "versions",
            f"a mapping of version to SHA-256 is expected, not {versions!r:.80}; from the environment: @json {{…}}",
        )
    hashes = []
    for version, digest in versions.items():
        try:
            name = str(parse_version(str(version)))
        except InvalidVersionError as error:
            raise ConfigError("versions", str(error)) from error
        if not isinstance(digest, str) or decode_hex(digest, 64) is None:
            raise ConfigError("versions", f"the SHA-256 of {name} is {digest!r:.80}, not 64 hex digits")
        hashes.append((name, digest.lower()))
    return hashes

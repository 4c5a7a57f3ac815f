"""What a server is told: which application, which key, which releases, how to send them.

Built by hand, from the flat ``PATCHIFY_*`` keys of a Flask application's configuration, or from a file of them. Every
value is checked here, except what only the disk or a database can tell: that is `Core`'s.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from semver import Version

from patchify.errors import ConfigError, InvalidKeyError, InvalidVersionError
from patchify.keys import SigningKey, decode_hex
from patchify.platforms import ANY, parse_platform
from patchify.releases import STABLE, parse_channel
from patchify.server import rates
from patchify.server.catalogue import Catalogue
from patchify.server.rates import Rate
from patchify.versions import parse_version

PREFIX = "PATCHIFY_"
MEMORY = "memory://"
_REQUIRED = ("appname", "key", "releases")
_LONGEST_LIFE = 24 * 366  # hours
_NUMBERS = {  # name: the least, the most, what it is
    "stream_threshold": (0, None, "size; a whole number of KiB is expected"),
    "stream_buffer": (1, None, "size; a whole number of KiB is expected"),
    "read_buffer": (1, None, "size; a whole number of KiB is expected"),
    "document_life": (1, _LONGEST_LIFE, f"time; a whole number of hours from 1 to {_LONGEST_LIFE} is expected"),
    "max_upload": (1, None, "size; a whole number of MiB is expected"),
    "patches": (0, 100, "number of patches; a whole number from 0 to 100 is expected"),
    "patch_memory": (1, None, "size; a whole number of MiB is expected"),
    "patch_time": (1, None, "time; a whole number of seconds is expected"),
    "proxies": (0, None, "number of proxies; a whole number from 0 is expected"),
    "stall_timeout": (0, 24 * 3600, "time; a whole number of seconds from 0 to 86400 is expected"),
}
_TOKEN = re.compile(r"[A-Za-z0-9_~+=-]{32,}")  # no dot and no slash: a path that is not there is no token
_LEAST_OF_TOKEN = 32  # characters
_LOCATION = re.compile(r"/(?:[A-Za-z0-9_~.-]+/)*")
_SQLITE = re.compile(r"(sqlite(?:\+[a-z]+)?:///)(?!:memory:|file:)([^?]+)(.*)")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The configuration of a server.

    Args:
        appname: Name of the application; a release is the file ``appname-version`` in the folder.
        key: The Ed25519 private key: a `SigningKey`, 64 hex digits, or the path of a file that holds them.
        releases: The folder of the release files.
        versions: SemVer version → SHA-256 of its file, 64 hex digits; all of them are for everybody. Either this is
            given, or ``catalogue``.
        catalogue: Where the releases are kept: the URL of a database, as SQLAlchemy has it, or a `Catalogue`.
        channel: The channel that the three answers of the original protocol are about, and that ``versions`` are in.
            Default stable.
        platform: The platform that these answers are about. Default any.
        document_life: Hours; how long an update document is to be believed. A new one is issued after a quarter of
            it. Default 168.
        publish_token: What may publish over the network: at least 32 characters, or the path of a file that holds
            them. Default None: nothing may.
        max_upload: MiB; no larger release is taken over the network. Default 4096.
        make_forms: Whether the forms of a release (compressed, patches) are made by a process in the background after
            it is published. Default True; False: only by ``patchify patches make``.
        patches: From how many of the last live releases before it a release can be reached by a patch. Default 3.
        patch_memory: MiB of memory that a client may need to apply a patch: the old program and twice the new one. For
            larger ones no patch is made. Default 256, as clients have it.
        patch_time: Seconds after which a patch that is being made is given up. Default 600.
        reports: Whether reports of clients are taken and counted in the catalogue. Default False.
        proxies: How many proxies in front of the server set X-Forwarded-For, -Proto and -Host; `create_app` believes so
            many. Behind fewer a client could give itself any address. Default 0: these headers are not believed.
        rate_limit: How many requests of documents and files each client may make, such as ``120/minute``. A client is
            an IPv4 address, or an IPv6 network of 2**64 of them. Default None: as many as it likes.
        bandwidth_limit: How many bytes of files each client may have, such as ``2 GiB/hour``. A file counts when it
            begins, as far as it was asked for. Default None: as many as it likes.
        limits_storage: Where both are counted: ``memory://`` for each worker by itself; or a store that the library
            `limits` has, such as ``redis://localhost:6379``, for all workers and hosts. Default memory://.
        stall_timeout: Seconds after which a client that takes nothing more of a file is dropped. Linux and gunicorn do
            that. 0: never. Default 60.
        x_accel_redirect: The path of an internal location of the nginx in front, such as ``/_patchify/``, that is the
            folder of the releases: nginx sends the files. Without such an nginx nobody gets any. Default None.
        x_sendfile: The same for Apache and lighttpd, which are told the absolute paths of files. Default False.
        stream_threshold: KiB; a body up to this size is read at once and sent in one piece. Default 1000.
        stream_buffer: KiB; size of the pieces of a larger one where the kernel cannot send it. Default 256.
        read_buffer: KiB; how much is read from the disk at once for these pieces. Default 128.

    Raises:
        ConfigError: naming the key, what was found and what would be right.
    """

    appname: str
    key: SigningKey | str | os.PathLike[str] = field(repr=False)
    releases: str | os.PathLike[str]
    versions: Mapping[str, str] | Mapping[Version, str] | None = None
    catalogue: str | Catalogue | None = field(default=None, repr=False)  # a URL may hold a password
    channel: str = STABLE
    platform: str = ANY
    document_life: int = 168  # hours
    publish_token: str | os.PathLike[str] | None = field(default=None, repr=False)
    max_upload: int = 4096  # MiB
    make_forms: bool = True
    patches: int = 3
    patch_memory: int = 256  # MiB
    patch_time: int = 600  # seconds
    reports: bool = False
    proxies: int = 0
    rate_limit: str | None = None
    bandwidth_limit: str | None = None
    limits_storage: str = field(default=MEMORY, repr=False)  # a URL may hold a password
    stall_timeout: int = 60  # seconds
    x_accel_redirect: str | None = None
    x_sendfile: bool = False
    stream_threshold: int = 1000  # KiB
    stream_buffer: int = 256  # KiB
    read_buffer: int = 128  # KiB

    signing_key: SigningKey = field(init=False, repr=False, compare=False)
    folder: Path = field(init=False, repr=False, compare=False)
    hashes: Mapping[str, str] = field(init=False, repr=False, compare=False)
    token: str | None = field(init=False, repr=False, compare=False)
    requests_rate: Rate | None = field(init=False, repr=False, compare=False)
    bandwidth_rate: Rate | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every value and keep the parsed ones: ``signing_key``, ``folder``, ``hashes``, ``token``, the rates."""
        if not isinstance(self.appname, str) or not self.appname or not set("/\\\0").isdisjoint(self.appname):
            raise ConfigError("appname", f"{self.appname!r} is not a name; it begins the file name of every release")
        if not isinstance(self.releases, str | os.PathLike) or not str(self.releases) or "\0" in str(self.releases):
            raise ConfigError("releases", f"{self.releases!r} is not the path of a folder")
        _check_name("channel", self.channel, parse_channel)
        _check_name("platform", self.platform, parse_platform)
        for name in _NUMBERS:
            _check_number(name, getattr(self, name))
        _check_catalogue(self.catalogue, self.versions)
        _check_offload(self.x_accel_redirect, self.x_sendfile)
        if not isinstance(self.reports, bool) or (self.reports and self.catalogue is None):
            raise ConfigError("reports", f"{self.reports!r} is not false, nor true with a catalogue to count them in")
        if not isinstance(self.make_forms, bool):
            raise ConfigError("make_forms", f"{self.make_forms!r} is neither true nor false")
        object.__setattr__(self, "signing_key", _signing_key(self.key))
        object.__setattr__(self, "folder", Path(self.releases))
        object.__setattr__(self, "hashes", MappingProxyType(dict(_hashes({} if self.catalogue else self.versions))))
        object.__setattr__(self, "token", None if self.publish_token is None else _token(self.publish_token))
        object.__setattr__(self, "requests_rate", _rate("rate_limit", self.rate_limit, rates.requests))
        object.__setattr__(self, "bandwidth_rate", _rate("bandwidth_limit", self.bandwidth_limit, rates.bandwidth))
        if not isinstance(self.limits_storage, str) or "://" not in self.limits_storage:  # and it is not shown
            raise ConfigError(
                "limits_storage", "is not the URL of a store, such as memory:// or redis://localhost:6379"
            )

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> Self:
        """Take ``PATCHIFY_APPNAME``, ``PATCHIFY_KEY`` and so on from a mapping such as ``app.config``.

        Raises:
            ConfigError: a key is missing or wrong; it is named as it stands in the mapping.
        """
        found = {name: settings.get(PREFIX + name.upper()) for name in names()}
        for name in _REQUIRED:
            if found[name] is None:
                raise ConfigError(PREFIX + name.upper(), "is not configured")
        try:
            return cls(**{name: value for name, value in found.items() if value is not None})
        except ConfigError as error:
            raise ConfigError(PREFIX + error.key.upper(), error.problem) from error.__cause__

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Take the same keys from a TOML file; relative paths in it begin at its folder.

        Raises:
            ConfigError: the file cannot be read, or a key is missing, wrong, or not known.
        """
        return cls.from_mapping(read_settings(path))


def names() -> tuple[str, ...]:
    """Return the names of all settings; their keys are these in upper case after `PREFIX`."""
    return tuple(each.name for each in fields(Config) if each.init)


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the keys of a TOML file, as ``app.config`` takes them, with absolute paths.

    Raises:
        ConfigError: the file cannot be read, or has a key that Patchify does not know.
    """
    try:
        with open(path, "rb") as file:
            settings = tomllib.load(file)
    except (OSError, ValueError) as error:  # ValueError: no TOML, no UTF-8, or a null character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        if isinstance(error, FileNotFoundError):
            reason = "it is not there; `patchify init NAME` makes it, and PATCHIFY_CONFIG names another"
        raise ConfigError(os.fspath(path), f"cannot be read: {reason}") from error
    known = [PREFIX + name.upper() for name in names()]
    unknown = next((key for key in settings if key.startswith(PREFIX) and key not in known), None)
    if unknown is not None:
        raise ConfigError(unknown, f"is no setting of Patchify, which are {', '.join(known)}")
    resolve_paths(settings, Path(path).absolute().parent)
    return settings


def resolve_paths(settings: MutableMapping[str, Any], folder: Path) -> None:
    """Let relative paths in a mapping of ``PATCHIFY_*`` keys begin at a folder, wherever the process runs.

    These are the releases, the file of a SQLite catalogue, and key and token where they are paths.
    """
    for name, resolve in _PATHS.items():
        value = settings.get(PREFIX + name)
        if isinstance(value, str) and value and "\0" not in value:  # what is wrong is told by `Config`
            settings[PREFIX + name] = resolve(folder, value)


def _path(folder: Path, path: str) -> str:
    return str(folder / path)


def _secret(folder: Path, text: str) -> str:
    """Return the path that a text is, or the text where it may be a secret: no error about a path must show it."""
    path = os.path.join(folder, text)
    return path if len(text) < _LEAST_OF_TOKEN or os.path.isfile(path) else text


def _database(folder: Path, url: str) -> str:
    """Return a URL, with the path of its SQLite file made absolute if it is that of one."""
    found = _SQLITE.fullmatch(url)
    return url if found is None else f"{found[1]}{folder / found[2]}{found[3]}"


_PATHS: dict[str, Callable[[Path, str], str]] = {
    "RELEASES": _path,
    "KEY": _secret,
    "PUBLISH_TOKEN": _secret,
    "CATALOGUE": _database,
}


def is_token(text: str) -> bool:
    """Return whether a text has the form of a token, rather than that of the path of a file."""
    return bool(_TOKEN.fullmatch(text))


def _check_name(name: str, value: object, parse: Callable[[str], str]) -> None:
    if not isinstance(value, str):
        raise ConfigError(name, f"{value!r:.80} is not a name")
    try:
        parse(value)
    except ValueError as error:
        raise ConfigError(name, str(error)) from error


def _rate(name: str, value: object, parse: Callable[[object], Rate]) -> Rate | None:
    try:
        return None if value is None else parse(value)
    except ValueError as error:
        raise ConfigError(name, str(error)) from error


def _check_number(name: str, value: object) -> None:
    least, most, what = _NUMBERS[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most and value > most):
        raise ConfigError(name, f"{value!r} is not a {what}")


def _check_offload(location: object, sendfile: object) -> None:
    if location is not None and not (isinstance(location, str) and _LOCATION.fullmatch(location)):
        expected = "a path that begins and ends with a slash, such as /_patchify/, is expected"
        raise ConfigError("x_accel_redirect", f"{location!r:.80} is not a location of nginx; {expected}")
    if not isinstance(sendfile, bool) or (sendfile and location is not None):
        raise ConfigError("x_sendfile", f"{sendfile!r:.80} is not false, nor true without x_accel_redirect beside it")


def _check_catalogue(catalogue: object, versions: object) -> None:
    if catalogue is None:
        if versions is None:
            raise ConfigError("versions", "is not configured")
        return
    if versions:
        raise ConfigError("versions", "a catalogue is configured, too, and releases have one place: leave one of both")
    if isinstance(catalogue, str):
        if "://" not in catalogue:  # and it is not shown: it may hold a password
            raise ConfigError("catalogue", "is not the URL of a database, such as sqlite:///catalogue.db")
    elif not callable(getattr(catalogue, "snapshot", None)):
        raise ConfigError("catalogue", f"the URL of a database is expected, not {type(catalogue).__name__}")


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


def _token(given: object) -> str:
    """Return the token that was given, or that the file at this path holds; no error shows what may be one."""
    expected = f"{_LEAST_OF_TOKEN} characters or more of A-Z, a-z, 0-9, '_', '~', '+', '=', '-'"
    if isinstance(given, str) and is_token(given):
        return given
    if not isinstance(given, str | os.PathLike) or not str(given):
        raise ConfigError("publish_token", f"a text or the path of a file is expected, not {type(given).__name__}")
    try:
        with open(given, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(4096).decode("ascii", "replace").strip()
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError("publish_token", f"neither {expected}, nor a file that can be read: {reason}") from None
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        _log.warning("the token file %s can be used by others: chmod 600 %s", given, given)
    if not is_token(text):
        raise ConfigError("publish_token", f"the file {os.fspath(given)} does not hold {expected}")
    return text


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

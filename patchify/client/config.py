"""What an updater is told: who it is, whom it asks and believes, how far it goes, how much it tolerates."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

import requests
from semver import Version

from patchify.errors import ConfigError, InvalidKeyError, InvalidVersionError
from patchify.keys import VerifyingKey
from patchify.platforms import detect, parse_platform
from patchify.releases import STABLE, parse_channel
from patchify.versions import VersionRange, parse_version

_LONGEST = timedelta(days=1000)  # more is a mistake of units, and what waits cannot wait for ever
_LARGEST = 1e8  # of whatever unit, likewise
_EXAMPLES = {"api": "https://updates.example.com/api/", "health": "http://127.0.0.1:8000/health"}
_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)
_OPTIONAL = ("check_interval", "least_interval", "restart_wait_ceiling")
_DURATIONS = {  # and the shortest that makes sense
    "check_interval": _SECOND,
    "least_interval": timedelta(),
    "clock_tolerance": timedelta(),
    "restart_wait_ceiling": timedelta(),
    "trial_period": timedelta(),
    "trial_timeout": _SECOND,
    "smoke_timeout": timedelta(seconds=0.1),
}

Health = Callable[[], bool] | str
"""Returns whether the program is well; or an address that answers with status 200 if it is."""

Automatic = Literal["check", "download", "stage", "restart"]
"""How far the updater goes by itself; what lies beyond is left to the host's own calls."""


UpdateDocuments = Literal["auto", "required", "never"]
"""Whether the updater asks for update documents: where the server has them, only for them, or not at all."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The configuration of an updater.

    Args:
        version: The SemVer version of the running program.
        api: URL of the update API, with or without a trailing slash; a path prefix is kept.
        key: The server's Ed25519 public key: a `VerifyingKey` or 64 hex digits.
        appname: Name of the application. Default: that of the first update document that is accepted, from then on.
        channel: Which releases it is to get, unless its user chooses another channel. Default ``"stable"``.
        platform: What it runs on, as `patchify.platforms` has it. Default: found out.
        pin: Only versions in this range: ``"1.4.2"``, or ``">=1.4.0,<2.0.0"``. Default: all.
        prereleases: Whether versions such as 2.0.0-rc.1 are for it. Default: only outside of the channel ``stable``, or
            while one runs. It holds for update documents; with the original protocol they are unless it says no.
        allow_downgrade: Go back to an older version if the one that runs was withdrawn. Default no.
        update_documents: ``"auto"``, use them if the server has them, and nothing else once it had them (the default);
            ``"required"``, use nothing else; ``"never"``, use the original protocol, whose answers can be replayed.
        clock_tolerance: How far the clocks of server and client may differ. Default 10 minutes.
        reports: Tell the server how updates went. Default no.
        report_installation: Put the random id of this installation into these reports. Default no.
        check_on_startup: Check at once when the updater starts. Default no.
        check_interval: How often to check, a second at least; each wait is up to a tenth longer or shorter. Default
            never.
        least_interval: Automatic checks are not closer together than this, whoever made the last one: also a process
            before this one that crashed. Default: the interval, but a minute at most.
        automatic: How far to go by itself: ``"check"``, ``"download"``, ``"stage"`` or ``"restart"`` (the default).
        executable: The file to replace, or the folder, or the symbolic link to it, if the program is more than one
            file. Default: the running PyInstaller program, zipapp or script.
        health: Whether a new version on trial is well: a callable, or a URL that must answer 200. Default: it is while
            it runs.
        trial_period: How long a new version must have been well to be confirmed. Default 30 s.
        trial_timeout: How long it has at most, from its start to its confirmation. Default 5 minutes.
        trial_tries: How often a new version may fail on trial and be tried again. Default 1.
        confirm_automatically: Confirm a new version that is well. Default yes; else call `Updater.confirm`.
        smoke_test: Arguments with which a new version is run before it is put in place, such as ``["--version"]``; it
            must end with status 0. Default: it is not run.
        smoke_timeout: How long that may take. Default 1 minute.
        supervised: Whether somebody starts the program again when it ends. Default: found out, for systemd,
            supervisord and `patchify run`.
        guardian: Whether a process watches a new version from outside and puts the previous one back. Default yes,
            except on Windows, which has none.
        restart_wait_ceiling: Send `signals.wait_grew_long` when a restart has waited this long. Default never.
        connect_timeout: Seconds to connect. Default 10.
        idle_timeout: Seconds without a byte. Default 30.
        document_timeout: Seconds for one signed document as a whole. Default 60.
        release_timeout: Seconds for each file that is downloaded for a release, as a whole, with all its resumptions;
            a way that comes to nothing, and each patch of a chain, takes its own. Default 21600, six hours.
        retries: How often a request that did not get through is repeated at once, with back-off. Default 3.
        max_document: KiB; the largest signed document. Default 64.
        max_release: MiB; the largest release. Default 4096.
        patch_memory: MiB that applying a patch may take: the old program, twice the new one, and the patch. A program
            for which that is more comes compressed or whole. 0: no patches. Default 256.
        session: A `requests.Session` of the host's, for a proxy, a private CA, a client certificate, headers. It is
            not closed here, and only its idle time bounds how long the header of an answer may take.

    Raises:
        ConfigError: naming the key, what was found and what would be right.
    """

    version: Version | str
    api: str
    key: VerifyingKey | str
    appname: str | None = None
    channel: str = STABLE
    platform: str = field(default_factory=detect)
    pin: str | None = None
    prereleases: bool | None = None
    allow_downgrade: bool = False
    update_documents: UpdateDocuments = "auto"
    clock_tolerance: timedelta = timedelta(minutes=10)
    reports: bool = False
    report_installation: bool = False
    check_on_startup: bool = False
    check_interval: timedelta | None = None
    least_interval: timedelta | None = None
    automatic: Automatic = "restart"
    executable: str | os.PathLike[str] | None = None
    restart_wait_ceiling: timedelta | None = None
    health: Health | None = None
    trial_period: timedelta = timedelta(seconds=30)
    trial_timeout: timedelta = timedelta(minutes=5)
    trial_tries: int = 1
    confirm_automatically: bool = True
    smoke_test: Sequence[str] | None = None
    smoke_timeout: timedelta = timedelta(minutes=1)
    supervised: bool | None = None
    guardian: bool = os.name != "nt"
    connect_timeout: float = 10  # seconds
    idle_timeout: float = 30  # seconds
    document_timeout: float = 60  # seconds
    release_timeout: float = 6 * 3600  # seconds
    retries: int = 3
    max_document: int = 64  # KiB
    max_release: int = 4096  # MiB
    patch_memory: int = 256  # MiB
    session: requests.Session | None = None

    current: Version = field(init=False, repr=False, compare=False)
    verifying_key: VerifyingKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every value and keep the parsed ones: ``current``, ``verifying_key``, ``api`` with its slash."""
        _set(self, "current", _version(self.version))
        _set(self, "verifying_key", _key(self.key))
        _set(self, "api", _api(self.api))
        for name, kind in (("automatic", Automatic), ("update_documents", UpdateDocuments)):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(name, f"{getattr(self, name)!r} is none of {', '.join(get_args(kind))}")
        if self.appname is not None and (not isinstance(self.appname, str) or not self.appname):
            raise ConfigError("appname", f"{self.appname!r} is not a name")
        for name, parse in (("channel", parse_channel), ("platform", parse_platform), ("pin", VersionRange.parse)):
            _check_text(name, getattr(self, name), parse)
        if self.update_documents == "never" and self.channel != STABLE:
            raise ConfigError("channel", f"{self.channel!r} needs update documents; the original protocol has none")
        _check_durations(self)
        _check_numbers(self)
        if self.smoke_test is not None:
            _set(self, "smoke_test", _arguments(self.smoke_test))
        if self.health is not None and not callable(self.health):
            _set(self, "health", _address("health", self.health))
        if self.executable is not None:
            _set(self, "executable", _path(self.executable))


def _check_text(name: str, value: object, parse: Callable[[str], object]) -> None:
    if value is None and name == "pin":
        return
    if not isinstance(value, str):
        raise ConfigError(name, f"{value!r:.80} is not a text")
    try:
        parse(value)
    except ValueError as error:
        raise ConfigError(name, str(error)) from error


def _check_durations(config: Config) -> None:
    for name, least in _DURATIONS.items():
        value = getattr(config, name)
        if value is None and name in _OPTIONAL:
            continue
        if not isinstance(value, timedelta) or not least <= value <= _LONGEST:
            bounds = f"{least.total_seconds():g} s to {_LONGEST.days} days"
            raise ConfigError(name, f"{value!r} is not a timedelta of {bounds}")
    if config.trial_timeout <= config.trial_period:
        raise ConfigError("trial_timeout", f"{config.trial_timeout} is not longer than trial_period")

    if config.least_interval is None:
        _set(config, "least_interval", min(config.check_interval or _MINUTE, _MINUTE))


def _check_numbers(config: Config) -> None:
    for name in (
        "connect_timeout",
        "idle_timeout",
        "document_timeout",
        "release_timeout",
        "max_document",
        "max_release",
    ):
        value = getattr(config, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= _LARGEST:
            raise ConfigError(name, f"{value!r} is not a number above 0, and at most {_LARGEST:.0f}")
    for name, what in (("retries", "a count"), ("trial_tries", "a count"), ("patch_memory", "a number of MiB")):
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
            raise ConfigError(name, f"{value!r} is not {what}")


def _set(config: Config, name: str, value: object) -> None:
    object.__setattr__(config, name, value)


def _version(value: object) -> Version:
    if isinstance(value, Version):
        return value
    if not isinstance(value, str):
        raise ConfigError("version", f"a SemVer text is expected, not a {type(value).__name__}")
    try:
        return parse_version(value)
    except InvalidVersionError as error:
        raise ConfigError("version", str(error)) from error


def _key(value: object) -> VerifyingKey:
    if isinstance(value, VerifyingKey):
        return value
    if not isinstance(value, str):
        raise ConfigError("key", f"the public key as 64 hex digits is expected, not a {type(value).__name__}")
    try:
        return VerifyingKey.from_hex(value)
    except InvalidKeyError as error:
        raise ConfigError("key", str(error)) from error


def _path(value: object) -> Path:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ConfigError("executable", f"{value!r} is not the path of a file or folder")
    return Path(value)


def _arguments(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        raise ConfigError("smoke_test", f"{value!r} is not a list of arguments such as ['--version']")
    return tuple(value)


def _api(value: object) -> str:
    parts = urlsplit(_address("api", value))
    if parts.query or parts.fragment:
        raise ConfigError("api", f"{value!r} is not an address such as {_EXAMPLES['api']}")
    return parts.geturl().rstrip("/") + "/"


def _address(key: str, value: object) -> str:
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        good = parts is not None and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none, a broken IPv6 address
        good = False
    if not good or not isinstance(value, str):
        raise ConfigError(key, f"{value!r} is not an address such as {_EXAMPLES[key]}")
    return value

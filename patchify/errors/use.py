"""What was configured or called wrongly, or cannot be now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patchify.errors.families import PatchifyError, RejectedError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path


class ConfigError(RejectedError, ValueError):
    """A configuration value is missing or wrong.

    Attributes: ``key`` (its name), ``problem`` (what was found and what would be right).
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key
        self.problem = problem


class InvalidVersionError(RejectedError, ValueError):
    """A text is not a SemVer version. Attributes: ``text``, ``reason``."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"{text[:80]!r} is not a SemVer version: {reason}")
        self.text = text
        self.reason = reason


class InvalidKeyError(RejectedError, ValueError):
    """A key is not a usable Ed25519 key. Key material never appears in the message."""


class MissingExtraError(PatchifyError, ImportError):
    """A half was imported whose packages are not installed. Attribute: ``extra``."""

    def __init__(self, half: str, extra: str, missing: str | None) -> None:
        super().__init__(f"{half} needs the package {missing!r}: install it with pip install 'patchify-updater{extra}'")
        self.extra = extra


class ActionDeniedError(UnavailableError):
    """A critical action may not start because a restart is pending or under way."""

    def __init__(self) -> None:
        super().__init__("a restart is pending or under way: no new critical action may start until it is done")


class UpdateInProgressError(UnavailableError):
    """Another check or update is already under way, in this process or in another one."""


class NothingStagedError(RejectedError):
    """`Updater.restart` was called while no verified release is staged."""

    def __init__(self) -> None:
        super().__init__("no release is staged: call install() first")


class NoPreviousVersionError(RejectedError):
    """There is no previous version to go back to. Attribute: ``path``."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: no previous version is kept to go back to")
        self.path = path


class DamagedVersionError(RejectedError):
    """A version that was unpacked is not what it was. Attributes: ``version``, ``path``, ``problem``."""

    def __init__(self, version: str, path: Path, problem: str) -> None:
        super().__init__(f"version {version}, kept as {path}, is not what was unpacked: {problem}")
        self.version = version
        self.path = path
        self.problem = problem


class SmokeTestError(RejectedError):
    """A release failed its smoke test; it is in quarantine. Attributes: ``version``, ``problem``, ``reason``."""

    def __init__(self, version: str, problem: str) -> None:
        super().__init__(f"release {version} failed its smoke test and is not installed: {problem}")
        self.reason = f"failed its smoke test: {problem}"
        self.version = version
        self.problem = problem


class QuarantinedError(RejectedError):
    """A release is in quarantine, so it is not installed. Attributes: ``version``, ``reason``."""

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(f"release {version} is in quarantine and is not installed: it {reason}")
        self.version = version
        self.reason = reason


class ClosedError(RejectedError):
    """The updater was closed and does nothing any more."""

    def __init__(self) -> None:
        super().__init__("this updater is closed")

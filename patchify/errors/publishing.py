"""What is wrong with a release on the server, with the catalogue, or with what is asked of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patchify.errors.families import RejectedError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path


class ReleaseError(RejectedError):
    """A release file is not what the configuration says. Attributes: ``version``, ``path``."""

    def __init__(self, version: str, path: Path, problem: str) -> None:
        super().__init__(f"release {version}: {path} {problem}")
        self.version = version
        self.path = path


class ReleaseMissingError(ReleaseError):
    """A release file does not exist or is not a regular file."""

    def __init__(self, version: str, path: Path) -> None:
        super().__init__(version, path, "is missing or not a regular file")


class ReleaseUnreadableError(ReleaseError):
    """A release file cannot be read."""

    def __init__(self, version: str, path: Path, reason: str) -> None:
        super().__init__(version, path, f"cannot be read: {reason}")


class ReleaseInvalidError(ReleaseError):
    """A release file does not have the configured SHA-256. Attributes: ``expected``, ``found``."""

    def __init__(self, version: str, path: Path, *, expected: str, found: str) -> None:
        super().__init__(version, path, f"has SHA-256 {found}, but {expected} is configured")
        self.expected = expected
        self.found = found


class VersionNotFoundError(RejectedError):
    """There is no release of this version. Attribute: ``version``."""

    def __init__(self, version: str) -> None:
        super().__init__(f"Version {version} not found")
        self.version = version


class PlaceNotFoundError(RejectedError):
    """There is no such channel or platform. Attribute: ``name``."""

    def __init__(self, what: str, name: str) -> None:
        super().__init__(f"{what} {name} not found")
        self.name = name


class CatalogueError(RejectedError):
    """The catalogue is not usable as it is: no database, another schema, a damaged file. Attribute: ``url``."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"the catalogue {url}: {problem}")
        self.url = url


class CatalogueUnavailableError(UnavailableError):
    """The catalogue's database cannot be reached or used now. Attribute: ``url``."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"the catalogue {url} cannot be used now: {problem}")
        self.url = url


class PublicationError(RejectedError):
    """What was asked for makes no sense for a release; nothing was changed."""


class NotPublishedError(PublicationError):
    """There is no such release, or not in that channel. Attribute: ``version``."""

    def __init__(self, version: str, place: str) -> None:
        super().__init__(f"version {version} is not published {place}")
        self.version = version


class DifferentBytesError(PublicationError):
    """The version was published with other bytes. Attributes: ``version``, ``published``, ``given`` (SHA-256)."""

    def __init__(self, version: str, *, published: str, given: str) -> None:
        super().__init__(
            f"version {version} is published with SHA-256 {published}, and this file has {given}: "
            "what was published never changes; give the file a new version"
        )
        self.version = version
        self.published = published
        self.given = given


class LowerVersionError(PublicationError):
    """The version is lower than one that is live in the channel. Attributes: ``version``, ``live``."""

    def __init__(self, version: str, live: str, channel: str) -> None:
        super().__init__(f"version {version} is lower than {live}, which is live in {channel}; --force publishes it")
        self.version = version
        self.live = live


class PartlyRefusedError(RejectedError):
    """It makes no sense for some of several builds or channels; the others were changed.

    Attributes: ``changed`` (texts, each a release and a channel), ``refusals``.
    """

    def __init__(self, changed: list[str], refusals: list[PublicationError]) -> None:
        done = f"changed {', '.join(changed)}" if changed else "all else is as asked for already"
        super().__init__(f"{done}; but {'; '.join(map(str, refusals))}")
        self.changed = changed
        self.refusals = refusals


class FileChangedError(PublicationError):
    """The file changed while it was published, or since it was. Attribute: ``path``."""

    def __init__(self, path: Path | str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


class UnreadableFileError(PublicationError):
    """The file to publish cannot be read, or is no release. Attribute: ``path``."""

    def __init__(self, path: Path | str, problem: str) -> None:
        super().__init__(f"{path} cannot be published: {problem}")
        self.path = path


class StorageUnavailableError(UnavailableError):
    """The folder of the releases cannot be changed now: disk full, no permission. Attributes: ``path``, ``errno``."""

    def __init__(self, path: Path | str, cause: OSError) -> None:
        super().__init__(f"{path} cannot be changed now: {cause.strerror or cause}")
        self.path = path
        self.errno = cause.errno


class ExportRefusedError(RejectedError):
    """A folder is none to export to, or another application's; nothing was changed. Attribute: ``path``."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"nothing is exported to {path}: {problem}")
        self.path = path


class ExportBusyError(UnavailableError):
    """Another process exports to the folder just now. Attribute: ``path``."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"another process exports to {path} just now; try again when it is done")
        self.path = path


class FormGivenUpError(RejectedError):
    """A form of a release was not made, and would not be another time: it is not much smaller, or takes too much."""


class PublishingRefusedError(RejectedError):
    """The server lets nobody publish this way: wrong token, no TLS, not switched on. Attribute: ``status`` (HTTP)."""

    def __init__(self, problem: str, status: int) -> None:
        super().__init__(problem)
        self.status = status


class TooManyAttemptsError(UnavailableError):
    """Wrong tokens came from this address too often. Attribute: ``retry_after`` (seconds)."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"too many wrong tokens came from this address: try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class UploadTooLargeError(PublicationError):
    """A file is larger than the server takes. Attributes: ``size``, ``limit`` (bytes)."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"{size} bytes are too many: the server takes files up to {limit} bytes (max_upload)")
        self.size = size
        self.limit = limit


class UploadOffsetError(UnavailableError):
    """An upload does not go on where it ended, or is not whole yet. Attribute: ``offset`` (bytes that are there)."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the upload is not whole: {offset} bytes of it are there, and it goes on behind them")
        self.offset = offset


class UploadBusyError(UnavailableError):
    """Another request writes the same upload just now."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"the upload {sha256} is being written by another request")


class UploadDamagedError(UnavailableError):
    """What arrived is not what was announced; it was thrown away. Attributes: ``expected``, ``found`` (SHA-256)."""

    def __init__(self, *, expected: str, found: str) -> None:
        super().__init__(f"what arrived has SHA-256 {found}, but {expected} was announced: send it again")
        self.expected = expected
        self.found = found


class PublishingFailedError(UnavailableError):
    """The server could not do now what a publisher asked for. Attributes: ``url``, ``status``, ``retry_after`` (s)."""

    def __init__(self, url: str, problem: str, status: int, retry_after: float | None = None) -> None:
        super().__init__(f"{url}: {problem}")
        self.url = url
        self.status = status
        self.retry_after = retry_after

"""Every way in which Patchify can fail, as one tree.

Below `PatchifyError` stand two families, told apart by what to do next. `RejectedError`: what somebody served or
configured is wrong, and trying again unchanged will not help. `UnavailableError`: something could not be reached or
done just now, and a later attempt may succeed. Leaves carry their facts as attributes and say what would be right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path


class PatchifyError(Exception):
    """Root of all errors raised by Patchify."""


class RejectedError(PatchifyError):
    """What was served or configured is wrong; the same attempt will fail again."""


class UnavailableError(PatchifyError):
    """Something could not be reached or done now; a later attempt may succeed."""


# Configuration and use ------------------------------------------------------------------------------------------------


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


# Releases on the server -----------------------------------------------------------------------------------------------


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


# Publishing -----------------------------------------------------------------------------------------------------------


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


# What came over the network -------------------------------------------------------------------------------------------


class AnswerError(RejectedError):
    """An answer of the update server cannot be accepted. Attribute: ``url``."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"{url}: {problem}")
        self.url = url


class InvalidUrlError(AnswerError):
    """A URL cannot be requested."""


class RedirectError(AnswerError):
    """The server redirects to another host, to a less secure scheme, or endlessly. Attribute: ``location``."""

    def __init__(self, url: str, location: str, problem: str) -> None:
        super().__init__(url, f"redirects to {location[:200]!r}, which is refused: {problem}")
        self.location = location


class HttpError(AnswerError):
    """The status is one that asking again will not change. Attribute: ``status``."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(url, f"answered with HTTP status {status}; is the address of the API right?")
        self.status = status


class UnexpectedContentTypeError(AnswerError):
    """The content type is not the one of this endpoint. Attributes: ``found``, ``expected``."""

    def __init__(self, url: str, *, found: str, expected: str) -> None:
        super().__init__(url, f"has content type {found[:80]!r}, but {expected!r} is expected")
        self.found = found
        self.expected = expected


class InvalidBodyError(AnswerError):
    """The body cannot be read as what its headers say: no or wrong length, an encoding nobody asked for."""


class TooMuchDataError(AnswerError):
    """The body is longer than announced or allowed. Attribute: ``limit`` (bytes)."""

    def __init__(self, url: str, limit: int, what: str) -> None:
        super().__init__(url, f"body is longer than {limit} bytes, {what}")
        self.limit = limit


class MissingSignatureError(AnswerError):
    """The answer has no ``X-Signature`` header."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "has no X-Signature header; is this a Patchify server?")


class InvalidSignatureError(AnswerError):
    """The ``X-Signature`` header is not 128 hex digits. Attribute: ``signature``."""

    def __init__(self, url: str, signature: str) -> None:
        super().__init__(url, f"has the malformed signature {signature[:140]!r}; 128 hex digits are expected")
        self.signature = signature


class FailedSignatureVerificationError(AnswerError):
    """The signature does not belong to this body and the configured key."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "is not signed by the configured key; is the public key in the configuration right?")


class InvalidPayloadError(AnswerError):
    """A verified body is not the document that was asked for."""


class DocumentError(AnswerError):
    """An update document is signed and well-formed, but must not be believed here and now."""


class WrongApplicationError(DocumentError):
    """The document is another application's. Attributes: ``found``, ``expected``."""

    def __init__(self, url: str, *, found: str, expected: str) -> None:
        super().__init__(
            url,
            f"is about the application {found[:80]!r}, not {expected!r}: is the address of the API right? Where no "
            "appname is configured, it is the one of the first document",
        )
        self.found = found
        self.expected = expected


class WrongChannelError(DocumentError):
    """The document is another channel's. Attributes: ``found``, ``expected``."""

    def __init__(self, url: str, *, found: str, expected: str) -> None:
        super().__init__(url, f"is about the channel {found!r}, but {expected!r} was asked for")
        self.found = found
        self.expected = expected


class WrongPlatformError(DocumentError):
    """The document is another platform's. Attributes: ``found``, ``expected``."""

    def __init__(self, url: str, *, found: str, expected: str) -> None:
        super().__init__(url, f"is about the platform {found!r}, but {expected!r} was asked for")
        self.found = found
        self.expected = expected


class ClockSetBackError(DocumentError):
    """The clock is behind a time that was accepted before. Attributes: ``seen``, ``now`` (UTC)."""

    def __init__(self, url: str, *, seen: datetime, now: datetime) -> None:
        super().__init__(
            url,
            f"cannot be judged: a document of {seen:%Y-%m-%d %H:%M} UTC was accepted before, and the clock of this "
            f"machine says {now:%Y-%m-%d %H:%M} UTC: set the clock",
        )
        self.seen = seen
        self.now = now


class ExpiredDocumentError(DocumentError):
    """The document has expired, or the clock is wrong. Attributes: ``expires``, ``now`` (UTC)."""

    def __init__(self, url: str, *, expires: datetime, now: datetime) -> None:
        super().__init__(
            url,
            f"expired at {expires:%Y-%m-%d %H:%M} UTC, and the clock of this machine says {now:%Y-%m-%d %H:%M} UTC: "
            "set the clock if it is wrong; if it is right, somebody serves old answers, or the server's clock is wrong",
        )
        self.expires = expires
        self.now = now


class FutureDocumentError(DocumentError):
    """The document comes from the future, or the clock is wrong. Attributes: ``issued``, ``now`` (UTC)."""

    def __init__(self, url: str, *, issued: datetime, now: datetime) -> None:
        super().__init__(
            url,
            f"was issued at {issued:%Y-%m-%d %H:%M} UTC, and the clock of this machine says {now:%Y-%m-%d %H:%M} UTC: "
            "set the clock, here or on the server",
        )
        self.issued = issued
        self.now = now


class ReplayedDocumentError(DocumentError):
    """The document is older than one that was accepted before. Attributes: ``serial``, ``seen``."""

    def __init__(self, url: str, *, serial: int, seen: int) -> None:
        super().__init__(
            url,
            f"has the serial {serial}, but {seen} was accepted before: somebody serves old answers, or the server's "
            "catalogue was put back to an older one; any change of the catalogue gives it a new serial",
        )
        self.serial = serial
        self.seen = seen


class RunawaySerialError(DocumentError):
    """The serial is higher than any honest one can be by now. Attributes: ``serial``, ``limit``."""

    def __init__(self, url: str, *, serial: int, limit: int) -> None:
        super().__init__(
            url,
            f"has the serial {serial}, beyond {limit}, the highest that there can be by the clock of this machine; "
            "accepting it would shut out all honest ones: set the clock, here or on the server",
        )
        self.serial = serial
        self.limit = limit


class DowngradeRefusedError(DocumentError):
    """All that is offered is older than what was confirmed. Attributes: ``offered``, ``confirmed`` (versions)."""

    def __init__(self, url: str, *, offered: str, confirmed: str) -> None:
        super().__init__(
            url,
            f"offers {offered} as the newest version, but {confirmed} has proved good here, and was not withdrawn: an "
            "older version is installed only if this one is withdrawn, and allow_downgrade is on",
        )
        self.offered = offered
        self.confirmed = confirmed


class DocumentsRequiredError(DocumentError):
    """The server has no update documents, but they are required, or were seen from it before."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            url, f"is not there, and the answers of the original protocol, which can be replayed, are refused: {why}"
        )


class ChannelNotFoundError(AnswerError):
    """The server has no such channel for this platform. Attributes: ``channel``, ``platform``."""

    def __init__(self, url: str, channel: str, platform: str) -> None:
        super().__init__(url, f"is not there: the server has no channel {channel!r} for {platform}")
        self.channel = channel
        self.platform = platform


class UnsuitableFormatError(RejectedError):
    """A release is an archive and the program one file, or the other way round. Attributes: ``version``, ``format``."""

    def __init__(self, version: str, form: str, program: Path) -> None:
        super().__init__(f"release {version} is of the format {form!r}, which cannot take the place of {program}")
        self.version = version
        self.format = form


class FailedHashVerificationError(RejectedError):
    """A downloaded file does not have the signed SHA-256. Attributes: ``version``, ``expected``, ``found``."""

    def __init__(self, version: str, *, expected: str, found: str) -> None:
        super().__init__(f"the downloaded release {version} has SHA-256 {found}, but {expected} is signed")
        self.version = version
        self.expected = expected
        self.found = found


class WrongVersionError(RejectedError):
    """The newest release is already running, but calls itself by another version."""

    def __init__(self, *, released: str, running: str) -> None:
        super().__init__(
            f"the running program is release {released} but is configured as version {running}: it would update "
            "for ever; publish a build whose Config.version is the version it is released as"
        )
        self.released = released
        self.running = running


class ConnectionFailedError(UnavailableError):
    """A request did not get through. Attributes: ``url``, ``retry_after`` (seconds, or None)."""

    def __init__(self, url: str, problem: str, retry_after: float | None = None) -> None:
        super().__init__(f"{url}: {problem}")
        self.url = url
        self.retry_after = retry_after


class HttpRequestFailedError(ConnectionFailedError):
    """The connection could not be made or broke: DNS, refused, reset, TLS, proxy."""


class DeadlineExceededError(ConnectionFailedError):
    """The answer did not arrive within its time."""


class MissingDataError(ConnectionFailedError):
    """The body ended before its announced length. Attributes: ``received``, ``expected`` (bytes)."""

    def __init__(self, url: str, *, received: int, expected: int) -> None:
        super().__init__(url, f"body ended after {received} of {expected} bytes")
        self.received = received
        self.expected = expected


class ServerBusyError(ConnectionFailedError):
    """The server cannot answer now (408, 425, 429 or 5xx). Attributes: ``status``, ``retry_after``."""

    def __init__(self, url: str, status: int, retry_after: float | None) -> None:
        wait = "" if retry_after is None else f"; it asks to wait {retry_after:.0f} s"
        super().__init__(url, f"answered with HTTP status {status}{wait}", retry_after)
        self.status = status


# Files and processes on the client ------------------------------------------------------------------------------------


class FileOperationError(UnavailableError):
    """A file operation failed. Attributes: ``path``, ``errno`` (or None)."""

    operation = "use"

    def __init__(self, path: Path | str, cause: OSError | str) -> None:
        reason = cause if isinstance(cause, str) else (cause.strerror or str(cause))
        super().__init__(f"unable to {self.operation} {path}: {reason}")
        self.path = path
        self.errno = None if isinstance(cause, str) else cause.errno


class UnableToObtainExecutableError(FileOperationError):
    """It is not clear which file is the program."""

    operation = "update the program"


class UnableToCreateFolderError(FileOperationError):
    """The folder beside the executable cannot be created or used."""

    operation = "create the update folder"


class UnableToLockError(FileOperationError):
    """The lock file cannot be used."""

    operation = "lock"


class UnableToCreateDownloadError(FileOperationError):
    """The file to download to cannot be created."""

    operation = "create the download file"


class UnableToWriteDownloadError(FileOperationError):
    """The download cannot be written: disk full, quota, I/O error."""

    operation = "write the download file"


class UnableToReadFileError(FileOperationError):
    """A file that has to be verified cannot be read."""

    operation = "read"


class UnableToSetPermissionsError(FileOperationError):
    """Mode or ownership of the program cannot be given to the new file."""

    operation = "give the mode and ownership of the program to"


class UnableToBackUpError(FileOperationError):
    """The running program cannot be kept as the previous version."""

    operation = "back up the program as"


class NotEnoughSpaceError(FileOperationError):
    """There is not enough space for the release. Attributes: ``needed``, ``free`` (bytes)."""

    operation = "download to"

    def __init__(self, path: Path, *, needed: int, free: int) -> None:
        super().__init__(path, f"{needed} bytes are needed, {free} are free on this file system")
        self.needed = needed
        self.free = free


class UnableToUnpackError(FileOperationError):
    """A release cannot be unpacked: disk full, quota, I/O error."""

    operation = "unpack the release to"


class UnableToSmokeTestError(FileOperationError):
    """The smoke test of a release came to no result, through no fault of the release."""

    operation = "run the smoke test of"


class UnableToGuardError(FileOperationError):
    """The guardian that watches a new version cannot be started; the program is untouched."""

    operation = "start the guardian of"


class UnableToSwapError(FileOperationError):
    """The new file cannot be put in the place of the program."""

    operation = "replace the program"


class UnableToWriteStateError(FileOperationError):
    """The state file cannot be written."""

    operation = "write"


class UnableToRestartError(FileOperationError):
    """The new version could not be started; the old one was put back."""

    operation = "restart"


class UnsafeArchiveError(RejectedError):
    """An archive cannot be unpacked, or must not be; it is in quarantine.

    Attributes: ``member`` (its name there, or None), ``problem``, ``reason``.
    """

    def __init__(self, problem: str, member: str | None = None) -> None:
        what = "it" if member is None else f"its member {member[:200]!r}"
        super().__init__(f"the archive of the release is refused: {what} {problem}")
        self.reason = f"cannot be unpacked: {what} {problem}"
        self.member = member
        self.problem = problem

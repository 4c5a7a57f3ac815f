"""What could not be done to the files and processes of an installation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patchify.errors.families import RejectedError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path


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

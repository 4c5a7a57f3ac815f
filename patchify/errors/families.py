"""The root of all errors, and the two families below it."""

from __future__ import annotations


class PatchifyError(Exception):
    """Root of all errors raised by Patchify."""


class RejectedError(PatchifyError):
    """What was served or configured is wrong; the same attempt will fail again."""


class UnavailableError(PatchifyError):
    """Something could not be reached or done now; a later attempt may succeed."""

"""In which forms the bytes of a release can be had, beside the whole file as it was published.

A *form* is a file of its own, kept and served under its SHA-256: the whole compressed with zstd, a patch that makes the
release of an older one, and the list of the hashes of a long file's segments, so that it can be verified as it arrives.
All of them are made after a release is published, and may be missing: what counts in the end is the hash of the result.

A patch applies to the *basis* of a release: the file itself, or for a folder the one archive that its content always
gives (`patchify.trees`), however it was packed when it was published.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from patchify.members import MalformedDocumentError, list_of, object_of, sha256_of, text_of, whole_of

ZSTD = "zstd"
HDIFFPATCH = "hdiffpatch"
"""The format of patches: what `hdiffpatch.diff` returns, of the kind that names its own compression."""

SEGMENT = 4 * 1024 * 1024  # bytes
LEAST_SEGMENTED = 64 * 1024 * 1024  # bytes; what is shorter is loaded anew sooner than its list of hashes
DIGEST = 32  # bytes of each hash in a list of segments: SHA-256, not spelled as hex

_LEAST_SEGMENT, _MOST_SEGMENT = 64 * 1024, 1024 * 1024 * 1024  # bytes
_MOST_SIZE = 2**53 - 1  # bytes
_LONGEST_FORMAT = 40


def memory_of(base: int, result: int, patch: int = 0) -> int:
    """Return the bytes of memory that applying a patch takes, given the sizes of all three.

    What it makes is there twice for a moment: measured with hdiffpatch 2.6.0.
    """
    return base + 2 * result + patch


def path_of(sha256: str) -> str:
    """Return where the file with this hash is, below the address of the API."""
    return f"files/{sha256}"


@dataclass(frozen=True)
class Segments:
    """The list of the hashes of a file's segments: a file of `DIGEST` bytes for each, in order.

    Attributes:
        sha256: Of the list.
        length: Bytes of each segment but the last.
    """

    sha256: str
    length: int = SEGMENT

    def count(self, size: int) -> int:
        """Return how many segments a file of so many bytes has."""
        return -(-size // self.length)

    def list_size(self, size: int) -> int:
        """Return how many bytes the list for a file of so many bytes has."""
        return self.count(size) * DIGEST

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON has."""
        return {"sha256": self.sha256, "length": self.length}

    @classmethod
    def from_json(cls, members: object) -> Self:
        """Read what `to_json` returns. Raises `MalformedDocumentError`."""
        found = object_of(members, "segments")
        return cls(sha256_of(found, "sha256"), whole_of(found, "length", _LEAST_SEGMENT, _MOST_SEGMENT))


@dataclass(frozen=True)
class Compressed:
    """The whole file, compressed with zstd.

    Attributes:
        sha256, size: Of the compressed file; bytes.
        segments: Of the compressed file, if it is long.
    """

    sha256: str
    size: int
    segments: Segments | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON has."""
        members: dict[str, Any] = {"format": ZSTD, "size": self.size, "sha256": self.sha256}
        if self.segments is not None:
            members["segments"] = self.segments.to_json()
        return members

    @classmethod
    def from_json(cls, members: object) -> Self | None:
        """Read what `to_json` returns; None if it is compressed in another way. Raises `MalformedDocumentError`."""
        found = object_of(members, "compressed file")
        if _format(found) != ZSTD:
            return None
        segments = found.get("segments")
        return cls(
            sha256_of(found, "sha256"),
            whole_of(found, "size", 1, _MOST_SIZE),
            None if segments is None else Segments.from_json(segments),
        )


@dataclass(frozen=True)
class Tree:
    """The basis of a release that is a folder: SHA-256 and size (bytes) of the archive that its content gives."""

    sha256: str
    size: int

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON has."""
        return {"size": self.size, "sha256": self.sha256}

    @classmethod
    def from_json(cls, members: object) -> Self:
        """Read what `to_json` returns. Raises `MalformedDocumentError`."""
        found = object_of(members, "tree")
        return cls(sha256_of(found, "sha256"), whole_of(found, "size", 1, _MOST_SIZE))


@dataclass(frozen=True)
class Patch:
    """What makes one basis of another.

    Attributes:
        base: SHA-256 of the basis that it applies to.
        sha256, size: Of the patch; bytes.
        format: `HDIFFPATCH`, or one that is not known here.
        result: SHA-256 of what comes out; None: the basis of the release that the patch belongs to.
        result_size: Bytes of that; None as well then.
    """

    base: str
    sha256: str
    size: int
    format: str = HDIFFPATCH
    result: str | None = None
    result_size: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON has."""
        members: dict[str, Any] = {
            "from": self.base,
            "format": self.format,
            "size": self.size,
            "sha256": self.sha256,
        }
        if self.result is not None:
            members |= {"to": self.result, "to_size": self.result_size}
        return members

    @classmethod
    def from_json(cls, members: object) -> Self:
        """Read what `to_json` returns. Raises `MalformedDocumentError`."""
        found = object_of(members, "patch")
        result = None if found.get("to") is None else sha256_of(found, "to")
        return cls(
            base=sha256_of(found, "from"),
            sha256=sha256_of(found, "sha256"),
            size=whole_of(found, "size", 1, _MOST_SIZE),
            format=_format(found),
            result=result,
            result_size=None if result is None else whole_of(found, "to_size", 1, _MOST_SIZE),
        )


@dataclass(frozen=True)
class Forms:
    """The forms of one release.

    Attributes:
        segments: Of the whole file, if it is long.
        compressed: None if that is not much smaller.
        tree: The basis, if the release is a folder; None: not known, or it is a file, which is its own.
        patches: What makes it of older ones, in the order in which they were made.
    """

    segments: Segments | None = None
    compressed: Compressed | None = None
    tree: Tree | None = None
    patches: tuple[Patch, ...] = ()

    def basis(self, form: str, sha256: str, size: int) -> tuple[str, int] | None:
        """Return SHA-256 and size (bytes) of what patches make of a release and apply to.

        Args:
            form: The format of the release.
            sha256: Of its whole file.
            size: Of its whole file, bytes.

        Returns:
            None for a folder whose tree is not known.
        """
        if form == "file":
            return sha256, size
        return None if self.tree is None else (self.tree.sha256, self.tree.size)

    def files(self, size: int) -> Iterator[tuple[str, int]]:
        """Yield SHA-256 and size of every file of a release whose whole file has ``size`` bytes, but for that one."""
        if self.segments is not None:
            yield self.segments.sha256, self.segments.list_size(size)
        if self.compressed is not None:
            yield self.compressed.sha256, self.compressed.size
            if self.compressed.segments is not None:
                yield self.compressed.segments.sha256, self.compressed.segments.list_size(self.compressed.size)
        for patch in self.patches:
            yield patch.sha256, patch.size

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON has: only what there is."""
        members: dict[str, Any] = {}
        for name in ("segments", "compressed", "tree"):
            if (form := getattr(self, name)) is not None:
                members[name] = form.to_json()
        if self.patches:
            members["patches"] = [each.to_json() for each in self.patches]
        return members

    @classmethod
    def from_json(cls, members: dict[str, Any]) -> Self:
        """Read what `to_json` returns; other members may be there. Raises `MalformedDocumentError`."""
        segments, compressed, tree = (members.get(name) for name in ("segments", "compressed", "tree"))
        patches = list_of(members, "patches") if "patches" in members else []
        return cls(
            segments=None if segments is None else Segments.from_json(segments),
            compressed=None if compressed is None else Compressed.from_json(compressed),
            tree=None if tree is None else Tree.from_json(tree),
            patches=tuple(Patch.from_json(each) for each in patches),
        )


def _format(members: dict[str, Any]) -> str:
    value = text_of(members, "format")
    if not 0 < len(value) <= _LONGEST_FORMAT:
        raise MalformedDocumentError(f"format is {value!r:.80}, not a name")
    return value

"""Downloads on their way into a part, over as many connections as it takes: what is missing, and what is right."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import requests

from patchify.errors import DamagedSegmentError, HttpRequestFailedError, InvalidBodyError
from patchify.forms import DIGEST, Segments

_log = logging.getLogger(__name__)

MOST_BAD = 3  # times that one segment may come wrong


class Part(Protocol):
    """Where a download goes: it grows at its end, can be mended in the middle, and cut."""

    size: int

    def reserve(self, total: int) -> None:
        """See whether so many bytes fit. Raises a `FileOperationError`."""

    def take_up(self, progress: Callable[[int], None], look: Callable[[bytes], None] | None = None) -> None:
        """Read what is there from an earlier attempt; show ``look`` all of it. Raises a `FileOperationError`."""

    def write(self, data: bytes | memoryview, at: int | None = None) -> None:
        """Append, or put in the place of what is there. Raises a `FileOperationError`."""

    def cut(self, size: int) -> None:
        """Keep so many bytes of the beginning. Raises a `FileOperationError`."""


class ReleaseDownload:
    """A release by its version, as the original protocol has it: its ETag tells of which file a beginning is."""

    def __init__(self, part: Part, sha256: str, progress: Callable[[int, int], None], size: int | None) -> None:
        self._part = part
        self._etag = f'"{sha256}"'
        self._progress = progress
        self._size = size

    def headers(self) -> dict[str, str]:
        """Return the headers that ask for what is still missing, of the same file only."""
        return {"Range": f"bytes={self._part.size}-", "If-Range": self._etag} if self._part.size else {}

    def is_whole(self, response: requests.Response) -> bool:
        """Return whether ``416`` came because nothing is missing; otherwise throw away what is there, to ask anew."""
        size = self._part.size
        if response.headers.get("Content-Range") == f"bytes */{size}":
            self._part.take_up(lambda done: self._progress(done, size))
            return True
        self._part.cut(0)
        raise HttpRequestFailedError(response.url, "what was there already is no beginning of this release")

    def begin(self, response: requests.Response, length: int) -> int:
        """Make the part fit the answer; return how long it will be in the end, which is as long as was signed."""
        total = self._begin(response, length)
        if self._size is not None and total != self._size:
            raise _of_another_size(response, total, self._size)
        return total

    def _begin(self, response: requests.Response, length: int) -> int:
        etag = response.headers.get("ETag", "")
        if etag.startswith('"'):  # a strong one; behind another front it may not be the hash
            self._etag = etag
        if response.status_code == 200:
            self._part.cut(0)
            return length
        expected = f"bytes {self._part.size}-{self._part.size + length - 1}/{self._part.size + length}"
        found = response.headers.get("Content-Range", "")
        if not self._part.size or found != expected:
            self._part.cut(0)  # a server that cannot do it would not another time either
            raise InvalidBodyError(response.url, f"has Content-Range {found[:80]!r}, but {expected!r} was asked for")
        total = self._part.size + length
        self._part.take_up(lambda done: self._progress(done, total))
        return total

    def reserve(self, total: int) -> None:
        """See whether the whole of it fits, before more of it arrives."""
        self._part.reserve(total)

    def add(self, block: bytes, total: int) -> None:
        """Append what arrived."""
        self._part.write(block)
        self._progress(self._part.size, total)


@dataclass
class _Gap:
    """Bytes that are missing, from ``start`` to before ``end``; ``digest`` is of those before in the same segment."""

    start: int
    end: int
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)


class FileDownload:
    """A file whose hash and size are known.

    Segments are verified as soon as they are complete. Without their hashes the whole counts as one, which is not.

    Args:
        part: Where to. What it holds already is taken up by `open`.
        size: Bytes of the whole.
        progress: Called with the bytes that are there and ``size``.
        segments, hashes: How it is cut, and the list of the hashes; None and nothing: not at all.
    """

    def __init__(
        self,
        part: Part,
        size: int,
        progress: Callable[[int, int], None],
        segments: Segments | None = None,
        hashes: bytes = b"",
    ) -> None:
        self._part = part
        self._size = size
        self._progress = progress
        self._length = segments.length if segments and hashes else size
        self._hashes = hashes
        self._ranges = True  # as long as the server gives what is asked for
        self._gaps: list[_Gap] = []
        self._bad: dict[int, int] = {}  # how often each segment came wrong

    def open(self, go_on: Callable[[], None] = lambda: None) -> None:
        """See what is there already, and what is missing. Raises a `FileOperationError`, and what ``go_on`` raises."""
        self._part.cut(self._size)
        self._part.reserve(self._size)
        at, digest = 0, hashlib.sha256()

        def look(block: bytes) -> None:
            nonlocal at, digest
            for piece in self._pieces(at, block):
                digest.update(piece)
                at += len(piece)
                if self._is_end(at):
                    if not self._is_right(at, digest):
                        self._miss(self._start_of(at - 1), at)
                    digest = hashlib.sha256()
            tell(at - self._missing())

        def tell(done: int) -> None:
            self._progress(done, self._size)
            go_on()

        if self._hashes:
            self._part.take_up(lambda done: None, look)
        else:
            self._part.take_up(tell)
            at = self._part.size
        if at < self._size:
            self._miss(at, self._size, digest)
        self._cut()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return not self._gaps

    def done(self) -> int:
        """Return how many bytes are there."""
        return self._size - self._missing()

    def headers(self) -> dict[str, str]:
        """Return the headers that ask for what is missing first."""
        gap = self._gaps[0]
        if not self._ranges or (gap.start == 0 and gap.end == self._size):
            return {}
        last = "" if gap.end == self._size else gap.end - 1
        return {"Range": f"bytes={gap.start}-{last}"}

    def refuses(self, response: requests.Response, length: int | None) -> bool:
        """Return whether this is no answer to a range that was asked for: then the whole is asked for, from now on."""
        if not self.headers() or response.status_code not in {206, 416}:
            return False
        gap = self._gaps[0]
        expected = f"bytes {gap.start}-{gap.end - 1}/{self._size}"
        found = response.headers.get("Content-Range", "")
        if response.status_code == 206 and found == expected and length in {None, gap.end - gap.start}:
            return False
        got = f"status {response.status_code} with Content-Range {found[:80]!r} and {length} bytes"
        _log.warning("%s: %s came for %r; the whole is asked for", response.url, got, expected)
        self._ranges = False
        return True

    def begin(self, response: requests.Response, length: int) -> int:
        """Return where in the file the body begins. Raises `InvalidBodyError` unless it is as long as was signed."""
        if response.status_code == 206:
            if not self.headers():
                raise InvalidBodyError(response.url, "is a range, which was not asked for")
            return self._gaps[0].start
        if length != self._size:
            raise _of_another_size(response, length, self._size)
        for gap in self._gaps:
            self._rewind(gap)
        return 0

    def add(self, url: str, at: int, block: bytes) -> bool:
        """Keep what is missing of a block that belongs at ``at``; return whether what comes after it is of use, too.

        Raises:
            DamagedSegmentError: a segment came wrong once too often.
            FileOperationError: it cannot be written.
        """
        is_right = True
        for piece in self._pieces(at, block):
            if not self._gaps or not is_right:
                break
            is_right = self._keep(url, at, piece)
            at += len(piece)
        self._progress(self.done(), self._size)
        return is_right and bool(self._gaps)

    def _keep(self, url: str, at: int, piece: memoryview) -> bool:
        """Write what is missing of a piece of one segment; return whether it is right, as far as that can be told."""
        gap = self._gaps[0]
        piece = piece[max(0, gap.start - at) : max(0, gap.end - at)]
        if not piece:
            return True
        self._part.write(piece, gap.start)
        if self._hashes:
            gap.digest.update(piece)
        gap.start += len(piece)
        if not self._is_end(gap.start):
            return True
        if not self._is_right(gap.start, gap.digest):
            self._reject(url, gap)
            return False
        gap.digest = hashlib.sha256()
        if gap.start == gap.end:
            del self._gaps[0]
        return True

    def _reject(self, url: str, gap: _Gap) -> None:
        """Have a segment fetched again that came wrong."""
        gap.start -= 1  # back into it
        self._rewind(gap)
        segment = gap.start // self._length
        self._bad[segment] = self._bad.get(segment, 0) + 1
        if self._bad[segment] >= MOST_BAD:
            raise DamagedSegmentError(url, segment=segment, offset=gap.start)
        _log.warning("%s: the segment at byte %d came wrong and is fetched again", url, gap.start)

    def _rewind(self, gap: _Gap) -> None:
        """Miss the whole of the segment in which a gap starts."""
        gap.start = self._start_of(gap.start)
        gap.digest = hashlib.sha256()
        self._cut()

    def _cut(self) -> None:
        """Let the part end where the last gap begins, if nothing comes after it."""
        if self._gaps and self._gaps[-1].end == self._size:
            self._part.cut(self._gaps[-1].start)

    def _miss(self, start: int, end: int, digest: hashlib._Hash | None = None) -> None:
        """Note bytes that are missing, after all others."""
        if self._gaps and self._gaps[-1].end == start:
            self._gaps[-1].end = end
        else:
            self._gaps.append(_Gap(start, end, digest or hashlib.sha256()))

    def _missing(self) -> int:
        return sum(gap.end - gap.start for gap in self._gaps)

    def _pieces(self, at: int, block: bytes) -> Iterator[memoryview]:
        """Yield a block that belongs at ``at``, cut where segments end."""
        rest = memoryview(block)
        while rest:
            count = self._length - at % self._length
            yield rest[:count]
            at += count
            rest = rest[count:]

    def _start_of(self, at: int) -> int:
        """Return where the segment begins to which the byte ``at`` belongs."""
        return at - at % self._length

    def _is_end(self, at: int) -> bool:
        return at % self._length == 0 or at == self._size

    def _is_right(self, end: int, digest: hashlib._Hash) -> bool:
        """Return whether the segment that ends before ``end`` has its hash."""
        first = (end - 1) // self._length * DIGEST
        return not self._hashes or digest.digest() == self._hashes[first : first + DIGEST]


def _of_another_size(response: requests.Response, found: int, signed: int) -> InvalidBodyError:
    return InvalidBodyError(response.url, f"is a file of {found} bytes, but {signed} are signed")

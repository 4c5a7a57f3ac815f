"""One patch, made in a process of its own: it has a limit of time and of memory, and can be ended at any moment.

`python -m patchify.publishing.patching OLD NEW TARGET` makes it, and says what it found as one line of JSON. It ends
when its standard input does, with whoever started it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from patchify.errors import FormGivenUpError, StorageUnavailableError, UnavailableError
from patchify.publishing.background import command, environment

if sys.platform != "win32":
    import resource

_SMALL = 64 * 1024  # bytes; a patch of this size is packed in other ways, too, as a few bytes count in it
_CODECS: tuple[Literal["zlib", "bzip2", "zstd", "brotli"], ...] = (
    "zlib",
    "bzip2",
    "zstd",
    "brotli",
)  # what `apply` finds out by itself, beside lzma2
_PROGRAM = 256 * 1024 * 1024  # bytes of address space that it takes with nothing to do
_OF_OLD, _OF_NEW = 7, 3  # times the size of each; measured: 6.4 times that of two equally long ones
_OUT_OF_MEMORY = "it took more memory than it may"
_LONGEST = 300  # characters of what it says when it fails


class PatchEndedError(UnavailableError):
    """The process was ended by somebody else, such as a system without memory; another time it may come to its end."""


@dataclass(frozen=True)
class MadePatch:
    """A patch that was made, tried, and is durable.

    Attributes:
        sha256, size: Of the patch; bytes.
        old, new: SHA-256 of what it applies to, and of what it makes.
    """

    sha256: str
    size: int
    old: str
    new: str


def make_patch(old: Path, new: Path, target: Path, seconds: float) -> MadePatch:
    """Make a patch in another process.

    Args:
        old: The file that it applies to.
        new: The file that it makes.
        target: Where the patch is written; it may be there, in part or whole, after an error.
        seconds: How long it may take.

    Raises:
        FormGivenUpError: it takes more time or memory than it may, or hdiffpatch fails.
        PatchEndedError: its process was ended by a signal.
        StorageUnavailableError: a file cannot be read or written.
    """
    output = target.with_suffix(".said")
    try:
        with output.open("w+b") as said:
            process = subprocess.Popen(
                command(__name__, *map(str, (old, new, target))),
                stdin=subprocess.PIPE,  # open as long as this process lives
                stdout=said,
                stderr=subprocess.STDOUT,
                env=environment() | {"MALLOC_ARENA_MAX": "2"},  # its threads must not claim address space for each
            )
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                raise FormGivenUpError(f"given up after {seconds:.0f} s") from None
            finally:
                process.kill()
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()
            said.seek(0)
            last = said.read().decode("utf-8", "replace").strip().rpartition("\n")[2][-_LONGEST:]
    except OSError as error:
        raise StorageUnavailableError(error.filename or target, error) from error
    return _read(process.returncode, last, target)


def _read(status: int, last: str, target: Path) -> MadePatch:
    found: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        found = json.loads(last)
    if status == 0 and "sha256" in found:
        return MadePatch(**found)
    if "errno" in found:
        raise StorageUnavailableError(found["path"] or target, OSError(found["errno"], os.strerror(found["errno"])))
    if "why" in found:
        raise FormGivenUpError(found["why"])
    if status < 0:
        raise PatchEndedError(f"its process ended by signal {-status}")
    raise FormGivenUpError(f"its process failed: {last}")


def main(old: Path, new: Path, target: Path) -> int:
    """Be that process; return its exit status."""
    threading.Thread(target=_end_with_starter, name="patchify-starter", daemon=True).start()
    try:
        _limit(old.stat().st_size, new.stat().st_size)
        found = _make(old.read_bytes(), new.read_bytes(), target)
    except MemoryError:
        found = {"why": _OUT_OF_MEMORY}
    except OSError as error:
        found = {"errno": error.errno or errno.EIO, "path": error.filename}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0 if "sha256" in found else 1


def _make(old: bytes, new: bytes, target: Path) -> dict[str, Any]:
    import hdiffpatch  # noqa: PLC0415 - an extra

    patch = hdiffpatch.diff(old, new, "lzma2", validate=False, big_cache_match=True)
    if len(patch) <= _SMALL:
        patch = min([patch, *(hdiffpatch.recompress(patch, codec) for codec in _CODECS)], key=len)
    result = hashlib.sha256(hdiffpatch.apply(old, patch)).hexdigest()
    wanted = hashlib.sha256(new).hexdigest()
    if result != wanted:
        return {"why": "what it made was wrong when it was tried"}
    with target.open("wb") as file:
        file.write(patch)
        file.flush()
        os.fsync(file.fileno())
    return {
        "sha256": hashlib.sha256(patch).hexdigest(),
        "size": len(patch),
        "old": hashlib.sha256(old).hexdigest(),
        "new": wanted,
    }


def _limit(old: int, new: int) -> None:
    """Let this process have no more memory than two files of these sizes may take, and be the first to go without."""
    if sys.platform != "win32":
        most = _PROGRAM + _OF_OLD * old + _OF_NEW * new
        with contextlib.suppress(OSError, ValueError):  # a lower limit is there
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _end_with_starter() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:4])))

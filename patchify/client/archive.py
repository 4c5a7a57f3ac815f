"""The release of a folder program: a tar archive, and how it becomes a folder.

That the archive is the signed one is known before; here it is distrusted all the same, so that whoever packs releases
carelessly, or was made to, harms nothing outside the folder. The headers are read here and not by `tarfile.TarFile`,
which takes a damaged header for the end, holds extended headers of any size in memory, and whose filters had to be
corrected in several of the Python versions this runs on. Nothing is ever written through a link: links are made last,
when all of them are known and checked.
"""

from __future__ import annotations

import itertools
import lzma
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from patchify.client.zstd import Decompressor, zstd_module
from patchify.errors import UnsafeArchiveError
from patchify.files import Progress, sync_folder

_PIECE = 64 * 1024  # bytes read, or decompressed, at once
_XZ_MEMORY = 256 * 1024 * 1024  # bytes; four times what the highest preset takes. zstd's own limit is 128 MiB.
_MOST_ENTRIES = 200_000  # members, and folders that no member names
_LONGEST_HEADER = 1024 * 1024  # bytes of an extended header, which is held in memory
_LONGEST_PATH = 1024  # bytes, of a name and of a link's target; the kernel allows 4096 with all that stands before
_LONGEST_NAME = 255  # bytes between two slashes
_DEEPEST = 100  # folders in folders: what removes the tree may recurse
_MOST_STEPS = 1000  # names on the way of a link through other links
_LATEST = 2**34 * 10**9  # ns, in the year 2514: later times do not fit every file system


def unpack(archive: BinaryIO, target: Path, *, max_bytes: int, progress: Progress) -> None:
    """Unpack a tar archive, plain or compressed with gz, xz or zstd, into the new folder ``target``; make it durable.

    An archive of one top-level folder and nothing else, as ``tar czf app.tgz app/`` makes it, becomes the content of
    that folder: ``app/run`` is ``target/run``. One that names its root, as ``tar czf app.tgz -C app .`` does, is taken
    as it is. ``target`` gets mode 0755; everything else keeps its mode without setuid, setgid, sticky bit and the
    right of others to write, but its owner may always read and write it. Times of modification are kept, since
    bytecode is looked up by them; owners are not. On any failure ``target`` is removed again.

    Args:
        archive: The archive, seekable; a file of the disk unbuffered.
        target: Must not exist; its parent must.
        max_bytes: How long the archive may be when decompressed, headers and padding included.
        progress: Called with the number of bytes of the archive, as it is compressed, that were read so far.

    Raises:
        UnsafeArchiveError: it is damaged, too large or empty, or a member is not to be unpacked.
        MissingExtraError: it is compressed with zstd, and nothing is installed that decompresses this.
        OSError: it cannot be read, or ``target`` not be written.
    """
    stream = _Stream(_open(archive, progress), max_bytes)
    os.mkdir(target, 0o700)
    try:
        _Unpacking(os.fsencode(target)).run(stream)
        sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


# From the file to the bytes of the archive ----------------------------------------------------------------------------


class _GzipDecompressor:
    """`zlib` in the shape of the others. It checks the checksum and length of each stream."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def _open(archive: BinaryIO, progress: Progress) -> Iterator[bytes]:
    archive.seek(0)
    magic = archive.read(6)
    archive.seek(0)
    pieces = _read(archive, progress)
    if magic.startswith(b"\x1f\x8b"):
        return _decompressed(pieces, _GzipDecompressor, zlib.error)
    if magic == b"\xfd7zXZ\0":
        new = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        return _decompressed(pieces, new, lzma.LZMAError)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        zstd = zstd_module()
        return _decompressed(pieces, zstd.ZstdDecompressor, zstd.ZstdError)
    return pieces


def _read(archive: BinaryIO, progress: Progress) -> Iterator[bytes]:
    done = 0
    while piece := archive.read(_PIECE):
        done += len(piece)
        progress(done)
        yield piece


def _decompressed(pieces: Iterator[bytes], new: Callable[[], Decompressor], error: type[Exception]) -> Iterator[bytes]:
    """Yield what the streams decompress to, never more than `_PIECE` bytes at once, however small they are."""
    decompressor = new()
    for piece in pieces:
        rest = piece
        while True:
            if decompressor.eof:
                decompressor = new()
            try:
                data = decompressor.decompress(rest, _PIECE)
            except error as cause:
                raise UnsafeArchiveError(f"is damaged: {cause}") from cause
            if data:
                yield data
            rest = decompressor.unused_data if decompressor.eof else b""
            if not rest and (decompressor.eof or decompressor.needs_input):
                break
    if not decompressor.eof:
        raise _truncated()


def _truncated() -> UnsafeArchiveError:
    return UnsafeArchiveError("ends too early")


class _Stream:
    """The bytes of the archive, in the sizes that are asked for, up to a limit."""

    def __init__(self, pieces: Iterator[bytes], limit: int) -> None:
        self._pieces = pieces
        self._limit = limit
        self._seen = 0
        self._buffer = memoryview(b"")

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Yield exactly the next ``size`` bytes."""
        while size:
            if not self._buffer and not self._fill():
                raise _truncated()
            piece, self._buffer = self._buffer[:size], self._buffer[size:]
            size -= len(piece)
            yield piece

    def take(self, size: int) -> bytes:
        return b"".join(self.pieces(size))

    def is_zero_to_its_end(self) -> bool:
        while not bytes(self._buffer).strip(b"\0"):  # many times faster than any()
            if not self._fill():
                return True
        return False

    def _fill(self) -> bool:
        piece = next(self._pieces, b"")
        self._seen += len(piece)
        if self._seen > self._limit:
            raise UnsafeArchiveError(f"unpacks to more than the {self._limit} bytes that are allowed")
        self._buffer = memoryview(piece)
        return bool(piece)


# From the bytes to the members ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _File:
    """A regular file, as it stands on the disk already."""


@dataclass(slots=True)
class _Link:
    """A symbolic link, not made yet."""

    target: bytes
    mtime: int  # ns


@dataclass(slots=True)
class _Folder:
    """A folder, which stands on the disk already, but gets its mode and time in the end."""

    entries: dict[bytes, _Entry] = field(default_factory=dict)
    mode: int = 0o755
    mtime: int | None = None  # ns; None of a folder that no member names


_Entry = _File | _Link | _Folder


@dataclass(frozen=True, slots=True)
class _Member:
    """What a header says, checked as far as it can be by itself."""

    name: str
    parts: tuple[bytes, ...]  # of the path; none of the root
    kind: type[_Entry]
    is_hard_link: bool
    size: int
    mode: int
    mtime: int  # ns
    linkname: bytes

    def unsafe(self, problem: str) -> UnsafeArchiveError:
        return UnsafeArchiveError(problem, self.name)


_KINDS: dict[bytes, type[_Entry]] = {
    tarfile.REGTYPE: _File,
    tarfile.AREGTYPE: _File,
    tarfile.CONTTYPE: _File,
    tarfile.LNKTYPE: _File,
    tarfile.SYMTYPE: _Link,
    tarfile.DIRTYPE: _Folder,
}
_EXTENSIONS = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")
_TIME = re.compile(rb"(-?\d{1,12})(?:\.(\d*))?")


def _members(stream: _Stream) -> Iterator[_Member]:
    """Yield the members; before the next one, the whole content of a member has to be taken from ``stream``."""
    shared: dict[bytes, bytes] = {}
    own: dict[bytes, bytes] = {}
    while any(block := stream.take(tarfile.BLOCKSIZE)):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            what = "is damaged, or not a tar archive, plain or compressed with gz, xz or zstd"
            raise UnsafeArchiveError(f"{what}: {error}") from error
        if info.type in _EXTENSIONS:
            _extend(shared, own, info, stream)
        else:
            member = _member(info, {**shared, **own})
            own = {}
            yield member
            _skip_padding(stream, member.size)
    if own:
        raise _truncated()
    if not stream.is_zero_to_its_end():
        raise UnsafeArchiveError("goes on after its end")


def _skip_padding(stream: _Stream, size: int) -> None:
    stream.take(-size % tarfile.BLOCKSIZE)


def _extend(shared: dict[bytes, bytes], own: dict[bytes, bytes], info: tarfile.TarInfo, stream: _Stream) -> None:
    """Take an extended header, which tells more of the next member, or of all that follow."""
    if not 0 <= info.size <= _LONGEST_HEADER:
        raise UnsafeArchiveError(f"has an extended header of {info.size} bytes")
    data = stream.take(info.size)
    _skip_padding(stream, info.size)
    if info.type == tarfile.GNUTYPE_LONGNAME:
        own[b"path"] = data.partition(b"\0")[0]
    elif info.type == tarfile.GNUTYPE_LONGLINK:
        own[b"linkpath"] = data.partition(b"\0")[0]
    else:
        (own if info.type == tarfile.XHDTYPE else shared).update(_records(data))


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of a pax header: length, space, key, ``=``, value, line feed; the length is of it all."""
    at = 0
    while at < len(data):
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        value = data[match.end() : end] if match else b""
        if not match or not value.endswith(b"\n") or end > len(data):
            raise UnsafeArchiveError("is damaged: an extended header is malformed")
        yield match[2], value[:-1]
        at = end


def _member(info: tarfile.TarInfo, records: dict[bytes, bytes]) -> _Member:
    path = records.get(b"path") or info.name.encode("utf-8", "surrogateescape")
    name = path.decode("utf-8", "surrogateescape")
    kind = _KINDS.get(info.type)
    if kind is None or any(key.startswith(b"GNU.sparse.") for key in records):
        raise UnsafeArchiveError("is a device, a pipe, a sparse file or something else that is not unpacked", name)
    size = info.size
    if digits := records.get(b"size"):
        size = int(digits) if digits.isdigit() and len(digits) < 20 else -1
    if size < 0 or (size and info.type not in tarfile.REGULAR_TYPES):
        raise UnsafeArchiveError("has a size that it cannot have", name)
    return _Member(
        name=name,
        parts=_parts(path, name),
        kind=kind,
        is_hard_link=info.type == tarfile.LNKTYPE,
        size=size,
        mode=info.mode,
        mtime=min(max(_mtime(info, records, name), 0), _LATEST),
        linkname=records.get(b"linkpath") or info.linkname.encode("utf-8", "surrogateescape"),
    )


def _mtime(info: tarfile.TarInfo, records: dict[bytes, bytes], name: str) -> int:
    if not (text := records.get(b"mtime")):
        return int(info.mtime) * 10**9
    if not (match := _TIME.fullmatch(text)):
        raise UnsafeArchiveError("has a time that is none", name)
    return int(match[1]) * 10**9 + int((match[2] or b"")[:9].ljust(9, b"0"))


def _parts(path: bytes, name: str) -> tuple[bytes, ...]:
    parts = tuple(part for part in path.split(b"/") if part not in {b"", b"."})
    problem = None
    if not path or b"\0" in path:
        problem = "has a name that is none"
    elif path.startswith(b"/"):
        problem = "has an absolute path"
    elif b".." in parts:
        problem = "has '..' in its path"
    elif len(path) > _LONGEST_PATH or len(parts) > _DEEPEST or any(len(part) > _LONGEST_NAME for part in parts):
        problem = "has too long a path"
    if problem:
        raise UnsafeArchiveError(problem, name)
    return parts


# From the members to the folder ---------------------------------------------------------------------------------------


class _Unpacking:
    """The folder as far as it is unpacked: files and folders stand on the disk, links in the tree only."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._root = _Folder()
        self._names_root = False
        self._count = 0

    def run(self, stream: _Stream) -> None:
        has_file = False
        for member in _members(stream):
            self._count_entry()
            if not member.parts:
                self._take_root(member)
            elif member.kind is _Folder:
                self._add_folder(member)
            elif member.kind is _Link:
                self._add_link(member)
            else:
                self._add_file(member, stream)
                has_file = True
        if not has_file:
            raise UnsafeArchiveError("is empty: it has no file")
        self._lift()
        self._root.mode = 0o755
        self._make_links([self._root], self._path)
        _settle_folder(self._root, self._path)

    def _count_entry(self) -> None:
        self._count += 1
        if self._count > _MOST_ENTRIES:
            raise UnsafeArchiveError(f"has more than {_MOST_ENTRIES} members")

    def _take_root(self, member: _Member) -> None:
        if member.kind is not _Folder:
            raise member.unsafe("has a name that is none")
        self._names_root = True
        self._root.mtime = member.mtime

    def _add_folder(self, member: _Member) -> None:
        entries, path = self._place(member)
        folder = entries.get(member.parts[-1])
        if not isinstance(folder, _Folder):
            folder = _Folder()
            os.mkdir(path, 0o700)
            entries[member.parts[-1]] = folder
        folder.mode = member.mode & 0o755 | 0o700
        folder.mtime = member.mtime

    def _add_link(self, member: _Member) -> None:
        entries, _ = self._place(member)
        target = member.linkname
        if not target or b"\0" in target or len(target) > _LONGEST_PATH or target.startswith(b"/"):
            raise member.unsafe("is a link to an absolute path, or to what cannot be a path")
        entries[member.parts[-1]] = _Link(target, member.mtime)

    def _add_file(self, member: _Member, stream: _Stream) -> None:
        entries, path = self._place(member)
        source = self._source(member) if member.is_hard_link else b""
        if member.parts[-1] in entries:  # as in an archive that was added to: the later one counts
            os.unlink(path)
        if source:
            os.link(source, path)
        else:
            _write(path, member, stream)
        entries[member.parts[-1]] = _File()

    def _place(self, member: _Member) -> tuple[dict[bytes, _Entry], bytes]:
        """Return the entries of the folder that ``member`` belongs to, which is made, and its own path."""
        *above, name = member.parts
        folder, path = self._root, self._path
        for part in above:
            path += b"/" + part
            entry = folder.entries.get(part)
            if entry is None:
                self._count_entry()
                os.mkdir(path, 0o700)
                folder.entries[part] = entry = _Folder()
            if not isinstance(entry, _Folder):
                raise member.unsafe("would be unpacked through a link or a file")
            folder = entry
        if not isinstance(folder.entries.get(name), member.kind | None):
            raise member.unsafe("stands there twice, as different things")
        return folder.entries, path + b"/" + name

    def _source(self, member: _Member) -> bytes:
        """Return the path of the file that the hard link ``member`` is to be another name of."""
        parts = _parts(member.linkname, member.name)
        entry: _Entry | None = self._root
        for part in parts:
            entry = entry.entries.get(part) if isinstance(entry, _Folder) else None
        if not isinstance(entry, _File) or parts == member.parts:
            raise member.unsafe("is a hard link to what is no other file before it")
        return b"/".join((self._path, *parts))

    def _lift(self) -> None:
        """Let the content of the one top-level folder be that of the root."""
        (name, folder), *more = self._root.entries.items()
        if self._names_root or more or not isinstance(folder, _Folder):
            return
        spare = next(each for number in itertools.count() if (each := b"%d" % number) not in folder.entries)
        emptied = self._path + b"/" + spare  # so that the folder may have an entry of its own name
        os.replace(self._path + b"/" + name, emptied)
        for each, entry in folder.entries.items():
            if not isinstance(entry, _Link):
                os.replace(emptied + b"/" + each, self._path + b"/" + each)
        os.rmdir(emptied)
        self._root = folder

    def _make_links(self, way: list[_Folder], path: bytes) -> None:
        """Make the links of the last folder of ``way``, which leads to it from the root, and those below it."""
        for name, entry in way[-1].entries.items():
            here = path + b"/" + name
            if isinstance(entry, _Link):
                if problem := _problem_of_link(way, entry):
                    raise UnsafeArchiveError(problem, os.fsdecode(here.removeprefix(self._path + b"/")))
                os.symlink(entry.target, here)
                os.utime(here, ns=(entry.mtime, entry.mtime), follow_symlinks=False)
            elif isinstance(entry, _Folder):
                self._make_links([*way, entry], here)


def _problem_of_link(way: list[_Folder], link: _Link) -> str | None:
    """Follow ``link``, which stands in the last folder of ``way``, as the kernel would, in the tree.

    What is not there is taken for a folder without links: a link may wait for what the program creates.
    """
    stack: list[_File | _Folder] = list(way)
    todo = link.target.split(b"/")[::-1]
    steps = len(todo)
    while todo:
        part = todo.pop()
        if part == b"..":
            stack.pop()
            if not stack:
                return "is a link that leads out of the folder"
        elif part not in {b"", b"."}:
            here = stack[-1]
            entry = here.entries.get(part, _Folder()) if isinstance(here, _Folder) else here
            if isinstance(entry, _Link):
                further = entry.target.split(b"/")[::-1]
                todo += further
                steps += len(further)
            else:
                stack.append(entry)
        if steps > _MOST_STEPS:
            return "is a link that leads through too many links"
    return None


def _write(path: bytes, member: _Member, stream: _Stream) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with FileIO(os.open(path, flags, 0o600), "w") as file:
        for piece in stream.pieces(member.size):
            rest = piece
            while rest:
                rest = rest[file.write(rest) :]
        _settle(file.fileno(), member.mode & 0o755 | 0o600, member.mtime)


def _settle_folder(folder: _Folder, path: bytes) -> None:
    """Give all folders their mode and time and make them durable, the inner ones first; the files are already."""
    for name, entry in folder.entries.items():
        if isinstance(entry, _Folder):
            _settle_folder(entry, path + b"/" + name)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _settle(descriptor, folder.mode, folder.mtime)
    finally:
        os.close(descriptor)


def _settle(descriptor: int, mode: int, mtime: int | None) -> None:
    os.fchmod(descriptor, mode)
    if mtime is not None:
        os.utime(descriptor, ns=(mtime, mtime))
    os.fsync(descriptor)

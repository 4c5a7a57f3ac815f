"""What a power cut may leave of recorded file operations: a model of journalling file systems, as trees to look at.

A story is an initial tree and the operations that a process then did. `legal_states` cuts the power after each of them
and yields every tree that may be found afterwards. What the model holds for possible and for certain:

* **Data of a file** is certain once that file was fsynced (or fdatasynced, for all but its mode). Until then each of
  these may be found: nothing of what was written since, every prefix of the writes, a write torn in its middle or at
  the first or last block it reaches, the new size with zeros in place of the data (of all writes, of the last one, or
  of what is left of a torn one), and all writes but one, as pages are written back in any order. Shortening
  a file is such a write too, so O_TRUNC may be found done and what followed it not.
* **Names** (create, link, symlink, mkdir, unlink, rmdir, rename, exchange) are certain once the folder was fsynced. To
  fsync the file makes its name no more certain: fsync(2) promises none. Each is atomic, a rename between two folders
  too.
* **Order of names**, ``reorder_directories=False``: one journal, as ext4 and XFS have it. What is found is a prefix of
  all operations on names, so a name that is certain makes all before it certain, and of a rename between two folders
  the fsync of either is enough. ``reorder_directories=True``: stricter than those two. Only operations on the same
  folder keep their order; those of different folders are lost independently of each other. A rename between two
  folders belongs to the order of both and is certain only when both were fsynced (or when something later in one of
  them is certain, and its order demands it). Every state of the first kind is one of the second too.
* **Data and names** know nothing of each other: a new name may be found with a file without its data. ext4 writes data
  out at a rename over an existing file (``auto_da_alloc``); nobody may rely on it, so the model does not.
* **Modes** are found as at the last fsync or as anything they were set to since. Owners and times are no part of a tree.

Sources: Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014, ALICE: abstract persistence models);
Documentation/filesystems/ext4 (``data=ordered``, ``auto_da_alloc``) and xfs-delayed-logging-design of the Linux kernel
("strictly ordered metadata"); Mohan et al., "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing" (OSDI
2018); fsync(2). What the model leaves out: media that lie about a flush, bit rot, and stale blocks in place of zeros.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

ROOT = 0  # the inode of the folder that a tree is of
BLOCK = 4096  # bytes that a file system gives to a file at once
MOST_NAMINGS = 4096  # arrangements of names that one cut is looked at in full with
MOST_CONTENTS = 1024  # combinations of contents that one arrangement of names is looked at in full with
MOST_PAIRS = 20_000  # combinations beyond which even pairs are left out
MOST_WRITES = 32  # unsynced writes of one file that are each torn, zeroed and left out; more are only cut short


@dataclass(frozen=True)
class File:
    """A file. Paths with the same ``inode`` are hard links of each other."""

    data: bytes
    mode: int
    inode: int


@dataclass(frozen=True)
class Folder:
    mode: int


@dataclass(frozen=True)
class Symlink:
    target: str


Node = File | Folder | Symlink
Tree = Mapping[str, Node]
"""Paths relative to a folder, in order, and what is there. Immutable. The folder itself is not in it."""


def make_tree(nodes: Mapping[str, Node]) -> Tree:
    return MappingProxyType({path: nodes[path] for path in sorted(nodes)})


def read_tree(folder: Path) -> Tree:
    """Return what is below ``folder``. Raises `ValueError` where something else than files, folders and links is."""
    nodes: dict[str, Node] = {}
    inodes: dict[tuple[int, int], int] = {}
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in sorted(folders + files)):
            there = path.lstat()
            mode = stat.S_IMODE(there.st_mode)
            relative = path.relative_to(folder).as_posix()
            if stat.S_ISLNK(there.st_mode):
                nodes[relative] = Symlink(os.readlink(path))
            elif stat.S_ISDIR(there.st_mode):
                nodes[relative] = Folder(mode)
            elif stat.S_ISREG(there.st_mode):
                inode = inodes.setdefault((there.st_dev, there.st_ino), len(inodes) + 1)
                nodes[relative] = File(path.read_bytes(), mode, inode)
            else:
                raise ValueError(f"{path} is no file, folder or symbolic link")
    return make_tree(nodes)


def materialise(tree: Tree, folder: Path) -> None:
    """Make ``folder``, which is not there or empty, be as ``tree``."""
    folder.mkdir(exist_ok=True)
    first: dict[int, Path] = {}
    modes: list[tuple[Path, int]] = []
    for relative, node in tree.items():  # in order, so that a folder comes before what is in it
        path = folder / relative
        if isinstance(node, Folder):
            path.mkdir()
            modes.append((path, node.mode))
        elif isinstance(node, Symlink):
            path.symlink_to(node.target)
        elif node.inode in first:
            path.hardlink_to(first[node.inode])
        else:
            first[node.inode] = path
            path.write_bytes(node.data)
            path.chmod(node.mode)
    for path, mode in reversed(modes):  # last, and from the inside out: a mode may forbid to enter
        path.chmod(mode)


def digest(tree: Tree) -> str:
    """Return the same string for trees that look the same, whatever the numbers of their inodes."""
    first: dict[int, str] = {}
    found = hashlib.blake2b()
    for path, node in tree.items():
        if isinstance(node, File):
            same = first.setdefault(node.inode, path)
            known = ("file", node.mode, same, hashlib.blake2b(node.data).hexdigest())
            found.update(repr((path, known)).encode())
        else:
            found.update(repr((path, node)).encode())
    return found.hexdigest()


@dataclass(frozen=True)
class Edit:
    """One entry of one folder: what ``name`` means from now on, or that it is gone."""

    folder: int
    name: str
    inode: int | None


@dataclass(frozen=True)
class Naming:
    """An operation on names: all edits or none. ``made`` is the inode that came into being with it."""

    what: str
    edits: tuple[Edit, ...]
    made: tuple[int, Node] | None = None


@dataclass(frozen=True)
class Write:
    inode: int
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Resize:
    inode: int
    size: int


@dataclass(frozen=True)
class Chmod:
    inode: int
    mode: int


@dataclass(frozen=True)
class Attributes:
    """Owner or times. A tree does not show them."""

    inode: int
    what: str


@dataclass(frozen=True)
class Sync:
    """An fsync of a file or a folder, or an fdatasync."""

    inode: int
    data_only: bool = False


@dataclass(frozen=True)
class SyncAll:
    """A sync or syncfs."""


Op = Naming | Write | Resize | Chmod | Attributes | Sync | SyncAll


def _apply(content: bytes, op: Write | Resize) -> bytes:
    if isinstance(op, Resize):
        return content[: op.size].ljust(op.size, b"\0")
    return content[: op.offset].ljust(op.offset, b"\0") + op.data + content[op.offset + len(op.data) :]


class _Disk:
    """The initial tree as inodes. Both who writes a story and who reads it number what is there the same way."""

    def __init__(self, tree: Tree) -> None:
        self.nodes: dict[int, Node] = {ROOT: Folder(0o755)}
        self.entries: dict[int, dict[str, int]] = {ROOT: {}}
        self.next = 1 + max((node.inode for node in tree.values() if isinstance(node, File)), default=ROOT)
        at = {"": ROOT}
        for path, node in tree.items():
            if isinstance(node, File):
                at[path] = node.inode
            else:
                at[path] = self.next
                self.next += 1
            self.nodes[at[path]] = node
            if isinstance(node, Folder):
                self.entries[at[path]] = {}
            parent, _, name = path.rpartition("/")
            self.entries[at[parent]][name] = at[path]


class Story:
    """Operations by their paths, as a process does them, from an initial tree on.

    Methods do what the system call of that name does when it succeeds, and raise `FileNotFoundError`, `FileExistsError`
    or `NotADirectoryError` where it cannot have succeeded. Where a file is meant its inode may be given for its path,
    as a process may write to what no longer has a name.
    """

    def __init__(self, initial: Tree) -> None:
        self.initial = initial
        self.operations: list[Op] = []
        self._disk = _Disk(initial)

    def tree(self) -> Tree:
        """Return what is there when nothing is lost."""
        return _tree(_layout(self._disk.entries), self._disk.nodes)

    def find(self, path: str) -> int | None:
        """Return the inode at ``path``, following no links."""
        inode: int | None = ROOT
        for name in path.split("/") if path else []:
            inode = self._disk.entries.get(inode, {}).get(name) if inode is not None else None
        return inode

    def node(self, file: str | int) -> Node:
        return self._disk.nodes[self._inode(file)]

    def create(self, path: str, mode: int = 0o644) -> int:
        return self._make("create", path, File(b"", mode, self._disk.next))

    def mkdir(self, path: str, mode: int = 0o755) -> int:
        return self._make("mkdir", path, Folder(mode))

    def symlink(self, target: str, path: str) -> int:
        return self._make("symlink", path, Symlink(target))

    def link(self, old: str, new: str) -> None:
        self._absent(new)
        self._name(f"link {old} to {new}", {new: self._inode(old)})

    def unlink(self, path: str) -> None:
        self._inode(path)
        self._name(f"unlink {path}", {path: None})

    def rmdir(self, path: str) -> None:
        if self._disk.entries[self._inode(path)]:
            raise FileExistsError(f"{path} is not empty")
        self._name(f"rmdir {path}", {path: None})

    def rename(self, old: str, new: str) -> None:
        inode = self._inode(old)
        if self.find(new) != inode:  # two names of one file: POSIX has rename do nothing
            self._name(f"rename {old} to {new}", {old: None, new: inode})

    def exchange(self, one: str, other: str) -> None:
        self._name(f"exchange {one} and {other}", {one: self._inode(other), other: self._inode(one)})

    def write(self, file: str | int, data: bytes, offset: int | None = None) -> None:
        """Write at ``offset``, or append."""
        inode, content = self._content(file)
        self._change(Write(inode, len(content) if offset is None else offset, data))

    def resize(self, file: str | int, size: int) -> None:
        inode, content = self._content(file)
        if size != len(content):
            self._change(Resize(inode, size))

    def chmod(self, file: str | int, mode: int) -> None:
        inode = self._inode(file)
        node = self._disk.nodes[inode]
        if isinstance(node, Symlink):
            raise TypeError(f"{file} is a symbolic link")
        self._disk.nodes[inode] = replace(node, mode=mode)
        self.operations.append(Chmod(inode, mode))

    def attributes(self, file: str | int, what: str) -> None:
        self.operations.append(Attributes(self._inode(file), what))

    def fsync(self, file: str | int, *, data_only: bool = False) -> None:
        self.operations.append(Sync(self._inode(file), data_only))

    def sync(self) -> None:
        self.operations.append(SyncAll())

    def _inode(self, file: str | int) -> int:
        inode = self.find(file) if isinstance(file, str) else file
        if inode not in self._disk.nodes:
            raise FileNotFoundError(file)
        return inode

    def _content(self, file: str | int) -> tuple[int, bytes]:
        inode = self._inode(file)
        node = self._disk.nodes[inode]
        if not isinstance(node, File):
            raise TypeError(f"{file} is no file")
        return inode, node.data

    def _absent(self, path: str) -> None:
        if self.find(path) is not None:
            raise FileExistsError(path)

    def _make(self, verb: str, path: str, node: Node) -> int:
        self._absent(path)
        inode = self._disk.next
        self._name(f"{verb} {path}", {path: inode}, (inode, node))
        self._disk.next += 1
        self._disk.nodes[inode] = node
        if isinstance(node, Folder):
            self._disk.entries[inode] = {}
        return inode

    def _name(self, what: str, names: dict[str, int | None], made: tuple[int, Node] | None = None) -> None:
        edits = []
        for path, inode in names.items():
            parent, _, name = path.rpartition("/")
            folder = self.find(parent)
            if folder not in self._disk.entries:
                raise NotADirectoryError(parent)
            edits.append(Edit(folder, name, inode))
        self.operations.append(Naming(what, tuple(edits), made))
        _rename(self._disk.entries, edits)

    def _change(self, op: Write | Resize) -> None:
        node = self._disk.nodes[op.inode]
        assert isinstance(node, File)
        self._disk.nodes[op.inode] = replace(node, data=_apply(node.data, op))
        self.operations.append(op)


def _rename(entries: dict[int, dict[str, int]], edits: Iterable[Edit]) -> None:
    for edit in edits:
        if edit.inode is None:
            entries[edit.folder].pop(edit.name, None)
        else:
            entries[edit.folder][edit.name] = edit.inode


def _layout(entries: Mapping[int, Mapping[str, int]]) -> tuple[tuple[str, int], ...]:
    """Return every path that leads anywhere, with its inode, in order."""
    found: list[tuple[str, int]] = []
    ahead = [("", ROOT, frozenset({ROOT}))]
    while ahead:
        prefix, folder, above = ahead.pop()
        for name, inode in entries[folder].items():
            if inode in above:
                raise ValueError(f"{prefix}{name} lies in itself")
            found.append((prefix + name, inode))
            if inode in entries:
                ahead.append((f"{prefix}{name}/", inode, above | {inode}))
    return tuple(sorted(found))


def _tree(layout: Iterable[tuple[str, int]], nodes: Mapping[int, Node]) -> Tree:
    return MappingProxyType({path: nodes[inode] for path, inode in layout})


@dataclass(frozen=True)
class _Content:
    """What a file or a folder may be found as. ``key`` is equal where that is."""

    lost: str
    node: Node
    key: tuple[object, ...]


@dataclass
class Coverage:
    """How much was looked at, to be printed: an iterator of states fills it in."""

    operations: int = 0
    cuts: int = 0
    states: int = 0
    duplicates: int = 0
    bounded: dict[str, None] = field(default_factory=dict)  # a set that keeps its order

    def table(self) -> str:
        """Return the figures, and where not every combination was looked at, what was instead."""
        rows = [f"{name:<12}{getattr(self, name):>9,}" for name in ("operations", "cuts", "states", "duplicates")]
        return "\n".join([*rows, *(f"not in full: {each}" for each in self.bounded or ["nothing, all combinations"])])


def legal_states(
    initial: Tree,
    operations: Sequence[Op],
    *,
    reorder_directories: bool,
    cuts: Iterable[int] | None = None,
    coverage: Coverage | None = None,
) -> Iterator[tuple[int, str, Tree]]:
    """Yield every tree that a power cut may leave: after how many operations, what was lost, and the tree.

    A tree is yielded once, with the first cut that may leave it. To learn what may be found after one of them, say the
    last, ask with ``cuts=[len(operations)]``. Where the combinations are too many (`MOST_NAMINGS`, `MOST_CONTENTS`),
    nothing lost, everything lost, every prefix, every single loss and every pair of losses are looked at, and
    ``coverage`` says so.
    """
    space = _Space(initial, operations, coverage or Coverage(), reorder_directories)
    seen: set[object] = set()
    for cut in range(len(operations) + 1) if cuts is None else cuts:
        space.coverage.cuts += 1
        for kept, lost_names in space.namings(cut):
            layout = space.layout(kept)
            for contents in space.contents(layout, cut):
                look = layout.looks, tuple(content.key for content in contents)
                if look in seen:
                    space.coverage.duplicates += 1
                    continue
                seen.add(look)
                space.coverage.states += 1
                nodes = dict(zip(layout.inodes, (content.node for content in contents), strict=True))
                lost = [*lost_names, *(content.lost for content in contents if content.lost)]
                yield cut, "; ".join(lost) or "nothing", _tree(layout.paths, nodes)


def may_leave(
    tree: Tree, initial: Tree, operations: Sequence[Op], *, reorder_directories: bool, cut: int | None = None
) -> bool:
    """Tell whether a power cut after ``cut`` operations, or all, may leave ``tree``.

    Contents are asked for file by file, so that this is exact also where `legal_states` cannot yield all combinations.
    """
    cut = len(operations) if cut is None else cut
    space = _Space(initial, operations, Coverage(), reorder_directories)
    first: dict[int, str] = {}
    looks = tuple(
        (path, first.setdefault(node.inode, path) if isinstance(node, File) else path) for path, node in tree.items()
    )
    layouts = (space.layout(kept) for kept, _ in space.namings(cut))
    return any(layout.looks == looks and space.may_hold(layout, tree, cut) for layout in layouts)


@dataclass(frozen=True)
class _Layout:
    """Where names lead: ``looks`` are the paths with the first path of the same inode, ``inodes`` each one once."""

    paths: tuple[tuple[str, int], ...]
    looks: tuple[tuple[str, str], ...]
    inodes: tuple[int, ...]


class _Space:
    """What may be found after each cut: which names, and for each inode which content."""

    def __init__(self, initial: Tree, operations: Sequence[Op], coverage: Coverage, reorder: bool) -> None:
        self.coverage = coverage
        coverage.operations = len(operations)
        self._operations = operations
        self._reorder = reorder
        self._disk = _Disk(initial)
        self._first_paths: dict[int, str] = {}
        self._layouts: dict[tuple[int, ...], _Layout] = {}
        self._contents: dict[tuple[int, int, int, int], list[_Content]] = {}
        self._changes: dict[int, list[int]] = {}  # inode: indices of what was done to its content or mode
        self._namings: list[int] = []
        self._syncs: dict[tuple[int, bool] | None, list[int]] = {}  # (inode, data only) or, for all, None: indices
        for index, op in enumerate(operations):
            if isinstance(op, Naming):
                self._namings.append(index)
                if op.made:
                    inode, node = op.made
                    self._disk.nodes[inode] = node
                    if isinstance(node, Folder):
                        self._disk.entries[inode] = {}
            elif isinstance(op, Write | Resize | Chmod):
                self._changes.setdefault(op.inode, []).append(index)
            elif isinstance(op, Sync | SyncAll):
                which = (op.inode, op.data_only) if isinstance(op, Sync) else None
                self._syncs.setdefault(which, []).append(index)

    def namings(self, cut: int) -> Iterator[tuple[tuple[int, ...], list[str]]]:
        """Yield the operations on names that survive, with what the others were."""
        done = [index for index in self._namings if index < cut]
        certain = self._certain(done, cut)
        for kept in self._surviving(done, certain):
            there = set(kept)
            yield kept, [self._naming(index).what for index in done if index not in there]

    def layout(self, kept: tuple[int, ...]) -> _Layout:
        if kept not in self._layouts:
            entries = {folder: dict(names) for folder, names in self._disk.entries.items()}
            for index in kept:
                _rename(entries, self._naming(index).edits)
            paths = _layout(entries)
            first: dict[int, str] = {}
            looks = tuple((path, first.setdefault(inode, path)) for path, inode in paths)
            self._layouts[kept] = _Layout(paths, looks, tuple(first))
            for inode, path in first.items():
                self._first_paths.setdefault(inode, path)
        return self._layouts[kept]

    def contents(self, layout: _Layout, cut: int) -> Iterator[tuple[_Content, ...]]:
        choices = [self._may_be(inode, cut) for inode in layout.inodes]
        if math.prod(map(len, choices)) <= MOST_CONTENTS:
            return itertools.product(*choices)
        return self._some_contents(choices)

    def may_hold(self, layout: _Layout, tree: Tree, cut: int) -> bool:
        """Tell whether each path of ``layout`` may be found as it is in ``tree``."""
        return all(
            any(_known_by(tree[path]) == content.key for content in self._may_be(inode, cut))
            for path, inode in layout.paths
        )

    def _naming(self, index: int) -> Naming:
        op = self._operations[index]
        assert isinstance(op, Naming)
        return op

    def _folders(self, index: int) -> set[int]:
        return {edit.folder for edit in self._naming(index).edits}

    def _last_sync(self, inode: int, cut: int, *, data: bool = False) -> int:
        """Return the index of the last operation that made ``inode`` durable, or -1."""
        lists = [self._syncs.get(each, []) for each in [None, (inode, False), *([(inode, True)] if data else [])]]
        return max((known[at - 1] for known in lists if (at := bisect.bisect_left(known, cut))), default=-1)

    def _certain(self, done: list[int], cut: int) -> set[int]:
        synced = {folder: self._last_sync(folder, cut) for index in done for folder in self._folders(index)}
        enough = all if self._reorder else any
        certain = {index for index in done if enough(synced[folder] > index for folder in self._folders(index))}
        if not self._reorder:
            return {index for index in done if index <= max(certain, default=-1)}
        needed: set[int] = set()  # folders in which something later is certain, and with it, by order, all before it
        for index in reversed(done):
            if index in certain or self._folders(index) & needed:
                certain.add(index)
                needed |= self._folders(index)
        return certain

    def _surviving(self, done: list[int], certain: set[int]) -> Iterable[tuple[int, ...]]:
        if not self._reorder:
            return (tuple(done[:count]) for count in range(len(done), len(certain) - 1, -1))
        found = list(itertools.islice(self._arrangements(done, certain), MOST_NAMINGS + 1))
        if len(found) <= MOST_NAMINGS:
            return found
        self.coverage.bounded["names: each prefix, and each one and two folders' losses"] = None
        return self._some_arrangements(done, certain)

    def _arrangements(self, done: list[int], certain: set[int]) -> Iterator[tuple[int, ...]]:
        """Yield each choice that is a prefix in every folder, with all that is certain."""
        ahead: list[tuple[int, tuple[int, ...], frozenset[int]]] = [(0, (), frozenset())]
        while ahead:
            position, kept, ended = ahead.pop()
            if position == len(done):
                yield kept
                continue
            index, folders = done[position], self._folders(done[position])
            if index not in certain:
                ahead.append((position + 1, kept, ended | folders))
            if not folders & ended:
                ahead.append((position + 1, (*kept, index), ended))

    def _some_arrangements(self, done: list[int], certain: set[int]) -> Iterator[tuple[int, ...]]:
        for count in range(len(done), -1, -1):
            if certain <= set(done[:count]):
                yield tuple(done[:count])
        open_ends = [index for index in done if index not in certain]
        for first in itertools.chain([()], itertools.combinations(open_ends, 1), itertools.combinations(open_ends, 2)):
            yield self._without(done, set(first))
        yield self._without(done, set(open_ends))

    def _without(self, done: list[int], lost: set[int]) -> tuple[int, ...]:
        """Return what survives when ``lost`` and what came after it in the same folders does not."""
        ended: set[int] = set()
        kept = []
        for index in done:
            if index in lost or self._folders(index) & ended:
                ended |= self._folders(index)
            else:
                kept.append(index)
        return tuple(kept)

    def _some_contents(self, choices: list[list[_Content]]) -> Iterator[tuple[_Content, ...]]:
        whole = tuple(each[0] for each in choices)
        nothing = tuple(each[min(1, len(each) - 1)] for each in choices)
        yield whole
        yield nothing
        for base, (position, each) in itertools.product((whole, nothing), enumerate(choices)):
            for content in each:
                yield (*base[:position], content, *base[position + 1 :])
        open_ends = [position for position, each in enumerate(choices) if len(each) > 1]
        pairs = list(itertools.combinations(open_ends, 2))
        if sum(len(choices[one]) * len(choices[other]) for one, other in pairs) > MOST_PAIRS:
            self.coverage.bounded["contents: all, none, and each file's losses with all and with none else"] = None
            return
        self.coverage.bounded["contents: all, none, each file's losses, and each two files' losses"] = None
        for one, other in pairs:
            for first, second in itertools.product(choices[one], choices[other]):
                both = list(whole)
                both[one], both[other] = first, second
                yield tuple(both)

    def _may_be(self, inode: int, cut: int) -> list[_Content]:
        """Return what may be found of ``inode``: first all that was done, second, if that differs, what is certain."""
        done = [index for index in self._changes.get(inode, []) if index < cut]
        data_sync = self._last_sync(inode, cut, data=True)
        mode_sync = self._last_sync(inode, cut)
        key = (inode, len(done), sum(i < data_sync for i in done), sum(i < mode_sync for i in done))
        if key not in self._contents:
            self._contents[key] = self._choices(inode, done, data_sync, mode_sync)
        return self._contents[key]

    def _choices(self, inode: int, done: list[int], data_sync: int, mode_sync: int) -> list[_Content]:
        node = self._disk.nodes[inode]
        if isinstance(node, Symlink):
            return [_Content("", node, _known_by(node))]
        name = self._first_paths[inode]
        modes = [node.mode]
        for index in done:
            if isinstance(op := self._operations[index], Chmod):
                modes = [op.mode] if index < mode_sync else [op.mode, *(mode for mode in modes if mode != op.mode)]
        lost_modes = [(f"chmod {name} to {modes[0]:o}" if mode != modes[0] else "", mode) for mode in modes]
        if isinstance(node, Folder):
            return [_Content(lost, Folder(mode), _known_by(Folder(mode))) for lost, mode in lost_modes]
        base, pending = node.data, []
        for index in done:
            if isinstance(op := self._operations[index], Write | Resize):
                if index < data_sync:
                    base = _apply(base, op)
                else:
                    pending.append(op)
        found: dict[tuple[object, ...], _Content] = {}
        for lost_mode, mode in lost_modes:
            for lost_data, data in self._data(base, pending):
                file = File(data, mode, inode)
                key = _known_by(file)
                lost = "; ".join(each for each in (f"{name}: {lost_data}" if lost_data else "", lost_mode) if each)
                found.setdefault(key, _Content(lost, file, key))
        return list(found.values())

    def _data(self, base: bytes, pending: list[Write | Resize]) -> Iterator[tuple[str, bytes]]:
        prefixes = list(itertools.accumulate(pending, _apply, initial=base))
        yield "", prefixes[-1]
        for count in range(len(pending)):
            yield f"all after {count} of {len(pending)} changes", prefixes[count]
        yield "data, found as zeros", list(itertools.accumulate(pending, _without_data, initial=base))[-1]
        thorough: Iterable[int] = range(len(pending))
        if len(pending) > MOST_WRITES:
            self.coverage.bounded[f"files of more than {MOST_WRITES} writes: each prefix, but only three torn"] = None
            thorough = sorted({0, len(pending) // 2, len(pending) - 1})
        for position in thorough:
            before, op = prefixes[position], pending[position]
            which = f"change {position + 1} of {len(pending)}"
            if isinstance(op, Write):
                yield f"all from {which} on, found as zeros", _without_data(before, op)
                for length in _tears(op):
                    torn = replace(op, data=op.data[:length])
                    yield f"all from byte {length} of {which} on", _apply(before, torn)
                    yield f"all from byte {length} of {which} on, the rest found as zeros", _without_data(before, torn)
            others = (*pending[:position], *pending[position + 1 :])
            yield f"only {which}", list(itertools.accumulate(others, _apply, initial=base))[-1]


def _tears(op: Write) -> list[int]:
    """Return after how many bytes a write is torn: in its middle, and at the first and last block it reaches."""
    end = op.offset + len(op.data)
    first, last = (op.offset // BLOCK + 1) * BLOCK, (end - 1) // BLOCK * BLOCK
    return sorted({len(op.data) // 2, *(block - op.offset for block in (first, last) if op.offset < block < end)})


def _known_by(node: Node) -> tuple[object, ...]:
    """Return a short key that is equal for nodes that look the same."""
    if isinstance(node, File):
        return File, node.mode, hashlib.blake2b(node.data).digest()
    return type(node), node


def _without_data(content: bytes, op: Write | Resize) -> bytes:
    return _apply(content, op) if isinstance(op, Resize) else content.ljust(op.offset + len(op.data), b"\0")


@dataclass
class Survey:
    """What a judge said of every state. ``failures``: after how many operations, what was lost, what is wrong."""

    coverage: Coverage
    failures: list[tuple[int, str, str]]

    def table(self) -> str:
        """Return the figures and the failures, to be printed."""
        rows = [f"after {cut}, lost: {lost}: {wrong}" for cut, lost, wrong in self.failures]
        return "\n".join([self.coverage.table(), f"{'failures':<12}{len(rows):>9,}", *rows])


def survey(
    initial: Tree,
    operations: Sequence[Op],
    judge: Callable[[Path, int], str | None],
    scratch: Path,
    *,
    reorder_directories: bool,
    cuts: Iterable[int] | None = None,
) -> Survey:
    """Make every legal state in a folder in ``scratch`` and ask ``judge`` what is wrong with it.

    ``judge`` gets the folder, which it may change, and after how many operations the power was cut. It returns what is
    wrong, or None. With ``cuts``, each cut is judged on its own; without, a state is judged once, at its first cut.
    """
    result = Survey(Coverage(), [])
    folder = scratch / "state"
    for each in [None] if cuts is None else [[cut] for cut in cuts]:
        states = legal_states(
            initial, operations, reorder_directories=reorder_directories, cuts=each, coverage=result.coverage
        )
        for cut, lost, tree in states:
            try:
                materialise(tree, folder)
                if wrong := judge(folder, cut):
                    result.failures.append((cut, lost, wrong))
            finally:
                _remove(folder)
    return result


def _remove(folder: Path) -> None:
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            if not (path := Path(parent, name)).is_symlink():
                path.chmod(0o700)  # a state may have folders that nobody may change
    shutil.rmtree(folder)

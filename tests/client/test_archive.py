import errno
import gzip
import io
import itertools
import lzma
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
from io import FileIO
from pathlib import Path
from tarfile import BLKTYPE, CHRTYPE, CONTTYPE, DIRTYPE, FIFOTYPE, GNUTYPE_SPARSE, LNKTYPE, REGTYPE, SYMTYPE, TarInfo

import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchify.client import archive
from patchify.client.archive import unpack
from patchify.errors import MissingExtraError, PatchifyError, RejectedError, UnsafeArchiveError

PLENTY = 100_000_000  # bytes
TIME = 1_700_000_000  # seconds
COMPRESSIONS = {"plain": lambda data: data, "gz": gzip.compress, "xz": lzma.compress, "zstd": zstd.compress}
EVERY_COMPRESSION = pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS.keys())
EVERY_REAL_COMPRESSION = pytest.mark.parametrize("name", ["gz", "xz", "zstd"])


def ignore(done):
    pass


def entry(name, kind=REGTYPE, data=b"", *, mode=0o644, link="", mtime=TIME, headers=None):
    info = TarInfo(name)
    info.type, info.mode, info.linkname, info.mtime, info.size = kind, mode, link, mtime, len(data)
    info.uid = info.gid = 12345
    info.pax_headers = headers or {}
    return info, data


def tar(*entries, style=tarfile.PAX_FORMAT, headers=None):
    file = io.BytesIO()
    with tarfile.open(
        fileobj=file, mode="w", format=style, pax_headers=headers, encoding="utf-8", errors="surrogateescape"
    ) as made:
        for info, data in entries:
            made.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "unpacked"


@pytest.fixture
def opened(target):
    """Return a function that unpacks bytes, and checks that nothing is there if that fails."""

    def unpack_bytes(data: bytes, *, max_bytes=PLENTY, progress=ignore) -> Path:
        before = set(os.listdir(target.parent))
        with tempfile.NamedTemporaryFile(buffering=0) as file:
            file.write(data)
            try:
                unpack(file.file, target, max_bytes=max_bytes, progress=progress)
            except BaseException:
                assert set(os.listdir(target.parent)) == before
                raise
        return target

    return unpack_bytes


def refused(opened, data, problem, member=None, **limits):
    with pytest.raises(UnsafeArchiveError, match=problem) as caught:
        opened(data, **limits)
    assert caught.value.member == member
    assert isinstance(caught.value, RejectedError)


def tree(folder):
    """Return what is in a folder: contents of files, targets of links, None for folders."""
    found = {}
    for where, folders, files in os.walk(os.fsencode(folder)):
        for name in folders + files:
            path = os.path.join(where, name)
            key = os.path.relpath(path, os.fsencode(folder))
            if os.path.islink(path):
                found[key] = ("link", os.readlink(path))
            elif os.path.isdir(path):
                found[key] = None
            else:
                with open(path, "rb") as file:
                    found[key] = file.read()
    return found


# What is taken --------------------------------------------------------------------------------------------------------

PROGRAM = [
    entry("app/", DIRTYPE, mode=0o755, mtime=TIME + 1),
    entry("app/app", data=b"program" * 100_000, mode=0o755),
    entry("app/lib/libx.so.1", data=b"library"),
    entry("app/lib/libx.so", SYMTYPE, link="libx.so.1", mtime=TIME + 2),
    entry("app/lib/again", LNKTYPE, link="app/lib/libx.so.1"),
    entry("app/empty/", DIRTYPE, mode=0o700),
]
UNPACKED = {
    b"app": b"program" * 100_000,
    b"lib": None,
    b"lib/libx.so.1": b"library",
    b"lib/libx.so": ("link", b"libx.so.1"),
    b"lib/again": b"library",
    b"empty": None,
}


@EVERY_COMPRESSION
@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_program_is_unpacked(opened, compress, style):
    assert tree(opened(compress(tar(*PROGRAM, style=style)))) == UNPACKED


def test_modes_and_times_are_kept_and_owners_are_not(opened):
    folder = opened(tar(*PROGRAM))
    modes = {
        name: stat.S_IMODE(os.stat(folder / name).st_mode) for name in (".", "app", "lib/libx.so.1", "empty", "lib")
    }
    assert modes == {".": 0o755, "app": 0o755, "lib/libx.so.1": 0o644, "empty": 0o700, "lib": 0o755}
    times = {name: os.lstat(folder / name).st_mtime_ns for name in (".", "app", "lib/libx.so", "empty")}
    assert times == {
        name: (TIME + more) * 10**9 for name, more in {".": 1, "app": 0, "lib/libx.so": 2, "empty": 0}.items()
    }
    for path in folder.rglob("*"):
        assert (os.lstat(path).st_uid, os.lstat(path).st_gid) == (os.geteuid(), os.getegid())
    assert os.path.samefile(folder / "lib/again", folder / "lib/libx.so.1")


@pytest.mark.parametrize("mode", [0o7777, 0o4755, 0o2755, 0o1755, 0o777])
def test_no_dangerous_mode_survives(opened, mode):
    folder = opened(tar(entry("a", data=b"1", mode=mode), entry("d", DIRTYPE, mode=mode)))
    assert stat.S_IMODE(os.stat(folder / "a").st_mode) == 0o755
    assert stat.S_IMODE(os.stat(folder / "d").st_mode) == 0o755


def test_its_owner_may_read_and_write_everything_whatever_the_umask(opened):
    umask = os.umask(0o077)
    try:
        folder = opened(
            tar(entry("a/b", data=b"1", mode=0), entry("a", DIRTYPE, mode=0), entry("c/d", data=b"2", mode=0o111))
        )
    finally:
        os.umask(umask)
    modes = {name: stat.S_IMODE(os.stat(folder / name).st_mode) for name in ("", "a", "a/b", "c", "c/d")}
    assert modes == {"": 0o755, "a": 0o700, "a/b": 0o600, "c": 0o755, "c/d": 0o711}


def test_the_mode_of_the_top_level_folder_is_not_that_of_the_target(opened):
    assert stat.S_IMODE(opened(tar(entry("app", DIRTYPE, mode=0o700), entry("app/a"))).stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([entry("a/b/c")], {b"b": None, b"b/c": b""}),  # no member names the folder
        ([entry("./a/b")], {b"b": b""}),
        ([entry("./", DIRTYPE), entry("./a/b")], {b"a": None, b"a/b": b""}),
        ([entry("a", data=b"1")], {b"a": b"1"}),
        ([entry("a/b"), entry("c", DIRTYPE)], {b"a": None, b"a/b": b"", b"c": None}),
        ([entry("a/b"), entry("c", SYMTYPE, link="a")], {b"a": None, b"a/b": b"", b"c": ("link", b"a")}),
        ([entry("a/a/a"), entry("a/0"), entry("a/1")], {b"a": None, b"a/a": b"", b"0": b"", b"1": b""}),
        ([entry("0/0/0"), entry("0/1")], {b"0": None, b"0/0": b"", b"1": b""}),
        ([entry("a/0", SYMTYPE, link="b"), entry("a/b")], {b"0": ("link", b"b"), b"b": b""}),
    ],
)
def test_one_top_level_folder_is_left_out(opened, entries, expected):
    assert tree(opened(tar(*entries))) == expected


def test_the_later_of_two_files_counts(opened):
    made = tar(
        entry("a", data=b"old"),
        entry("b", LNKTYPE, link="a"),
        entry("a", data=b"new", mode=0o755),
        entry("c", LNKTYPE, link="b"),
        entry("c", LNKTYPE, link="a"),
        entry("l", SYMTYPE, link="a"),
        entry("l", SYMTYPE, link="b"),
        entry("d", DIRTYPE),
        entry("d", DIRTYPE, mode=0o700),
    )
    folder = opened(made)
    assert tree(folder) == {b"a": b"new", b"b": b"old", b"c": b"new", b"l": ("link", b"b"), b"d": None}
    assert stat.S_IMODE(os.stat(folder / "d").st_mode) == 0o700


@pytest.mark.parametrize("kind", [CONTTYPE, tarfile.AREGTYPE])
def test_odd_kinds_of_regular_files_are_regular(opened, kind):
    assert tree(opened(tar(entry("a", kind, b"1")))) == {b"a": b"1"}


LINKS = [
    ("a/l", "../b"),
    ("a/l", "."),
    ("a/l", ".."),
    ("a/l", "..//./b/"),
    ("a/l", "not/there/../there"),
    ("a/l", "../b/through-a-file"),
    ("l", "a/m"),
    ("a/l", "m/../../b"),
]


@pytest.mark.parametrize(("name", "link"), LINKS)
def test_a_link_within_the_folder_is_made(opened, name, link):
    folder = opened(
        tar(entry("a/c"), entry("b"), entry("a/m", SYMTYPE, link="../deep/er"), entry(name, SYMTYPE, link=link))
    )
    assert os.readlink(folder / name) == link


@pytest.mark.parametrize("text", ["1700000000.1234567899", "1700000000.5", "-1", "1700000000.", "999999999999"])
def test_times_are_exact_and_within_what_file_systems_know(opened, text):
    folder = opened(tar(entry("a", headers={"mtime": text}), entry("b")))
    expected = {
        "1700000000.1234567899": TIME * 10**9 + 123456789,
        "1700000000.5": TIME * 10**9 + 500000000,
        "-1": 0,
        "1700000000.": TIME * 10**9,
    }
    if text in expected:
        assert os.stat(folder / "a").st_mtime_ns == expected[text]


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_links_are_whole(opened, style):
    long = "n" * 150
    folder = opened(tar(entry("b"), entry(f"{long}/a"), entry("s", SYMTYPE, link=f"{long}/a"), style=style))
    assert tree(folder) == {
        b"b": b"",
        b"s": ("link", f"{long}/a".encode()),
        long.encode(): None,
        f"{long}/a".encode(): b"",
    }


def test_extended_headers_hold_for_one_member_or_for_all(opened):
    shared = tar(entry("a"), entry("b", headers={"mtime": "2"}), headers={"mtime": "1", "comment": "by git"})
    folder = opened(shared)
    assert [os.stat(folder / name).st_mtime for name in "ab"] == [1, 2]


NAMES = st.binary(min_size=1, max_size=20).filter(
    lambda name: not {0, ord("/")} & set(name) and name not in {b".", b".."}
)
TREES = st.recursive(
    st.binary(max_size=2000), lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=4), max_leaves=12
).filter(lambda made: isinstance(made, dict))


def flat(made, above=b""):
    for name, inner in made.items():
        if isinstance(inner, dict):
            yield above + name, None
            yield from flat(inner, above + name + b"/")
        else:
            yield above + name, inner


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES, st.sampled_from([*COMPRESSIONS]), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.data())
def test_what_is_packed_is_unpacked(opened, target, made, compression, style, data):
    expected = dict(flat(made))
    for number, place in enumerate(
        data.draw(
            st.lists(st.sampled_from([b"", *[name for name, inner in expected.items() if inner is None]]), max_size=3)
        )
    ):
        to = data.draw(st.sampled_from(sorted(expected)))
        up = b"../" * (place.count(b"/") + 1) if place else b""
        expected[os.path.join(place, b"a link of some name %d" % number)] = ("link", up + to)
    entries = [entry(".", DIRTYPE)]
    for name, inner in expected.items():
        text = name.decode("utf-8", "surrogateescape")
        if inner is None:
            entries.append(entry(text, DIRTYPE))
        elif isinstance(inner, tuple):
            entries.append(entry(text, SYMTYPE, link=inner[1].decode("utf-8", "surrogateescape")))
        else:
            entries.append(entry(text, data=inner))
    try:
        assert tree(opened(COMPRESSIONS[compression](tar(*entries, style=style)))) == expected
    finally:
        shutil.rmtree(target, ignore_errors=True)


@pytest.mark.skipif(not shutil.which("tar"), reason="there is no tar")
@pytest.mark.parametrize("style", ["gnu", "pax", "ustar", "v7", "posix"])
def test_what_tar_packs_is_unpacked(opened, tmp_path, style):
    source = tmp_path / "source" / "app"
    (source / ("d" * 60) / "sub").mkdir(parents=True)
    (source / ("d" * 60) / "sub" / "f").write_bytes(b"x" * 5000)
    (source / "run").write_text("run")
    (source / "run").chmod(0o755)
    os.symlink("run", source / "link")
    os.link(source / "run", source / "zzz")
    packed = tmp_path / "packed"
    subprocess.run(["tar", "-C", tmp_path / "source", f"--format={style}", "-cf", packed, "app"], check=True)
    folder = opened(packed.read_bytes())
    assert tree(folder) == tree(source)
    assert os.access(folder / "run", os.X_OK)
    assert os.path.samefile(folder / "run", folder / "zzz")


@pytest.mark.skipif(not shutil.which("tar"), reason="there is no tar")
@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax"], ["--format=pax", "--sparse-version=0.1"]])
def test_sparse_files_of_tar_are_refused(opened, tmp_path, options):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(50_000_000)
        file.write(b"1")
    packed = tmp_path / "packed"
    subprocess.run(["tar", "-C", tmp_path, "--sparse", *options, "-cf", packed, "sparse"], check=True)
    with pytest.raises(UnsafeArchiveError, match="a sparse file or something else"):
        opened(packed.read_bytes())


def test_progress_is_of_the_archive_as_it_is(opened):
    data = gzip.compress(tar(entry("a", data=os.urandom(300_000))))
    told = []
    opened(data, progress=told.append)
    assert told == sorted(told)
    assert len(told) > 3
    assert told[-1] == len(data)


def test_what_progress_raises_ends_it(opened):
    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(tar(*PROGRAM), progress=stop)


@EVERY_REAL_COMPRESSION
def test_several_compressed_streams_are_one(opened, name):
    data = tar(*PROGRAM)
    pieces = [data[at : at + 100_000] for at in range(0, len(data), 100_000)] + [b""] * 100
    assert tree(opened(b"".join(COMPRESSIONS[name](piece) for piece in pieces))) == UNPACKED


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("/etc/passwd", "has an absolute path"),
        ("//etc/passwd", "has an absolute path"),
        ("../a", r"has '\.\.' in its path"),
        ("a/../b", r"has '\.\.' in its path"),
        ("a/..", r"has '\.\.' in its path"),
        ("..", r"has '\.\.' in its path"),
        ("n" * 256, "has too long a path"),
        ("/".join(["name"] * 206), "has too long a path"),
        ("/".join(["n"] * 101), "has too long a path"),
        (".", "has a name that is none"),
        ("./", "has a name that is none"),
    ],
)
@pytest.mark.parametrize("kind", [REGTYPE, DIRTYPE, SYMTYPE, LNKTYPE])
def test_a_name_that_is_not_one_of_the_folder_is_refused(opened, name, problem, kind):
    if name in {".", "./"} and kind == DIRTYPE:
        return
    made = tar(entry("first"), entry(name, kind, link="first"), style=tarfile.GNU_FORMAT)
    with pytest.raises(UnsafeArchiveError, match=problem) as caught:
        opened(made)
    assert caught.value.member.rstrip("/") == name.rstrip("/")
    assert repr(name[:100])[1:-1].rstrip("/") in str(caught.value)


def test_no_name_is_refused(opened):
    for kind in (REGTYPE, DIRTYPE):
        refused(opened, tar(entry("", kind)), "has a name that is none", "")
    refused(opened, tar(entry("/", DIRTYPE)), "has a name that is none", "")


def test_names_may_hold_no_null(opened):
    refused(opened, tar(entry("a", headers={"path": "a\0b"})), "has a name that is none", "a\0b")
    refused(opened, tar(entry("a", SYMTYPE, headers={"linkpath": "a\0b"})), "cannot be a path", "a")


@pytest.mark.parametrize("kind", [CHRTYPE, BLKTYPE, FIFOTYPE, GNUTYPE_SPARSE, b"V", b"D", b"M", b"X", b"Z"])
def test_what_is_no_file_folder_or_link_is_refused(opened, kind):
    refused(opened, tar(entry("a"), entry("b", kind)), "is a device, a pipe, a sparse file", "b")


@pytest.mark.parametrize("key", ["GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.name"])
def test_a_sparse_file_of_a_pax_archive_is_refused(opened, key):
    refused(opened, tar(entry("a", data=b"1", headers={key: "1"})), "a sparse file", "a")


@pytest.mark.parametrize(
    ("entries", "problem", "member"),
    [
        ([entry("l", SYMTYPE, link="/etc")], "is a link to an absolute path", "l"),
        ([entry("l", SYMTYPE, link="")], "what cannot be a path", "l"),
        ([entry("l", SYMTYPE, link="n/" * 600)], "what cannot be a path", "l"),
        ([entry("l", SYMTYPE, link="..")], "is a link that leads out of the folder", "l"),
        ([entry("l", SYMTYPE, link="../unpacked/a")], "is a link that leads out of the folder", "l"),
        ([entry("d/l", SYMTYPE, link="../../etc")], "is a link that leads out of the folder", "d/l"),
        ([entry("d/l", SYMTYPE, link="../x/y/../../../e")], "is a link that leads out of the folder", "d/l"),
        ([entry("d/x", SYMTYPE, link="."), entry("l", SYMTYPE, link="d/x/x/../../..")], "leads out", "l"),
        ([entry("d/e/x", SYMTYPE, link="../.."), entry("l", SYMTYPE, link="d/e/x/..")], "leads out", "l"),
        ([entry("l", SYMTYPE, link="d/e/x/.."), entry("d/e/x", SYMTYPE, link="../..")], "leads out", "l"),
        ([entry("l", SYMTYPE, link="m"), entry("m", SYMTYPE, link="l")], "too many links", "l"),
        ([entry("l", SYMTYPE, link="l")], "too many links", "l"),
        ([entry("l", LNKTYPE, link="/etc/passwd")], "has an absolute path", "l"),
        ([entry("l", LNKTYPE, link="../a")], r"has '\.\.' in its path", "l"),
        ([entry("l", LNKTYPE, link="d/../a")], r"has '\.\.' in its path", "l"),
        ([entry("l", LNKTYPE, link="later"), entry("later")], "hard link to what is no other file before it", "l"),
        ([entry("l", LNKTYPE, link="d")], "hard link to what is no other file before it", "l"),
        ([entry("l", LNKTYPE, link=".")], "hard link to what is no other file before it", "l"),
        ([entry("l", LNKTYPE, link="a/b")], "hard link to what is no other file before it", "l"),
        ([entry("a", LNKTYPE, link="a")], "hard link to what is no other file before it", "a"),
        ([entry("s", SYMTYPE, link="a"), entry("l", LNKTYPE, link="s")], "hard link to what is no other", "l"),
        ([entry("s", SYMTYPE, link="d"), entry("l", LNKTYPE, link="s/f")], "hard link to what is no other", "l"),
        ([entry("s", SYMTYPE, link="d"), entry("s/x")], "would be unpacked through a link", "s/x"),
        ([entry("s", SYMTYPE, link="d"), entry("s/x", DIRTYPE)], "would be unpacked through a link", "s/x"),
        ([entry("s", SYMTYPE, link="d"), entry("s/x/y", SYMTYPE, link="z")], "unpacked through a link", "s/x/y"),
        ([entry("a/x")], "would be unpacked through a link or a file", "a/x"),
        ([entry("d", SYMTYPE, link="a")], "stands there twice, as different things", "d"),
        ([entry("d")], "stands there twice, as different things", "d"),
        ([entry("a", DIRTYPE)], "stands there twice, as different things", "a"),
        ([entry("a", SYMTYPE, link="d")], "stands there twice, as different things", "a"),
        ([entry("s", SYMTYPE, link="a"), entry("s")], "stands there twice, as different things", "s"),
        ([entry("s", SYMTYPE, link="a"), entry("s", DIRTYPE)], "stands there twice, as different things", "s"),
        ([entry("s", SYMTYPE, link="a"), entry("s", LNKTYPE, link="a")], "stands there twice", "s"),
    ],
)
def test_a_link_or_a_place_that_leads_elsewhere_is_refused(opened, entries, problem, member):
    refused(opened, tar(entry("a"), entry("d/f"), *entries), problem, member)


def test_a_link_must_lead_within_what_the_folder_will_be(opened):
    refused(opened, tar(entry("app/a"), entry("app/l", SYMTYPE, link="../app/a")), "leads out of the folder", "l")


@pytest.mark.parametrize("kind", [DIRTYPE, SYMTYPE, LNKTYPE])
def test_what_is_no_file_has_no_content(opened, kind):
    refused(opened, tar(entry("a"), entry("b", kind, b"content", link="a")), "has a size that it cannot have", "b")


@pytest.mark.parametrize("size", ["-1", "x", "1" * 30])
def test_a_size_that_is_none_is_refused(opened, size):
    refused(opened, tar(entry("a", headers={"size": size})), "has a size that it cannot have", "a")


def header(**values):
    info, _ = entry("a")
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for place, value in values.values():
        block[place : place + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("size", [b"\xff" * 12, b"-0000000001\0", b"\x80" + b"\xff" * 11])
def test_a_size_of_the_header_that_is_none_is_refused(opened, size):
    with pytest.raises(UnsafeArchiveError, match=r"has a size that it cannot have|ends too early"):
        opened(header(size=(124, size)) + bytes(1024))


@pytest.mark.parametrize("size", [b"\xff" * 12, b"00010000000\0"])
@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_an_extended_header_is_not_endless(opened, size, kind):
    refused(opened, header(size=(124, size), kind=(156, kind)) + bytes(2**22), "has an extended header of")


@pytest.mark.parametrize("text", ["x", "nan", "1e99", "1" * 20, "1.5.5"])
def test_a_time_that_is_none_is_refused(opened, text):
    refused(opened, tar(entry("a", headers={"mtime": text})), "has a time that is none", "a")


@pytest.mark.parametrize("time", [b"\x80" + b"\xff" * 11, b"\xff" * 12])
def test_a_time_of_any_header_can_be_given_to_a_file(opened, time):
    assert tree(opened(header(mtime=(136, time)) + bytes(1024))) == {b"a": b""}


def pax(data):
    info = TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


@pytest.mark.parametrize(
    "data",
    [
        b"x", b"6 a=b\n?", b"6 a=b\n7 a=b\n", b"6 a=bc", b"5 a=b\n", b"1 a=b\n", b"0 a=b\n", b"6 =bcd\n", b"6 abc\n",
        b"6 a=b\n6 ab\n", b"99999999 a=b\n", b"-6 a=b\n", b"6 a=b\n\0\0\0", b"6 a=b\n3 a=b\n",
    ],
)  # fmt: skip
def test_a_malformed_extended_header_is_refused(opened, data):
    refused(opened, pax(data) + tar(entry("a")), "an extended header is malformed")


def test_an_extended_header_of_nothing_is_refused(opened):
    refused(opened, tar(entry("a"))[:512] + pax(b"9 path=b\n") + bytes(1024), "ends too early")


def test_an_empty_value_is_none(opened):
    assert tree(opened(pax(b"8 path=\n") + tar(entry("a")))) == {b"a": b""}


@EVERY_COMPRESSION
@pytest.mark.parametrize(
    "entries", [[], [entry("d", DIRTYPE)], [entry("l", SYMTYPE, link="x")], [entry("./", DIRTYPE)]]
)
def test_an_archive_without_files_is_refused(opened, compress, entries):
    refused(opened, compress(tar(*entries)), "is empty: it has no file")


@pytest.mark.parametrize(
    "data", [b"PK\3\4" + bytes(1000), b"\x7fELF" * 300, b"BZh9" * 300, b"7z\xbc\xaf\x27\x1c" * 100]
)
def test_what_is_no_archive_is_refused(opened, data):
    refused(opened, data, "is damaged, or not a tar archive, plain or compressed with gz, xz or zstd")


@EVERY_COMPRESSION
def test_a_truncated_archive_is_refused(opened, compress):
    data = compress(tar(entry("a", data=os.urandom(2000)), entry("b", data=b"1")))
    whole = 512 * 8 if compress is COMPRESSIONS["plain"] else len(data)  # what is left then has its first zeros
    for length in {*range(0, whole, 97), *range(whole - 30, whole)}:
        with pytest.raises(UnsafeArchiveError):
            opened(data[:length])


def test_an_archive_without_its_end_is_refused(opened):
    data = tar(entry("a", data=b"1"), style=tarfile.USTAR_FORMAT)
    refused(opened, data[:1024], "ends too early")
    assert tree(opened(data[:1536])) == {b"a": b"1"}


@EVERY_COMPRESSION
def test_a_damaged_archive_is_refused_or_right(opened, target, compress):
    data = compress(tar(*PROGRAM[1:3], entry("app/random", data=os.urandom(500))))
    for at in range(0, len(data), max(1, len(data) // 150)):
        damaged = bytearray(data)
        damaged[at] ^= 0x55
        try:
            opened(bytes(damaged))
        except UnsafeArchiveError:
            pass
        else:  # names, contents and padding of a plain tar have no checksum: the release has
            shutil.rmtree(target)


def test_a_damaged_header_is_not_the_end(opened):
    data = bytearray(tar(entry("a"), entry("b"), style=tarfile.USTAR_FORMAT))
    data[512] ^= 1
    refused(opened, bytes(data), "is damaged, or not a tar archive.*checksum")


@EVERY_COMPRESSION
@pytest.mark.parametrize("garbage", [b"x", b"\0\0\0x" * 100_000, tar(entry("b")), b"\x1f\x8b", b"\xfd7zXZ\0"])
def test_what_goes_on_after_its_end_is_refused(opened, compress, garbage):
    refused(opened, compress(tar(entry("a")) + garbage), "goes on after its end")
    with pytest.raises(UnsafeArchiveError, match=r"goes on after|is damaged|ends too early"):
        opened(compress(tar(entry("a"))) + garbage)


def test_zeros_after_its_end_are_padding(opened):
    assert tree(opened(tar(entry("a")) + bytes(200_000))) == {b"a": b""}


# Bombs ----------------------------------------------------------------------------------------------------------------

BOMBS = {
    "of a file": tar(entry("a", data=bytes(20_000_000))),
    "of padding": tar(entry("a")) + bytes(20_000_000),
    "of headers": tar(*[entry("d", DIRTYPE)] * 30_000),
    "of extended headers": pax(b"6 a=b\n") * 15_000 + tar(entry("a")),
}


@EVERY_COMPRESSION
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_stopped_where_the_limit_is(opened, monkeypatch, compress, bomb):
    seen = []
    fill = archive._Stream._fill

    def watched(stream):
        try:
            return fill(stream)
        finally:
            seen.append(stream._seen)

    monkeypatch.setattr(archive._Stream, "_fill", watched)
    refused(opened, compress(bomb), "unpacks to more than the 1000000 bytes that are allowed", max_bytes=1_000_000)
    assert 1_000_000 < seen[-1] <= 1_000_000 + 64 * 1024


@EVERY_COMPRESSION
def test_the_limit_counts_every_byte(opened, target, compress):
    data = tar(*PROGRAM)
    opened(compress(data), max_bytes=len(data))
    shutil.rmtree(target)
    refused(opened, compress(data), "unpacks to more than", max_bytes=len(data) - 1)


def test_a_file_larger_than_the_limit_takes_no_more_of_the_disk(opened, monkeypatch):
    written = []

    class File(FileIO):
        def write(self, data):
            written.append(len(data))
            return super().write(data)

    monkeypatch.setattr(archive, "FileIO", File)
    refused(opened, lzma.compress(BOMBS["of a file"]), "unpacks to more than", max_bytes=100_000)
    assert sum(written) <= 100_000


def test_a_stream_that_needs_much_memory_is_refused(opened, monkeypatch):
    monkeypatch.setattr(archive, "_XZ_MEMORY", 1024 * 1024)
    refused(opened, lzma.compress(tar(*PROGRAM)), "is damaged: Memory usage limit exceeded")
    window = b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00"  # a frame of nothing with a window of 2 GiB
    refused(opened, window, "is damaged: .*too much memory")


def test_there_may_not_be_more_members_than_the_limit(opened, target, monkeypatch):
    monkeypatch.setattr(archive, "_MOST_ENTRIES", 4)
    opened(tar(entry("a/b/c"), entry("d")))
    shutil.rmtree(target)
    refused(opened, tar(entry("a/b/c/d/e")), "has more than 4 members")
    refused(opened, tar(*[entry("a")] * 5), "has more than 4 members")
    refused(opened, tar(*[entry("./", DIRTYPE)] * 5), "has more than 4 members")


def test_links_through_links_end(opened):
    links = [entry("l0", SYMTYPE, link="a")]
    links += [entry(f"l{number}", SYMTYPE, link=f"l{number - 1}") for number in range(1, 20)]
    assert os.path.realpath(opened(tar(entry("a"), *links)) / "l19").endswith("/a")


def test_links_that_double_end_too(opened):
    links = [entry("l0", SYMTYPE, link=".")]
    links += [entry(f"l{number}", SYMTYPE, link=f"l{number - 1}/l{number - 1}") for number in range(1, 40)]
    refused(opened, tar(entry("a"), *links), "leads through too many links", "l9")


# Nothing escapes ------------------------------------------------------------------------------------------------------

PARTS = st.sampled_from(["a", "b", "c", "..", ".", "", "outside", "/"])
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
HOSTILE = st.lists(
    st.tuples(PATHS, st.sampled_from([REGTYPE, REGTYPE, DIRTYPE, SYMTYPE, SYMTYPE, LNKTYPE, FIFOTYPE]), PATHS),
    max_size=8,
)
TAME_PARTS = st.sampled_from(["a", "b", "c", ".."])
TAME = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join),
        st.sampled_from([REGTYPE, DIRTYPE, SYMTYPE, SYMTYPE, LNKTYPE]),
        st.lists(TAME_PARTS, min_size=1, max_size=5).map("/".join),
    ),
    max_size=8,
)


@settings(max_examples=400)
@given(st.one_of(HOSTILE, TAME), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.integers(0, 0o7777))
def test_nothing_escapes(entries, style, mode):
    made = [entry(name, kind, b"new" if kind == REGTYPE else b"", link=link, mode=mode) for name, kind, link in entries]
    with tempfile.TemporaryDirectory() as name:
        base = Path(os.path.realpath(name))
        for folder in ("x/outside", "x/y/outside", "outside"):
            (base / folder).mkdir(parents=True)
            (base / folder / "a").write_text("precious")
        target = base / "x" / "y" / "target"
        before = tree(base)
        (base / "archive").write_bytes(tar(*made, entry("last", data=b"new"), style=style))
        with FileIO(base / "archive") as file:
            try:
                unpack(file, target, max_bytes=PLENTY, progress=ignore)
            except UnsafeArchiveError:
                assert not target.exists()
                unpacked = False
            else:
                unpacked = True
        (base / "archive").unlink()
        if unpacked:
            for path in target.rglob("*"):
                real = os.path.realpath(path)
                assert real == str(target) or real.startswith(f"{target}/")
                if not path.is_symlink():
                    assert not stat.S_IMODE(path.stat().st_mode) & 0o7022
                    assert path.is_file() or path.is_dir()
                    assert path.stat().st_nlink == 1 or path.is_dir() or path.read_bytes() == b"new"
            shutil.rmtree(target)
        assert tree(base) == before


@settings(max_examples=200)
@given(st.binary(max_size=3000), st.sampled_from([b"", b"\x1f\x8b\x08\0", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"]))
def test_anything_else_is_refused(data, magic):
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "archive").write_bytes(magic + data)
        with FileIO(Path(name) / "archive") as file, pytest.raises(UnsafeArchiveError):
            unpack(file, Path(name) / "target", max_bytes=PLENTY, progress=ignore)
        assert os.listdir(name) == ["archive"]


# The disk, and what is installed --------------------------------------------------------------------------------------

CALLS = ("fchmod", "fsync", "link", "mkdir", "open", "replace", "rmdir", "symlink", "unlink", "utime")


def test_every_failure_of_the_disk_is_told_and_leaves_nothing(opened, target):
    made = tar(*PROGRAM, entry("app/app", data=b"later"))
    count, fail_at = itertools.count(1), 0

    def counted(call):
        def do(*args, **kwargs):
            if next(count) == fail_at:
                raise OSError(errno.ENOSPC, "disk full")
            return call(*args, **kwargs)

        return do

    class File(FileIO):
        write = counted(FileIO.write)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "FileIO", File)
        for name in CALLS:
            patch.setattr(os, name, counted(getattr(os, name)))
        opened(made)
        total = next(count) - 1
        shutil.rmtree(target)
        while fail_at < total:
            count, fail_at = itertools.count(1), fail_at + 1
            with pytest.raises(OSError, match="disk full"):
                opened(made)
    assert total > 40


def test_an_archive_that_cannot_be_read_is_told(target, tmp_path):
    class Broken(FileIO):
        def read(self, size=-1):
            if self.tell():
                raise OSError(errno.EIO, "broken")
            return super().read(size)

    (tmp_path / "archive").write_bytes(tar(entry("a", data=bytes(200_000))))
    with Broken(tmp_path / "archive") as file, pytest.raises(OSError, match="broken"):
        unpack(file, target, max_bytes=PLENTY, progress=ignore)
    assert not target.exists()


def test_short_writes_are_completed(opened, monkeypatch):
    class File(FileIO):
        def write(self, data):
            return super().write(data[:1000])

    monkeypatch.setattr(archive, "FileIO", File)
    assert tree(opened(tar(*PROGRAM))) == UNPACKED


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_stands_there_is_left_alone(target, tmp_path, kind):
    (tmp_path / "archive").write_bytes(tar(entry("a")))
    if kind == "folder":
        target.mkdir()
        (target / "precious").touch()
    elif kind == "file":
        target.touch()
    else:
        target.symlink_to(tmp_path)
    before = tree(tmp_path)
    with FileIO(tmp_path / "archive") as file, pytest.raises(FileExistsError):
        unpack(file, target, max_bytes=PLENTY, progress=ignore)
    assert tree(tmp_path) == before


@pytest.mark.skipif(sys.platform != "linux", reason="names of open files come from /proc")
def test_everything_is_made_durable_the_inner_folders_first(opened, target, monkeypatch):
    synced = []
    fsync = os.fsync

    def watched(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    opened(tar(*PROGRAM, entry("app/lib/deep/er/f")))
    files = [path.removeprefix(f"{target}/app/") for path in synced[:3]]
    assert files == ["app", "lib/libx.so.1", "lib/deep/er/f"]
    folders = [os.path.relpath(path, target) for path in synced[3:]]
    assert sorted(folders) == sorted([".", "..", "lib", "lib/deep", "lib/deep/er", "empty"])
    assert folders[-2:] == [".", ".."]
    assert folders.index("lib/deep/er") < folders.index("lib/deep") < folders.index("lib")


def test_zstd_needs_its_package(opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.delattr("backports.zstd")
    with pytest.raises(MissingExtraError, match=r"unpacking zstd needs .*'patchify-updater'") as caught:
        opened(zstd.compress(tar(entry("a"))))
    assert isinstance(caught.value, PatchifyError)
    assert tree(opened(gzip.compress(tar(entry("a"))))) == {b"a": b""}


def test_the_files_are_never_held_in_memory(opened):
    bomb = BOMBS["of a file"]
    packed = [bomb, gzip.compress(bomb), lzma.compress(bomb, preset=0), zstd.compress(bomb)]
    tracemalloc.start()
    try:
        for made in packed:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            shutil.rmtree(opened(made))
            assert tracemalloc.get_traced_memory()[1] - before < 2_000_000
    finally:
        tracemalloc.stop()


def test_whoever_only_unpacks_gets_no_installer():
    source = "import sys, patchify.client.archive; sys.exit('patchify.client.installer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False, timeout=60).returncode == 0

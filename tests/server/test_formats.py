import gzip
import io
import lzma
import os
import sys
import tarfile

import pytest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from patchify.server.formats import detect_format


def archive(*, kind="", content=b"program", form=tarfile.USTAR_FORMAT):
    """Return a tar archive of one file, which is compressed as tarfile can."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}", format=form) as tar:
        member = tarfile.TarInfo("app/run")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def old_header():
    """Return an archive of before POSIX, without any magic number."""
    block = bytearray(archive())
    block[257:265] = bytes(8)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("file", b""),
        ("file", b"\x7fELF" + bytes(1000)),
        ("file", b"#!/usr/bin/python3\n" + b"x" * 1000),
        ("file", bytes(10240)),
        ("tar", archive()),
        ("tar", archive(form=tarfile.PAX_FORMAT)),
        ("tar", archive(form=tarfile.GNU_FORMAT)),
        ("tar", old_header()),
        ("tar.gz", archive(kind="gz", content=os.urandom(200_000))),
        ("tar.xz", archive(kind="xz", content=os.urandom(200_000))),
        ("tar.zst", zstd.compress(archive(content=os.urandom(200_000)))),
        ("file", archive(kind="bz2")),
        ("file", gzip.compress(b"x" * 3_000_000)),
        ("file", lzma.compress(b"x" * 1000)),
        ("file", zstd.compress(b"x" * 1000)),
        ("file", gzip.compress(b"")),
        ("file", b"\x1f\x8b" + b"damaged" * 100),
        ("file", archive(kind="gz")[:20]),
        ("file", b"\xfd7zXZ\0" + b"damaged" * 100),
        ("file", b"\x28\xb5\x2f\xfd" + b"damaged" * 100),
    ],
    ids=lambda value: value if isinstance(value, str) else "bytes",
)
def test_what_the_bytes_are_is_told_by_their_beginning(tmp_path, form, data):
    path = tmp_path / "it"
    path.write_bytes(data)
    assert detect_format(path) == form
    with io.FileIO(path) as file:
        assert detect_format(file) == form
        assert file.tell() == 0


def test_what_begins_with_much_that_says_nothing_is_read_only_so_far(tmp_path):
    path = tmp_path / "it"
    path.write_bytes(zstd.compress(b"") * 200_000)
    assert detect_format(path) == "file"
    path.write_bytes(b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 3_000_000)  # a file name of three megabytes
    assert detect_format(path) == "file"


def test_zstd_is_taken_for_an_archive_where_nobody_can_look_inside(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.delattr(sys.modules["backports"], "zstd")
    (tmp_path / "it").write_bytes(zstd.compress(b"x" * 1000))
    assert detect_format(tmp_path / "it") == "tar.zst"

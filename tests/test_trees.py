import hashlib
import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from patchify.client.archive import unpack
from patchify.trees import measure, pack


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "app"
    (root / "lib" / "empty").mkdir(parents=True)
    (root / "app").write_bytes(b"#!/bin/sh\n")
    (root / "app").chmod(0o700)
    (root / "lib" / "data.bin").write_bytes(os.urandom(3_000_000))
    (root / "lib" / "none").touch()
    (root / ("long-" * 40)).write_text("a name beyond a header")
    (root / "lib" / "link").symlink_to("../app")
    (root / "gr\udcfc\udcdfe").write_text("a name that is no UTF-8")
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(10**18, 10**18 + 5), follow_symlinks=False)
    return root


def archive(folder: Path) -> bytes:
    pieces: list[bytes] = []
    pack(folder, pieces.append)
    return b"".join(pieces)


def unpacked(data: bytes, folder: Path) -> Path:
    file = folder.with_suffix(".tar")
    file.write_bytes(data)
    with io.FileIO(file) as opened:
        unpack(opened, folder, max_bytes=10**8, progress=lambda done: None)
    return folder


def test_what_is_unpacked_gives_the_same_archive(folder, tmp_path):
    data = archive(folder)
    again = unpacked(data, tmp_path / "elsewhere")
    assert archive(again) == data
    assert (again / "app").stat().st_mode & 0o111
    assert (again / "lib" / "link").readlink() == Path("../app")
    assert (again / "app").stat().st_mtime == 10**9


def test_however_a_release_was_packed_its_content_gives_the_same_archive(folder, tmp_path):
    data = archive(folder)
    for number, (mode, form) in enumerate(
        [("w", tarfile.PAX_FORMAT), ("w:gz", tarfile.GNU_FORMAT), ("w:xz", tarfile.PAX_FORMAT)]
    ):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode=mode, format=form) as tar:
            tar.add(folder, arcname="app-2.0.0" if number else ".")
        assert archive(unpacked(packed.getvalue(), tmp_path / f"from-{number}")) == data


def test_a_single_folder_in_it_stays_one(tmp_path):
    (tmp_path / "app" / "lib").mkdir(parents=True)
    (tmp_path / "app" / "lib" / "main").write_text("main")
    assert (unpacked(archive(tmp_path / "app"), tmp_path / "again") / "lib" / "main").is_file()


def test_hash_and_size_are_those_of_the_archive(folder):
    data = archive(folder)
    assert measure(folder) == (hashlib.sha256(data).hexdigest(), len(data))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert [member.name for member in tar][:4] == [".", "app", "gr\udcfc\udcdfe", "lib"]


def test_owner_and_other_permissions_make_no_difference_but_being_executable_does(folder):
    before = measure(folder)
    (folder / "app").chmod(0o755)
    (folder / "lib").chmod(0o700)
    assert measure(folder) == before
    (folder / "app").chmod(0o644)
    assert measure(folder) != before


def test_only_what_belongs_to_the_program_is_packed(folder):
    paths = [b"app", b"lib", b"lib/none"]
    before = measure(folder, paths)
    (folder / "lib" / "__pycache__").mkdir()
    assert measure(folder, reversed(paths)) == before
    with pytest.raises(FileNotFoundError):
        measure(folder, [b"gone"])


def test_what_is_neither_file_nor_folder_nor_link_is_left_out(folder):
    before = measure(folder, [b"app"])
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(folder / "socket"))
        assert measure(folder, [b"app", b"fifo", b"socket"]) == before


def test_a_link_to_the_folder_is_followed_and_one_that_leads_nowhere_is_an_error(folder, tmp_path):
    (tmp_path / "current").symlink_to(folder)
    assert measure(tmp_path / "current") == measure(folder)
    (tmp_path / "lost").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        measure(tmp_path / "lost")


def test_a_file_that_grows_while_it_is_read_is_an_error(folder):
    def grow(data: bytes) -> None:
        with (folder / "lib" / "data.bin").open("ab") as file:
            file.write(b"more")

    with pytest.raises(OSError, match=r"data\.bin changed while it was read"):
        pack(folder, grow, [b"lib/data.bin"])

import errno
import hashlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify.client import manifest
from patchify.client.manifest import describe, matches

ODD = [b"a b", b"new\nline", b"\xff\xfe", "ä€😀".encode(), b"%41", b"-", b"\\", b"'\"", b"\r\x85", b"nothing", b" "]


def ignore(done):
    pass


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "app"
    (folder / "lib").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "run").write_bytes(b"program")
    (folder / "run").chmod(0o755)
    (folder / "lib" / "x.so.1").write_bytes(b"library")
    (folder / "lib" / "x.so").symlink_to("x.so.1")
    return folder


def test_a_manifest_lists_everything_sorted(folder):
    body = (
        "folder .\n"
        "folder empty\n"
        "folder lib\n"
        "link x.so.1 lib/x.so\n"
        f"file - 7 {sha256(b'library')} lib/x.so.1\n"
        f"file x 7 {sha256(b'program')} run\n"
    ).encode()
    assert describe(folder, ignore) == f"patchify-manifest-1 {sha256(body)}\n".encode() + body
    assert matches(folder, describe(folder, ignore), ignore) is None


def test_it_depends_on_nothing_else(folder, tmp_path, monkeypatch):
    made = describe(folder, ignore)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, symlinks=True)
    os.utime(copy / "run", (1, 1))
    (copy / "run").chmod(0o700)
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listdir(path)[::-1])
    assert describe(copy, ignore) == made
    assert matches(copy, made, ignore) is None
    (tmp_path / "link").symlink_to(folder)
    assert describe(tmp_path / "link", ignore) == made
    assert matches(tmp_path / "link", made, ignore) is None


def write(data):
    return lambda path: path.write_bytes(data)


def to_folder(path):
    path.unlink()
    path.mkdir()


def to_link(path):
    """Put a link to what is the same in the place of a file or a folder."""
    away = path.with_name("away")
    path.rename(away)
    path.symlink_to(away.name)


@pytest.mark.parametrize(
    ("name", "change", "difference"),
    [
        ("run", Path.unlink, "'run' is missing"),
        ("run", write(b"PROGRAM"), "'run' has another content"),
        ("run", write(b"programs"), "'run' has 8 bytes instead of 7"),
        ("run", lambda path: path.chmod(0o644), "'run' may be executed no more"),
        ("run", to_folder, "'run' is not the file that it was"),
        ("run", to_link, "'run' is not the file that it was"),
        ("lib/x.so.1", lambda path: path.chmod(0o755), "'lib/x.so.1' may be executed now"),
        ("lib/x.so", Path.unlink, "'lib/x.so' is missing"),
        ("lib/x.so", to_folder, "'lib/x.so' is not the link that it was"),
        ("lib/x.so", lambda path: (path.unlink(), path.symlink_to("../run")), "'lib/x.so' leads elsewhere"),
        ("lib", shutil.rmtree, "'lib' is missing"),
        ("lib", to_link, "'lib' is not the folder that it was"),
        ("empty", Path.rmdir, "'empty' is missing"),
        ("empty", lambda path: (path.rmdir(), os.mkfifo(path)), "'empty' is not the folder that it was"),
        (".", shutil.rmtree, "'.' is missing"),
        (".", lambda path: (shutil.rmtree(path), path.touch()), "'.' is missing"),
    ],
)
def test_the_first_difference_is_named(folder, name, change, difference):
    made = describe(folder, ignore)
    change(folder / name)
    assert matches(folder, made, ignore) == difference


def test_of_a_program_that_has_run_only_what_is_executable_must_have_its_content(folder):
    made = describe(folder, ignore)
    (folder / "lib" / "x.so.1").write_bytes(b"written to")
    assert matches(folder, made, ignore, used=True) is None
    (folder / "run").write_bytes(b"PROGRAM")
    assert matches(folder, made, ignore, used=True) == "'run' has another content"


def test_what_is_more_is_no_difference(folder):
    made = describe(folder, ignore)
    (folder / "lib" / "__pycache__").mkdir()
    (folder / "lib" / "__pycache__" / "x.pyc").touch()
    (folder / "log").touch()
    assert matches(folder, made, ignore) is None


def test_what_is_no_file_folder_or_link_is_left_out(folder):
    made = describe(folder, ignore)
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket"))
        assert describe(folder, ignore) == made


def test_what_vanishes_meanwhile_is_left_out(folder, monkeypatch):
    made = describe(folder, ignore)
    monkeypatch.setattr(manifest, "walk", lambda root, walk=manifest.walk: [*walk(root), b"vanished"])
    assert describe(folder, ignore) == made


@pytest.mark.parametrize("name", ODD)
def test_any_name_is_one_word(tmp_path, name):
    folder = os.fsencode(tmp_path / "app")
    os.makedirs(os.path.join(folder, name))
    os.symlink(name, os.path.join(folder, name, name + b"l"))
    with open(os.path.join(folder, name, name), "wb") as file:
        file.write(b"1")
    made = describe(tmp_path / "app", ignore)
    assert made.isascii()
    assert len(made.splitlines()) == 5
    assert matches(tmp_path / "app", made, ignore) is None
    os.unlink(os.path.join(folder, name, name))
    assert matches(tmp_path / "app", made, ignore) == f"{os.fsdecode(name + b'/' + name)!r} is missing"


@pytest.mark.parametrize("length", [0, 1, 30, 60, 90, 120, -1])
def test_a_truncated_manifest_is_damaged(folder, length):
    assert matches(folder, describe(folder, ignore)[:length], ignore) == "the manifest itself is damaged"


def test_a_changed_manifest_is_damaged(folder):
    made = describe(folder, ignore)
    for at in range(len(made)):
        changed = made[:at] + bytes([made[at] ^ 1]) + made[at + 1 :]
        assert matches(folder, changed, ignore) == "the manifest itself is damaged"


def test_progress_is_of_all_files(folder, monkeypatch):
    (folder / "large").write_bytes(bytes(2_500_000))
    told = []
    made = describe(folder, told.append)
    total = 2_500_000 + 7 + 7
    assert told == sorted(told)
    assert told[-1] == total
    assert len(told) == 5
    again = []
    matches(folder, made, again.append)
    assert again == told


def test_what_has_another_size_is_not_hashed(folder):
    made = describe(folder, ignore)
    (folder / "lib" / "x.so.1").write_bytes(b"other size")

    def fail(done):
        pytest.fail("hashed")

    assert matches(folder, made, fail) == "'lib/x.so.1' has 10 bytes instead of 7"


@pytest.mark.parametrize("name", ["lstat", "readlink", "file"])
def test_what_cannot_be_read_is_told(folder, monkeypatch, name):
    made = describe(folder, ignore)

    def fail(*args):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(*((manifest, "hash_path") if name == "file" else (os, name)), fail)
    with pytest.raises(OSError, match="broken"):
        describe(folder, ignore)
    with pytest.raises(OSError, match="broken"):
        matches(folder, made, ignore)


def test_there_must_be_something_to_describe(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError):
        describe(tmp_path / "missing", ignore)
    with pytest.raises(NotADirectoryError):
        describe(tmp_path / "file", ignore)


NAMES = st.binary(min_size=1, max_size=10).filter(
    lambda name: not {0, ord("/")} & set(name) and name not in {b".", b".."}
)


@given(st.dictionaries(NAMES, st.one_of(st.binary(max_size=5), st.none()), min_size=1, max_size=5), st.data())
def test_any_change_is_noticed(made, data):
    with tempfile.TemporaryDirectory() as base:
        for name, content in made.items():
            path = os.path.join(os.fsencode(base), name)
            if content is None:
                os.symlink(b"nowhere", path)
            else:
                Path(os.fsdecode(path)).write_bytes(content)
        text = describe(Path(base), ignore)
        assert matches(Path(base), text, ignore) is None
        changed = data.draw(st.sampled_from(sorted(made)))
        path = Path(os.fsdecode(os.path.join(os.fsencode(base), changed)))
        path.unlink()
        if made[changed] is not None and data.draw(st.booleans()):
            path.write_bytes(made[changed] + b"x")
        difference = matches(Path(base), text, ignore)
        assert difference.startswith(f"{os.fsdecode(changed)!r} ")

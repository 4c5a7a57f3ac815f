import os
import subprocess
import sys
from pathlib import Path

import pytest

from patchify.files import sync_folder
from tests.proof.loop_mounts import KINDS, crashing_file_system, unavailable
from tests.proof.power_loss import digest, may_leave, read_tree
from tests.proof.recording import missing, record


@pytest.fixture(params=KINDS)
def kind(request):
    if reason := unavailable(request.param):
        pytest.skip(f"{request.param}: {reason}")
    return request.param


@pytest.fixture
def system(kind, tmp_path):
    # Each cut comes after what the story did, and not after what ext4 does every five seconds by itself: on a machine that
    # is busy the one would else depend on how slow it is.
    options = "commit=300" if kind == "ext4" else ""
    with crashing_file_system(kind, tmp_path, options) as system:
        yield system


def write(path, data, *, fsync):
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        if fsync:
            os.fsync(file.fileno())


def read(path):
    return path.read_bytes() if path.exists() else b""


def mounted(folder):
    return [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]


def attached(folder):
    devices = subprocess.run(["losetup", "--list", "--output", "BACK-FILE"], check=True, capture_output=True, text=True)
    return [line for line in devices.stdout.splitlines() if str(folder) in line]


def test_a_new_file_that_nobody_synced_is_lost_or_empty(system):
    write(system.path / "new", b"data", fsync=False)
    assert read(system.path / "new") == b"data"
    system.cut()
    assert read(system.path / "new") == b""


def test_a_synced_file_in_a_synced_folder_is_there(system):
    write(system.path / "new", b"data", fsync=True)
    sync_folder(system.path)
    system.cut()
    assert read(system.path / "new") == b"data"


def test_a_rename_without_a_sync_of_its_folder_is_undone_and_with_one_it_is_not(system):
    for synced, found in [(False, b"old"), (True, b"new")]:
        write(system.path / "app", b"old", fsync=True)
        sync_folder(system.path)
        write(system.path / "draft", b"new", fsync=True)
        os.replace(system.path / "draft", system.path / "app")
        if synced:
            sync_folder(system.path)
        system.cut()
        assert read(system.path / "app") == found


def test_the_journal_written_out_keeps_the_name_of_a_file_whose_data_is_lost(system):
    write(system.path / "new", b"data", fsync=False)
    system.cut(flush=True)
    assert (system.path / "new").exists()
    assert read(system.path / "new") in {b"", bytes(4)}


def test_power_can_be_cut_again_and_again(system):
    for name in ("one", "two"):
        write(system.path / name, b"data", fsync=True)
        sync_folder(system.path)
        system.cut()
    assert read(system.path / "one") == read(system.path / "two") == b"data"


def test_nothing_is_left_behind(kind, tmp_path):
    with crashing_file_system(kind, tmp_path) as system:
        assert mounted(tmp_path)
        assert attached(tmp_path)
        system.cut()
    assert not mounted(tmp_path)
    assert not attached(tmp_path)
    assert not list(tmp_path.iterdir())


def cut_with_a_file_open(kind, folder):
    with crashing_file_system(kind, folder) as system, (system.path / "open").open("wb"):
        system.cut()  # refuses to unmount


def test_nothing_is_left_behind_when_the_power_cannot_be_cut(kind, tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        cut_with_a_file_open(kind, tmp_path)
    assert not mounted(tmp_path)
    assert not attached(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_still_open_keeps_no_mount(kind, tmp_path):
    with crashing_file_system(kind, tmp_path) as system:
        file = (system.path / "open").open("wb")
    assert not mounted(tmp_path)
    assert not list(tmp_path.iterdir())
    file.close()


def test_a_mount_that_fails_leaves_nothing_behind(kind, tmp_path):
    with pytest.raises(subprocess.CalledProcessError), crashing_file_system(kind, tmp_path, "no-such-option"):
        pytest.fail("it mounted")
    assert not mounted(tmp_path)
    assert not attached(tmp_path)
    assert not list(tmp_path.iterdir())


DOES_ANYTHING = """
import os, random, sys
choose = random.Random(int(sys.argv[1]))
for folder in "ab":
    os.makedirs(folder, exist_ok=True)
paths = [folder + name for folder in ("", "a/", "b/") for name in "xyz"]
for _ in range(40):
    path, other = choose.sample(paths, 2)
    try:
        match choose.choice(["write", "write", "append", "rename", "link", "unlink", "chmod", "sync", "sync"]):
            case "write":
                open(path, "wb").write(choose.randbytes(choose.choice([1, 5000])))
            case "append":
                open(path, "ab").write(choose.randbytes(3000))
            case "rename":
                os.rename(path, other)
            case "link":
                os.link(path, other)
            case "unlink":
                os.unlink(path)
            case "chmod":
                os.chmod(path, choose.choice([0o600, 0o640]))
            case "sync":
                descriptor = os.open(choose.choice([path, "a", "b", "."]), os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
    except (FileNotFoundError, FileExistsError):
        pass
"""


def test_what_a_real_file_system_leaves_the_model_holds_for_possible(system):
    if reason := missing():
        pytest.skip(reason)
    lossy = 0
    for seed in range(12):
        story = record([sys.executable, "-I", "-S", "-c", DOES_ANYTHING, str(seed)], system.path)
        system.cut(flush=bool(seed % 3 == 2))
        found = read_tree(system.path)
        lossy += digest(found) != digest(story.final)
        for reorder in (False, True):
            possible = may_leave(found, story.initial, story.operations, reorder_directories=reorder)
            assert possible, f"seed {seed}, reorder {reorder}"
    assert lossy  # so that it was a power cut that was compared

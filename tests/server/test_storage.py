import hashlib
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from patchify.errors import (
    ReleaseInvalidError,
    ReleaseMissingError,
    ReleaseUnreadableError,
    StorageUnavailableError,
)
from patchify.releases import Release
from patchify.server import storage as storage_module
from patchify.server.catalogue import PublishedFile
from patchify.server.storage import FolderStorage
from patchify.versions import parse_version
from tests.running import PATIENCE

CONTENT = b"content of the release"


def release(version="1.0.0", content=CONTENT):
    return Release(parse_version(version), hashlib.sha256(content).hexdigest())


@pytest.fixture
def storage(tmp_path):
    (tmp_path / "app-1.0.0").write_bytes(CONTENT)
    return FolderStorage(tmp_path, "app")


@pytest.fixture
def hashed(monkeypatch):
    """Return the list of how often a file was hashed."""
    calls = []
    original = storage_module.hash_file

    def hash_file(*arguments):
        calls.append(threading.get_ident())
        return original(*arguments)

    monkeypatch.setattr(storage_module, "hash_file", hash_file)
    return calls


def read(storage, which=None):
    with storage.open(which or release()) as file:
        return file.read()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_checked_file_is_opened_at_its_start_without_hashing_it_again(storage, hashed):
    storage.check(release())
    assert read(storage) == read(storage) == CONTENT
    assert len(hashed) == 1


def test_a_file_that_nobody_checked_is_hashed_before_it_is_opened(storage, hashed):
    assert read(storage) == CONTENT
    assert len(hashed) == 1


def test_a_file_that_is_wrong_is_not_hashed_for_each_request(storage, hashed, tmp_path):
    storage.check(release())
    (tmp_path / "app-1.0.0").write_bytes(b"something else")
    for _ in range(3):
        with pytest.raises(ReleaseInvalidError):
            read(storage)
    assert len(hashed) == 2
    (tmp_path / "app-1.0.0").write_bytes(CONTENT)
    assert read(storage) == CONTENT


def test_versions_with_the_same_content_are_each_hashed_once(storage, hashed, tmp_path):
    names = ["1.0.0", "1.0.0+b1", "1.0.1"]
    for name in names * 3:
        (tmp_path / f"app-{name}").exists() or (tmp_path / f"app-{name}").write_bytes(CONTENT)
        assert read(storage, release(name)) == CONTENT
    assert len(hashed) == 3


def test_versions_that_differ_only_in_build_metadata_have_files_of_their_own(storage, tmp_path):
    (tmp_path / "app-1.0.0+b1").write_bytes(b"b1")
    assert read(storage, release("1.0.0+b1", b"b1")) == b"b1"
    assert read(storage) == CONTENT


def test_a_changed_file_is_refused_and_served_again_once_it_is_restored(storage, tmp_path):
    storage.check(release())
    path = tmp_path / "app-1.0.0"
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(ReleaseInvalidError) as caught:
        storage.open(release())
    assert caught.value.found == hashlib.sha256(CONTENT[::-1]).hexdigest()
    assert caught.value.expected == hashlib.sha256(CONTENT).hexdigest()
    path.write_bytes(CONTENT)
    assert read(storage) == CONTENT


def test_a_file_of_the_same_size_and_time_is_noticed(storage, tmp_path):
    path = tmp_path / "app-1.0.0"
    storage.check(release())
    before = path.stat()
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ReleaseInvalidError):
        storage.open(release())


def test_a_file_that_changes_while_it_is_hashed_is_refused(storage, tmp_path):
    def append(done):
        if done == len(CONTENT):
            with (tmp_path / "app-1.0.0").open("ab") as file:
                file.write(b"more")

    with pytest.raises(ReleaseInvalidError):
        storage.check(release(), append)


def test_many_threads_that_meet_a_changed_file_hash_it_once(storage, hashed, tmp_path):
    storage.check(release())
    os.utime(tmp_path / "app-1.0.0", (1, 1))
    line = threading.Barrier(8)

    def meet(_):
        line.wait(PATIENCE)
        return read(storage)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(meet, range(8))) == [CONTENT] * 8
    assert len(hashed) == 2


# what an earlier start has hashed --------------------------------------------------------------------------------------


@pytest.fixture
def again(storage, settled, tmp_path, hashed):
    """Return the storage of a second start; the first has checked the release."""
    assert storage.check(release(), anew=False)
    storage.remember()
    hashed.clear()
    return FolderStorage(tmp_path, "app")


def test_what_an_earlier_start_has_hashed_is_not_hashed_again(again, hashed):
    told = []
    assert not again.check(release(), told.append, anew=False)
    assert told == [len(CONTENT)]
    assert read(again) == CONTENT
    assert hashed == []


def test_to_open_a_file_it_is_enough_that_an_earlier_start_has_hashed_it(again, hashed):
    assert read(again) == CONTENT
    assert hashed == []


def test_a_check_hashes_all_the_same_unless_told_otherwise_and_once_in_each_process(again, hashed):
    assert not again.check(release(), anew=False)
    assert again.check(release())
    assert again.check(release())
    assert again.check(release(), anew=False)
    assert len(hashed) == 1


def replace_it(path):
    path.with_name("draft").write_bytes(CONTENT)
    os.replace(path.with_name("draft"), path)


@pytest.mark.parametrize(
    "change", [os.utime, replace_it, lambda path: path.write_bytes(CONTENT)], ids=["touch", "replace", "write"]
)
def test_a_file_that_anybody_has_touched_since_is_hashed_again(again, hashed, tmp_path, change):
    change(tmp_path / "app-1.0.0")
    assert again.check(release(), anew=False)
    assert len(hashed) == 1


def test_a_memory_that_says_something_else_makes_no_good_file_a_wrong_one(again, hashed, tmp_path):
    memory = tmp_path / ".hashes.json"
    memory.write_text(memory.read_text().replace(release().sha256, "ab" * 32))
    assert again.check(release(), anew=False)
    assert len(hashed) == 1


def test_what_is_hashed_while_it_is_served_is_remembered_too(storage, settled, tmp_path, hashed):
    form = stage(storage)
    storage.place_form(*form)
    file = PublishedFile(form[1], 4, release())
    for _ in range(2):
        later = FolderStorage(tmp_path, "app")
        assert read(later) == CONTENT
        later.open_file(file).close()
        assert len(hashed) == 2


def test_a_file_that_was_written_just_now_is_hashed_at_the_next_start_again(storage, hashed, tmp_path):
    storage.check(release())
    storage.remember()
    assert FolderStorage(tmp_path, "app").check(release(), anew=False)
    assert len(hashed) == 2


# files that are none --------------------------------------------------------------------------------------------------


def make_nothing(path):
    pass


def make_link_to_nothing(path):
    path.symlink_to("nowhere")


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize("make", [make_nothing, os.mkdir, os.mkfifo, make_link_to_nothing])
def test_what_is_no_regular_file_is_missing_and_leaves_no_descriptor(storage, tmp_path, make):
    path = tmp_path / "app-1.0.0"
    path.unlink()
    make(path)
    before = descriptors()
    for ask in (storage.check, storage.open):
        with pytest.raises(ReleaseMissingError) as caught:
            ask(release())
        assert str(path) in str(caught.value)
        assert "1.0.0" in str(caught.value)
    assert descriptors() == before


def test_a_folder_that_is_a_file_holds_no_release(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ReleaseMissingError):
        FolderStorage(tmp_path / "file", "app").check(release())


def test_what_cannot_be_opened_says_why(storage, tmp_path):
    path = tmp_path / "app-1.0.0"
    path.unlink()
    make_socket(path)
    with pytest.raises(ReleaseUnreadableError, match="cannot be read: No such device or address"):
        storage.check(release())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_so(storage, tmp_path):  # pragma: no cover - tests often run as root
    (tmp_path / "app-1.0.0").chmod(0)
    with pytest.raises(ReleaseUnreadableError, match="cannot be read: Permission denied"):
        storage.check(release())


def test_a_disk_that_fails_while_hashing_says_so_and_leaves_no_descriptor(storage, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage_module, "hash_file", fail)
    before = descriptors()
    for ask in (storage.check, storage.open):
        with pytest.raises(ReleaseUnreadableError, match="cannot be read: Input/output error"):
            ask(release())
    assert descriptors() == before


def test_the_size_of_what_is_not_there_is_0(storage):
    assert storage.size(release()) == len(CONTENT)
    assert storage.size(release("2.0.0")) == 0


# names ----------------------------------------------------------------------------------------------------------------


def test_builds_of_one_version_for_platforms_are_told_apart(storage, tmp_path):
    linux = replace(release(content=b"linux"), platform="linux-x86_64")
    (tmp_path / "app-1.0.0@linux-x86_64").write_bytes(b"linux")
    assert read(storage, linux) == b"linux"
    assert read(storage) == CONTENT
    assert storage.files() == {
        ("1.0.0", "any"): tmp_path / "app-1.0.0",
        ("1.0.0", "linux-x86_64"): tmp_path / "app-1.0.0@linux-x86_64",
    }
    assert storage.folder == tmp_path


# forms ----------------------------------------------------------------------------------------------------------------


def stage(storage, content=b"form"):
    """Return the path of a staged file with this content, and its hash."""
    staged = storage.make_incoming() / "staged"
    staged.write_bytes(content)
    staged.chmod(0o600)
    return staged, hashlib.sha256(content).hexdigest()


def test_a_form_is_moved_to_a_folder_that_is_made_for_it_and_all_may_read_it(storage):
    assert storage.forms() == {}
    staged, sha256 = stage(storage)
    before = os.umask(0o077)
    try:
        storage.place_form(staged, sha256)
    finally:
        os.umask(before)
    assert not staged.exists()
    assert storage.forms() == {sha256: storage.form_path(sha256)}
    assert storage.form_path(sha256).read_bytes() == b"form"
    assert storage.form_path(sha256).stat().st_mode & 0o777 == 0o644
    assert storage.form_path(sha256).parent.stat().st_mode & 0o777 == 0o755
    storage.place_form(*stage(storage))  # once more: nothing is in its way


def test_a_form_is_durable_and_so_is_its_folder(storage, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(storage_module, "sync_folder", synced.append)
    storage.place_form(*stage(storage))
    assert synced == [tmp_path, tmp_path / ".forms"]


def test_only_files_that_are_named_by_a_hash_are_forms(storage, tmp_path):
    storage.place_form(*stage(storage))
    found = storage.forms()
    (tmp_path / ".forms" / "notes").write_bytes(b"")
    (tmp_path / ".forms" / ("ab" * 32)).mkdir()
    assert storage.forms() == found
    assert storage.files() == {("1.0.0", "any"): tmp_path / "app-1.0.0"}


def test_a_folder_of_forms_that_cannot_be_used_is_named(storage, tmp_path):
    staged, sha256 = stage(storage)
    (tmp_path / ".forms").write_bytes(b"")
    with pytest.raises(StorageUnavailableError, match=r"\.forms"):
        storage.place_form(staged, sha256)
    with pytest.raises(StorageUnavailableError, match=r"\.forms"):
        storage.forms()
    assert staged.exists()

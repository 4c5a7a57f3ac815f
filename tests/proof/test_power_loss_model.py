"""That the model of `power_loss` knows what is known of power cuts, and that `recording` tells all that a process did."""

import os
import signal
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proof import power_loss
from tests.proof.power_loss import (
    Coverage,
    File,
    Folder,
    Story,
    Symlink,
    digest,
    legal_states,
    make_tree,
    materialise,
    may_leave,
    read_tree,
    survey,
)
from tests.proof.recording import NotModelledError, RecordingError, missing, record

OLD = make_tree({"app": File(b"old", 0o755, 1)})
TWO_FOLDERS = make_tree({"from": Folder(0o755), "from/app": File(b"old", 0o755, 1), "to": Folder(0o755)})

both_orders = pytest.mark.parametrize("reorder", [False, True], ids=["one journal", "folders on their own"])


def states(story, reorder, **options):
    return legal_states(story.initial, story.operations, reorder_directories=reorder, **options)


def at_the_end(story, reorder):
    return [tree for _, _, tree in states(story, reorder, cuts=[len(story.operations)])]


def data(trees, path):
    """Return what is found at ``path``: data, or None where it is not there."""
    return {tree[path].data if path in tree else None for tree in trees}


def names(trees):
    return {tuple(tree) for tree in trees}


# the model


@both_orders
def test_a_rename_over_a_file_without_fsync_may_leave_it_empty_torn_or_zeros(reorder):
    story = Story(OLD)
    story.create("draft")
    story.write("draft", b"newer!")
    story.rename("draft", "app")
    story.fsync("")
    assert data(at_the_end(story, reorder), "app") == {b"", b"new", bytes(3), bytes(6), b"newer!"}


@both_orders
def test_with_fsync_it_is_the_old_one_or_the_new_one_at_every_instant(reorder):
    story = Story(OLD)
    story.create("draft")
    story.write("draft", b"newer!")
    story.fsync("draft")
    story.rename("draft", "app")
    story.fsync("")
    assert data((tree for _, _, tree in states(story, reorder)), "app") == {b"old", b"newer!"}
    assert data(at_the_end(story, reorder), "app") == {b"newer!"}


@both_orders
def test_a_rename_without_an_fsync_of_the_folder_may_leave_the_old_one(reorder):
    story = Story(OLD)
    story.create("draft")
    story.write("draft", b"new")
    story.fsync("draft")
    story.rename("draft", "app")
    assert data(at_the_end(story, reorder), "app") == {b"old", b"new"}


@both_orders
def test_a_new_file_without_an_fsync_of_its_folder_may_be_lost_however_its_data_was_synced(reorder):
    story = Story(OLD)
    story.create("new")
    story.write("new", b"data")
    story.fsync("new")
    assert data(at_the_end(story, reorder), "new") == {None, b"data"}
    story.fsync("")
    assert data(at_the_end(story, reorder), "new") == {b"data"}


@both_orders
def test_a_hard_link_and_a_rename_over_it_keep_both_files_at_every_instant(reorder):
    story = Story(make_tree({**OLD, "draft": File(b"new", 0o755, 2)}))
    story.link("app", "previous")
    story.rename("draft", "app")
    story.fsync("")
    trees = [tree for _, _, tree in states(story, reorder)]
    assert data(trees, "app") == {b"old", b"new"}
    assert all(tree["app"].data == b"old" or tree["previous"].data == b"old" for tree in trees)
    linked = next(tree for tree in trees if len(tree) == 3)
    assert linked["app"].inode == linked["previous"].inode


@both_orders
def test_an_exchange_is_done_or_not(reorder):
    story = Story(make_tree({**OLD, "next": File(b"new", 0o755, 2)}))
    story.exchange("app", "next")
    found = {(tree["app"].data, tree["next"].data) for tree in at_the_end(story, reorder)}
    assert found == {(b"old", b"new"), (b"new", b"old")}


@both_orders
def test_removals_links_and_folders_are_certain_after_an_fsync_of_their_folder_only(reorder):
    story = Story(OLD)
    story.unlink("app")
    story.symlink("target", "link")
    story.mkdir("folder")
    assert names(at_the_end(story, reorder)) == {("app",), (), ("link",), ("folder", "link")}
    story.fsync("")
    assert names(at_the_end(story, reorder)) == {("folder", "link")}


def test_one_journal_keeps_the_order_of_two_folders_and_stricter_it_does_not():
    story = Story(TWO_FOLDERS)
    story.create("to/one")
    story.create("from/two")
    story.fsync("from")
    journal, apart = (names(at_the_end(story, reorder)) for reorder in (False, True))
    assert journal == {("from", "from/app", "from/two", "to", "to/one")}
    assert apart == journal | {("from", "from/app", "from/two", "to")}


@pytest.mark.parametrize("synced", ["from", "to"])
def test_a_rename_between_folders_is_atomic_and_certain_with_either_fsync_or_stricter_with_both(synced):
    before, after = ("from", "from/app", "to"), ("from", "to", "to/app")
    story = Story(TWO_FOLDERS)
    story.rename("from/app", "to/app")
    assert names(at_the_end(story, False)) == names(at_the_end(story, True)) == {before, after}
    story.fsync(synced)
    assert names(at_the_end(story, False)) == {after}
    assert names(at_the_end(story, True)) == {before, after}
    story.fsync("to" if synced == "from" else "from")
    assert names(at_the_end(story, True)) == {after}


def test_stricter_a_link_elsewhere_may_be_lost_while_the_removal_is_not():
    story = Story(TWO_FOLDERS)
    story.link("from/app", "to/app")
    story.unlink("from/app")
    assert ("from", "to") in names(at_the_end(story, True))
    assert ("from", "to") not in names(at_the_end(story, False))


@both_orders
def test_what_is_in_a_folder_is_lost_with_the_folder(reorder):
    story = Story(OLD)
    story.mkdir("folder")
    story.create("folder/file")
    story.write("folder/file", b"data")
    story.fsync("folder/file")
    story.fsync("folder")
    assert (("app",) in names(at_the_end(story, reorder))) == reorder  # one journal has the folder in it before
    story.fsync("")
    assert data(at_the_end(story, reorder), "folder/file") == {b"data"}


@both_orders
def test_a_mode_is_certain_after_an_fsync_and_not_after_an_fdatasync(reorder):
    story = Story(OLD)
    story.chmod("app", 0o600)
    story.fsync("app", data_only=True)
    assert {tree["app"].mode for tree in at_the_end(story, reorder)} == {0o755, 0o600}
    story.fsync("app")
    assert {tree["app"].mode for tree in at_the_end(story, reorder)} == {0o600}


@both_orders
def test_writes_may_be_found_out_of_order_until_an_fdatasync(reorder):
    story = Story(OLD)
    story.write("app", b"AB", 3)
    story.write("app", b"CD", 5)
    assert b"old\0\0CD" in data(at_the_end(story, reorder), "app")
    story.fsync("app", data_only=True)
    assert data(at_the_end(story, reorder), "app") == {b"oldABCD"}


@both_orders
def test_a_write_over_the_end_of_a_block_may_be_found_up_to_there_even_without_its_data(reorder):
    story = Story(OLD)
    story.write("app", b"n" * 10000, 3)
    found = data(at_the_end(story, reorder), "app")
    for size in (4096, 8192):  # ext4 was seen to do so
        assert {b"old" + b"n" * (size - 3), b"old" + bytes(size - 3)} <= found


@both_orders
def test_a_file_written_anew_in_place_may_be_found_empty(reorder):
    story = Story(OLD)
    story.resize("app", 0)
    story.write("app", b"new")
    story.fsync("app")
    assert b"" in data((tree for _, _, tree in states(story, reorder)), "app")
    assert data(at_the_end(story, reorder), "app") == {b"new"}


@both_orders
def test_what_is_written_to_a_file_without_a_name_is_found_when_its_removal_is_lost(reorder):
    story = Story(OLD)
    story.unlink("app")
    story.write(1, b"!")
    assert data(at_the_end(story, reorder), "app") == {None, b"old", b"old!", b"old\0"}


@both_orders
def test_after_a_sync_of_everything_nothing_is_lost(reorder):
    story = Story(TWO_FOLDERS)
    story.rename("from/app", "to/app")
    story.write("to/app", b"more")
    story.chmod("to/app", 0o600)
    story.sync()
    assert [digest(tree) for tree in at_the_end(story, reorder)] == [digest(story.tree())]


def test_a_state_says_at_which_cut_it_is_found_first_and_what_was_lost():
    story = Story(OLD)
    story.create("draft")
    story.write("draft", b"new")
    story.fsync("draft")
    story.rename("draft", "app")
    found = [(cut, lost) for cut, lost, _ in states(story, False)]
    assert found[0] == (0, "nothing")
    assert (1, "nothing") in found
    assert (2, "draft: all after 0 of 1 changes") not in found  # as after the first operation
    assert (2, "draft: all from byte 1 of change 1 of 1 on") in found
    assert found[-1] == (4, "nothing")
    assert len({digest(tree) for _, _, tree in states(story, False)}) == len(found)


folders = st.sampled_from(["", "a/", "b/"])
files = st.builds("".join, st.tuples(folders, st.sampled_from("xyz")))
moves = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["create", "unlink"]), files),
        st.tuples(st.sampled_from(["rename", "link", "exchange"]), files, files),
        st.tuples(st.just("write"), files, st.sampled_from([b"1", b"22"])),
        st.tuples(st.just("fsync"), st.one_of(files, st.sampled_from(["", "a", "b"]))),
        st.tuples(st.just("chmod"), files, st.sampled_from([0o600, 0o700])),
    ),
    max_size=10,
)


@given(moves)
def test_whatever_is_done_stricter_finds_all_that_one_journal_leaves_and_what_was_done_is_among_it(moves):
    story = Story(make_tree({"a": Folder(0o755), "b": Folder(0o755), "a/x": File(b"0", 0o644, 1)}))
    for name, *arguments in moves:
        try:
            getattr(story, name)(*arguments)
        except OSError:
            continue
    coverage = Coverage()
    end = [len(story.operations)]
    journal, apart = (
        {digest(tree): tree for _, _, tree in states(story, reorder, cuts=end, coverage=coverage)}
        for reorder in (False, True)
    )
    assert digest(story.tree()) in journal
    for key, tree in {**journal, **apart}.items():
        assert may_leave(tree, story.initial, story.operations, reorder_directories=True)
        possible = may_leave(tree, story.initial, story.operations, reorder_directories=False)
        assert possible or key not in journal
        if not coverage.bounded:
            assert key in apart
            assert possible == (key in journal)
    story.sync()
    assert [digest(tree) for tree in at_the_end(story, True)] == [digest(story.tree())]


def test_where_there_are_too_many_combinations_the_table_says_so_and_pairs_are_still_found(monkeypatch):
    story = Story(make_tree({name: Folder(0o755) for name in "abcdefgh"}))
    for name in "abcdefgh":
        story.create(f"{name}/new")
        story.write(f"{name}/new", b"new")
    story.fsync("a/new")
    whole = Coverage()
    assert len(list(states(story, True, coverage=whole))) > 10_000
    assert "not in full: contents" in whole.table()
    monkeypatch.setattr(power_loss, "MOST_NAMINGS", 10)
    few = Coverage()
    found = list(states(story, True, coverage=few))
    assert few.states == len(found) < whole.states
    assert "not in full: names" in few.table()
    kept = names(tree for _, _, tree in found)
    assert tuple("abcdefgh") in kept
    assert tuple(sorted([*"abcdefgh", *(f"{name}/new" for name in "adefgh")])) in kept  # b's and c's lost
    for tree in at_the_end(story, True):
        assert data([tree], "a/new") <= {None, b"new"}


def test_the_table_says_when_all_combinations_were_looked_at():
    coverage = Coverage()
    list(states(Story(OLD), True, coverage=coverage))
    assert "nothing, all combinations" in coverage.table()


def test_a_file_of_very_many_writes_is_cut_short_at_each():
    story = Story(OLD)
    for _ in range(power_loss.MOST_WRITES + 1):
        story.write("app", b"ab")
    coverage = Coverage()
    found = [tree for _, _, tree in states(story, False, cuts=[len(story.operations)], coverage=coverage)]
    assert {b"old" + b"ab" * count for count in range(power_loss.MOST_WRITES + 2)} <= data(found, "app")
    assert "each prefix" in coverage.table()


def test_a_tree_is_made_and_read_again(tmp_path):
    tree = make_tree(
        {
            "app": Symlink("versions/2"),
            "versions": Folder(0o755),
            "versions/2": Folder(0o500),
            "versions/2/run": File(b"\0\1", 0o755, 7),
            "same": File(b"\0\1", 0o755, 7),
            "copy": File(b"\0\1", 0o755, 8),
        }
    )
    materialise(tree, tmp_path / "made")
    read = read_tree(tmp_path / "made")
    assert digest(read) == digest(tree)
    assert read["versions/2/run"].inode == read["same"].inode != read["copy"].inode
    assert digest(make_tree({**tree, "same": File(b"\0\1", 0o755, 8)})) != digest(tree)


# updaters, as real processes: what is right passes, and what is wrong is found

UPDATER = """
import os

def write(path, data, fsync=True):
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        if fsync:
            os.fsync(file.fileno())

def sync(folder="."):
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
"""
GOOD = """
write("draft", b"new" * 1000)
os.link("app", "previous")
sync()
os.replace("draft", "app")
sync()
print("done", flush=True)
"""
RENAMES_AWAY_FIRST = """
write("draft", b"new" * 1000)
os.rename("app", "previous")
os.rename("draft", "app")
sync()
"""
SYNCS_NOTHING = """
write("draft", b"new" * 1000, fsync=False)
os.replace("draft", "app")
"""
SYNCS_NO_FOLDER = """
write("draft", b"new" * 1000)
os.replace("draft", "app")
print("done", flush=True)
"""


def judge(folder, cut):
    app = folder / "app"
    if not app.exists():
        return "no program"
    return None if app.read_bytes() in {b"old", b"new" * 1000} else "garbage"


def judge_done(folder, cut):
    return None if (folder / "app").read_bytes() == b"new" * 1000 else "undone"


@pytest.fixture
def run(tmp_path):
    """Return a function that runs Python code in a folder with the old program, and returns the recording."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path / "folder"
    materialise(OLD, folder)

    def run(code, **options):
        return record([sys.executable, "-I", "-S", "-c", UPDATER + code], folder, **options)

    return run


@both_orders
def test_a_good_updater_leaves_a_program_at_every_instant_and_the_new_one_when_it_said_so(run, tmp_path, reorder):
    story = run(GOOD)
    found = survey(story.initial, story.operations, judge, tmp_path, reorder_directories=reorder)
    assert not found.failures, found.table()
    [(said, text)] = story.marks
    assert text == b"done\n"
    cuts = range(said, len(story.operations) + 1)
    late = survey(story.initial, story.operations, judge_done, tmp_path, reorder_directories=reorder, cuts=cuts)
    assert not late.failures, late.table()


@both_orders
@pytest.mark.parametrize(("code", "wrong"), [(RENAMES_AWAY_FIRST, "no program"), (SYNCS_NOTHING, "garbage")])
def test_a_bad_updater_is_found_out(run, tmp_path, reorder, code, wrong):
    story = run(code)
    found = survey(story.initial, story.operations, judge, tmp_path, reorder_directories=reorder)
    assert {verdict for _, _, verdict in found.failures} == {wrong}
    assert wrong in found.table()


def test_an_updater_that_says_done_too_early_is_found_out(run, tmp_path):
    story = run(SYNCS_NO_FOLDER)
    [(said, _)] = story.marks
    found = survey(story.initial, story.operations, judge_done, tmp_path, reorder_directories=False, cuts=[said])
    assert {verdict for _, _, verdict in found.failures} == {"undone"}


# recordings; each is compared with what is there by `record` itself

FILES = """
import shutil, threading
file = os.open("a", os.O_CREAT | os.O_RDWR | os.O_EXCL)
os.write(file, b'quote" <and> comma, \\0 {[(')
os.writev(file, [b"ab", b"cd"])
os.pwritev(file, [b"x", b"y"], 1)
os.pwrite(file, b"z", 9)
other = os.dup(file)
os.lseek(other, 2, os.SEEK_SET)
os.read(file, 2)
os.write(other, b"where?")
os.set_inheritable(other, True)
os.ftruncate(file, 12)
os.posix_fallocate(file, 0, 100)
os.fdatasync(file)
os.fchmod(file, 0o640)
os.unlink("a")
os.write(file, b"still there")
open("big", "wb").write(bytes(range(256)) * 4096)
shutil.copyfile("big", "copy of big")
shutil.copyfile(os.path.realpath("/bin/true"), "from outside")
source, target = os.open("big", os.O_RDONLY), os.open("part", os.O_CREAT | os.O_WRONLY)
os.lseek(source, 100, os.SEEK_SET)
os.copy_file_range(source, target, 1000)
open("log", "a").write("one")
open("log", "a").write("two")
os.truncate("log", 4)
os.write(os.open("log", os.O_WRONLY | os.O_DSYNC), b"1")
def fill(name):
    for part in range(20):
        with open(name, "ab") as file:
            file.write(b"part")
threads = [threading.Thread(target=fill, args=(f"thread {number}",)) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
NAMES = """
import ctypes
os.umask(0o027)
os.makedirs("versions/1/deep")
os.mkdir("\\u00fcber")
open("versions/1/deep/file", "w").write("x")
os.symlink("versions/1", "current")
os.symlink(os.path.abspath("versions"), "absolute")
open("current/deep/../by way of a link", "w").write("x")
os.chmod("absolute/1/deep/file", 0o600)
folder = os.open("versions", os.O_RDONLY)
os.rename("app", "app", src_dir_fd=None, dst_dir_fd=folder)
os.link("versions/app", "second")
os.rename("second", "versions/app")
os.mkdir("versions/2")
os.rename("versions/1", "versions/3")
os.chdir("versions/3")
os.unlink("../../current")
os.symlink("versions/3", "../../current")
open("../2/relative", "w").write("x")
os.fchdir(folder)
assert ctypes.CDLL(None).renameat2(-100, b"2", -100, b"3", 2) == 0
os.rmdir("2/deep") if not os.listdir("2/deep") else os.unlink("2/deep/file")
os.fsync(folder)
os.utime("app")
os.chown("app", os.getuid(), os.getgid())
os.chmod("3", 0o700)
os.sync()
for missing in ("nothing", "nowhere/at all"):
    try:
        os.rename(missing, "there")
    except FileNotFoundError:
        pass
"""
PROCESSES = """
import subprocess
file = os.open("out", os.O_CREAT | os.O_WRONLY)
subprocess.run(["/bin/sh", "-c", "echo child; echo new > n; mv n m; ln m l; cp m c; chmod 600 c; rm l"], stdout=file)
child = os.fork()
if child == 0:
    os.write(file, b"forked")
    os.close(file)
    os._exit(0)
os.waitpid(child, 0)
os.write(file, b"parent")
os.set_inheritable(file, True)
os.execv("/bin/sh", ["sh", "-c", f"echo after exec >&{file}; cat app >> out"])
"""


@pytest.mark.parametrize("code", [FILES, NAMES, PROCESSES], ids=["files", "names", "processes"])
def test_whatever_a_process_does_the_story_leads_to_what_is_there(run, code):
    story = run(code)
    assert len(story.operations) > 10


def test_data_links_and_syncs_are_told_as_they_were(run):
    story = run(GOOD)
    expected = Story(OLD)
    expected.create("draft")
    expected.write("draft", b"new" * 1000)
    expected.fsync("draft")
    expected.link("app", "previous")
    expected.fsync("")
    expected.rename("draft", "app")
    expected.fsync("")
    made = expected.operations[0].made
    assert [op for op in story.operations if op != story.operations[0]] == expected.operations[1:]
    assert story.operations[0].made[0] == made[0]


def test_a_process_that_is_killed_is_told_until_then(run):
    story = run('write("draft", b"new")\nos.kill(os.getpid(), 9)', expect=-signal.SIGKILL)
    assert story.final["draft"].data == b"new"


SPLICES = """
import ctypes
source, target = os.pipe()
os.write(target, b"x")
assert ctypes.CDLL(None).splice(source, None, os.open("app", os.O_WRONLY), None, 1, 0) == 1
"""


@pytest.mark.parametrize(
    "code",
    [
        'import mmap; file = open("app", "r+b"); mmap.mmap(file.fileno(), 3)',
        'import socket; socket.socket(socket.AF_UNIX).bind("socket")',
        'open("../outside", "w"); os.rename("../outside", "inside")',
        'os.mkfifo("pipe"); os.unlink("pipe")',
        'os.open(".", os.O_TMPFILE | os.O_RDWR)',
        'open("/proc/self/cwd/file", "w")',
        'file = os.open("app", os.O_RDWR); open(f"/proc/self/fd/{file}", "w")',
        SPLICES,
    ],
    ids=["shared memory", "socket", "from outside", "fifo", "unnamed", "by proc", "descriptor by proc", "splice"],
)
def test_what_a_story_cannot_tell_is_an_error(run, code):
    with pytest.raises(NotModelledError, match="not modelled"):
        run(code)


def test_extended_attributes_are_an_error(run, tmp_path):
    try:
        os.setxattr(tmp_path, "user.test", b"1")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error}")
    with pytest.raises(NotModelledError, match="setxattr"):
        run('os.setxattr("app", "user.test", b"1")')


def test_a_command_that_fails_is_an_error(run):
    with pytest.raises(RecordingError, match="left with 3"):
        run("raise SystemExit(3)")


def test_a_story_that_does_not_lead_to_what_is_there_is_an_error(run, monkeypatch):
    monkeypatch.setattr(Story, "chmod", lambda story, file, mode: None)
    with pytest.raises(RecordingError, match=r"does not lead to what is there: \['app'\]"):
        run('os.chmod("app", 0o600)')

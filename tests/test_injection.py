import errno
import re
import sys
import textwrap

import pytest

from tests import injection
from tests.injection import ERRORS, KILL, Point

OLD, NEW = b"old" * 1000, b"new" * 1000
DURABLE = """
    import os, tempfile
    begin()
    try:
        number, draft = tempfile.mkstemp(dir=folder)
        os.write(number, b"new" * 1000)
        os.fsync(number)
        os.close(number)
        os.rename(draft, program)
        number = os.open(folder, os.O_RDONLY)
        os.fsync(number)
        os.close(number)
    except OSError as error:
        print("errno", error.errno)
        sys.exit(3)
"""
IN_PLACE = """
    begin()
    with open(program, "wb", buffering=0) as file:
        file.write(b"new" * 500)
        file.write(b"new" * 500)
"""
TWO_THREADS = """
    import os, threading
    def rename(name):
        os.rename(f"{folder}/{name}", f"{folder}/{name}.done")
    begin()
    os.link(program, folder + "/a")
    os.link(program, folder + "/b")
    threads = [threading.Thread(target=rename, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
        thread.join()
"""


@pytest.fixture(scope="module", autouse=True)
def possible():
    if reason := injection.why_not():
        pytest.skip(reason)


@pytest.fixture
def story(tmp_path):
    """Return a function that makes a script of a body and returns what gives the command for a folder."""

    def story(body: str, mark: bool = True):
        script = tmp_path / "scripts" / "story.py"
        script.parent.mkdir()
        head = "import sys\nfolder = sys.argv[1]\nprogram = folder + '/program'\n"
        head += "from tests.injection import begin\n" if mark else "begin = lambda: None\n"
        script.write_text(head + textwrap.dedent(body))
        return lambda folder: [sys.executable, script, folder]

    return story


def prepare(folder):
    (folder / "program").write_bytes(OLD)


def old_or_new(folder, outcome):
    assert (folder / "program").read_bytes() in {OLD, NEW}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    prepare(folder)
    return folder


def test_calls_below_the_folder_are_counted_under_whatever_name(story, folder):
    found = injection.calls(story(DURABLE)(folder), [folder])
    names = [call.name for call in found if call.name in {"openat", "write", "fsync", "rename"}]
    assert names == ["openat", "write", "fsync", "rename", "openat", "fsync"]


def test_a_kill_comes_before_the_call_is_executed(story, folder):
    command = story(DURABLE)(folder)
    found = injection.calls(command, [folder])
    prepare(folder)
    point = next(each for each in injection.points(found, KILL)[0] if each.name == "rename")
    outcome = injection.run(command, [folder], point, KILL)
    assert (outcome.hit, outcome.returncode) == (True, -9)
    assert (folder / "program").read_bytes() == OLD
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("marked", [True, False])
def test_a_durable_write_survives_every_kill(story, tmp_path, marked):
    seen = set()

    def check(folder, outcome):
        assert outcome.returncode == -9
        old_or_new(folder, outcome)
        seen.add((folder / "program").read_bytes())

    command = story(DURABLE, mark=marked)
    report = injection.sweep(tmp_path / "runs", prepare=prepare, command=command, check=check, marked=marked)
    report.verify()
    assert report.runs == 5  # the draft is made, written and fsynced, renamed, and the folder fsynced
    assert seen == {OLD, NEW}
    assert not list((tmp_path / "runs").iterdir())


def test_a_write_in_place_is_caught(story, tmp_path):
    report = injection.sweep(tmp_path / "runs", prepare=prepare, command=story(IN_PLACE), check=old_or_new)
    assert not report.missed
    assert [point.name for point, _, _ in report.failures] == ["write", "write"]
    assert len(list((tmp_path / "runs").iterdir())) == 2
    with pytest.raises(AssertionError, match=r"2 of 3 runs:\nkill at write 1"):
        report.verify()


def test_an_error_appears_in_the_process(story, tmp_path):
    def check(folder, outcome):
        assert (outcome.returncode, outcome.output) == (3, f"errno {getattr(errno, outcome.fault)}\n")
        old_or_new(folder, outcome)
        seen.append((outcome.fault, outcome.point.name))

    def choose(point, fault):  # Python looks around before it makes a draft, and goes on whatever it sees
        return point.name in {"openat", "write", "fsync", "rename"}

    seen = []
    report = injection.sweep(
        tmp_path / "runs",
        prepare=prepare,
        command=story(DURABLE),
        check=check,
        faults=ERRORS,
        choose=choose,
    )
    report.verify()
    assert {name for fault, name in seen if fault == "EXDEV"} == {"rename"}
    assert {name for fault, name in seen if fault == "EIO"} == {"openat", "write", "fsync", "rename"}
    assert {fault for fault, _ in seen} == set(ERRORS)
    reasons = {(point.name, fault): reason for point, fault, reason in report.left_out}
    assert "closes the descriptor" in reasons["close", "EIO"]
    assert "does not report EXDEV" in reasons["write", "EXDEV"]


@pytest.mark.parametrize("fault", [KILL, "EIO"])
def test_a_point_beyond_the_end_is_not_hit(story, folder, fault):
    outcome = injection.run(story(DURABLE)(folder), [folder], Point("fsync", 99, 99), fault)
    assert (outcome.hit, outcome.returncode) == (False, 0)
    assert (folder / "program").read_bytes() == NEW


def test_a_call_other_than_the_meant_one_is_not_a_hit(story, folder):
    outcome = injection.run(story(DURABLE)(folder), [folder], Point("fsync", 1, 2), KILL)
    assert (outcome.hit, outcome.returncode) == (False, -9)


def test_a_point_that_drifted_is_found_again(story, tmp_path):
    drifted = [lambda found: [Point(each.name, each.nth, each.when + 7) for each in found]]

    def once_wrong(found, fault):
        chosen, left_out = injection_points(found, fault)
        return (drifted.pop()(chosen) if drifted else chosen), left_out

    injection_points = injection.points
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(injection, "points", once_wrong)
        report = injection.sweep(tmp_path / "runs", prepare=prepare, command=story(DURABLE), check=old_or_new)
    report.verify()
    assert report.retried == report.runs == 5


def test_a_call_behind_one_of_another_thread_is_left_out(story, folder):
    found = injection.calls(story(TWO_THREADS)(folder), [folder])
    chosen, left_out = injection.points(found, KILL)
    assert [(each.name, each.nth, each.when) for each in chosen] == [("link", 1, 1), ("link", 2, 2), ("rename", 1, 1)]
    assert ("rename", 2, 1, "another thread or process") in [
        (point.name, point.nth, point.when, reason[:25]) for point, _, reason in left_out
    ]


def test_a_story_that_does_not_end_is_ended(story, folder):
    with pytest.raises(AssertionError, match=r"did not end within 2 s"):
        injection.calls(story("import time\nbegin()\ntime.sleep(600)")(folder), [folder], patience=2)


def test_a_machine_that_cannot_do_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert injection.why_not() == "strace is not installed"
    strace = tmp_path / "strace"
    strace.write_text(
        "#!/bin/sh\necho 'strace: attach: ptrace(PTRACE_SEIZE, 1): Operation not permitted' >&2\nexit 1\n"
    )
    strace.chmod(0o755)
    assert "Operation not permitted" in injection.why_not()


@pytest.mark.parametrize("body", ["sys.exit('no')", "begin()\nsys.exit('no')"], ids=["before the mark", "after it"])
def test_a_story_that_fails_by_itself_is_told(story, folder, body):
    with pytest.raises(AssertionError, match=re.compile(r"no$|ended with 1 before its mark")):
        injection.calls(story(body)(folder), [folder])

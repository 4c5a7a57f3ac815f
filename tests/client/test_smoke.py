"""The smoke test, with real processes: each a few words of Python."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from pathlib import Path

import pytest

from patchify.client import restarter, smoke
from patchify.client.smoke import smoke_test
from patchify.errors import SmokeTestError, UnableToSmokeTestError
from tests.running import PATIENCE, wait_until

posix = pytest.mark.skipif(os.name != "posix", reason="there are no process groups here")


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Let temporary files be made in a folder that is empty before and after."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert os.listdir(folder) == []


def python(source: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-c", source, *arguments)


def problem_of(command, seconds: float = PATIENCE) -> str:
    with pytest.raises(SmokeTestError) as raised:
        smoke_test(command, "2.0.0", seconds)
    assert raised.value.version == "2.0.0"
    return raised.value.problem


def test_a_release_that_ends_with_status_0_has_passed():
    smoke_test(python("import sys; print('fine'); assert sys.argv[1:] == ['--check']", "--check"), "2.0.0", PATIENCE)


def test_it_runs_in_an_empty_folder_and_a_clean_environment_and_hears_nothing(monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("LANG", "C.UTF-8")
    source = (
        "import os, sys; assert os.listdir() == [], os.listdir(); assert sys.stdin.read() == '';"
        "assert 'SECRET' not in os.environ and os.environ['LANG'] == 'C.UTF-8' and 'PATH' in os.environ"
    )
    smoke_test(python(source), "2.0.0", PATIENCE)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("raise SystemExit(3)", "it ended with exit status 3"),
        ("raise SystemExit('no such module')", "it ended with exit status 1, saying: no such module"),
        ("print('x' * 600 + 'end'); raise SystemExit(1)", f"it ended with exit status 1, saying: {'x' * 497}end"),
        (r"import os; os.write(1, b'\xff'); os._exit(1)", "it ended with exit status 1, saying: \ufffd"),
    ],
)
def test_a_release_that_ends_otherwise_has_failed_and_its_last_words_are_told(source, problem):
    assert problem_of(python(source)) == problem


@posix
def test_a_release_that_is_killed_has_failed():
    assert problem_of(python("import os; os.kill(os.getpid(), 11)")) == "it was killed by signal 11"


def test_a_release_that_does_not_end_has_failed_and_is_ended():
    assert problem_of(python("import time; time.sleep(1000)"), 0.1) == "it did not end within 0.1 s"


@posix
def test_whatever_it_has_started_is_ended_with_it(tmp_path):
    note = tmp_path / "pid"
    source = "import subprocess, sys; print(subprocess.Popen(['sleep', '1000']).pid, file=open(sys.argv[1], 'w'))"
    smoke_test(python(source, str(note)), "2.0.0", PATIENCE)
    pid = int(note.read_text())

    def ended():
        try:
            with open(f"/proc/{pid}/stat") as stat:
                return stat.read().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    wait_until(ended, "the end of what it had started")


@posix
def test_a_release_that_is_no_program_has_failed(tmp_path):
    program = tmp_path / "app"
    program.write_bytes(b"\0")
    assert problem_of((str(program),)) == "it cannot be started: Permission denied"
    program.chmod(0o755)
    assert problem_of((str(program),)) == "it cannot be started: Exec format error"
    assert problem_of((str(tmp_path / "nowhere"),)) == "it cannot be started: No such file or directory"


def test_an_error_while_waiting_leaves_no_process(monkeypatch):
    started = []

    class Broken(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

        def wait(self, timeout=None):
            if timeout is not None:
                raise KeyboardInterrupt
            return super().wait()

    monkeypatch.setattr(smoke.subprocess, "Popen", Broken)
    with pytest.raises(KeyboardInterrupt):
        smoke_test(python("import time; time.sleep(1000)"), "2.0.0", PATIENCE)
    assert started[0].returncode is not None


# What is not the release's fault --------------------------------------------------------------------------------------


def reason_of(command, release=None) -> str:
    with pytest.raises(UnableToSmokeTestError) as raised:
        smoke_test(command, "2.0.0", PATIENCE, release)
    return str(raised.value)


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_release_that_somebody_asks_to_end_has_not_failed(number):
    source = "import os, signal, sys; number = int(sys.argv[1]); signal.signal(number, signal.SIG_DFL)\n"
    assert f"signal {number:d}," in reason_of(python(source + "os.kill(os.getpid(), number)", str(int(number))))
    assert f"exit status {128 + number}," in reason_of(python(f"raise SystemExit({128 + number})"))


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE])
def test_a_system_that_cannot_start_anything_now_says_nothing_of_the_release(monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(smoke.subprocess, "Popen", fail)
    with pytest.raises(UnableToSmokeTestError, match="unable to run the smoke test of") as raised:
        smoke_test(("app",), "2.0.0", PATIENCE)
    assert raised.value.errno == number


@pytest.mark.parametrize("where", ["pipe", "folder"])
def test_a_system_that_has_no_place_for_it_says_nothing_of_the_release(monkeypatch, where):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*{"pipe": (smoke.os, "pipe"), "folder": (smoke.tempfile, "TemporaryDirectory")}[where], fail)
    assert "No space left on device" in reason_of(("app",))


def test_a_system_without_a_thread_to_spare_says_nothing_of_the_release(monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert "can't start new thread" in reason_of(("app",))


@posix
def test_an_interpreter_that_is_missing_is_not_the_releases_fault(tmp_path):
    release = tmp_path / "staged"
    release.touch()
    missing = str(tmp_path / "interpreter")
    assert "No such file or directory" in reason_of((missing, str(release)), release)
    with pytest.raises(SmokeTestError, match="Permission denied"):
        smoke_test((str(release),), "2.0.0", PATIENCE, tmp_path)


@posix
def test_a_release_that_is_still_open_for_writing_elsewhere_is_waited_for(tmp_path, monkeypatch):
    program = tmp_path / "app"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    with program.open("ab") as writing:
        monkeypatch.setattr(restarter, "time", type("Time", (), {"sleep": lambda _: writing.close()}))
        smoke_test((str(program),), "2.0.0", PATIENCE)
    monkeypatch.setattr(restarter, "time", type("Time", (), {"sleep": lambda _: None}))
    with program.open("ab"):
        assert "Text file busy" in reason_of((str(program),))


# What it says ---------------------------------------------------------------------------------------------------------


def test_of_what_it_says_only_the_end_is_kept_however_much_it_is(monkeypatch):
    source = "import os\nfor _ in range(300): os.write(1, b'x' * 100_000)\nraise SystemExit('last words')"
    monkeypatch.setattr(tempfile, "TemporaryFile", None)  # nothing of it goes to a disk
    tracemalloc.start()
    try:
        problem = problem_of(python(source))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000  # bytes, of 30 million
    finally:
        tracemalloc.stop()
    assert problem.endswith("xlast words")
    assert len(problem) < 600


@posix
def test_what_gets_away_with_its_output_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(smoke, "_LAST_WORDS_WITHIN", 0.01)
    note = tmp_path / "pid"
    source = (
        "import subprocess, sys\n"
        "away = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "print(away.pid, file=open(sys.argv[1], 'w'))"
    )
    smoke_test(python(source, str(note)), "2.0.0", PATIENCE)
    os.kill(int(note.read_text()), signal.SIGKILL)
    wait_until(lambda: "patchify-smoke" not in [each.name for each in threading.enumerate()], "the end of its output")


def test_no_descriptor_and_no_thread_is_left():
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for command in (python("print('x')"), python("raise SystemExit(1)"), ("/no/such/program",)):
        with pytest.raises(SmokeTestError) if command != python("print('x')") else contextlib.nullcontext():
            smoke_test(command, "2.0.0", PATIENCE)
    assert "patchify-smoke" not in [each.name for each in threading.enumerate()]
    if before:
        assert len(os.listdir("/proc/self/fd")) == before

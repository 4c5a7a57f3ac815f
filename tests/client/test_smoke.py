"""The smoke test, with real processes: each a few words of Python."""

import os
import subprocess
import sys
import tempfile

import pytest

from patchify.client import smoke
from patchify.client.smoke import smoke_test
from patchify.errors import SmokeTestError
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

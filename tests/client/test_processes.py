"""Processes that are watched: real ones, with the kernel's help and without, and the judgement on how they ended."""

import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from patchify.client import processes
from patchify.client.processes import Process, born_at, judge, running
from tests.running import PATIENCE, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked at in /proc")


@pytest.fixture
def spawn():
    """Return a function that starts a Python program; what still runs in the end is killed."""
    started = []

    def spawn(source: str, *arguments: str, **options) -> subprocess.Popen:
        command = [sys.executable, "-I", "-c", source, *arguments]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options))
        return started[-1]

    yield spawn
    for process in started:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()


@pytest.fixture(params=["pidfd", "polling"])
def watch(request, monkeypatch):
    """Return a function that watches a process, as the kernel tells or by looking at it now and then."""
    if request.param == "polling":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    elif not hasattr(os, "pidfd_open"):
        pytest.skip("this system has no pidfd")
    made = []

    def watch(pid: int, born: str | None = None) -> Process:
        made.append(Process(pid, born))
        return made[-1]

    watch.tells = request.param == "pidfd"
    yield watch
    for process in made:
        process.close()
        process.close()


SLEEP = "print(flush=True); import time; time.sleep(1000)"
IGNORE = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(1000)"


def ready(process: subprocess.Popen) -> subprocess.Popen:
    process.stdout.readline()
    return process


# Alive, or not --------------------------------------------------------------------------------------------------------


def test_a_process_that_runs_is_alive_and_waiting_for_it_ends_in_time(watch, spawn):
    child = spawn(SLEEP)
    process = watch(child.pid)
    assert process.alive
    assert process.wait(0.1) is False


def test_a_process_that_ends_is_noticed_before_its_parent_has_waited_for_it(watch, spawn):
    child = ready(spawn(SLEEP))
    process = watch(child.pid)
    child.kill()
    assert process.wait(PATIENCE) is True
    assert not process.alive
    assert child.poll() is not None
    assert not process.alive


def test_a_process_that_has_ended_already_is_not_alive(watch, spawn):
    child = spawn("pass")
    child.wait(PATIENCE)
    assert not watch(child.pid).alive
    assert born_at(child.pid) == ""


def test_another_process_that_has_got_the_number_since_is_not_the_one(watch, spawn):
    child = spawn(SLEEP)
    process = watch(child.pid, "1")
    assert not process.alive
    assert process.status() is None
    process.end()
    assert child.poll() is None


def test_a_process_is_known_by_the_time_of_its_start(watch, spawn):
    child = spawn(SLEEP)
    assert watch(child.pid, born_at(child.pid)).alive
    assert born_at(child.pid) == born_at(child.pid) != ""
    assert born_at(os.getpid()).isdigit()


class NoProc(type(Path())):
    """A path where there is no file of a process."""

    def read_bytes(self):
        raise FileNotFoundError(2, "No such file or directory")

    def exists(self):
        return False


def test_where_there_is_no_proc_only_the_number_is_known(monkeypatch, spawn):
    child = spawn("pass")
    child.wait(PATIENCE)

    monkeypatch.setattr(processes, "Path", NoProc)
    assert born_at(os.getpid()) == "?"
    assert born_at(child.pid) == ""


def test_on_windows_nobody_is_sent_anything_to_find_out(monkeypatch):
    monkeypatch.setattr(processes, "Path", NoProc)
    monkeypatch.setattr(processes, "os", types.SimpleNamespace(name="nt"))  # without kill
    assert born_at(os.getpid()) == ""


def test_somebody_elses_process_is_there_too(monkeypatch):
    def refuse(pid, number):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(processes.os, "kill", refuse)
    assert processes._send(1, 0) is True


# How it ended ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "status"),
    [("pass", 0), ("raise SystemExit(3)", 3 << 8), ("import os; os.kill(os.getpid(), 9)", 9)],
)
@pytest.mark.parametrize("waited", [False, True])
def test_how_a_child_ended_is_told_by_the_kernel(watch, spawn, source, status, waited):
    child = spawn("input();" + source, stdin=subprocess.PIPE)
    process = watch(child.pid)
    child.stdin.write("\n")
    child.stdin.close()
    assert process.wait(PATIENCE)
    if waited:
        child.wait(PATIENCE)
    assert process.status() == (status if watch.tells else None)


def test_a_kernel_that_does_not_tell_leaves_it_unknown(watch, spawn, monkeypatch):
    import fcntl

    child = spawn("input()", stdin=subprocess.PIPE)
    process = watch(child.pid)
    child.stdin.close()
    child.wait(PATIENCE)

    def refuse(*_):
        raise OSError(25, "Inappropriate ioctl for device")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    assert process.status() is None


def test_a_kernel_that_never_tells_is_not_asked_for_ever(watch, spawn, monkeypatch):
    import fcntl

    child = spawn(SLEEP)
    process = watch(child.pid)
    monkeypatch.setattr(processes, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    asked = []

    def refuse(*_):
        asked.append(1)
        raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    assert process.status() is None
    assert len(asked) == (40 if watch.tells else 0)


# Ending it ------------------------------------------------------------------------------------------------------------


def test_a_process_is_asked_to_end(watch, spawn):
    child = ready(spawn(SLEEP))
    watch(child.pid).end()
    assert child.wait(PATIENCE) == -signal.SIGTERM


def test_a_process_that_does_not_want_to_is_ended_with_all_that_it_has_started(watch, spawn):
    start = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', sys.argv[1]]).pid, flush=True);"
    child = spawn(start + IGNORE, SLEEP)
    grandchild = int(child.stdout.readline())
    child.stdout.readline()
    child.stdout.readline()
    born = born_at(grandchild)
    assert born
    watch(child.pid).end(0.1)
    assert child.wait(PATIENCE) == -signal.SIGKILL
    wait_until(lambda: born_at(grandchild) != born, "the end of what it had started")


def test_whoever_ends_a_process_that_it_descends_from_spares_itself(spawn):
    spared = processes.line_of(os.getpid())
    assert {os.getpid(), os.getppid()} <= spared
    child = spawn(SLEEP)
    assert child.pid in processes._descendants(os.getpid(), frozenset())
    assert child.pid not in processes._descendants(os.getpid(), frozenset({child.pid}))
    assert processes.line_of(2**22 + 1) == {2**22 + 1}


# The judgement --------------------------------------------------------------------------------------------------------


def exited(code: int) -> int:
    return code << 8


@pytest.mark.parametrize(
    ("status", "asked", "failed", "words"),
    [
        (None, "", True, "ended, and nobody had asked it to"),
        (None, "SIGTERM", False, "was ended (SIGTERM)"),
        (exited(0), "", False, "ended with exit status 0"),
        (exited(1), "", True, "ended with exit status 1"),
        (exited(1), "SIGTERM", False, "ended with exit status 1"),
        (exited(130), "", False, "ended with exit status 130"),
        (exited(131), "", False, "ended with exit status 131"),
        (exited(143), "", False, "ended with exit status 143"),
        (exited(137), "", True, "ended with exit status 137"),
        (signal.SIGSEGV, "", True, "was killed by SIGSEGV"),
        (signal.SIGSEGV | 0x80, "", True, "was killed by SIGSEGV"),  # and dumped its core
        (signal.SIGKILL, "", True, "was killed by SIGKILL"),
        (signal.SIGKILL, "SIGTERM", False, "was killed by SIGKILL"),
        (signal.SIGABRT, "", True, "was killed by SIGABRT"),
        (signal.SIGTERM, "", False, "was killed by SIGTERM"),
        (signal.SIGINT, "", False, "was killed by SIGINT"),
        (signal.SIGHUP, "", False, "was killed by SIGHUP"),
        (signal.SIGQUIT, "", False, "was killed by SIGQUIT"),
        (signal.SIGQUIT | 0x80, "", False, "was killed by SIGQUIT"),
        (100, "", True, "was killed by signal 100"),
        (40, "", True, "was killed by signal 40"),
    ],
)
def test_a_process_failed_unless_it_was_asked_to_end_or_ended_in_good_order(status, asked, failed, words):
    assert judge(status, asked) == (failed, words)


# Does it run again? ---------------------------------------------------------------------------------------------------


def test_a_process_of_the_same_arguments_is_found_until_it_ends(spawn, tmp_path):
    child = ready(spawn(SLEEP, "one of a kind", str(os.getpid()), cwd=tmp_path))
    arguments = ("-I", "-c", SLEEP, "one of a kind", str(os.getpid()))
    assert running(sys.executable, arguments, str(tmp_path))
    assert not running(sys.executable, (*arguments, "more"), str(tmp_path))
    assert not running(sys.executable, arguments, "/")  # its arguments may mean something else there
    assert not running("/bin/cat", arguments, str(tmp_path))
    child.kill()
    wait_until(lambda: not running(sys.executable, arguments, str(tmp_path)), "its end")  # though nobody waited for it


def test_a_program_without_arguments_is_found_by_its_executable(tmp_path):
    program = tmp_path / "app"
    program.symlink_to("/bin/cat")
    with subprocess.Popen([program], stdin=subprocess.PIPE, cwd=tmp_path) as child:
        assert running(str(program), (), str(tmp_path))
        assert not running(str(tmp_path / "other"), (), str(tmp_path))
        child.stdin.close()

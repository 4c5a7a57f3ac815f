"""How a process was started, and how it is started anew: most of it in processes that really do."""

import errno
import json
import os
import signal
import subprocess
import sys
import types
import zipapp
from dataclasses import replace
from pathlib import Path

import pytest

from patchify.client import exec_restart, exit_restart, gunicorn_restart, restarter, spawn_restart
from patchify.client.restarter import (
    Launch,
    default_restarter,
    release_is_at_fault,
    remove_left_behind,
    running_executable,
)
from patchify.errors import UnableToObtainExecutableError
from tests.running import PATIENCE, ROOT, wait_until

ARGUMENTS = ["two words", "schön, 更新", "", "--flag=$HOME 'quoted'"]
posix = pytest.mark.skipif(os.name != "posix", reason="there are no signals to block and no exec here")

REPORT = """
import json, os, sys
sys.path.insert(0, {root!r})
from patchify.client.restarter import Launch, running_executable
launch = Launch.current()
try:
    executable = str(running_executable())
except Exception as error:
    executable = type(error).__name__
print(json.dumps([launch.program, launch.arguments, launch.directory, sorted(launch.blocked), launch.pid, executable]))
"""

# Starts itself anew, once; a file tells what the second one is.
AGAIN = """
import json, os, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, {root!r})
from patchify.client import restarter

def facts():
    return dict(
        pid=os.getpid(), arguments=sys.argv[1:], directory=os.getcwd(), word=os.environ.get("WORD"),
        blocked=sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        descriptors=sorted(name for name in os.listdir("/proc/self/fd")), executable=sys.executable, prefix=sys.prefix,
    )

told = Path(os.environ["TOLD"])
if told.exists():
    (told.parent / "again").write_text(json.dumps(facts()))
    os.rename(told.parent / "again", told.parent / "second")
    while {stays}:
        time.sleep(0.02)
    sys.exit(0)
told.write_text(json.dumps(facts()))
launch = restarter.Launch.current()
os.chdir("/")
os.environ["PATH"] = "/nowhere"
kept_open = open(__file__)

def restart():
    signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM, signal.SIGINT}})
    print("last words", end="")
    restarter.{how}(launch)

thread = threading.Thread(target=restart)
thread.start()
thread.join()
time.sleep(30)
"""


def run(*command, **options) -> str:
    return subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, check=True, timeout=PATIENCE, **options
    ).stdout


@pytest.fixture
def report(tmp_path):
    (tmp_path / "app.py").write_text(REPORT.format(root=str(ROOT)))
    return tmp_path / "app.py"


@pytest.fixture
def again(tmp_path):
    """Return a function that runs a program which starts itself anew, and returns what both were and its output."""

    def again(how: str, command=None, stays=False, path=None, **options):
        (tmp_path / "app.py").write_text(AGAIN.format(root=str(ROOT), how=how, stays=stays))
        env = {**os.environ, "TOLD": str(tmp_path / "first"), "WORD": "täglich"}
        if path:
            env["PATH"] = path
        process = subprocess.Popen(
            [*(command or [sys.executable]), "app.py", *ARGUMENTS],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        if stays:
            return process, wait_until(lambda: read(tmp_path / "second"), "the second one")
        with process:
            output = process.communicate(timeout=PATIENCE)[0]
        if how == "exit_restart":
            return process, output
        return process, output, read(tmp_path / "first"), wait_until(lambda: read(tmp_path / "second"), output)

    return again


def read(path: Path):
    return json.loads(path.read_text()) if path.exists() else None


# Launch ---------------------------------------------------------------------------------------------------------------


def test_a_script_is_started_anew_by_its_interpreter_with_all_options(report):
    command = ["-W", "ignore", "-X", "utf8", "app.py", *ARGUMENTS]
    program, arguments, directory, _, _, executable = json.loads(run(sys.executable, *command, cwd=report.parent))
    assert program == sys.executable
    assert arguments == [sys.executable, *command]
    assert directory == str(report.parent)
    assert executable == "app.py"


@posix
@pytest.mark.parametrize("by_itself", [True, False])
def test_a_zipapp_is_started_anew_as_it_was_started(report, by_itself):
    source = report.parent / "source"
    source.mkdir()
    report.rename(source / "__main__.py")
    zipapp.create_archive(source, report.parent / "app.pyz", interpreter=sys.executable)
    command = ["./app.pyz"] if by_itself else [sys.executable, "./app.pyz"]
    program, arguments, *_, executable = json.loads(run(*command, *ARGUMENTS, cwd=report.parent))
    assert program == sys.executable
    assert arguments == [sys.executable, "./app.pyz", *ARGUMENTS]
    assert executable == "app.pyz"


def test_a_module_is_started_anew_as_a_module_but_its_source_is_not_replaced(report):
    program, arguments, *_, executable = json.loads(run(sys.executable, "-m", "app", "x", cwd=report.parent))
    assert (program, arguments) == (sys.executable, [sys.executable, "-m", "app", "x"])
    assert executable == "UnableToObtainExecutableError"


def test_a_package_is_no_single_file_that_could_be_replaced(report):
    package = report.parent / "package"
    package.mkdir()
    report.rename(package / "__main__.py")
    *_, executable = json.loads(run(sys.executable, "-m", "package", cwd=report.parent))
    assert executable == "UnableToObtainExecutableError"


@pytest.mark.parametrize("argv", [[], [""], ["-c"], ["/nowhere/app"], ["."]])
def test_what_is_no_file_cannot_be_replaced(monkeypatch, argv):
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(UnableToObtainExecutableError, match="set Config"):
        running_executable()


@pytest.mark.parametrize("launcher", ["gunicorn", "flask", "pytest"])
def test_a_launcher_that_pip_wrote_is_not_the_program(monkeypatch, launcher):
    path = Path(sys.executable).parent / launcher
    assert path.is_file()
    monkeypatch.setattr(sys, "argv", [str(path), "app:app"])
    with pytest.raises(UnableToObtainExecutableError, match=launcher):
        running_executable()


def test_a_launcher_is_known_by_its_name_wherever_pip_put_it(monkeypatch, tmp_path):
    (tmp_path / "gunicorn").write_text("#!/usr/bin/python3")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "gunicorn"), "app:app"])
    with pytest.raises(UnableToObtainExecutableError, match="set Config"):
        running_executable()


def test_a_script_that_cannot_be_seen_from_the_working_directory_is_not_started_anew(tmp_path):
    launch = replace(Launch.current(), script="app.py", directory=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="before changing the working directory"):
        exec_restart(launch)


@posix
def test_an_exec_that_fails_leaves_directory_timers_and_signals_as_they_were(tmp_path):
    here = os.getcwd()
    signal.setitimer(signal.ITIMER_VIRTUAL, 1000, 7)
    try:
        not_a_program = tmp_path / "app"
        not_a_program.write_bytes(b"\x00")
        not_a_program.chmod(0o755)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        with pytest.raises(OSError, match="Exec format error"):
            exec_restart(Launch(str(not_a_program), ("app",), str(tmp_path), frozenset({signal.SIGUSR1}), os.getpid()))
        assert os.getcwd() == here
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
        left, interval = signal.getitimer(signal.ITIMER_VIRTUAL)
        assert left > 0
        assert interval == 7
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


@posix
def test_a_running_timer_does_not_kill_the_new_program(tmp_path):
    program = tmp_path / "app.py"
    program.write_text(
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "if os.environ.get('AGAIN'):\n"
        "    print(signal.getitimer(signal.ITIMER_REAL))\n"
        "    sys.exit()\n"
        "from patchify.client import Launch, exec_restart\n"
        "os.environ['AGAIN'] = '1'\n"
        "signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "signal.setitimer(signal.ITIMER_REAL, 1000)\n"
        "exec_restart(Launch.current())\n"
    )
    assert run(sys.executable, program) == "(0.0, 0.0)\n"


def test_a_frozen_program_is_its_own_executable_and_takes_its_arguments_from_argv(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "app"))
    monkeypatch.setattr(sys, "argv", ["app", *ARGUMENTS])
    assert running_executable() == tmp_path / "app"
    launch = Launch.current()
    assert launch.program == str(tmp_path / "app")
    assert launch.arguments == (str(tmp_path / "app"), *ARGUMENTS)


@posix
def test_a_working_directory_that_was_removed_is_the_root(report, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"rmdir {gone}; exec {sys.executable} {report}"
    assert json.loads(run("sh", "-c", script, cwd=gone))[2] == "/"


def test_nobody_can_ask_for_a_directory_that_was_removed(monkeypatch):
    def gone():
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(restarter.os, "getcwd", gone)
    assert Launch.current().directory == os.sep


# exec -----------------------------------------------------------------------------------------------------------------


@posix
def test_exec_keeps_pid_arguments_directory_environment_signals_and_descriptors(again):
    process, output, first, second = again("exec_restart")
    assert first["pid"] == second["pid"] == process.pid
    assert first["arguments"] == second["arguments"] == ARGUMENTS
    assert first["directory"] == second["directory"]
    assert first["word"] == second["word"] == "täglich"
    assert first["blocked"] == second["blocked"]
    assert signal.SIGTERM not in second["blocked"]
    assert first["descriptors"] == second["descriptors"]
    assert output == "last words"
    assert process.returncode == 0


@posix
def test_the_same_interpreter_runs_although_it_was_started_by_a_name_and_path_has_changed(again):
    folder = str(Path(sys.executable).parent)
    *_, first, second = again("exec_restart", command=[Path(sys.executable).name], path=folder)
    assert (first["executable"], first["prefix"]) == (second["executable"], second["prefix"])


@posix
def test_signals_that_were_blocked_from_the_start_stay_blocked(again):
    block = lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # noqa: E731
    *_, first, second = again("exec_restart", preexec_fn=block)
    assert first["blocked"] == second["blocked"] == [signal.SIGUSR1]


@posix
def test_sigterm_ends_the_new_program(again):
    process, second = again("exec_restart", stays=True)
    with process:
        assert second["pid"] == process.pid
        process.terminate()
        assert process.wait(PATIENCE) == -signal.SIGTERM


@posix
def test_an_exec_that_fails_leaves_this_process_as_it_was(tmp_path):
    program = tmp_path / "program"
    program.write_bytes(b"\0no program")
    program.chmod(0o755)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(OSError, match="Exec format error"):
        exec_restart(Launch(str(program), ("program",), os.getcwd(), frozenset({signal.SIGUSR1}), os.getpid()))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


@pytest.mark.parametrize("restart", [exec_restart, spawn_restart])
@pytest.mark.parametrize(("program", "error"), [("", "not known"), ("/nowhere/python", "not executable")])
def test_there_must_be_a_program_to_start(restart, program, error):
    with pytest.raises(OSError, match=error):
        restart(Launch(program, ("python",), "/", frozenset(), os.getpid()))


def test_the_default_is_exec_where_there_is_one(monkeypatch):
    assert default_restarter() is (spawn_restart if os.name == "nt" else exec_restart)
    monkeypatch.setattr(restarter.os, "name", "nt")
    assert default_restarter() is spawn_restart


# Whose fault it is ----------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path):
    """Return the link to a release in a folder: a program without the right to be executed, and nothing else."""
    version = tmp_path / ".app.patchify" / "versions" / "2.0.0"
    version.mkdir(parents=True)
    (version / "tool").write_bytes(b"\0")
    (tmp_path / "app").symlink_to(version.relative_to(tmp_path))
    return tmp_path / "app"


def blamed(launch, path, restart=exec_restart) -> bool:
    with pytest.raises(OSError) as raised:
        restart(launch)
    return release_is_at_fault(raised.value, launch, path)


def launch_of(program, directory="/", script="") -> Launch:
    return Launch(str(program), (str(program), script), str(directory), frozenset(), os.getpid(), script)


@posix
@pytest.mark.parametrize("restart", [exec_restart, spawn_restart])
def test_a_release_that_cannot_be_executed_is_at_fault(installed, restart):
    tool = installed / "tool"
    assert blamed(launch_of(tool), installed, restart)  # no right to be executed
    tool.chmod(0o755)
    assert blamed(launch_of(tool), installed, restart)  # no format of a program
    tool.write_text("#!/no/such/interpreter")
    assert blamed(launch_of(tool), installed, restart)
    assert blamed(launch_of(tool.resolve()), installed, restart)
    assert blamed(launch_of("./app/tool", installed.parent), installed, restart)
    assert blamed(launch_of(installed / "renamed"), installed, restart)
    assert blamed(launch_of(tool / "deeper"), installed, restart)
    tool.unlink()
    tool.symlink_to("/no/such/program")
    assert blamed(launch_of(tool), installed, restart)
    tool.unlink()
    tool.mkdir()
    assert blamed(launch_of(tool), installed, restart)


@posix
def test_a_single_file_is_at_fault_by_whatever_name_it_is_called(tmp_path):
    program = tmp_path / "app"
    program.write_bytes(b"\0")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "app").symlink_to(program)
    assert blamed(launch_of(tmp_path / "bin" / "app"), program)
    assert not blamed(launch_of(tmp_path / "bin" / "application"), program)
    assert not blamed(launch_of(tmp_path / "application"), program)


@posix
def test_a_release_without_its_script_is_at_fault(installed):
    launch = launch_of(sys.executable, script=str(installed / "app.py"))
    assert blamed(launch, installed)
    assert blamed(replace(launch, script="app.py", directory=str(installed)), installed)
    assert not blamed(replace(launch, script="app.py", directory="/"), installed)  # it was made too late


@posix
def test_an_interpreter_or_a_working_directory_elsewhere_is_not_the_releases_fault(installed, tmp_path):
    (installed / "app.py").touch()
    (tmp_path / "python").write_bytes(b"\0")
    script = str(installed / "app.py")
    assert not blamed(launch_of(tmp_path / "python", script=script), installed)
    assert not blamed(launch_of(tmp_path / "nowhere" / "python", script=script), installed)
    (tmp_path / "python").chmod(0o755)
    assert not blamed(launch_of(tmp_path / "python", script=script), installed)
    (installed / "tool").chmod(0o755)
    assert not blamed(launch_of(installed / "tool", tmp_path / "nowhere"), installed, spawn_restart)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (OSError(errno.ENOEXEC, "Exec format error"), True),  # nothing but the program can be meant
        (OSError(errno.EACCES, "Permission denied"), False),
        (OSError(errno.EACCES, "Permission denied", 7), False),
        (OSError(errno.EACCES, "Permission denied", b"/srv/app"), True),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable", "/srv/app"), False),
        (OSError("no worker"), False),
        (ValueError("x"), False),
    ],
)
def test_what_does_not_concern_the_release_is_not_its_fault(error, fault):
    assert release_is_at_fault(error, launch_of("/srv/app"), Path("/srv/app")) is fault


# Other ways -----------------------------------------------------------------------------------------------------------


@posix
def test_spawn_starts_a_process_of_its_own_with_the_same_arguments_and_ends_this_one(again):
    process, output, first, second = again("spawn_restart")
    assert first["pid"] == process.pid != second["pid"]
    for name in ("arguments", "directory", "word", "blocked", "executable"):
        assert first[name] == second[name]
    assert output == "last words"
    assert process.returncode == 0


@posix
def test_exit_ends_the_program_as_a_supervisor_would(again):
    process, output = again("exit_restart")
    assert process.returncode == -signal.SIGTERM
    assert output == "last words"


def test_exit_lets_the_program_handle_the_signal_in_its_own_way(monkeypatch):
    killed = []
    monkeypatch.setattr(restarter.os, "kill", lambda *arguments: killed.append(arguments))
    exit_restart(Launch.current())
    assert killed == [(os.getpid(), signal.SIGTERM)]


@pytest.fixture
def master(monkeypatch):
    """Return a function that makes this process look like one of the gunicorn whose master has this PID."""

    def master(pid):
        arbiter = types.SimpleNamespace(pid=pid)
        handler = types.MethodType(lambda self, number, frame: None, arbiter)
        monkeypatch.setattr(restarter.signal, "getsignal", {signal.SIGTTIN: handler}.get)
        monkeypatch.setattr(restarter.os, "kill", lambda *arguments: killed.append(arguments))
        return killed

    killed = []
    return master


def test_outside_of_gunicorn_there_is_no_master_to_ask():
    with pytest.raises(OSError, match="no worker of gunicorn"):
        gunicorn_restart(Launch.current())


def test_gunicorn_is_asked_for_new_workers_by_a_hangup_of_its_master(master):
    killed = master(os.getppid())
    gunicorn_restart(Launch.current())
    assert killed == [(os.getppid(), signal.SIGHUP)]


def test_an_application_that_was_loaded_before_the_fork_cannot_be_reloaded(master):
    killed = master(os.getppid())
    with pytest.raises(OSError, match="without preload_app"):
        gunicorn_restart(Launch(sys.executable, (), "/", frozenset(), os.getppid()))
    assert killed == []


def test_an_updater_that_runs_in_the_master_itself_does_not_signal_whoever_started_that(master):
    killed = master(os.getpid())
    with pytest.raises(OSError, match="without preload_app"):
        gunicorn_restart(Launch.current())
    assert killed == []


def test_a_worker_that_has_lost_its_master_does_not_signal_whoever_took_it_in(master):
    killed = master(2**22 + 1)
    with pytest.raises(OSError, match="has ended"):
        gunicorn_restart(Launch.current())
    assert killed == []


@pytest.mark.parametrize("stream", [None, "closed", "broken"])
def test_a_stream_that_cannot_be_flushed_stops_no_restart(monkeypatch, tmp_path, stream):
    if stream == "closed":
        stream = (tmp_path / "output").open("w")
        stream.close()
    if stream == "broken":
        stream = types.SimpleNamespace(flush=lambda: os.write(-1, b""))
    monkeypatch.setattr(sys, "stdout", stream)
    restarter._flush()


# PyInstaller ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def frozen(monkeypatch, tmp_path):
    mine = tmp_path / "_MEImine"
    mine.mkdir()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "_MEIPASS", str(mine), raising=False)
    return mine


def test_a_program_that_is_not_frozen_hands_on_its_environment_as_it_is(monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH_ORIG", "/opt")
    assert restarter.environment() == dict(os.environ)


@pytest.mark.parametrize(
    ("path", "original", "expected"),
    [
        (None, None, None),
        ("{mine}", None, None),
        ("{mine}", "/opt/lib", "/opt/lib"),
        ("/opt/lib", None, "/opt/lib"),
    ],
)
def test_a_frozen_program_hands_on_nothing_of_its_unpacked_files(frozen, monkeypatch, path, original, expected):
    for name, value in (("LD_LIBRARY_PATH", path), ("LD_LIBRARY_PATH_ORIG", original)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value.format(mine=frozen))
    environment = restarter.environment()
    assert environment["PYINSTALLER_RESET_ENVIRONMENT"] == "1"
    assert environment["PATCHIFY_LEFT_BEHIND"] == str(frozen)
    assert environment.get("LD_LIBRARY_PATH") == expected
    assert "LD_LIBRARY_PATH_ORIG" not in environment


def test_of_what_the_replaced_program_had_unpacked_only_the_folder_stays_for_its_bootloader(frozen, monkeypatch):
    left = frozen.with_name("_MEIleft")
    (left / "lib" / "deep").mkdir(parents=True)
    (left / "lib.so").write_bytes(b"unpacked")
    (left / "link").symlink_to(frozen)
    monkeypatch.setenv("PATCHIFY_LEFT_BEHIND", str(left))
    remove_left_behind()
    assert list(left.iterdir()) == []
    assert frozen.exists()
    assert "PATCHIFY_LEFT_BEHIND" not in os.environ
    remove_left_behind()


@pytest.mark.parametrize("left", ["_MEImine", "precious", "below/_MEIother", ""])
def test_nothing_else_is_removed_whatever_the_environment_says(frozen, monkeypatch, left):
    path = frozen.parent / left
    path.mkdir(parents=True, exist_ok=True)
    (path / "file").write_bytes(b"mine")
    monkeypatch.setenv("PATCHIFY_LEFT_BEHIND", str(path) if left else "")
    remove_left_behind()
    assert (path / "file").exists()


def test_a_folder_that_is_gone_already_is_no_error(frozen, monkeypatch):
    monkeypatch.setenv("PATCHIFY_LEFT_BEHIND", str(frozen.with_name("_MEIgone")))
    remove_left_behind()


def test_a_program_that_is_not_frozen_removes_nothing(monkeypatch, tmp_path):
    (tmp_path / "_MEIleft" / "lib").mkdir(parents=True)
    monkeypatch.setenv("PATCHIFY_LEFT_BEHIND", str(tmp_path / "_MEIleft"))
    remove_left_behind()
    assert (tmp_path / "_MEIleft" / "lib").exists()
    assert "PATCHIFY_LEFT_BEHIND" not in os.environ

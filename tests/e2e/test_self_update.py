"""Real programs that really replace and restart themselves, from a real server."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from patchify.client.processes import born_at
from patchify.keys import SigningKey
from tests.conftest import KEY
from tests.running import Process, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="what a process is like is read from /proc")

ARGUMENTS = ["two words", "schön, 更新", "", "--flag=$HOME 'quoted'"]
KINDS = ["script", "zipapp", pytest.param("frozen", marks=pytest.mark.slow)]
UPDATED = "2.0.0 Idle"  # what the new version says after it has asked and found nothing newer


class Program(Process):
    """The program, its folder and what it says."""

    def __init__(self, kind: str, folder: Path, told: dict, *, env=None, command=(), **options):
        self.app = folder / "app"
        self.temporary = folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.kind = kind
        start = [sys.executable, "app"] if kind == "script" else ["./app"]
        env = {"TOLD": json.dumps(told), "WORD": "täglich", "TMPDIR": str(self.temporary), **(env or {})}
        super().__init__([*command, *start, *ARGUMENTS], folder / "output", cwd=folder, env=env, **options)

    def facts(self) -> list[dict]:
        """Return what each version was when it started, the oldest first."""
        lines = self.output().splitlines(keepends=True)
        return [json.loads(line[6:]) for line in lines if line.startswith("FACTS ") and line.endswith("\n")]

    def descendants(self) -> list[int]:
        """Return what it has started, and so on, as far as it runs: for guardians that have ended nobody waits."""
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):  # it has just ended
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += [each for each in map(int, (task / "children").read_text().split()) if born_at(each)]
        return found[1:]


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "a place with späces"
    folder.mkdir()
    return folder


@pytest.fixture
def install(place, server, build):
    """Return a function that puts version 1 where the user starts it, and returns another that starts it."""
    told = {"api": server.api, "key": SigningKey.from_hex(KEY).verifying_key.to_hex()}
    running = []

    def start(kind, told_more=None, **options) -> Program:
        running.append(Program(kind, place, {**told, **(told_more or {})}, **options))
        return running[-1]

    def install(kind, mode=0o750):
        (place / "app").write_bytes(build(kind, "1.0.0"))
        (place / "app").chmod(mode)
        return start

    yield install
    for program in running:
        program.stop()


def publish(server, build, kind, *versions):
    for version in versions:
        server.publish(version, build(kind, version))


# The whole way --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_becomes_version_2_and_then_version_3_and_nothing_else_changes(install, server, build, kind):
    publish(server, build, kind, "1.0.0")
    server.start()
    program = install(kind)(kind, {"directory": "/"})
    program.wait_for("1.0.0 Idle")
    for version in ("2.0.0", "3.0.0"):
        publish(server, build, kind, version)
        program.wait_for(f"{version} Idle")

    first, *later = program.facts()
    assert [each["version"] for each in later] == ["2.0.0", "3.0.0"]
    for each in later:
        for name in ("arguments", "directory", "word", "blocked"):
            assert each[name] == first[name]
        assert each["descriptors"].keys() == first["descriptors"].keys()
    assert first["arguments"] == ARGUMENTS
    assert first["directory"] == str(program.app.parent)
    assert first["word"] == "täglich"

    assert program.app.read_bytes() == build(kind, "3.0.0")
    previous = program.app.parent / ".app.patchify" / f"previous-{server.versions['2.0.0']}"
    assert previous.read_bytes() == build(kind, "2.0.0")
    assert stat.S_IMODE(program.app.stat().st_mode) == 0o750
    for version in ("1.0.0", "2.0.0"):
        assert f"{version} Restarting: {int(version[0]) + 1}.0.0\nlast words of {version}\nFACTS" in program.output()

    if kind == "frozen":
        # One bootloader for the start and one for each restart, each the child of the one before, and the program.
        wait_until(lambda: len(program.descendants()) == 3, "the end of the guardian")
        assert later[-1]["pid"] == program.descendants()[-1]
        assert [each for each in program.temporary.iterdir() if any(each.iterdir())] == [Path(later[-1]["unpacked"])]
    else:
        assert {each["pid"] for each in program.facts()} == {program.pid}
        wait_until(lambda: program.descendants() == [], "the end of the guardian")
    said = program.output()
    program.stop()
    assert program.popen.returncode == -signal.SIGTERM
    assert program.output() == said  # no complaint at the end
    assert "rror" not in said
    assert "Traceback" not in said
    if kind == "frozen":
        assert list(program.temporary.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_sigterm_ends_the_new_version_although_the_thread_that_restarted_had_it_blocked(install, server, build, kind):
    publish(server, build, kind, "2.0.0")
    server.start()
    program = install(kind)(kind, {"blocked": True})
    program.wait_for(UPDATED)
    assert program.facts()[-1]["blocked"] == []
    program.popen.terminate()
    assert program.popen.wait(30) == -signal.SIGTERM


@pytest.mark.parametrize("kind", ["script", "zipapp"])
def test_a_release_that_is_not_executable_becomes_a_program_that_is(install, server, build, kind):
    publish(server, build, kind, "2.0.0")
    assert not (server.folder / "app-2.0.0").stat().st_mode & 0o111
    server.start()
    program = install(kind, mode=0o644 if kind == "script" else 0o755)(kind)
    program.wait_for("2.0.0 confirmed 2.0.0")  # else its end brings the old one back
    program.stop()
    assert stat.S_IMODE(program.app.stat().st_mode) == 0o755


# Waiting --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS[1:])
def test_late_imports_work_while_the_restart_waits(install, server, build, kind, tmp_path):
    publish(server, build, kind, "2.0.0")
    server.start()
    hold = tmp_path / "hold"
    hold.touch()
    program = install(kind)(kind, {"hold": str(hold), "late": True})
    program.wait_for("1.0.0 Pending restart: 2.0.0")
    program.wait_for("late 1.0.0")
    assert program.app.read_bytes() == build(kind, "1.0.0")
    hold.unlink()
    program.wait_for(UPDATED)
    assert "Traceback" not in program.output()


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_killed_while_it_waits_is_the_new_version_after_the_next_start_also_without_a_server(
    install, server, build, kind, tmp_path
):
    publish(server, build, kind, "2.0.0")
    server.start()
    hold = tmp_path / "hold"
    hold.touch()
    start = install(kind)
    program = start(kind, {"hold": str(hold)})
    program.wait_for("1.0.0 Pending restart: 2.0.0")
    os.killpg(program.pid, signal.SIGKILL)
    program.popen.wait(30)
    assert program.app.read_bytes() == build(kind, "1.0.0")
    server.stop()

    hold.unlink()
    program = start(kind)
    wait_until(lambda: len(program.facts()) == 3, f"the restart\n{program.output()}")
    assert [each["version"] for each in program.facts()] == ["1.0.0", "1.0.0", "2.0.0"]
    assert program.app.read_bytes() == build(kind, "2.0.0")
    assert "1.0.0 Downloading" not in program.output().partition("Pending restart")[2]


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_a_download_that_was_killed_is_resumed_by_the_next_start(install, server, build):
    release = build("script", "2.0.0") + b"#" * 8_000_000
    server.publish("2.0.0", release)
    server.start()
    start = install("script")
    program = start("script", {"die_at": 40})
    assert program.popen.wait(30) == -signal.SIGKILL
    [part] = (program.app.parent / ".app.patchify").glob("staged-*.part")
    there = part.stat().st_size
    assert 0 < there < len(release)
    assert " 206 " not in server.log()

    program = start("script")
    program.wait_for(UPDATED)
    assert program.app.read_bytes() == release
    path = f"/files/{server.versions['2.0.0']}"
    resumed = [line for line in server.log().splitlines() if path in line and " 206 " in line]
    assert len(resumed) == 1
    assert f" {len(release) - there} " in resumed[0]


def test_without_a_server_the_program_runs_on_and_is_updated_when_there_is_one(install, server, build):
    publish(server, build, "script", "2.0.0")
    program = install("script")("script")
    program.wait_for("HttpRequestFailedError")
    wait_until(lambda: program.output().count("1.0.0 Idle") > 1, "another check")
    assert program.popen.poll() is None
    server.start()
    program.wait_for(UPDATED)
    assert program.facts()[-1]["pid"] == program.pid


def test_a_server_that_is_killed_in_the_middle_does_no_harm(install, server, build, tmp_path):
    publish(server, build, "script", "1.0.0")
    server.start()
    program = install("script")("script")
    program.wait_for("1.0.0 Idle")
    os.killpg(server.gunicorn.pid, signal.SIGKILL)
    server.stop()
    wait_until(lambda: program.output().count("1.0.0 Idle") > 1, "another check")
    publish(server, build, "script", "2.0.0")
    server.start()
    program.wait_for(UPDATED)


def test_a_program_that_cannot_write_beside_itself_says_so_and_runs_on(install, server, build, place):
    publish(server, build, "script", "2.0.0")
    server.start()
    folder = place / ".app.patchify"
    folder.write_text("in the way")  # also root, whom no mode keeps out, cannot make a folder here
    program = install("script")("script")
    program.wait_for(f"unable to create the update folder {folder}: it is there, but is not a folder")
    assert program.popen.poll() is None
    folder.unlink()
    program.wait_for(UPDATED)


def test_a_program_on_a_read_only_file_system_says_so_and_runs_on(install, server, build):
    mount = 'mount --bind . . && mount -o remount,bind,ro . && cd "$PWD" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a folder read-only")
    publish(server, build, "script", "2.0.0")
    server.start()
    program = install("script")("script", command=command)
    program.wait_for("UnableToCreateFolderError")
    program.wait_for("Read-only file system")
    assert program.popen.poll() is None
    assert program.app.read_bytes() == build("script", "1.0.0")


# Together -------------------------------------------------------------------------------------------------------------


def test_of_two_processes_of_one_program_one_polls_and_both_become_the_new_version(install, server, build):
    publish(server, build, "script", "1.0.0")
    server.start()
    start = install("script")
    one = start("script")
    one.wait_for("1.0.0 Idle")
    one.log = one.log.rename(one.log.with_name("output of one"))
    other = start("script")
    other.wait_for("FACTS")
    wait_until(lambda: one.output().count("1.0.0 Idle") > 2, "some checks")
    assert other.output().count("1.0.0 Checking") <= 1  # at its start
    publish(server, build, "script", "2.0.0")
    for program in (one, other):
        wait_until(lambda program=program: len(program.facts()) == 2, f"the new version\n{program.output()}")
        assert [each["version"] for each in program.facts()] == ["1.0.0", "2.0.0"]
        assert {each["pid"] for each in program.facts()} == {program.pid}
    assert "Downloading" not in other.output()

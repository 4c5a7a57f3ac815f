"""Frozen programs, of one file and of a folder, whose new versions prove good or fail, and what their guardians leave.

The guardian of such a program is the program itself, started once more: Patchify's hook for PyInstaller sees to that.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import stat
import tarfile
from pathlib import Path

import pytest

from patchify.client.guarding import VARIABLE
from patchify.client.kinds import installer_for
from patchify.client.processes import born_at
from patchify.keys import SigningKey
from tests.conftest import KEY
from tests.e2e.conftest import FLAWS
from tests.running import PATIENCE, Process, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="what runs is read from /proc"),
]

ARGUMENTS = ["serve", "two words", "--flag=$HOME 'quoted'"]
KINDS = ["frozen", "folder"]
REASONS = {
    "fails at its first import": "ended with exit status 1",
    "exits with an error after a moment": "ended with exit status 1",
    "hangs": "was not confirmed within",
}


class Program:
    """A program in its place, what it says, and all processes that come of it."""

    def __init__(self, kind: str, place: Path, data: bytes, api: str):
        self.kind = kind
        self.app = place / "app"
        self.temporary = place / "tmp"
        self.temporary.mkdir(parents=True)
        self.log = place / "output"
        self.log.touch()
        self.told = {"api": api, "key": SigningKey.from_hex(KEY).verifying_key.to_hex()}
        if kind == "folder":
            unpack(data, self.app)
        else:
            self.app.write_bytes(data)
            self.app.chmod(0o755)
        self.installer = installer_for(self.app)
        self.processes = []

    def start(self, **told) -> Process:
        env = {"TOLD": json.dumps({**self.told, **told}), "TMPDIR": str(self.temporary)}
        start = "app/app" if self.kind == "folder" else "./app"
        process = Process([start, *ARGUMENTS], self.log, cwd=self.app.parent, env=env)
        self.processes.append(process)
        return process

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def says(self, text: str, times: int = 1) -> str:
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.output().count(text) >= times, text)
        said = self.output()
        assert said.count(text) >= times, said
        return said

    def facts(self) -> list[dict]:
        """Return what each version was that got as far as saying so, the oldest first."""
        lines = self.output().splitlines(keepends=True)
        return [json.loads(line[6:]) for line in lines if line.startswith("FACTS ") and line.endswith("\n")]

    def versions(self) -> list[str]:
        return [each["version"] for each in self.facts()]

    def running(self, variable: str = "TMPDIR") -> list[int]:
        """Return the processes of this program, or its guardians, by what is in their environment."""
        return [
            int(folder.name)
            for folder in Path("/proc").glob("[0-9]*")
            if f"TMPDIR={self.temporary}" in (words := words_of(folder / "environ"))
            and any(word.startswith(f"{variable}=") for word in words)
            and born_at(int(folder.name))
        ]

    def guardians(self) -> list[int]:
        return self.running(VARIABLE)

    def has_no_guardian(self) -> None:
        wait_until(lambda: not self.guardians(), "the end of the guardian")

    def has_settled(self, processes: int) -> None:
        """Wait until so many processes are left: of a one-file program a bootloader for each exec, and itself."""
        wait_until(lambda: len(self.running()) == processes, f"the end of all but {processes}")

    def end(self) -> None:
        """Ask what runs to end when its trial is over, and see that nothing is left of anything."""
        self.has_no_guardian()
        os.kill(self.facts()[-1]["pid"], signal.SIGTERM)
        self.has_ended()
        assert list(self.temporary.iterdir()) == []

    def has_ended(self) -> None:
        wait_until(lambda: not self.running(), "the end of everything")

    def kept(self) -> set[str]:
        """Return the hashes of the releases that are kept."""
        names = [path.name for path in self.installer.folder.glob("previous-*")]
        names += [path.name for path in self.installer.folder.glob("versions/*") if path.suffix != ".manifest"]
        return {name.rpartition("-")[2] for name in names}

    def stop(self) -> None:
        for process in self.processes:
            process.stop(signal.SIGKILL)  # and its group, to which everything belongs that comes of it
        self.has_ended()


def words_of(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_bytes().decode(errors="replace").split("\0")
    return []


def unpack(data: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(folder, filter="tar")


def repacked(data: bytes, name: str, content: bytes) -> bytes:
    """Return the archive with another content of one file."""
    packed = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as new,
    ):
        for member in old:
            body = old.extractfile(member) if member.isfile() else None
            if member.name == name:
                body, member.size = io.BytesIO(content), len(content)
            new.addfile(member, body)
    return packed.getvalue()


@pytest.fixture
def make(tmp_path, server, build):
    made = []

    def make(kind) -> Program:
        server.publish("1.0.0", build(kind, "1.0.0"))
        server.start()
        made.append(Program(kind, tmp_path / "a place with späces", build(kind, "1.0.0"), server.api))
        return made[-1]

    yield make
    for program in made:
        program.stop()


def alone(kind: str) -> int:
    """Return of how many processes a program consists that was started, not yet updated."""
    return 2 if kind == "frozen" else 1


# Good versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_guardian_is_there_in_the_trial_and_gone_after_it(make, server, build, kind):
    program = make(kind)
    process = program.start(trial_period=2)
    program.says("1.0.0 Idle")
    assert program.guardians() == []
    server.publish("2.0.0", build(kind, "2.0.0"))
    wait_until(lambda: program.versions() == ["1.0.0", "2.0.0"], "the restart")
    guardians = program.guardians()
    assert len(guardians) == alone(kind)
    if kind == "frozen":  # it is the version before, from where that is kept
        kept = str(program.installer.previous_path(server.versions["1.0.0"]))
        assert {words_of(Path(f"/proc/{pid}/cmdline"))[0] for pid in guardians} == {kept}
    assert "2.0.0 confirmed" not in program.output()

    program.says("2.0.0 confirmed 2.0.0")
    program.has_no_guardian()
    program.has_settled(alone(kind) + (kind == "frozen"))
    if kind == "folder":  # no guardian is left to be waited for either: the program may wait for its own children
        assert Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text() == ""
    state = program.installer.state()
    assert state.update is None
    assert state.good.sha256 == program.installer.installed() == server.versions["2.0.0"]
    assert str(state.previous.version) == "1.0.0"
    program.end()
    assert "Traceback" not in program.output()


@pytest.mark.parametrize("kind", KINDS)
def test_old_versions_go_and_the_previous_one_stays(make, server, build, kind):
    program = make(kind)
    first = program.installer.installed()
    program.start()
    program.says("1.0.0 Idle")
    before = [first]
    for version in ("2.0.0", "2.0.1", "3.0.0"):
        server.publish(version, build(kind, version))
        program.says(f"{version} confirmed {version}")
        program.has_no_guardian()
        before.append(server.versions[version])
        # Of a folder program what runs is one of the kept versions; of a file program it is in its place only.
        # The folder of before the first update is never deleted.
        assert program.kept() == ({first, *before[-2:]} if kind == "folder" else set(before[-2:-1]))
    program.end()
    assert program.versions() == ["1.0.0", "2.0.0", "2.0.1", "3.0.0"]
    assert all(each["arguments"] == ARGUMENTS for each in program.facts())


def test_the_first_update_makes_a_link_of_a_folder_and_modes_and_links_survive(make, server, build):
    program = make("folder")
    program.start()
    program.says("1.0.0 Idle")
    assert not program.app.is_symlink()
    inode = program.app.stat().st_ino
    server.publish("2.0.0", build("folder", "2.0.0"))
    program.says("2.0.0 confirmed 2.0.0")
    program.end()

    assert not os.path.isabs(os.readlink(program.app))
    current = program.app.resolve()
    assert current.name == f"2.0.0-{server.versions['2.0.0']}"
    [previous] = [path for path in current.parent.iterdir() if path.name.startswith("1.0.0-") and path.is_dir()]
    assert previous.stat().st_ino == inode  # the very folder that the user had unpacked
    for folder in (current, previous):
        assert stat.S_IMODE((folder / "app").stat().st_mode) & 0o111 == 0o111
        assert stat.S_IMODE((folder / "tool").stat().st_mode) == 0o755
        assert os.readlink(folder / "link") == "tool"
        assert os.readlink(folder / "libraries") == "_internal"
        assert not stat.S_IMODE((folder / "_internal" / "base_library.zip").stat().st_mode) & 0o111
    moved = program.app.parent.with_name("elsewhere")
    shutil.copytree(program.app.parent, moved, symlinks=True)
    assert (moved / "app").resolve() == moved / current.relative_to(program.app.parent)


# Bad versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_version_is_taken_back_and_the_next_good_one_is_installed(make, server, build, kind, flaw):
    tell_of_a_bad_version(make(kind), server, build, flaw)


def test_a_bad_zipapp_is_taken_back_and_the_next_good_one_is_installed(make, server, build):
    tell_of_a_bad_version(make("zipapp"), server, build, "fails at its first import")


def tell_of_a_bad_version(program, server, build, flaw):
    kind = program.kind
    installed = program.installer.installed()
    tries = 1 if flaw == "fails at its first import" else 0
    program.start(trial_tries=tries, trial_timeout=8 if flaw == "hangs" else 60)
    program.says("1.0.0 Idle")
    server.publish("2.0.0", build(kind, flaw))
    said = program.says("1.0.0 took back 2.0.0")
    assert said.count("1.0.0 Restarting: 2.0.0") == 1 + tries

    state = program.installer.state()
    assert state.update is None
    assert program.installer.installed() == installed
    [bad] = state.bad
    assert bad.release.sha256 == server.versions["2.0.0"]
    assert REASONS[flaw] in bad.reason
    assert f"it {bad.reason}" in said
    program.has_no_guardian()
    program.has_settled(alone(kind))  # nothing else is left, of the bad version either
    assert program.versions()[-1] == "1.0.0"
    for each in program.facts():
        assert each["arguments"] == ARGUMENTS
        assert each["directory"] == str(program.app.parent)
    program.says("1.0.0 Idle", program.output().count("1.0.0 Idle") + 2)  # it goes on asking, and does not try again
    assert program.output().count("1.0.0 Restarting: 2.0.0") == 1 + tries

    server.publish("2.0.1", build(kind, "2.0.1"))
    program.says("2.0.1 confirmed 2.0.1")
    program.end()


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_processes_the_one_that_became_a_bad_version_is_started_again_beside_the_other(
    make, server, build, kind
):
    program = make(kind)
    for count in (1, 2):
        program.start(trial_tries=0)
        program.says("1.0.0 Idle", count)
    server.publish("2.0.0", build(kind, "exits with an error after a moment"))
    program.says("1.0.0 took back 2.0.0")
    program.says('FACTS {"version": "1.0.0"', 3)
    program.has_no_guardian()
    program.has_settled(2 * alone(kind))
    os.kill(program.facts()[1]["pid"], signal.SIGTERM)
    program.end()


@pytest.mark.parametrize("kind", KINDS)
def test_a_release_that_this_system_cannot_execute_is_taken_back_by_the_program_that_still_runs(
    make, server, build, kind
):
    garbage = os.urandom(100_000)
    program = make(kind)
    installed = program.installer.installed()
    program.start()
    program.says("1.0.0 Idle")
    server.publish("2.0.0", garbage if kind == "frozen" else repacked(build(kind, "2.0.0"), "app", garbage))
    said = program.says("1.0.0 took back 2.0.0")
    assert said.count("1.0.0 Restarting: 2.0.0") == 2
    [bad] = program.installer.state().bad
    assert bad.reason.startswith("cannot be started: ")
    assert program.versions() == ["1.0.0"]
    assert program.installer.installed() == installed
    program.has_no_guardian()
    program.has_settled(alone(kind))
    server.publish("2.0.1", build(kind, "2.0.1"))
    program.says("2.0.1 confirmed 2.0.1")
    program.end()


def test_a_release_of_a_folder_program_that_is_no_archive_touches_nothing(make, server, build):
    program = make("folder")
    program.start()
    program.says("1.0.0 Idle")
    server.publish("2.0.0", os.urandom(100_000))
    program.says("UnsuitableFormatError")
    assert not program.app.is_symlink()
    server.publish("2.0.1", build("folder", "2.0.1"))
    program.says("2.0.1 confirmed 2.0.1")
    program.end()


# What happens to good ones --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_version_that_is_killed_in_its_trial_counts_as_failed(make, server, build, kind):
    program = make(kind)
    program.start(trial_period=30, trial_tries=0)
    program.says("1.0.0 Idle")
    server.publish("2.0.0", build(kind, "2.0.0"))
    program.says("2.0.0 Idle")
    os.kill(program.facts()[-1]["pid"], signal.SIGKILL)
    program.says("1.0.0 took back 2.0.0: it was killed by SIGKILL")
    program.has_settled(alone(kind))
    assert [str(bad.release.version) for bad in program.installer.state().bad] == ["2.0.0"]
    program.end()


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_in_the_trial_is_no_failure_and_the_trial_begins_again_at_the_next_start(make, server, build, kind):
    program = make(kind)
    process = program.start(trial_period=30, trial_tries=0)
    program.says("1.0.0 Idle")
    server.publish("2.0.0", build(kind, "2.0.0"))
    program.says("2.0.0 Idle")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.popen.wait(PATIENCE)
    program.has_ended()
    assert program.versions() == ["1.0.0", "2.0.0"]  # nobody started it again
    assert list(program.temporary.iterdir()) == []
    state = program.installer.state()
    assert state.bad == ()
    assert (state.update.failures, state.update.interruptions) == (0, 1)
    assert program.installer.installed() == state.update.replaces.sha256

    program.start()
    program.says("2.0.0 confirmed 2.0.0")
    program.end()

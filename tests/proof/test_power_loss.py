"""Every state that a power cut may leave of an update, and what the next updater makes of it.

Each act of `tests.proof.story` is recorded once by strace. `tests.proof.power_loss` builds every legal state of the disk
after each of its operations, in two models: names in one order, as the journals of ext4 and XFS keep it, and names in
the order of each folder only, which is stricter than these. In each state the program at the path is the old or the new
one, whole; recovery raises nothing, and the newest good version is installed and confirmed after it. What was promised
when the act returned is there. Then the same on a real ext4 and XFS, whose power is cut at every named point.
"""

import functools
import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from patchify.client import folder_installer
from patchify.client.state import read
from tests.forking import Forks
from tests.proof import story
from tests.proof.loop_mounts import KINDS as FILE_SYSTEMS
from tests.proof.loop_mounts import crashing_file_system, unavailable
from tests.proof.power_loss import survey
from tests.proof.recording import missing, record
from tests.running import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ACTS = tuple(each for each in story.ACTS if each != "finish")
CASES = [
    (layout, act)
    for layout in story.LAYOUTS
    for act in (("install", "give-back") if "before" in layout or "link" in layout else ACTS)
]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # is traced, too
ENVIRONMENT |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


class Original:
    """The module ``os``, to which the folder that the program was at first has the inode that it had when recorded.

    A folder that is no release of ours is known by its inode, which a power cut leaves as it is, but a copy does not.
    """

    def __init__(self, app, inode):
        self._app, self._inode = str(app), inode

    def stat(self, path, **options):
        found = os.stat(path, **options)
        if str(path) != self._app:
            return found
        return SimpleNamespace(st_ino=self._inode, st_mode=found.st_mode)

    def __getattr__(self, name):
        return getattr(os, name)


def look(recording, judge, scratch, reorder, cuts=None):
    """Return what a judge says of every state."""
    return survey(
        recording.initial,
        recording.operations,
        lambda folder, cut: judge(folder),
        scratch,
        reorder_directories=reorder,
        cuts=cuts,
    )


def recorded(layout, act, folder):
    """Return the recording of an act, and the inode of the program when it began."""
    folder.mkdir()
    story.prepare(layout, act, folder)
    inode = os.stat(folder / "app").st_ino
    command = story.command(story.LAYOUTS[layout], act, folder)
    recording = record(command, folder, cwd=ROOT, env=ENVIRONMENT)
    shutil.rmtree(folder)
    return recording, inode


def problem(layout, act, folder):
    """Return what is wrong with a state after a power cut, or None."""
    kind = story.LAYOUTS[layout]
    try:
        version = story._whole(kind, folder / "app")
        assert version in story.OLD_OR_NEW, f"{version} stands there"
        story.act(kind, "finish", folder)
        version = story._whole(kind, folder / "app")
        state = read(folder / ".app.patchify" / "state.json")
        assert state.good == story.release(kind, version), f"{version} stands there, but {state} is remembered"
        assert state.update is None, f"still on its way: {state.update}"
        second_is_bad = state.quarantined(story.release(kind, story.SECOND).sha256) is not None
        assert version in ({story.THIRD} if second_is_bad else {story.SECOND, story.THIRD}), f"in the end: {version}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def broken_promise(layout, act, folder):
    """Return what is not there although the act had returned, or None."""
    kind = story.LAYOUTS[layout]
    try:
        found = story.outcome(kind, folder)
        assert found == story.ACTS[act].comes_to, f"came to {found}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_after_a_power_cut_the_program_is_there_and_the_next_updater_goes_on(in_memory, show):
    rows, wrong = [], []
    total = Counter()
    for layout, act in CASES:
        recording, inode = recorded(layout, act, in_memory / "state")
        for reorder in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "fsync", lambda descriptor: None)  # what is told here was recorded already
                patch.setattr(folder_installer, "os", Original(in_memory / "state" / "app", inode))
                found = look(recording, functools.partial(problem, layout, act), in_memory, reorder)
                end = [len(recording.operations)]
                after = look(recording, functools.partial(broken_promise, layout, act), in_memory, reorder, end)
            order = "each folder" if reorder else "journal"
            bad = [*found.failures, *after.failures]
            wrong += [f"{layout}, {act}, {order}: after {cut}, lost: {lost}: {what}" for cut, lost, what in bad]
            rows.append(
                f"{layout:<24}{act:<16}{order:<14}{len(recording.operations):>10}{found.coverage.states:>8}"
                f"{after.coverage.states:>10}{len(bad):>6}"
            )
            total.update(states=found.coverage.states, after=after.coverage.states, bad=len(bad))
    rows.append(f"{'together':<64}{total['states']:>8}{total['after']:>10}{total['bad']:>6}")
    head = f"{'lay-out':<24}{'act':<16}{'order':<14}{'operations':>10}{'states':>8}{'at end':>10}{'bad':>6}"
    show("\n".join([head, *rows]))
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong)


# Real file systems ----------------------------------------------------------------------------------------------------

REAL = [(layout, act) for layout in ("file", "folder") for act in ("install", "confirm", "give-back", "recall")]


@pytest.fixture(scope="module")
def forks():
    with Forks(story.MODULE) as forks:
        yield forks


def run(forks, layout, act, folder, *point):
    """Do an act in a process; return its exit status and its output."""
    with tempfile.TemporaryDirectory() as name:
        words = [story.LAYOUTS[layout], act, folder, *point]
        return forks.run(words, Path(name, "output"), timeout=story.PATIENCE)


def laid_out(layout, act, system, number):
    """Return a folder with the program before an act, all of it on the disk."""
    folder = system.path / str(number)
    folder.mkdir()
    story.prepare(layout, act, folder)
    subprocess.run(["sync", "--file-system", str(folder)], check=True)
    return folder


def after_a_cut(forks, layout, act, system, number, point, *, flush):
    """Cut the power at a point of an act; return what is wrong then, or None."""
    folder = laid_out(layout, act, system, number)
    status, output = run(forks, layout, act, folder, *point)
    assert status == -signal.SIGKILL, f"was not killed, but ended with {status}: {output}"
    system.cut(flush=flush)
    try:
        assert story.examine(story.LAYOUTS[layout], folder) in story.OLD_OR_NEW
        story.act(story.LAYOUTS[layout], "finish", folder)
        story.verify_finished(layout, folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def after_its_end(forks, layout, act, system):
    """Cut the power when an act has returned; return the points that it reached, and what is wrong, or None."""
    folder = laid_out(layout, act, system, "end")
    status, output = run(forks, layout, act, folder)
    assert status == 0, output
    system.cut()
    return story.reached(output), broken_promise(layout, act, folder)


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_on_a_real_file_system_the_power_may_be_cut_at_every_named_point(kind, forks, tmp_path, show):
    if reason := unavailable(kind):
        pytest.skip(f"{kind}: {reason}")
    rows, wrong = [f"{'file system':<14}{'lay-out':<24}{'act':<16}{'cuts':>6}{'bad':>6}"], []
    for layout, act in REAL:
        with crashing_file_system(kind, tmp_path) as system:
            reached, broken = after_its_end(forks, layout, act, system)
            bad = [f"after its end: {broken}"] if broken else []
            seen = Counter()
            for number, point in enumerate(reached):
                seen[point] += 1
                found = after_a_cut(forks, layout, act, system, number, (point, seen[point]), flush=bool(number % 2))
                bad += [f"at {point} {seen[point]}: {found}"] if found else []
        rows.append(f"{kind:<14}{layout:<24}{act:<16}{len(reached) + 1:>6}{len(bad):>6}")
        wrong += [f"{layout}, {act}, {each}" for each in bad]
    show("\n".join(rows))
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong)

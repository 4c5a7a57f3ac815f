"""An export that is killed, or whose power is cut, leaves documents that are old or new, with all of their files."""

import os
import subprocess
import sys

import pytest

from tests.proof.power_loss import survey
from tests.proof.recording import missing, record
from tests.publishing import exporting
from tests.publishing.exporting import WAYS, bring_up_to_date, described, exported, files_of, prepare, versions_in
from tests.running import PATIENCE, ROOT

OLD, NEW = ("1.0.0",), ("2.0.0", "1.0.0")
STORY = [sys.executable, "-m", exporting.__name__]


@pytest.fixture(autouse=True)
def few_platforms(monkeypatch):
    monkeypatch.setattr(exporting.export_plan, "KNOWN", exporting.FEW)


def files_in(releases):
    """Return the bytes of all releases and their forms."""
    return {path: path.read_bytes() for path in (*releases.glob("app-*"), *releases.glob(".forms/*"))}


def is_finished(out):
    """Return whether an export has the new documents, and the files of these and the old ones alone."""
    files = files_of(described("1.0.0")[0]) | files_of(described("2.0.0", "1.0.0")[0])
    return versions_in(out) == {NEW} and set(os.listdir(out / "files")) == files


@pytest.mark.parametrize("way", WAYS)
def test_an_export_that_is_killed_at_any_line_leaves_documents_with_their_files(way, in_memory, show):
    command = [*STORY, "killed", str(in_memory), way]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    names = sorted(int(name) for name in os.listdir(in_memory) if name.isdigit())
    found = [versions_in(in_memory / str(name) / "out") for name in names]
    began = next(number for number, versions in enumerate(found) if NEW in versions)
    assert all(versions == {OLD} for versions in found[:began])
    assert all(NEW in versions <= {OLD, NEW} for versions in found[began:]), "what is new stays"
    assert is_finished(in_memory / str(names[-1]) / "out")
    for name in names:
        releases = files_in(in_memory / str(name) / "releases")
        bring_up_to_date(in_memory / str(name))
        assert is_finished(in_memory / str(name) / "out"), name
        assert os.listdir(in_memory / str(name) / "out" / ".patchify-export").count("draft") == 0
        assert files_in(in_memory / str(name) / "releases") == releases, name
    show(f"an export ({way}) was killed at {len(names) - 1} lines: {began} left the old documents")


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.parametrize("way", WAYS)
def test_after_a_power_cut_documents_have_their_files(way, in_memory, show):
    prepare(in_memory / "story", way)
    recording = record([*STORY, "export", str(in_memory / "story")], in_memory / "story", cwd=ROOT)
    end = [len(recording.operations)]

    def wrong(folder, cut):
        try:
            exported(folder / "out")
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    def unfinished(folder, cut):
        return wrong(folder, cut) or (None if versions_in(folder / "out") == {NEW} else "it had returned")

    rows = []
    for reorder in (False, True):
        tree, operations = recording.initial, recording.operations
        found = survey(tree, operations, wrong, in_memory, reorder_directories=reorder)
        after = survey(tree, operations, unfinished, in_memory, reorder_directories=reorder, cuts=end)
        assert not (found.failures + after.failures)
        rows.append(
            f"{'each folder' if reorder else 'journal':<14}{end[0]:>4} operations, {found.coverage.states} states"
        )
    show("\n".join([f"power cuts in an export ({way})", *rows]))

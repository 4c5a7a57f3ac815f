"""Making that is killed leaves no release that names what is not there, and goes on from there the next time."""

import os
import subprocess
import sys
from datetime import timedelta

from patchify.releases import now
from tests.publishing.killed import publisher_in
from tests.publishing.killed_maker import maker_in
from tests.running import PATIENCE


def test_making_that_is_killed_at_any_line_leaves_releases_with_files_for_all_of_their_forms(in_memory, show):
    command = [sys.executable, "-m", "tests.publishing.killed_maker", str(in_memory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    folders = sorted(
        (in_memory / name for name in os.listdir(in_memory) if name.isdigit()), key=lambda each: int(each.name)
    )
    found = []
    for folder in folders:
        publisher = publisher_in(folder)
        assert publisher.verify() == [], folder.name
        newest = next(each for each in publisher.releases() if each.name == ("2.0.0", "any"))
        found.append((newest.forms.compressed is not None, len(newest.forms.patches)))
    states = list(dict.fromkeys(found))
    assert states == [(False, 0), (True, 0), (True, 1)], "what is there stays, and is added to"
    assert [states.index(each) for each in found] == sorted(states.index(each) for each in found)

    complete = folders[-1]
    wanted = sorted(os.listdir(complete / ".forms"))
    for folder in folders[: -1 : len(folders) // 12]:
        maker_in(folder).make()
        publisher_in(folder, now=lambda: now() + timedelta(days=2)).prune()
        assert sorted(os.listdir(folder / ".forms")) == wanted, folder.name
        assert os.listdir(folder / ".incoming") == [], folder.name
    show(f"making was killed at {len(folders) - 1} lines")

"""Publishing that is killed leaves the old state or the new one, and the next attempt brings the new one."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest

from patchify.releases import now
from tests.publishing.killed import V1, V2, WAYS, publisher_in
from tests.running import PATIENCE


@pytest.mark.parametrize("way", WAYS)
def test_publishing_that_is_killed_at_any_line_leaves_the_old_state_or_the_new(way, tmp_path, show):
    command = [sys.executable, "-m", "tests.publishing.killed", way, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    old, new = [str(V1)], [str(V2), str(V1)]
    folders = sorted(
        (tmp_path / name for name in os.listdir(tmp_path) if name.isdigit()), key=lambda each: int(each.name)
    )
    found = []
    for folder in folders:
        publisher = publisher_in(folder)
        found.append([str(each) for each in publisher.releases()])
        assert publisher.verify() == [], folder.name
    assert all(each in (old, new) for each in found)
    published = found.index(new)
    assert found == [old] * published + [new] * (len(found) - published), "once it is seen it stays"

    for folder in folders[: published : max(1, published // 12)] + folders[published:]:
        WAYS[way](folder)(V2)
        later = publisher_in(folder, now=lambda: now() + timedelta(days=2))
        later.prune()
        assert [str(each) for each in later.releases()] == new
        assert later.verify() == []
        assert sorted(each for each in os.listdir(folder) if each.startswith("app")) == ["app-1.0.0", "app-2.0.0"]
        assert os.listdir(folder / ".incoming") == []
    show(
        f"publishing {way} was killed at {len(found) - 1} lines: {published} left the old state, the others the new one"
    )

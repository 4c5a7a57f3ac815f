"""The story of a release in docs/releases.md, typed as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT, free_port

STORY = re.compile(r"^## The story of a release$(.*?)^## ", re.DOTALL | re.MULTILINE)
BLOCKS = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_story_of_a_release_goes_as_it_is_printed(tmp_path):
    text = STORY.search((ROOT / "docs" / "releases.md").read_text())[1]
    script = "set -e\n" + "".join(BLOCKS.findall(text)).replace("127.0.0.1:8000", f"127.0.0.1:{free_port()}")
    assert script.count("patchify ") > 8
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    try:
        told = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False
        )
    finally:
        server = tmp_path / "story" / "server.pid"
        if server.exists():
            os.kill(int(server.read_text()), 15)
    output = told.stdout + told.stderr
    assert told.returncode == 0, output
    said = [
        "Notepad 1.0.0. h for help.",
        r"2\.0\.0 +any +stable +live +10%, 50% at ",
        "Version 2.0.0 is available, 33.6 MB",
        "It is faster",
        "Notepad 2.0.0. h for help.",
        r"version +2\.0\.0",  # of patchify status
        r"2\.0\.0 +1 +[0-9]+ +100\.0%",  # of patchify fleet
        r"2\.0\.0 +any +stable +live +50%",
        r"2\.0\.0 +any +stable +paused",
        r"2\.0\.0 +any +stable +withdrawn",
        "Version 1.0.0 is available, 33.6 MB. It is older than yours, which was withdrawn",
        "Notepad 1.0.0. h for help.",
        "in stable +withdrawn since .*loses notes",
    ]
    place = 0
    for each in said:
        found = re.compile(each if "+" in each else re.escape(each)).search(output, place)
        assert found, f"{each!r} does not follow in:\n{output}"
        place = found.end()

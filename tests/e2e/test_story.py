"""The stories of a release, in docs/releases.md and in the README, typed as they stand there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT, free_port

SECTION = r"^## {}$(.*?)^## "
BLOCKS = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def script_of(path, title) -> str:
    text = re.search(SECTION.format(re.escape(title)), (ROOT / path).read_text(), re.DOTALL | re.MULTILINE)[1]
    return "set -e\n" + "".join(BLOCKS.findall(text)).replace("127.0.0.1:8000", f"127.0.0.1:{free_port()}")


def typed(script, folder) -> subprocess.CompletedProcess:
    """Type it in a folder that has the examples, as the clone has."""
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    command = ["bash", "-c", script]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow
def test_the_short_one_of_the_readme_goes_as_it_is_printed(tmp_path):
    script = script_of("README.md", "A release, from a tenth of the users to withdrawn")
    assert script.count("patchify ") == 7
    told = typed(script, tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr
    assert re.search(r"live +10%, 50% at ", told.stdout)
    assert re.search(r"in stable +withdrawn since .*loses notes", told.stdout)


@pytest.mark.slow
def test_the_story_of_a_release_goes_as_it_is_printed(tmp_path):
    script = script_of("docs/releases.md", "The story of a release")
    assert script.count("patchify ") > 8
    try:
        told = typed(script, tmp_path)
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

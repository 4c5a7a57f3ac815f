"""Make the forms of a release in a process that kills itself: at the first line of making, at the second, and so on.

`python -m tests.publishing.killed_maker FOLDER` has one folder below FOLDER for each line that was reached for the first
time, named by its number: what the killed process left behind. Patches are made in the process itself: what becomes of
one that is ended in the middle is tested elsewhere.
"""

import itertools
import os
import random
import shutil
import sys
from pathlib import Path

from patchify.publishing import Publication, bases, compressing, given_up, maker, patching
from patchify.publishing.maker import Maker
from patchify.publishing.making import Limits
from patchify.server import sql_catalogue, storage
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.server.storage import FolderStorage
from patchify.versions import parse_version
from tests.publishing.killed import catalogue_in, kill_at, publisher_in

NOISE = random.Random(1).randbytes(2000)
MODULES = (bases, compressing, given_up, maker, sql_catalogue, storage)


def content(version):
    """Return bytes that can be compressed, and are like those of another version."""
    return NOISE + version.encode() + bytes(2000)


def maker_in(folder):
    return Maker(SqlCatalogue(catalogue_in(folder)), FolderStorage(folder, "app"), Limits())


def _make_here(old, new, target, seconds):
    return patching.MadePatch(**patching._make(old.read_bytes(), new.read_bytes(), target))


def prepare(folder):
    folder.mkdir()
    SqlCatalogue(catalogue_in(folder)).upgrade()
    publisher = publisher_in(folder)
    builds = (  # of the second one nothing is worth it
        ("1.0.0", "any", content("1")),
        ("1.0.0", "linux-x86_64", NOISE),
        ("2.0.0", "any", content("2")),
        ("2.0.0", "linux-x86_64", NOISE[::-1]),
    )
    for version, platform, data in builds:
        (folder / "build").write_bytes(data)
        publisher.publish(folder / "build", Publication(version=parse_version(version), platform=platform))


def main(root):
    prepare(root / "before")
    folder = root / "work"
    shutil.copytree(root / "before", folder)
    maker.make_patch = _make_here
    files = {module.__file__ for module in MODULES}
    for line in itertools.count(1):
        child = os.fork()
        if not child:
            kill_at(line, files)
            maker_in(folder).make_wanted()
            sys.settrace(None)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        folder.rename(root / str(line))
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))
        shutil.copytree(root / "before", folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

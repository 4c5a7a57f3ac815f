"""Publish in a process that kills itself: at the first line of publishing, at the second, and so on to the last.

`python -m tests.publishing.killed FOLDER` has one folder below FOLDER for each line of the code named here that
publishing a second release runs through, named by its number: what the killed process left behind.
"""

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path

from patchify.publishing import Publication, local, staging
from patchify.publishing.local import LocalPublisher
from patchify.server import sql_catalogue, storage
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.server.storage import FolderStorage
from patchify.versions import parse_version

FILES = {module.__file__ for module in (local, staging, storage, sql_catalogue)}
V1, V2 = parse_version("1.0.0"), parse_version("2.0.0")


def publisher_in(folder, **settings):
    return LocalPublisher(SqlCatalogue(f"sqlite:///{folder}/catalogue.db"), FolderStorage(folder, "app"), **settings)


def publish(folder, version):
    return publisher_in(folder).publish(folder / "build", Publication(version=version))


def prepare(folder):
    """Publish a first release, and lay the second one ready."""
    folder.mkdir()
    SqlCatalogue(f"sqlite:///{folder}/catalogue.db").upgrade()
    (folder / "build").write_bytes(b"one")
    publish(folder, V1)
    (folder / "build").write_bytes(b"two")


def kill_at(number):
    """Kill this process before it runs the line of this number for the first time."""
    seen = set()

    def at_line(frame, event, argument):
        if event == "line":
            seen.add((frame.f_code, frame.f_lineno))
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return at_line

    sys.settrace(lambda frame, event, argument: at_line if frame.f_code.co_filename in FILES else None)


def main(root):
    prepare(root / "before")
    for line in itertools.count(1):
        folder = root / str(line)
        shutil.copytree(root / "before", folder)
        child = os.fork()
        if not child:
            kill_at(line)
            publish(folder, V2)
            sys.settrace(None)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

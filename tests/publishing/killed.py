"""Publish in a process that kills itself: at the first line of publishing, at the second, and so on to the last.

`python -m tests.publishing.killed WAY FOLDER` has one folder below FOLDER for each line of the code named here that
publishing a second release runs through, named by its number: what the killed process left behind. WAY is one of
`WAYS`: on the server's machine, or over the network, where it is the server that is killed.
"""

import hashlib
import itertools
import os
import shutil
import signal
import sys
from pathlib import Path

from flask import Flask

from patchify.publishing import Publication, local, staging
from patchify.publishing.local import LocalPublisher
from patchify.server import incoming, patchify_bp, sql_catalogue, storage, uploads
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.server.storage import FolderStorage
from patchify.versions import parse_version

V1, V2 = parse_version("1.0.0"), parse_version("2.0.0")
TOKEN = "only-those-who-have-this-may-publish"


def catalogue_in(folder):
    return f"sqlite:///{folder}/catalogue.db"


def publisher_in(folder, **settings):
    return LocalPublisher(SqlCatalogue(catalogue_in(folder)), FolderStorage(folder, "app"), **settings)


def here(folder):
    """Return a function that publishes a version here."""
    publisher = publisher_in(folder)
    return lambda version: publisher.publish(folder / "build", Publication(version=version))


def over_the_network(folder):
    """Return a function that publishes a version as a server does, going on with what is there of the upload."""
    app = Flask("host")
    settings = {"appname": "app", "key": "11" * 32, "releases": folder, "catalogue": catalogue_in(folder)}
    settings |= {"publish_token": TOKEN, "max_upload": 1, "make_forms": False}
    app.config.update({f"PATCHIFY_{name.upper()}": value for name, value in settings.items()})
    app.register_blueprint(patchify_bp)
    client = app.test_client()

    def ask(path, **request):
        headers = {"Authorization": f"Bearer {TOKEN}"} | request.pop("headers", {})
        return client.post(path, headers=headers, environ_base={"REMOTE_ADDR": "127.0.0.1"}, **request)

    def publish(version):
        data = (folder / "build").read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        members = {"publication": Publication(version=version).to_json(), "sha256": sha256, "size": len(data)}
        answer = ask("/publications", json=members)
        if answer.status_code == 409:
            offset = answer.json["offset"]
            headers = {"Upload-Offset": str(offset), "Upload-Length": str(len(data))}
            assert ask(f"/uploads/{sha256}", data=data[offset:], headers=headers).json == {"offset": len(data)}
            answer = ask("/publications", json=members)
        assert answer.status_code == 200, answer.text

    return publish


WAYS = {"here": here, "over-the-network": over_the_network}
MODULES = {  # whose lines count; the database's are the same in both ways
    "here": (local, sql_catalogue, staging, storage),
    "over-the-network": (incoming, local, storage, uploads),
}


def prepare(folder):
    """Publish a first release, and lay the second one ready."""
    folder.mkdir()
    SqlCatalogue(catalogue_in(folder)).upgrade()
    (folder / "build").write_bytes(b"one")
    here(folder)(V1)
    (folder / "build").write_bytes(b"two")


def kill_at(number, files):
    """Kill this process before it runs the line of this number in these files for the first time."""
    seen = set()

    def at_line(frame, event, argument):
        if event == "line":
            seen.add((frame.f_code, frame.f_lineno))
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return at_line

    sys.settrace(lambda frame, event, argument: at_line if frame.f_code.co_filename in files else None)


def main(way, root):
    prepare(root / "before")
    folder = root / "work"
    shutil.copytree(root / "before", folder)
    publish = WAYS[way](folder)  # once: to make an application takes longer than to publish
    files = {module.__file__ for module in MODULES[way]}
    for line in itertools.count(1):
        child = os.fork()
        if not child:
            kill_at(line, files)
            publish(V2)
            sys.settrace(None)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        folder.rename(root / str(line))
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))
        shutil.copytree(root / "before", folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

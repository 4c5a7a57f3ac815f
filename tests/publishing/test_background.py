"""Forms are made by a process that belongs to nobody: after `patchify publish`, and after publishing to a real server."""

import contextlib
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import click
import hdiffpatch
import pytest
import requests
from backports import zstd
from filelock import FileLock
from flask import Flask

from patchify.files import hash_path
from patchify.forms import Forms
from patchify.publishing import Publication, background
from patchify.publishing.background import LOG, MOST_LOG, NEXT, TAKEN, starter
from patchify.publishing.maker import LOCK
from patchify.publishing.remote import RemotePublisher
from patchify.server import patchify_bp
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.server.storage import FORMS
from patchify.versions import parse_version
from tests.conftest import KEY
from tests.publishing.fakes import MemoryCatalogue
from tests.running import PATIENCE, Gunicorn, wait_until

TOKEN = "only-those-who-have-this-may-publish"
NOISE = random.Random(1).randbytes(50_000)


def content(version):
    return NOISE + version.encode() + bytes(len(NOISE))


def makers(releases: Path) -> list[int]:
    """Return the processes in the background of a folder, by the file that they write to."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words, output = (path / "cmdline").read_bytes(), os.readlink(path / "fd" / "1")
            if b"patchify.publishing.background" in words and output == str(releases.resolve() / FORMS / LOG):
                found.append(int(path.name))
    return found


@pytest.fixture
def place(tmp_path):
    """Make a folder in which `patchify publish` works, and see that no process is left that makes something there."""
    releases = tmp_path / "releases"
    releases.mkdir()
    catalogue = SqlCatalogue(f"sqlite:///{tmp_path / 'catalogue.db'}", look_every=0)
    catalogue.create()
    settings = {
        "PATCHIFY_APPNAME": "app",
        "PATCHIFY_KEY": KEY,
        "PATCHIFY_RELEASES": "releases",
        "PATCHIFY_CATALOGUE": "sqlite:///catalogue.db",
        "PATCHIFY_PATCH_TIME": 60,
    }
    lines = (f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    (tmp_path / "patchify.toml").write_text("".join(lines))

    def forms(version, platform="any"):
        return catalogue.snapshot().releases[(version, platform)].forms

    yield SimpleNamespace(folder=tmp_path, releases=releases, forms=forms, catalogue=catalogue)
    for pid in makers(releases):
        os.kill(pid, signal.SIGKILL)


def publish(folder, version, *options):
    """Publish by the command, and return what it says: it returns although somebody goes on in the background."""
    (folder / f"build-{version}").write_bytes(content(version))
    command = [sys.executable, "-m", "patchify", "publish", f"build-{version}", "--version", version, *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process):
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, said
    return said


def test_the_command_returns_and_the_forms_come(place):
    for version in ("1.0.1", "1.0.2"):
        wait_for(publish(place.folder, version))
    wait_until(lambda: place.forms("1.0.2").patches, "a patch")
    wait_until(lambda: not makers(place.releases), "the end of the process")
    found = place.forms("1.0.2")
    forms = place.releases / FORMS
    assert zstd.decompress((forms / found.compressed.sha256).read_bytes()) == content("1.0.2")
    (patch,) = found.patches
    assert patch.base == hash_path(place.releases / "app-1.0.1")
    assert hdiffpatch.apply(content("1.0.1"), (forms / patch.sha256).read_bytes()) == content("1.0.2")
    log = (forms / LOG).read_text()
    assert "Z 1.0.1 → 1.0.2: " in log
    assert "Traceback" not in log


def test_two_who_publish_at_once_both_get_forms(place):
    platforms = ("linux-x86_64", "linux-aarch64")
    for process in [publish(place.folder, f"{1 + n}.0.0", "--platform", each) for n, each in enumerate(platforms)]:
        wait_for(process)
    for number, each in enumerate(platforms):
        wait_until(lambda n=number, each=each: place.forms(f"{1 + n}.0.0", each).compressed, "a compressed file")
    wait_until(lambda: not makers(place.releases), "the end of the processes")


def test_what_another_process_does_not_come_to_is_made_by_the_one_that_waits_for_it(place):
    forms = place.releases / FORMS
    forms.mkdir()
    with FileLock(forms / LOCK):
        wait_for(publish(place.folder, "1.0.1"))
        wait_until((forms / NEXT).exists, "the process that waits")
        wait_for(publish(place.folder, "1.0.2"))
        wait_until(lambda: len(makers(place.releases)) == 1, "the end of the process that nobody needs")
    wait_until(lambda: place.forms("1.0.2").patches, "a patch")
    wait_until(lambda: not makers(place.releases), "the end of the process")


def test_the_log_begins_anew_when_it_is_long(place):
    (place.releases / FORMS).mkdir()
    (place.releases / FORMS / LOG).write_bytes(b"x" * (MOST_LOG + 1))
    wait_for(publish(place.folder, "1.0.1"))
    wait_until(lambda: place.forms("1.0.1").compressed, "a compressed file")
    wait_until(lambda: not makers(place.releases), "the end of the process")
    assert (place.releases / FORMS / LOG).read_text().count("\n") == 1


@pytest.fixture
def server(place):
    """Return a function that starts a server to publish to, which finds another module instead of hdiffpatch."""

    @contextlib.contextmanager
    def server(modules=None):
        settings = {
            "PATCHIFY_APPNAME": "app",
            "PATCHIFY_KEY": KEY,
            "PATCHIFY_RELEASES": str(place.releases),
            "PATCHIFY_CATALOGUE": f"sqlite:///{place.folder / 'catalogue.db'}",
            "PATCHIFY_PUBLISH_TOKEN": TOKEN,
        }
        env = {"SERVED": json.dumps(settings)} | ({"PYTHONPATH": str(modules)} if modules else {})
        options = ["--preload", "--worker-class", "gthread", "--threads", "4", "--workers", "2"]
        with Gunicorn("tests.e2e.serving:app", place.folder / "log", *options, env=env) as gunicorn:
            publisher = RemotePublisher(f"{gunicorn.url}/api/", TOKEN)

            def publish(version):
                (place.folder / "build").write_bytes(content(version))
                publisher.publish(place.folder / "build", Publication(version=parse_version(version)))

            gunicorn.publish = publish
            yield gunicorn

    return server


def test_a_server_has_the_forms_of_what_is_published_over_the_network(place, server):
    with server() as gunicorn:
        gunicorn.publish("1.0.1")
        gunicorn.publish("1.0.2")
        (patch,) = wait_until(lambda: place.forms("1.0.2").patches, "a patch")
        wait_until(lambda: not makers(place.releases), "the end of the process")

        def served():
            answer = requests.get(f"{gunicorn.url}/api/files/{patch.sha256}", timeout=PATIENCE)
            return answer.content if answer.ok else None

        found = wait_until(served, "the file of the patch")
    assert hdiffpatch.apply(content("1.0.1"), found) == content("1.0.2")


def test_a_server_goes_on_with_what_was_ended(place, server):
    wait_for(publish(place.folder, "1.0.1"))
    wait_until(lambda: place.forms("1.0.1").compressed and not makers(place.releases), "the end of the process")
    with place.catalogue.transaction() as transaction:
        transaction.put(replace(transaction.releases()[("1.0.1", "any")], forms=Forms()))
    (place.releases / FORMS / TAKEN).touch()
    with server():
        wait_until(lambda: place.forms("1.0.1").compressed, "a compressed file")
        wait_until(lambda: not makers(place.releases), "the end of the process")
    assert not (place.releases / FORMS / TAKEN).exists()


def test_a_server_ends_while_forms_are_made_and_its_port_is_free(place, server):
    modules = place.folder / "modules"
    modules.mkdir()
    (modules / "hdiffpatch.py").write_text("import time\ndef diff(*_, **__):\n    time.sleep(3600)\n")
    with server(modules) as gunicorn:
        gunicorn.publish("1.0.1")
        gunicorn.publish("1.0.2")
        wait_until(lambda: place.forms("1.0.2").compressed, "what comes before the patch")
        (maker,) = wait_until(lambda: [each for each in makers(place.releases) if _children(each)], "a patch under way")
        parents = {int(pid) for pid in _children(gunicorn.pid)} | {gunicorn.pid}
        assert _parent(maker) not in parents
        assert os.getpriority(os.PRIO_PROCESS, maker) >= 10
        assert not [each for each in _descriptors(maker) if each.startswith("socket:[")]
        gunicorn.popen.terminate()
        assert gunicorn.popen.wait(PATIENCE) == 0
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", gunicorn.port))
            probe.listen()
    patching = wait_until(lambda: _children(maker), "the process of the patch")
    for each in (*(each for each in makers(place.releases) if each != maker), maker):  # first the one that waits
        os.kill(each, signal.SIGKILL)
    wait_until(lambda: not any(os.path.exists(f"/proc/{each}") for each in patching), "the end of both")


def _children(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return []


def _parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _descriptors(pid):
    return [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]


# Starting it ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    def config(**settings):
        url = "postgresql://publisher:secret@database/releases"
        usual = {"make_forms": True, "catalogue": url, "folder": tmp_path, "appname": "app"}
        return SimpleNamespace(**usual | {"patches": 3, "patch_memory": 256, "patch_time": 600} | settings)

    return config


@pytest.mark.parametrize(
    "settings", [{"make_forms": False}, {"catalogue": MemoryCatalogue()}], ids=["switched off", "an object"]
)
def test_nothing_is_started_where_that_is_not_wanted_or_cannot_be(config, settings, monkeypatch):
    monkeypatch.setattr(background.subprocess, "Popen", None)
    starter(config(**settings))()


@pytest.mark.parametrize(("command", "starts"), [(None, 1), ("list", 0)], ids=["serving", "under a command"])
def test_what_was_ended_is_gone_on_with_by_a_server_and_not_by_a_command(place, monkeypatch, command, starts):
    (place.releases / FORMS).mkdir()
    (place.releases / FORMS / TAKEN).touch()
    started = []
    monkeypatch.setattr(background, "_start", lambda told, folder: started.append(folder))
    app = Flask("host")
    settings = {"APPNAME": "app", "KEY": KEY, "RELEASES": place.releases, "PUBLISH_TOKEN": TOKEN}
    settings |= {"CATALOGUE": f"sqlite:///{place.folder / 'catalogue.db'}"}
    app.config.update({f"PATCHIFY_{name}": value for name, value in settings.items()})
    with click.Context(click.Command(command)) if command else contextlib.nullcontext():
        app.register_blueprint(patchify_bp)
    assert len(started) == starts


def test_the_url_of_the_catalogue_is_told_to_nobody_else(config, monkeypatch):
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, command, **options):
            started.append(f"{command} {options}")
            super().__init__([sys.executable, "-c", "import sys; print(sys.stdin.read())"], **options)

    monkeypatch.setattr(background.subprocess, "Popen", Popen)
    starter(config())()
    assert len(started) == 1
    assert "secret" not in started[0]
    told = json.loads((config().folder / FORMS / LOG).read_text())
    assert told["catalogue"] == config().catalogue
    assert told["limits"] == {"patches": 3, "patch_memory": 256, "patch_time": 600}


def test_a_process_that_does_not_come_to_start_is_ended_and_logged(config, monkeypatch, caplog):
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, command, **options):
            super().__init__([sys.executable, "-c", "import time; time.sleep(3600)"], **options)
            started.append(self)

    monkeypatch.setattr(background.subprocess, "Popen", Popen)
    monkeypatch.setattr(background, "_START_WITHIN", 0.1)
    with caplog.at_level(logging.WARNING):
        starter(config())()
    assert "the forms of releases are not made in the background" in caplog.text
    assert started[0].returncode == -signal.SIGKILL


def test_a_process_that_cannot_be_started_is_logged_and_no_matter_of_the_publication(config, monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setattr(sys, "prefix", "/missing")
    with caplog.at_level(logging.WARNING):
        starter(config())()
    assert "the forms of releases are not made in the background" in caplog.text

"""An export on servers that know nothing of Patchify, and a real client that updates from it."""

import contextlib
import random
import re
import shutil
import socket
import sys
from dataclasses import replace
from datetime import timedelta

import hdiffpatch
import pytest
from backports import zstd

from patchify.client import Config, Updater
from patchify.errors import (
    ChannelNotFoundError,
    ExpiredDocumentError,
    FailedSignatureVerificationError,
    InvalidSignatureError,
    UnexpectedContentTypeError,
)
from patchify.forms import Compressed, Forms, Patch, Segments
from patchify.publishing.export import Export
from patchify.publishing.export_plan import plan
from patchify.releases import Placement, Release, ReleaseState, now
from patchify.server.storage import FolderStorage
from patchify.versions import parse_version
from tests.client.fakes import FakeRestarter
from tests.publishing.exporting import PUBLIC, core_of, sha256_of
from tests.running import PATIENCE, Process, free_port, wait_until

OLD = b"one" + random.Random(1).randbytes(300_000)
NEW = b"two" + OLD[3:200_000] + random.Random(2).randbytes(100_000) + bytes(50_000)
SEGMENT = 64 * 1024  # bytes
NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    log_format short '"$request" $status $body_bytes_sent';
    access_log {folder}/log short;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/www;
    }}
}}
"""


class StaticServer(Process):
    """A server of files. ``ranges``: whether it can give a part of one."""

    def __init__(self, kind, folder):
        (folder / "www").mkdir()
        self.www = folder / "www"
        self.ranges = kind == "nginx"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        if kind == "nginx":
            (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=self.port))
            command = ["nginx", "-p", folder, "-e", folder / "error.log", "-c", folder / "nginx.conf"]
        else:
            served = ["--bind", "127.0.0.1", "--directory", self.www, self.port]
            command = [sys.executable, "-u", "-m", "http.server", *served]
        super().__init__(command, folder / "log")

    def __enter__(self):
        wait_until(self._is_ready, f"the port of the server\n{self.output()}")
        return self

    def _is_ready(self):
        assert self.popen.poll() is None, self.output()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), PATIENCE):
            return True
        return False


@pytest.fixture(scope="module", params=["nginx", "http.server"])
def server(request, tmp_path_factory):
    if request.param == "nginx" and not shutil.which("nginx"):
        pytest.skip("nginx is not installed")
    with StaticServer(request.param, tmp_path_factory.mktemp("static")) as server:
        yield server


@pytest.fixture
def requests_of(server):
    """Return a function that waits for the last request, and returns path and status of all of this test's."""
    start = len(server.output())

    def requests_of(last):
        def found():
            lines = server.output()[start:]
            made = re.findall(r'"GET /[^/]+/(\S+) HTTP/1\.\d" (\d+)', lines)
            return made if any(path == last for path, _ in made) else None

        return wait_until(found, f"a request for {last}")

    return requests_of


class Application:
    """Releases, and their export as the server has it."""

    def __init__(self, folder, www):
        (folder / "releases").mkdir()
        self.storage = FolderStorage(folder / "releases", "app")
        self.out = www / folder.name

    def release(self, version, data, forms=(), **members):
        """Lay a file and its forms, and return the release."""
        since = now() - timedelta(days=1)
        live = Placement("stable", ReleaseState.LIVE, since=since, changed=since, seed="5eed")
        release = Release(
            parse_version(version), sha256_of(data), len(data), published=since, placements=(live,), **members
        )
        self.storage.path(release).write_bytes(data)
        self.storage.form_path("").mkdir(exist_ok=True)
        for form in forms:
            self.storage.form_path(sha256_of(form)).write_bytes(form)
        return release

    def export(self, *releases, time=None):
        time = time or now()
        return Export(self.out, self.storage).write(plan(core_of(self.storage, *releases), time), time)

    def export_old_and_new(self, *ways):
        """Export two versions, of which the new one can be had in these ways, and whole."""
        list_of_segments = b"".join(map(bytes.fromhex, map(sha256_of, in_segments(NEW))))
        packed = zstd.compress(NEW)
        patch = hdiffpatch.diff(OLD, NEW, hdiffpatch.COMPRESSION_ZSTD)
        new = self.release("2.0.0", NEW, [list_of_segments, packed, patch])
        forms = {
            "segments": Segments(sha256_of(list_of_segments), SEGMENT),
            "zstd": Compressed(sha256_of(packed), len(packed)),
            "patch": (Patch(sha256_of(OLD), sha256_of(patch), len(patch)),),
        }
        names = {"segments": "segments", "zstd": "compressed", "patch": "patches"}
        new = replace(new, forms=Forms(**{names[way]: forms[way] for way in ways}))
        self.export(self.release("1.0.0", OLD), new)
        return {
            "whole": new.sha256,
            "zstd": sha256_of(packed),
            "patch": sha256_of(patch),
            "segments": sha256_of(list_of_segments),
        }


def in_segments(data):
    return [data[at : at + SEGMENT] for at in range(0, len(data), SEGMENT)]


@pytest.fixture
def application(tmp_path, server):
    return Application(tmp_path, server.www)


@pytest.fixture
def updater(tmp_path, server):
    """Return the updater of a program of version 1.0.0, which has nothing but an address and a key."""
    (tmp_path / "app").write_bytes(OLD)
    (tmp_path / "app").chmod(0o755)
    config = Config(
        version="1.0.0",
        api=f"{server.url}/{tmp_path.name}/",
        key=PUBLIC,
        platform="linux-x86_64",
        executable=tmp_path / "app",
        guardian=False,
        retries=0,
    )
    updater = Updater(config, restarter=FakeRestarter())
    yield updater
    updater.close()


@pytest.mark.parametrize("way", ["whole", "zstd", "patch"])
def test_a_client_updates_from_an_export_in_the_cheapest_way(application, updater, tmp_path, requests_of, way):
    files = application.export_old_and_new(*{"whole": ["segments"], "zstd": ["zstd"], "patch": ["zstd", "patch"]}[way])
    assert updater.update()
    assert (tmp_path / "app").read_bytes() == NEW
    asked = requests_of(f"files/{files[way]}")
    listed = [(f"files/{files['segments']}", "200")] if way == "whole" else []
    assert asked == [("updates/stable/linux-x86_64", "200"), *listed, (f"files/{files[way]}", "200")]


def test_a_download_goes_on_where_it_was_broken_off_if_the_server_can(
    application, updater, tmp_path, server, requests_of
):
    files = application.export_old_and_new("segments")
    assert updater.check() == parse_version("2.0.0")
    part = tmp_path / ".app.patchify" / f"staged-{files['whole']}.part"
    part.write_bytes(b"X" * SEGMENT + NEW[SEGMENT : 3 * SEGMENT])  # of which the first segment is wrong
    assert updater.install() == parse_version("2.0.0")
    statuses = [status for path, status in requests_of(f"files/{files['whole']}") if path == f"files/{files['whole']}"]
    assert statuses == (["206", "206"] if server.ranges else ["200"])
    updater.restart()
    assert (tmp_path / "app").read_bytes() == NEW


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("", UnexpectedContentTypeError),  # which says more than that a signature is missing
        ("signature\n", InvalidSignatureError),
        ("0" * 128 + "\n", FailedSignatureVerificationError),
    ],
    ids=["missing", "none", "wrong"],
)
def test_a_document_with_another_signature_inside_is_refused(application, updater, line, error):
    application.export_old_and_new()
    document = application.out / "updates/stable/linux-x86_64"
    body = document.read_text().partition("\n")[0]
    document.write_text(f"{body}\n{line}")
    with pytest.raises(error, match="updates/stable/linux-x86_64"):
        updater.check()


def test_a_document_that_was_changed_is_refused(application, updater):
    application.export_old_and_new()
    document = application.out / "updates/stable/linux-x86_64"
    document.write_text(document.read_text().replace('"2.0.0"', '"3.0.0"'))
    with pytest.raises(FailedSignatureVerificationError):
        updater.check()


def test_an_export_that_was_not_renewed_is_named_as_expired_until_it_is(application, updater):
    one, two = application.release("1.0.0", OLD), application.release("2.0.0", NEW)
    application.export(one, two, time=now() - timedelta(days=30))
    with pytest.raises(ExpiredDocumentError, match="expired"):
        updater.check()
    application.export(one, two)
    assert updater.check() == parse_version("2.0.0")


def test_a_channel_that_there_is_not_is_named(application, updater):
    application.export_old_and_new()
    updater.choose(channel="beta")
    with pytest.raises(ChannelNotFoundError, match="beta"):
        updater.check()


def test_a_release_may_be_exported_while_a_client_is_in_the_middle_of_an_older_one(application, updater, tmp_path):
    one, two = application.release("1.0.0", OLD), application.release("2.0.0", NEW)
    application.export(one, two)
    assert updater.check() == parse_version("2.0.0")
    three = application.release("3.0.0", NEW + b"!")
    gone = two.with_placement(replace(two.placements[0], state=ReleaseState.PAUSED))
    application.export(one, gone, three)
    assert (application.out / "files" / two.sha256).read_bytes() == NEW
    assert updater.update()
    assert (tmp_path / "app").read_bytes() == NEW + b"!"

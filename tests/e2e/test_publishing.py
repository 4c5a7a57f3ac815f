"""Publishing over the network to a real gunicorn, on connections that break."""

import hashlib
import http.client
import itertools
import json
import os
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from patchify.errors import DeadlineExceededError, PublishingRefusedError
from patchify.publishing import Publication
from patchify.publishing.connection import Connection, Token
from patchify.publishing.remote import RemotePublisher
from patchify.publishing.upload import Upload
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.versions import parse_version
from tests.conftest import KEY
from tests.running import PATIENCE, Gunicorn, wait_until

APP = "tests.e2e.serving:app"
TOKEN = "only-those-who-have-this-may-publish"
KIB, MIB = 1024, 1024 * 1024
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Run two workers, so that the pieces of a file come to both."""
    folder = tmp_path_factory.mktemp("publishing")
    (folder / "releases").mkdir()
    catalogue = f"sqlite:///{folder / 'catalogue.db'}"
    SqlCatalogue(catalogue).create()
    settings = {
        "APPNAME": "app",
        "KEY": KEY,
        "RELEASES": str(folder / "releases"),
        "CATALOGUE": catalogue,
        "PUBLISH_TOKEN": TOKEN,
        "MAKE_FORMS": False,
    }
    env = {"SERVED": json.dumps({f"PATCHIFY_{name}": value for name, value in settings.items()})}
    options = ["--preload", "--worker-class", "gthread", "--threads", "4", "--workers", "2"]
    with Gunicorn(APP, folder / "log", *options, env=env) as server:
        server.api = f"{server.url}/api/"
        server.releases = folder / "releases"
        yield server


@pytest.fixture
def publisher(server):
    return RemotePublisher(server.api, TOKEN, pause=lambda seconds: time.sleep(seconds / 20))


@pytest.fixture
def build(tmp_path, request):
    """Return a file that is like no other, its bytes, and what to say of it."""
    data = random.Random(request.node.name).randbytes(3 * MIB + 77)
    file = tmp_path / "build"
    file.write_bytes(data)
    return file, data, Publication(version=parse_version(f"{next(_NUMBERS)}.0.0"))


_NUMBERS = itertools.count(1)


def published(server, publication):
    return (server.releases / f"app-{publication.version}").read_bytes()


def ask(server, path, headers=None):
    headers = {"Connection": "close", **(headers or {})}
    with requests.get(server.api + path, headers=headers, timeout=PATIENCE) as answer:
        return answer.text


def left(server):
    return os.listdir(server.releases / ".incoming")


def test_what_was_cut_in_the_middle_is_gone_on_with(server, build, monkeypatch):
    file, data, publication = build
    told = []

    def broken(self, offset, length, read=Upload.read):
        if offset >= MIB + 500 * KIB and not told:
            told.append(offset)
            raise ConnectionResetError("the cable was pulled")
        if told:
            told.append(offset)
        return read(self, offset, length)

    monkeypatch.setattr(Upload, "read", broken)
    cut = f"the upload {hashlib.sha256(data).hexdigest()} broke off after"
    publisher = RemotePublisher(server.api, TOKEN, pause=lambda _: server.wait_for(cut))
    release = publisher.publish(file, publication)
    assert release.sha256 == hashlib.sha256(data).hexdigest()
    assert told[1] == told[0]  # nothing that arrived before the cut was sent again
    assert published(server, publication) == data
    assert left(server) == []
    wait_until(lambda: release.sha256 in ask(server, f"hashes/{publication.version}"), "the release to be seen")


def test_a_connection_that_hangs_keeps_nobody_out(server, build, publisher):
    file, data, publication = build
    sha256 = hashlib.sha256(data).hexdigest()
    headers = {"Upload-Offset": "0", "Upload-Length": str(len(data)), "Content-Length": str(MIB), **BEARER}
    hanging = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        hanging.putrequest("POST", f"/api/uploads/{sha256}")
        for name, value in headers.items():
            hanging.putheader(name, value)
        hanging.endheaders(data[: 600 * KIB])
        part = server.releases / ".incoming" / f"{sha256}.part"
        wait_until(lambda: part.exists() and part.stat().st_size >= 512 * KIB, "two blocks of the upload")
        publisher.publish(file, publication)
    finally:
        hanging.close()
    assert published(server, publication) == data
    server.wait_for(f"POST /api/uploads/{sha256} 409")  # what it had left goes nowhere


def test_two_who_publish_the_same_file_at_once_both_succeed(server, build, publisher):
    file, data, publication = build
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: publisher.publish(file, publication), range(2))
    assert one == two
    assert published(server, publication) == data
    assert left(server) == []


def test_what_comes_through_a_proxy_without_tls_is_refused(server):
    forwarded = {**BEARER, "X-Forwarded-For": "192.0.2.1"}
    assert "publish over https" in ask(server, "publications", forwarded)
    as_nginx_says = {**forwarded, "X-Forwarded-Proto": "https"}  # gunicorn believes a proxy on the same machine
    assert '"releases":' in ask(server, "publications", as_nginx_says)


def test_a_wrong_token_gets_nowhere(server, build):
    file, _, publication = build
    with pytest.raises(PublishingRefusedError, match="is not the one that the server has"):
        RemotePublisher(server.api, TOKEN[:-1]).publish(file, publication)
    assert not (server.releases / f"app-{publication.version}").exists()
    assert TOKEN[:-1] not in server.output()


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with Connection(url, Token(TOKEN)) as connection, pytest.raises(DeadlineExceededError, match=r"within 0\.1 s"):
            connection.ask("GET", "publications", 0.1)

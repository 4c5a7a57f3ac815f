"""The configuration of nginx that comes with Patchify, in a real nginx, before a real gunicorn with ours."""

import hashlib
import http.client
import random
import ssl
import subprocess
import time
from contextlib import closing
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import requests

from patchify.client import Config
from patchify.client.staging import PartFile
from patchify.client.transport import Transport
from patchify.errors import HttpRequestFailedError
from patchify.keys import SigningKey
from patchify.messages import UpdateDocument
from patchify.publishing import Publication
from patchify.publishing.local import LocalPublisher
from patchify.reports import Batch, Event, Report
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.server.storage import FolderStorage
from patchify.versions import parse_version
from tests.conftest import KEY
from tests.e2e.shipped import INTERNAL, NGINX, Nginx, our_server
from tests.running import PATIENCE, wait_until

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

DATA = random.Random(1).randbytes(5 * 1024 * 1024 + 7)
SHA256 = hashlib.sha256(DATA).hexdigest()
ETAG = f'"{SHA256}"'
TOKEN = "only-those-who-have-this-may-publish"
DOCUMENTS = ["latest", "hashes/1.0.0", "updates/stable/linux-x86_64"]
FILES = ["releases/1.0.0", f"files/{SHA256}"]


def publish(publisher, folder, version, data):
    (folder / "new").write_bytes(data)
    publisher.publish(folder / "new", Publication(version=parse_version(version)))


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Run both, nginx sending the files, with a catalogue that a publisher of the test's changes."""
    folder = tmp_path_factory.mktemp("front")
    (folder / "releases").mkdir()
    url = f"sqlite:///{folder / 'catalogue.db'}"
    catalogue = SqlCatalogue(url)
    catalogue.create()
    publisher = LocalPublisher(catalogue, FolderStorage(folder / "releases", "app"))
    publish(publisher, folder, "1.0.0", DATA)
    settings = {"appname": "app", "key": KEY, "releases": folder / "releases", "catalogue": url, "proxies": 1}
    settings |= {"x_accel_redirect": INTERNAL, "publish_token": TOKEN, "reports": True, "make_forms": False}
    with our_server(settings, folder) as server, Nginx(folder, server.port, folder / "releases") as nginx:
        yield SimpleNamespace(folder=folder, publisher=publisher, server=server, nginx=nginx, api=f"{nginx.url}/api")


@pytest.fixture
def front(servers):
    """Return them, with a session of this test and a function that asks nginx for something below the API."""
    with requests.Session() as session:
        session.trust_env = False  # or a bundle of the environment goes before ours
        session.verify = str(servers.nginx.certificate)

        def get(path, **headers):
            return session.get(f"{servers.api}/{path}", headers=headers, timeout=PATIENCE)

        yield SimpleNamespace(**vars(servers), session=session, get=get)


@pytest.fixture
def asked(front):
    """Return a function that counts the lines about a request in gunicorn's log since the test began."""
    start = len(front.server.output())

    def count(what):
        return front.server.output()[start:].count(what)

    return count


def test_nginx_takes_it_without_a_warning(front):
    tested = subprocess.run([*front.nginx.command, "-t"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert tested.returncode == 0, tested.stderr
    assert "warn" not in tested.stderr


def test_plain_http_leads_to_https(front):
    moved = requests.get(f"http://localhost:{front.nginx.http}/api/x", allow_redirects=False, timeout=PATIENCE)
    assert (moved.status_code, moved.headers["Location"]) == (301, "https://localhost/api/x")


@pytest.mark.parametrize("path", ["", "apis", "latest", "other/api/latest"])
def test_outside_of_the_api_there_is_nothing(front, asked, path):
    assert front.session.get(f"{front.nginx.url}/{path}", timeout=PATIENCE).status_code == 404
    assert asked("GET") == 0


# Documents ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS)
def test_documents_are_passed_on_as_they_are(front, path):
    through = front.get(path)
    direct = requests.get(f"{front.server.url}/api/{path}", timeout=PATIENCE)
    assert through.status_code == direct.status_code == 200
    assert through.content == direct.content
    assert without_hops(through.headers) == without_hops(direct.headers)
    assert SigningKey.from_hex(KEY).verifying_key.verify(through.content, bytes.fromhex(through.headers["X-Signature"]))
    head = front.session.head(f"{front.api}/{path}", timeout=PATIENCE)
    assert (head.content, head.headers["Content-Length"]) == (b"", str(len(through.content)))


def without_hops(headers) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in ("Server", "Date", "Connection")}


@pytest.mark.parametrize("path", DOCUMENTS)
def test_however_often_a_document_is_asked_for_gunicorn_is_asked_seldom(front, asked, path):
    answers = {front.get(path).content for _ in range(100)}
    assert len(answers) == 1
    assert asked(f"GET /api/{path} 200") < 20  # once a second and no more, unless this machine is very busy


def test_who_has_a_document_gets_304_from_nginx(front):
    etag = front.get("latest").headers["ETag"]
    answer = front.get("latest", **{"If-None-Match": etag})
    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag)


def test_what_is_published_and_withdrawn_counts_for_everybody_at_once(front):
    def offered():
        document = UpdateDocument.parse(front.get("updates/stable/any").content)
        return "2.0.0" in {str(each.version) for each in document.releases}

    assert not offered()
    publish(front.publisher, front.folder, "2.0.0", b"two")
    wait_until(offered, "the offer of what was published")
    front.publisher.pause(parse_version("2.0.0"))
    wait_until(lambda: not offered(), "the end of the offer of what is paused")
    front.publisher.resume(parse_version("2.0.0"))
    wait_until(offered, "the offer of what goes on")
    front.publisher.withdraw(parse_version("2.0.0"))
    wait_until(lambda: not offered(), "the end of the offer of what is withdrawn")


def test_a_document_that_nobody_asked_for_in_a_while_is_not_given_out_as_it_was(front):
    front.get("updates/stable/windows-x86_64")
    publish(front.publisher, front.folder, "2.1.0", b"more")
    now = datetime.now(UTC)
    time.sleep(3.1)  # longer than the document may be kept: nothing happens meanwhile, which is what this is about
    found = UpdateDocument.parse(front.get("updates/stable/windows-x86_64").content)
    assert str(found.releases[0].version) == "2.1.0"
    assert found.issued <= now
    front.publisher.withdraw(parse_version("2.1.0"))


# What must not be kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("hashes/9.0.0", 404),
        ("hashes/x", 400),
        ("updates/unknown/any", 404),
        ("updates/Big/any", 400),
        ("releases/9.0.0", 404),
        ("nothing", 404),
    ],
)
def test_errors_are_not_kept(front, asked, path, status):
    for _ in range(3):
        assert front.get(path).status_code == status
    assert asked(f"GET /api/{path} {status}") == 3


def test_what_somebody_asks_with_a_password_is_not_kept_and_not_what_is_kept(front, asked):
    for _ in range(3):
        assert front.get("latest", Authorization="Bearer x").status_code == 200
    assert asked("GET /api/latest 200") >= 3


def test_reports_and_publications_come_through_each_time(front, asked):
    for number in range(2):
        report = Report(Event.CHECKED, datetime.now(UTC).replace(microsecond=0), parse_version("1.0.0"), None, "")
        batch = Batch(f"{number:032x}", "app", "linux-x86_64", "stable", None, (report,)).to_bytes()
        headers = {"Content-Type": "application/json"}
        sent = front.session.post(f"{front.api}/reports", batch, headers=headers, timeout=PATIENCE)
        assert sent.status_code == 204
        refused = front.session.post(f"{front.api}/publications", b"{}", timeout=PATIENCE)
        assert refused.status_code == 401  # and not 403: gunicorn knows that this came over TLS
    assert asked("POST /api/reports 204") == 2
    assert asked("POST /api/publications 401") == 2
    admitted = front.session.post(
        f"{front.api}/publications", b"{", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=PATIENCE
    )
    assert admitted.status_code == 400


def test_documents_cannot_be_sent(front, asked):
    for _ in range(2):
        assert front.session.post(f"{front.api}/latest", b"{}", timeout=PATIENCE).status_code == 405
    assert asked("POST /api/latest 405") == 2


def test_the_refusal_of_one_client_is_none_of_another(front, tmp_path):
    settings = {"appname": "app", "key": KEY, "releases": front.folder / "releases", "versions": {"1.0.0": SHA256}}
    settings |= {"rate_limit": "1/hour", "proxies": 1}
    with (
        our_server(settings, tmp_path, "--workers", "1") as server,
        Nginx(tmp_path, server.port, front.folder / "releases") as nginx,
    ):

        def status(path, address, **headers):
            context = ssl.create_default_context(cafile=nginx.certificate)
            connection = http.client.HTTPSConnection(
                "localhost", nginx.https, timeout=PATIENCE, source_address=(address, 0), context=context
            )
            with closing(connection):
                connection.request("GET", f"/api/{path}", headers=headers)
                return connection.getresponse().status

        assert status("latest", "127.0.0.2") == 200
        assert status("hashes/1.0.0", "127.0.0.2") == 429
        assert status("hashes/1.0.0", "127.0.0.3") == 200
        assert status("releases/1.0.0", "127.0.0.3", **{"X-Forwarded-For": "127.0.0.9"}) == 429


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=["by version", "by hash"])
@pytest.mark.parametrize(
    ("asked_for", "status", "part"),
    [
        ({}, 200, DATA),
        ({"Range": "bytes=1000-1999"}, 206, DATA[1000:2000]),
        ({"Range": "bytes=4000000-"}, 206, DATA[4_000_000:]),
        ({"Range": "bytes=-7"}, 206, DATA[-7:]),
        ({"Range": "bytes=1000-", "If-Range": ETAG}, 206, DATA[1000:]),
        ({"Range": "bytes=1000-", "If-Range": '"other"'}, 200, DATA),
        ({"Range": "bytes=1000-", "If-Range": "Tue, 24 Nov 2099 00:00:00 GMT"}, 200, DATA),
        ({"If-Modified-Since": "Tue, 24 Nov 2099 00:00:00 GMT"}, 200, DATA),
        ({"If-None-Match": '"other"'}, 200, DATA),
        ({"If-None-Match": ETAG}, 304, b""),
    ],
    ids=["whole", "part", "rest", "end", "resumed", "changed", "date", "since", "new", "had"],
)
def test_nginx_sends_a_file_or_a_part_of_it(front, asked, path, asked_for, status, part):
    answer = front.get(path, **asked_for)
    assert answer.status_code == status
    assert answer.content == part
    assert answer.headers["ETag"] == ETAG
    assert "Last-Modified" not in answer.headers
    if status != 304:
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Length"] == str(len(part))
        assert asked("handed over") == 1  # and nothing of it came from gunicorn
    if status == 206:
        start = DATA.index(part)
        assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(part) - 1}/{len(DATA)}"
    if status == 200:
        assert answer.headers["Accept-Ranges"] == "bytes"
    if path.startswith("files/"):
        assert "immutable" in answer.headers["Cache-Control"]


def test_that_nginx_cannot_send_a_file_is_not_kept(front, tmp_path):
    (tmp_path / "nothing").mkdir()
    with Nginx(tmp_path, front.server.port, tmp_path / "nothing") as nginx:
        url = f"{nginx.url}/api/files/{SHA256}"
        answer = requests.get(url, verify=str(nginx.certificate), timeout=PATIENCE)
    assert answer.status_code == 404
    assert "Cache-Control" not in answer.headers


def test_a_query_makes_no_other_document(front, asked):
    answers = {front.get(f"updates/stable/windows-aarch64?{number}").content for number in range(50)}
    assert len(answers) == 1
    assert asked("GET /api/updates/stable/windows-aarch64 200") < 15  # once a second and no more


def test_a_part_that_lies_outside_is_refused(front):
    answer = front.get("releases/1.0.0", Range=f"bytes={len(DATA)}-")
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{len(DATA)}")


@pytest.mark.parametrize("path", FILES, ids=["by version", "by hash"])
def test_the_head_of_a_file_is_that_of_the_whole(front, path):
    answer = front.session.head(f"{front.api}/{path}", timeout=PATIENCE)
    assert (answer.status_code, answer.headers["Content-Length"]) == (200, str(len(DATA)))
    assert answer.headers["ETag"] == ETAG


def test_a_version_with_letters_that_addresses_quote_is_sent_as_well(front):
    publish(front.publisher, front.folder, "3.0.0-rc.1+b.1", b"quoted")
    for path in ("releases/3.0.0-rc.1+b.1", "releases/3.0.0-rc.1%2Bb.1"):
        assert (
            wait_until(lambda path=path: (got := front.get(path)).status_code == 200 and got, path).content == b"quoted"
        )
    front.publisher.withdraw(parse_version("3.0.0-rc.1+b.1"))


@pytest.mark.parametrize(
    "path",
    [
        "app-1.0.0",
        ".hashes.json",
        ".incoming/",
        ".forms/x",
        "",
        "../catalogue.db",
        "%2e%2e/catalogue.db",
        "..%2fcatalogue.db",
    ],
)
def test_the_folder_of_the_releases_is_closed(front, asked, path):
    connection = http.client.HTTPSConnection(
        "localhost",
        front.nginx.https,
        timeout=PATIENCE,
        context=ssl.create_default_context(cafile=front.nginx.certificate),
    )
    for prefix in (INTERNAL, "/api/.." + INTERNAL, "/api/releases/../../" + INTERNAL.strip("/") + "/"):
        with closing(connection):
            connection.putrequest("GET", f"{prefix}{path}")  # as it is: nothing is taken out of the path
            connection.endheaders()
            answer = connection.getresponse()
            assert answer.status in (400, 404)
            answer.read()
    assert asked("handed over") == 0


def test_our_client_downloads_and_goes_on_after_it_was_cut_off(front, tmp_path, key):
    config = Config(version="0.1.0", api=f"{front.api}/", key=key.verifying_key, session=front.session, retries=0)
    cut = len(DATA) // 3
    with closing(PartFile(tmp_path / "part")) as part:
        transport = Transport(config, lambda seconds: 0 < part.size >= cut)  # as if it were closed by then
        with pytest.raises(HttpRequestFailedError):
            transport.file(f"files/{SHA256}", SHA256, len(DATA), part, lambda done, total: None)
        assert cut <= part.size < len(DATA)
    before = (tmp_path / "part").stat().st_size
    with closing(PartFile(tmp_path / "part")) as part:
        transport = Transport(config, lambda seconds: False)
        transport.file(f"files/{SHA256}", SHA256, len(DATA), part, lambda done, total: None)
    assert (tmp_path / "part").read_bytes() == DATA
    assert transport.received == len(DATA) - before


# Without PATCHIFY_X_ACCEL_REDIRECT ------------------------------------------------------------------------------------


def test_answers_of_a_server_that_sends_files_itself_are_passed_on_as_they_are(tmp_path, publish):
    data = bytes(range(256)) * 8000
    settings = publish({"1.0.0+b1": data})
    with (
        our_server(settings | {"proxies": 1}, tmp_path) as server,
        Nginx(tmp_path, server.port, settings["releases"]) as nginx,
        requests.Session() as session,
    ):
        session.trust_env, session.verify = False, str(nginx.certificate)
        for path, headers, status in [
            ("latest", {}, 200),
            ("hashes/1.0.0%2Bb1", {"Accept-Encoding": "gzip"}, 200),
            ("releases/1.0.0%2Bb1", {}, 200),
            ("releases/1.0.0+b1", {"Range": "bytes=1000-1300000"}, 206),
            ("releases/1.0.0+b1", {"Range": "bytes=9999999-"}, 416),
            ("releases/3.0.0", {}, 404),
        ]:
            direct = requests.get(f"{server.url}/api/{path}", headers=headers, timeout=PATIENCE)
            through = session.get(f"{nginx.url}/api/{path}", headers=headers, timeout=PATIENCE)
            assert through.status_code == direct.status_code == status
            assert through.content == direct.content
            assert without_hops(through.headers) == without_hops(direct.headers)

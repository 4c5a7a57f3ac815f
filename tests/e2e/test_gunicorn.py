"""The server under a real gunicorn: sendfile, ranges, connections and a disk that changes cannot be seen otherwise."""

import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify.keys import SigningKey
from patchify.messages import UpdateDocument
from patchify.releases import Placement, Release, ReleaseState, now
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.versions import parse_version
from tests.conftest import KEY
from tests.running import PATIENCE, Gunicorn, Process, wait_until
from tests.server.test_wire import WIRE, contents

KIB, MIB = 1024, 1024 * 1024
APP = "tests.e2e.serving:app"
SMALL = random.Random(1).randbytes(10 * KIB)
LARGE = random.Random(2).randbytes(5 * MIB + 7)
TAIL = random.Random(3).randbytes(2 * MIB)
SPARSE_SIZE = 300_000_000  # all but its tail is a hole
CUT_SIZE = 64 * MIB  # more than the buffers of two sockets hold

WORKERS = {
    "sync": ["--worker-class", "sync", "--workers", "2"],
    "gthread": ["--worker-class", "gthread", "--threads", "8", "--keep-alive", "30"],
    "gthread without sendfile": ["--worker-class", "gthread", "--threads", "8", "--keep-alive", "30", "--no-sendfile"],
}


def served(folder, appname="app", **changed):
    """Return the environment that makes `serving` serve all files of a folder."""
    hashes = {}
    for path in folder.iterdir():
        with path.open("rb") as file:
            hashes[path.name.removeprefix(f"{appname}-")] = hashlib.file_digest(file, "sha256").hexdigest()
    found = {"appname": appname, "key": KEY, "releases": str(folder), "versions": hashes} | changed
    return {"SERVED": json.dumps({f"PATCHIFY_{name.upper()}": value for name, value in found.items()})}


@pytest.fixture(scope="module", params=WORKERS)
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("releases")
    (folder / "app-0.1.0").write_bytes(SMALL)
    (folder / "app-1.0.0").write_bytes(LARGE)
    (folder / "app-3.0.0").write_bytes(b"")
    os.truncate(folder / "app-3.0.0", CUT_SIZE)
    (folder / "app-4.0.0").write_bytes(SMALL)
    with (folder / "app-2.0.0").open("wb") as file:
        file.seek(SPARSE_SIZE - len(TAIL))
        file.write(TAIL)
    log = tmp_path_factory.mktemp("log") / "gunicorn"
    with Gunicorn(APP, log, "--preload", *WORKERS[request.param], env=served(folder)) as server:
        server.kind = request.param
        server.folder = folder
        yield server


@pytest.fixture
def lines(server):
    """Return a function that waits for a line of the server's log, written since the test began, and returns its match."""
    start = len(server.output())
    return lambda pattern: wait_until(lambda: re.search(pattern, server.output()[start:]), pattern)


@contextlib.contextmanager
def connected(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        yield connection
    finally:
        connection.close()


def ask(connection, path, headers=None, method="GET"):
    """Return status, headers and body of an answer."""
    connection.request(method, f"/api/{path}", headers=headers or {})
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def get(server, path, headers=None, method="GET"):
    with connected(server) as connection:
        return ask(connection, path, headers, method)


# Whole files and ranges -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "data"), [("0.1.0", SMALL), ("1.0.0", LARGE)])
def test_a_whole_file_arrives_with_its_length_type_and_hash(server, version, data):
    status, headers, body = get(server, f"releases/{version}")
    assert status == 200
    assert body == data
    assert headers["Content-Length"] == str(len(data))
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["ETag"] == f'"{hashlib.sha256(data).hexdigest()}"'
    assert headers["Accept-Ranges"] == "bytes"
    assert "Transfer-Encoding" not in headers


@pytest.mark.parametrize(("version", "data"), [("0.1.0", SMALL), ("1.0.0", LARGE)])
def test_head_has_the_headers_of_the_whole_file(server, version, data):
    status, headers, body = get(server, f"releases/{version}", method="HEAD")
    assert (status, body) == (200, b"")
    assert headers["Content-Length"] == str(len(data))
    assert headers["ETag"] == f'"{hashlib.sha256(data).hexdigest()}"'


@settings(max_examples=40)
@given(st.integers(0, len(LARGE) + 10), st.integers(1, len(LARGE)) | st.integers(1, 100))
def test_any_range_is_what_slicing_gives(server, first, size):
    status, headers, body = get(server, "releases/1.0.0", {"Range": f"bytes={first}-{first + size - 1}"})
    if first >= len(LARGE):
        assert (status, body) == (416, b"")
        assert headers["Content-Range"] == f"bytes */{len(LARGE)}"
    else:
        assert status == 206
        assert body == LARGE[first : first + size]
        assert headers["Content-Range"] == f"bytes {first}-{first + len(body) - 1}/{len(LARGE)}"
        assert headers["Content-Length"] == str(len(body))


@settings(max_examples=10)
@given(st.integers(1, len(LARGE) + 10) | st.integers(1, 100))
def test_any_suffix_is_what_slicing_gives(server, size):
    status, _, body = get(server, "releases/1.0.0", {"Range": f"bytes=-{size}"})
    assert status == 206
    assert body == LARGE[-size:]


def test_the_end_of_a_file_can_be_asked_for_without_knowing_its_size(server):
    assert get(server, "releases/1.0.0", {"Range": "bytes=1000-"})[2] == LARGE[1000:]


def test_several_ranges_at_once_are_answered_whole(server):
    status, headers, body = get(server, "releases/1.0.0", {"Range": "bytes=0-9,20-29"})
    assert (status, len(body)) == (200, len(LARGE))
    assert "Content-Range" not in headers


def test_a_range_continues_only_the_file_that_was_begun(server):
    _, headers, _ = get(server, "releases/1.0.0", method="HEAD")
    asked = {"Range": "bytes=4000000-"}
    assert get(server, "releases/1.0.0", asked | {"If-Range": headers["ETag"]})[2] == LARGE[4_000_000:]
    status, _, body = get(server, "releases/1.0.0", asked | {"If-Range": '"other"'})
    assert (status, len(body)) == (200, len(LARGE))


def test_who_has_the_file_gets_304(server):
    _, headers, _ = get(server, "releases/1.0.0", method="HEAD")
    status, headers, body = get(server, "releases/1.0.0", {"If-None-Match": headers["ETag"]})
    assert (status, body) == (304, b"")
    assert "ETag" in headers


def test_a_connection_is_kept_after_every_kind_of_answer(server):
    if server.kind == "sync":
        pytest.skip("the sync worker closes after every answer")
    etag = {"If-None-Match": f'"{hashlib.sha256(LARGE).hexdigest()}"'}
    with connected(server) as connection:
        ask(connection, "latest")
        used = connection.sock
        for _ in range(2):
            assert ask(connection, "releases/1.0.0", {"Range": "bytes=1000-4000000"})[2] == LARGE[1000:4000001]
            assert ask(connection, "releases/1.0.0", {"Range": "bytes=-5"})[2] == LARGE[-5:]
            assert ask(connection, "releases/1.0.0", method="HEAD")[0] == 200
            assert ask(connection, "releases/1.0.0", etag)[0] == 304
            assert ask(connection, "releases/1.0.0", {"Range": f"bytes={len(LARGE)}-"})[0] == 416
            assert ask(connection, "releases/1.0.0")[2] == LARGE
            assert ask(connection, "releases/9.0.0")[0] == 404
            assert ask(connection, "latest", method="POST")[0] == 405
            assert ask(connection, "latest")[2] == b'{"version":"4.0.0"}'
        assert connection.sock is used


def test_many_clients_at_once_get_each_their_own_bytes(server):
    line = threading.Barrier(8)

    def download(number):
        line.wait(PATIENCE)
        start = number * 500_000
        return get(server, "releases/1.0.0", {"Range": f"bytes={start}-"})[2] == LARGE[start:]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(download, range(8)))


# What the kernel does -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def traced(server, tmp_path):
    """Count the bytes that the workers read and those that the kernel sent for them, by system call."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    workers = re.findall(r"Booting worker with pid: (\d+)", server.output())
    trace = tmp_path / "trace"
    calls = "sendfile,read,pread64,readv,preadv,preadv2"
    command = ["strace", "-f", "-e", f"trace={calls}", "-o", trace]
    with Process([*command, *(part for pid in workers for part in ("-p", pid))], tmp_path / "strace") as strace:
        for pid in workers:
            wait_until(
                lambda pid=pid: re.search(rf"(Process {pid} attached|not permitted)", strace.output()),
                f"attaching to {pid}",
            )
        if "not permitted" in strace.output():
            pytest.skip("processes may not be traced here")
        moved = {"sendfile": 0, "read": 0}
        yield moved
        strace.stop(signal.SIGINT)
    for call, count in re.findall(r"\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed>).*\) += (\d+)", trace.read_text()):
        moved["sendfile" if call == "sendfile" else "read"] += int(count)


def test_the_kernel_sends_whole_files(server, tmp_path):
    with traced(server, tmp_path) as moved:
        assert get(server, "releases/1.0.0")[2] == LARGE
    if "without" in server.kind:
        assert moved["sendfile"] == 0
        assert len(LARGE) <= moved["read"] < len(LARGE) + 64 * KIB
    else:
        assert moved["sendfile"] == len(LARGE)
        assert moved["read"] < 64 * KIB


def test_the_kernel_sends_ranges(server, tmp_path):
    with traced(server, tmp_path) as moved:
        assert get(server, "releases/1.0.0", {"Range": "bytes=1000-3000999"})[2] == LARGE[1000:3001000]
    if "without" in server.kind:
        assert moved["sendfile"] == 0
        assert 3_000_000 <= moved["read"] < 3_000_000 + 192 * KIB  # what was read ahead
    else:
        assert moved["sendfile"] == 3_000_000
        assert moved["read"] < 64 * KIB


@pytest.mark.parametrize("size", [1000, 2 * MIB], ids=["in one piece", "streamed"])
def test_a_tail_range_does_not_read_what_it_skips(server, tmp_path, size):
    with traced(server, tmp_path) as moved:
        status, headers, body = get(server, "releases/2.0.0", {"Range": f"bytes=-{size}"})
    assert (status, body) == (206, TAIL[-size:])
    assert headers["Content-Range"] == f"bytes {SPARSE_SIZE - size}-{SPARSE_SIZE - 1}/{SPARSE_SIZE}"
    assert moved["read"] + moved["sendfile"] < size + 192 * KIB


# A disk that changes under the server ---------------------------------------------------------------------------------


@pytest.fixture
def cut(server):
    """Return the path of the file that a test may cut short; it is whole again afterwards."""
    path = server.folder / "app-3.0.0"
    yield path
    os.truncate(path, CUT_SIZE)
    assert get(server, "releases/3.0.0", {"Range": "bytes=0-0"})[0] == 206


@contextlib.contextmanager
def asked(server, path, *headers):
    """Send two requests at once on a connection that holds little, and return its socket."""
    with socket.socket() as client:
        client.settimeout(PATIENCE)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        client.connect(("127.0.0.1", server.port))
        first = "\r\n".join([f"GET /api/{path} HTTP/1.1", "Host: test", *headers])
        client.sendall(f"{first}\r\n\r\nGET /api/latest HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        yield client


def all_of(client) -> bytes:
    """Return what a connection brings until it ends, well or badly."""
    received = []
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(MIB):
            received.append(data)
    return b"".join(received)


def assert_broken_off(answer: bytes, size: int):
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"Content-Length: {size}".encode() in head
    assert len(body) < size
    assert not body.strip(b"\0"), "something else follows"


def test_a_file_cut_short_during_a_download_breaks_the_connection(server, cut, lines):
    with asked(server, "releases/3.0.0") as client:
        begun = client.recv(64 * KIB)
        os.truncate(cut, MIB)
        assert_broken_off(begun + all_of(client), CUT_SIZE)
    assert lines(r'aborted {"version": "3.0.0", "sent": (\d+), "size": 67108864}')


@pytest.mark.parametrize("left", [0, 1000, 40 * MIB])
@pytest.mark.parametrize("start", [0, 32 * MIB])
def test_a_file_cut_short_before_its_first_byte_is_sent_breaks_the_connection(server, cut, left, start):
    with asked(server, "releases/3.0.0", f"Range: bytes={start}-", f"X-Cut-Short: {left}") as client:
        if answer := all_of(client):  # who reads before it sends the headers sends nothing at all
            assert_broken_off(answer, CUT_SIZE - start)


def test_a_file_that_is_replaced_is_refused_until_it_is_restored(server, lines):
    path = server.folder / "app-4.0.0"
    path.with_name("draft").write_bytes(SMALL[::-1])
    os.replace(path.with_name("draft"), path)
    status, headers, body = get(server, "releases/4.0.0")
    assert (status, body) == (500, b"Release file changed")
    assert "ETag" not in headers
    assert lines(rf"ERROR /api/releases/4.0.0 cannot be served: .*{re.escape(str(path))} has SHA-256")
    path.with_name("draft").write_bytes(SMALL)
    os.replace(path.with_name("draft"), path)
    assert get(server, "releases/4.0.0")[2] == SMALL


def test_a_file_that_is_deleted_is_named_in_the_log_alone(server, lines):
    path = server.folder / "app-4.0.0"
    path.unlink()
    assert get(server, "releases/4.0.0")[::2] == (500, b"Release file missing")
    assert get(server, "hashes/4.0.0")[0] == 200
    assert lines(rf"ERROR /api/releases/4.0.0 cannot be served: .*{re.escape(str(path))} is missing")
    path.write_bytes(SMALL)
    assert get(server, "releases/4.0.0")[2] == SMALL


# Log and signals ------------------------------------------------------------------------------------------------------


def test_every_request_has_one_line_with_what_went_out(server, lines):
    get(server, "releases/1.0.0")
    get(server, "releases/1.0.0", {"Range": "bytes=10-2000009"})
    get(server, "releases/1.0.0", method="HEAD")
    get(server, "hashes/7.7.7")
    size = len(LARGE)
    assert lines(rf"patchify.server.requests INFO GET /api/releases/1.0.0 200 {size} bytes \d+\.\d ms\n")
    assert lines(r"patchify.server.requests INFO GET /api/releases/1.0.0 206 2000000 bytes \d+\.\d ms\n")
    assert lines(r"patchify.server.requests INFO HEAD /api/releases/1.0.0 200 0 bytes \d+\.\d ms\n")
    assert lines(r"patchify.server.requests INFO GET /api/hashes/7.7.7 404 23 bytes \d+\.\d ms\n")
    assert lines(rf'sent {{"version": "1.0.0", "start": 0, "size": {size}}}')
    assert lines(r'sent {"version": "1.0.0", "start": 10, "size": 2000000}')


def test_a_client_that_leaves_early_is_told_apart(server, lines):
    with asked(server, "releases/3.0.0") as client:
        client.recv(1000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by reset
    told = lines(r'aborted {"version": "3.0.0", "sent": (\d+), "size": 67108864}')
    assert int(told[1]) < CUT_SIZE
    assert lines(r"WARNING /api/releases/3.0.0 ended after \d+ of 67108864 bytes")
    assert lines(rf"GET /api/releases/3.0.0 200 {told[1]} bytes")
    assert get(server, "latest")[0] == 200


# The original's answers -----------------------------------------------------------------------------------------------


def test_every_recorded_answer_of_the_original_goes_out_byte_for_byte(tmp_path):
    recorded = WIRE["servers"][0]
    folder = tmp_path / "releases"
    folder.mkdir()
    for version, data in contents(recorded).items():
        (folder / f"{recorded['appname']}-{version}").write_bytes(data)
    env = served(folder, recorded["appname"], key=WIRE["private_key"])
    with Gunicorn(APP, tmp_path / "log", *WORKERS["gthread"], env=env) as server, connected(server) as connection:
        for answer in recorded["answers"]:
            status, headers, body = ask(connection, answer["path"], method=answer["method"])
            found = {name.lower(): value for name, value in headers.items()}
            added = {"server", "date", "connection"}
            if status == 200:
                added |= {"etag", "accept-ranges" if answer["path"].startswith("releases/") else "cache-control"}
            assert status == answer["status"]
            assert {name: value for name, value in found.items() if name not in added} == answer["headers"]
            if "body" in answer:
                assert body == answer["body"].encode()
            else:
                assert hashlib.sha256(body).hexdigest() == answer["body_sha256"]


# Wrong starts ---------------------------------------------------------------------------------------------------------

HASH = hashlib.sha256(SMALL).hexdigest()


def delete(folder):
    (folder / "app-1.0.0").unlink()


def make_fifo(folder):
    delete(folder)
    os.mkfifo(folder / "app-1.0.0")


def make_loop(folder):
    delete(folder)
    (folder / "app-1.0.0").symlink_to("app-1.0.0")


def keep(folder):
    pass


@pytest.mark.parametrize(
    ("change", "settings", "line"),
    [
        (delete, {}, "ReleaseMissingError: release 1.0.0: {folder}/app-1.0.0 is missing or not a regular file"),
        (make_fifo, {}, "ReleaseMissingError: release 1.0.0: {folder}/app-1.0.0 is missing or not a regular file"),
        (make_loop, {}, "ReleaseUnreadableError: release 1.0.0: {folder}/app-1.0.0 cannot be read: Too many levels"),
        (
            keep,
            {"versions": {"1.0.0": "ab" * 32}},
            f"ReleaseInvalidError: release 1.0.0: {{folder}}/app-1.0.0 has SHA-256 {HASH}, but {'ab' * 32} is configured",
        ),
        (
            keep,
            {"versions": {"1.0": HASH}},
            "ConfigError: PATCHIFY_VERSIONS: '1.0' is not a SemVer version: unexpected",
        ),
        (keep, {"versions": {"1.0.0": "x"}}, "ConfigError: PATCHIFY_VERSIONS: the SHA-256 of 1.0.0 is 'x', not 64 hex"),
        (keep, {"key": "12" * 31}, "ConfigError: PATCHIFY_KEY: neither 64 hex digits nor the path of a key file (62 "),
        (keep, {"key": "no.key"}, "ConfigError: PATCHIFY_KEY: the key file no.key cannot be read: No such file"),
        (keep, {"appname": None}, "ConfigError: PATCHIFY_APPNAME: is not configured"),
        (keep, {"stream_buffer": 0}, "ConfigError: PATCHIFY_STREAM_BUFFER: 0 is not a size; a whole number of KiB"),
    ],
)
def test_a_wrong_start_ends_with_one_clear_line_before_a_socket_opens(tmp_path, change, settings, line):
    folder = tmp_path / "releases"
    folder.mkdir()
    (folder / "app-1.0.0").write_bytes(SMALL)
    env = served(folder, **settings)
    change(folder)
    server = Gunicorn(APP, tmp_path / "log", "--preload", env=env)  # not entered: it never gets ready
    try:
        assert server.popen.wait(PATIENCE) != 0
    finally:
        server.stop()
    output = server.output()
    assert "Listening" not in output
    assert sum(f"patchify.errors.{line.format(folder=folder)}" in each for each in output.splitlines()) == 1


def test_a_key_file_that_others_can_read_is_warned_about_at_the_start(tmp_path):
    SigningKey.from_hex(KEY).write(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    (tmp_path / "releases").mkdir()
    env = served(tmp_path / "releases", key=str(tmp_path / "key"))
    with Gunicorn(APP, tmp_path / "log", "--preload", env=env) as server:
        assert f"patchify.keys WARNING the key file {tmp_path}/key can be used by others" in server.output()
        assert get(server, "latest")[2] == b'{"version":"0.0.0"}'


# A catalogue ----------------------------------------------------------------------------------------------------------


def test_all_workers_see_a_change_without_a_restart_and_sign_the_same_document(tmp_path):
    (tmp_path / "releases").mkdir()
    catalogue = SqlCatalogue(f"sqlite:///{tmp_path}/catalogue.db")
    catalogue.create()
    (tmp_path / "patchify.toml").write_text(
        f'PATCHIFY_APPNAME = "app"\nPATCHIFY_KEY = "{KEY}"\nPATCHIFY_RELEASES = "releases"\n'
        'PATCHIFY_CATALOGUE = "sqlite:///catalogue.db"\n'
    )
    env = {"PATCHIFY_CONFIG": str(tmp_path / "patchify.toml")}
    options = ["--preload", "--worker-class", "gthread", "--workers", "2"]
    with Gunicorn("patchify.server:create_app()", tmp_path / "log", *options, env=env) as server:

        def asked(path):
            with requests.get(f"{server.url}/api/{path}", headers={"Connection": "close"}, timeout=PATIENCE) as answer:
                return answer.content, answer.headers.get("X-Signature")

        assert asked("latest")[0] == b'{"version":"0.0.0"}'
        (tmp_path / "releases" / "app-1.0.0").write_bytes(SMALL)
        moment = now()
        live = Placement("stable", ReleaseState.LIVE, since=moment, changed=moment)
        release = Release(
            parse_version("1.0.0"), hashlib.sha256(SMALL).hexdigest(), size=len(SMALL), placements=(live,)
        )
        with catalogue.transaction() as transaction:
            transaction.put(release)
        serial = catalogue.snapshot().revision
        documents = set()

        def ten_times_alike():
            documents.clear()
            documents.update(asked("updates/stable/any") for _ in range(10))
            return len(documents) == 1 and UpdateDocument.parse(next(iter(documents))[0]).serial == serial

        wait_until(ten_times_alike, "the change in all workers")
        (offer,) = UpdateDocument.parse(documents.pop()[0]).releases
        assert asked(offer.path)[0] == SMALL
        assert asked("latest")[0] == b'{"version":"1.0.0"}'


# A second start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preload", [["--preload"], []], ids=["before the fork", "in each worker"])
def test_a_restart_hashes_no_release_again(tmp_path, preload):
    folder = tmp_path / "releases"
    folder.mkdir()
    (folder / "app-1.0.0").write_bytes(LARGE)
    (folder / "app-2.0.0").write_bytes(SMALL)
    env = served(folder)
    changed = max(path.stat().st_ctime for path in folder.iterdir())
    wait_until(lambda: time.time() > changed + 0.2, "files that were not written just now")
    for number in range(2):
        with Gunicorn(APP, tmp_path / f"log{number}", *preload, "--workers", "2", env=env) as server:
            starts = 1 if preload else 2
            wait_until(lambda: server.output().count("releases checked: 2") == starts, "the checks")  # noqa: B023
            assert get(server, "releases/1.0.0")[2] == LARGE
    assert server.output().count("hashed: 0, remembered: 2)") == starts
    assert sorted(path.name for path in folder.iterdir()) == [".hashes.json", "app-1.0.0", "app-2.0.0"]

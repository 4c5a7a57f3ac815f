import contextlib
import gc
import socket
import threading

import pytest
import requests
import urllib3

from patchify.client.deadline import Deadline, DeadlineAdapter
from tests.client.misbehaving import Misbehaving, answer, certificate, certificate_file, dripping, silence
from tests.running import PATIENCE


def ample() -> Deadline:
    return Deadline(PATIENCE)


BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError)


@pytest.fixture
def adapter():
    made = DeadlineAdapter()
    yield made
    made.close()


@pytest.fixture
def session(adapter):
    with requests.Session() as made:
        made.trust_env = False
        made.verify = str(certificate_file())
        made.mount("http://", adapter)
        made.mount("https://", adapter)
        yield made


@pytest.fixture(params=["http", "https"])
def server(request):
    with Misbehaving(certificate() if request.param == "https" else None) as made:
        yield made


def get(session, url):
    with contextlib.closing(session.get(url, stream=True, timeout=PATIENCE)) as response:
        return response.raw.read()


@contextlib.contextmanager
def cut_when(adapter, event):
    """Cut the adapter's connections, from another thread, when the event comes."""
    thread = threading.Thread(target=lambda: event.wait(PATIENCE) and adapter.cut())
    thread.start()
    try:
        yield
    finally:
        thread.join(PATIENCE)


def test_a_deadline_runs_out_and_never_below_nothing():
    assert Deadline(PATIENCE).left() > PATIENCE / 2
    assert not Deadline(PATIENCE).passed()
    assert Deadline(0).passed()
    assert Deadline(0).left() == 0


PLACES = {
    "before the header": b"",
    "in the status line": b"HTTP/1.",
    "between two headers": b"HTTP/1.1 100 Continue\r\n\r\n",
    "in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123",
    "in the last body of a connection": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n123",
    "in the body of HTTP 1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\n123",
    "between chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
    "in the length of a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5",
}


@pytest.mark.parametrize("before", PLACES.values(), ids=PLACES.keys())
def test_cutting_ends_a_blocked_read_wherever_it_waits(adapter, session, server, before):
    server.on("latest", silence(before))
    with cut_when(adapter, server.stalled), pytest.raises(BROKEN):
        get(session, server.api + "latest")


# Here nothing but the clock tells that this was not the end: http.client takes what it has for the whole.
UNTOLD = {
    "a body without length": (b"HTTP/1.1 200 OK\r\n\r\n123", b"123"),
    "a header": (b"HTTP/1.1 200 OK\r\nContent-", b""),
}


@pytest.mark.parametrize(("before", "body"), UNTOLD.values(), ids=UNTOLD.keys())
def test_cutting_ends_what_has_no_end_of_its_own(adapter, session, server, before, body):
    server.on("latest", silence(before))
    with cut_when(adapter, server.stalled), contextlib.suppress(BROKEN):  # TLS tells that the end was none
        assert get(session, server.api + "latest") == body


DRIPS = {
    "the status line": (b"HTTP/1.", b"1"),
    "headers that are no answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the length of a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1", b";"),
}


@pytest.mark.parametrize(("before", "data"), DRIPS.values(), ids=DRIPS.keys())
def test_what_drips_is_cut_at_the_deadline(adapter, session, server, before, data):
    server.on("latest", dripping(before, data))
    with pytest.raises(BROKEN), adapter.bounded(Deadline(0.2)):
        get(session, server.api + "latest")


def test_a_connection_that_is_made_after_the_cut_is_cut_too(adapter, session, server):
    server.on("latest", dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"))
    with adapter.bounded(ample()), pytest.raises(BROKEN):  # noqa: PT012 - the cut raises nothing
        adapter.cut()
        get(session, server.api + "latest")


def test_after_a_cut_the_next_exchange_is_as_good_as_any(adapter, session, server):
    server.on("latest", answer(body=b"good"))
    with adapter.bounded(ample()):
        assert get(session, server.api + "latest") == b"good"
    adapter.cut()
    with adapter.bounded(ample()):
        assert get(session, server.api + "latest") == b"good"


def test_a_connection_is_kept_for_the_next_exchange(adapter, session, server):
    server.on("latest", answer(body=b"good"))
    for _ in range(3):
        with adapter.bounded(ample()):
            assert get(session, server.api + "latest") == b"good"
    assert server.connections == 1


def test_what_was_received_before_the_cut_can_still_be_read(adapter, session, server):
    body = b"0123456789" * 1000
    sent = threading.Event()

    def act(exchange):
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + body)
        sent.set()
        exchange.wait()

    server.on("latest", act)
    with contextlib.closing(session.get(server.api + "latest", stream=True, timeout=PATIENCE)) as response:
        received = response.raw.read1(100)
        assert sent.wait(PATIENCE)
        adapter.cut()
        with pytest.raises(BROKEN):  # noqa: PT012 - it is the last of many
            while data := response.raw.read1(100):
                received += data
    assert body.startswith(received)  # and nothing that is no text: TLS goes on deciphering


def test_no_watch_outlives_its_block(adapter):
    with adapter.bounded(ample()):
        (watch,) = [thread for thread in threading.enumerate() if thread.name == "patchify-deadline"]
        assert watch.daemon
    watch.join(PATIENCE)
    assert not watch.is_alive()


def test_connections_and_sockets_that_are_gone_are_forgotten(adapter, session, server):
    server.on("latest", answer(body=b"good", Connection="close"))
    for _ in range(3):
        get(session, server.api + "latest")
    gc.collect()
    assert not adapter._sockets


def test_connections_through_a_proxy_can_be_cut(adapter, session):
    with Misbehaving() as proxy:
        session.proxies = {"http": proxy.url}
        proxy.on("http://updates.example.com/latest", silence())
        with cut_when(adapter, proxy.stalled), pytest.raises(BROKEN):
            get(session, "http://updates.example.com/latest")


def test_a_proxy_that_drips_before_the_tunnel_stands_is_cut(adapter, session):
    with Misbehaving() as proxy:
        session.proxies = {"https": proxy.url}
        proxy.on("updates.example.com:443", dripping(b"HTTP/1.", b"1"))
        with pytest.raises(BROKEN), adapter.bounded(Deadline(0.2)):
            get(session, "https://updates.example.com/latest")


def test_the_kind_of_pool_that_a_proxy_needs_is_kept(adapter):
    class Pool(urllib3.HTTPConnectionPool):
        """What a SOCKS proxy needs is of a kind of its own."""

    class Manager:
        pool_classes_by_scheme = {"http": Pool}  # noqa: RUF012 - as in urllib3

    manager = Manager()
    adapter._adopt(manager)
    assert issubclass(manager.pool_classes_by_scheme["http"], Pool)
    assert issubclass(manager.pool_classes_by_scheme["http"].ConnectionCls, Pool.ConnectionCls)


def test_the_pools_of_a_proxy_are_made_once(adapter):
    first = adapter.proxy_manager_for("http://127.0.0.1:1").pool_classes_by_scheme
    assert adapter.proxy_manager_for("http://127.0.0.1:1").pool_classes_by_scheme is first


def test_connections_may_be_made_while_others_are_cut(adapter):
    pairs = [socket.socketpair() for _ in range(200)]
    begun = threading.Event()

    def make():
        begun.set()
        for connection, _ in pairs:
            adapter._watch(connection)

    thread = threading.Thread(target=make)
    thread.start()
    assert begun.wait(PATIENCE)
    adapter.cut()
    while thread.is_alive():
        adapter.cut()
    thread.join(PATIENCE)
    for connection, other in pairs:
        connection.settimeout(PATIENCE)
        assert connection.recv(1) == b""
        connection.close()
        other.close()

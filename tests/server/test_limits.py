import hashlib
import logging
import socket
import threading
import time
import traceback

import pytest
from flask import Blueprint, Flask

from patchify.errors import ConfigError
from patchify.server import patchify_bp
from patchify.server.limits import MOST_CLIENTS, Memory
from patchify.server.sql_catalogue import SqlCatalogue

FILE = bytes(1024) * 100  # 100 KiB
DOCUMENTS = ["latest", "hashes/1.0.0", "updates/stable/any"]


@pytest.fixture
def limited(serve):
    """Return a function that makes a client of an application which limits its clients."""
    return lambda **settings: serve({"1.0.0": FILE}, **settings).test_client()


def statuses(client, *paths, **options) -> list[int]:
    return [client.get(f"/api/{path}", **options).status_code for path in paths]


def seen_from(address) -> dict:
    return {"environ_overrides": {"REMOTE_ADDR": address}}


def test_nothing_is_limited_unless_it_is_configured(serve):
    app = serve({"1.0.0": FILE})
    assert not app.before_request_funcs.get("patchify")
    assert not app.after_request_funcs.get("patchify")
    assert statuses(app.test_client(), *["latest"] * 200) == [200] * 200


# Requests -------------------------------------------------------------------------------------------------------------


def test_so_many_requests_are_answered_and_no_more(limited):
    client = limited(rate_limit="4/hour")
    assert statuses(client, *DOCUMENTS, "releases/1.0.0", "latest") == [200] * 4 + [429]


def test_a_refusal_says_when_to_come_again_and_is_not_signed_and_is_logged(limited, caplog):
    caplog.set_level(logging.INFO, "patchify.server.requests")
    client = limited(rate_limit="1/2 hours")
    client.get("/api/latest")
    answer = client.get("/api/latest")
    assert (answer.status_code, answer.text) == (429, "Too many requests")
    assert 7100 < int(answer.headers["Retry-After"]) <= 7200
    assert "X-Signature" not in answer.headers
    assert answer.headers["Cache-Control"] == "no-store"
    assert "GET /api/latest 429 17 bytes" in caplog.text


def test_what_is_not_there_counts_too_and_other_methods(limited):
    client = limited(rate_limit="2/hour")
    assert statuses(client, "releases/9.0.0") == [404]
    assert client.head("/api/latest").status_code == 200
    assert statuses(client, "latest") == [429]


def test_what_is_nobodys_and_what_the_host_has_are_not_counted(limited):
    client = limited(rate_limit="1/hour")
    client.application.add_url_rule("/own", view_func=lambda: "own")
    assert statuses(client, "nothing", "nothing") == [404, 404]
    assert [client.get("/own").status_code for _ in range(3)] == [200] * 3
    assert statuses(client, "latest", "latest") == [200, 429]


def test_reports_and_publications_have_limits_of_their_own(limited, tmp_path):
    database = f"sqlite:///{tmp_path / 'catalogue.db'}"
    SqlCatalogue(database).create()
    settings = {"catalogue": database, "versions": None, "reports": True, "publish_token": "t" * 32}
    client = limited(rate_limit="1/hour", **settings)
    assert statuses(client, "latest", "latest") == [200, 429]
    assert client.post("/api/reports", data=b"{}", content_type="application/json").status_code == 400
    assert client.post("/api/publications", data=b"{}").status_code == 401


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
    ],
)
def test_a_client_is_an_address_or_a_network_of_the_newer_kind(limited, one, other, shared):
    client = limited(rate_limit="1/hour")
    assert statuses(client, "latest", **seen_from(one)) == [200]
    assert statuses(client, "latest", **seen_from(other)) == [429 if shared else 200]


def test_a_blueprint_in_another_one_is_limited_as_well(publish):
    app = Flask("host")
    settings = publish({"1.0.0": FILE}) | {"rate_limit": "1/hour"}
    app.config.update({f"PATCHIFY_{name.upper()}": value for name, value in settings.items()})
    outer = Blueprint("outer", __name__)
    outer.register_blueprint(patchify_bp, url_prefix="/api")
    app.register_blueprint(outer, url_prefix="/deep")
    client = app.test_client()
    assert [client.get("/deep/api/latest").status_code for _ in range(2)] == [200, 429]


def test_two_applications_in_one_process_count_by_themselves(serve):
    first, second = (serve({"1.0.0": FILE}, rate_limit="1/hour").test_client() for _ in range(2))
    assert statuses(first, "latest", "latest") == [200, 429]
    assert statuses(second, "latest") == [200]


# Bytes ----------------------------------------------------------------------------------------------------------------


def test_so_many_bytes_of_files_are_sent_and_documents_all_the_same(limited):
    client = limited(bandwidth_limit="150 KiB/hour")
    assert statuses(client, "releases/1.0.0", "releases/1.0.0", "releases/1.0.0") == [200, 200, 429]
    assert statuses(client, *DOCUMENTS) == [200] * 3


def test_a_file_larger_than_the_limit_can_be_had_once_in_a_window(limited):
    client = limited(bandwidth_limit="1 KiB/hour")
    found = client.get("/api/releases/1.0.0")
    assert found.data == FILE
    refused = client.get("/api/releases/1.0.0")
    assert refused.status_code == 429
    assert 3500 < int(refused.headers["Retry-After"]) <= 3600


def test_a_range_counts_as_what_it_is_and_what_sends_nothing_does_not_count(limited):
    client = limited(bandwidth_limit="1 KiB/hour")
    etag = client.head("/api/releases/1.0.0").headers["ETag"]
    for headers, status in [
        ({"Range": "bytes=0-511"}, 206),
        ({"If-None-Match": etag}, 304),
        ({"Range": "bytes=999999-"}, 416),
        ({"Range": "bytes=-512"}, 206),
        ({"Range": "bytes=0-0"}, 429),
    ]:
        assert client.get("/api/releases/1.0.0", headers=headers).status_code == status
    assert client.head("/api/releases/1.0.0").status_code == 429


def test_files_count_under_both_of_their_names(limited):
    client = limited(bandwidth_limit="100 KiB/hour")
    path = f"files/{hashlib.sha256(FILE).hexdigest()}"
    assert statuses(client, path, path, "releases/1.0.0") == [200, 429, 429]


@pytest.mark.parametrize("front", [{"x_accel_redirect": "/_patchify/"}, {"x_sendfile": True}])
def test_what_a_server_in_front_sends_counts_as_far_as_it_was_asked_for(limited, front):
    client = limited(bandwidth_limit="101 KiB/hour", **front)
    etag = client.head("/api/releases/1.0.0").headers["ETag"]
    for headers, status in [
        ({"Range": "bytes=-512"}, 200),  # it is the front that makes a 206 of it
        ({"If-None-Match": etag}, 304),
        ({"Range": "bytes=0-511"}, 200),
        ({}, 200),
        ({}, 429),
    ]:
        assert client.get("/api/releases/1.0.0", headers=headers).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=0-0", "If-Range": '"other"'},
        {"Range": "bytes=0-0", "If-Range": "Tue, 24 Nov 2099 00:00:00 GMT"},
        {"Range": "bytes =0-0"},
        {"Range": "bytes=0-0,5-5"},
        {"Range": "bytes=5-3"},
    ],
    ids=["other", "date", "space", "two", "reversed"],
)
def test_a_range_for_which_a_front_may_send_all_counts_as_all(limited, headers):
    client = limited(bandwidth_limit="100 KiB/hour", x_accel_redirect="/_patchify/")
    assert [client.get("/api/releases/1.0.0", headers=headers).status_code for _ in range(2)] == [200, 429]


def test_a_range_of_the_very_file_counts_as_what_it_is(limited):
    client = limited(bandwidth_limit="1 KiB/hour", x_accel_redirect="/_patchify/")
    headers = {"Range": "bytes=0-99", "If-Range": f'"{hashlib.sha256(FILE).hexdigest()}"'}
    assert [client.get("/api/releases/1.0.0", headers=headers).status_code for _ in range(2)] == [200, 200]


def test_both_limits_hold_at_once(limited):
    client = limited(rate_limit="3/hour", bandwidth_limit="1 GiB/hour")
    assert statuses(client, *["releases/1.0.0"] * 4) == [200, 200, 200, 429]


# In memory ------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def memory(clock):
    return Memory(clock)


def test_a_window_ends_when_its_time_is_over_however_often_it_was_counted(memory, clock):
    assert [memory.incr("a", 60) for _ in range(3)] == [1, 2, 3]
    clock.time += 59
    assert memory.incr("a", 60, amount=10) == memory.get("a") == 13
    clock.time += 1
    assert memory.get("a") == 0
    assert memory.incr("a", 60) == 1


def test_it_says_when_a_window_ends_in_time_of_the_day(memory, clock):
    memory.incr("a", 60)
    clock.time += 20
    assert memory.get_expiry("a") - time.time() == pytest.approx(40, abs=5)
    assert memory.get_expiry("unknown") - time.time() == pytest.approx(0, abs=5)


def test_it_is_bounded_and_forgets_who_has_not_asked_for_longest(memory):
    memory.incr("first", 3600)
    memory.incr("second", 3600)
    for number in range(MOST_CLIENTS - 2):
        memory.incr(str(number), 3600)
    memory.incr("first", 3600)
    memory.incr("one more", 3600)
    assert (memory.get("first"), memory.get("second"), memory.get("one more")) == (2, 0, 1)


def test_it_counts_right_from_many_threads(memory):
    def count():
        for _ in range(1000):
            memory.incr("a", 3600)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory.get("a") == 4000


def test_it_can_be_emptied_and_looked_after(memory):
    memory.incr("a", 60)
    memory.incr("b", 60)
    memory.clear("a")
    memory.clear("a")
    assert (memory.get("a"), memory.get("b"), memory.reset(), memory.get("b"), memory.check()) == (0, 1, 1, 0, True)


def test_it_starts_no_thread(limited):
    before = threading.active_count()
    client = limited(rate_limit="100/minute", bandwidth_limit="1 GiB/hour")
    assert set(statuses(client, *["releases/1.0.0"] * 20)) == {200}
    assert threading.active_count() == before


# In a store -----------------------------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_reached_limits_nobody_and_says_so(limited, caplog):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"redis://:secret@127.0.0.1:{closed.getsockname()[1]}"
        client = limited(rate_limit="1/hour", bandwidth_limit="1 KiB/hour", limits_storage=url)
        assert statuses(client, "latest", "latest", "releases/1.0.0") == [200] * 3
    warnings = [each for each in caplog.records if each.levelname == "WARNING"]
    assert [each.name for each in warnings] == ["patchify.server.limits"]  # once
    assert "the store of limits cannot be reached" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("url", ["carrier-pigeon://secret", "memcached://secret"])
def test_a_store_that_does_not_exist_stops_the_start_without_its_address(limited, url):
    with pytest.raises(ConfigError, match=r"^PATCHIFY_LIMITS_STORAGE: ") as caught:
        limited(rate_limit="1/hour", limits_storage=url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))  # as gunicorn prints it


def test_workers_that_share_a_store_count_together(serve, monkeypatch):
    import patchify.server.limits as module

    shared = Memory(time.monotonic)
    monkeypatch.setattr(module, "storage_from_string", lambda url, **options: shared)
    first, second = (
        serve({"1.0.0": FILE}, rate_limit="2/hour", limits_storage="redis://x").test_client() for _ in range(2)
    )
    assert statuses(first, "latest") + statuses(second, "latest", "latest") == [200, 200, 429]
    assert statuses(first, "latest") == [429]

"""A server that limits its clients, under real gunicorn, and our client, which comes again when it is told to."""

import random
from contextlib import closing
from datetime import timedelta

import pytest

from patchify.client import Config, Updater
from patchify.client.staging import PartFile
from patchify.client.transport import Transport
from patchify.errors import HttpRequestFailedError, ServerBusyError
from tests.client.fakes import FakeRestarter, sha256
from tests.e2e.shipped import our_server

DATA = random.Random(1).randbytes(3 * 1024 * 1024 + 7)
HOUR = 3600


@pytest.fixture
def start(tmp_path, publish):
    """Return a function that makes a server with one worker, which counts by itself what it limits."""
    settings = publish({"1.0.0": DATA})
    return lambda port=None, **limits: our_server(settings | limits, tmp_path, "--workers", "1", port=port)


def asked(server, status) -> int:
    """Return how often a document was asked for, and answered so."""
    return server.output().count(f"GET /api/updates/stable/linux-x86_64 {status} ")


@pytest.fixture
def updater_of(tmp_path, key):
    """Return a function that makes the updater of a program, each time as a process that is started anew would."""
    program = tmp_path / "app"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)

    def updater_of(server):
        config = Config(
            version="1.0.0",
            api=f"{server.url}/api/",
            key=key.verifying_key,
            platform="linux-x86_64",
            executable=program,
            check_interval=timedelta(seconds=10),
            least_interval=timedelta(),
        )
        return Updater(config, restarter=FakeRestarter())

    return updater_of


def test_a_check_that_comes_too_soon_says_when_to_come_again_and_is_not_repeated_before(start, updater_of):
    with start(rate_limit="1/hour") as server:
        with updater_of(server) as updater:
            updater.check()
            with pytest.raises(ServerBusyError) as caught:
                updater.check()
            assert caught.value.status == 429
            assert HOUR - 60 < caught.value.retry_after <= HOUR
            updater.tick()
            updater.tick()
        with updater_of(server) as updater:
            updater.tick()
        assert (asked(server, 200), asked(server, 429)) == (1, 1)


def test_what_asks_unasked_waits_as_long_as_the_server_wants_it_to(start, updater_of):
    with start(rate_limit="1/hour") as server:
        with updater_of(server) as updater:
            assert updater.tick() <= 20
            assert updater.tick() > HOUR - 60
            updater.tick()
        assert (asked(server, 200), asked(server, 429)) == (1, 1)


def test_a_download_that_is_refused_in_the_middle_goes_on_later_from_where_it_was(start, tmp_path, key):
    digest = sha256(DATA)

    def download(part, closing_down=lambda: False) -> Transport:
        config = Config(version="0.1.0", api=f"{server.url}/api/", key=key.verifying_key)
        with closing(Transport(config, lambda seconds: closing_down())) as transport:
            transport.file(f"files/{digest}", digest, len(DATA), part, lambda done, total: None)
        return transport

    with closing(PartFile(tmp_path / "part")) as part:
        with start(bandwidth_limit="1 MiB/hour") as server:
            with pytest.raises(HttpRequestFailedError):  # the connection does not last
                download(part, lambda: part.size >= len(DATA) // 3)
            there = part.size
            assert len(DATA) // 3 <= there < len(DATA)
            with pytest.raises(ServerBusyError) as caught:
                download(part)
            assert HOUR - 60 < caught.value.retry_after <= HOUR
            assert part.size == there
        with start(server.port, bandwidth_limit="1 MiB/hour") as server:  # an hour later nothing is counted any more
            assert download(part).received == len(DATA) - there
    assert (tmp_path / "part").read_bytes() == DATA

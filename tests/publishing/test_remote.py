import hashlib
import json
import os
import random
from functools import partial

import pytest
from flask import Flask

from patchify.errors import (
    ConfigError,
    FileChangedError,
    HttpError,
    HttpRequestFailedError,
    InvalidBodyError,
    InvalidPayloadError,
    PublicationError,
    PublishingFailedError,
    PublishingRefusedError,
    RedirectError,
    ServerBusyError,
    TooMuchDataError,
    UnreadableFileError,
    UploadOffsetError,
)
from patchify.publishing import Publication, Publisher, connection, sending
from patchify.publishing.patience import RETRIES
from patchify.publishing.remote import RemotePublisher
from patchify.publishing.upload import Upload
from patchify.releases import ReleaseState, Schedule
from patchify.server import patchify_bp
from patchify.versions import parse_version
from tests.conftest import KEY
from tests.publishing.fakes import MemoryCatalogue
from tests.publishing.wire import Wire

TOKEN = "only-those-who-have-this-may-publish"
API = "https://updates.test/api/"
MIB = 1024 * 1024
DATA = random.Random(1).randbytes(3 * MIB + 1000)
SIZE = len(DATA)
SHA = hashlib.sha256(DATA).hexdigest()
V1 = parse_version("1.0.0")
ONE = Publication(version=V1)
JSON = [("Content-Type", "application/json")]


class Clock:
    """Each look takes some seconds, or as long as a test says."""

    def __init__(self):
        self.time = 0.0
        self.step = 5.0

    def __call__(self):
        self.time += self.step
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "releases"
    folder.mkdir()
    return folder


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "build"
    file.write_bytes(DATA)
    return file


@pytest.fixture
def catalogue():
    return MemoryCatalogue()


@pytest.fixture
def wire(folder, catalogue):
    app = Flask("host")
    app.config.update(
        PATCHIFY_APPNAME="app",
        PATCHIFY_KEY=KEY,
        PATCHIFY_RELEASES=folder,
        PATCHIFY_CATALOGUE=catalogue,
        PATCHIFY_PUBLISH_TOKEN=TOKEN,
        PATCHIFY_MAX_UPLOAD=4,
    )
    app.register_blueprint(patchify_bp, url_prefix="/api")
    wire = Wire(app)
    with wire.connect():
        yield wire


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def publisher(wire, pauses, clock) -> Publisher:
    return RemotePublisher(API, TOKEN, pause=pauses.append, chance=lambda: 0.5, clock=clock)


def sent(wire):
    """Return the lengths of the pieces that were sent."""
    return [length for method, path, length in wire.asked if path.startswith("uploads/")]


def answer(status, text="no", *, retry=False, **members):
    return status, JSON, json.dumps({"error": text, "retry": retry, **members})


# Publishing -----------------------------------------------------------------------------------------------------------


def test_a_file_is_published_in_pieces(publisher, wire, file, folder, catalogue):
    told = []
    publication = Publication(version=V1, channel="beta", notes="Grüße", schedule=Schedule.parse("10,100@1d"))
    release = publisher.publish(file, publication, told.append)
    assert release == catalogue.snapshot().find(V1, channel="beta")
    assert (release.sha256, release.size, release.notes) == (SHA, SIZE, "Grüße")
    assert str(release.placed("beta").schedule) == "10%,100%@1d"
    assert (folder / "app-1.0.0").read_bytes() == DATA
    assert sent(wire) == [MIB, MIB, MIB, 1000]
    assert told[0] == 0
    assert told[-1] == SIZE
    assert told == sorted(told)
    assert {each["Authorization"] for each in wire.headers} == {f"Bearer {TOKEN}"}


def test_what_is_published_is_not_sent_again(publisher, wire, file):
    first = publisher.publish(file, ONE)
    wire.asked.clear()
    told = []
    assert publisher.publish(file, ONE, told.append) == first
    assert sent(wire) == []
    assert told == [SIZE]


def test_what_makes_no_sense_is_refused_before_it_is_sent(publisher, wire, file, tmp_path):
    publisher.publish(file, ONE)
    wire.asked.clear()
    other = tmp_path / "other"
    other.write_bytes(b"other")
    with pytest.raises(PublicationError, match="what was published never changes"):
        publisher.publish(other, ONE)
    with pytest.raises(PublicationError, match=r"0\.9\.0 is lower than 1\.0\.0"):
        publisher.publish(other, Publication(version=parse_version("0.9.0")))
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 4 * MIB + 1)
    with pytest.raises(PublicationError, match="too many"):
        publisher.publish(large, Publication(version=parse_version("2.0.0")))
    assert sent(wire) == []


def test_an_upload_goes_on_where_it_was_cut(publisher, wire, file, folder, pauses):
    wire.faults = [None, None, 300_000]
    publisher.publish(file, ONE)
    assert (folder / "app-1.0.0").read_bytes() == DATA
    first, cut, *rest = sent(wire)
    assert (first, cut) == (MIB, MIB)
    assert sum(rest) == SIZE - MIB - 300_000
    assert rest[0] == MIB // 2  # a smaller piece, since a larger one did not get through
    assert pauses == [0.5]


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(publisher, wire, file):
    wire.faults = [None, None, *["refused"] * 20]
    with pytest.raises(HttpRequestFailedError, match="refused"):
        publisher.publish(file, ONE)
    wire.faults = []
    wire.asked.clear()
    told = []
    publisher.publish(file, ONE, told.append)
    assert sum(sent(wire)) == SIZE - MIB
    assert told[0] == MIB


def test_an_answer_that_was_lost_changes_nothing(publisher, wire, file, catalogue):
    wire.faults = [None, None, "unanswered", None, None, None, None, "unanswered"]
    release = publisher.publish(file, ONE)
    assert sum(sent(wire)) == SIZE
    assert catalogue.snapshot().find(V1) == release


def test_it_is_tried_so_often_and_longer_each_time(publisher, wire, file, pauses):
    wire.faults = ["refused"] * 20
    with pytest.raises(HttpRequestFailedError, match=r"publications: the request failed: refused"):
        publisher.publish(file, ONE)
    assert pauses == [0.5 * 2**number for number in range(RETRIES)]
    assert len(wire.asked) == RETRIES + 1


def test_whatever_comes_further_may_fail_as_often_again(publisher, wire, file, pauses):
    wire.faults = [None, *[100_000, None] * 20]
    publisher.publish(file, ONE)
    assert len(pauses) == 20
    assert set(pauses) == {0.5}


def test_a_server_that_is_busy_is_left_alone_for_as_long_as_it_asks(publisher, wire, file, pauses):
    wire.faults = [(*answer(429, retry=True)[:1], [*JSON, ("Retry-After", "30")], '{"error":"no","retry":true}')]
    publisher.publish(file, ONE)
    assert pauses == [30]
    wire.faults = [(503, [("Retry-After", "1000")], "<html>")]
    with pytest.raises(ServerBusyError, match="asks to wait 1000 s"):
        publisher.publish(file, ONE)


def test_a_disk_that_is_full_there_is_told_at_once(publisher, wire, file, pauses):
    wire.faults = [None, answer(507, "the server cannot store it now: No space left", retry=True)]
    with pytest.raises(PublishingFailedError, match="No space left") as caught:
        publisher.publish(file, ONE)
    assert caught.value.status == 507
    assert pauses == []


def test_what_arrived_damaged_is_sent_once_more(publisher, wire, file, folder):
    part = folder / ".incoming" / f"{SHA}.part"
    part.parent.mkdir()
    part.write_bytes(b"?" * 1000)
    publisher.publish(file, ONE)
    assert sum(sent(wire)) == SIZE - 1000 + SIZE
    assert (folder / "app-1.0.0").read_bytes() == DATA


def test_what_arrives_damaged_again_and_again_is_given_up(publisher, wire, file):
    wire.faults = [answer(422, "what arrived has another SHA-256", retry=True)] * 2
    with pytest.raises(PublishingFailedError, match="another SHA-256"):
        publisher.publish(file, ONE)
    assert len(wire.asked) == 2


def test_two_who_send_the_same_file_both_come_to_an_end(publisher, wire, file, folder):
    other = iter([partial(publisher.publish, file, ONE), lambda: None])
    publisher._pause = lambda _: next(other)()  # while the first waits, the second sends all of it
    wire.faults = [None, None, answer(409, retry=True, offset=MIB)]
    assert publisher.publish(file, ONE).version == V1
    assert (folder / "app-1.0.0").read_bytes() == DATA


def test_what_another_one_sent_to_its_end_is_only_to_be_published(publisher, wire, file, folder):
    def finish(done):
        if done == MIB + MIB // 2:
            (folder / ".incoming" / f"{SHA}.part").write_bytes(DATA)

    assert publisher.publish(file, ONE, finish).version == V1
    assert sent(wire) == [MIB, MIB]


def test_a_server_that_never_has_enough_is_given_up(publisher, wire, file):
    wire.faults = [answer(409, retry=True, offset=7)] * 50
    with pytest.raises(UploadOffsetError, match="7 bytes of it are there"):
        publisher.publish(file, ONE)
    wire.faults = [answer(409, retry=True, offset=SIZE)]
    with pytest.raises(UploadOffsetError):
        publisher.publish(file, ONE)


@pytest.mark.parametrize("offset", ['"5"', "true", "0", "-1", str(SIZE + 1), "null"])
def test_an_offset_that_makes_no_sense_is_refused(publisher, wire, file, offset):
    wire.faults = [None, (200, JSON, f'{{"offset":{offset}}}')]
    with pytest.raises(InvalidPayloadError, match="offset"):
        publisher.publish(file, ONE)


# The size of the pieces -----------------------------------------------------------------------------------------------


def test_pieces_grow_where_they_get_through_quickly(publisher, wire, file, clock):
    clock.step = 0.5
    publisher.publish(file, ONE)
    assert sent(wire) == [MIB, 2 * MIB, 1000]


def test_pieces_shrink_where_they_take_long(publisher, wire, file, clock):
    clock.step = 11
    publisher.publish(file, ONE)
    assert sent(wire)[:5] == [MIB, MIB // 2, MIB // 4, MIB // 8, MIB // 8]
    assert sum(sent(wire)) == SIZE


def test_pieces_are_no_larger_than_a_proxy_takes(publisher, wire, file, clock, pauses):
    clock.step = 0.5
    wire.faults = [None, (413, [], "<html>too large</html>")]
    publisher.publish(file, ONE)
    assert sent(wire)[:3] == [MIB, MIB // 2, MIB // 2]
    assert max(sent(wire)[1:]) == MIB // 2
    assert pauses == []


def test_a_proxy_that_takes_next_to_nothing_is_an_error(publisher, wire, file):
    wire.faults = [None, *[(413, [], "<html>too large</html>")] * 10]
    with pytest.raises(HttpError, match="413"):
        publisher.publish(file, ONE)
    assert sent(wire)[-1] == sending.LEAST_PIECE


# The file -------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_an_error_before_anything_is_asked(publisher, wire, tmp_path):
    with pytest.raises(UnreadableFileError):
        publisher.publish(tmp_path / "nothing", ONE)
    assert wire.asked == []


def test_a_file_that_changes_while_it_is_sent_is_not_published(publisher, wire, file, catalogue):
    def change(done):
        if done == 2 * MIB:
            os.utime(file, (1, 1))

    with pytest.raises(FileChangedError, match="publish it when it is finished"):
        publisher.publish(file, ONE, change)
    assert catalogue.snapshot().releases == {}


def test_a_file_that_becomes_shorter_is_not_published(publisher, wire, file, catalogue):
    with pytest.raises(FileChangedError, match="shorter"):
        publisher.publish(file, ONE, lambda done: os.truncate(file, 100))
    assert catalogue.snapshot().releases == {}


def test_a_file_that_changes_while_it_is_hashed_is_an_error(monkeypatch, file):
    monkeypatch.setattr("patchify.publishing.upload.hash_file", lambda _: os.truncate(file, 1))
    with pytest.raises(FileChangedError):
        Upload(file)


def test_a_file_that_cannot_be_read_is_an_error(monkeypatch, file):
    def fail(*_):
        raise OSError(5, "Input/output error")

    with Upload(file) as upload:
        monkeypatch.setattr(upload, "_file", type("Failing", (), {"seek": fail, "close": upload._file.close})())
        with pytest.raises(UnreadableFileError, match="Input/output"):
            upload.read(0, 1)
    monkeypatch.setattr("patchify.publishing.upload.hash_file", fail)
    with pytest.raises(UnreadableFileError, match="Input/output"):
        Upload(file)


# Steering -------------------------------------------------------------------------------------------------------------


def test_releases_are_steered_as_on_the_server_itself(publisher, file, catalogue):
    publisher.publish(file, Publication(version=V1, channel="beta"))
    assert publisher.releases() == list(catalogue.snapshot().releases.values())

    def states(releases):
        assert releases == [catalogue.snapshot().find(V1)] or not releases
        return {place.channel: place.state for each in releases for place in each.placements}

    live, paused = ReleaseState.LIVE, ReleaseState.PAUSED
    promoted = publisher.promote(V1, "beta", "stable", schedule=Schedule.parse("10,100@1d"), force=True)
    assert states(promoted) == {"beta": live, "stable": live}
    assert str(promoted[0].placed("stable").schedule) == "10%,100%@1d"
    [wider] = publisher.rollout(V1, "stable", Schedule.parse("50"), pause_above=5)
    assert (str(wider.placed("stable").schedule), wider.placed("stable").pause_above) == ("50%", 5)
    [stopped] = publisher.pause(V1, "stable", "any", why="slow")
    assert (stopped.placed("stable").state, stopped.placed("stable").why) == (paused, "slow")
    assert states(publisher.resume(V1)) == {"beta": live, "stable": live}
    assert publisher.resume(V1) == []
    [gone] = publisher.withdraw(V1, channel="beta")
    assert gone.placed("beta").state is ReleaseState.WITHDRAWN
    with pytest.raises(PublicationError, match="withdrawn"):
        publisher.pause(V1, "beta")


def test_what_is_refused_in_part_is_told_over_the_network_as_well(publisher, file, catalogue):
    publisher.publish(file, Publication(version=V1, draft=True))
    publisher.publish(file, Publication(version=V1, channel="beta"))
    with pytest.raises(
        PublicationError, match=r"^changed 1\.0\.0 in beta; but .* still a draft in stable; only what is"
    ):
        publisher.pause(V1)
    assert catalogue.snapshot().releases[("1.0.0", "any")].placed("beta").state is ReleaseState.PAUSED
    [live] = publisher.resume(V1, "stable", force=True)
    assert live.placed("stable").state is ReleaseState.LIVE
    publisher.resume(V1, "beta")
    [promoted] = publisher.promote(V1, "beta", "nightly")
    assert str(promoted.placed("nightly").schedule) == "100%"


def test_steering_is_tried_again_as_well(publisher, wire, file, pauses):
    publisher.publish(file, ONE)
    wire.faults = ["refused", answer(503, retry=True)]
    assert len(publisher.pause(V1)) == 1
    assert pauses == [0.5, 1.0]


def test_what_an_answer_that_was_lost_has_changed_is_returned_as_it_stands(publisher, wire, file, tmp_path):
    publisher.publish(file, ONE)
    publisher.publish(file, Publication(version=V1, channel="beta"))
    publisher.publish(file, Publication(version=V1, platform="linux-x86_64"))
    (tmp_path / "other").write_bytes(b"another program")
    publisher.publish(tmp_path / "other", Publication(version=parse_version("2.0.0")))
    wire.faults = ["unanswered"]
    found = publisher.pause(V1)
    assert [str(each.version) for each in found] == ["1.0.0", "1.0.0"]
    assert {place.state for each in found for place in each.placements} == {ReleaseState.PAUSED}
    wire.faults = ["unanswered"]
    assert [each.platform for each in publisher.resume(V1, channel="beta")] == ["any"]
    wire.faults = ["unanswered"]
    assert [each.platform for each in publisher.withdraw(V1, platform="linux-x86_64")] == ["linux-x86_64"]
    wire.faults = ["unanswered"]
    assert [each.name for each in publisher.promote(V1, "beta", "nightly")] == [("1.0.0", "any")]
    assert publisher.promote(V1, "beta", "nightly") == []  # this one was answered: nothing was changed


# What a server answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (answer(401, "wrong"), PublishingRefusedError, "publications: wrong"),
        (answer(403, "insecure"), PublishingRefusedError, "publications: insecure"),
        (answer(409, "nonsense\x1b[31m"), PublicationError, r"^nonsense\?\[31m$"),
        ((404, [], ""), PublishingRefusedError, r"is publishing .* switched on .*PATCHIFY_PUBLISH_TOKEN"),
        ((404, JSON, "[]"), PublishingRefusedError, "switched on"),
        ((400, [], ""), HttpError, "400"),
        ((401, JSON, '{"error":5}'), HttpError, "401"),
        ((302, [("Location", "https://elsewhere.test/")], ""), RedirectError, "elsewhere.*the token goes nowhere else"),
        ((200, [], "{}"), InvalidBodyError, "is the address of the API right"),
        ((200, JSON, "{"), InvalidBodyError, "is the address"),
        ((200, JSON, "[" * 100_000), InvalidBodyError, "is the address"),
        ((200, JSON, "[]"), InvalidBodyError, "is the address"),
        ((200, JSON, "{}"), InvalidPayloadError, "does not answer what was asked for"),
        ((200, JSON, '{"releases":[{}]}'), InvalidPayloadError, "does not answer"),
        ((200, JSON, '{"releases":[5]}'), InvalidPayloadError, "does not answer"),
    ],
)
def test_an_answer_that_asking_again_will_not_change_is_an_error_at_once(publisher, wire, fault, error, text, pauses):
    wire.faults = [fault]
    with pytest.raises(error, match=text):
        publisher.releases()
    assert pauses == []


def test_an_endless_answer_is_not_read_to_its_end(publisher, wire, monkeypatch):
    monkeypatch.setattr(connection, "MOST_ANSWER", 100)
    wire.faults = [(200, JSON, "x" * 101)]
    with pytest.raises(TooMuchDataError):
        publisher.releases()


def test_a_wrong_token_is_refused_and_not_shown(wire):
    publisher = RemotePublisher(API, "wrong-" * 8)
    with pytest.raises(PublishingRefusedError, match="is not the one that the server has") as caught:
        publisher.releases()
    assert caught.value.status == 401
    assert "wrong-" not in str(caught.value)
    assert "wrong-" not in repr(vars(publisher))


# Addresses and tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://updates.example.com/api", "plain http"),
        ("http://192.0.2.1/api", "plain http"),
        ("http://localhost.example.com/", "plain http"),
        ("ftp://127.0.0.1/", "not the address of an API"),
        ("updates.example.com/api", "not the address of an API"),
        ("https:///api", "not the address of an API"),
        ("https://updates.example.com/api?x", "not the address of an API"),
        ("https://updates.example.com/api#x", "not the address of an API"),
        ("https://updates.example.com:port/api", "not an address"),
        ("https://user:secret@updates.example.com/", "no user and no password"),
    ],
)
def test_an_address_that_the_token_must_not_go_to_is_refused(url, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        RemotePublisher(url, TOKEN)
    assert caught.value.key == "url"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:5000/api", "http://[::1]/api/", "http://localhost/api", API])
def test_this_machine_may_be_asked_without_tls(url):
    assert RemotePublisher(url, TOKEN).url == url.rstrip("/") + "/"


@pytest.mark.parametrize("token", ["", "secret\n", "with secret", "sécret"])
def test_a_token_that_is_none_is_refused_and_not_shown(token):
    with pytest.raises(ConfigError, match="not shown here") as caught:
        RemotePublisher(API, token)
    assert "secret" not in str(caught.value)


def test_no_netrc_takes_the_place_of_the_token(publisher, wire, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine updates.test login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    publisher.releases()
    assert wire.headers[-1]["Authorization"] == f"Bearer {TOKEN}"


def test_nothing_for_this_machine_goes_to_a_proxy():
    with connection.Connection("http://127.0.0.1/", connection.Token(TOKEN)) as local:
        assert not local._session.trust_env
    with connection.Connection(API, connection.Token(TOKEN)) as remote:
        assert remote._session.trust_env

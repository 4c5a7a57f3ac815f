import hashlib
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from patchify.errors import PlaceNotFoundError
from patchify.forms import Compressed, Forms, Patch, Segments, Tree
from patchify.keys import SigningKey, decode_signature
from patchify.messages import Rollout, UpdateDocument
from patchify.releases import MOST_NOTES, Placement, Release, ReleaseState, Schedule
from patchify.server import Config, documents
from patchify.server.catalogue import Snapshot
from patchify.server.documents import MOST_BYTES, Issuer
from patchify.versions import parse_version
from tests.conftest import KEY
from tests.running import PATIENCE

MOMENT = datetime(2026, 11, 23, 18, tzinfo=UTC)
HOUR = timedelta(hours=1)
REVISION = int(MOMENT.timestamp() * 1000) + 123


def release(version, channel="stable", state="live", rollout="100", *, since=MOMENT, changed=MOMENT, **members):
    placement = Placement(
        channel, ReleaseState(state), since=since, changed=changed, schedule=Schedule.parse(rollout), seed="5eed"
    )
    if floor := members.get("floor"):
        members["floor"] = parse_version(floor)
    facts = {"size": 5, "sha256": hashlib.sha256(version.encode()).hexdigest(), "published": MOMENT, **members}
    return Release(parse_version(version), placements=(placement,), **facts)


class Server:
    """Issues documents at a time that a test sets."""

    def __init__(self, *releases, revision=REVISION, now=MOMENT + HOUR, **settings):
        self.now = now
        config = Config(**{"appname": "app", "key": KEY, "releases": "/srv", "versions": {}, **settings})
        self.issuer = Issuer(config, Snapshot(releases, revision), lambda: self.now)

    def ask(self, channel="stable", platform="any") -> UpdateDocument:
        return UpdateDocument.parse(self.issuer.update(channel, platform).body)

    def offered(self, channel="stable", platform="any") -> list[str]:
        return [str(each.version) for each in self.ask(channel, platform).releases]


def test_a_document_says_all_that_a_client_needs(key):
    server = Server(
        release("1.0.0"),
        release("2.0.0+b1", platform="linux-x86_64", notes="*new*", floor="1.0.0", format="tar.gz", rollout="10,50@1d"),
        release("1.5.0", state="withdrawn"),
    )
    signed = server.issuer.update("stable", "linux-x86_64")
    assert key.verifying_key.verify(signed.body, decode_signature(signed.signature))
    assert json.loads(signed.body) == {
        "kind": "patchify/update/1",
        "appname": "app",
        "channel": "stable",
        "platform": "linux-x86_64",
        "serial": REVISION,
        "issued": "2026-11-23T18:00:00Z",
        "expires": "2026-11-30T18:00:00Z",
        "releases": [
            {
                "version": "2.0.0+b1",
                "size": 5,
                "sha256": hashlib.sha256(b"2.0.0+b1").hexdigest(),
                "format": "tar.gz",
                "published": "2026-11-23T18:00:00Z",
                "notes": "*new*",
                "floor": "1.0.0",
                "rollout": {"percent": 10, "seed": "5eed"},
            },
            {
                "version": "1.0.0",
                "size": 5,
                "sha256": hashlib.sha256(b"1.0.0").hexdigest(),
                "format": "file",
                "published": "2026-11-23T18:00:00Z",
            },
        ],
        "withdrawn": [{"version": "1.5.0", "sha256": hashlib.sha256(b"1.5.0").hexdigest()}],
    }
    assert UpdateDocument.parse(signed.body).to_bytes() == signed.body


# When ----------------------------------------------------------------------------------------------------------------


def test_a_document_is_signed_once_and_anew_at_each_quarter_of_its_life():
    server = Server(release("1.0.0"), document_life=4)
    first = server.issuer.update("stable", "any")
    server.now += timedelta(minutes=59, seconds=59)
    assert server.issuer.update("stable", "any") is first
    server.now += timedelta(seconds=1)
    second = server.issuer.update("stable", "any")
    assert second is server.issuer.update("stable", "any")
    assert [UpdateDocument.parse(each.body).issued for each in (first, second)] == [MOMENT + HOUR, MOMENT + 2 * HOUR]
    assert UpdateDocument.parse(second.body).expires == MOMENT + 6 * HOUR


@pytest.mark.parametrize("life", [1, 7, 168])
@pytest.mark.parametrize("revision", [REVISION, None])
def test_no_document_is_served_that_is_older_than_a_quarter_of_its_life(life, revision):
    server = Server(release("1.0.0"), document_life=life, revision=revision)
    for minutes in range(0, 60 * 24 * 5, 37):
        server.now = MOMENT + timedelta(minutes=minutes)
        document = server.ask()
        assert document.issued <= server.now < document.issued + timedelta(hours=life) / 4
        assert document.expires - document.issued == timedelta(hours=life)
        assert document.serial <= REVISION + minutes * 60_000


def test_all_workers_sign_the_same_bytes_whenever_they_are_asked():
    releases = [release("1.0.0"), release("2.0.0", rollout="10,50@1d,100@3d")]
    worn = Server(*releases)
    for minutes in range(0, 60 * 24 * 5, 59):
        fresh = Server(*reversed(releases))
        worn.now = fresh.now = MOMENT + timedelta(minutes=minutes)
        assert worn.issuer.update("stable", "any") == fresh.issuer.update("stable", "any")
        fresh.now = worn.ask().issued
        assert worn.issuer.update("stable", "any") == fresh.issuer.update("stable", "any")


def test_a_step_of_a_schedule_is_told_in_the_moment_in_which_it_comes():
    server = Server(release("2.0.0", rollout="10,50@30m,100@90m"), now=MOMENT)
    told = []
    for minutes in (0, 29, 30, 89, 90, 719):
        server.now = MOMENT + timedelta(minutes=minutes)
        document = server.ask()
        told.append(((document.issued - MOMENT) // timedelta(minutes=1), document.releases[0].rollout))
    ten, fifty = Rollout(10, "5eed"), Rollout(50, "5eed")
    assert told == [(0, ten), (0, ten), (30, fifty), (30, fifty), (90, None), (90, None)]


def test_what_a_pause_holds_back_is_not_offered_and_its_steps_pass_untold():
    server = Server(release("2.0.0", state="paused", rollout="10,50@30m"), release("1.0.0"))
    assert server.ask().issued == MOMENT
    assert server.offered() == ["1.0.0"]


def test_a_document_is_issued_when_the_catalogue_changed_if_that_was_after_the_point_of_the_grid():
    revision = int((MOMENT + HOUR).timestamp() * 1000) + 999
    document = Server(release("1.0.0"), revision=revision, now=MOMENT + 2 * HOUR).ask()
    assert (document.issued, document.serial) == (MOMENT + HOUR, revision)


def test_a_change_that_is_still_to_come_by_the_clock_gives_no_document_from_the_future():
    revision = int((MOMENT + HOUR).timestamp() * 1000)
    server = Server(release("1.0.0"), revision=revision, now=MOMENT)
    assert server.ask().issued <= MOMENT
    server.now = MOMENT + HOUR
    assert server.ask().issued == MOMENT + HOUR


def test_a_clock_that_is_put_back_gives_a_document_of_then():
    server = Server(release("1.0.0"), document_life=4, now=MOMENT + 5 * HOUR)
    server.ask()
    server.now = MOMENT + 2 * HOUR
    assert server.ask().issued == MOMENT + 2 * HOUR


@pytest.mark.parametrize("minutes", [0, 59, 60, 179, 180, 181])
def test_without_a_revision_the_serial_is_the_hour_whatever_the_life(minutes):
    now = MOMENT + timedelta(minutes=minutes)
    servers = [Server(release("1.0.0"), revision=None, document_life=life, now=now) for life in (1, 5, 168, 8784)]
    documents = [each.ask() for each in servers]
    hour = MOMENT + timedelta(hours=minutes // 60)
    assert {each.serial for each in documents} == {int(hour.timestamp()) * 1000}
    assert len({each.issued for each in documents[1:]}) == 3
    for server, document in zip(servers, documents, strict=True):
        assert server.ask() == document
        server.now = MOMENT + timedelta(hours=9)
        assert server.ask().serial == int(server.now.timestamp()) * 1000
        server.now = now
        assert server.ask() == document


def test_of_those_who_ask_at_once_one_signs(monkeypatch):
    server, signed, meeting = Server(release("1.0.0")), [], threading.Barrier(4)
    sign = SigningKey.sign
    monkeypatch.setattr(SigningKey, "sign", lambda key, body: signed.append(body) or sign(key, body))

    def ask():
        meeting.wait(PATIENCE)
        server.issuer.update("stable", "any")
        server.issuer.latest()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(signed) == len(set(signed)) == 2


# Where ---------------------------------------------------------------------------------------------------------------


def test_a_channel_or_platform_that_nothing_is_in_is_not_there():
    server = Server(release("1.0.0", platform="plan9-mips"))
    with pytest.raises(PlaceNotFoundError, match=r"^Channel nightly not found$"):
        server.ask("nightly")
    assert server.offered("stable", "plan9-mips") == ["1.0.0"]
    assert server.offered("stable", "windows-arm64") == []


def test_every_platform_gets_what_runs_everywhere():
    server = Server(
        release("1.0.0"), release("2.0.0", platform="macos-universal"), release("3.0.0", platform="linux-x86_64")
    )
    for platform in ("linux-riscv64", "freebsd-x86_64", "cpm-z80"):
        document = server.ask("stable", platform)
        assert document.platform == platform
        assert [str(each.version) for each in document.releases] == ["1.0.0"]
    assert server.offered("stable", "macos-ppc") == ["2.0.0", "1.0.0"]


def test_names_that_anybody_makes_up_cost_little(monkeypatch):
    monkeypatch.setattr(documents, "_MOST_RARE", 3)
    composed, choose = [], documents.choose
    monkeypatch.setattr(documents, "choose", lambda offers: composed.append(offers) or choose(offers))
    server = Server(release("1.0.0"), release("1.0.0", platform="linux-x86_64"))
    known = server.issuer.update("stable", "linux-x86_64"), server.issuer.update("stable", "any")
    made_up = [server.issuer.update("stable", f"made-up{number}") for number in range(10)]
    assert len(composed) == 2
    assert [len(each) for each in (server.issuer._rare, server.issuer._updates, server.issuer._places)] == [3, 2, 2]
    assert server.issuer.update("stable", "made-up9") is made_up[9]
    assert server.issuer.update("stable", "made-up0") == made_up[0]
    assert known == (server.issuer.update("stable", "linux-x86_64"), server.issuer.update("stable", "any"))


def test_the_configured_channel_is_there_before_anything_is_published():
    assert Server(channel="beta").offered("beta") == []
    with pytest.raises(PlaceNotFoundError):
        Server(channel="beta").ask("stable")


def test_the_path_leads_to_just_these_bytes():
    (offer,) = Server(release("1.0.0", platform="linux-x86_64")).ask(platform="linux-x86_64").releases
    assert offer.path == f"files/{offer.sha256}"


# What ----------------------------------------------------------------------------------------------------------------


def test_drafts_what_nobody_may_have_and_empty_files_are_not_offered():
    server = Server(
        release("1.0.0"),
        release("2.0.0", state="draft"),
        release("3.0.0", rollout="0"),
        release("4.0.0", size=0),
        release("5.0.0", "beta"),
    )
    assert server.offered() == ["1.0.0"]


def test_what_is_withdrawn_is_told_latest_first_for_every_build_that_runs_there():
    server = Server(
        release("1.0.0", state="withdrawn", changed=MOMENT + HOUR, platform="linux-x86_64"),
        release("2.0.0", state="withdrawn", changed=MOMENT + 2 * HOUR),
        release("3.0.0", state="withdrawn", platform="windows-arm64"),
        release("1.0.0", state="withdrawn", sha256="ab" * 32),
        release("4.0.0", "beta", state="withdrawn"),
    )
    told = [f"{each.version} {each.sha256[:2]}" for each in server.ask("stable", "linux-x86_64").withdrawn]
    assert told == [
        "2.0.0 " + hashlib.sha256(b"2.0.0").hexdigest()[:2],
        "1.0.0 " + hashlib.sha256(b"1.0.0").hexdigest()[:2],
        "1.0.0 ab",
    ]


def test_what_is_offered_is_not_told_to_be_withdrawn_though_its_bytes_were_under_another_name():
    server = Server(
        release("1.0.0", state="withdrawn"),
        release("2.0.0-rc.1", state="withdrawn", sha256="ab" * 32),
        release("2.0.0", sha256="ab" * 32),
    )
    assert [str(each.version) for each in server.ask().withdrawn] == ["1.0.0"]
    assert server.offered() == ["2.0.0"]


def test_a_critical_release_is_offered_whatever_its_percentage():
    server = Server(release("2.0.0"), release("2.0.1", rollout="0", critical=True))
    assert server.offered() == ["2.0.1"]
    assert str(Server(release("2.0.0", rollout="0", critical=True, state="paused")).issuer.latest()[0]) == "0.0.0"


def test_a_hundred_withdrawn_releases_are_told_at_most_the_latest_ones():
    releases = [release(f"1.0.{n}", state="withdrawn", changed=MOMENT + n * HOUR) for n in range(120)]
    told = [str(each.version) for each in Server(*releases).ask().withdrawn]
    assert told == [f"1.0.{n}" for n in range(119, 19, -1)]


def test_notes_are_told_newest_first_until_they_are_too_long():
    notes = "n" * (MOST_NOTES - 2)
    server = Server(*(release(f"1.{n}.0", notes=notes) for n in range(3)), release("1.9.0", notes="short"))
    told = {str(each.version): each.notes for each in server.ask().releases}
    assert told == {"1.9.0": "short", "1.2.0": notes, "1.1.0": "", "1.0.0": ""}
    assert [
        each.notes for each in Server(release("1.0.0", notes=notes), release("1.1.0", notes=notes)).ask().releases
    ] == [notes] * 2


def test_the_worst_document_is_shorter_than_what_clients_read():
    long = "x" * 240
    forms = Forms(Segments("5" * 64), Compressed("c" * 64, 5, Segments("5" * 64)), Tree("7" * 64, 5))
    patches = tuple(Patch(f"{n:064x}", "a" * 64, 5) for n in range(20))
    releases = [
        release(
            f"1.{n}.0+{long}",
            notes="\n" * MOST_NOTES,
            platform="linux-x86_64",
            floor=f"1.0.0-{long}",
            forms=replace(forms, patches=patches),
        )
        for n in range(60)
    ]
    gone = [release(f"2.{n}.0+{long}", state="withdrawn") for n in range(200)]
    body = Server(*releases, *gone).issuer.update("stable", "linux-x86_64").body
    assert MOST_BYTES - 2000 > len(body) > MOST_BYTES / 2
    document = UpdateDocument.parse(body)
    assert len(document.releases) == 24
    assert all(replace(each.forms, patches=()) == forms for each in document.releases)
    assert [len(each.forms.patches) for each in document.releases[:3]] == [16, 16, 16]
    assert document.releases[-1].forms.patches == ()
    assert 30 < len(document.withdrawn) < 40


def test_the_latest_version_is_the_newest_that_every_cohort_may_have():
    server = Server(
        release("1.0.0"),
        release("2.0.0", rollout="10,100@1d"),
        release("3.0.0", state="paused"),
        release("4.0.0", rollout="0"),
        release("5.0.0", "beta"),
        release("6.0.0", platform="linux-x86_64"),
    )
    assert str(server.issuer.latest()[0]) == "1.0.0"
    assert server.issuer.latest()[1].body == b'{"version":"1.0.0"}'
    assert server.issuer.latest()[1] is server.issuer.latest()[1]
    server.now = MOMENT + 24 * HOUR
    assert str(server.issuer.latest()[0]) == "2.0.0"
    assert str(Server(release("1.0.0"), release("1.1.0", rollout="0", critical=True)).issuer.latest()[0]) == "1.1.0"
    assert str(Server(release("6.0.0", platform="linux-x86_64"), platform="linux-x86_64").issuer.latest()[0]) == "6.0.0"


def test_ten_thousand_releases_are_surveyed_once(monkeypatch):
    server = Server(*(release(f"1.{n // 100}.{n % 100}") for n in range(10_000)))
    surveys, placed = [], Snapshot.placed
    monkeypatch.setattr(Snapshot, "placed", lambda *given: surveys.append(given) or placed(*given))
    for hours in (1, 2, 100):
        server.now = MOMENT + hours * HOUR
        server.issuer.update("stable", "any")
        server.issuer.latest()
    assert len(surveys) == 1
    assert len(server.ask().releases) == 24

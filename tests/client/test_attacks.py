"""What an attacker between a client and its server, or on another server of the same key, can try: each is refused.

He can send whatever was ever signed, to whomever and whenever he likes, and anything that was not.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import responses

from patchify import errors
from patchify.client import Choices, Config
from patchify.client.source import Source
from patchify.client.state import Release, State
from patchify.client.transport import Transport
from patchify.client.trust import PinnedKey, SignedAnswer
from patchify.keys import SigningKey, encode_signature
from patchify.messages import UPDATE_KIND
from patchify.versions import parse_version
from tests.client.fakes import FakeInstaller, FakeTransport, sha256
from tests.client.offering import NOW, SERIAL, document, offered, withdrawn
from tests.client.test_transport import Part

KEY = SigningKey.from_hex("11" * 32)
URL = "https://updates.example.com/api/updates/stable/linux-x86_64"


class Client:
    """One installation of version 1.0.0, and the server that it asks."""

    def __init__(self, **config):
        self.installer = FakeInstaller()
        self.transport = FakeTransport(KEY, {"1.0.0": b"one", "2.0.0": b"two"})
        self.now = NOW
        wanted = {"version": "1.0.0", "appname": "app", "platform": "linux-x86_64", "key": KEY.verifying_key, **config}
        self.config = Config(**{"api": "https://updates.example.com/api/", **wanted})
        self.restart()

    def restart(self):
        self.source = Source(
            self.config, self.transport, PinnedKey(KEY.verifying_key), self.installer, clock=lambda: self.now
        )

    def look(self, served=None, *, asked=False):
        self.transport.document = served
        return self.source.look(asked=asked)

    def refuses(self, served, error, *said):
        before = self.installer.memorized
        with pytest.raises(error) as caught:
            self.look(served)
        assert all(each in str(caught.value) for each in said), str(caught.value)
        assert self.installer.memorized == before, "what was refused is not learned from"
        return caught.value


@pytest.fixture
def client():
    return Client()


def test_an_honest_document_is_accepted(client):
    offer = client.look(document(offered())).offer
    assert (str(offer), offer.size, offer.notes, offer.critical) == ("2.0.0", 300, "What is **new**", False)
    assert (offer.sha256, offer.path, offer.downgrade) == ("22" * 32, "releases/2.0.0", False)
    assert client.installer.memorized.serial == SERIAL


# Replay ---------------------------------------------------------------------------------------------------------------


def test_replay_of_an_older_document_is_refused(client):
    client.look(document(offered()))
    error = client.refuses(document(serial=SERIAL - 1), errors.ReplayedDocumentError, str(SERIAL - 1), str(SERIAL))
    assert (error.serial, error.seen) == (SERIAL - 1, SERIAL)
    client.look(document(offered()))  # the same one again is none


def test_replay_is_refused_by_a_process_that_was_started_anew(client):
    client.look(document(offered()))
    client.restart()
    client.refuses(document(serial=SERIAL - 1), errors.ReplayedDocumentError)


def test_replay_is_refused_while_the_disk_is_full(client, caplog):
    client.installer.always["remember"] = errors.UnableToWriteStateError("memory.json", "No space left on device")
    client.look(document(offered()))
    assert "No space left" in caplog.text
    client.refuses(document(serial=SERIAL - 1), errors.ReplayedDocumentError)


def test_rollback_to_an_older_version_is_refused(client):
    """A version that calls itself older than what was confirmed here does not make an older one an update."""
    client.installer.remembered = State(good=Release(parse_version("2.0.0"), sha256(b"one")))
    with pytest.raises(errors.DowngradeRefusedError, match=r"offers 1\.5\.0.*2\.0\.0 has proved good") as caught:
        client.look(document(offered("1.5.0")))
    assert (caught.value.offered, caught.value.confirmed) == ("1.5.0", "2.0.0")
    assert str(client.look(document(offered("2.0.1"), serial=SERIAL + 1)).offer) == "2.0.1"


def test_rollback_needs_both_the_documents_word_and_the_configurations():
    running = sha256(b"one")
    client = Client(allow_downgrade=False)  # a version that calls itself 1.0.0 where 2.0.0 was confirmed
    client.installer.remembered = State(good=Release(parse_version("2.0.0"), running))
    with pytest.raises(errors.DowngradeRefusedError):
        client.look(document(offered("1.5.0"), withdrawn=(withdrawn("2.0.0", running),)))
    for allowed, said, found in ((True, True, "1.5.0"), (True, False, None), (False, True, None)):
        client = Client(version="2.0.0", allow_downgrade=allowed)
        client.installer.remembered = State(good=Release(parse_version("2.0.0"), running))
        left = (withdrawn("2.0.0", running),) if said else ()
        look = client.look(document(offered("1.5.0"), withdrawn=left))
        assert (str(look.offer) if look.offer else None, look.withdrawn) == (found, said)
        assert look.offer is None or look.offer.downgrade


# Freeze ---------------------------------------------------------------------------------------------------------------


def test_freeze_ends_when_the_document_expires(client):
    served = document(offered())
    client.look(served)
    client.now = served.expires + timedelta(minutes=10)
    client.look(served)
    client.now += timedelta(seconds=1)
    error = client.refuses(served, errors.ExpiredDocumentError, "2026-11-29 18:00", "2026-11-29 18:10", "clock")
    assert (error.expires, error.now) == (served.expires, client.now)


def test_a_document_from_the_future_is_refused_and_the_clock_named(client):
    served = document(offered(), issued=NOW + timedelta(minutes=10))
    Client().look(served)
    client.now -= timedelta(seconds=1)
    error = client.refuses(served, errors.FutureDocumentError, "set the clock", "2026-11-23 18:10", "2026-11-23 17:59")
    assert (error.issued, error.now) == (served.issued, client.now)


def test_freeze_by_a_clock_that_was_set_back_is_refused_and_the_clock_named(client):
    """What has expired does not come to life again when somebody turns the clock back: the latest issue is remembered."""
    old = document(offered("1.5.0"), issued=NOW - timedelta(days=8), expires=NOW - timedelta(days=1))
    client.look(document(offered()))
    client.now = NOW - timedelta(days=2)
    error = client.refuses(old, errors.ClockSetBackError, "2026-11-23 17:00", "2026-11-21 18:00", "set the clock")
    assert (error.seen, error.now) == (NOW - timedelta(hours=1), client.now)
    client.restart()
    client.refuses(document(offered()), errors.ClockSetBackError)


def test_a_clock_that_was_never_set_is_named(client):
    client.now = datetime(1970, 1, 1, 0, 5, tzinfo=UTC)
    client.refuses(document(offered()), errors.FutureDocumentError, "1970-01-01 00:05", "set the clock")


def test_going_back_to_the_original_protocol_is_refused_once_documents_were_seen(client):
    client.look(document(offered()))
    client.restart()
    client.refuses(None, errors.DocumentsRequiredError, "before", "replayed")


def test_the_original_protocol_is_refused_where_documents_are_required():
    client = Client(update_documents="required")
    client.refuses(None, errors.DocumentsRequiredError, "'required'")


def test_a_server_that_never_had_documents_is_asked_by_the_original_protocol(client):
    look = client.look(None)
    assert (str(look.offer), look.offer.sha256, look.offer.path) == ("2.0.0", None, None)
    assert client.installer.memorized.key == ""


def test_documents_are_not_asked_for_where_they_are_not_wanted():
    client = Client(update_documents="never")
    assert str(client.look(document(offered("9.0.0"))).offer) == "2.0.0"
    assert client.transport.asked == []


def test_only_an_answer_that_nothing_is_there_leads_to_the_original_protocol(client):
    for error in (
        errors.HttpError(URL, 403),
        errors.ServerBusyError(URL, 503, None),
        errors.RedirectError(URL, "", ""),
    ):
        client.transport.once["update"] = error
        with pytest.raises(type(error)):
            client.look(document(offered()))


# Another document -----------------------------------------------------------------------------------------------------


def test_another_applications_document_is_refused(client):
    error = client.refuses(document(offered(), appname="other"), errors.WrongApplicationError, "'other'", "'app'")
    assert (error.found, error.expected) == ("other", "app")


def test_another_applications_document_is_refused_after_the_first_where_no_name_is_configured():
    client = Client(appname=None)
    client.look(document(offered()))
    client.restart()
    client.refuses(document(offered(), appname="other"), errors.WrongApplicationError)


def test_over_a_connection_that_anybody_can_change_no_name_is_learned():
    client = Client(appname=None, api="http://updates.example.com/api/")
    client.look(document(offered(), appname="other"))
    client.restart()
    client.look(document(offered(), serial=SERIAL + 1))


def test_what_was_learned_does_not_stand_against_what_is_configured():
    client = Client(appname=None)
    client.look(document(offered(), appname="other"))
    client.config = replace(client.config, appname="app")
    client.restart()
    client.look(document(offered()))


def test_another_channels_document_is_refused(client):
    client.refuses(document(offered(), channel="beta"), errors.WrongChannelError, "'beta'", "'stable'")


def test_wrong_platform_is_refused(client):
    served = document(offered(), platform="windows-x86_64")
    client.refuses(served, errors.WrongPlatformError, "'windows-x86_64'", "'linux-x86_64'")


def test_a_channel_that_is_not_there_does_not_end_in_another_one():
    client = Client(channel="nightly")
    error = client.refuses(None, errors.ChannelNotFoundError, "'nightly'", "linux-x86_64")
    assert (error.channel, error.platform) == ("nightly", "linux-x86_64")
    assert client.transport.asked == [("nightly", "linux-x86_64")]


def test_the_original_protocol_has_no_other_channel():
    client = Client(update_documents="never")
    client.installer.remember(lambda before: replace(before, choices=Choices(channel="nightly")))
    client.refuses(None, errors.ChannelNotFoundError, "'nightly'")
    assert client.transport.calls == []


def test_mix_and_match_of_the_parts_of_two_documents_is_refused(client):
    """Version, hash and size stand in one signed document: none of them can be taken from another."""
    new = document(offered("2.0.0", "22" * 32)).to_bytes()
    old = document(offered("1.5.0", "15" * 32)).to_bytes()
    signature = encode_signature(KEY.sign(new))
    for mixed in (new.replace(b"22" * 32, b"15" * 32), new[:300] + old[300:], old):
        client.transport.update = lambda *_, body=mixed: SignedAnswer(URL, body, signature)
        client.refuses(None, errors.FailedSignatureVerificationError)


@pytest.mark.parametrize("body", [b'{"version":"9.0.0"}', b'{"version":"9.0.0","hash":"%s"}' % (b"9" * 64)])
def test_an_answer_of_the_original_protocol_is_no_document(client, body):
    client.transport.update = lambda *_: SignedAnswer(URL, body, encode_signature(KEY.sign(body)))
    client.refuses(None, errors.InvalidPayloadError, UPDATE_KIND)


def test_a_document_is_no_answer_of_the_original_protocol():
    body = document(offered()).to_bytes()
    answer = SignedAnswer(URL, body, encode_signature(KEY.sign(body)))
    for question in (PinnedKey(KEY.verifying_key).latest, lambda it: PinnedKey(KEY.verifying_key).sha256(it, None)):
        with pytest.raises(errors.InvalidPayloadError):
            question(answer)


# Tampering ------------------------------------------------------------------------------------------------------------


def test_tampering_at_every_byte_of_a_document_is_refused(client):
    body = document(offered()).to_bytes()
    signature = encode_signature(KEY.sign(body))
    for place in range(len(body)):
        for changed in (body[place] ^ 1, body[place] ^ 0x80):
            tampered = body[:place] + bytes([changed]) + body[place + 1 :]
            client.transport.update = lambda *_, body=tampered: SignedAnswer(URL, body, signature)
            with pytest.raises(errors.FailedSignatureVerificationError):
                client.look()
    for tampered in (body[:-1], body + b" ", b" " + body, b""):
        client.transport.update = lambda *_, body=tampered: SignedAnswer(URL, body, signature)
        with pytest.raises(errors.FailedSignatureVerificationError):
            client.look()
    assert client.installer.memorized.key == ""


def test_another_keys_document_is_refused(client):
    client.transport.key = SigningKey.from_hex("22" * 32)
    client.refuses(document(offered()), errors.FailedSignatureVerificationError)


# Fast-forward ---------------------------------------------------------------------------------------------------------


def test_fast_forward_of_the_serial_is_refused(client):
    """One document with an enormous serial, accepted once, would make every honest one a replay for ever."""
    limit = int((NOW + timedelta(minutes=10)).timestamp() * 1000)
    client.look(document(offered(), serial=limit))
    fresh = Client()
    error = fresh.refuses(document(offered(), serial=limit + 1), errors.RunawaySerialError, str(limit), "clock")
    assert (error.serial, error.limit) == (limit + 1, limit)
    fresh.refuses(document(offered(), serial=2**53 - 1), errors.RunawaySerialError)
    fresh.look(document(offered()))  # honest ones still are accepted


def test_another_key_has_serials_and_a_name_of_its_own_but_never_the_original_protocol(client):
    client.look(document(offered()))
    other = SigningKey.from_hex("22" * 32)
    client.config = replace(client.config, key=other.verifying_key, appname=None)
    client.transport.key = other
    client.source = Source(
        client.config, client.transport, PinnedKey(other.verifying_key), client.installer, clock=lambda: client.now
    )
    client.refuses(None, errors.DocumentsRequiredError)
    client.look(document(offered(), serial=1, appname="renamed"))
    assert client.installer.memorized.serial == 1


# Endless data, and another file ---------------------------------------------------------------------------------------------------------


def test_endless_data_is_refused_at_the_signed_size(client):
    """A file that says it is longer is refused before it is read, one that does not say so where the signed size ends."""
    offer = client.look(document(offered())).offer
    url = client.config.api + offer.path
    for length, error in ((10**12, "a file of 1000000000000 bytes, but 300 are signed"), (None, "no Content-Length")):
        with responses.RequestsMock() as mock:
            headers = {} if length is None else {"Content-Length": str(length)}
            mock.get(url, b"x" * 4096, headers=headers, content_type="application/octet-stream")
            transport = Transport(client.config, lambda seconds: False)
            part = Part()
            with pytest.raises(errors.InvalidBodyError, match=error):
                transport.release("2.0.0", offer.sha256, part, lambda *_: None, path=offer.path, size=offer.size)
            transport.close()
            assert part.size == 0


@pytest.mark.parametrize("form", ["tar.gz", "tar", "who-knows"])
def test_a_release_that_cannot_take_the_place_of_the_program_is_refused_before_its_download(client, form):
    client.transport.document = document(offered(format=form))
    with pytest.raises(errors.UnsuitableFormatError, match=f"'{form}'"):
        client.source.look(asked=False)


@pytest.mark.parametrize(
    ("offered_build", "withdrawn_build", "kept", "leave"),
    [
        (None, b"one", b"", True),
        (b"one", b"another build", b"", False),
        (b"a third build", b"another build", b"", False),
        (None, b"another build", b"", True),  # the program is known by no hash, such as a plain folder
        (None, b"another build", b"one", False),  # it is, and that is not the one
    ],
)
def test_only_the_build_that_runs_tells_whether_it_was_withdrawn(offered_build, withdrawn_build, kept, leave):
    client = Client(version="2.0.0")
    if kept:
        client.installer.remembered = State(good=Release(parse_version("2.0.0"), sha256(kept)))
    releases = [] if offered_build is None else [offered("2.0.0", sha256(offered_build))]
    look = client.look(document(*releases, withdrawn=(withdrawn("2.0.0", sha256(withdrawn_build)),)))
    assert look.withdrawn == leave


def test_a_staged_release_that_is_withdrawn_is_dropped(client):
    two = Release(parse_version("2.0.0"), "22" * 32)
    client.installer.remembered = State().staged(two, Release(parse_version("1.0.0"), sha256(b"one")))
    client.look(document(withdrawn=(withdrawn("1.9.0", "19" * 32),)))
    assert client.installer.remembered.update.release == two
    look = client.look(document(withdrawn=(withdrawn("2.0.0", "22" * 32),)))
    assert client.installer.remembered.update is None
    assert look.offer is None


def test_what_is_on_trial_is_not_dropped_when_it_is_withdrawn():
    client = Client(version="2.0.0")
    client.installer.on_trial(parse_version("2.0.0"), b"two")
    client.look(document(withdrawn=(withdrawn("2.0.0", sha256(b"two")),)))
    assert client.installer.remembered.on_trial is not None


def test_what_is_in_quarantine_here_is_not_offered(client):
    client.installer.remembered = State().condemned(Release(parse_version("2.0.0"), "22" * 32), "crashed")
    assert str(client.look(document(offered("2.0.0"), offered("1.5.0", "15" * 32))).offer) == "1.5.0"


def test_a_program_that_was_replaced_by_hand_is_not_held_to_what_was_confirmed_before(client):
    client.installer.remembered = State(
        good=Release(parse_version("2.0.0"), "22" * 32)
    )  # and something else stands there
    assert str(client.look(document(offered("1.5.0"))).offer) == "1.5.0"

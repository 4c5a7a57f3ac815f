import pytest
from hypothesis import given
from hypothesis import strategies as st
from semver import Version

from patchify.client.trust import PinnedKey, SignedAnswer
from patchify.errors import (
    AnswerError,
    FailedSignatureVerificationError,
    InvalidPayloadError,
    InvalidSignatureError,
    MissingSignatureError,
)
from patchify.keys import SigningKey, encode_signature
from patchify.messages import LatestVersion, VersionHash

KEY = SigningKey.from_hex("11" * 32)
OTHER = SigningKey.from_hex("22" * 32)
TRUST = PinnedKey(KEY.verifying_key)
TWO = Version(2)
DIGEST = "ab" * 32


def signed(body: bytes, key: SigningKey = KEY) -> SignedAnswer:
    return SignedAnswer("https://h/latest", body, encode_signature(key.sign(body)))


def test_what_the_pinned_key_signed_is_believed():
    assert TRUST.latest(signed(LatestVersion(TWO).to_bytes())) == TWO
    assert TRUST.sha256(signed(VersionHash(TWO, DIGEST).to_bytes()), TWO) == DIGEST


def test_a_signature_of_lower_case_digits_is_read():
    body = LatestVersion(TWO).to_bytes()
    assert TRUST.latest(SignedAnswer("https://h/latest", body, KEY.sign(body).hex())) == TWO


@pytest.mark.parametrize("signature", [None, ""])
def test_no_signature_is_an_error_of_its_own(signature):
    with pytest.raises(MissingSignatureError) as caught:
        TRUST.latest(SignedAnswer("https://h/latest", b"{}", signature))
    assert caught.value.url == "https://h/latest"


@pytest.mark.parametrize("signature", ["0", "zz" * 64, "00" * 63, "00" * 65, " " + "00" * 64, "\u0660" * 128])
def test_a_malformed_signature_is_an_error_of_its_own(signature):
    with pytest.raises(InvalidSignatureError) as caught:
        TRUST.latest(SignedAnswer("https://h/latest", b"{}", signature))
    assert caught.value.signature == signature


def test_the_signature_of_another_key_is_refused():
    with pytest.raises(FailedSignatureVerificationError):
        TRUST.latest(signed(LatestVersion(TWO).to_bytes(), OTHER))


@given(st.data())
def test_no_changed_body_is_believed(data):
    good = signed(LatestVersion(TWO).to_bytes())
    at = data.draw(st.integers(0, len(good.body) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    body = bytes(byte ^ bit if index == at else byte for index, byte in enumerate(good.body))
    with pytest.raises(FailedSignatureVerificationError):
        TRUST.latest(SignedAnswer(good.url, body, good.signature))


def test_nothing_is_parsed_before_it_is_verified():
    with pytest.raises(FailedSignatureVerificationError):
        TRUST.latest(signed(b"[" * 100_000, OTHER))


def test_an_answer_of_another_endpoint_is_refused():
    with pytest.raises(InvalidPayloadError):
        TRUST.latest(signed(VersionHash(TWO, DIGEST).to_bytes()))
    with pytest.raises(InvalidPayloadError):
        TRUST.sha256(signed(LatestVersion(TWO).to_bytes()), TWO)


@pytest.mark.parametrize("other", ["1.0.0", "2.0.0-rc.1", "2.0.0+b1"])
def test_the_hash_of_another_version_is_refused(other):
    with pytest.raises(InvalidPayloadError, match=r"2\.0\.0 was asked for"):
        TRUST.sha256(signed(VersionHash(Version.parse(other), DIGEST).to_bytes()), TWO)


@given(st.binary())
def test_no_signed_bytes_raise_anything_but_an_answer_error(body):
    for read in (TRUST.latest, lambda answer: TRUST.sha256(answer, TWO)):
        with pytest.raises(AnswerError):
            read(signed(body))

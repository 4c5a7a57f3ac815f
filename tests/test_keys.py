import base64
import logging
import os
import stat
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify.errors import InvalidKeyError
from patchify.keys import SigningKey, VerifyingKey, decode_hex, decode_signature, encode_signature
from tests.conftest import KEY
from tests.running import PATIENCE, ROOT

P = 2**255 - 19
SIGN = 1 << 255
ORDER_EIGHT = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7


def encoded(number: int) -> bytes:
    return number.to_bytes(32, "little")


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    SigningKey.from_hex(KEY).write(path)
    return path


# Hex ------------------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=70))
def test_hex_of_either_case_is_read(data):
    assert decode_hex(data.hex(), 2 * len(data)) == data
    assert decode_hex(data.hex().upper(), 2 * len(data)) == data


@given(st.text(max_size=12))
def test_only_exactly_the_digits_are_hex(text):
    found = decode_hex(text, 8)
    assert found is None or (len(text) == 8 and found.hex() == text.lower())


@pytest.mark.parametrize(
    "text", ["11 22 33", "0x112233", "1122334", "112233445", "\u0661\u0661223344", "1122334\n", ""]
)
def test_blanks_prefixes_and_foreign_digits_are_not_hex(text):
    assert decode_hex(text, 8) is None


@given(st.binary(min_size=64, max_size=64))
def test_signatures_are_written_in_upper_case_and_read_in_both(signature):
    text = encode_signature(signature)
    assert len(text) == 128
    assert text == text.upper()
    assert decode_signature(text) == decode_signature(text.lower()) == signature


# Public keys ----------------------------------------------------------------------------------------------------------


def test_the_signature_is_the_one_of_rfc_8032():
    # Section 7.1, test 2.
    key = SigningKey.from_hex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    assert key.verifying_key.to_hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


@given(st.binary(max_size=100), st.integers(0, 511))
def test_a_signature_with_one_bit_flipped_does_not_verify(body, bit):
    key = SigningKey.from_hex(KEY)
    signature = key.sign(body)
    assert key.verifying_key.verify(body, signature)
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not key.verifying_key.verify(body, bytes(flipped))


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_of_another_length_does_not_verify(key, size):
    assert not key.verifying_key.verify(b"body", bytes(size))


@pytest.mark.parametrize("sign", [0, SIGN])
@pytest.mark.parametrize("y", [0, 1, P - 1, ORDER_EIGHT, P - ORDER_EIGHT])
def test_a_key_under_which_anybody_could_sign_is_refused(y, sign):
    with pytest.raises(InvalidKeyError, match="small order"):
        VerifyingKey(encoded(y | sign))


@pytest.mark.parametrize("sign", [0, SIGN])
@pytest.mark.parametrize("y", [P, P + 1, P + 3, P + 18])
def test_a_second_spelling_of_a_point_is_refused(y, sign):
    with pytest.raises(InvalidKeyError, match="not a point"):
        VerifyingKey(encoded(y | sign))


@pytest.mark.parametrize("y", [2, 7, 8])
def test_what_is_not_on_the_curve_is_refused(y):
    with pytest.raises(InvalidKeyError, match="not a point"):
        VerifyingKey(encoded(y))


@given(st.binary(min_size=32, max_size=32))
def test_the_public_key_of_any_seed_is_accepted(seed):
    key = SigningKey(seed)
    assert VerifyingKey.from_hex(key.verifying_key.to_hex().upper()) == key.verifying_key


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_of_another_length_are_refused(size):
    with pytest.raises(InvalidKeyError, match=f"32 bytes, not {size}"):
        VerifyingKey(bytes(size))
    with pytest.raises(InvalidKeyError, match=f"32 bytes, not {size}"):
        SigningKey(bytes(size))


def test_a_public_key_that_is_not_hex_is_shown():
    with pytest.raises(InvalidKeyError, match="64 hex digits, not 'no key'"):
        VerifyingKey.from_hex("no key")


def test_public_keys_are_values():
    one, other = SigningKey.from_hex(KEY).verifying_key, SigningKey.generate().verifying_key
    assert one == SigningKey.from_hex(KEY).verifying_key
    assert len({one, SigningKey.from_hex(KEY).verifying_key, other}) == 2
    assert one != other
    assert one != one.to_hex()
    assert repr(one) == f"VerifyingKey({one.to_hex()})"


# Secrets --------------------------------------------------------------------------------------------------------------


def test_the_secret_is_not_in_the_repr(key):
    assert KEY not in repr(key)
    assert key.verifying_key.to_hex() in repr(key)


SEED = bytes(range(200, 232))
PEM = (
    "-----BEGIN PRIVATE KEY-----\n"
    + base64.b64encode(bytes.fromhex("302e020100300506032b657004220420") + SEED).decode()
    + "\n-----END PRIVATE KEY-----\n"
)
BASE64_WITH_SLASHES = base64.b64encode(b"\xf8\x0f\xff" * 11)[:44].decode()


@pytest.mark.parametrize(
    "text",
    [
        KEY + "1",
        KEY[1:],
        KEY + "\n",
        "0x" + KEY,
        PEM,
        base64.b64encode(SEED).decode(),
        BASE64_WITH_SLASHES,
        KEY * 10,  # longer than a file name may be
        KEY + "\0",
    ],
)
def test_a_mistyped_key_is_in_no_message(text, caplog):
    with pytest.raises(InvalidKeyError) as caught:
        SigningKey.load(text)
    shown = f"{caught.value} {caught.value.__cause__} {caplog.text}"
    assert text.strip()[:20] not in shown
    assert text.strip()[-40:] not in shown
    assert "64 hex digits" in shown


def test_a_path_of_no_key_file_is_in_the_message(tmp_path):
    for path in (tmp_path / "there-is-no-such-key-file-anywhere", "missing/key", "\0"):
        with pytest.raises(InvalidKeyError, match="cannot be read") as caught:
            SigningKey.load(path if isinstance(path, str) else str(path))
        assert str(path) in str(caught.value)


def test_what_a_key_file_holds_is_not_in_the_message(tmp_path):
    path = tmp_path / "key"
    path.write_text("f00d" * 20)
    path.chmod(0o600)
    with pytest.raises(InvalidKeyError) as caught:
        SigningKey.from_file(path)
    assert "f00d" not in str(caught.value)
    assert str(path) in str(caught.value)


# Key files ------------------------------------------------------------------------------------------------------------


def test_a_key_file_is_written_for_its_owner_alone_and_read_again(key_file, caplog):
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert key_file.read_text() == KEY + "\n"
    assert SigningKey.load(key_file).to_hex() == SigningKey.load(str(key_file)).to_hex() == KEY
    assert not caplog.records


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_file_that_others_can_use_is_warned_about(key_file, caplog, mode):
    key_file.chmod(mode)
    assert SigningKey.from_file(key_file).to_hex() == KEY
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"chmod 600 {key_file}" in record.getMessage()
    assert KEY not in record.getMessage()


def test_a_key_as_text_is_taken_as_it_is():
    assert SigningKey.load(KEY).to_hex() == KEY


def test_a_folder_is_no_key_file(tmp_path):
    with pytest.raises(InvalidKeyError, match="cannot be read: Is a directory"):
        SigningKey.load(tmp_path)


def test_an_existing_key_file_is_never_overwritten(key_file):
    with pytest.raises(FileExistsError):
        SigningKey.generate().write(key_file)
    assert SigningKey.from_file(key_file).to_hex() == KEY
    assert os.listdir(key_file.parent) == ["key"]


def test_a_key_that_cannot_be_written_is_one_error(tmp_path):
    with pytest.raises(InvalidKeyError, match="cannot be written: No such file"):
        SigningKey.load_or_create(tmp_path / "missing" / "key")


def test_a_broken_key_file_is_not_replaced_by_a_new_key(key_file):
    key_file.write_text("broken")
    with pytest.raises(InvalidKeyError, match="is not a key"):
        SigningKey.load_or_create(key_file)
    assert key_file.read_text() == "broken"


def test_a_key_is_made_once(tmp_path):
    first = SigningKey.load_or_create(tmp_path / "key")
    assert SigningKey.load_or_create(tmp_path / "key").to_hex() == first.to_hex()


def test_processes_that_race_to_make_a_key_all_get_the_same(tmp_path):
    path = tmp_path / "key"
    program = "import sys; from patchify.keys import *; print(flush=True); input(); print(SigningKey.load_or_create(Path(sys.argv[1])).to_hex())"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", program, path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for racer in racers:
        racer.stdout.readline()  # all stand at the line
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    keys = {racer.communicate(timeout=PATIENCE)[0] for racer in racers}
    assert keys == {path.read_text()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["key"]


def test_a_race_that_is_lost_gives_the_winner_s_key(key_file, monkeypatch):
    monkeypatch.setattr(type(key_file), "exists", lambda path: False)
    assert SigningKey.load_or_create(key_file).to_hex() == KEY

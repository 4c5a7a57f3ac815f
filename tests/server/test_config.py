import dataclasses
import logging
from pathlib import Path

import pytest
from semver import Version

from patchify.errors import ConfigError
from patchify.keys import SigningKey
from patchify.server import Config
from tests.conftest import KEY

HASH = "ab" * 32
GOOD = {"appname": "app", "key": KEY, "releases": "/srv/releases", "versions": {"1.0.0": HASH}}


def test_the_parsed_values_stand_beside_the_given_ones():
    config = Config(**GOOD)
    assert config.signing_key.to_hex() == KEY
    assert config.folder == Path("/srv/releases")
    assert dict(config.hashes) == {"1.0.0": HASH}
    assert (config.stream_threshold, config.stream_buffer, config.read_buffer) == (1000, 256, 128)


def test_versions_and_hashes_are_read_in_every_form_they_have():
    config = Config(**GOOD | {"versions": {Version(1): HASH.upper(), Version(2, prerelease="rc.1"): HASH}})
    assert dict(config.hashes) == {"1.0.0": HASH, "2.0.0-rc.1": HASH}
    assert dict(Config(**GOOD | {"versions": {}}).hashes) == {}


def test_a_configuration_does_not_change():
    versions = {"1.0.0": HASH}
    config = Config(**GOOD | {"versions": versions})
    versions["2.0.0"] = HASH
    assert dict(config.hashes) == {"1.0.0": HASH}
    with pytest.raises(TypeError):
        config.hashes["2.0.0"] = HASH
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.appname = "other"


def test_the_key_may_be_a_file_a_text_or_a_key(tmp_path, key):
    path = tmp_path / "key"
    key.write(path)
    for given in (KEY, str(path), path, key):
        assert Config(**GOOD | {"key": given}).signing_key.to_hex() == KEY


def test_the_key_is_in_no_repr():
    assert KEY not in repr(Config(**GOOD))


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("appname", "", "'' is not a name"),
        ("appname", None, "None is not a name"),
        ("appname", "a/b", "'a/b' is not a name"),
        ("appname", "a\\b", "is not a name"),
        ("appname", "a\0b", "is not a name"),
        ("key", "", "64 hex digits or the path of a key file is expected, not an empty text"),
        ("key", 5, "64 hex digits or the path of a key file is expected, not a value of the type int"),
        ("key", b"1" * 64, "64 hex digits or the path of a key file is expected, not a value of the type bytes"),
        ("key", "1" * 63, r"neither 64 hex digits nor the path of a key file \(63 characters\)"),
        ("key", "missing", "the key file missing cannot be read: No such file or directory"),
        ("releases", "", "'' is not the path of a folder"),
        ("releases", 5, "5 is not the path of a folder"),
        ("releases", "a\0b", "is not the path of a folder"),
        ("versions", [("1.0.0", HASH)], "a mapping of version to SHA-256 is expected, not .* @json"),
        ("versions", {"1.0": HASH}, "'1.0' is not a SemVer version: unexpected end of input"),
        ("versions", {1.0: HASH}, "'1.0' is not a SemVer version"),
        ("versions", {"1.0.0": HASH[1:]}, "the SHA-256 of 1.0.0 is 'bab.*', not 64 hex digits"),
        ("versions", {"1.0.0": None}, "the SHA-256 of 1.0.0 is None, not 64 hex digits"),
        ("stream_threshold", -1, "-1 is not a size; a whole number of KiB"),
        ("stream_buffer", 0, "0 is not a size"),
        ("read_buffer", "128", "'128' is not a size"),
        ("read_buffer", True, "True is not a size"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_would_be_right(name, value, problem):
    with pytest.raises(ConfigError, match=f"^{name}: .*{problem}") as caught:
        Config(**GOOD | {name: value})
    assert "\n" not in str(caught.value)
    assert caught.value.key == name


def flat(settings: dict) -> dict:
    return {f"PATCHIFY_{name.upper()}": value for name, value in settings.items()}


def test_flat_keys_of_a_mapping_are_taken():
    config = Config.from_mapping(flat(GOOD | {"stream_threshold": 0, "read_buffer": None}) | {"SECRET_KEY": "other"})
    assert (config.appname, config.stream_threshold, config.read_buffer) == ("app", 0, 128)


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", [None, ...])
def test_a_missing_key_is_named_as_it_stands_in_the_mapping(name, value):
    settings = flat(GOOD)
    del settings[f"PATCHIFY_{name.upper()}"]
    if value is None:
        settings[f"PATCHIFY_{name.upper()}"] = None
    with pytest.raises(ConfigError, match=f"^PATCHIFY_{name.upper()}: is not configured$"):
        Config.from_mapping(settings)


def test_a_wrong_key_is_named_as_it_stands_in_the_mapping():
    with pytest.raises(ConfigError, match=r"^PATCHIFY_STREAM_BUFFER: 'big' is not a size"):
        Config.from_mapping(flat(GOOD | {"stream_buffer": "big"}))


def test_a_key_file_that_others_can_read_is_warned_about(tmp_path, key, caplog):
    path = tmp_path / "key"
    key.write(path)
    path.chmod(0o644)
    Config(**GOOD | {"key": path})
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_new_key_is_as_good_as_a_written_one():
    assert Config(**GOOD | {"key": SigningKey.generate()}).signing_key.to_hex() != KEY

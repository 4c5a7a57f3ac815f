import dataclasses
import logging
from pathlib import Path

import pytest
from semver import Version

from patchify.errors import ConfigError
from patchify.keys import SigningKey
from patchify.server import Config
from patchify.server.catalogue import FixedCatalogue
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
        ("max_upload", 0, "0 is not a size; a whole number of MiB"),
        ("make_forms", "no", "'no' is neither true nor false"),
        ("patches", 101, "101 is not a number of patches; a whole number from 0 to 100"),
        ("patch_memory", 0, "0 is not a size; a whole number of MiB"),
        ("patch_time", 0, "0 is not a time; a whole number of seconds"),
        ("proxies", -1, "-1 is not a number of proxies"),
        ("proxies", True, "True is not a number of proxies"),
        ("rate_limit", "often", "'often' is not a number of requests in a time, such as 120/minute"),
        ("rate_limit", 120, "120 is not a number of requests"),
        ("bandwidth_limit", "2 GB/hour", "'2 GB/hour' is not a number of bytes in a time, such as 2 GiB/hour"),
        ("limits_storage", "redis", "is not the URL of a store, such as memory://"),
        ("limits_storage", None, "is not the URL of a store"),
        ("stall_timeout", -1, "-1 is not a time; a whole number of seconds from 0 to 86400"),
        ("stall_timeout", 86401, "86401 is not a time"),
        ("stall_timeout", 0.5, "0.5 is not a time"),
        ("x_accel_redirect", "/files", "'/files' is not a location of nginx; a path that begins and ends with a slash"),
        ("x_accel_redirect", "files/", "'files/' is not a location of nginx"),
        ("x_accel_redirect", "", "'' is not a location of nginx"),
        ("x_accel_redirect", "/a//b/", "'/a//b/' is not a location of nginx"),
        ("x_accel_redirect", "/a b/", "'/a b/' is not a location of nginx"),
        ("x_accel_redirect", "/a/\n", "is not a location of nginx"),
        ("x_accel_redirect", True, "True is not a location of nginx"),
        ("x_sendfile", "yes", "'yes' is not false, nor true without x_accel_redirect beside it"),
        ("document_life", 0, "0 is not a time; a whole number of hours from 1 to 8784"),
        ("document_life", 8785, "8785 is not a time"),
        ("document_life", 1.5, "1.5 is not a time"),
        ("channel", "Big", "'Big' is not the name of a channel"),
        ("channel", 5, "5 is not a name"),
        ("platform", "linux x86", "'linux x86' is not the name of a platform"),
        ("versions", None, "is not configured"),
        ("reports", "yes", "'yes' is not false, nor true with a catalogue"),
        ("reports", True, "True is not false, nor true with a catalogue"),
        ("publish_token", 5, "a text or the path of a file is expected, not int"),
        ("publish_token", "", "a text or the path of a file is expected, not str"),
        ("publish_token", "t" * 31, r"neither 32 characters .*, nor a file that can be read: No such file"),
        ("publish_token", "a\0b", "neither 32 characters .*, nor a file that can be read: embedded null byte"),
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


# A catalogue ----------------------------------------------------------------------------------------------------------

CATALOGUE = "postgresql://me:secret@db/releases"
KEPT = {"appname": "app", "key": KEY, "releases": "/srv/releases", "catalogue": CATALOGUE}


def test_a_catalogue_takes_the_place_of_the_versions():
    config = Config(**KEPT, reports=True)
    assert dict(config.hashes) == {}
    assert (config.catalogue, config.channel, config.platform, config.reports) == (CATALOGUE, "stable", "any", True)
    assert (config.document_life, config.max_upload, config.token) == (168, 4096, None)
    assert Config(**KEPT, versions={}).catalogue == CATALOGUE  # a table of settings that has nothing in it
    made = FixedCatalogue([])
    assert Config(**KEPT | {"catalogue": made}).catalogue is made


@pytest.mark.parametrize(
    ("catalogue", "problem"),
    [
        ("me:secret@db", "is not the URL of a database, such as sqlite:///catalogue.db"),
        (5, "the URL of a database is expected, not int"),
    ],
)
def test_what_is_no_catalogue_is_refused_and_not_shown(catalogue, problem):
    with pytest.raises(ConfigError, match=f"^catalogue: {problem}") as caught:
        Config(**KEPT | {"catalogue": catalogue})
    assert "secret" not in str(caught.value)


def test_releases_have_one_place():
    with pytest.raises(ConfigError, match=r"^versions: a catalogue is configured, too, .* leave one of both"):
        Config(**KEPT, versions={"1.0.0": HASH})


def test_neither_the_password_of_the_catalogue_nor_the_token_is_in_a_repr():
    shown = repr(Config(**KEPT, publish_token="t0ken" * 8))
    assert "secret" not in shown
    assert "t0ken" not in shown


# The token ------------------------------------------------------------------------------------------------------------

TOKEN = "Zm9v-YmFy_Zm9v+YmFy~Zm9vYmFyZm9v="


def test_the_token_may_be_a_text_or_a_file(tmp_path, caplog):
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(TOKEN + "\n")
    for given in (TOKEN, str(path), path):
        assert Config(**KEPT, publish_token=given).token == TOKEN
    assert not caplog.records
    path.chmod(0o640)
    Config(**KEPT, publish_token=path)
    assert caplog.messages == [f"the token file {path} can be used by others: chmod 600 {path}"]


def test_a_file_without_a_token_is_named_without_what_it_holds(tmp_path):
    path = tmp_path / "token"
    path.touch(0o600)
    for text in (TOKEN[:31], f"{TOKEN} {TOKEN}", ""):
        path.write_text(text)
        with pytest.raises(ConfigError, match=f"^publish_token: the file {path} does not hold 32 characters") as caught:
            Config(**KEPT, publish_token=path)
        assert TOKEN[:31] not in str(caught.value)


def test_a_mistyped_token_is_in_no_error():
    mistyped = TOKEN.replace("-", "/")
    with pytest.raises(ConfigError) as caught:
        Config(**KEPT, publish_token=mistyped)
    assert mistyped not in str(caught.value)
    assert caught.value.__cause__ is None


# A file of settings ---------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a file of settings, and returns its path."""

    def write(text: str):
        path = tmp_path / "etc" / "patchify.toml"
        path.parent.mkdir()
        path.write_text(text)
        return path

    return write


def test_paths_in_a_file_begin_at_its_folder(written, key, monkeypatch):
    path = written("""
        OTHER = 5
        PATCHIFY_APPNAME = "app"
        PATCHIFY_KEY = "key"
        PATCHIFY_RELEASES = "releases"
        PATCHIFY_CATALOGUE = "sqlite:///catalogue.db?timeout=5"
        PATCHIFY_PUBLISH_TOKEN = "a-long-name-of-a-file-with-a-token"
        PATCHIFY_STREAM_BUFFER = 8
    """)
    key.write(path.parent / "key")
    token = path.parent / "a-long-name-of-a-file-with-a-token"
    token.touch(0o600)
    token.write_text(TOKEN)
    monkeypatch.chdir(path.parent.parent)
    for given in (path, "etc/patchify.toml"):
        config = Config.from_file(given)
        assert (config.signing_key.to_hex(), config.folder) == (KEY, path.parent / "releases")
        assert config.catalogue == f"sqlite:///{path.parent}/catalogue.db?timeout=5"
        assert (config.token, config.stream_buffer) == (TOKEN, 8)


@pytest.mark.parametrize(
    "url", ["sqlite:////srv/catalogue.db", "sqlite://", "sqlite:///:memory:", "sqlite:///file:x?uri=true", CATALOGUE]
)
def test_what_is_no_relative_path_stays_as_it_is(written, url):
    path = written(f"""
        PATCHIFY_APPNAME = "app"
        PATCHIFY_KEY = "{KEY}"
        PATCHIFY_RELEASES = "/srv/releases"
        PATCHIFY_CATALOGUE = "{url}"
        PATCHIFY_PUBLISH_TOKEN = "{TOKEN}"
    """)
    config = Config.from_file(path)
    assert (config.signing_key.to_hex(), config.folder) == (KEY, Path("/srv/releases"))
    assert (config.catalogue, config.token) == (url, TOKEN)


def test_a_mistyped_key_in_a_file_is_in_no_error(written):
    path = written(
        f'PATCHIFY_APPNAME = "app"\nPATCHIFY_RELEASES = "r"\nPATCHIFY_VERSIONS = {{}}\nPATCHIFY_KEY = "{KEY[1:]}"'
    )
    with pytest.raises(ConfigError, match=r"^PATCHIFY_KEY: neither 64 hex digits nor the path") as caught:
        Config.from_file(path)
    assert KEY[1:] not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("PATCHIFY_APPNAME = ", "patchify.toml: cannot be read: Invalid value"),
        ("PATCHIFY_APNAME = 'app'", "^PATCHIFY_APNAME: is no setting of Patchify, which are PATCHIFY_APPNAME, "),
        ("PATCHIFY_RELEASES = ''", "^PATCHIFY_APPNAME: is not configured"),
        (
            "PATCHIFY_APPNAME = 'a'\nPATCHIFY_KEY = 'k'\nPATCHIFY_VERSIONS = {}\nPATCHIFY_RELEASES = 5",
            "^PATCHIFY_RELEASES: 5 is not the path",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_said(written, text, problem):
    with pytest.raises(ConfigError, match=problem):
        Config.from_file(written(text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^/.*/none\.toml: cannot be read: it is not there; `patchify init"):
        Config.from_file(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="embedded null byte"):
        Config.from_file("a\0b")


def test_a_front_sends_the_files_in_one_way_only():
    assert Config(**GOOD | {"x_accel_redirect": "/_patchify/"}).x_accel_redirect == "/_patchify/"
    assert Config(**GOOD | {"x_sendfile": True}).x_sendfile
    with pytest.raises(ConfigError, match=r"^x_sendfile: True is not false, nor true without x_accel_redirect"):
        Config(**GOOD | {"x_accel_redirect": "/_patchify/", "x_sendfile": True})

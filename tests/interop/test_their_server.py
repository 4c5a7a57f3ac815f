"""The original's server and ours cannot be told apart by what they answer."""

import json
import string
import urllib.parse
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import KEY
from tests.interop.programs import COMPARED, Answer, RustServer, ask, our_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test builds

RECORDED = json.loads((Path(__file__).parent.parent / "wire-0.2.2.json").read_text())

VERSIONS = [
    "0.0.0", "0.0.1", "0.9.10", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-0", "1.0.0--", "1.0.0", "1.0.0+b1", "1.0.0+01",
    "1.10.0", "1.9.0", "1.0.0-rc.1+exp.sha-5114f85", "2.0.0-rc.9", "2.0.0-rc.10", "2.0.0-rc.10+7", "2.0.0-rc.10+08",
    "2.0.0-rc.10+a", "0.0.18446744073709551615",
]  # fmt: skip
UNKNOWN = [
    "3.2.1", "0.0.2", "1.0.0-alpha.2", "1.0.0+b2", "1.0.0+B1", "1.0.0+1", "18446744073709551615.0.0", "1.0.0-a--b+-.-", "1.0.0-0a",
    "1.0.0-18446744073709551616",
]  # fmt: skip
MALFORMED = [
    "1", "1.", "1.0", "1.0.", "1.0.0.", "1.0.0.0", "v1.0.0", "V1.0.0", "=1.0.0", "01.0.0", "1.00.0", "1.0.01", "00.0.0",
    "-1.0.0", "+1.0.0", "1.-1.0", "1..0", ".1.0", "..", "...", ".", "x", "latest", "1.x.0", "1.*", "*", "^1.0.0", "~1.0.0",
    "1.0.0-", "1.0.0+", "1.0.0-+", "1.0.0-+b", "1.0.0-a+", "1.0.0-.", "1.0.0-a.", "1.0.0-.a", "1.0.0-a..b", "1.0.0+a..b",
    "1.0.0-01", "1.0.0-a.01", "1.0.0-a.00", "1.0.0-é", "1.0.0-a é", "1.0.0+é", "1.0.0+a_b", "1.0.0-a_b",
    "1.0.0+a+b", "1.0.0-a+b+c", "1.0.0 ", " 1.0.0", "1 .0.0", "1.0. 0", "1.0.0\n", "\t1.0.0", "1.0.0\0", "1,0,0", "1.0,0",
    "18446744073709551616.0.0", "0.18446744073709551616.0", "0.0.18446744073709551616", "0.0.99999999999999999999999999",
    "\u0661.0.0", "1.0.\u0662", "1.0.0-\u0661", "1.0.0\u200b", "\ufeff1.0.0", "1.0.0\u2028", "1.0.0😀", "😀",
    "'", '"', "\\", "1.0.0'", "1.0.0\\", "1.0.0\x7f", "1.0.0\x85", "1.0.0\xa0", "1.0.0\xad",
    "1.0.0\ue000", "1.0.0\U000e0001", "%", "1.0.0%", "1.0.0%zz", "1.0.0&", "1.0.0<b>", "1.0.0;a", "1.0.0?", "1.0.0#", "a" * 200,
]  # fmt: skip


@pytest.fixture(scope="module")
def both(rust, tmp_path_factory):
    """Return a function that asks their server and ours, which serve the same releases, and returns both answers."""
    folder = tmp_path_factory.mktemp("both")
    config = _published(folder, "app", {version: f"the program {version}".encode() for version in VERSIONS})
    with (
        RustServer(rust.server, config, KEY, folder / "theirs.log") as theirs,
        our_server(config, folder / "ours.log") as ours,
    ):

        def both(path: str, method: str = "GET") -> tuple[Answer, Answer]:
            return ask(theirs.port, path, method), ask(ours.port, path, method)

        yield both


@pytest.mark.parametrize(
    "recorded", RECORDED["servers"], ids=lambda server: f"{server['appname']}-{len(server['files'])}"
)
def test_their_server_answers_what_was_recorded_of_it(rust, their_server, tmp_path, recorded):
    contents = {version: _bytes(content) for version, content in recorded["files"].items()}
    server = their_server(_published(tmp_path, recorded["appname"], contents), RECORDED["private_key"])
    for answer in recorded["answers"]:
        found = ask(server.port, answer["path"], answer["method"])
        assert found.status == answer["status"], answer
        assert found.headers == {name: value for name, value in answer["headers"].items() if name in COMPARED}, answer
        if "body" in answer:
            assert found.body.decode() == answer["body"]
        else:
            assert (sha256(found.body).hexdigest(), len(found.body)) == (answer["body_sha256"], answer["body_length"])


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["latest", "hashes/1.0.0", "releases/1.0.0", "hashes/3.2.1", "releases/x"])
def test_every_method_is_answered_alike(both, path, method):
    theirs, ours = both(path, method)
    assert ours == theirs


@pytest.mark.parametrize("path", ["hashes", "hashes/", "releases/1.0.0/", "latest/1", "LATEST", "a/b"])
def test_what_is_not_there_is_answered_alike(both, path):
    theirs, ours = both(path)
    assert theirs.status == 404
    assert ours == theirs


@pytest.mark.parametrize("version", VERSIONS)
def test_hash_and_file_of_a_version_are_answered_alike(both, version):
    for spelling in (version, urllib.parse.quote(version, safe=""), "".join(f"%{ord(each):02x}" for each in version)):
        for endpoint in ("hashes", "releases"):
            theirs, ours = both(f"{endpoint}/{spelling}")
            assert theirs.status == 200
            assert ours == theirs


@pytest.mark.parametrize("version", UNKNOWN)
def test_an_unknown_version_is_answered_alike(both, version):
    for endpoint in ("hashes", "releases"):
        theirs, ours = both(f"{endpoint}/{urllib.parse.quote(version)}")
        assert theirs.status == 404
        assert ours == theirs


@pytest.mark.parametrize("version", MALFORMED)
def test_what_is_no_version_is_answered_alike(both, version):
    for endpoint in ("hashes", "releases"):
        theirs, ours = both(f"{endpoint}/{urllib.parse.quote(version, safe='')}")
        assert theirs.status == 400
        assert ours == theirs


# Without "/": WSGI decodes %2F before anybody sees the path. Latin-1 at most: what Unicode calls printable depends on its
# version, and the original escapes combining characters in its texts, too.
_NEARLY = st.text(alphabet="0019.-+ab" + string.printable.replace("/", ""), min_size=1, max_size=30)
_PARTS = st.lists(
    st.sampled_from(["0", "1", "01", "9" * 20, ".", "-", "+", "a", "rc", "-1", "é", " ", "_"]), min_size=1, max_size=12
)
_LATIN = st.text(alphabet=st.characters(max_codepoint=255, exclude_characters="/"), min_size=1, max_size=20)


@settings(max_examples=400, deadline=None)
@given(version=_NEARLY | _PARTS.map("".join) | _LATIN)
@example(version="1.0.0-a b")
def test_any_text_as_a_version_is_answered_alike(both, version):
    theirs, ours = both(f"hashes/{urllib.parse.quote(version, safe='')}")
    assert ours == theirs


@pytest.mark.parametrize(
    "versions", [[], ["0.0.0"], ["2.0.0-rc.1", "1.9.0"], ["1.0.0+2", "1.0.0+10", "1.0.0"], ["1.0.0+a", "1.0.0+01"]]
)
def test_the_latest_of_some_versions_is_the_same(rust, their_server, tmp_path, versions):
    config = _published(tmp_path, "app", {version: version.encode() for version in versions})
    theirs = their_server(config)
    with our_server(config, tmp_path / "ours.log") as ours:
        assert ask(ours.port, "latest") == ask(theirs.port, "latest")


def _published(folder: Path, appname: str, contents: dict) -> dict:
    (folder / "releases").mkdir()
    for version, content in contents.items():
        (folder / "releases" / f"{appname}-{version}").write_bytes(content)
    versions = {version: sha256(content).hexdigest() for version, content in contents.items()}
    return {"appname": appname, "key": KEY, "releases": folder / "releases", "versions": versions}


def _bytes(content) -> bytes:
    return content.encode() if isinstance(content, str) else bytes.fromhex(content["hex"]) * content["times"]

import json
import os
import stat
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest

from patchify.client import Choices
from patchify.client.memory import Memory, load, save
from patchify.errors import UnableToReadFileError, UnableToWriteStateError
from tests.client.offering import NOW, document

KEY = "ab" * 32


@pytest.fixture
def path(tmp_path):
    return tmp_path / "memory.json"


def test_it_is_read_as_it_was_written_by_its_owner_alone(path):
    memory = Memory(
        key=KEY,
        appname="app",
        serial=7,
        issued=NOW,
        taught=True,
        retry_at=NOW,
        failure="x",
        choices=Choices(channel="beta", skipped=("1.0.0",)),
        bad_files=("ab" * 32,),
    )
    save(path, memory)
    assert load(path) == memory
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_new_installation_has_an_id_of_its_own(path):
    one, other = load(path), load(path)
    assert uuid.UUID(one.installation).version == 4
    assert one.installation != other.installation
    assert replace(one, installation="") == replace(other, installation="") == Memory(installation="")


def test_what_an_earlier_version_remembered_is_enough(path):
    save(path, Memory(serial=7))
    members = json.loads(path.read_bytes())
    del members["bad_files"]
    path.write_text(json.dumps(members))
    assert load(path).serial == 7
    assert load(path).bad_files == ()


def test_of_bad_files_the_oldest_are_forgotten():
    memory = Memory()
    for number in (*range(51), 7):
        memory = memory.with_bad_file(f"{number:064x}")
    assert memory.bad_files == tuple(f"{number:064x}" for number in (*range(1, 7), *range(8, 51), 7))


@pytest.mark.parametrize(
    "damage",
    [
        lambda members: b"",
        lambda members: b"\xff",
        lambda members: b"[]",
        lambda members: b"[" * 100_000,
        lambda members: json.dumps({**members, "format": 2}).encode(),
        lambda members: json.dumps({**members, "serial": "7"}).encode(),
        lambda members: json.dumps({**members, "serial": True}).encode(),
        lambda members: json.dumps({**members, "installation": "me"}).encode(),
        lambda members: json.dumps({**members, "retry_at": "soon"}).encode(),
        lambda members: json.dumps({**members, "choices": {}}).encode(),
        lambda members: json.dumps({**members, "choices": None}).encode(),
        lambda members: json.dumps({name: members[name] for name in members if name != "key"}).encode(),
    ],
)
def test_one_that_is_damaged_counts_as_not_there_and_is_set_aside(path, damage, caplog):
    save(path, Memory(serial=7))
    damaged = damage(json.loads(path.read_bytes()))
    path.write_bytes(damaged)
    assert load(path).serial == 0
    assert "memory.json is not usable" in caplog.text
    assert path.with_name("memory.json.unusable").read_bytes() == damaged
    assert not path.exists()


def test_one_that_cannot_be_read_now_is_an_error_and_stays(tmp_path):
    (tmp_path / "memory.json").mkdir()
    with pytest.raises(UnableToReadFileError, match=r"memory\.json"):
        load(tmp_path / "memory.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_one_that_its_mode_forbids_counts_as_not_there(path):  # pragma: no cover
    save(path, Memory(serial=7))
    path.chmod(0)
    assert load(path).serial == 0


def test_what_cannot_be_written_says_so_and_leaves_the_old(tmp_path, path):
    save(path, Memory(serial=7))
    with pytest.raises(UnableToWriteStateError):
        save(tmp_path / "nowhere" / "memory.json", Memory())
    assert load(path).serial == 7


def test_what_another_key_has_signed_is_forgotten_and_all_else_is_kept():
    memory = Memory(key=KEY, appname="app", serial=7, taught=True, choices=Choices(channel="beta"))
    assert memory.of_key(KEY) is memory
    other = memory.of_key("cd" * 32)
    assert (other.key, other.appname, other.serial) == ("", "", 0)
    assert (other.installation, other.choices, other.taught) == (memory.installation, memory.choices, True)
    assert Memory().of_key(KEY).serial == 0


def test_the_serial_never_goes_down():
    memory = Memory().with_document(document(serial=9), KEY)
    assert (memory.key, memory.appname, memory.serial) == (KEY, "app", 9)
    assert memory.with_document(document(serial=8), KEY).serial == 9


def test_the_time_of_the_latest_document_never_goes_back():
    memory = Memory().with_document(document(issued=NOW), KEY)
    assert memory.with_document(document(issued=NOW - timedelta(days=1)), KEY).issued == NOW


def test_a_name_is_learned_only_where_it_may_be():
    assert Memory(appname="known").with_document(document(), KEY, learn_name=False).appname == "known"

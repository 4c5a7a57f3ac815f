import json
from dataclasses import replace

import pytest

from patchify.forms import Compressed, Forms, Patch, Segments, Tree
from patchify.members import MalformedDocumentError
from patchify.messages import OfferedRelease
from tests.client.offering import offered

SEGMENTS = Segments("51" * 32, 1024 * 1024)
ALL = Forms(
    segments=SEGMENTS,
    compressed=Compressed("25" * 32, 200, Segments("52" * 32)),
    tree=Tree("7e" * 32, 400),
    patches=(Patch("10" * 32, "b1" * 32, 30), Patch("09" * 32, "b0" * 32, 20, result="10" * 32, result_size=390)),
)


@pytest.mark.parametrize("forms", [Forms(), ALL, replace(ALL, segments=None, tree=None)])
def test_they_are_read_as_they_were_written(forms):
    assert Forms.from_json(json.loads(json.dumps(forms.to_json()))) == forms
    release = offered(forms=forms)
    assert OfferedRelease.parse(json.loads(json.dumps(release.to_members()))) == release


def test_what_there_is_not_is_not_written():
    assert Forms().to_json() == {}
    assert set(replace(ALL, compressed=None).to_json()) == {"segments", "tree", "patches"}
    assert ALL.to_json()["patches"][0] == {"from": "10" * 32, "format": "hdiffpatch", "size": 30, "sha256": "b1" * 32}


def test_members_and_formats_that_are_not_known_are_passed_over():
    members = ALL.to_json()
    members["compressed"]["level"] = 19
    members["patches"][0]["format"] = "of the years to come"
    members["delta"] = 1
    found = Forms.from_json(members)
    assert found.patches[0].format == "of the years to come"
    assert replace(found, patches=()) == replace(ALL, patches=())
    members["compressed"]["format"] = "of the years to come"
    assert Forms.from_json(members).compressed is None


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (path, wrong)
        for path, wrongs in {
            ("segments",): [1, []],
            ("segments", "sha256"): [None, "51" * 31, "zz" * 32],
            ("segments", "length"): [0, -1, 65535, 2**31, 1.5, True, None],
            ("compressed", "size"): [0, None, 2**53],
            ("compressed", "format"): [None, "", "z" * 41],
            ("compressed", "segments"): ["51" * 32],
            ("tree", "size"): [0],
            ("tree", "sha256"): [""],
            ("patches",): [None, {}, [1]],
            ("patches", 0, "from"): [None, "1.0.0"],
            ("patches", 0, "size"): [0, "30"],
            ("patches", 1, "to_size"): [None, 0],
            ("patches", 1, "to"): ["1"],
        }.items()
        for wrong in wrongs
    ],
    ids=str,
)
def test_members_that_are_wrong_are_refused(path, wrong):
    members = offered(forms=ALL).to_members()
    place = members
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = wrong
    with pytest.raises(MalformedDocumentError):
        OfferedRelease.parse(members)


def test_its_files_are_all_that_is_kept_beside_the_whole():
    assert list(ALL.files(3 * 1024 * 1024 + 1)) == [
        ("51" * 32, 4 * 32),
        ("25" * 32, 200),
        ("52" * 32, 32),
        ("b1" * 32, 30),
        ("b0" * 32, 20),
    ]


def test_the_basis_of_a_file_is_itself_and_that_of_a_folder_its_tree():
    assert offered(forms=ALL).basis == ("22" * 32, 300)
    assert offered(format="tar.gz", forms=ALL).basis == ("7e" * 32, 400)
    assert offered(format="tar.gz").basis is None

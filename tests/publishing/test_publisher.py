import json

import pytest

from patchify.errors import PublicationError
from patchify.publishing import Publication
from patchify.releases import Schedule
from patchify.versions import parse_version

V2 = parse_version("2.0.0")


def test_a_publication_of_a_version_alone_is_for_everybody_in_stable_on_any_platform():
    assert Publication.from_json({"version": "2.0.0"}) == Publication(version=V2)
    assert json.loads(json.dumps(Publication(version=V2).to_json())) == {
        "version": "2.0.0",
        "channel": "stable",
        "platform": "any",
        "format": None,
        "notes": "",
        "critical": None,
        "floor": None,
        "rollout": None,
        "pause_above": None,
        "pause_after": None,
        "draft": False,
        "force": False,
    }


def test_a_publication_survives_json():
    publication = Publication(
        version=V2,
        channel="beta",
        platform="linux-x86_64",
        format="tar.gz",
        notes="# New\n\n- ü",
        critical=True,
        floor=parse_version("1.2.3"),
        schedule=Schedule.parse("10,50@1d"),
        pause_above=5,
        pause_after=7,
        draft=True,
        force=True,
    )
    assert Publication.from_json(json.loads(json.dumps(publication.to_json()))) == publication


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"channel": "No Channel"}, "'No Channel' is not the name of a channel"),
        ({"platform": "Linux!"}, "'Linux!' is not the name of a platform"),
        ({"notes": "\a"}, "control character"),
        ({"format": "zip"}, "'zip' is none of file, tar"),
        ({"floor": V2}, "the floor 2.0.0 of 2.0.0 must be a lower version"),
        ({"floor": parse_version("3.0.0")}, "the floor 3.0.0 of 2.0.0 must be a lower version"),
        ({"pause_above": -1}, "pausing above -1 %"),
        ({"pause_above": 100}, "pausing above 100 %"),
        (
            {"version": parse_version(f"2.0.0-{'a' * 236}"), "platform": "linux-x86_64"},
            "file name would have 256 bytes; 255 are the most",
        ),
        ({"pause_after": 0}, "pausing after 0 outcomes"),
        ({"pause_after": 1_000_001}, "pausing after 1000001 outcomes makes no sense: 1 to 1,000,000 do"),
        ({"version": parse_version(f"2.0.0-{'a' * 249}")}, "file name would have 256 bytes; 255 are the most"),
    ],
)
def test_a_publication_that_makes_no_sense_is_refused(settings, said):
    with pytest.raises(PublicationError, match=said):
        Publication(**{"version": V2} | settings)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([], "is a JSON object"),
        ({}, "version of the publication is missing"),
        ({"version": "2.0.0", "chanel": "beta"}, "no 'chanel', but version, channel"),
        ({"version": 2}, "version of the publication is 2, which has the wrong type"),
        ({"version": "2"}, "'2' is not a SemVer version"),
        ({"version": "2.0.0", "critical": 1}, "critical of the publication is 1"),
        ({"version": "2.0.0", "pause_after": True}, "pause_after of the publication is True"),
        ({"version": "2.0.0", "pause_above": True}, "pause_above of the publication is True"),
        ({"version": "2.0.0", "floor": "one"}, "'one' is not a SemVer version"),
        ({"version": "2.0.0", "rollout": "50,10@1d"}, "later step must have a higher percentage"),
    ],
)
def test_a_publication_that_cannot_be_read_is_refused(members, said):
    with pytest.raises(PublicationError, match=said):
        Publication.from_json(members)

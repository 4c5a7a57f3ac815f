import dataclasses
import hashlib
import json
import threading
from datetime import UTC, datetime, timedelta

import pytest

from patchify.errors import PlaceNotFoundError
from patchify.keys import SigningKey, decode_signature
from patchify.messages import UpdateDocument
from patchify.releases import MOST_NOTES, Placement, Release, ReleaseState, Schedule
from patchify.server import Config
from patchify.server.catalogue import Snapshot
from patchify.server.documents import MOST_BYTES, Issuer
from patchify.versions import parse_version
from tests.conftest import KEY

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
                "path": "releases/2.0.0+b1?platform=linux-x86_64",
                "published": "2026-11-23T18:00:00Z",
                "notes": "*new*",
                "critical": False,
                "floor": "1.0.0",
                "rollout": {"percent": 10, "seed": "5eed"},
            },
            {
                "version": "1.0.0",
                "size": 5,
                "sha256": hashlib.sha256(b"1.0.0").hexdigest(),
                "format": "file",
                "path": "releases/1.0.0",
                "published": "2026-11-23T18:00:00Z",
                "notes": "",
                "critical": False,
                "floor": None,
                "rollout": None,
            },
        ],
        "withdrawn": [{"version": "1.5.0", "sha256": hashlib.sha256(b"1.5.0").hexdigest()}],
    }
    assert UpdateDocument.parse(signed.body).to_bytes() == signed.body

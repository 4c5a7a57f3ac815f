"""Every recorded answer of the original, byte for byte, signatures too."""

import hashlib
import json
from pathlib import Path

import pytest

WIRE = json.loads((Path(__file__).parent.parent / "wire-0.2.2.json").read_text())
ANSWERS = [(server, answer) for server in WIRE["servers"] for answer in server["answers"]]


def contents(server) -> dict[str, bytes]:
    return {
        version: data.encode() if isinstance(data, str) else bytes.fromhex(data["hex"]) * data["times"]
        for version, data in server["files"].items()
    }


@pytest.mark.parametrize(
    ("server", "recorded"),
    ANSWERS,
    ids=lambda value: value["appname"] if "appname" in value else f"{value['method']} {value['path']}",
)
def test_the_answer_is_the_recorded_one(serve, publish, server, recorded):
    published = publish(contents(server), server["appname"])
    client = serve({}, **published | {"key": WIRE["private_key"]}).test_client()
    with client.open(f"/api/{recorded['path']}", method=recorded["method"]) as answer:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        assert answer.status_code == recorded["status"]
        # Above the original's headers stand only those of ranges, with releases, and of caches.
        release = recorded["path"].startswith("releases/")
        extra = {"etag", "accept-ranges" if release else "cache-control"} if recorded["status"] == 200 else set()
        assert {name: value for name, value in headers.items() if name not in extra} == recorded["headers"]
        if "body" in recorded:
            assert answer.data == recorded["body"].encode()
        else:
            assert len(answer.data) == recorded["body_length"]
            assert hashlib.sha256(answer.data).hexdigest() == recorded["body_sha256"]


def test_the_public_key_is_the_recorded_one(serve):
    app = serve({}, key=WIRE["private_key"])
    assert app.extensions["patchify"].config.signing_key.verifying_key.to_hex() == WIRE["public_key"]

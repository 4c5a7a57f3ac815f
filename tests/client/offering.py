"""Update documents for tests: one that is right in everything, and any member of it changed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from patchify.messages import OfferedRelease, Rollout, UpdateDocument, WithdrawnRelease
from patchify.versions import parse_version

NOW = datetime(2026, 11, 23, 18, tzinfo=UTC)
SERIAL = int(NOW.timestamp() * 1000) - 3_600_000  # an hour ago


def offered(version="2.0.0", sha256="22" * 32, percent=100, **changes) -> OfferedRelease:
    changes = {name: parse_version(value) if name == "floor" and value else value for name, value in changes.items()}
    release = OfferedRelease(
        version=parse_version(version),
        size=300,
        sha256=sha256,
        format="file",
        path=f"releases/{version}",
        published=NOW - timedelta(days=1),
        notes="What is **new**",
        rollout=None if percent == 100 else Rollout(percent, "5eed"),
    )
    return replace(release, **changes)


def withdrawn(version, sha256) -> WithdrawnRelease:
    return WithdrawnRelease(parse_version(version), sha256)


def document(*releases, **changes) -> UpdateDocument:
    made = UpdateDocument(
        appname="app",
        channel="stable",
        platform="linux-x86_64",
        serial=SERIAL,
        issued=NOW - timedelta(hours=1),
        expires=NOW + timedelta(days=6),
        releases=releases,
    )
    return replace(made, **changes)

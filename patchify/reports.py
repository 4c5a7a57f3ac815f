"""What clients tell of their updates, as values: a report, and the batch that reports are sent in.

Nobody signs them: whoever can reach the server can make them up. So they are counted, and may pause a rollout where its
owner wants that, but decide nothing about what a client believes.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Self

from semver import Version

from patchify.members import MalformedDocumentError, load_object
from patchify.platforms import parse_platform
from patchify.releases import parse_channel, parse_time, spell_time
from patchify.versions import parse_version

REPORTS_KIND = "patchify/reports/1"
MOST_REPORTS = 200  # in one batch
MOST_BYTES = 64 * 1024  # of one batch
MOST_REASON = 300  # characters

_BATCH = re.compile(r"[0-9a-f]{32}")
_BATCH_KEYS = ("kind", "batch", "appname", "platform", "channel", "installation", "reports")
_REPORT_KEYS = ("event", "at", "version", "release", "reason")


class Event(Enum):
    """What can have happened to a client."""

    CHECKED = "checked"  # it asked for updates
    DOWNLOADED = "downloaded"  # the bytes of a release are there and are the right ones
    STAGED = "staged"  # a release is ready to be put in place
    RUNNING = "running"  # a release has proved good and is kept
    PATCH_FAILED = "patch-failed"  # a patch or a compressed file was of no use; the release comes in another way
    FAILED = "failed"  # a release could not be installed
    ROLLED_BACK = "rolled-back"  # a release was taken back


@dataclass(frozen=True)
class Report:
    """One thing that happened.

    Attributes:
        event: What.
        at: When, UTC, by the client's clock.
        version: What ran then.
        release: Which release it is about; None: about none.
        reason: Why, where something failed; of a download, the way it took and its bytes: one line of at most
            `MOST_REASON` characters.
    """

    event: Event
    at: datetime
    version: Version
    release: Version | None = None
    reason: str = ""

    @property
    def subject(self) -> Version:
        """The version that it tells something of: the release, or else what ran."""
        return self.version if self.release is None else self.release

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON has."""
        return {
            "event": self.event.value,
            "at": spell_time(self.at),
            "version": str(self.version),
            "release": self.release and str(self.release),
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, members: object) -> Self:
        """Read what `to_json` returns, and nothing else. Raises `ValueError`, which says what is wrong."""
        if not isinstance(members, dict) or set(members) != set(_REPORT_KEYS):
            raise ValueError(f"a report has the members {', '.join(_REPORT_KEYS)}; found {members!r:.80}")
        event, at, version, release, reason = (members[key] for key in _REPORT_KEYS)
        if not all(isinstance(each, str) for each in (event, at, version, "" if release is None else release, reason)):
            raise ValueError(f"a report has texts; found {members!r:.200}")
        if len(reason) > MOST_REASON or not reason.isprintable():
            raise ValueError(f"reason is {reason!r:.80}, not one line of {MOST_REASON} characters at most")
        return cls(
            event=Event(event),
            at=parse_time(at),
            version=parse_version(version),
            release=None if release is None else parse_version(release),
            reason=reason,
        )


@dataclass(frozen=True)
class Batch:
    """Reports that are sent together.

    Attributes:
        batch: 32 random hex digits; the same when the batch is sent again, so that it is counted once.
        appname, platform, channel: What the client is and follows.
        installation: Its random id, if it tells that.
        reports: The oldest first; at least one.
    """

    batch: str
    appname: str
    platform: str
    channel: str
    installation: str | None
    reports: tuple[Report, ...]

    def to_bytes(self) -> bytes:
        """Render as compact JSON."""
        members = {
            "kind": REPORTS_KIND,
            "batch": self.batch,
            "appname": self.appname,
            "platform": self.platform,
            "channel": self.channel,
            "installation": self.installation,
            "reports": [each.to_json() for each in self.reports],
        }
        return json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read what `to_bytes` renders, strictly. Raises `MalformedDocumentError`."""
        if len(body) > MOST_BYTES:
            raise MalformedDocumentError(f"it is longer than {MOST_BYTES} bytes")
        members = load_object(body)
        try:
            return cls._from_json(members)
        except ValueError as error:
            raise MalformedDocumentError(str(error)) from error

    @classmethod
    def _from_json(cls, members: dict[str, Any]) -> Self:
        if set(members) != set(_BATCH_KEYS):
            raise ValueError(f"the members {', '.join(_BATCH_KEYS)} are expected, not {list(members)!r:.80}")
        kind, batch, appname, platform, channel, installation, reports = (members[key] for key in _BATCH_KEYS)
        if kind != REPORTS_KIND:
            raise ValueError(f"kind is {kind!r:.80}, not {REPORTS_KIND}")
        if not all(isinstance(each, str) for each in (batch, appname, platform, channel)):
            raise ValueError("batch, appname, platform and channel are texts")
        if not _BATCH.fullmatch(batch):
            raise ValueError(f"batch is {batch!r:.80}, not 32 lower-case hex digits")
        if installation is not None and not _is_uuid(installation):
            raise ValueError(f"installation is {installation!r:.80}, neither null nor a UUID")
        if not isinstance(reports, list) or not 1 <= len(reports) <= MOST_REPORTS:
            raise ValueError(f"reports is {reports!r:.80}, not a list of 1 to {MOST_REPORTS}")
        return cls(
            batch=batch,
            appname=appname,
            platform=parse_platform(platform),
            channel=parse_channel(channel),
            installation=installation,
            reports=tuple(Report.from_json(each) for each in reports),
        )


def _is_uuid(value: object) -> bool:
    """Return whether a value is a UUID in the one form that Python writes."""
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        return False

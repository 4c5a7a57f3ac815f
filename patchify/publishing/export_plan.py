"""What an export holds: the signed documents of all channels and platforms, and the files that they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from patchify.forms import path_of
from patchify.messages import UpdateDocument, with_signature
from patchify.platforms import KNOWN
from patchify.releases import ReleaseState
from patchify.server.catalogue import PublishedFile, Snapshot
from patchify.server.core import Core
from patchify.server.documents import Issuer


@dataclass(frozen=True)
class Plan:
    """What an export is to hold, as the catalogue is at one moment.

    Attributes:
        appname: Whose releases.
        documents: By path.
        files: By path.
        needed: Until when each path is; UTC.
        expires: When the first of the documents does; UTC.
        next_step: When the share of a rollout would next change, which only another export makes true; None: never.
    """

    appname: str
    documents: Mapping[str, bytes]
    files: Mapping[str, PublishedFile]
    needed: Mapping[str, datetime]
    expires: datetime
    next_step: datetime | None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


def plan(core: Core, time: datetime, *, life: int | None = None, platforms: Sequence[str] = ()) -> Plan:
    """Sign the documents of all channels and platforms, and find out which files they name.

    Args:
        core: Whose.
        time: Now.
        life: Hours that a document is to be believed; None: as configured.
        platforms: Further ones, beside those in use and those that anything was built for.

    Raises:
        CatalogueError, CatalogueUnavailableError: the catalogue cannot be read.
    """
    config = core.config if life is None else replace(core.config, document_life=life)
    snapshot = core.catalogue.snapshot()
    issuer = Issuer(config, snapshot, lambda: time)
    documents: dict[str, bytes] = {}
    files: dict[str, PublishedFile] = {}
    needed: dict[str, datetime] = {}
    for channel in sorted(snapshot.channels | {config.channel}):
        for platform in dict.fromkeys((*KNOWN, *sorted(snapshot.platforms), *platforms)):
            signed = issuer.update(channel, platform)
            document = UpdateDocument.parse(signed.body)
            path = f"updates/{channel}/{platform}"
            documents[path] = with_signature(signed.body, signed.signature)
            needed[path] = document.expires
            for sha256 in _named(document):
                file = path_of(sha256)
                files[file] = snapshot.file(sha256)
                needed[file] = max(document.expires, needed.get(file, document.expires))
    expires = min(needed[path] for path in documents)
    return Plan(config.appname, documents, files, needed, expires, _next_step(snapshot, time))


def _named(document: UpdateDocument) -> Iterator[str]:
    for release in document.releases:
        yield release.sha256
        yield from (sha256 for sha256, _ in release.forms.files(release.size))


def _next_step(snapshot: Snapshot, time: datetime) -> datetime | None:
    steps = (
        placement.next_step(time)
        for release in snapshot.seen
        if not release.critical
        for placement in release.placements
        if placement.state is ReleaseState.LIVE
    )
    return min((step for step in steps if step is not None), default=None)

"""What the server has for this installation: asked by update documents, or by the original protocol.

An update document that was accepted teaches the installation never to go back to the original's answers, which can be
replayed. Its serial, and the application it was about, are remembered before anything is made of it: durably, or on a
full disk as long as the process lives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

from semver import Version

from patchify.client.config import Config
from patchify.client.installer import Installer
from patchify.client.memory import Memory
from patchify.client.selection import Wishes, select
from patchify.client.state import Phase
from patchify.client.transport import Transport
from patchify.client.trust import Expected, PinnedKey, SignedAnswer
from patchify.errors import (
    ChannelNotFoundError,
    DocumentsRequiredError,
    DowngradeRefusedError,
    FileOperationError,
    HttpError,
    UnsuitableFormatError,
    UpdateInProgressError,
)
from patchify.forms import Forms
from patchify.messages import OfferedRelease, UpdateDocument
from patchify.releases import STABLE

_log = logging.getLogger(__name__)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Offer:
    """A version that can be installed, and what its user may want to know.

    Attributes:
        version: Its version.
        size: Bytes; None where the server does not say before the download.
        notes: What is new, Markdown; empty where the server does not say.
        critical: Whether it should not wait.
        published: When, UTC; None where the server does not say.
        sha256: Of its file; None where the server does not say yet.
        path: Where its file is below the address of the API; None: where the original protocol has it.
        downgrade: Whether it is older than the version that runs, which was withdrawn.
        format: What the file is, one of `patchify.releases.FORMATS`.
        forms: In which forms it can be had, beside the whole file; none where the server does not say.
    """

    version: Version
    size: int | None = None
    notes: str = ""
    critical: bool = False
    published: datetime | None = None
    sha256: str | None = None
    path: str | None = None
    downgrade: bool = False
    format: str = "file"
    forms: Forms = field(default_factory=Forms)

    def __str__(self) -> str:
        return str(self.version)


def _files_of(releases: Iterable[OfferedRelease]) -> set[str]:
    """Return the hashes of all files by which these releases can come."""
    found = set()
    for each in releases:
        compressed = each.forms.compressed
        found |= {each.sha256, *(patch.sha256 for patch in each.forms.patches)}
        found |= set() if compressed is None else {compressed.sha256}
    return found


@dataclass(frozen=True)
class Look:
    """What a look at the server has shown.

    Attributes:
        offer: What can be installed, None if there is nothing.
        withdrawn: Whether the version that runs was withdrawn.
        listed: The hashes of all that is offered to anybody, None if the server does not tell.
    """

    offer: Offer | None = None
    withdrawn: bool = False
    listed: frozenset[str] | None = None


class Source:
    """Asks one server about one installation.

    Args:
        config: Who asks.
        transport: How.
        trust: Whom to believe.
        installer: Where it is remembered.
        clock: Gives the time, UTC.
    """

    def __init__(
        self,
        config: Config,
        transport: Transport,
        trust: PinnedKey,
        installer: Installer,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._config = config
        self._transport = transport
        self._trust = trust
        self._installer = installer
        self._clock = clock
        self._accepted: UpdateDocument | None = None

    def look(self, *, asked: bool) -> Look:
        """Ask what there is, and forget what is staged if it was withdrawn; called under the installer's lock.

        Args:
            asked: Whether a person does, who waits neither for a rollout nor for what was put off.

        Raises:
            AnswerError, ConnectionFailedError, FileOperationError: the leaf says what is wrong.
        """
        memory = self._memory()
        answer = self._document(memory)
        wishes = self._wishes(memory, asked=asked, original=answer is None)
        if answer is None:
            return Look(self._original(wishes))
        document = self._accept(answer, memory)
        self._drop({each.sha256 for each in document.withdrawn})
        skipped = wishes.choices.skipped
        self._installer.drop(_files_of(each for each in document.releases if str(each.version) not in skipped))
        listed = frozenset(each.sha256 for each in document.releases)
        leave = self._is_withdrawn(document)
        if leave:
            _log.warning("version %s, which runs, was withdrawn", self._config.current)
            wishes = wishes.leaving()
        state = self._installer.state()
        release = select(document.releases, wishes, lambda sha256: state.quarantined(sha256) is not None)
        if release is None:
            return Look(None, leave, listed)
        self._check(release, document, answer.url, wishes)
        return Look(self._offer(release), leave, listed)

    def sha256(self, offer: Offer) -> str:
        """Return the hash of what is offered, asking the server if it has not said. Raises as `look`."""
        if offer.sha256 is not None:
            return offer.sha256
        return self._trust.sha256(self._transport.hash(str(offer.version)), offer.version)

    def wants(self, version: Version, *, asked: bool) -> bool:
        """Return whether a version that was found, or is staged, is still wanted. Raises `UnableToReadFileError`."""
        memory = self._memory()
        return self._wishes(memory, asked=asked, original=not memory.taught).leaving().want(version)

    @property
    def channel(self) -> str:
        """The channel that is asked for. Raises `UnableToReadFileError`."""
        return self._installer.memory().choices.channel or self._config.channel

    def _wishes(self, memory: Memory, *, asked: bool, original: bool) -> Wishes:
        wishes = Wishes.of(self._config, memory.choices, memory.installation, self._clock(), asked=asked)
        unsaid = self._config.prereleases is None and memory.choices.prereleases is None
        return wishes.with_prereleases() if original and unsaid else wishes

    def _memory(self) -> Memory:
        key = self._config.verifying_key.to_hex()
        memory = self._installer.memory().of_key(key)
        return memory if self._accepted is None else self._learned(memory, self._accepted)

    def _learned(self, memory: Memory, document: UpdateDocument) -> Memory:
        """Return what is remembered with a document; over a connection that anybody can change no name is learned."""
        parts = urlsplit(self._config.api)
        safe = parts.scheme == "https" or parts.hostname in _LOOPBACK
        return memory.with_document(document, self._config.verifying_key.to_hex(), learn_name=safe)

    def _document(self, memory: Memory) -> SignedAnswer | None:
        """Return the update document, not yet to be believed, or None if the original protocol is to be used."""
        channel, platform = memory.choices.channel or self._config.channel, self._config.platform
        if self._config.update_documents == "never":
            if channel != STABLE:
                raise ChannelNotFoundError(self._config.api, channel, platform)
            return None
        try:
            return self._transport.update(channel, platform)
        except HttpError as error:
            if error.status != 404:
                raise
            if channel != STABLE:
                raise ChannelNotFoundError(error.url, channel, platform) from error
            if memory.taught:
                raise DocumentsRequiredError(error.url, "the server had update documents before") from error
            if self._config.update_documents == "required":
                raise DocumentsRequiredError(error.url, "update_documents is 'required'") from error
        return None

    def _accept(self, answer: SignedAnswer, memory: Memory) -> UpdateDocument:
        config = self._config
        expected = Expected(
            appname=config.appname or memory.appname,
            channel=memory.choices.channel or config.channel,
            platform=config.platform,
            serial=memory.serial,
            issued=memory.issued,
            now=self._clock(),
            tolerance=config.clock_tolerance,
        )
        document = self._trust.update(answer, expected)
        self._accepted = document
        key = config.verifying_key.to_hex()
        try:
            self._installer.remember(lambda before: self._learned(before.of_key(key), document))
        except (
            FileOperationError,
            UpdateInProgressError,
        ) as error:  # a full disk: an update would fail, but a check need not
            _log.warning("%s", error)
        return document

    def _is_withdrawn(self, document: UpdateDocument) -> bool:
        """Return whether what runs was withdrawn: this build, and not only another one of the same version.

        The hash tells, where the program is known by one; what was installed as a plain folder is not, and then the
        version does, unless a build of it is still offered.
        """
        running = str(self._config.current)
        if running not in {str(each.version) for each in document.withdrawn}:
            return False
        if self._installer.installed() in {each.sha256 for each in document.withdrawn}:
            return True
        known = {each.sha256 for each in self._installer.state().known}
        offered = any(str(each.version) == running for each in document.releases)
        return not offered and self._installer.installed() not in known

    def _drop(self, withdrawn: set[str]) -> None:
        """Forget a release that is staged and was withdrawn."""
        update = self._installer.state().update
        if update is not None and update.phase is Phase.STAGED and update.release.sha256 in withdrawn:
            _log.warning("version %s, which was ready, was withdrawn and is dropped", update.release.version)
            self._installer.forget()

    def _check(self, release: OfferedRelease, document: UpdateDocument, url: str, wishes: Wishes) -> None:
        """Raise if what was selected is below what was confirmed here, or cannot take the place of the program."""
        good = self._installer.state().good
        if good is not None and release.version < good.version and self._installer.installed() == good.sha256:
            withdrawn = good.sha256 in {each.sha256 for each in document.withdrawn}
            if not (withdrawn and wishes.allow_downgrade):
                raise DowngradeRefusedError(url, offered=str(release.version), confirmed=str(good.version))
        if release.format not in self._installer.formats:
            raise UnsuitableFormatError(str(release.version), release.format, self._installer.path)

    def _offer(self, release: OfferedRelease) -> Offer:
        return Offer(
            version=release.version,
            size=release.size,
            notes=release.notes,
            critical=release.critical,
            published=release.published,
            sha256=release.sha256,
            path=release.path,
            downgrade=not release.version > self._config.current,
            format=release.format,
            forms=release.forms,
        )

    def _original(self, wishes: Wishes) -> Offer | None:
        """Return what the original protocol offers: the newest version there is, if it is wanted."""
        version = self._trust.latest(self._transport.latest())
        if not wishes.want(version):
            return None
        state = self._installer.state()
        if any(str(bad.release.version) == str(version) for bad in state.bad):
            bad = state.quarantined(self._trust.sha256(self._transport.hash(str(version)), version))
            if bad is not None:
                _log.info("version %s is in quarantine: it %s", version, bad.reason)
                return None
        return Offer(version)

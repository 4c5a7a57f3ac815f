"""Which of the releases that are offered is for this installation: pure, so that a hundred thousand can be tried.

The first that fits, of a list that is ordered from the newest on. What is looked at, in this order: is it an update at
all; does the user want it; may a version so old go straight to it; is this installation among the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Self

from semver import Version

from patchify.client.choices import Choices
from patchify.client.config import Config
from patchify.messages import OfferedRelease
from patchify.releases import STABLE, in_cohort
from patchify.versions import VersionRange


@dataclass(frozen=True)
class Wishes:
    """What an installation runs, and what is wanted for it.

    Attributes:
        running: The version that runs.
        leave: Whether it was withdrawn.
        asked: Whether a person asks, who waits neither for a rollout nor for what was put off.
        installation: The random id of the installation.
        versions: Only these; None: all.
        prereleases: Whether pre-releases are wanted.
        allow_downgrade: Whether an older version is, where this one was withdrawn.
        choices: What the user has chosen of single versions.
        now: The time, UTC.
    """

    running: Version
    installation: str
    now: datetime
    leave: bool = False
    asked: bool = False
    versions: VersionRange | None = None
    prereleases: bool = False
    allow_downgrade: bool = False
    choices: Choices = field(default_factory=Choices)

    @classmethod
    def of(cls, config: Config, choices: Choices, installation: str, now: datetime, *, asked: bool) -> Self:
        """Return what is wanted by a configuration, and by the choices of its user, which go before it."""
        pin = choices.pin if choices.pin is not None else config.pin
        downgrade = choices.allow_downgrade
        prereleases = choices.prereleases if choices.prereleases is not None else config.prereleases
        if prereleases is None:
            prereleases = (choices.channel or config.channel) != STABLE or config.current.prerelease is not None
        return cls(
            running=config.current,
            installation=installation,
            now=now,
            asked=asked,
            versions=VersionRange.parse(pin) if pin is not None else None,
            prereleases=prereleases,
            allow_downgrade=config.allow_downgrade if downgrade is None else downgrade,
            choices=choices,
        )

    def leaving(self) -> Self:
        """Return them for a version that was withdrawn."""
        return replace(self, leave=True)

    def with_prereleases(self) -> Self:
        """Return them with pre-releases wanted."""
        return replace(self, prereleases=True)

    def want(self, version: Version) -> bool:
        """Return whether a version is wanted, leaving aside who may have it."""
        if not version > self.running:
            older = self.leave and self.allow_downgrade and str(version) != str(self.running)
            if not older:
                return False
        if version.prerelease is not None and not self.prereleases:
            return False
        if self.versions is not None and version not in self.versions:
            return False
        if str(version) in self.choices.skipped:
            return False
        return self.asked or not self.choices.is_put_off(str(version), self.now)

    def may_have(self, release: OfferedRelease) -> bool:
        """Return whether this installation may go straight to a release, and already."""
        if release.floor is not None and self.running < release.floor:
            return False
        rollout = release.rollout
        if rollout is None or release.critical or self.asked:
            return True
        return in_cohort(self.installation, rollout.seed, rollout.percent)


def select(
    releases: Iterable[OfferedRelease], wishes: Wishes, is_bad: Callable[[str], bool] = lambda sha256: False
) -> OfferedRelease | None:
    """Return the release to be installed next, None if there is none.

    Args:
        releases: What an update document offers, newest first.
        wishes: For whom.
        is_bad: Says of a SHA-256 whether that release is in quarantine here.
    """
    suitable = (each for each in releases if wishes.want(each.version) and wishes.may_have(each))
    return next((each for each in suitable if not is_bad(each.sha256)), None)

"""Publishing over the network, from a build machine: what a server takes from whoever has its token.

A file is sent in pieces. One that is cut short, by the network or by a proxy that takes no longer ones, is gone on with
where it broke off, also by a later run. What is asked twice is done once.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from semver import Version

from patchify.errors import ConnectionFailedError, PublishingFailedError
from patchify.files import Progress
from patchify.messages import JSON
from patchify.publishing.connection import Connection, Token, check_url, read_answer
from patchify.publishing.patience import Patience
from patchify.publishing.publisher import Publication
from patchify.publishing.sending import Sending
from patchify.publishing.upload import Upload
from patchify.releases import Release, Schedule

ANSWER_TIMEOUT = 60.0  # seconds


class RemotePublisher:
    """A `Publisher` that asks a server, over TLS.

    Args:
        url: Address of the server's API, ``https://…/api/``; ``http`` for this machine only.
        token: What the server has as ``publish_token``.
        pause: Waits so many seconds.
        chance: Gives a random number from 0 to 1.
        clock: Seconds that only grow.

    Raises:
        ConfigError: the address or the token is none.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        pause: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = check_url(url)
        self._token = Token(token)
        self._pause = pause
        self._chance = chance
        self._clock = clock

    def publish(self, file: Path, publication: Publication, progress: Progress | None = None) -> Release:
        """Send a file as far as it is not there yet, and publish it.

        Raises:
            UnreadableFileError, FileChangedError: the file cannot be read, or changed meanwhile.
            PublicationError, PublishingRefusedError, AnswerError: nothing was published.
            UnavailableError: it was not published, or it cannot be known whether it was; the same call goes on.
        """
        with Upload(file, progress) as upload, Connection(self.url, self._token) as connection:
            patience = Patience(self._pause, self._chance)
            release = Sending(connection, upload, publication, patience, self._clock).run()
            upload.done()
            return release

    def releases(self) -> list[Release]:
        """Return all releases, newest first."""
        return self._ask("GET", "publications", Patience(self._pause, self._chance))

    def promote(
        self,
        version: Version,
        source: str,
        target: str,
        platform: str | None = None,
        schedule: Schedule | None = None,
        *,
        force: bool = False,
    ) -> list[Release]:
        """Offer what is live in one channel in another one, too."""
        return self._steer(
            "promote",
            version=str(version),
            source=source,
            target=target,
            platform=platform,
            schedule=schedule and str(schedule),
            force=force,
        )

    def rollout(
        self,
        version: Version,
        channel: str,
        schedule: Schedule,
        platform: str | None = None,
        pause_above: int | None = None,
    ) -> list[Release]:
        """Give a release another schedule, which begins now."""
        return self._steer(
            "rollout",
            version=str(version),
            channel=channel,
            schedule=str(schedule),
            platform=platform,
            pause_above=pause_above,
        )

    def pause(
        self, version: Version, channel: str | None = None, platform: str | None = None, why: str = ""
    ) -> list[Release]:
        """Offer a live release no longer for now."""
        return self._steer("pause", version=str(version), channel=channel, platform=platform, why=why)

    def resume(
        self,
        version: Version,
        channel: str | None = None,
        platform: str | None = None,
        why: str = "",
        *,
        force: bool = False,
    ) -> list[Release]:
        """Offer a paused release again, or a draft for the first time."""
        return self._steer("resume", version=str(version), channel=channel, platform=platform, why=why, force=force)

    def withdraw(
        self, version: Version, channel: str | None = None, platform: str | None = None, why: str = ""
    ) -> list[Release]:
        """Never offer a release again, and tell clients that have it to leave it."""
        return self._steer("withdraw", version=str(version), channel=channel, platform=platform, why=why)

    def _steer(self, action: str, **arguments: Any) -> list[Release]:
        """Ask for a step and return what it changed; or what stands there now, if that may have been an earlier try."""
        given = {name: value for name, value in arguments.items() if value is not None}
        patience = Patience(self._pause, self._chance)
        changed = self._ask("POST", f"publications/{action}", patience, given)
        if changed or patience.failures == 0:
            return changed
        platform, channel = given.get("platform"), given.get("target", given.get("channel"))
        return [
            each
            for each in self.releases()
            if str(each.version) == given["version"]
            and platform in (None, each.platform)
            and (channel is None or each.placed(channel) is not None)
        ]

    def _ask(self, method: str, path: str, patience: Patience, members: dict[str, Any] | None = None) -> list[Release]:
        data, headers = (None, None) if members is None else (json.dumps(members).encode(), {"Content-Type": JSON})
        with Connection(self.url, self._token) as connection:
            while True:
                try:
                    answer = connection.ask(method, path, ANSWER_TIMEOUT, data, headers)
                    break
                except (ConnectionFailedError, PublishingFailedError) as error:
                    patience.wait(error)
        return read_answer(self.url + path, lambda: [Release.from_json(each) for each in answer["releases"]])

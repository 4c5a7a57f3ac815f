"""The catalogue in a database: SQLite in a file, or PostgreSQL, by the same code.

A server asks the database for the catalogue's revision at most twice a second, whoever asks it how often, and reads the
releases only when that has changed.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from patchify.errors import CatalogueError, PatchifyError
from patchify.releases import Release, newest_first
from patchify.releases import now as _now
from patchify.server import migration, schema
from patchify.server.catalogue import Snapshot
from patchify.server.database import file_of, keep_wal, make_engine, parse_url, reading, translated

_TOO_OLD = 1.0  # seconds; who would get an older snapshot waits for the one who looks
_PATIENCE = 2.0  # seconds; and for no longer than this
_LONGEST_REST = 30.0  # seconds between two looks at a database that fails
_MOST_AHEAD = 600_000  # milliseconds that a revision may be ahead of the clock: what clients put up with as a rule

_log = logging.getLogger(__name__)


class SqlCatalogue:
    """A catalogue that several servers and publishers share.

    Args:
        url: Of the database, as SQLAlchemy has it: ``sqlite:////srv/catalogue.db``, ``postgresql://user@host/name``.
        look_every: Seconds between two looks at the revision.
        clock: Gives seconds that only go up.
        now: Gives the time, UTC.

    Raises:
        CatalogueError: the URL is none of these. The database is not looked at yet.
    """

    def __init__(
        self,
        url: str,
        *,
        look_every: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = _now,
    ) -> None:
        parsed = parse_url(url)
        self.url = parsed.render_as_string(hide_password=True)
        self.engine = make_engine(parsed, self.url)
        self._look_every = look_every
        self._clock = clock
        self._now = now
        self._looking = threading.Lock()
        self._process = os.getpid()
        self._looked = 0.0
        self._rest = look_every
        self._failed = False
        self._snapshot: Snapshot | None = None

    def snapshot(self) -> Snapshot:
        """Return the releases as they were half a second ago; see `Catalogue`.

        One request looks, the others get what there was before. Only when that is older than a second, because nobody
        asked for a while, do they wait for the one who looks, for two seconds at most. While the database cannot be
        used, the snapshot of the last time is returned, and it is looked at less and less often: each 30 s in the end.

        Raises:
            CatalogueError, CatalogueUnavailableError: there was none yet.
        """
        if self._process != os.getpid():  # forked, maybe while another thread was looking, which is not here
            self._process, self._looking = os.getpid(), threading.Lock()
        snapshot = self._snapshot
        if snapshot is None:
            with self._looking:
                snapshot = self._snapshot = self._snapshot or self._look(None)
                self._looked = self._clock()
        elif (age := self._age()) >= self._rest:
            waits = age > _TOO_OLD and not self._failed
            if self._looking.acquire(timeout=_PATIENCE if waits else 0):
                try:
                    snapshot = self._snapshot or snapshot
                    if self._age() >= self._rest:  # nobody has looked meanwhile
                        snapshot = self._snapshot = self._look_again(snapshot)
                        self._looked = self._clock()
                finally:
                    self._looking.release()
        return snapshot

    @contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        """Change the catalogue, all at once; see `EditableCatalogue`.

        Raises:
            CatalogueError, CatalogueUnavailableError: nothing was changed.
        """
        with self.writing() as connection:
            revision = connection.execute(select(schema.catalogue.c.revision).with_for_update()).scalar_one()
            transaction = SqlTransaction(connection, self._releases(connection))
            yield transaction
            if transaction.changed:
                connection.execute(update(schema.catalogue).values(revision=_following(revision, self._now())))
        self._looked = -math.inf  # who changes it is to see that at once

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a connection in a transaction that may write, which is committed at the end, or rolled back.

        Raises:
            CatalogueError, CatalogueUnavailableError: nothing was written.
        """
        self._expect_file()
        with translated(self.url), self.engine.begin() as connection:
            migration.check(connection, self.url)
            yield connection

    def create(self) -> None:
        """Make the tables in a database that has none. Raises as `upgrade`, and `CatalogueError` if there are some."""
        with translated(self.url), self.engine.begin() as connection:
            if migration.current(connection) is not None:
                raise CatalogueError(self.url, "there is one already")
            migration.upgrade(connection, "head")
        self._keep_wal()

    def upgrade(self, revision: str = "head") -> str:
        """Bring the tables to a revision of the schema, with what they hold, and return which that is.

        Raises:
            CatalogueError, CatalogueUnavailableError: nothing was changed.
        """
        with translated(self.url), self.engine.begin() as connection:
            migration.upgrade(connection, revision)
            reached = str(migration.current(connection))
        self._keep_wal()
        return reached

    def downgrade(self, revision: str) -> None:
        """Bring the tables back to an earlier revision, or to nothing (``"base"``). Raises as `upgrade`."""
        with translated(self.url), self.engine.begin() as connection:
            migration.downgrade(connection, revision)

    def _keep_wal(self) -> None:
        with translated(self.url):
            keep_wal(self.engine)

    def _age(self) -> float:
        """Return the seconds since somebody last looked."""
        return self._clock() - self._looked

    def _look_again(self, before: Snapshot) -> Snapshot:
        """Return what the database holds now, or ``before`` if it cannot be used; that is logged once."""
        try:
            snapshot = self._look(before)
        except PatchifyError as error:
            if not self._failed:
                _log.error("the releases of before go on being served: %s", error)
            self._failed = True
            self._rest = min(2 * self._rest, max(_LONGEST_REST, self._look_every))
            return before
        self._failed = False
        self._rest = self._look_every
        return snapshot

    def _look(self, before: Snapshot | None) -> Snapshot:
        """Return what the database holds now, which is ``before`` if the revision is still that."""
        self._expect_file()
        with translated(self.url), self.engine.connect() as connection:
            reading(connection)
            if before is None:
                migration.check(connection, self.url)
            revision = connection.execute(select(schema.catalogue.c.revision)).scalar_one()
            if before is not None and before.revision == revision:
                return before
            return Snapshot(self._releases(connection), revision)

    def _releases(self, connection: Connection) -> list[Release]:
        try:
            return list(schema.to_releases(connection.execute(schema.ALL)))
        except (ValueError, TypeError) as error:
            raise CatalogueError(self.url, f"it holds what no version of Patchify writes: {error}") from error

    def _expect_file(self) -> None:
        """Raise `CatalogueError` if the file of an SQLite database is not there: SQLite would make an empty one."""
        file = file_of(self.engine.url)
        if file is not None and not os.path.exists(file):
            raise CatalogueError(self.url, "there is no such file: make it with `patchify init` or `patchify migrate`")


class SqlTransaction:
    """A change under way; see `Transaction`."""

    def __init__(self, connection: Connection, releases: Iterable[Release]) -> None:
        self._connection = connection
        self._releases = _by_name(releases)
        self.changed = False

    def releases(self) -> Mapping[tuple[str, str], Release]:
        """Return all releases by name, newest first, with what was changed here."""
        return self._releases

    def put(self, release: Release) -> None:
        """Add a release, or replace the one of the same name."""
        if self._releases.get(release.name) == release:
            return
        self._delete(release)
        self._connection.execute(insert(schema.releases), schema.of_release(release))
        rows = list(schema.of_placements(release))
        if rows:
            self._connection.execute(insert(schema.placements), rows)
        self._releases = _by_name([*(each for each in self._releases.values() if each.name != release.name), release])
        self.changed = True

    def remove(self, release: Release) -> None:
        """Remove the release of this name."""
        if release.name in self._releases:
            self._delete(release)
            self._releases = {name: each for name, each in self._releases.items() if name != release.name}
            self.changed = True

    def _delete(self, release: Release) -> None:
        version, platform = release.name
        for table in (schema.placements, schema.releases):
            self._connection.execute(delete(table).where(table.c.version == version, table.c.platform == platform))


def _by_name(releases: Iterable[Release]) -> dict[tuple[str, str], Release]:
    return {each.name: each for each in sorted(releases, key=newest_first, reverse=True)}


def _following(revision: int, now: datetime) -> int:
    """Return the revision after a change: the time, but higher than before.

    One that lies far ahead is from a clock that was wrong, and no client with a right clock has believed it: with it
    goes all that clients of now refuse.
    """
    milliseconds = int(now.timestamp() * 1000)
    if revision > milliseconds + _MOST_AHEAD:
        _log.warning(
            "the catalogue was last changed in the future, by a clock that is wrong; its serial goes back to now"
        )
        return milliseconds
    return max(revision + 1, milliseconds)

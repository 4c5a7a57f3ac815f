"""How the database of a catalogue is reached, and what its failures mean.

All that waits has a limit, so that no request hangs on a database that does. No connection is kept: one that is would
not survive a fork, and is not to be shared by the processes of one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    InternalError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.pool import NullPool

from patchify.errors import CatalogueError, CatalogueUnavailableError

CONNECT_TIMEOUT = 5  # seconds
LOCK_TIMEOUT = 10  # seconds that a change waits for another one
STATEMENT_TIMEOUT = 30  # seconds
IDLE_TIMEOUT = 60  # seconds that a transaction may stand still, such as that of a publisher who was stopped

_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
_CONNECTION = {  # a server that is gone is noticed after some 10 s
    "connect_timeout": CONNECT_TIMEOUT,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_READS = {"patchify_reads": True}  # the option of a connection that writes nothing
_BARE = {"patchify_bare": True}  # of one for what cannot be done in a transaction
_PASSING = (OperationalError, InternalError, InterfaceError)  # what may be over later; other errors will not be
_WRONG = {
    getattr(sqlite3, f"SQLITE_{name}")
    for name in ("ERROR", "CORRUPT", "TOOBIG", "CONSTRAINT", "MISMATCH", "MISUSE", "FORMAT", "NOTADB")
}  # the others of SQLite


def parse_url(text: str) -> URL:
    """Return the URL of a database, with the driver that is used for it. Raises `CatalogueError` if it is none."""
    try:
        url = make_url(text)
    except ArgumentError:
        raise CatalogueError(
            "URL", "it is not the URL of a database, such as sqlite:////srv/catalogue.db or postgresql://user@host/name"
        ) from None
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        shown = url.render_as_string(hide_password=True)
        raise CatalogueError(shown, f"{url.get_backend_name()} is not supported; sqlite and postgresql are")
    if url.get_backend_name() == "sqlite" and not url.database:
        raise CatalogueError(str(url), "a database in memory is gone with its process; name a file")
    return url


def make_engine(url: URL, shown: str) -> Engine:
    """Return what makes connections to a database. Raises `CatalogueError` if there is no driver for it.

    Args:
        url: As `parse_url` returns it; its own ``options`` and ``connect_timeout`` are kept.
        shown: The URL without its password.
    """
    sqlite = url.get_backend_name() == "sqlite"
    arguments = {"timeout": LOCK_TIMEOUT} if sqlite else _limits(url)
    try:
        engine = create_engine(url, poolclass=NullPool, connect_args=arguments)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise CatalogueError(
            shown, f"its driver is not installed ({error}): pip install 'patchify-updater[postgresql]'"
        ) from error
    if sqlite:
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def file_of(url: URL) -> str | None:
    """Return the path of the file that holds a database, None for one that has a server."""
    if url.get_backend_name() != "sqlite" or url.database is None:
        return None
    return unquote(urlsplit(url.database).path) if url.database.startswith("file:") else url.database


def keep_wal(engine: Engine) -> None:
    """Let who reads a SQLite database not wait for who writes, from now on: the file itself remembers it."""
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.execution_options(**_BARE).exec_driver_sql("PRAGMA journal_mode=WAL").close()


def reading(connection: Connection) -> None:
    """Set a connection up to read only, and all of it as it was at one moment, whoever writes meanwhile."""
    if connection.dialect.name == "postgresql":
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    connection.execution_options(**_READS)


@contextmanager
def translated(shown: str) -> Iterator[None]:
    """Turn what a database raises into `CatalogueError` or, if it may be over later, `CatalogueUnavailableError`."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = (isinstance(error, DBAPIError) and error.orig) or error
        problem = " ".join(str(cause).split())
        code = getattr(cause, "sqlite_errorcode", None)  # its low byte is the kind; a class says less
        wrong = not isinstance(error, _PASSING) if code is None else code & 0xFF in _WRONG
        if wrong:
            raise CatalogueError(shown, problem) from error
        raise CatalogueUnavailableError(shown, problem) from error


def _limits(url: URL) -> dict[str, Any]:
    limits = {
        "lock_timeout": LOCK_TIMEOUT,
        "statement_timeout": STATEMENT_TIMEOUT,
        "idle_in_transaction_session_timeout": IDLE_TIMEOUT,
    }
    options = [f"-c {name}={seconds}s" for name, seconds in limits.items()]
    given = url.query.get("options", ())
    options += [given] if isinstance(given, str) else given
    chosen = {name: value for name, value in _CONNECTION.items() if name not in url.query}
    return {**chosen, "options": " ".join(options)}


def _set_up_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # transactions begin as `_begin_sqlite` says, and not at the first change
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):  # neither writes: a database may be read-only here
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    # Who is going to write waits for others now, not when it has read what they are changing.
    options = connection.get_execution_options().items()
    if not options >= _BARE.items():
        connection.exec_driver_sql("BEGIN" if options >= _READS.items() else "BEGIN IMMEDIATE")

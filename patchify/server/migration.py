"""Which schema a database has, and how it gets another one: Alembic, set up without a file of its own.

The migrations lie in ``migrations/versions``; each goes forward and back.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, column, inspect, select, table

from patchify.errors import CatalogueError

_VERSION = table("alembic_version", column("version_num"))


def current(connection: Connection) -> str | None:
    """Return the revision of the schema of a database, None if it has none."""
    if not inspect(connection).has_table(_VERSION.name):
        return None
    found: str | None = connection.execute(select(_VERSION)).scalar()
    return found


@cache
def head() -> str:
    """Return the revision that this version of Patchify works with."""
    return str(_scripts().get_current_head())


def check(connection: Connection, url: str) -> None:
    """Raise `CatalogueError` unless the database has the schema that this version of Patchify works with."""
    found = current(connection)
    if found is None:
        raise CatalogueError(
            url, "the database is empty: make the catalogue with `patchify init` or `patchify migrate`"
        )
    if found == head():
        return
    known = {script.revision for script in _scripts().walk_revisions()}
    if found in known:
        raise CatalogueError(url, f"its schema is {found}, older than {head()}: bring it up with `patchify migrate`")
    raise CatalogueError(url, f"its schema is {found}, of a newer version of Patchify: install that here, too")


def upgrade(connection: Connection, revision: str) -> None:
    """Bring the schema forward to a revision. Raises `CatalogueError`."""
    _run(connection, "upgrade", revision)


def downgrade(connection: Connection, revision: str) -> None:
    """Bring the schema back to a revision. Raises `CatalogueError`."""
    _run(connection, "downgrade", revision)


def _run(connection: Connection, name: str, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    try:
        getattr(command, name)(config, revision)
    except CommandError as error:
        url = connection.engine.url.render_as_string(hide_password=True)
        raise CatalogueError(url, f"its schema cannot be changed: {error}") from error


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())

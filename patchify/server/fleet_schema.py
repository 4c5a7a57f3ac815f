"""The tables that hold what the programs in the field tell, and the two ways to write to them.

Both databases have an ``INSERT`` that goes on if the row is there already, so that any number of processes can add to
the same row; SQLAlchemy has it in the dialects.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Column, Connection, Date, Integer, MetaData, String, Table, and_, update
from sqlalchemy.dialects import postgresql, sqlite

metadata = MetaData()

batches = Table(
    "fleet_batches",
    metadata,
    Column("batch", String(32), primary_key=True),
    Column("day", Date, nullable=False, index=True),
)
"""The batches that were counted, each once."""

counts = Table(
    "fleet_counts",
    metadata,
    Column("day", Date, primary_key=True),
    Column("version", String(256), primary_key=True),
    Column("platform", String(40), primary_key=True),
    Column("channel", String(40), primary_key=True),
    Column("event", String(16), primary_key=True),
    Column("count", Integer, nullable=False),
)
"""How often an event was told of on a day."""

installations = Table(
    "fleet_installations",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("version", String(256), nullable=False),
    Column("platform", String(40), nullable=False),
    Column("channel", String(40), nullable=False),
    Column("seen", Date, nullable=False, index=True),
    Column("outcome", String(320), nullable=False),
)
"""What each installation that tells its id runs, and the last outcome that was counted of it."""

outcomes = Table(
    "fleet_outcomes",
    metadata,
    Column("version", String(256), primary_key=True),
    Column("platform", String(40), primary_key=True),
    Column("channel", String(40), primary_key=True),
    Column("changed", String(20), primary_key=True),
    Column("good", Integer, nullable=False, server_default="0"),
    Column("bad", Integer, nullable=False, server_default="0"),
    Column("day", Date, nullable=False, index=True),
)
"""How a release that is watched has done in a channel since its place there was ``changed``."""


def insert(connection: Connection, table: Table, row: Mapping[str, object]) -> bool:
    """Insert a row; return False if it is there already."""
    statement = _inserting(connection, table).values(**row).on_conflict_do_nothing()
    return connection.execute(statement.returning(*table.primary_key)).first() is not None


def put(connection: Connection, table: Table, row: Mapping[str, object]) -> None:
    """Insert a row, or replace the one with the same key."""
    key = [each.name for each in table.primary_key]
    rest = {name: value for name, value in row.items() if name not in key}
    statement = _inserting(connection, table).values(**row)
    connection.execute(statement.on_conflict_do_update(index_elements=key, set_=rest))


def add(connection: Connection, table: Table, row: Mapping[str, object], column: str, number: int) -> None:
    """Add to a number of a row, which is made if it is not there."""
    statement = _inserting(connection, table).values(**row, **{column: number})
    more = {column: table.c[column] + number}
    connection.execute(
        statement.on_conflict_do_update(index_elements=[each.name for each in table.primary_key], set_=more)
    )


def add_if_there(connection: Connection, table: Table, row: Mapping[str, object], column: str, number: int) -> bool:
    """Add to a number of a row; return False if there is none."""
    where = and_(*(each == row[each.name] for each in table.primary_key))
    return connection.execute(update(table).where(where).values(**{column: table.c[column] + number})).rowcount == 1


def _inserting(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)

"""The schema goes forward and back, on SQLite and on PostgreSQL, and is what the code expects."""

from itertools import pairwise

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, inspect

from patchify.errors import CatalogueError
from patchify.server import fleet_schema, migration, schema
from patchify.server.sql_catalogue import SqlCatalogue
from tests.server.test_sql_catalogue import put, release

REVISIONS = ["0001", "0002", "0003"]


def tables(catalogue):
    """Return the columns of all tables."""
    found = inspect(catalogue.engine)
    names = set(found.get_table_names()) - {"alembic_version"}
    return {(name, column["name"]) for name in names for column in found.get_columns(name)}


def test_each_step_goes_forward_and_back(catalogue_url):
    catalogue = SqlCatalogue(catalogue_url)
    shapes = []
    for revision in REVISIONS:
        assert catalogue.upgrade(revision) == revision
        shapes.append(tables(catalogue))
    assert all(one < other for one, other in pairwise(shapes))
    for revision, shape in zip(REVISIONS[::-1], shapes[::-1], strict=True):
        assert tables(catalogue) == shape
        catalogue.downgrade("-1" if revision != REVISIONS[0] else "base")
    assert tables(catalogue) == set()
    assert catalogue.upgrade() == migration.head() == REVISIONS[-1]
    assert tables(catalogue) == shapes[-1]


def test_what_was_published_survives_the_way_back_and_forward(catalogue_url):
    catalogue = SqlCatalogue(catalogue_url, look_every=0)
    catalogue.create()
    put(catalogue, release("1.0.0"), release("2.0.0", notes="new"))
    before = catalogue.snapshot()
    catalogue.downgrade(REVISIONS[0])
    catalogue.upgrade()
    after = SqlCatalogue(catalogue_url).snapshot()
    assert (after.releases, after.revision) == (before.releases, before.revision)


def test_the_migrations_make_the_tables_that_the_code_uses(catalogue_url):
    catalogue = SqlCatalogue(catalogue_url)
    catalogue.create()
    expected = MetaData()
    for metadata in (schema.metadata, fleet_schema.metadata):
        for table in metadata.tables.values():
            table.to_metadata(expected)
    with catalogue.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), expected) == []


def test_an_older_schema_and_a_newer_one_say_what_to_do(catalogue_url):
    catalogue = SqlCatalogue(catalogue_url)
    catalogue.upgrade(REVISIONS[0])
    with pytest.raises(CatalogueError, match=r"0001, older than 0003.*patchify migrate"):
        catalogue.snapshot()
    with pytest.raises(CatalogueError, match="patchify migrate"), catalogue.transaction():
        pass
    with catalogue.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(CatalogueError, match="newer version of Patchify"):
        catalogue.snapshot()
    with pytest.raises(CatalogueError, match="cannot be changed"):
        catalogue.upgrade()


def test_a_revision_that_does_not_exist_changes_nothing(catalogue_url):
    catalogue = SqlCatalogue(catalogue_url)
    catalogue.create()
    for change in (catalogue.upgrade, catalogue.downgrade):
        with pytest.raises(CatalogueError, match="cannot be changed"):
            change("1234")
    catalogue.snapshot()


def test_a_migration_that_fails_in_the_middle_changes_nothing(catalogue_url):
    catalogue = SqlCatalogue(catalogue_url)
    catalogue.upgrade(REVISIONS[0])
    before = tables(catalogue)
    with catalogue.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE fleet_installations (id INTEGER)")  # in the way of the third one
    with pytest.raises(Exception, match="fleet_installations"):
        catalogue.upgrade()
    assert tables(catalogue) == before | {("fleet_installations", "id")}
    with catalogue.engine.connect() as connection:
        assert migration.current(connection) == REVISIONS[0]

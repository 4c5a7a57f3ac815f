import pytest
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, insert

from patchify.server.room import COUNTED_EVERY, Room

TABLE = Table("things", MetaData(), Column("id", Integer, primary_key=True))


class Clock:
    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def connection():
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        TABLE.create(connection)
        yield connection
    engine.dispose()


def test_rows_that_are_there_and_those_that_come_take_up_room(connection, clock):
    connection.execute(insert(TABLE))
    room = Room(TABLE, 3, clock)
    assert [room.take(connection) for _ in range(4)] == [True, True, False, False]


def test_what_others_add_and_remove_is_seen_after_a_while(connection, clock):
    connection.execute(insert(TABLE))
    room = Room(TABLE, 1, clock)
    assert not room.take(connection)
    connection.execute(TABLE.delete())
    clock.time += COUNTED_EVERY - 1
    assert not room.take(connection)
    clock.time += 1
    assert room.take(connection)

"""How many rows a table may have, where anybody can make some: a limit that costs next to nothing to keep."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Connection, Table, func, select

COUNTED_EVERY = 600.0  # seconds


class Room:
    """Room for the rows of one table.

    A process counts all rows once in a while, and what it adds itself in between. So several processes may go beyond
    the limit, each by what it saw free, and are all refused from the next time on.

    Args:
        table: Which.
        most: Rows that it may have.
        clock: Seconds that only grow.
    """

    def __init__(self, table: Table, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = table
        self._most = most
        self._clock = clock
        self._rows = 0
        self._next_count: float | None = None

    def take(self, connection: Connection) -> bool:
        """Take the room for one more row, or return False if there is none."""
        now = self._clock()
        if self._next_count is None or now >= self._next_count:
            self._rows = connection.scalar(select(func.count()).select_from(self._table)) or 0
            self._next_count = now + COUNTED_EVERY
        if self._rows >= self._most:
            return False
        self._rows += 1
        return True

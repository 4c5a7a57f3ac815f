"""A fleet that follows a rollout, simulated: ``python -m tests.benchmarks.fleet [CLIENTS]``.

Everything that decides is real: the server's issuer with its schedule, the client's selection with its random id, the
jitter of its polling. Time, network and disks are not. All clients start in the same second, as after a power cut; one
in fifty is told by its user to skip the version when it is first offered. Prints a table of each hour.
"""

import heapq
import random
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from patchify.client import Choices, Config
from patchify.client.polling import Poller
from patchify.client.selection import Wishes, select
from patchify.keys import SigningKey
from patchify.messages import UpdateDocument
from patchify.releases import EVERYBODY, Placement, Release, ReleaseState, Schedule
from patchify.server import Config as ServerConfig
from patchify.server.catalogue import Snapshot
from patchify.server.documents import Issuer
from patchify.versions import parse_version
from tests.benchmarks.table import Options, Row

START = datetime(2026, 11, 23, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
INTERVAL = 8  # hours between two checks of a client
SCHEDULE = "10,50@1d,100@3d"
HOURS = 4 * 24
SKIPS = 50  # one in so many
OLD, NEW = (parse_version(each) for each in ("1.0.0", "2.0.0"))


@dataclass
class Result:
    """What came of it.

    Attributes:
        clients: How many there were.
        asked: By hour: how often the server was asked.
        downloads: By hour: how many clients took the new version.
        reached: By hour: what percentage of all clients it had been offered to by then.
        wanted: By hour: the percentage that the schedule asks for.
        again: How many were offered what they had skipped.
        skipped: How many skipped it.
    """

    clients: int
    asked: Counter = field(default_factory=Counter)
    downloads: Counter = field(default_factory=Counter)
    reached: dict = field(default_factory=dict)
    wanted: dict = field(default_factory=dict)
    again: int = 0
    skipped: int = 0

    def table(self) -> str:
        lines = [f"{self.clients:,} clients, a check each {INTERVAL} h, rollout {SCHEDULE}"]
        lines.append("  hour   checks   downloads   reached %   asked for %")
        for hour in range(HOURS):
            if hour % 4 == 3 or hour < INTERVAL + 2:
                reached = f"{self.reached[hour]:9.2f}   {self.wanted[hour]:11d}"
                lines.append(f"{hour:6d} {self.asked[hour]:8d} {self.downloads[hour]:11d}   {reached}")
        lines.append(f"{self.skipped:,} skipped the version, {self.again} were offered it again")
        return "\n".join(lines)


def simulate(clients: int, seed: int = 1) -> Result:
    """Let a fleet run through the schedule."""
    chance = random.Random(seed)
    key = SigningKey.from_hex("11" * 32)
    server = ServerConfig(appname="app", key=key, releases="/nowhere", versions={})
    placed = [
        Release(version, f"{version.major:02d}" * 32, 1000, published=START, placements=(placement,))
        for version, placement in (
            (OLD, Placement("stable", ReleaseState.LIVE, START - 99 * HOUR, START - 99 * HOUR, EVERYBODY)),
            (NEW, Placement("stable", ReleaseState.LIVE, START, START, Schedule.parse(SCHEDULE), f"{seed:016x}")),
        )
    ]
    now = START
    issuer = Issuer(server, Snapshot(placed, int(START.timestamp()) * 1000), lambda: now)
    config = {
        version: Config(version=version, api="http://x", key=key.verifying_key, appname="app", platform="any")
        for version in (OLD, NEW)
    }
    ids = [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(clients)]
    pollers = [Poller(lambda: 0, INTERVAL * 3600, 60, chance.random) for _ in range(clients)]
    running, skipped, reached = [OLD] * clients, set(), set()
    result = Result(clients)
    queue = [(chance.random(), client) for client in range(clients)]  # seconds from the start, and who asks
    heapq.heapify(queue)
    parsed: dict[bytes, UpdateDocument] = {}
    for hour in range(HOURS):
        while queue[0][0] < (hour + 1) * 3600:
            seconds, client = queue[0]
            heapq.heapreplace(queue, (seconds + (pollers[client].wait() or 0), client))
            now = START + timedelta(seconds=int(seconds))
            body = issuer.update("stable", "any").body
            document = parsed.get(body) or parsed.setdefault(body, UpdateDocument.parse(body))
            choices = Choices().skipping(str(NEW)) if client in skipped else Choices()
            wishes = Wishes.of(config[running[client]], choices, ids[client], now, asked=False)
            found = select(document.releases, wishes)
            result.asked[hour] += 1
            if found is None:
                continue
            assert found.version == NEW
            reached.add(client)
            result.again += client in skipped
            if client % SKIPS == 0:
                skipped.add(client)
            else:
                running[client] = NEW
                result.downloads[hour] += 1
        result.reached[hour] = 100 * len(reached) / clients
        result.wanted[hour] = Schedule.parse(SCHEDULE).percent(hour * HOUR)
    result.skipped = len(skipped)
    return result


def rows(options: Options) -> Iterator[Row]:
    """Compare what the schedule asks for with whom the release had reached at the end of the first day and of all."""
    clients = options.rounds(20_000, 1_000)
    result = simulate(clients)
    for hour in (23, HOURS - 1):
        title = f"rollout {SCHEDULE} to {clients:,} simulated clients: offered it after {hour + 1} h"
        yield Row(title, result.reached[hour], "%", result.wanted[hour], "what the schedule asks for")


if __name__ == "__main__":
    print(simulate(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000).table())

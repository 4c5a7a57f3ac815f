"""What a catalogue costs, few releases beside many: ``python -m tests.benchmarks.catalogue [--quick]``.

Two real gunicorns of two workers each, on SQLite, one with ten releases and one with ten thousand: requests a second of
`latest` and of an update document, in turn; and how long it takes until a change is seen by every worker.
"""

import argparse
import contextlib
import http.client
import json
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from patchify.keys import SigningKey
from patchify.publishing.local import LocalPublisher
from patchify.releases import Placement, Release, ReleaseState, Schedule, now
from patchify.server import schema
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.server.storage import FolderStorage
from patchify.versions import parse_version
from tests.benchmarks.table import Options, Row, median, table
from tests.running import Gunicorn

FEW, MANY = 10, 10_000
REQUESTS = 2000  # in a round
PATHS = ("latest", "updates/stable/linux-x86_64")


def catalogue(folder: Path, count: int) -> LocalPublisher:
    """Make a server's folder with so many releases, of which only the newest has a file."""
    folder.mkdir()
    (folder / "releases").mkdir()
    SigningKey.generate().write(folder / "key")
    url = f"sqlite:///{folder / 'catalogue.db'}"
    settings = {"APPNAME": "app", "KEY": "key", "RELEASES": "releases", "CATALOGUE": "sqlite:///catalogue.db"}
    lines = [f"PATCHIFY_{name} = {json.dumps(value)}" for name, value in settings.items()]
    (folder / "patchify.toml").write_text("\n".join(lines))
    made = SqlCatalogue(url)
    made.create()
    moment = now() - timedelta(days=1)
    releases = [
        Release(parse_version(f"1.{number}.0"), "ab" * 32, 1, published=moment, placements=(placement(moment),))
        for number in range(count)
    ]
    with made.writing() as connection:
        connection.execute(schema.releases.insert(), [schema.of_release(each) for each in releases])
        rows = [row for each in releases for row in schema.of_placements(each)]
        connection.execute(schema.placements.insert(), rows)
    return LocalPublisher(made, FolderStorage(folder / "releases", "app"))


def placement(moment) -> Placement:
    return Placement("stable", ReleaseState.LIVE, moment, moment)


def rate(port: int, path: str, requests: int) -> float:
    """Return requests a second on one connection."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        started = time.perf_counter()
        for _ in range(requests):
            connection.request("GET", f"/api/{path}")
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
        return requests / (time.perf_counter() - started)


def delay(publisher: LocalPublisher, port: int, percent: int) -> float:
    """Return the seconds until twenty answers in a row, each on a connection of its own, know of a change."""
    (release, *_) = publisher.releases()
    publisher.rollout(str(release.version), "stable", Schedule.parse(str(percent)))
    started, last, in_a_row = time.perf_counter(), 0.0, 0
    while in_a_row < 20:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request("GET", f"/api/{PATHS[1]}")
            known = (
                json.loads(connection.getresponse().read())["releases"][0].get("rollout", {}).get("percent") == percent
            )
        in_a_row = in_a_row + 1 if known else 0
        last = last if known else time.perf_counter() - started
    return last


def rows(options: Options) -> Iterator[Row]:
    """Ask both servers in turn, then change both catalogues."""
    rounds = options.rounds(7)
    with contextlib.ExitStack() as running:
        servers, publishers = {}, {}
        for count in (FEW, MANY):
            folder = options.folder / str(count)
            publishers[count] = catalogue(folder, count)
            gunicorn = ("--worker-class=gthread", "--threads=4", "--workers=2", "--log-level=info")
            env = {"PATCHIFY_CONFIG": str(folder / "patchify.toml")}
            server = Gunicorn("patchify.server:create_app()", folder / "log", *gunicorn, env=env)
            servers[count] = running.enter_context(server)
        for path in PATHS:
            found = {count: [] for count in servers}
            for _ in range(rounds):
                for count, server in servers.items():
                    found[count].append(rate(server.port, path, REQUESTS // options.rounds(1, 10)))
            title = f"{path}, {MANY:,} releases in the catalogue"
            yield Row(title, median(found[MANY]), "a second", median(found[FEW]), f"{FEW} releases")
        few, many = (
            [delay(publishers[count], servers[count].port, percent) for percent in range(10, 10 + rounds)]
            for count in (FEW, MANY)
        )
        title = f"a change of {MANY:,} releases seen by every worker"
        yield Row(title, median(many), "s", median(few), f"{FEW} releases")


def main() -> None:
    parser = argparse.ArgumentParser(description="What a catalogue costs, few releases beside many.")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    with tempfile.TemporaryDirectory() as folder:
        print(table(rows(Options(Path(folder), Path(folder), parser.parse_args().quick))))


if __name__ == "__main__":
    main()

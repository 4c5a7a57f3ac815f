"""The catalogue in a database, on SQLite and on PostgreSQL."""

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from patchify.errors import CatalogueError, CatalogueUnavailableError
from patchify.releases import Placement, Release, ReleaseState, Schedule
from patchify.server import database, schema, sql_catalogue
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.versions import parse_version
from tests.running import PATIENCE, ROOT, wait_until

NOW = datetime(2026, 11, 23, 18, tzinfo=UTC)


def release(version="1.0.0", platform="any", channels=("stable",), **changes) -> Release:
    placements = tuple(Placement(each, ReleaseState.LIVE, NOW, NOW, seed="5eed") for each in channels)
    return Release(parse_version(version), "ab" * 32, 7, platform=platform, placements=placements, **changes)


def put(catalogue, *releases):
    with catalogue.transaction() as transaction:
        for each in releases:
            transaction.put(each)


def heard(catalogue) -> list[str]:
    """Return a list that grows by every statement that asks for rows."""
    statements = []

    def hear(connection, cursor, statement, *_):
        if statement.startswith("SELECT"):
            statements.append(statement)

    event.listen(catalogue.engine, "before_cursor_execute", hear)
    return statements


def versions(catalogue):
    return [str(each.version) for each in catalogue.snapshot().releases.values()]


@pytest.fixture
def url(catalogue_url):
    SqlCatalogue(catalogue_url).create()
    return catalogue_url


@pytest.fixture
def catalogue(url):
    return SqlCatalogue(url, look_every=0)


def test_a_release_is_read_as_it_was_written(catalogue):
    placement = Placement(
        "beta", ReleaseState.PAUSED, NOW, NOW + timedelta(hours=1), Schedule.parse("10,50@1d"), "5eed", 5, 30, "fails"
    )
    full = release(
        "2.0.0-rc.1+b1",
        "linux-x86_64",
        format="tar.zst",
        notes="# Neu\n\n- ümläut 🎉 'quoted' \"twice\" %s :x",
        published=NOW,
        critical=True,
        floor=parse_version("1.0.0"),
    ).with_placement(placement)
    bare = release("1.0.0", channels=())
    put(catalogue, full, bare)
    assert catalogue.snapshot().releases == {full.name: full, bare.name: bare}
    assert SqlCatalogue(catalogue.engine.url.render_as_string(False)).snapshot().releases == {
        full.name: full,
        bare.name: bare,
    }


def test_the_snapshot_is_in_order_and_the_same_until_something_changes(catalogue):
    put(catalogue, release("1.0.0"), release("10.0.0"), release("9.0.0"))
    assert versions(catalogue) == ["10.0.0", "9.0.0", "1.0.0"]
    assert catalogue.snapshot() is catalogue.snapshot()
    put(catalogue, release("10.0.0"))  # what it is already
    before = catalogue.snapshot()
    put(catalogue, release("10.0.0", notes="new"))
    assert catalogue.snapshot() is not before


def test_a_release_is_replaced_and_removed(catalogue):
    put(catalogue, release(channels=("stable", "beta")))
    put(catalogue, release(channels=("beta",)))
    assert [each.channel for each in catalogue.snapshot().find("1.0.0", channel="beta").placements] == ["beta"]
    with catalogue.transaction() as transaction:
        transaction.remove(release())
        assert transaction.releases() == {}
    assert versions(catalogue) == []


def test_what_is_removed_may_come_from_what_is_gone_through(catalogue):
    put(catalogue, release("1.0.0"), release("2.0.0"))
    with catalogue.transaction() as transaction:
        for each in transaction.releases().values():
            transaction.remove(each)
    assert versions(catalogue) == []


def test_to_remove_what_is_not_there_changes_nothing(catalogue):
    before = catalogue.snapshot()
    with catalogue.transaction() as transaction:
        transaction.remove(release())
    assert catalogue.snapshot() is before


def test_a_transaction_shows_what_it_changed_and_nobody_else_does_before_its_end(catalogue):
    put(catalogue, release("1.0.0"))
    with catalogue.transaction() as transaction:
        transaction.put(release("2.0.0"))
        assert [name for name, _ in transaction.releases()] == ["2.0.0", "1.0.0"]
        assert versions(catalogue) == ["1.0.0"]
    assert versions(catalogue) == ["2.0.0", "1.0.0"]


def test_a_transaction_that_fails_changes_nothing(catalogue):
    put(catalogue, release("1.0.0"))
    before = catalogue.snapshot()

    def fail():
        with catalogue.transaction() as transaction:
            transaction.put(release("2.0.0"))
            transaction.remove(release("1.0.0"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert catalogue.snapshot() is before


def test_the_revision_is_the_time_of_the_change_and_only_goes_up(url):
    times = [NOW, NOW, NOW - timedelta(minutes=9), NOW + timedelta(seconds=1)]
    revisions = []
    for number, time in enumerate(times):
        catalogue = SqlCatalogue(url, now=lambda time=time: time)
        put(catalogue, release(f"{number}.0.0"))
        revisions.append(catalogue.snapshot().revision)
    first = int(NOW.timestamp() * 1000)
    assert revisions == [first, first + 1, first + 2, first + 1000]


def test_after_a_change_by_a_clock_that_was_ahead_the_next_one_has_the_time_again(url, caplog):
    revisions = []
    for number, time in enumerate([NOW, NOW + timedelta(days=365), NOW, NOW]):
        put(SqlCatalogue(url, now=lambda time=time: time), release(f"{number}.0.0"))
        revisions.append(SqlCatalogue(url).snapshot().revision)
    first = int(NOW.timestamp() * 1000)
    assert revisions[0] == revisions[2] == first
    assert revisions[3] == first + 1
    assert caplog.text.count("by a clock that is wrong") == 1


def test_the_database_is_looked_at_now_and_then_and_not_for_each_request(url):
    seconds = 0.0
    catalogue = SqlCatalogue(url, look_every=0.5, clock=lambda: seconds)
    catalogue.snapshot()
    statements = heard(catalogue)
    for _ in range(100):
        catalogue.snapshot()
    assert statements == []
    seconds = 0.5
    for _ in range(100):
        catalogue.snapshot()
    assert len(statements) == 1
    put(SqlCatalogue(url), release())
    assert versions(catalogue) == []
    seconds = 1.0
    assert versions(catalogue) == ["1.0.0"]
    assert len(statements) == 3  # the revision again, and the releases


def test_ten_thousand_releases_cost_a_request_no_more_statements_than_ten(url):
    catalogue = SqlCatalogue(url, look_every=0)
    asked = {}
    for first, many in ((0, 10), (10, 10_000)):
        rows = [schema.of_release(release(f"1.{number}.0")) for number in range(first, many)]
        with catalogue.writing() as connection:  # in one statement: this is not about writing
            connection.execute(schema.releases.insert(), rows)
            connection.execute(schema.catalogue.update().values(revision=many))
        assert len(catalogue.snapshot().releases) == many
        statements = heard(catalogue)
        catalogue.snapshot()
        asked[many] = len(statements)
    assert asked == {10: 1, 10_000: 1}


def test_a_look_sees_the_releases_of_one_moment(url):
    catalogue = SqlCatalogue(url, look_every=0)
    put(catalogue, release("1.0.0"))
    before = catalogue.snapshot()
    meanwhile = [release("2.0.0"), release("3.0.0")]

    def change(connection, cursor, statement, *_):
        if meanwhile and "FROM releases" in statement:  # the revision is known by now
            put(SqlCatalogue(url), meanwhile.pop())

    put(SqlCatalogue(url), meanwhile.pop(0))
    event.listen(catalogue.engine, "before_cursor_execute", change)
    seen = catalogue.snapshot()
    assert [str(each.version) for each in seen.releases.values()] == ["2.0.0", "1.0.0"]
    assert before.revision < seen.revision < catalogue.snapshot().revision
    assert versions(catalogue) == ["3.0.0", "2.0.0", "1.0.0"]


def test_who_changes_a_catalogue_sees_it_at_once(url):
    catalogue = SqlCatalogue(url, look_every=3600)
    catalogue.snapshot()
    put(catalogue, release())
    assert versions(catalogue) == ["1.0.0"]


def test_while_one_looks_the_others_get_what_was_there_before(url):
    catalogue = SqlCatalogue(url, look_every=0)
    before = catalogue.snapshot()
    put(SqlCatalogue(url), release())
    looking, go_on = threading.Event(), threading.Event()

    def stop(*_):
        looking.set()
        assert go_on.wait(PATIENCE)

    event.listen(catalogue.engine, "before_cursor_execute", stop)
    with ThreadPoolExecutor(1) as pool:
        looked = pool.submit(catalogue.snapshot)
        assert looking.wait(PATIENCE)
        assert catalogue.snapshot() is before
        go_on.set()
        assert len(looked.result(PATIENCE).releases) == 1


class Told:
    """A lock that calls back before somebody waits for it."""

    def __init__(self, lock, waits):
        self._lock, self._waits = lock, waits
        self.release = lock.release

    def acquire(self, timeout):
        if timeout:
            self._waits()
        return self._lock.acquire(timeout=timeout)


@pytest.fixture
def looked_at(url):
    """Return a catalogue that is changed, with a clock of a second later, and one who is looking at it right now.

    Return also the event that lets him go on, and what he gets.
    """
    seconds = [0.0]
    catalogue = SqlCatalogue(url, clock=lambda: seconds[0])
    catalogue.snapshot()
    put(SqlCatalogue(url), release())
    seconds[0] = 1.5
    looking, go_on = threading.Event(), threading.Event()

    def stop(*_):
        looking.set()
        assert go_on.wait(PATIENCE)

    event.listen(catalogue.engine, "before_cursor_execute", stop)
    with ThreadPoolExecutor(1) as pool:
        looked = pool.submit(catalogue.snapshot)
        try:
            assert looking.wait(PATIENCE)
            yield catalogue, go_on, looked
        finally:
            go_on.set()


def test_who_would_get_what_is_older_than_a_second_waits_for_the_one_who_looks(looked_at):
    catalogue, go_on, looked = looked_at
    catalogue._looking = Told(catalogue._looking, go_on.set)
    assert versions(catalogue) == ["1.0.0"]
    assert catalogue.snapshot() is looked.result(PATIENCE)


def test_nobody_waits_longer_than_that_for_the_one_who_looks(looked_at, monkeypatch):
    monkeypatch.setattr(sql_catalogue, "_PATIENCE", 0.01)
    catalogue, go_on, looked = looked_at
    assert versions(catalogue) == []
    go_on.set()
    assert len(looked.result(PATIENCE).releases) == 1


def test_writers_wait_for_each_other(url):
    def add(number):
        with SqlCatalogue(url).transaction() as transaction:
            count = len(transaction.releases())
            transaction.put(release(f"{count}.{number}.0"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(16)))
    majors = [each.version.major for each in SqlCatalogue(url).snapshot().releases.values()]
    assert sorted(majors) == list(range(16))


def test_a_change_waits_for_another_one_only_so_long(url, monkeypatch):
    monkeypatch.setattr(database, "LOCK_TIMEOUT", 0.1)
    late = SqlCatalogue(url)
    with SqlCatalogue(url).transaction() as transaction:
        transaction.put(release("1.0.0"))
        with pytest.raises(CatalogueUnavailableError, match=r"lock"):
            put(late, release("2.0.0"))
        assert late.snapshot().releases == {}  # who reads does not wait
    assert versions(SqlCatalogue(url)) == ["1.0.0"]


def test_a_database_that_fails_later_is_told_of_once_and_the_releases_go_on_being_served(url, caplog):
    catalogue = SqlCatalogue(url, look_every=0)
    put(catalogue, release())
    before = catalogue.snapshot()
    fails = [True]

    def fail(*_):
        if fails:
            raise OperationalError("SELECT", {}, Exception("the disk is gone"))

    event.listen(catalogue.engine, "before_cursor_execute", fail)
    for _ in range(3):
        assert catalogue.snapshot() is before
    assert caplog.text.count("the releases of before go on being served") == 1
    assert "the disk is gone" in caplog.text
    with pytest.raises(CatalogueUnavailableError, match="the disk is gone"), catalogue.transaction():
        pass
    fails.clear()
    put(SqlCatalogue(url), release("2.0.0"))
    assert versions(catalogue) == ["2.0.0", "1.0.0"]


def test_a_database_that_fails_is_looked_at_less_and_less_often_until_it_answers(url):
    seconds, looks, fails = [0.0], [], [True]
    catalogue = SqlCatalogue(url, look_every=0.5, clock=lambda: seconds[0])
    before = catalogue.snapshot()

    def look(connection, cursor, statement, *_):
        if not statement.startswith("SELECT"):
            return
        looks.append(seconds[0])
        if fails:
            raise OperationalError("SELECT", {}, Exception("the disk is gone"))

    event.listen(catalogue.engine, "before_cursor_execute", look)
    while seconds[0] < 125:
        seconds[0] += 0.5
        assert catalogue.snapshot() is before
    assert looks == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5, 91.5, 121.5]
    with catalogue._looking:  # nobody waits for one who looks at a database that failed
        seconds[0] = 151.5
        assert catalogue.snapshot() is before
    fails.clear()
    for _ in range(3):
        catalogue.snapshot()
        seconds[0] += 0.5
    assert looks[9:] == [151.5, 152.0, 152.5]


def test_what_was_not_written_here_is_refused(catalogue):
    put(catalogue, release())
    with catalogue.writing() as connection:
        connection.exec_driver_sql("UPDATE placements SET rollout = 'half'")
    with pytest.raises(CatalogueError, match="'half' is no schedule"):
        catalogue.snapshot()


# What is no catalogue -------------------------------------------------------------------------------------------------


def test_an_empty_database_says_what_to_do(catalogue_url, tmp_path):
    (tmp_path / "catalogue.db").touch()
    with pytest.raises(CatalogueError, match="patchify init"):
        SqlCatalogue(catalogue_url).snapshot()
    with pytest.raises(CatalogueError, match="patchify init"), SqlCatalogue(catalogue_url).transaction():
        pass


def test_a_catalogue_is_made_once(url):
    with pytest.raises(CatalogueError, match="there is one already"):
        SqlCatalogue(url).create()


def test_a_file_that_is_not_there_is_not_made_by_a_look(tmp_path):
    for use in (lambda it: it.snapshot(), lambda it: it.transaction().__enter__()):
        with pytest.raises(CatalogueError, match="no such file"):
            use(SqlCatalogue(f"sqlite:///{tmp_path}/none.db"))
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_sqlite_may_be_named_as_sqlite_does(tmp_path):
    path = tmp_path / "a catalogue.db"
    owner = SqlCatalogue(f"sqlite:///{path}")
    owner.create()
    put(owner, release())
    quoted = str(path).replace(" ", "%20")
    reader = SqlCatalogue(f"sqlite:///file:{quoted}?mode=ro&uri=true")
    assert versions(reader) == ["1.0.0"]
    with pytest.raises(CatalogueUnavailableError, match="readonly"):
        put(reader, release("2.0.0"))
    with pytest.raises(CatalogueError, match="no such file"):
        SqlCatalogue(f"sqlite:///file:{quoted}2?mode=ro&uri=true").snapshot()


def test_a_reader_of_sqlite_writes_nothing_not_even_how_it_is_kept(tmp_path):
    catalogue = SqlCatalogue(f"sqlite:///{tmp_path}/catalogue.db")
    catalogue.create()

    def journal(mode=""):
        with contextlib.closing(sqlite3.connect(tmp_path / "catalogue.db")) as connection:
            return connection.execute(f"PRAGMA journal_mode{mode}").fetchone()[0]

    assert journal() == "wal"
    assert journal("=delete") == "delete"
    catalogue.snapshot()
    put(catalogue, release())
    assert journal() == "delete"
    catalogue.upgrade()
    assert journal() == "wal"


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path):
    (tmp_path / "file").write_text("this is no database, " * 100)
    with pytest.raises(CatalogueError, match="not a database"):
        SqlCatalogue(f"sqlite:///{tmp_path}/file").snapshot()


def test_a_damaged_database_is_said_to_be_damaged(tmp_path):
    path = tmp_path / "catalogue.db"
    SqlCatalogue(f"sqlite:///{path}").create()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(CatalogueError, match="malformed"):
        SqlCatalogue(f"sqlite:///{path}").snapshot()


def test_what_somebody_took_out_of_a_database_is_missed(url):
    with SqlCatalogue(url).engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM catalogue")
    with pytest.raises(CatalogueError, match="No row"):
        SqlCatalogue(url).snapshot()
    with SqlCatalogue(url).engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE catalogue")
    with pytest.raises(CatalogueError, match="catalogue"), SqlCatalogue(url).transaction():
        pass


def test_a_server_that_does_not_answer_is_waited_for_only_so_long():
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts nobody
        catalogue = SqlCatalogue(f"postgresql://me@127.0.0.1:{server.getsockname()[1]}/x?connect_timeout=1")
        with pytest.raises(CatalogueUnavailableError, match="timeout"):
            catalogue.snapshot()


def test_options_in_the_url_of_a_database_are_kept(postgresql):
    catalogue = SqlCatalogue(f"{postgresql()}&options=-csearch_path%3Dpg_catalog&connect_timeout=7")
    with catalogue.engine.connect() as connection:
        shown = [connection.exec_driver_sql(f"SHOW {each}").scalar() for each in ("search_path", "lock_timeout")]
    assert shown == ["pg_catalog", "10s"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(CatalogueUnavailableError, match="unable to open"):
        SqlCatalogue(f"sqlite:///{tmp_path}/no/where.db").create()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "not the URL"),
        ("catalogue.db", "not the URL"),
        ("mysql://h/x", "not supported"),
        ("sqlite://", "in memory"),
    ],
)
def test_what_is_no_url_of_a_database_is_refused(url, said):
    with pytest.raises(CatalogueError, match=said):
        SqlCatalogue(url)


def test_a_password_is_in_no_error():
    catalogue = SqlCatalogue("postgresql://me:secret@127.0.0.1:1/none")
    assert "secret" not in catalogue.url
    with pytest.raises(CatalogueUnavailableError) as caught:
        catalogue.snapshot()
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_a_driver_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(CatalogueError, match=r"patchify-updater\[postgresql\]"):
        SqlCatalogue("postgresql://h/x")


# Several processes ----------------------------------------------------------------------------------------------------

WATCH = """
import sys, time
from patchify.server.sql_catalogue import SqlCatalogue
catalogue = SqlCatalogue(sys.argv[1])
catalogue.snapshot()
print("ready", flush=True)
changed = float(sys.stdin.readline())
end = time.monotonic() + 30
while not catalogue.snapshot().releases and time.monotonic() < end:
    time.sleep(0.01)
print(list(catalogue.snapshot().releases), time.time() - changed < 30, flush=True)
"""

WRITE = """
import os, signal, sys
from patchify.releases import Release
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.versions import parse_version
with SqlCatalogue(sys.argv[1]).transaction() as transaction:
    transaction.put(Release(parse_version("9.0.0"), "ab" * 32))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_other_processes_see_a_change_without_being_told(url):
    command = [sys.executable, "-c", WATCH, url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as one, subprocess.Popen(command, **pipes) as other:
        assert one.stdout.readline() == other.stdout.readline() == "ready\n"
        put(SqlCatalogue(url), release())
        for each in (one, other):
            assert each.communicate(f"{datetime.now(UTC).timestamp()}\n", PATIENCE)[0] == "[('1.0.0', 'any')] True\n"


def test_a_process_that_is_killed_in_the_middle_of_a_change_leaves_the_old(url):
    put(SqlCatalogue(url), release())
    killed = subprocess.run([sys.executable, "-c", WRITE, url], cwd=ROOT, timeout=PATIENCE, check=False)
    assert killed.returncode == -signal.SIGKILL
    catalogue = SqlCatalogue(url, look_every=0)
    assert versions(catalogue) == ["1.0.0"]
    put(catalogue, release("2.0.0"))
    assert versions(catalogue) == ["2.0.0", "1.0.0"]


def test_a_catalogue_is_of_use_on_both_sides_of_a_fork(url):
    catalogue = SqlCatalogue(url, look_every=0)
    catalogue.snapshot()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            put(catalogue, release("2.0.0"))
            os._exit(0 if "2.0.0" in versions(catalogue) else 1)
        finally:
            os._exit(2)
    put(catalogue, release("1.0.0"))
    assert os.waitpid(child, 0)[1] == 0
    wait_until(lambda: versions(catalogue) == ["2.0.0", "1.0.0"], "both changes")


def test_a_process_that_is_forked_during_a_look_looks_for_itself(url):
    catalogue = SqlCatalogue(url, look_every=0)
    catalogue.snapshot()
    put(SqlCatalogue(url), release())
    with catalogue._looking:  # as another thread would hold it
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            try:
                os._exit(0 if versions(catalogue) == ["1.0.0"] else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0

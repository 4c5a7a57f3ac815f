import json
import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from filelock import FileLock

from patchify.client import reports as module
from patchify.client.reports import MOST_QUEUED, Reports, reason_of
from patchify.errors import (
    ConnectionFailedError,
    FileOperationError,
    HttpError,
    ServerBusyError,
    SmokeTestError,
    UnsafeArchiveError,
)
from patchify.reports import MOST_BYTES, MOST_REASON, MOST_REPORTS, Batch, Event

AT = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
INSTALLATION = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
CLIENT = ("app", "linux-x86_64", "stable", INSTALLATION)


class Server:
    """Takes batches, or fails as it is told to."""

    def __init__(self):
        self.batches: list[Batch] = []
        self.failure: Exception | None = None

    def __call__(self, body: bytes) -> None:
        self.batches.append(Batch.parse(body))
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "reports.jsonl"


@pytest.fixture
def reports(path, server):
    return Reports(path, server, now=lambda: AT)


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """Leave the disk in peace: thousands of reports would take it a while."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def queued(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_report_waits_in_a_file_of_the_owner_until_it_is_sent(reports, server, path):
    reports.add(Event.FAILED, "1.0.0", "2.0.0", "HttpError (HTTP status 500)")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert queued(path) == [
        {
            "event": "failed",
            "at": "2026-11-24T09:30:00Z",
            "version": "1.0.0",
            "release": "2.0.0",
            "reason": "HttpError (HTTP status 500)",
            "batch": None,
        }
    ]
    Reports(path, server).flush(*CLIENT)  # another process, later
    (batch,) = server.batches
    assert (batch.appname, batch.platform, batch.channel, batch.installation) == CLIENT
    (report,) = batch.reports
    assert (report.event, report.at, str(report.version), str(report.release)) == (Event.FAILED, AT, "1.0.0", "2.0.0")
    assert queued(path) == []


def test_nothing_is_sent_where_nothing_waits(reports, server, path):
    reports.flush(*CLIENT)
    assert server.batches == []
    assert not path.exists()


def test_reports_are_sent_in_their_order_and_without_the_installation_unless_it_is_told(reports, server):
    for event in ("checked", "downloaded", "staged"):
        reports.add(event, "1.0.0")
    reports.flush("app", "any", "beta", None)
    assert [each.event.value for each in server.batches[0].reports] == ["checked", "downloaded", "staged"]
    assert server.batches[0].installation is None


def test_a_batch_that_may_have_arrived_is_sent_again_as_it_was(reports, server):
    reports.add("checked", "1.0.0")
    server.failure = ConnectionFailedError("https://example.com/reports", "timed out")
    reports.flush(*CLIENT)
    reports.add("downloaded", "1.0.0", "2.0.0")
    reports.flush(*CLIENT)
    server.failure = None
    reports.flush(*CLIENT)
    reports.flush(*CLIENT)
    first, second, third, last = server.batches
    assert first == second == third
    assert last.batch != first.batch
    assert [each.event for each in last.reports] == [Event.DOWNLOADED]


def test_a_process_that_ends_while_it_sends_loses_nothing(reports, server, path):
    reports.add("checked", "1.0.0")
    server.failure = SystemExit()
    with pytest.raises(SystemExit):
        reports.flush(*CLIENT)
    server.failure = None
    Reports(path, server).flush(*CLIENT)
    assert server.batches[0] == server.batches[1]


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415])
def test_a_batch_that_the_server_refuses_is_dropped(reports, server, path, status, caplog):
    reports.add("checked", "1.0.0")
    server.failure = HttpError("https://example.com/reports", status)
    reports.flush(*CLIENT)
    assert queued(path) == []
    assert "1 reports are dropped" in caplog.text


@pytest.mark.parametrize("error", [HttpError("https://example.com/", 403), OSError("no network"), ZeroDivisionError()])
def test_what_is_not_accepted_is_kept(reports, server, path, error, caplog):
    caplog.set_level(logging.INFO)
    reports.add("checked", "1.0.0")
    server.failure = error
    assert reports.flush(*CLIENT) is error
    assert len(queued(path)) == 1
    assert "kept for another time" in caplog.text


def test_the_newest_reports_are_kept(reports, path):
    line = queued_line(reports, path)
    path.write_text(line.replace("1.0.0", "0.0.1") + line * (MOST_QUEUED - 1))
    reports.add("checked", "2.0.0")
    versions = [each["version"] for each in queued(path)]
    assert versions == ["1.0.0"] * (MOST_QUEUED - 1) + ["2.0.0"]


def test_a_batch_has_so_many_reports_at_most(reports, server, path):
    path.write_text(queued_line(reports, path) * (MOST_REPORTS + 1))
    reports.flush(*CLIENT)
    reports.flush(*CLIENT)
    assert [len(each.reports) for each in server.batches] == [MOST_REPORTS, 1]


@pytest.mark.parametrize("character", ["x", "\u00e9", '"', "\U0001f600"])
def test_a_batch_has_so_many_bytes_at_most(reports, server, path, character):
    line = queued_line(reports, path)
    path.write_text(line.replace('"reason": ""', f'"reason": {json.dumps(character * MOST_REASON)}') * MOST_REPORTS)
    while queued(path):
        reports.flush(*CLIENT)
    sizes = [len(each.to_bytes()) for each in server.batches]
    assert max(sizes) <= MOST_BYTES
    assert sum(len(each.reports) for each in server.batches) == MOST_REPORTS
    assert all(size > MOST_BYTES * 0.9 for size in sizes[:-1])  # and no fewer than fit


def queued_line(reports, path) -> str:
    reports.add("checked", "1.0.0")
    return path.read_text()


def test_damaged_lines_are_dropped(reports, server, path):
    line = queued_line(reports, path)
    wrong = [b"", b"\xff\xfe", b"null", b"5", b"[" * 5000, b'{"batch":null}', b"{}", line.encode()[:40]]
    path.write_bytes(b"\n".join([*wrong, line.encode()]))
    reports.flush(*CLIENT)
    assert [len(each.reports) for each in server.batches] == [1]
    assert queued(path) == []


@pytest.mark.parametrize("arguments", [("exploded", "1.0.0"), ("checked", "one"), ("failed", "1.0.0", "two")])
def test_what_is_no_report_is_logged_and_not_queued(reports, path, arguments, caplog):
    reports.add(*arguments)
    assert not path.exists()
    assert "is not queued" in caplog.text


def test_a_folder_that_is_not_there_harms_nobody(tmp_path, server, caplog):
    caplog.set_level(logging.INFO)
    reports = Reports(tmp_path / "none" / "a" / "reports.jsonl", server)
    (tmp_path / "none").write_text("a file")
    reports.add("checked", "1.0.0")
    reports.flush(*CLIENT)
    assert "is not queued" in caplog.text
    assert "kept for another time" in caplog.text
    assert server.batches == []


def test_a_queue_that_somebody_holds_is_not_waited_for_for_ever(reports, path, server, monkeypatch, caplog):
    monkeypatch.setattr(module, "_PATIENCE", 0)
    with FileLock(path.with_suffix(".lock")):
        reports.add("checked", "1.0.0")
    assert "is not queued" in caplog.text


def test_threads_do_not_lose_each_others_reports(reports, path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: reports.add("checked", f"1.0.{number}"), range(20)))
    assert {each["version"] for each in queued(path)} == {f"1.0.{number}" for number in range(20)}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("ended with exit status 1", "ended with exit status 1"),
        ("was killed by SIGSEGV", "was killed by SIGSEGV"),
        ("was ended (SIGTERM)", "was ended (SIGTERM)"),
        (
            "was not confirmed within 0.5 s: http://bob:pw@h/p answers with HTTP status 500",
            "was not confirmed within 0.5 s",
        ),
        (
            "was ended 3 times before it was confirmed, at last: by /home/Bob Smith/x",
            "was ended 3 times before it was confirmed",
        ),
        ("cannot be started: [Errno 8] Exec format error: '/home/Bob Smith/My App/x'", "cannot be started"),
        ("failed its smoke test: it did not end within 30 s", "failed its smoke test: it did not end within 30 s"),
        (
            "failed its smoke test: it ended with exit status 1, saying: no such user: bob",
            "failed its smoke test: it ended with exit status 1",
        ),
        ("/home/bob/x", ""),
        ("file:///home/bob/x", "file"),
        ("C:\\Users\\bob", "C"),
        ("two\nlines", "two"),
        ("x" * 400, "x" * MOST_REASON),
    ],
)
def test_a_reason_is_short_and_says_nothing_that_a_program_or_a_path_has_said(reports, path, text, kept):
    reports.add("failed", "1.0.0", "2.0.0", text)
    assert queued(path)[0]["reason"] == kept


SECRET = "https://bob:pw@example.com/latest"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (HttpError(SECRET, 403), "HttpError (HTTP status 403)"),
        (ServerBusyError(SECRET, 503, None), "ServerBusyError (HTTP status 503)"),
        (ConnectionFailedError(SECRET, "timed out"), "ConnectionFailedError"),
        (FileOperationError(Path("/home/Bob Smith/app"), "why"), "FileOperationError"),
        (FileOperationError(Path("/home/Bob Smith/app"), OSError(28, "full")), "FileOperationError (ENOSPC)"),
        (OSError(2, "No such file", "/home/Bob Smith/app"), "FileNotFoundError (ENOENT)"),
        (
            SmokeTestError("2.0.0", "it ended with exit status 1, saying: bob"),
            "SmokeTestError (it ended with exit status 1)",
        ),
        (UnsafeArchiveError("leads out of it", "../bob"), "UnsafeArchiveError"),
        (ZeroDivisionError("bob"), "ZeroDivisionError"),
    ],
)
def test_the_reason_of_an_error_is_its_class_and_a_word_of_ours(reports, path, error, reason):
    assert reason_of(error) == reason
    reports.add("failed", "1.0.0", "2.0.0", reason)
    assert queued(path)[0]["reason"] == reason

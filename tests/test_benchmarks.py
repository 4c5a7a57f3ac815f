"""The pieces of the benchmark suite that could lie."""

import contextlib
import os
import socket
import sys
import threading
import time

import pytest

from tests.benchmarks import __main__ as suite
from tests.benchmarks.cpu import CpuTime
from tests.benchmarks.engines import Bsdiff, applied
from tests.benchmarks.proxy import Link, Proxy
from tests.benchmarks.table import Row, at_least, at_most, shown, table


@pytest.mark.parametrize(
    ("ours", "beside", "target", "met"),
    [
        (11, 10, at_most(1.1), True),
        (11.1, 10, at_most(1.1), False),
        (9, 10, at_least(0.9), True),
        (8.9, 10, at_least(0.9), False),
        (6000, 35_000_000, at_most(6000, "B"), True),
        (6001, 35_000_000, at_most(6000, "B"), False),
        (1, None, at_most(1.1), None),
        (None, None, at_most(6000, "B"), None),
        (1, 2, None, None),
    ],
)
def test_a_row_says_whether_its_target_is_reached(ours, beside, target, met):
    row = Row("name", ours, "B", beside, "it", target)
    assert row.met is met
    assert row.cells()[-1] == ("" if target is None else {True: "yes", False: "**no**", None: "not measured"}[met])


def test_the_table_shows_figures_and_notes():
    rows = [
        Row("size", 4350, "B", 35_528_256, "the whole", at_most(6000, "B"), "all requests"),
        Row("time", 0.0421, "s", 0.04, "nginx 1.2", at_most(1.1), "all requests"),
        Row.skipped("front", "there is no nginx", at_least(3)),
    ]
    lines = table(rows).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "size (1)", "4,350 B", "35,528,256 B", "the whole", "0.000122", "≤ 6,000 B", "yes",
    ]  # fmt: skip
    assert "| 0.0421 s |" in lines[3]
    assert "| 1.05 " in lines[3]
    assert lines[4].endswith("| ≥ 3 ×     | not measured |")  # noqa: RUF001 - that sign is meant
    assert lines[5:] == ["", "1. all requests", "2. not measured: there is no nginx"]
    assert len({len(line) for line in lines[:5]}) == 1


@pytest.mark.parametrize(("figure", "text"), [(1234.5, "1,234"), (0.04213, "0.0421"), (5, "5"), (12.34, "12.3")])
def test_figures_have_three_digits_or_are_whole(figure, text):
    assert shown(figure) == text


@contextlib.contextmanager
def answering(answer: bytes, requests: int):
    """Give the port of a server that answers so many requests of five bytes, each on a connection of its own."""

    def serve():
        for _ in range(requests):
            connection, _ = listener.accept()
            with connection:
                while connection.recv(5, socket.MSG_WAITALL):
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def ask(port: int, size: int, times: int = 1) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        got = b""
        for _ in range(times):
            connection.sendall(b"hello")
            got += connection.recv(size, socket.MSG_WAITALL)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    return got


def test_a_proxy_counts_every_byte_both_ways():
    answer = bytes(range(256)) * 1000
    with answering(answer, 2) as port, Proxy(port) as proxy:
        assert ask(proxy.port, len(answer), times=3) == answer * 3
        assert ask(proxy.port, len(answer)) == answer
        assert (proxy.up.bytes, proxy.down.bytes, proxy.connections) == (4 * 5, 4 * len(answer), 2)
        assert proxy.bytes == 4 * (5 + len(answer))


def test_a_proxy_passes_on_that_the_server_has_gone():
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Proxy(listener.getsockname()[1]) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port)) as connection,
    ):
        listener.accept()[0].close()
        assert connection.recv(1) == b""


@pytest.mark.parametrize("pieces", [1, 4])
def test_a_link_takes_as_long_as_its_rate_says(monkeypatch, pieces):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    link = Link(1_000_000)
    for _ in range(pieces):
        link.carry(1_000_000 // pieces)
    assert clock[0] == pytest.approx(101, abs=0.006)


def test_cpu_time_is_what_the_threads_of_a_process_ran_for():
    before, own = CpuTime(os.getpid()), time.thread_time()
    while time.thread_time() - own < 0.05:
        pass
    assert CpuTime(os.getpid()).since(before) >= 0.049


def test_a_patch_that_makes_something_else_is_no_figure(tmp_path):
    pytest.importorskip("bsdiff4")
    old, new, other = (tmp_path / name for name in ("old", "new", "other"))
    for file, data in ((old, b"old" * 100), (new, b"new" * 100), (other, b"other")):
        file.write_bytes(data)
    Bsdiff().make(old, new, tmp_path / "patch")
    assert applied(Bsdiff(), old, new, tmp_path).seconds > 0
    with pytest.raises(AssertionError, match="something else"):
        applied(Bsdiff(), old, other, tmp_path)


@pytest.mark.parametrize(
    ("ours", "failure", "status"),
    [(1, None, 0), (3, None, 1), (1, RuntimeError("nginx fell over"), 1), (1, suite.LimitError("too long"), 1)],
    ids=["reached", "missed", "failed", "too long"],
)
def test_the_suite_goes_on_after_a_failure_and_tells_of_it(monkeypatch, capsys, ours, failure, status):
    def rows(name, shared, *, quick):
        assert quick
        if name == "serving":
            if failure is not None:
                raise failure
        else:
            yield Row("large", ours, "s", 1, "it", at_most(2))

    monkeypatch.setattr(suite, "_rows", rows)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("signal.alarm", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "serving", "large", "--quick"])
    assert suite.main() == status
    output = capsys.readouterr().out
    assert "| large " in output
    assert (failure is not None) == (f"not measured: {type(failure).__name__}: {failure}" in output)

"""What every test gets: a key, releases made of bytes, and a look at what it leaves behind."""

import contextlib
import gc
import hashlib
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import settings

from patchify.keys import SigningKey

settings.register_profile("patchify", deadline=None)  # how long an example takes says nothing here
settings.load_profile("patchify")

for ignored in ("SIGHUP", "SIGINT", "SIGQUIT"):  # by nohup or a shell, and then by everything that tests start
    if hasattr(signal, ignored) and signal.getsignal(getattr(signal, ignored)) is signal.SIG_IGN:
        usual = signal.default_int_handler if ignored == "SIGINT" else signal.SIG_DFL
        signal.signal(getattr(signal, ignored), usual)

KEY = "11" * 32  # signs nothing but tests
SLOWEST = [  # files, of which none is to be left for the end, when all but one process have nothing to do any more
    "e2e/test_frozen_rollback.py",
    "e2e/test_rollback.py",
    "proof/test_power_loss.py",
    "client/test_failing_disk.py",
    "e2e/test_launcher.py",
    "proof/test_states_and_faults.py",
    "e2e/test_self_update.py",
    "interop/test_their_server.py",
    "proof/test_system_calls.py",
    "proof/test_any_order.py",
    "e2e/test_gunicorn_update.py",
    "proof/test_crash_points.py",
    "client/test_misbehaving.py",
    "e2e/test_demo.py",
    "e2e/test_example_server.py",
    "client/test_guardian.py",
    "test_injection.py",
]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Run half as many processes again as there are cores: what starts whole programs waits half of its time."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + cores // 2


def pytest_configure(config):
    config.option.loadscopereorder = False  # by the number of tests: those that take longest are the fewest


def pytest_collection_modifyitems(items):
    if "PYTEST_XDIST_WORKER" in os.environ:
        here = Path(__file__).parent
        ranks = {here / name: rank for rank, name in enumerate(SLOWEST)}
        items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session")
def key() -> SigningKey:
    return SigningKey.from_hex(KEY)


@contextlib.contextmanager
def folder_in_memory():
    """Make an empty folder, in memory if that can be, for what is not about the disk: that would only make it slow."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def in_memory():
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture
def publish(tmp_path):
    """Return a function that writes release files and returns what a server's configuration says of them."""

    def publish(contents: dict[str, bytes], appname: str = "app") -> dict:
        folder = tmp_path / "releases"
        folder.mkdir(exist_ok=True)
        for version, data in contents.items():
            (folder / f"{appname}-{version}").write_bytes(data)
        hashes = {version: hashlib.sha256(data).hexdigest() for version, data in contents.items()}
        return {"appname": appname, "key": KEY, "releases": folder, "versions": hashes}

    return publish


@pytest.fixture
def show(record_property):
    """Return a function that shows a text, such as a table of results, at the end of the run."""
    return lambda text: record_property("shown", text)


def pytest_terminal_summary(terminalreporter):
    for report in (each for reports in terminalreporter.stats.values() for each in reports):
        for name, text in getattr(report, "user_properties", ()):
            if name == "shown" and report.when == "call":
                terminalreporter.write_sep("-", report.nodeid)
                terminalreporter.write_line(text)


@pytest.fixture(autouse=True)
def nothing_outlives_its_test(tmp_path_factory):
    """Fail a test that leaves a thread, a child process, a guardian or a socket behind."""
    before = _alive()
    yield
    for _ in range(100):  # what is ending may take a moment, up to five seconds in all
        left = (_alive() - before) | _guardians(os.fsencode(tmp_path_factory.getbasetemp()))
        if not left:
            return
        gc.collect()
        time.sleep(0.05)
    pytest.fail(f"left behind: {', '.join(sorted(left))}")


def _guardians(folder: bytes) -> set[str]:
    """Return the guardians of programs below a folder: they are no children of the test."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes()
            if b"patchify.client.guardian" in words and folder in words:
                found.add(f"guardian {path.parent.name}")
    return found


_of_the_session: set[int] = set()  # processes that several tests use, and that are ended after the last one


def _alive() -> set[str]:
    threads = {f"thread {thread.name} ({thread.ident})" for thread in threading.enumerate()}
    if not Path("/proc/self/task").exists():
        return threads
    children = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            children |= {
                f"process {pid}: {_command(pid)}"
                for pid in (task / "children").read_text().split()
                if int(pid) not in _of_the_session
            }
    sockets = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:"):
            sockets.add(target)
    return threads | children | sockets


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip() or "ended, not waited for"
    except OSError:
        return "ended"


@pytest.fixture(scope="session")
def postgresql():
    """Return a function that gives the URL of a new, empty database; the server is started when it is first called."""
    from tests.databases import REQUIRED, Cluster, programs

    started = []

    def database() -> str:
        binaries = programs()
        if binaries is None and os.environ.get(REQUIRED):
            pytest.fail("PostgreSQL is not installed, and is required here")
        if binaries is None:
            pytest.skip("PostgreSQL is not installed")
        if not started:
            started.append(Cluster(binaries))
            _of_the_session.add(started[0].start())
        return started[0].database()

    yield database
    for cluster in started:
        cluster.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def catalogue_url(request, tmp_path):
    """Return the URL of an empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalogue.db'}"
    return request.getfixturevalue("postgresql")()

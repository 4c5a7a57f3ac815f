"""A web application that updates itself under a real gunicorn: one worker of two acts, and the master reloads them."""

import contextlib
import hashlib
import json
import os
import re
import signal
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from patchify.client import FileInstaller
from patchify.keys import SigningKey
from tests.conftest import KEY
from tests.running import PATIENCE, Gunicorn, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="workers are found in /proc")

SOURCE = Path(__file__).with_name("webapp.py").read_text()
WORKERS = 2
CONFIG = """
import importlib

def post_fork(server, worker):
    importlib.invalidate_caches()
"""


def application(kind: str, folder: Path, version: str) -> bytes:
    """Return a version of the application as a module or as a zip archive that has it and something imported late."""
    source = SOURCE.replace('VERSION = "1.0.0"', f'VERSION = "{version}"')
    if kind == "module":
        return source.encode()
    with zipfile.ZipFile(folder / version, "w") as archive:
        archive.writestr("padding", os.urandom(100_000 * int(version[0])))  # so that modules stand elsewhere in each
        archive.writestr("webapp.py", source)
    return (folder / version).read_bytes()


@pytest.fixture(params=["module", "archive"])
def run(request, tmp_path, server):
    """Return a function that runs version 1 of the application under gunicorn, with more options perhaps."""
    place = tmp_path / "place"
    place.mkdir()
    (tmp_path / "gunicorn.conf.py").write_text(CONFIG)
    executable = place / ("webapp.py" if request.param == "module" else "app.zip")
    executable.write_bytes(application(request.param, tmp_path, "1.0.0"))
    server.publish("2.0.0", application(request.param, tmp_path, "2.0.0"))
    told = {
        "api": server.api,
        "key": SigningKey.from_hex(KEY).verifying_key.to_hex(),
        "executable": str(executable),
        "slow": str(tmp_path),
    }

    def run(*options):
        path = ["--chdir", place] if request.param == "module" else ["--chdir", tmp_path, "--pythonpath", executable]
        options = ["--config", tmp_path / "gunicorn.conf.py", "--workers", WORKERS, *path, *options]
        threads = ["--worker-class", "gthread", "--threads", 4, "--graceful-timeout", PATIENCE]
        env = {"TOLD": json.dumps(told), "PYTHONDONTWRITEBYTECODE": "1"}
        web = Gunicorn("webapp:app", tmp_path / "log", *options, *threads, env=env)
        web.executable = executable
        return web

    run.told = told
    return run


def ask(web, path="/") -> dict:
    with requests.get(web.url + path, headers={"Connection": "close"}, timeout=PATIENCE) as answer:
        answer.raise_for_status()
        return answer.json()


def workers(web) -> set[int]:
    return set(map(int, Path(f"/proc/{web.pid}/task/{web.pid}/children").read_text().split()))


def all_workers_are(web, version: str) -> bool:
    """Return whether every worker there is has answered, and all with this version."""
    answers = [ask(web) for _ in range(20)]
    answered = {answer["pid"] for answer in answers}
    return (
        {answer["version"] for answer in answers} == {version} and answered == workers(web) and len(answered) == WORKERS
    )


def test_the_application_becomes_version_2_without_losing_a_request(run, server, tmp_path):
    with ThreadPoolExecutor(1) as pool, run() as web:
        first = workers(web)
        slow = pool.submit(ask, web, "/slow")
        try:
            wait_until((tmp_path / "begun").exists, "the slow request")
            assert ask(web)["version"] == "1.0.0"
            server.start()  # only now is there anything to update to
            wait_until(lambda: ask(web)["version"] == "2.0.0", f"the new version\n{web.output()}")
            assert not slow.done()
        finally:
            (tmp_path / "go").touch()
        assert slow.result(PATIENCE)["version"] == "1.0.0"
        wait_until(lambda: all_workers_are(web, "2.0.0"), f"new workers only\n{web.output()}")
        assert web.popen.poll() is None  # the master is the process that was started
        assert first.isdisjoint(workers(web))
        assert hashlib.sha256(web.executable.read_bytes()).hexdigest() == server.versions["2.0.0"]
        assert len(re.findall(r"\d+ 1\.0\.0 Downloading: 2\.0\.0 \(0%\)", web.output())) == 1
        assert "Traceback" not in web.output()


def test_one_worker_goes_on_asking_and_the_other_one_waits(run, server):
    server.versions.clear()
    server.publish("1.0.0", b"whatever it is, it is not newer")
    server.start()
    with run() as web:
        wait_until(lambda: max(checks(web).values(), default=0) > 2, f"some checks\n{web.output()}")
        _, *others = sorted(checks(web).values(), reverse=True)
        assert others in ([], [1])  # at its start the other one may have asked, too
        assert checks(web).keys() <= set(workers(web))


def checks(web) -> Counter:
    """Return how often each worker has checked."""
    return Counter(map(int, re.findall(r"(\d+) 1\.0\.0 Checking", web.output())))


def test_an_application_that_is_loaded_before_the_fork_refuses_and_stays_what_it_is(run, server):
    server.start()
    with run("--preload") as web:
        web.wait_for("gunicorn reloads it only without preload_app")
        # All, for a signal to end that reaches a worker before it is up is lost, and gunicorn waits for it.
        wait_until(lambda: all_workers_are(web, "1.0.0"), f"all workers to answer\n{web.output()}")
        assert hashlib.sha256(web.executable.read_bytes()).hexdigest() != server.versions["2.0.0"]
        assert web.popen.poll() is None


FLAWS = {
    "fails at its first import": "import does_not_exist",
    "exits with an error after a moment": "import os, threading; threading.Timer(0.3, os._exit, [1]).start()",
    "hangs before it has an updater": "import time; time.sleep(300)",
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_an_application_that_fails_is_taken_back_and_serves_again(tmp_path, server, flaw):
    place = tmp_path / "place"
    place.mkdir()
    executable = place / "webapp.py"
    executable.write_bytes(application("module", tmp_path, "1.0.0"))
    told = {
        "api": server.api,
        "key": SigningKey.from_hex(KEY).verifying_key.to_hex(),
        "executable": str(executable),
        "slow": str(tmp_path),
        "trial_period": 2,
        "trial_timeout": 5,
    }
    bad = application("module", tmp_path, "2.0.0").replace(b"import json\n", f"import json\n{FLAWS[flaw]}\n".encode())
    server.publish("1.0.0", application("module", tmp_path, "1.0.0"))
    server.start()
    options = ["--workers", WORKERS, "--chdir", place, "--worker-class", "gthread", "--threads", 4]
    env = {"TOLD": json.dumps(told), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        with Gunicorn("webapp:app", tmp_path / "log", *options, "--graceful-timeout", 2, env=env) as web:
            wait_until(lambda: "1.0.0 Idle" in web.output(), "a check")
            server.publish("2.0.0", bad)
            wait_until(lambda: "1.0.0 took back 2.0.0" in web.output(), f"the way back\n{web.output()}", 60)
            assert executable.read_bytes() == application("module", tmp_path, "1.0.0")
            assert [str(each.release.version) for each in FileInstaller(executable).state().bad] == ["2.0.0"]
            wait_until(lambda: answers(web) == "1.0.0", "an answer")
            assert len(masters(place)) == 1
            # gunicorn's master ends when no worker of its can start; then the guardian has started one as it was
            assert (web.popen.poll() is not None) == (flaw == "fails at its first import")
    finally:
        for pid in masters(place):
            stop(pid)
    assert web.output().count("Restarting: 2.0.0") == 1  # it is not tried again


def answers(web) -> str | None:
    try:
        return ask(web)["version"]
    except requests.RequestException:
        return None


def masters(place: Path) -> list[int]:
    """Return the gunicorn masters that work on this folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])
            parents = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(place) in words and parents != words:
            found.append(int(folder.name))
    return found


def stop(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its end")

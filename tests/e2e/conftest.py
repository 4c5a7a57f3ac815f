"""Releases that programs of ours can become, and a real server that has them."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest
import requests

from tests.conftest import KEY
from tests.running import PATIENCE, ROOT, Gunicorn, free_port, wait_until

PROGRAM = Path(__file__).with_name("program.py").read_text()


class ReleaseServer:
    """A gunicorn with a folder of releases; it learns of a new one by a reload, as a real one would."""

    def __init__(self, folder: Path):
        folder.mkdir()
        self.folder = folder
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api/"
        self.versions: dict[str, str] = {}
        self.gunicorn = None

    def publish(self, version: str, data: bytes) -> None:
        (self.folder / f"app-{version}").write_bytes(data)
        self.versions[version] = hashlib.sha256(data).hexdigest()
        settings = {"APPNAME": "app", "KEY": KEY, "RELEASES": str(self.folder), "VERSIONS": self.versions}
        path = self.folder / "settings.json"
        path.with_suffix(".new").write_text(json.dumps({f"PATCHIFY_{name}": value for name, value in settings.items()}))
        path.with_suffix(".new").rename(path)
        if self.gunicorn:
            self.gunicorn.popen.send_signal(signal.SIGHUP)
            wait_until(lambda: self._latest() == version, f"release {version} on the server\n{self.log()}")

    def _latest(self) -> str:
        with requests.get(self.api + "latest", headers={"Connection": "close"}, timeout=PATIENCE) as answer:
            return answer.json()["version"]

    def start(self) -> None:
        options = ["--worker-class", "gthread", "--threads", "8", "--graceful-timeout", "5"]
        env = {"PATCHIFY_SETTINGS": str(self.folder / "settings.json")}
        log = self.folder / "log"
        self.gunicorn = Gunicorn("tests.e2e.release_server:app", log, *options, env=env, port=self.port)
        self.gunicorn.__enter__()

    def stop(self) -> None:
        if self.gunicorn:
            self.gunicorn.stop()
            self.gunicorn = None

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")


@pytest.fixture
def server(tmp_path):
    server = ReleaseServer(tmp_path / "releases")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Return a function that builds a version of the program as a script, zipapp or frozen; each is built once."""
    built = {}

    def build(kind: str, version: str) -> bytes:
        if (kind, version) not in built:
            folder = tmp_path_factory.mktemp(f"{kind}-{version}")
            built[kind, version] = {"script": script, "zipapp": archive, "frozen": frozen}[kind](folder, version)
        return built[kind, version]

    return build


def source(version: str) -> str:
    assert PROGRAM.count('VERSION = "1.0.0"') == 1
    return PROGRAM.replace('VERSION = "1.0.0"', f'VERSION = "{version}"')


def script(folder: Path, version: str) -> bytes:
    return f"#!{sys.executable}\n{source(version)}".encode()


def archive(folder: Path, version: str) -> bytes:
    sources = folder / "sources"
    write_sources(sources, version, "__main__.py")
    (sources / "padding").write_bytes(os.urandom(int(version[0]) * 700_000))  # the late one stands elsewhere in each
    zipapp.create_archive(sources, folder / "app", interpreter=sys.executable)
    return (folder / "app").read_bytes()


def frozen(folder: Path, version: str) -> bytes:
    sources = folder / "sources"
    write_sources(sources, version, "app.py")
    options = ["--onefile", "--log-level=ERROR", "--hidden-import=late", f"--paths={ROOT}"]
    places = [f"--distpath={folder}", f"--workpath={folder / 'work'}", f"--specpath={folder}"]
    command = [sys.executable, "-m", "PyInstaller", *options, *places, str(sources / "app.py")]
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # nothing of ours runs
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=env)
    if result.returncode:
        pytest.skip(f"PyInstaller cannot build here: {result.stderr.strip()[-500:]}")
    data = (folder / "app").read_bytes()
    shutil.rmtree(folder)
    return data


def write_sources(folder: Path, version: str, main: str) -> None:
    folder.mkdir()
    (folder / main).write_text(source(version))
    (folder / "late.py").write_text(f'TEXT = "late {version}"\n' + f"# {'padding ' * 1000}\n" * int(version[0]))

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
VERSIONS = ("1.0.0", "2.0.0", "3.0.0")
SPEC = """
found = Analysis([{folder!r} + "/1.0.0/app.py"], pathex=[{folder!r} + "/1.0.0", {root!r}], hiddenimports=["late"])

def of(version, entries):
    first = {folder!r} + "/1.0.0/"
    return [(name, path.replace(first, {folder!r} + f"/{{version}}/"), kind) for name, path, kind in entries]

for version in {versions}:
    modules = PYZ(of(version, found.pure))
    EXE(modules, of(version, found.scripts), found.binaries, found.datas, name=f"app-{{version}}", upx=False)
"""


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
    """Return a function that builds a version of the program as a script, zipapp or frozen; all are built once."""
    built = {}

    def build(kind: str, version: str) -> bytes:
        if kind not in built:
            folder = tmp_path_factory.mktemp(kind)
            built[kind] = {"script": scripts, "zipapp": archives, "frozen": frozen}[kind](folder)
        return built[kind][version]

    return build


def source(version: str) -> str:
    assert PROGRAM.count('VERSION = "1.0.0"') == 1
    return PROGRAM.replace('VERSION = "1.0.0"', f'VERSION = "{version}"')


def scripts(folder: Path) -> dict[str, bytes]:
    return {version: f"#!{sys.executable}\n{source(version)}".encode() for version in VERSIONS}


def archives(folder: Path) -> dict[str, bytes]:
    built = {}
    for version in VERSIONS:
        write_sources(folder / version, version, "__main__.py")
        padding = os.urandom(int(version[0]) * 700_000)  # so that what is imported late stands elsewhere in each
        (folder / version / "padding").write_bytes(padding)
        zipapp.create_archive(folder / version, folder / "app", interpreter=sys.executable)
        built[version] = (folder / "app").read_bytes()
    return built


def frozen(folder: Path) -> dict[str, bytes]:
    """Build all versions at once: finding out what the program imports, which they share, is most of the work."""
    for version in VERSIONS:
        write_sources(folder / version, version, "app.py")
    spec = folder / "app.spec"
    spec.write_text(SPEC.format(folder=str(folder), root=str(ROOT), versions=VERSIONS))
    places = [f"--distpath={folder}", f"--workpath={folder / 'work'}"]
    command = [sys.executable, "-m", "PyInstaller", "--log-level=ERROR", *places, str(spec)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # nothing of ours runs
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=env)
    if result.returncode:
        pytest.skip(f"PyInstaller cannot build here: {result.stderr.strip()[-500:]}")
    built = {version: (folder / f"app-{version}").read_bytes() for version in VERSIONS}
    shutil.rmtree(folder)
    return built


def write_sources(folder: Path, version: str, main: str) -> None:
    folder.mkdir()
    (folder / main).write_text(source(version))
    (folder / "late.py").write_text(f'TEXT = "late {version}"\n' + f"# {'padding ' * 1000}\n" * int(version[0]))

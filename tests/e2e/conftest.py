"""Releases that programs of ours can become, and a real server that has them."""

import functools
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipapp
from pathlib import Path

import pytest
import requests
from filelock import FileLock

from tests.conftest import KEY
from tests.running import PATIENCE, ROOT, Gunicorn, free_port, wait_until

PROGRAM = Path(__file__).with_name("program.py").read_text()
FIRST = "import importlib\n"  # what it does first
VERSIONS = ("1.0.0", "2.0.0", "2.0.1", "3.0.0")
FLAWS = {  # of a release 2.0.0, and what it does before anything else
    "fails at its first import": "import does_not_exist",
    "exits with an error after a moment": "import os, threading; threading.Timer(0.3, os._exit, [1]).start()",
    "hangs": "import time; time.sleep(300)",
}
SPEC = """
found = Analysis([{folder!r} + "/1.0.0/app.py"], pathex=[{folder!r} + "/1.0.0", {root!r}], hiddenimports=["late"])

def of(name, entries):
    first = {folder!r} + "/1.0.0/"
    return [(entry, path.replace(first, {folder!r} + f"/{{name}}/"), kind) for entry, path, kind in entries]

for name in {names}:
    modules = PYZ(of(name, found.pure))
    EXE(modules, of(name, found.scripts), found.binaries, found.datas, name=f"app-{{name}}", upx=False)
    program = EXE(modules, of(name, found.scripts), exclude_binaries=True, name="app", upx=False)
    COLLECT(program, found.binaries, found.datas, name=f"folder-{{name}}", upx=False)
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
    """Return a function that builds a release of the program, by its version or by its flaw.

    The kinds are a script, a zipapp, a PyInstaller executable ("frozen"), and a PyInstaller folder as an archive. Each
    is built once, for all processes that run tests.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "releases of the program"
    shared.mkdir(exist_ok=True)

    @functools.cache
    def build(kind: str, name: str) -> bytes:
        unable = shared / f"{kind} cannot be built"
        with FileLock(shared / "lock"):
            if not (shared / kind).exists() and not unable.exists():
                try:
                    built = BUILDERS[kind](tmp_path_factory.mktemp(kind))
                except UnableToBuildError as error:
                    unable.write_text(str(error))
                    built = {}
                for each, releases in built.items():
                    (shared / each).mkdir()
                    for release, data in releases.items():
                        (shared / each / release).write_bytes(data)
        if unable.exists():
            pytest.skip(unable.read_text())
        return (shared / kind / name).read_bytes()

    return build


class UnableToBuildError(Exception):
    """Some kind cannot be built here; says why."""


def source(version: str, flaw: str = "") -> str:
    assert PROGRAM.count('VERSION = "1.0.0"') == PROGRAM.count(FIRST) == 1
    return PROGRAM.replace('VERSION = "1.0.0"', f'VERSION = "{version}"').replace(FIRST, f"{flaw}\n{FIRST}".lstrip())


def scripts(folder: Path) -> dict[str, dict[str, bytes]]:
    return {"script": {version: f"#!{sys.executable}\n{source(version)}".encode() for version in VERSIONS}}


def archives(folder: Path) -> dict[str, dict[str, bytes]]:
    built = {}
    for name in (*VERSIONS, *FLAWS):
        write_sources(folder / name, name, "__main__.py")
        padding = os.urandom(major(name) * 700_000)  # so that what is imported late stands elsewhere in each
        (folder / name / "padding").write_bytes(padding)
        zipapp.create_archive(folder / name, folder / "app", interpreter=sys.executable)
        built[name] = (folder / "app").read_bytes()
    return {"zipapp": built}


def frozen(folder: Path) -> dict[str, dict[str, bytes]]:
    """Build all versions of both kinds at once: finding out what the program imports, which they share, takes longest."""
    names = (*VERSIONS, *FLAWS)
    for name in names:
        write_sources(folder / name, name, "app.py")
    spec = folder / "app.spec"
    spec.write_text(SPEC.format(folder=str(folder), root=str(ROOT), names=names))
    places = [f"--distpath={folder}", f"--workpath={folder / 'work'}"]
    command = [sys.executable, "-m", "PyInstaller", "--log-level=ERROR", *places, str(spec)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # nothing of ours runs
    env["PYINSTALLER_ZLIB_COMPRESSION_LEVEL"] = "1"  # a tenth of the time
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=env)
    if result.returncode:
        raise UnableToBuildError(f"PyInstaller cannot build here: {result.stderr.strip()[-500:]}")
    built = {
        "frozen": {name: (folder / f"app-{name}").read_bytes() for name in names},
        "folder": {name: archive(folder / f"folder-{name}") for name in names},
    }
    shutil.rmtree(folder)
    return built


BUILDERS = {"script": scripts, "zipapp": archives, "frozen": frozen, "folder": frozen}


def archive(folder: Path) -> bytes:
    """Pack a folder as a release, together with a script and symbolic links, as programs have them."""
    (folder / "tool").write_text("#!/bin/sh\nexit 7\n")
    (folder / "tool").chmod(0o755)
    (folder / "link").symlink_to("tool")
    (folder / "libraries").symlink_to("_internal")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    return packed.getvalue()


def write_sources(folder: Path, name: str, main: str) -> None:
    folder.mkdir()
    version = "2.0.0" if name in FLAWS else name
    (folder / main).write_text(source(version, FLAWS.get(name, "")))
    (folder / "late.py").write_text(f'TEXT = "late {version}"\n' + f"# {'padding ' * 1000}\n" * major(version))


def major(name: str) -> int:
    return 2 if name in FLAWS else int(name[0])

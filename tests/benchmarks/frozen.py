"""A program that PyInstaller packs into one file, in the versions that are updated from and to.

Built twice of one analysis: *packed*, as ``pyinstaller --onefile`` does it, and *plain*, as the README recommends for
small patches: nothing is compressed inside (``cdict={}``), and symbols are stripped. Python's hashing is fixed
(PYTHONHASHSEED=0) for both: without that, the order in sets of constants makes hundreds of KiB of each build new.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.benchmarks.table import Options, say
from tests.running import ROOT

OLD, NEW = "1.0.0", "2.0.0"
DEPENDENCY, BEFORE, AFTER = "pydantic", "2.14.3", "2.14.4"  # with a native part of 5 MB
PACKED, PLAIN = "packed", "plain"  # how it is built
LINES, UPGRADED = "two lines changed", f"one dependency changed ({DEPENDENCY} {BEFORE} → {AFTER})"
PATIENCE = 400  # seconds for one build

PROGRAM = '''
"""A program that keeps itself up to date, checking when it starts; it ends when a new version has proved good."""
import sys, threading
from datetime import timedelta
try:
    import pydantic
except ImportError:
    pydantic = None
from patchify import signals
from patchify.client import Config, Updater

VERSION = "{version}"
TEXT = "{text}"


def main():
    print("running", VERSION, TEXT, flush=True)
    proved = threading.Event()
    signals.update_confirmed.connect(lambda *_, **__: proved.set(), weak=False)
    updater = Updater(Config(
        version=VERSION, api=sys.argv[1], key=sys.argv[2], check_on_startup=True, trial_period=timedelta(0),
    ))
    idle = threading.Event()
    updater.subscribe(lambda status: print(status, flush=True) or str(status) == "Idle" and idle.set())
    with updater:
        proved.wait(60)
        idle.wait(60)
    print("proved" if proved.is_set() else "not proved", VERSION, flush=True)


if __name__ == "__main__":
    main()
'''

SPEC = """
a = Analysis([{program!r}], pathex={paths!r}, excludes={excluded!r})
pyz = PYZ(a.pure)
EXE(pyz, a.scripts, a.binaries, a.datas, [], name="packed", upx=False)
EXE(pyz, a.scripts, a.binaries, a.datas, [], name="plain", upx=False, strip={strip!r}, cdict={{}})
"""
EXCLUDED = ["mypy", "hypothesis", "setuptools", "pytest", "rich", "pygments", "sqlalchemy", "flask"]  # of the tests


class NotBuiltError(Exception):
    """PyInstaller cannot be used here."""


class Builds:
    """The programs, built when they are first asked for, and kept for all modules of one run."""

    def __init__(self, options: Options) -> None:
        """Take where they are kept."""
        self.folder = options.shared / "frozen"
        self.upgradable = True

    def old(self, kind: str) -> Path:
        """Return the older version. Raises `NotBuiltError`."""
        self._build()
        return self.folder / "old" / kind

    def new(self, kind: str, change: str) -> Path:
        """Return the newer version, with this change. Raises `NotBuiltError`."""
        self._build()
        found = self.folder / change / kind
        if not found.exists():
            raise NotBuiltError(f"{DEPENDENCY} {AFTER} cannot be installed: {(self.folder / 'why').read_text()}")
        return found

    def _build(self) -> None:
        if (self.folder / "old" / PLAIN).exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        ours = self.folder / "ours"
        shutil.copytree(ROOT / "patchify", ours / "patchify", ignore=shutil.ignore_patterns("__pycache__"))
        before, after = (self._install(version) for version in (BEFORE, AFTER))
        wanted = [("old", OLD, "the first", before), (LINES, NEW, "the second", before)]
        if before and after:
            wanted.append((UPGRADED, NEW, "the second", after))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda each: self._freeze(ours, *each), wanted))

    def _install(self, version: str) -> Path | None:
        target = self.folder / f"{DEPENDENCY}-{version}"
        say(f"installing {DEPENDENCY} {version} into a folder")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--only-binary=:all:", "--no-compile", f"--target={target}", f"{DEPENDENCY}=={version}"]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            (self.folder / "why").write_text("no answer of the package index")
            return None
        if ran.returncode:
            (self.folder / "why").write_text(ran.stderr.strip().splitlines()[-1])
            return None
        return target

    def _freeze(self, ours: Path, name: str, version: str, text: str, dependency: Path | None) -> None:
        say(f"PyInstaller builds {version}: {name}")
        work = self.folder / f"{name}-work"
        work.mkdir()
        (work / "program.py").write_text(PROGRAM.format(version=version, text=text))
        paths = [str(each) for each in (dependency, ours) if each]
        spec = {"program": str(work / "program.py"), "paths": paths, "excluded": EXCLUDED}
        (work / "program.spec").write_text(SPEC.format(**spec, strip=shutil.which("strip") is not None))
        command = [sys.executable, "-m", "PyInstaller", "--log-level=ERROR", f"--workpath={work / 'build'}"]
        command += [f"--distpath={self.folder / name}", str(work / "program.spec")]
        env = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        env["PYINSTALLER_CONFIG_DIR"] = str(work / "cache")  # of its own: two builds at once disturb each other there
        ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if ran.returncode:
            raise NotBuiltError(f"PyInstaller failed: {ran.stderr.strip()[-300:]}")
        shutil.rmtree(work)

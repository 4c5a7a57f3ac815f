"""Releases with all their forms, published as their owner would, behind the server as it is shipped."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from patchify.keys import SigningKey
from tests.running import ROOT, Gunicorn, free_port

KEY = SigningKey.generate()
APPNAME = "app"
PATIENCE = 300  # seconds for one command


@contextlib.contextmanager
def served(folder: Path, files: Mapping[str, Path], *, forms: bool = True, **settings: object) -> Iterator[Gunicorn]:
    """Publish files as releases, by version, with their forms; give the server, which has them below ``/api/``.

    Args:
        folder: Is made.
        files: By version.
        forms: Whether patches of them are made, and compressed files.
        settings: More than the necessary ones, by their keys in lower case, without PATCHIFY_.
    """
    folder.mkdir()
    (folder / "releases").mkdir()
    KEY.write(folder / "key")
    settings = {
        "appname": APPNAME,
        "key": "key",
        "releases": "releases",
        "catalogue": "sqlite:///catalogue.db",
        "make_forms": False,
        **settings,
    }
    configuration = folder / "patchify.toml"
    lines = [f"PATCHIFY_{name.upper()} = {json.dumps(value)}\n" for name, value in settings.items()]
    configuration.write_text("".join(lines))
    _patchify(configuration, "migrate")
    for version, file in files.items():
        _patchify(configuration, "publish", str(file), "--version", version)
    if forms:
        _patchify(configuration, "patches", "make")
    port = free_port()
    env = {"PATCHIFY_CONFIG": str(configuration), "FLASK_PORT": str(port), "FLASK_LOG_LEVEL": "WARNING"}
    options = ("-c", "config/gunicorn.conf.py")
    with Gunicorn("patchify.server:create_app()", folder / "server.log", *options, env=env, port=port) as server:
        yield server


def _patchify(configuration: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "patchify", *arguments, f"--config={configuration}"]
    env = {**os.environ, "PATCHIFY_CONFIG": str(configuration)}
    ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if ran.returncode:
        said = (ran.stderr or ran.stdout).strip().splitlines()
        raise RuntimeError(f"patchify {arguments[0]} failed: {''.join(said[-1:])}")

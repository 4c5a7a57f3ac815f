"""Build an example program as one file: ``python -m examples.build 1 FILE`` (or 2, 3; ``--frozen`` for PyInstaller).

A zipapp holds the program and runs with the Python, and the packages, that built it; PyInstaller packs those too.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipapp
from pathlib import Path

HERE = Path(__file__).parent
PAYLOAD = 32 * 1024 * 1024  # bytes that make a zipapp as large as a real program, so that there is a download to see


def build_zipapp(version: int, target: Path, program: str = "cli", payload: int = PAYLOAD) -> None:
    """Write a version of a program to ``target`` as a zipapp that is executable; ``payload`` is in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "examples"
        package.mkdir()
        for name in ("__init__.py", f"{program}_app.py"):
            shutil.copy(HERE / name, package)
        start = Path(folder) / "__main__.py"
        if program == "cli":
            shutil.copy(HERE / f"cli_app_v{version}.py", start)
        else:
            start.write_text(f'from examples.{program}_app import main\n\nmain("{version}.0.0")\n')
        (Path(folder) / "payload").write_bytes(os.urandom(payload))
        zipapp.create_archive(folder, target, interpreter=sys.executable)


def build_frozen(version: int, target: Path) -> None:
    """Write a version of the program to ``target`` as a PyInstaller one-file executable."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--onefile", "--log-level=ERROR", f"--name={target.name}", f"--distpath={target.parent}"]
        places = [f"--workpath={folder}", f"--specpath={folder}", f"--paths={HERE.parent}"]
        program = HERE / f"cli_app_v{version}.py"
        command = [sys.executable, "-m", "PyInstaller", *options, *places, str(program)]
        # What is the same in two versions is to be the same bytes, so that a patch from one to the other is small.
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "0"})


def main() -> None:
    """Build what the command line says."""
    parser = argparse.ArgumentParser(description="Build an example program as one file.")
    parser.add_argument("version", type=int, choices=(1, 2, 3))
    parser.add_argument("file", type=Path)
    parser.add_argument("--frozen", action="store_true", help="with PyInstaller (cli only)")
    parser.add_argument("--program", choices=("cli", "desktop"), default="cli", help="which example program")
    arguments = parser.parse_args()
    if arguments.frozen and arguments.program == "cli":
        build_frozen(arguments.version, arguments.file.absolute())
    elif arguments.frozen:
        parser.error("only the cli program is built with PyInstaller")
    else:
        build_zipapp(arguments.version, arguments.file.absolute(), arguments.program)


if __name__ == "__main__":
    main()

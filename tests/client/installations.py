"""Programs of both kinds, as they are before their first update, with an installer each and releases to install."""

import functools
import gzip
import hashlib
import io
import os
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path

from semver import Version

from patchify.client.file_installer import FileInstaller
from patchify.client.folder_installer import FolderInstaller
from patchify.client.state import Release

ONE = Version(1)
KINDS = ("file", "folder", "link")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def script(number: int) -> bytes:
    return f"#!/bin/sh\necho {number}\n".encode() + b"# more\n" * number


def tree(folder: Path, number: int) -> Path:
    """Write a program of several files into a new folder."""
    (folder / "lib").mkdir(parents=True)
    (folder / "run").write_bytes(script(number))
    (folder / "run").chmod(0o755)
    (folder / "lib" / "data.1").write_bytes(b"data %d" % number)
    (folder / "lib" / "data").symlink_to("data.1")
    return folder


def packed(folder: Path, compress=gzip.compress) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(folder, "app")
    return compress(file.getvalue())


@functools.cache
def archive(number: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return packed(tree(Path(folder) / "app", number))


class Installation:
    """One program and what is done to it.

    Args:
        kind: ``file``, ``folder`` (a plain one), or ``link`` (a symbolic link to a folder that somebody else made).
    """

    def __init__(self, place: Path, kind: str) -> None:
        place.mkdir(exist_ok=True)
        self.kind = kind
        self.place = place
        self.path = place / "app"
        if kind == "file":
            self.path.write_bytes(script(1))
            self.path.chmod(0o755)
        elif kind == "folder":
            tree(self.path, 1)
        else:
            tree(place / "elsewhere" / "app-1", 1)
            self.path.symlink_to(place / "elsewhere" / "app-1")
        self.installer = self.another()
        self.folder = self.installer.folder

    def another(self):
        """Return the installer of another process."""
        return FileInstaller(self.path) if self.kind == "file" else FolderInstaller(self.path)

    def archive(self, number: int) -> bytes:
        return script(number) if self.kind == "file" else archive(number)

    def release(self, number: int) -> Release:
        return Release(Version(number), sha256(self.archive(number)))

    def download(self, number: int) -> Release:
        """Put a release there, as it is after a download, unless it is there."""
        release = self.release(number)
        if not self.installer.is_staged(release.sha256):
            part = self.installer.part(release.sha256)
            try:
                part.take_up(lambda done: None)
                part.write(self.archive(number)[part.size :])
                self.installer.stage(release.version, part, release.sha256)
            finally:
                part.close()
        return release

    def prepare(self, number: int = 2, running: Version = ONE):
        return self.installer.prepare(self.download(number), running)

    def swap(self, number: int = 2, tries: int = 1, running: Version = ONE):
        update = self.prepare(number, running)
        assert self.installer.swap(update, tries)
        return update

    def confirm(self, number: int = 2, running: Version = ONE) -> None:
        self.swap(number, running=running)
        assert self.installer.confirm()

    @property
    def number(self) -> int:
        """What the program says that it is."""
        program = self.path if self.kind == "file" else self.path / "run"
        said = int(subprocess.run([program], capture_output=True, check=True).stdout)
        assert self.looks_like == said
        return said

    @property
    def looks_like(self) -> int:
        """What the program looks like, whole, without starting it."""
        program = self.path if self.kind == "file" else self.path / "run"
        number = int(program.read_bytes().split()[2])
        assert program.read_bytes() == script(number)
        assert stat.S_IMODE(program.stat().st_mode) == 0o755
        if self.kind != "file":
            assert (self.path / "lib" / "data").read_bytes() == b"data %d" % number
        return number

    def kept_path(self, release: Release) -> Path:
        """Return where a previous version is kept."""
        if self.kind == "file":
            return self.installer.previous_path(release.sha256)
        return self.installer.version_path(release)

    def damage(self, path: Path) -> None:
        """Change a version in place, at another time than it was last written."""
        file = path if self.kind == "file" else path / "run"
        file.write_bytes(b"damaged")
        os.utime(file, ns=(1, 1))

    def replace(self) -> None:
        """Be somebody else who puts version 9 in the place of the program."""
        other = self.place / "other"
        if self.kind == "file":
            other.write_bytes(script(9))
            other.chmod(0o755)
            other.replace(self.path)
            return
        if self.path.is_symlink():
            self.path.unlink()
        else:
            self.path.rename(self.place / "old")
        tree(self.path, 9)

    def names(self) -> list[str]:
        """Return what is in the folder beside the program."""
        return sorted(
            os.path.relpath(path, self.folder) for path in [*self.folder.glob("*"), *self.folder.glob("versions/*")]
        )

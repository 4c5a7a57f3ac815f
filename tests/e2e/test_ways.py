"""Updates by a patch, by a chain of them, compressed and whole: a real server with a catalogue, and the real client."""

import io
import json
import random
import subprocess
import sys
import tarfile
import zipapp
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import hdiffpatch
import pytest
from backports import zstd

from patchify import signals, trees
from patchify.client import Config, Updater
from patchify.client.kinds import installer_for
from patchify.client.restarter import Launch
from patchify.errors import ChannelNotFoundError
from patchify.forms import Compressed, Forms, Patch, Tree
from patchify.keys import SigningKey
from patchify.publishing import Publication
from patchify.publishing.local import LocalPublisher
from patchify.publishing.maker import Maker
from patchify.publishing.making import Limits
from patchify.server.fleet import Fleet
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.server.storage import FolderStorage
from patchify.versions import parse_version
from tests.client.fakes import FakeRestarter, sha256
from tests.conftest import KEY
from tests.running import PATIENCE, Gunicorn, wait_until

DOCUMENT = 20_000  # bytes of the update document, which is fetched, too
PADDING = random.Random(6).randbytes(200_000).hex().encode()  # it can be halved


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ways")
    (folder / "releases").mkdir()
    catalogue = SqlCatalogue(f"sqlite:///{folder / 'catalogue.db'}")
    catalogue.create()
    settings = {
        "APPNAME": "app",
        "KEY": KEY,
        "RELEASES": str(folder / "releases"),
        "CATALOGUE": f"sqlite:///{folder / 'catalogue.db'}",
        "REPORTS": True,
    }
    env = {"SERVED": json.dumps({f"PATCHIFY_{name}": value for name, value in settings.items()})}
    with Gunicorn("tests.e2e.serving:app", folder / "log", "--worker-class", "gthread", env=env) as server:
        server.catalogue = catalogue
        server.storage = FolderStorage(folder / "releases", "app")
        server.publisher = LocalPublisher(catalogue, server.storage)
        yield server


class Program:
    """A program of several versions: how it is built, published in every form, installed, and updated."""

    def __init__(self, place: Path, kind: str, server: Gunicorn) -> None:
        self.place = place
        self.kind = kind
        self.server = server
        self.major = {"file": 1, "folder": 2}[kind]
        self.path = place / "app"
        self.heard: list[tuple[str, dict]] = []
        self.publish(1)
        self.minor = 1
        if kind == "file":
            self.path.write_bytes(self.packed(1))
            self.path.chmod(0o755)
        else:
            with tarfile.open(fileobj=io.BytesIO(self.packed(1))) as archive:
                archive.extractall(place, filter="tar")

    def version(self, minor: int) -> str:
        return f"{self.major}.{minor}.0"

    def _sources(self, minor: int) -> Path:
        folder = self.place / f"built-{minor}" / "app"
        if not folder.exists():
            folder.mkdir(parents=True)
            (folder / "__main__.py").write_text(f"print('this is {self.version(minor)}')\n")
            (folder / "padding").write_bytes(PADDING + b"%d" % minor)
            (folder / "run").write_text(f'#!/bin/sh\nexec {sys.executable} "${{0%/*}}/__main__.py"\n')
            (folder / "run").chmod(0o755)
        return folder

    def packed(self, minor: int) -> bytes:
        """Return the whole file of a version."""
        file = self.place / f"packed-{minor}"
        if not file.exists():
            if self.kind == "file":
                zipapp.create_archive(self._sources(minor), file, interpreter=sys.executable)
            else:
                with tarfile.open(file, "w") as archive:
                    archive.add(self._sources(minor), "app")
        return file.read_bytes()

    def basis(self, minor: int) -> bytes:
        if self.kind == "file":
            return self.packed(minor)
        found: list[bytes] = []
        trees.pack(self._sources(minor), found.append)
        return b"".join(found)

    def place_form(self, data: bytes) -> tuple[str, int]:
        draft = self.server.storage.make_incoming() / sha256(data)
        draft.write_bytes(data)
        self.server.storage.place_form(draft, sha256(data))
        return sha256(data), len(data)

    def patch(self, old: int, new: bytes) -> Patch:
        base = self.basis(old)
        data = hdiffpatch.diff(base, new, hdiffpatch.COMPRESSION_ZSTD)
        return Patch(sha256(base), *self.place_form(data))

    def compressed(self, minor: int) -> Compressed:
        return Compressed(*self.place_form(zstd.compress(self.packed(minor))))

    def publish(self, minor: int, *patches: Patch, compressed: Compressed | None = None) -> None:
        """Publish a version, and then its forms, as they are made later."""
        file = self.place / f"file-{minor}"
        file.write_bytes(self.packed(minor))
        publication = Publication(version=parse_version(self.version(minor)), channel=self.kind)
        release = self.server.publisher.publish(file, publication)
        made = self.basis(minor)
        tree = None if self.kind == "file" else Tree(sha256(made), len(made))
        with self.server.catalogue.transaction() as transaction:
            release = transaction.releases()[release.name]
            transaction.put(replace(release, forms=Forms(compressed=compressed, tree=tree, patches=patches)))
        self.newest = minor, len(patches), compressed is not None

    def make_forms(self, minor: int) -> Forms:
        """Have the forms of a version made, as a publication does in the background."""
        Maker(self.server.catalogue, self.server.storage, Limits()).make(self.version(minor))
        forms = self.server.catalogue.snapshot().releases[self.version(minor), "any"].forms
        self.newest = minor, len(forms.patches), forms.compressed is not None
        return forms

    def update(self) -> int:
        """Update to the newest version by a process of the running one; return the bytes that it has received."""
        installer = installer_for(self.path)
        config = Config(
            version=self.version(self.minor),
            api=f"{self.server.url}/api/",
            key=SigningKey.from_hex(KEY).verifying_key,
            channel=self.kind,
            update_documents="required",
            reports=True,
            guardian=False,
            least_interval=timedelta(),
        )
        launch = Launch(str(self.path), (str(self.path),), str(self.place), frozenset(), 0)
        updater = Updater(config, restarter=FakeRestarter(), installer=installer, launch=launch)
        self.statuses = []
        updater.subscribe(lambda status: self.statuses.append(str(status)))
        for each in (signals.release_downloaded, signals.patch_failed):
            each.connect(self._hear(each.name), sender=updater, weak=False)
        minor, *forms = self.newest

        def offered() -> bool:
            try:
                updater.check()
            except ChannelNotFoundError:  # the server has looked at the catalogue a moment before
                return False
            offer = updater.available
            wanted = self.version(minor)
            return offer is not None and str(offer.version) == wanted and self._forms_of(offer) == forms

        try:
            wait_until(offered, f"version {self.version(minor)} with its forms on the server")
            before = updater._transport.received
            assert updater.update()
            received = updater._transport.received - before
            updater._reporter.flush()
        finally:
            updater.close()
        with installer.lock():
            assert installer.confirm()
        self.minor = minor
        assert self.says() == f"this is {self.version(minor)}"
        assert not [each.name for each in installer.folder.iterdir() if each.name.startswith(("form-", "staged-"))]
        return received

    def _forms_of(self, offer) -> list:
        own = [each for each in offer.forms.patches if each.result is None]
        return [len(own), offer.forms.compressed is not None]

    def _hear(self, name):
        return lambda _, **facts: self.heard.append((name, facts))

    def says(self) -> str:
        program = self.path if self.kind == "file" else self.path / "run"
        return subprocess.run([program], capture_output=True, text=True, timeout=PATIENCE, check=True).stdout.strip()

    def told(self, minor: int) -> tuple[int, int, int]:
        """Return what was reported of a version: downloads, patches that failed, releases that failed."""
        for each in Fleet(self.server.catalogue).versions():
            if each.version == self.version(minor):
                return each.downloaded, each.patch_failed, each.failed
        return 0, 0, 0


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_program_is_updated_in_every_way(kind, server, tmp_path):
    program = Program(tmp_path, kind, server)
    whole = len(program.packed(1))

    patch = program.patch(1, program.basis(2))
    program.publish(2, patch, compressed=program.compressed(2))
    assert patch.size <= program.update() <= patch.size + DOCUMENT
    way = {"version": parse_version(program.version(2)), "way": "patch", "size": patch.size}
    assert program.heard == [("release-downloaded", way)]
    assert f"Downloading: {program.version(2)} (100%)" in program.statuses

    one = program.patch(2, program.basis(3))
    program.publish(3, one)
    two = program.patch(3, program.basis(4))
    program.publish(4, two)
    assert one.size + two.size <= program.update() <= one.size + two.size + DOCUMENT
    assert program.heard[-1][1]["way"] == "chain"

    program.publish(5, compressed=program.compressed(5))
    assert program.update() < whole * 0.7
    assert program.heard[-1][1]["way"] == "zstd"

    wrong = program.patch(5, b"something else than what is signed")
    program.publish(6, wrong)
    size = wrong.size + len(program.packed(6))
    assert size <= program.update() <= size + DOCUMENT
    (_, failed), (_, downloaded) = program.heard[-2:]
    reason = "makes something else than what is signed"
    version = parse_version(program.version(6))
    assert failed == {"version": version, "sha256": wrong.sha256, "reason": reason, "next": "whole"}
    assert downloaded == {"version": version, "way": "whole", "size": len(program.packed(6))}

    program.publish(7)
    made = program.make_forms(7)
    assert len(made.patches) == Limits().patches
    assert program.update() < max(each.size for each in made.patches) + DOCUMENT
    assert program.heard[-1][1]["way"] == "patch"

    assert [program.told(minor) for minor in (2, 4, 5, 6, 7)] == [
        (1, 0, 0),
        (1, 0, 0),
        (1, 0, 0),
        (1, 1, 0),
        (1, 0, 0),
    ]

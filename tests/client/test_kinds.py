"""Which installer a program takes: by what stands at its path, or by what runs."""

import os
import sys

import pytest

from patchify.client import FileInstaller, FolderInstaller
from patchify.client.kinds import installer_for
from patchify.errors import UnableToObtainExecutableError


def test_a_file_is_a_program_of_one_file(tmp_path):
    (tmp_path / "app").write_bytes(b"x")
    for path in (tmp_path / "app", str(tmp_path / "app")):
        installer = installer_for(path)
        assert type(installer) is FileInstaller
        assert installer.path == tmp_path / "app"


def test_what_is_not_there_yet_is_a_program_of_one_file(tmp_path):
    assert type(installer_for(tmp_path / "app")) is FileInstaller


def test_a_folder_or_a_link_to_one_is_a_program_of_many_files(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "link").symlink_to("app")
    for name in ("app", "link"):
        installer = installer_for(tmp_path / name)
        assert type(installer) is FolderInstaller
        assert installer.path == tmp_path / name


def test_a_script_that_runs_is_a_program_of_one_file(monkeypatch, tmp_path):
    (tmp_path / "app.py").write_bytes(b"x")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "app.py")])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    installer = installer_for(None)
    assert type(installer) is FileInstaller
    assert installer.path == tmp_path / "app.py"


def test_what_runs_must_be_known(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["-c"])
    with pytest.raises(UnableToObtainExecutableError):
        installer_for(None)


@pytest.fixture
def freeze(monkeypatch):
    """Return a function that makes this look like a PyInstaller program."""

    def freeze(executable, unpacked):
        executable.parent.mkdir(parents=True, exist_ok=True)
        executable.write_bytes(b"x")
        monkeypatch.setattr(sys, "frozen", True, raising=False)
        monkeypatch.setattr(sys, "executable", str(executable))
        monkeypatch.setattr(sys, "_MEIPASS", str(unpacked), raising=False)

    return freeze


@pytest.mark.parametrize("inside", ["_internal", "."])  # since PyInstaller 6, and before
def test_a_one_folder_program_is_its_folder(freeze, tmp_path, inside):
    freeze(tmp_path / "app" / "app", os.path.normpath(tmp_path / "app" / inside))
    installer = installer_for(None)
    assert type(installer) is FolderInstaller
    assert installer.path == tmp_path / "app"


def test_a_one_folder_program_that_was_updated_is_what_its_user_starts(freeze, tmp_path):
    folder = tmp_path / ".app.patchify" / "versions" / f"2.0.0-{'a' * 64}"
    freeze(folder / "app", folder / "_internal")
    (tmp_path / "app").symlink_to(os.path.relpath(folder, tmp_path))
    installer = installer_for(None)
    assert type(installer) is FolderInstaller
    assert installer.path == tmp_path / "app"


@pytest.mark.parametrize("parent", ["versions", "app.patchify/versions", ".app/versions"])
def test_a_folder_that_is_only_named_like_ours_is_itself(freeze, tmp_path, parent):
    folder = tmp_path / parent / "app"
    freeze(folder / "app", folder / "_internal")
    assert installer_for(None).path == folder


def test_a_one_file_program_is_its_file(freeze, tmp_path):
    freeze(tmp_path / "app", tmp_path / "tmp" / "_MEI1234")
    installer = installer_for(None)
    assert type(installer) is FileInstaller
    assert installer.path == tmp_path / "app"


def test_a_program_that_another_tool_has_frozen_is_its_file(freeze, monkeypatch, tmp_path):
    freeze(tmp_path / "app", "")
    monkeypatch.delattr(sys, "_MEIPASS")
    assert type(installer_for(None)) is FileInstaller

"""The commands, in this process and as programs of their own."""

import hashlib
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from flask import Flask
from flask.cli import ScriptInfo

from patchify.__main__ import main
from patchify.forms import Forms, Patch
from patchify.keys import SigningKey
from patchify.publishing import Publication
from patchify.publishing.local import LocalPublisher
from patchify.server import commands, patchify_bp
from patchify.server.storage import FolderStorage
from patchify.versions import parse_version
from tests.publishing.fakes import MemoryCatalogue
from tests.running import PATIENCE

SCRIPTS = Path(sys.executable).parent
HOST = """
from flask import Flask
from patchify.server import patchify_bp

app = Flask(__name__)
app.config.update(PATCHIFY_APPNAME="app", PATCHIFY_KEY={key!r}, PATCHIFY_RELEASES={releases!r}, PATCHIFY_VERSIONS={versions!r})
app.register_blueprint(patchify_bp)
"""


def make_app(settings: dict) -> Flask:
    app = Flask("host")
    app.config.update({f"PATCHIFY_{name.upper()}": value for name, value in settings.items()})
    app.register_blueprint(patchify_bp, url_prefix="/api")
    return app


def invoke(*args, settings=None):
    info = ScriptInfo(create_app=lambda: make_app(settings)) if settings is not None else ScriptInfo()
    return CliRunner().invoke(patchify_bp.cli, [str(arg) for arg in args], obj=info)


def run(*command, cwd=None):
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLASK")}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.fixture
def host(tmp_path, publish):
    """Return a function that writes a plain application, host.py, and returns its folder."""

    def host(contents=None, **changes):
        settings = {**publish(contents or {"1.0.0": b"one"}), **changes}
        settings["releases"] = str(settings["releases"])
        (tmp_path / "host.py").write_text(HOST.format(**settings))
        return tmp_path

    return host


# keygen ---------------------------------------------------------------------------------------------------------------


def test_keygen_writes_a_key_file_that_only_its_owner_can_use_and_prints_the_public_key(tmp_path):
    result = invoke("keygen", tmp_path / "key")
    assert result.exit_code == 0
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert result.stdout == SigningKey.from_file(tmp_path / "key").verifying_key.to_hex() + "\n"


def test_keygen_leaves_an_existing_file_as_it_is(tmp_path):
    (tmp_path / "key").write_text("precious")
    result = invoke("keygen", tmp_path / "key")
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path}/key exists already and was left as it is\n"
    assert (tmp_path / "key").read_text() == "precious"
    assert result.stdout == ""


def test_keygen_in_a_missing_folder_is_one_line(tmp_path):
    result = invoke("keygen", tmp_path / "nowhere" / "key")
    assert result.exit_code == 1
    assert result.stderr == f"Error: the key file {tmp_path}/nowhere/key cannot be written: No such file or directory\n"


def test_keygen_without_a_file_prints_both_halves():
    result = invoke("keygen")
    private, public = (line.split() for line in result.stdout.splitlines())
    assert (private[0], public[0]) == ("private", "public")
    assert SigningKey.from_hex(private[1]).verifying_key.to_hex() == public[1]


# hash -----------------------------------------------------------------------------------------------------------------


def test_hash_prints_what_the_configuration_says_of_the_files(publish):
    settings = publish({"1.0.0": b"one", "2.0.0-rc.1+b.5": b"two"}, appname="my-app-2")
    files = [settings["releases"] / f"my-app-2-{version}" for version in settings["versions"]]
    result = invoke("hash", *files)
    assert result.exit_code == 0
    assert result.stdout == "".join(f'"{version}" = "{sha256}"\n' for version, sha256 in settings["versions"].items())
    assert result.stderr == ""


@pytest.mark.parametrize("name", ["app", "app-1.0", "app-v1.0.0", "1.0.0", "app-01.0.0"])
def test_hash_refuses_a_file_whose_name_has_no_version(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    result = invoke("hash", tmp_path / name)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path / name} is not named appname-version, as my-app-1.0.0 is\n"


def test_hash_refuses_two_files_of_one_version(tmp_path):
    for name in ("one-1.0.0", "two-1.0.0"):
        (tmp_path / name).write_bytes(b"")
    result = invoke("hash", tmp_path / "one-1.0.0", tmp_path / "two-1.0.0")
    assert result.exit_code == 1
    assert result.stderr == "Error: more than one file is named as version 1.0.0\n"


def test_hash_of_a_file_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    def fail(path, progress):
        raise OSError(5, "Input/output error")

    (tmp_path / "app-1.0.0").write_bytes(b"")
    monkeypatch.setattr(commands, "hash_path", fail)
    result = invoke("hash", tmp_path / "app-1.0.0")
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path}/app-1.0.0 cannot be read: Input/output error\n"


def test_hash_of_a_missing_file_or_of_none_is_wrong_usage(tmp_path):
    assert invoke("hash", tmp_path / "app-1.0.0").exit_code == 2
    assert invoke("hash").exit_code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_hash_shows_its_progress_on_a_terminal_and_keeps_stdout_clean(publish):
    settings = publish({"1.0.0": b"1" * 3_000_000, "2.0.0": b"2" * 3_000_000})
    terminal, theirs = os.openpty()
    try:
        files = sorted(settings["releases"].iterdir())
        done = subprocess.run(
            [SCRIPTS / "patchify", "hash", *files], stdout=subprocess.PIPE, stderr=theirs, timeout=PATIENCE, check=True
        )
        seen = os.read(terminal, 65536).decode()
    finally:
        os.close(theirs)
        os.close(terminal)
    assert "hashing" in seen
    assert "100%" in seen
    assert done.stdout.decode().splitlines() == [
        f'"{version}" = "{sha}"' for version, sha in settings["versions"].items()
    ]


# check ----------------------------------------------------------------------------------------------------------------


def test_check_has_one_line_for_the_key_and_for_each_release(publish, key):
    settings = publish({"1.9.0": b"one", "1.10.0": b"two"})
    result = invoke("check", settings=settings)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"key: good, public key {key.verifying_key.to_hex()}",
        f"1.10.0: good, {settings['releases']}/app-1.10.0",
        f"1.9.0: good, {settings['releases']}/app-1.9.0",
        "hashed: 2, remembered: 0",
    ]


def test_check_hashes_no_file_again_unless_it_is_told_to(publish, settled):
    settings = publish({"1.9.0": b"one", "1.10.0": b"two"})
    assert invoke("check", settings=settings).stdout.endswith("hashed: 2, remembered: 0\n")
    memory = settings["releases"] / ".hashes.json"
    known = memory.read_bytes()
    assert invoke("check", settings=settings).stdout.endswith("hashed: 0, remembered: 2\n")
    memory.write_bytes(known.replace(settings["versions"]["1.9.0"].encode(), b"ab" * 32))
    assert invoke("check", "--full", settings=settings).stdout.endswith("hashed: 2, remembered: 0\n")
    assert json.loads(memory.read_bytes()) == json.loads(known)


def test_a_full_check_finds_what_went_bad_without_a_write_and_so_does_every_start_after_it(publish, settled):
    settings = publish({"1.0.0": b"one"})
    path = settings["releases"] / "app-1.0.0"
    assert invoke("check", settings=settings).exit_code == 0
    path.write_bytes(b"eno")
    memory = settings["releases"] / ".hashes.json"
    found = path.stat()  # as if a disk had lost a bit: the file is said to be the same
    members = json.loads(memory.read_bytes())
    members["files"]["app-1.0.0"][1:] = [
        getattr(found, f"st_{name}") for name in ("dev", "ino", "size", "mtime_ns", "ctime_ns")
    ]
    memory.write_text(json.dumps(members))
    assert invoke("check", settings=settings).exit_code == 0
    result = invoke("check", "--full", settings=settings)
    assert result.exit_code == 1
    assert f"{path} has SHA-256 " in result.stderr
    assert result.stdout.endswith("hashed: 1, remembered: 0\n")
    assert invoke("check", settings=settings).exit_code == 1


def test_check_looks_at_the_forms_of_a_release_too(tmp_path, key):
    storage = FolderStorage(tmp_path / "releases", "app")
    storage.folder.mkdir()
    catalogue = MemoryCatalogue()
    (tmp_path / "build").write_bytes(b"build")
    release = LocalPublisher(catalogue, storage).publish(
        tmp_path / "build", Publication(version=parse_version("1.0.0"))
    )
    sha256 = hashlib.sha256(b"patch").hexdigest()
    with catalogue.transaction() as transaction:
        transaction.put(replace(release, forms=Forms(patches=(Patch("ab" * 32, sha256, 5),))))
    settings = {"appname": "app", "key": key.to_hex(), "releases": storage.folder, "catalogue": catalogue}
    result = invoke("check", settings=settings)
    assert result.exit_code == 1
    assert result.stderr == f"Error: release 1.0.0: {storage.form_path(sha256)} is missing or not a regular file\n"
    staged = storage.make_incoming() / "patch"
    staged.write_bytes(b"patch")
    storage.place_form(staged, sha256)
    result = invoke("check", settings=settings)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1:] == [f"1.0.0: good, {storage.path(release)}", "hashed: 2, remembered: 0"]


def test_check_hashes_the_releases_of_a_catalogue_but_not_what_is_withdrawn_everywhere(tmp_path, key):
    storage = FolderStorage(tmp_path / "releases", "app")
    storage.folder.mkdir()
    publisher = LocalPublisher(MemoryCatalogue(), storage)
    published = []
    for version in ("1.0.0", "2.0.0", "3.0.0", "4.0.0"):
        (tmp_path / "build").write_bytes(version.encode())
        publication = Publication(version=parse_version(version), platform="linux-x86_64")
        published.append(publisher.publish(tmp_path / "build", publication))
    publisher.withdraw(published[0].version)
    paths = [storage.path(each) for each in published]
    paths[0].unlink()
    paths[1].unlink()
    paths[2].write_bytes(b"3.0.1")
    catalogue = MemoryCatalogue(publisher.releases())
    settings = {"appname": "app", "key": key.to_hex(), "releases": storage.folder, "catalogue": catalogue}
    result = invoke("check", settings=settings)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1:] == [
        f"4.0.0 for linux-x86_64: good, {paths[3]}",
        "hashed: 2, remembered: 0",
    ]
    errors = result.stderr.splitlines()
    assert errors[0].startswith(f"Error: release 3.0.0: {paths[2]} has SHA-256 ")
    assert errors[1] == f"Error: release 2.0.0: {paths[1]} is missing or not a regular file"


def break_release(settings):
    (settings["releases"] / "app-1.0.0").write_bytes(b"other")


def remove_release(settings):
    (settings["releases"] / "app-1.0.0").unlink()


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (break_release, "has SHA-256 "),
        (remove_release, "release 1.0.0: "),
        (
            lambda settings: settings.update(versions={"1.0": "0" * 64}),
            "PATCHIFY_VERSIONS: '1.0' is not a SemVer version",
        ),
        (lambda settings: settings.update(key="12"), "PATCHIFY_KEY: the key file 12 cannot be read"),
        (lambda settings: settings.pop("appname"), "PATCHIFY_APPNAME: is not configured"),
    ],
)
@pytest.mark.parametrize("command", ["check", "list"])
def test_what_is_wrong_is_one_line_and_status_1(publish, spoil, line, command):
    settings = publish({"1.0.0": b"one"})
    spoil(settings)
    result = invoke(command, settings=settings)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert line in result.stderr


def test_check_of_an_application_without_the_blueprint_says_so():
    result = CliRunner().invoke(patchify_bp.cli, ["check"], obj=ScriptInfo(create_app=lambda: Flask("bare")))
    assert result.exit_code == 1
    assert result.stderr == "Error: the application bare has not registered patchify_bp\n"


def test_check_of_an_application_that_ends_the_process_has_status_1():
    def give_up():
        raise SystemExit(4)

    assert CliRunner().invoke(patchify_bp.cli, ["check"], obj=ScriptInfo(create_app=give_up)).exit_code == 1


# list -----------------------------------------------------------------------------------------------------------------


def test_list_is_a_table_with_the_newest_version_first(publish):
    settings = publish({"1.9.0": b"one", "1.10.0-rc.1": b"three", "1.10.0": b"seventeen"})
    lines = invoke("list", settings=settings).stdout.splitlines()
    sha256 = settings["versions"]["1.10.0"]
    assert lines[0] == f"VERSION      BYTES  {'SHA-256':<64}  FILE"
    assert lines[1] == f"1.10.0           9  {sha256}  {settings['releases']}/app-1.10.0"
    assert [line.split()[0] for line in lines[1:]] == ["1.10.0", "1.10.0-rc.1", "1.9.0"]


def test_list_of_no_releases_is_the_heading(publish):
    assert invoke("list", settings=publish({})).stdout == f"VERSION  BYTES  {'SHA-256':<64}  FILE\n"


def test_list_as_json_is_for_programs(publish):
    settings = publish({"1.0.0": b"one"})
    assert json.loads(invoke("list", "--json", settings=settings).stdout) == [
        {
            "version": "1.0.0",
            "size": 3,
            "sha256": settings["versions"]["1.0.0"],
            "file": f"{settings['releases']}/app-1.0.0",
        }
    ]


# As programs ----------------------------------------------------------------------------------------------------------


def test_an_application_has_the_commands_from_its_blueprint(publish):
    result = make_app(publish({"1.0.0": b"one"})).test_cli_runner().invoke(args=["patchify", "list"])
    assert result.exit_code == 0
    assert "1.0.0" in result.stdout


@pytest.mark.parametrize("program", [["patchify"], ["flask", "patchify"]])
def test_keygen_and_hash_need_no_application(tmp_path, program):
    (tmp_path / "app-1.0.0").write_bytes(b"")
    command = [SCRIPTS / program[0], *program[1:]]
    assert run(*command, "keygen", "key", cwd=tmp_path).returncode == 0
    hashed = run(*command, "hash", "app-1.0.0", cwd=tmp_path)
    assert hashed.stdout.startswith('"1.0.0" = "e3b0c442')
    assert hashed.stderr == ""


@pytest.mark.parametrize("program", [["patchify", "--app", "host"], ["flask", "--app", "host", "patchify"]])
def test_a_plain_application_that_refuses_to_start_is_one_line_and_no_traceback(host, program):
    command = [SCRIPTS / program[0], *program[1:]]
    good = run(*command, "check", cwd=host())
    assert (good.returncode, good.stdout.count("good"), good.stderr) == (0, 2, "")
    wrong = run(*command, "check", cwd=host(versions={"1.0.0": "0" * 64}))
    assert wrong.returncode == 1
    assert wrong.stdout == ""
    assert wrong.stderr.startswith("Error: release 1.0.0: ")
    assert wrong.stderr.count("\n") == 1


def test_the_program_says_that_it_needs_an_application(tmp_path):
    done = run(SCRIPTS / "patchify", "list", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: there is no patchify.toml: patchify init NAME makes one; or name an app")
    assert done.stderr.count("\n") == 1


def test_an_application_that_cannot_be_imported_is_one_line_with_the_reason(tmp_path):
    (tmp_path / "host.py").write_text("import no_such_package")
    done = run(SCRIPTS / "patchify", "--app", "host", "list", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: While importing 'host', an ImportError was raised: No module named 'no_such_package'\n"
    )


WITHOUT_FLASK = "import sys; sys.modules['flask'] = None; from patchify.__main__ import main; main()"


@pytest.mark.parametrize("command", ["check", "hash", "keygen", "list"])
def test_without_the_server_extra_its_commands_are_one_line_that_names_it(command):
    done = run(sys.executable, "-c", WITHOUT_FLASK, command)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: patchify.server needs the package 'flask': install it with pip install 'patchify-updater[server]'\n"
    )


def test_without_the_server_extra_the_program_has_the_commands_of_the_client_and_those_that_publish_elsewhere():
    done = run(sys.executable, "-c", WITHOUT_FLASK, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    names = [line.split()[0] for line in done.stdout.partition("Commands:\n")[2].splitlines()]
    publishing = ["pause", "promote", "publish", "resume", "rollback", "rollout", "run", "show", "status", "withdraw"]
    assert names == ["list", *publishing]


def test_a_command_that_there_is_not_is_wrong_usage():
    done = run(SCRIPTS / "patchify", "unpublish")
    assert done.returncode == 2
    assert "No such command 'unpublish'" in done.stderr


def test_the_program_is_also_python_dash_m():
    done = run(sys.executable, "-m", "patchify", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: patchify ")
    assert all(f"\n  {name} " in done.stdout for name in ("check", "hash", "keygen", "list", "run"))


def test_the_program_ends_with_the_status_of_its_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["patchify", "hash"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "Missing argument" in capsys.readouterr().err

"""Commands with a file of settings and a database, as ``patchify init`` makes them."""

import json
import stat

import pytest
from click.testing import CliRunner

from patchify.__main__ import program
from patchify.keys import SigningKey
from patchify.server import Config
from patchify.server.sql_catalogue import SqlCatalogue


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build").write_bytes(b"one")

    def run(*arguments, status=0, **variables):
        result = CliRunner().invoke(program, arguments, env=variables)
        assert result.exit_code == status, result.output
        return result

    return run


def test_init_makes_all_that_publishing_and_a_server_need(run, tmp_path):
    result = run("init", "my app", "--json")
    public = json.loads(result.stdout)["key"]
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    config = Config.from_file(tmp_path / "patchify.toml")
    assert (config.appname, config.signing_key.verifying_key.to_hex()) == ("my app", public)
    run("publish", "build", "--version", "1.0.0")
    assert (tmp_path / "releases" / "my app-1.0.0").read_bytes() == b"one"
    listed = json.loads(run("list", "--json").stdout)
    assert [str(each) for each in SqlCatalogue(config.catalogue).snapshot().releases.values()] == ["1.0.0"]
    assert [each["version"] for each in listed] == ["1.0.0"]
    assert run("verify").stdout == "releases: 1, problems: 0\n"
    assert run("migrate").stdout == "the catalogue is up to date\n"


def test_what_is_as_it_is_asked_for_gives_the_database_no_new_revision(run, tmp_path):
    run("init", "app")
    run("publish", "build", "--version", "1.0.0", "--rollout", "10,50@1d", "--pause-above", "5", "--notes", "ü")
    revision = SqlCatalogue(f"sqlite:///{tmp_path}/catalogue.db").snapshot().revision
    run("publish", "build", "--version", "1.0.0")
    run("rollout", "1.0.0", "10,50@1d", "--pause-above", "5")
    run("resume", "1.0.0")
    run("prune", "--keep", "1")
    assert SqlCatalogue(f"sqlite:///{tmp_path}/catalogue.db").snapshot().revision == revision


def test_init_leaves_what_is_there_as_it_is(run, tmp_path):
    (tmp_path / "patchify.toml").write_text("precious")
    result = run("init", "app", status=1)
    assert result.stderr == "Error: patchify.toml exists already and was left as it is\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["build", "patchify.toml"]


def test_init_goes_on_where_it_was_killed_and_keeps_a_key(run, tmp_path):
    key = SigningKey.generate()
    key.write(tmp_path / "key")
    run("init", "app")
    (tmp_path / "patchify.toml").unlink()
    assert f"public key, for clients: {key.verifying_key.to_hex()}\n" in run("init", "app").stdout


@pytest.mark.parametrize("name", ["", "a/b", "a\nb"])
def test_init_refuses_a_name_that_is_none(run, tmp_path, name):
    assert "is not a name" in run("init", name, status=1).stderr
    assert [each.name for each in tmp_path.iterdir()] == ["build"]


def test_init_where_nothing_can_be_made_says_so(run):
    result = run("init", "app", "--config", "build/patchify.toml", status=3)
    assert "build cannot be changed now: File exists" in result.stderr or "Not a directory" in result.stderr


def test_a_file_of_settings_elsewhere_is_named_by_an_option_or_the_environment(run, tmp_path):
    path = str(tmp_path / "server" / "patchify.toml")
    run("init", "app", "--config", path)
    run("publish", "build", "--version", "1.0.0", "--config", path)
    run("publish", "build", "--version", "2.0.0", PATCHIFY_CONFIG=path)
    assert sorted(each.name for each in (tmp_path / "server" / "releases").glob("app*")) == ["app-1.0.0", "app-2.0.0"]


def test_a_file_of_settings_without_a_catalogue_is_not_published_into(run, tmp_path):
    run("init", "app")
    settings = (tmp_path / "patchify.toml").read_text().replace("PATCHIFY_CATALOGUE", "#")
    (tmp_path / "patchify.toml").write_text(settings + "\n[PATCHIFY_VERSIONS]\n")
    result = run("publish", "build", "--version", "1.0.0", status=1)
    assert "releases cannot be published into PATCHIFY_VERSIONS" in result.stderr


def test_a_database_that_was_never_made_is_refused_with_what_to_do(run, tmp_path):
    run("init", "app")
    for file in tmp_path.glob("catalogue.db*"):
        file.unlink()
    result = run("list", status=1)
    assert "patchify init" in result.stderr

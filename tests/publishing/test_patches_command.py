"""`patchify patches`: what it lists, makes and removes, with a file of settings and a database."""

import json
import random
import sys

import pytest
from click.testing import CliRunner

from patchify.__main__ import program

NOISE = random.Random(1).randbytes(20_000)


def content(version):
    return NOISE + version.encode() + bytes(len(NOISE))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PATCHIFY_CONFIG", raising=False)

    def run(*arguments, status=0):
        result = CliRunner().invoke(program, arguments)
        assert result.exit_code == status, result.output
        return result

    run("init", "app")
    with (tmp_path / "patchify.toml").open("a") as settings:
        settings.write("PATCHIFY_MAKE_FORMS = false\nPATCHIFY_PATCHES = 2\n")
    return run


@pytest.fixture
def publish(run, tmp_path):
    def publish(version, data=None, **options):
        (tmp_path / "build").write_bytes(data or content(version))
        run("publish", "build", "--version", version)

    return publish


def rows(result):
    return [line.split() for line in result.stdout.splitlines()]


def test_make_tells_of_each_form_and_how_many_it_made(run, publish):
    for version in ("1.0.1", "1.0.2", "1.0.3", "1.0.4"):
        publish(version)
    lines = run("patches", "make").stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "1.0.4 compressed",
        "1.0.3 → 1.0.4",
        "1.0.2 → 1.0.4",
        "forms made",
    ]
    assert run("patches", "make").stdout == "forms made: 0\n"
    lines = run("patches", "make", "1.0.3").stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines[1:]] == ["1.0.2 → 1.0.3", "1.0.1 → 1.0.3", "forms made"]


def test_make_of_a_version_that_is_not_published_is_refused(run):
    assert run("patches", "make", "1.0.9", status=1).stderr == "Error: version 1.0.9 is not published here\n"


def test_make_says_once_that_hdiffpatch_is_missing(run, publish, monkeypatch):
    monkeypatch.setitem(sys.modules, "hdiffpatch", None)
    publish("1.0.1")
    publish("1.0.2")
    lines = run("patches", "make").stdout.splitlines()
    assert lines[0].startswith("hdiffpatch is not installed, so no patches are made: pip install ")
    assert lines[1].startswith("1.0.2 compressed: ")
    assert lines[2:] == ["forms made: 1"]


def test_make_tries_again_what_was_given_up_only_if_told_to(run, publish):
    publish("1.0.1", NOISE)
    assert "not kept" in run("patches", "make").stdout
    assert "not kept" not in run("patches", "make").stdout
    assert "not kept" in run("patches", "make", "--again").stdout


def test_patches_lists_the_forms_of_each_release(run, publish):
    assert rows(run("patches")) == [["VERSION", "PLATFORM", "FORM", "SIZE", "OF", "THE", "WHOLE"]]
    publish("1.0.1", NOISE)
    publish("1.0.2")
    run("patches", "make", "1.0.1")
    run("patches", "make")
    listed = rows(run("patches"))[1:]
    assert [line[:4] for line in listed] == [
        ["1.0.2", "any", "whole", "(file)"],
        ["1.0.2", "any", "compressed", "19.6"],
        ["1.0.2", "any", "from", "1.0.1"],
        ["1.0.1", "any", "whole", "(file)"],
        ["1.0.1", "any", "compressed", "-"],
    ]
    assert listed[2][-1] == "%"
    assert listed[4][4:8] == ["not", "kept:", "compressed", "it"]
    new, old = json.loads(run("patches", "--json").stdout)
    assert new["forms"]["patches"][0]["version"] == "1.0.1"
    assert new["forms"]["compressed"]["size"] < new["size"]
    assert new["given_up"] == {}
    assert old["forms"] == {}
    assert list(old["given_up"]) == ["compressed"]


def test_what_is_a_patch_from_a_release_that_is_gone_is_shown_by_its_hash(run, publish):
    for version in ("1.0.1", "1.0.2"):
        publish(version)
    run("patches", "make")
    base = json.loads(run("patches", "--json").stdout)[0]["forms"]["patches"][0]["from"]
    run("prune", "--keep", "1")
    assert f"from {base[:12]}" in run("patches").stdout
    assert json.loads(run("patches", "--json").stdout)[0]["forms"]["patches"][0]["version"] is None
    assert run("patches", "prune").stdout.splitlines()[-1].startswith("files removed: 0, "), "not yet"
    assert run("patches", "prune", "--dry-run").stdout.splitlines()[-1].startswith("files to remove: 1, ")
    assert json.loads(run("patches", "prune", "--json").stdout)[0]["why"] == "a form of no release"
    assert base[:12] not in run("patches").stdout
    assert run("verify").stdout == "releases: 1, problems: 0\n"


def test_show_tells_of_forms(run, publish):
    publish("1.0.1")
    publish("1.0.2")
    run("patches", "make")
    shown = rows(run("show", "1.0.2"))
    assert [shown[5][0], shown[5][2]] == ["compressed", "bytes"]
    assert shown[6][:3] == ["patches", "1,", "of"]
    assert not [line for line in rows(run("show", "1.0.1")) if line[0] in ("compressed", "patches")]


def test_options_that_would_be_ignored_are_refused(run, tmp_path):
    (tmp_path / "other.toml").touch()
    result = run("patches", "--config", "other.toml", "make", status=2)
    assert "write --config behind make" in result.stderr
    assert "write --json behind prune" in run("patches", "--json", "prune", status=2).stderr


def test_where_nothing_is_configured_that_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PATCHIFY_CONFIG", raising=False)
    for command in (["patches"], ["patches", "make"], ["patches", "prune"]):
        result = CliRunner().invoke(program, command)
        assert (result.exit_code, "there is no patchify.toml" in result.stderr) == (2, True), command

import json

import pytest
from click.testing import CliRunner

from patchify.__main__ import program
from patchify.publishing.destination import Destination
from patchify.releases import Placement, Release, ReleaseState, now
from patchify.reports import Batch, Event, Report
from patchify.server.fleet import Fleet
from patchify.server.sql_catalogue import SqlCatalogue
from patchify.versions import parse_version

HEADINGS = "VERSION INSTALLATIONS CHECKS SHARE DOWNLOADED STAGED RUNNING FAILED ROLLED BACK PATCH FAILED"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "key").write_text("11" * 32)
    (folder / "key").chmod(0o600)
    (folder / "releases").mkdir()
    names = {"APPNAME": "app", "KEY": "key", "RELEASES": "releases", "CATALOGUE": "sqlite:///catalogue.db"}
    (folder / "patchify.toml").write_text("".join(f'PATCHIFY_{name} = "{value}"\n' for name, value in names.items()))
    catalogue = SqlCatalogue(f"sqlite:///{folder / 'catalogue.db'}")
    catalogue.create()
    place = Placement("stable", ReleaseState.LIVE, since=now(), changed=now())
    with catalogue.transaction() as transaction:
        for version in ("1.0.0", "2.0.0"):
            build = Release(parse_version(version), "ab" * 32, size=1, published=now(), placements=(place,))
            transaction.put(build)
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    """Return a function that runs ``patchify fleet`` in the folder of the settings."""
    monkeypatch.chdir(folder)

    def run(*arguments, status=0):
        result = CliRunner().invoke(program, ("fleet", *arguments))
        assert result.exit_code == status, result.output
        return result

    return run


def tell(folder, number, version, events):
    reports = tuple(Report(Event(event), now(), parse_version(version)) for event in events)
    batch = Batch(f"{number:032x}", "app", "linux-x86_64", "stable", None, reports)
    Fleet(SqlCatalogue(f"sqlite:///{folder / 'catalogue.db'}")).record(batch)


def test_what_is_in_the_field_is_printed(folder, run):
    assert run().stdout.startswith("nothing was reported")
    assert json.loads(run("--json").stdout) == []
    tell(folder, 1, "1.0.0", ["checked"])
    tell(folder, 2, "2.0.0", ["checked", "checked", "running", "failed", "failed", "rolled-back"])
    head, *lines = (line.split() for line in run().stdout.splitlines())
    assert " ".join(head) == HEADINGS
    assert lines == [
        ["2.0.0", "0", "2", "66.7%", "0", "0", "1", "2", "1", "0"],
        ["1.0.0", "0", "1", "33.3%", "0", "0", "0", "0", "0", "0"],
    ]
    printed = json.loads(run("--json").stdout)
    assert [(each["version"], each["checks"], each["rolled_back"]) for each in printed] == [
        ("2.0.0", 2, 1),
        ("1.0.0", 1, 0),
    ]
    assert run("--channel", "beta").stdout.startswith("nothing was reported")
    assert "66.7%" in run("--platform", "linux-x86_64", "--channel", "stable").stdout


def test_only_a_database_has_counts(run, monkeypatch, catalogue):
    monkeypatch.setattr(Destination, "catalogue", lambda self: catalogue)
    assert "PATCHIFY_CATALOGUE: is no database" in run(status=1).stderr


def test_a_channel_that_is_none_is_a_wrong_call(run):
    run("--channel", "no channel", status=2)

"""The commands that publish and steer: what they print, and their exit statuses. The catalogue is one in memory."""

import io
import json
import shutil
import sys

import pytest
from click.testing import CliRunner

from patchify.__main__ import program
from patchify.errors import CatalogueUnavailableError
from patchify.publishing import command_line, commands, destination
from patchify.publishing.destination import Destination
from patchify.publishing.making import Limits
from patchify.releases import ReleaseState

SHA256_OF_ONE = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
HEADINGS = ["VERSION", "PLATFORM", "CHANNEL", "STATE", "OFFERED", "TO", "FORMAT", "SIZE", "PUBLISHED"]


@pytest.fixture
def run(monkeypatch, catalogue, storage, publisher, clock, tmp_path):
    """Return a function that runs the program with a catalogue in memory, in a folder where ``app`` is a build."""
    monkeypatch.setattr(Destination, "_parts", lambda self: (catalogue, storage, Limits()))
    monkeypatch.setattr(Destination, "local", lambda self: publisher)
    monkeypatch.setattr(Destination, "is_configured", lambda self: True)
    monkeypatch.setattr(commands, "now", clock)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app").write_bytes(b"one")

    def run(*arguments, status=0):
        result = CliRunner().invoke(program, arguments)
        assert result.exit_code == status, result.output
        return result

    return run


@pytest.fixture
def state(catalogue):
    return lambda version="1.0.0", channel="stable": catalogue.snapshot().releases[(version, "any")].placed(channel)


def rows(result):
    return [line.split() for line in result.stdout.splitlines()]


# publish --------------------------------------------------------------------------------------------------------------


def test_publish_takes_all_that_is_to_be_said(run, catalogue, tmp_path):
    (tmp_path / "notes.md").write_text("# Neu\n\n- schöner\n")
    options = "--channel beta --platform linux-x86_64 --critical --floor 0.9.0 --rollout 10,50@1d --pause-above 5"
    run(
        "publish",
        "app",
        "--version",
        "1.0.0",
        *options.split(),
        "--pause-after",
        "7",
        "--notes",
        "@notes.md",
        "--force",
    )
    release = catalogue.snapshot().releases[("1.0.0", "linux-x86_64")]
    placed = release.placed("beta")
    assert (release.notes, release.critical, str(release.floor)) == ("# Neu\n\n- schöner\n", True, "0.9.0")
    assert (str(placed.schedule), placed.pause_above, placed.pause_after) == ("10%,50%@1d", 5, 7)
    assert placed.state is ReleaseState.LIVE


def test_publish_shows_what_is_published_now(run):
    result = run("publish", "app", "--version", "1.0.0", "--rollout", "10", "--notes", "first", "--critical")
    assert rows(result)[0] == HEADINGS
    assert rows(result)[1][:8] == ["1.0.0!", "any", "stable", "live", "100%", "file", "3", "B"]
    assert result.stderr == ""


def test_publish_prints_the_release_as_json(run):
    release = json.loads(run("publish", "app", "--version", "1.0.0", "--draft", "--json").stdout)
    assert (release["version"], release["size"], release["sha256"]) == ("1.0.0", 3, SHA256_OF_ONE)
    assert release["channels"][0]["state"] == "draft"


def test_publishing_again_what_is_published_is_fine_and_other_bytes_are_refused(run, catalogue, tmp_path):
    run("publish", "app", "--version", "1.0.0")
    run("publish", "app", "--version", "1.0.0")
    (tmp_path / "app").write_bytes(b"two")
    result = run("publish", "app", "--version", "1.0.0", status=1)
    assert result.stderr.startswith("Error: version 1.0.0 is published with SHA-256 7692c3ad")
    assert result.stderr.count("\n") == 1
    assert catalogue.changes == 1


def test_a_lower_version_is_published_by_force(run, tmp_path):
    run("publish", "app", "--version", "2.0.0")
    (tmp_path / "app").write_bytes(b"older")
    result = run("publish", "app", "--version", "1.0.0", status=1)
    assert result.stderr == (
        "Error: version 1.0.0 is lower than 2.0.0, which is live in stable; --force publishes it\n"
    )
    run("publish", "app", "--version", "1.0.0", "--force")


def test_what_could_not_be_done_now_has_an_exit_status_of_its_own(run, catalogue):
    catalogue.failure = CatalogueUnavailableError("memory", "it is locked")
    result = run("publish", "app", "--version", "1.0.0", status=3)
    assert result.stderr == "Error: the catalogue memory cannot be used now: it is locked\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["app"], "Missing option '--version'"),
        (["app", "--version", "1"], "'1' is not a SemVer version"),
        (["app", "--version", "1.0.0", "--floor", "1"], "'1' is not a SemVer version"),
        (["none", "--version", "1.0.0"], "File 'none' does not exist"),
        (["app", "--version", "1.0.0", "--channel", "Beta"], "'Beta' is not the name of a channel"),
        (["app", "--version", "1.0.0", "--platform", "Linux!"], "'Linux!' is not the name of a platform"),
        (["app", "--version", "1.0.0", "--rollout", "ten"], "'ten' is no schedule"),
        (["app", "--version", "1.0.0", "--pause-above", "100"], "100 is not in the range"),
        (["app", "--version", "1.0.0", "--pause-after", "9" * 20], f"{'9' * 20} is not in the range"),
        (["app", "--version", "1.0.0", "--notes", "@none.md"], "none.md cannot be read"),
    ],
)
def test_a_wrong_call_is_wrong_usage_and_changes_nothing(run, catalogue, arguments, said):
    assert said in run("publish", *arguments, status=2).stderr
    assert catalogue.changes == 0


def test_ctrl_c_leaves_nothing_half_done(run, catalogue, storage, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(catalogue), "transaction", interrupted)
    result = run("publish", "app", "--version", "1.0.0", status=130)
    assert result.stderr.strip() == "interrupted; the same command goes on from there"
    assert list(storage.incoming.iterdir()) == []
    assert list(storage.files()) == []


def test_a_folder_of_releases_that_is_not_there_is_not_made_by_publishing(run, storage):
    shutil.rmtree(storage.folder)
    result = run("publish", "app", "--version", "1.0.0", status=3)
    assert "it is not there; is its disk mounted?" in result.stderr
    assert not storage.folder.exists()


def test_new_names_of_channels_and_platforms_are_told_once(run):
    assert run("publish", "app", "--version", "1.0.0").stderr == ""
    told = run("publish", "app", "--version", "1.0.0", "--channel", "bta").stderr
    assert told == "note: the channel 'bta' is new\n"
    assert run("publish", "app", "--version", "1.0.0", "--channel", "bta").stderr == ""
    told = run("publish", "app", "--version", "1.0.0", "--platform", "linux").stderr
    assert told.startswith("note: the platform 'linux' is new, and none of linux-x86_64, ")
    assert run("publish", "app", "--version", "1.0.0", "--platform", "macos-arm64").stderr == ""


def test_progress_is_shown_on_a_terminal_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    with command_line.bar("publishing", 100) as progress:
        assert progress is None
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with command_line.bar("publishing", 100) as progress:
        progress(40)
        progress(100)
    assert "publishing" in terminal.getvalue()
    assert "100%" in terminal.getvalue()


# list and show --------------------------------------------------------------------------------------------------------


def test_list_shows_the_newest_first_and_each_place_of_it(run, put, publisher):
    put("1.0.0", b"x" * 2048)
    put("2.0.0-rc.1", channel="beta", platform="linux-x86_64", schedule=command_line.Schedule.parse("10"))
    put("2.0.0-rc.1", channel="nightly", platform="linux-x86_64", draft=True)
    result = run("list")
    assert [row[:5] for row in rows(result)[1:]] == [
        ["2.0.0-rc.1", "linux-x86_64", "beta", "live", "10%"],
        ["2.0.0-rc.1", "linux-x86_64", "nightly", "draft", "-"],
        ["1.0.0", "any", "stable", "live", "100%"],
    ]
    assert "2.0 KiB  2026-11-24 12:00" in result.stdout
    assert [row[2] for row in rows(run("list", "--channel", "beta"))[1:]] == ["beta"]
    assert [row[0] for row in rows(run("list", "--platform", "any"))[1:]] == ["1.0.0"]
    releases = json.loads(run("list", "--json").stdout)
    assert releases == [each.to_json() for each in publisher.releases()]
    assert json.loads(run("list", "--json", "--channel", "none").stdout) == []


def test_list_of_nothing_is_the_headings(run):
    assert rows(run("list")) == [HEADINGS]


def test_show_prints_all_that_is_known(run, put, publisher, clock):
    put("1.0.0", b"x" * 3 * 2**20, channel="beta", notes="first\n", floor="0.9.0", force=True)
    put("1.0.0", b"x" * 3 * 2**20, schedule=command_line.Schedule.parse("10,50@1000w"), pause_above=5, force=True)
    put("1.0.0", b"windows", platform="windows-x86_64", critical=True, schedule=command_line.Schedule.parse("10"))
    publisher.pause(command_line.parse_version("1.0.0"), "beta", why="crashes")
    one, two = run("show", "1.0.0").stdout.split("\n\n", 1)
    assert "platform   windows-x86_64\n" in one
    assert "critical   yes: offered to everybody at once\n" in one
    assert one.endswith(", offered to 100%")
    assert two == (
        "version    1.0.0\n"
        "platform   any\n"
        "format     file\n"
        "size       3145728 bytes (3.0 MiB)\n"
        f"SHA-256    {publisher.releases()[1].sha256}\n"
        "published  2026-11-24 12:00 UTC\n"
        "critical   no\n"
        "floor      0.9.0: older versions go there first\n"
        "in beta    paused since 2026-11-24 12:00 UTC, rollout 100%, because: crashes\n"
        "in stable  live since 2026-11-24 12:00 UTC, offered to 10%, 50% at 2046-01-23 12:00, "
        "pauses above 5 % of failures, after 20 outcomes\n"
        "\n"
        "first\n"
    )
    assert [each["platform"] for each in json.loads(run("show", "1.0.0", "--json").stdout)] == ["windows-x86_64", "any"]
    assert len(json.loads(run("show", "1.0.0", "--platform", "any", "--json").stdout)) == 1


def test_show_of_what_is_not_published_says_so(run):
    assert run("show", "1.0.0", status=1).stderr == "Error: version 1.0.0 is not published here\n"
    result = run("show", "1.0.0", "--platform", "linux-x86_64", status=1)
    assert result.stderr == "Error: version 1.0.0 is not published for linux-x86_64\n"


def test_sizes_have_the_unit_that_fits():
    from patchify.publishing.tables import spelled_size

    sizes = [spelled_size(each) for each in (0, 1023, 1024, 1536 * 1024, 5 * 2**30, 2000 * 2**30)]
    assert sizes == ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.0 GiB", "2000.0 GiB"]


# steering -------------------------------------------------------------------------------------------------------------


def test_a_release_is_steered_from_a_draft_in_beta_to_withdrawn(run, state):
    run("publish", "app", "--version", "1.0.0", "--channel", "beta", "--draft")
    run("resume", "1.0.0")
    assert state(channel="beta").state is ReleaseState.LIVE
    result = run("promote", "1.0.0", "beta", "stable", "--rollout", "10")
    assert [row[:5] for row in rows(result)[1:]] == [["1.0.0", "any", "stable", "live", "10%"]]
    run("rollout", "1.0.0", "50%,100%@1d", "--pause-above", "5")
    assert (str(state().schedule), state().pause_above) == ("50%,100%@1d", 5)
    run("pause", "1.0.0", "--channel", "stable", "--why", "crashes")
    assert (state().state, state().why) == (ReleaseState.PAUSED, "crashes")
    assert state(channel="beta").state is ReleaseState.LIVE
    result = run("withdraw", "1.0.0", "--platform", "any", "--why", "eats data", "--json")
    assert [each["state"] for each in json.loads(result.stdout)[0]["channels"]] == ["withdrawn", "withdrawn"]
    assert run("withdraw", "1.0.0").stdout == "nothing to change: it is as asked for already\n"
    assert json.loads(run("withdraw", "1.0.0", "--json").stdout) == []


def test_what_is_refused_for_some_builds_is_told_with_what_was_changed(run, put, publisher, state):
    put("1.0.0")
    put("1.0.0", platform="linux-x86_64")
    publisher.withdraw(command_line.parse_version("1.0.0"), platform="linux-x86_64")
    assert run("rollout", "1.0.0", "10", status=1).stderr == (
        "Error: changed 1.0.0 in stable; but version 1.0.0 for linux-x86_64 cannot be rolled out: it is withdrawn in "
        "stable; publish a new version\n"
    )
    assert str(state().schedule) == "10%"
    assert "Error: all else is as asked for already; but" in run("rollout", "1.0.0", "10", status=1).stderr


def test_whom_a_pause_or_a_withdrawal_keeps_from_a_live_release_is_told_once(run, put):
    for version, floor in [("1.0.0", None), ("2.0.0", None), ("2.1.0", None), ("3.0.0", "2.0.0")]:
        put(version, floor=floor)
    put("3.1.0", floor="2.0.0", channel="beta", force=True)
    put("4.0.0", channel="beta", platform="linux-x86_64", floor="2.0.0", force=True)
    assert run("pause", "2.0.0").stderr == ""
    told = (
        "Warning: in stable, clients on any below the floor of 3.0.0 cannot go there any more: 2.1.0 was the last that "
        "was live on the way\n"
    )
    assert run("withdraw", "2.1.0").stderr == told
    assert run("withdraw", "2.1.0").stderr == ""
    run("resume", "2.0.0")
    put("2.0.0", channel="beta", force=True)
    assert run("pause", "2.0.0", "--channel", "beta").stderr == told.replace("stable", "beta").replace(
        "3.0.0", "3.1.0"
    ).replace("2.1.0", "2.0.0")
    run("withdraw", "2.0.0", "--channel", "beta")
    refused = run("pause", "2.0.0", status=1).stderr
    assert refused.startswith(told.replace("2.1.0", "2.0.0"))
    assert "Error: changed 2.0.0 in stable; but version 2.0.0 cannot be paused: it is withdrawn in beta" in refused


def test_a_pause_warns_only_of_what_it_takes_on_its_own_platform(run, put):
    put("1.0.0")
    put("1.0.0", platform="linux-x86_64")
    put("2.0.0", platform="linux-x86_64")
    put("3.0.0", floor="2.0.0", force=True)
    result = run("pause", "2.0.0")
    assert result.stderr == (
        "Warning: in stable, clients on linux-x86_64 below the floor of 3.0.0 cannot go there any more: 2.0.0 was the "
        "last that was live on the way\n"
    )


def test_a_draft_goes_live_below_a_higher_version_by_force(run, put, state):
    put("1.0.0", draft=True)
    put("2.0.0")
    assert "--force publishes it" in run("resume", "1.0.0", status=1).stderr
    run("resume", "1.0.0", "--force")
    assert state().state is ReleaseState.LIVE


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["pause", "2.0.0"], 1, "version 2.0.0 is not published in any channel"),
        (["rollout", "1.0.0", "10", "--channel", "beta"], 1, "version 1.0.0 is not published in the channel beta"),
        (["promote", "1.0.0", "stable", "stable"], 1, "cannot be promoted from stable to itself"),
        (["rollout", "1.0.0", "200"], 2, "'200' is no schedule"),
        (["rollout", "1.0.0"], 2, "Missing argument 'SCHEDULE'"),
        (["promote", "1.0.0", "stable"], 2, "Missing argument 'TARGET'"),
    ],
)
def test_what_is_refused_is_one_line_and_changes_nothing(run, put, catalogue, arguments, status, said):
    put("1.0.0")
    assert said in run(*arguments, status=status).stderr
    assert catalogue.changes == 1


# verify, prune, migrate -----------------------------------------------------------------------------------------------


def test_verify_prints_what_is_wrong_and_fails_then(run, put, storage):
    release = put("1.0.0")
    assert run("verify").stdout == "releases: 1, problems: 0\n"
    storage.path(release).unlink()
    result = run("verify", status=1)
    assert result.stdout.splitlines() == [
        f"release 1.0.0: {storage.path(release)} is missing or not a regular file",
        "releases: 1, problems: 1",
    ]
    assert len(json.loads(run("verify", "--json", status=1).stdout)["problems"]) == 1


def test_prune_prints_what_it_removes(run, put, storage):
    for version in ("1.0.0", "2.0.0"):
        put(version, b"one")
    path = storage.folder / "app-1.0.0"
    assert run("prune").stdout == "files removed: 0, 0 B\n"
    told = f"{path}  3 B  superseded\n"
    assert run("prune", "--keep", "1", "--dry-run").stdout == f"{told}files to remove: 1, 3 B\n"
    assert path.exists()
    assert run("prune", "--keep", "1").stdout == f"{told}files removed: 1, 3 B\n"
    assert not path.exists()
    path.write_bytes(b"1")
    found = json.loads(run("prune", "--json").stdout)
    assert found == [{"file": str(path), "size": 1, "why": "not in the catalogue"}]
    assert "0 is not in the range" in run("prune", "--keep", "0", status=2).stderr


def test_migrate_brings_a_database_up_to_date_and_says_where_there_is_none(run, catalogue):
    assert "is no database" in run("migrate", status=1).stderr
    catalogue.upgrade = lambda: setattr(catalogue, "changes", -1)
    assert run("migrate").stdout == "the catalogue is up to date\n"
    assert catalogue.changes == -1


# where to publish -----------------------------------------------------------------------------------------------------


class Remote:
    """Stands for the publisher over the network."""

    def __init__(self, url, token):
        self.told = (url, token)

    def releases(self):
        return []


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    from patchify.publishing import remote

    made = []
    monkeypatch.setattr(remote, "RemotePublisher", lambda *told: made.append(told) or Remote(*told))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(destination.TOKEN, raising=False)
    return made


def test_to_publishes_elsewhere_with_the_token_of_a_file_or_of_the_environment(elsewhere, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("of the file\n")
    (tmp_path / "wrong").write_bytes(b"\xff")
    url = "https://updates.example.com/api"
    runner = CliRunner()
    assert runner.invoke(program, ["list", "--to", url, "--token-file", "token"]).exit_code == 0
    result = runner.invoke(program, ["list", "--to", url])
    assert result.exit_code == 2
    assert f"publishing to {url} needs a token, from --token-file or PATCHIFY_TOKEN" in result.stderr
    result = runner.invoke(program, ["list", "--to", url, "--token-file", "wrong"])
    assert (result.exit_code, "the token file wrong cannot be read" in result.stderr) == (2, True)
    monkeypatch.setenv(destination.TOKEN, "of the environment")
    assert runner.invoke(program, ["list", "--to", url]).exit_code == 0
    assert elsewhere == [(url, "of the file"), (url, "of the environment")]


def test_upkeep_is_done_only_where_the_files_are():
    result = CliRunner().invoke(program, ["prune", "--to", "https://updates.example.com/api"])
    assert (result.exit_code, "No such option" in result.stderr) == (2, True)


def test_where_nothing_says_where_to_publish_the_ways_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(program, ["show", "1.0.0"])
    assert result.exit_code == 2
    assert "there is no patchify.toml: patchify init NAME makes one" in result.stderr


HOST = """
from flask import Flask
from patchify.server import patchify_bp
from tests.publishing.test_commands import APPLICATIONS

app = Flask(__name__)
app.config.update(APPLICATIONS[0])
app.register_blueprint(patchify_bp)
"""
APPLICATIONS = []


@pytest.fixture
def host(tmp_path, monkeypatch, publish):
    """Return a function that makes an application of settings, and runs the program with it."""

    def host(settings, *arguments):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "host.py").write_text(HOST)
        settings = {f"PATCHIFY_{name.upper()}": value for name, value in settings.items()}
        monkeypatch.setitem(sys.modules, "host", None)
        monkeypatch.delitem(sys.modules, "host")
        monkeypatch.setattr(sys, "path", list(sys.path))
        APPLICATIONS[:] = [settings]
        return CliRunner().invoke(program, ["--app", "host", *arguments])

    return host


def test_an_application_with_a_catalogue_is_published_into(host, publish, catalogue, tmp_path, storage):
    (tmp_path / "build").write_bytes(b"one")
    settings = {"appname": "app", "key": "11" * 32, "releases": str(storage.folder), "catalogue": catalogue}
    result = host(settings, "publish", "build", "--version", "1.0.0")
    assert (result.exit_code, result.stderr) == (0, "")
    assert storage.files().keys() == catalogue.snapshot().releases.keys() == {("1.0.0", "any")}
    assert rows(host(settings, "list"))[1][:4] == ["1.0.0", "any", "stable", "live"]


def test_an_application_whose_releases_stand_in_its_configuration_is_listed_but_not_published_into(host, publish):
    settings = publish({"1.0.0": b"one"})
    listed = json.loads(host(settings, "list", "--json").stdout)
    assert listed[0]["file"] == str(settings["releases"] / "app-1.0.0")
    result = host(settings, "withdraw", "1.0.0")
    assert result.exit_code == 1
    assert (
        "PATCHIFY_CATALOGUE: is not configured, and releases cannot be published into PATCHIFY_VERSIONS"
        in result.stderr
    )

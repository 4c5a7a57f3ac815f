"""The commands of the client, in this process, and how they say what is wrong."""

import hashlib
import json
import os
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from filelock import FileLock
from semver import Version

from patchify.client import commands
from patchify.client.file_installer import FileInstaller
from patchify.client.launcher import Plan
from patchify.client.locks import GUARDIAN
from patchify.client.state import Bad, Phase, Release, State, Update, save
from patchify.keys import SigningKey
from patchify.platforms import detect
from tests.conftest import KEY

PUBLIC = SigningKey.from_hex(KEY).verifying_key.to_hex()
AT = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
GIVEN = ["--api", "https://updates.example.com/api", "--key", PUBLIC]


def release(version: str, data: bytes) -> Release:
    return Release(Version.parse(version), hashlib.sha256(data).hexdigest())


ZERO, ONE, TWO, BAD = (release(f"{n}.0.0", data) for n, data in enumerate([b"zero", b"one", b"two", b"bad"]))


@pytest.fixture
def installer(tmp_path):
    (tmp_path / "app").write_bytes(b"one")
    (tmp_path / "app").chmod(0o755)
    return FileInstaller(tmp_path / "app")


def remember(installer, **members) -> None:
    installer.folder.mkdir(mode=0o700, exist_ok=True)
    save(installer.state_path, State(**members))


def invoke(command, *args):
    return CliRunner().invoke(command, [str(arg) for arg in args])


# status ---------------------------------------------------------------------------------------------------------------


def test_status_of_an_installation_where_nothing_is_under_way(installer):
    bad = Bad(BAD, "ended with exit status 1", AT)
    remember(installer, good=ONE, previous=ZERO, bad=(bad,), checked=AT, error="no route")
    result = invoke(commands.status, installer.path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"program      {installer.path}",
        "version      1.0.0",
        f"sha256       {ONE.sha256}",
        f"previous     0.0.0  {ZERO.sha256}",
        "update       none",
        f"quarantined  3.0.0  {BAD.sha256}  since 2024-05-06T07:08:09+00:00: it ended with exit status 1",
        "last check   2024-05-06T07:08:09+00:00",
        "last error   no route",
    ]


def test_status_as_json_is_for_programs(installer):
    update = Update(TWO, ONE, Phase.STAGED, tries=1, failures=1, interruptions=2, reason="was killed by SIGSEGV")
    remember(installer, good=ONE, update=update, bad=(Bad(BAD, "was bad", AT),))
    result = invoke(commands.status, "--json", installer.path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "program": str(installer.path),
        "version": "1.0.0",
        "sha256": ONE.sha256,
        "good": {"version": "1.0.0", "sha256": ONE.sha256},
        "previous": None,
        "update": {
            "version": "2.0.0",
            "sha256": TWO.sha256,
            "phase": "ready",
            "failures": 1,
            "tries": 1,
            "interruptions": 2,
            "process": None,
            "reason": "was killed by SIGSEGV",
        },
        "quarantined": [
            {"version": "3.0.0", "sha256": BAD.sha256, "reason": "was bad", "since": "2024-05-06T07:08:09+00:00"}
        ],
        "checked": None,
        "error": None,
        "under_way": None,
    }


@pytest.mark.parametrize(("phase", "words"), [(Phase.ARMED, "on trial"), (Phase.RETURNING, "being taken back")])
@pytest.mark.parametrize("json", [[], ["--json"]])
def test_status_shows_an_update_under_way_and_says_that_it_is(installer, phase, words, json):
    installer.path.write_bytes(b"two")
    remember(installer, good=ONE, update=Update(TWO, ONE, phase, reason="is slow"))
    result = invoke(commands.status, *json, installer.path)
    assert result.exit_code == 1
    assert result.stderr == f"Error: an update is under way: version 2.0.0 is {words}\n"
    assert TWO.sha256 in result.stdout
    if not json:
        assert "\nversion      2.0.0\n" in result.stdout
        assert f"\nupdate       2.0.0  {words}, 0 failures, 0 interruptions: is slow\n" in result.stdout


@contextmanager
def busy(installer):
    with FileInstaller(installer.path).lock():
        yield


def test_both_say_that_another_process_is_at_it(installer):
    remember(installer, good=ONE, previous=ZERO)
    with busy(installer):
        status, rollback = (invoke(each, installer.path) for each in (commands.status, commands.rollback))
    assert (status.exit_code, rollback.exit_code) == (1, 1)
    expected = f"another process is updating {installer.path}\n"
    assert status.stderr == f"Error: an update is under way: {expected}"
    assert rollback.stderr == f"Error: {expected}"
    assert "version      1.0.0" in status.stdout
    assert installer.state() == State(good=ONE, previous=ZERO)


def test_a_version_that_somebody_else_has_put_there_is_not_known(installer):
    installer.path.write_bytes(b"other")
    remember(installer, good=ONE)
    result = invoke(commands.status, installer.path)
    assert result.exit_code == 0
    assert "\nversion      not known: " in result.stdout
    assert "\nlast check   never\n" in result.stdout


@pytest.mark.parametrize("command", [commands.status, commands.rollback])
def test_where_there_is_no_installation_it_is_one_line_and_nothing_is_made(installer, command):
    result = invoke(command, installer.path)
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {installer.path}: nothing is known of updates; there is no folder {installer.folder}\n"
    )
    missing = invoke(command, installer.path.with_name("other"))
    assert missing.exit_code == 1
    assert missing.stderr == f"Error: {installer.path.with_name('other')}: there is no such file or folder\n"
    assert os.listdir(installer.path.parent) == ["app"]
    assert invoke(command).exit_code == 2


@pytest.mark.parametrize("command", [commands.status, commands.rollback])
def test_a_state_that_cannot_be_understood_is_one_line_and_left_alone(installer, command):
    remember(installer)
    installer.state_path.write_text("garbage")
    result = invoke(command, installer.path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {installer.state_path} is not usable")
    assert result.stderr.count("\n") == 1
    assert installer.state_path.read_text() == "garbage"


@pytest.mark.parametrize("command", [commands.status, commands.rollback])
def test_a_folder_that_another_user_could_change_is_one_line(installer, command):
    remember(installer, good=ONE, previous=ZERO)
    installer.folder.chmod(0o777)
    result = invoke(command, installer.path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: unable to create the update folder {installer.folder}: ")
    assert result.stderr.count("\n") == 1


# rollback -------------------------------------------------------------------------------------------------------------


def updated(installer) -> None:
    """Have version 2 confirmed in the place of version 1."""
    with installer.lock():
        part = installer.part(TWO.sha256)
        part.write(b"two")
        installer.stage(TWO.version, part, TWO.sha256)
        part.close()
        installer.swap(installer.prepare(TWO, ONE.version), 1)


def test_rollback_puts_the_previous_version_back_and_the_other_in_quarantine(installer):
    updated(installer)
    with installer.lock():
        installer.confirm()
    result = invoke(commands.rollback, installer.path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"version 1.0.0 is in place; it runs when {installer.path} is started the next time",
        "version 2.0.0 is in quarantine and is not tried again",
    ]
    assert installer.path.read_bytes() == b"one"
    assert installer.state().quarantined(TWO.sha256)
    again = invoke(commands.rollback, installer.path)
    assert again.exit_code == 1
    assert again.stderr == f"Error: {installer.path}: no previous version is kept to go back to\n"


def test_rollback_refuses_while_a_version_is_on_trial(installer):
    updated(installer)
    with FileLock(installer.folder / GUARDIAN):
        result = invoke(commands.rollback, installer.path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {installer.path}: version 2.0.0 is on trial")
    assert installer.path.read_bytes() == b"two"
    assert installer.state().on_trial


def test_rollback_takes_back_what_nobody_watches(installer):
    updated(installer)
    result = invoke(commands.rollback, installer.path)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1] == "version 2.0.0 is in quarantine and is not tried again"
    assert installer.path.read_bytes() == b"one"


# run ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plans(monkeypatch, installer):
    """Collect the plans of launchers that do nothing."""
    made = []

    class Nothing:
        def __init__(self, plan: Plan):
            made.append(plan)

        def run(self) -> int:
            return 0

    monkeypatch.setattr(commands, "Launcher", Nothing)
    monkeypatch.setattr(commands, "_log_to_stderr", lambda verbose: None)
    monkeypatch.chdir(installer.path.parent)
    return made


def test_run_without_an_api_only_guards(plans, installer):
    assert invoke(commands.run, "--trial-timeout", 77, "--", "./app", "--version").exit_code == 0
    assert plans == [Plan(command=("./app", "--version"), trial_timeout=77)]
    assert plans[0].target == installer.path


def test_run_gets_its_options_from_the_command_line_the_environment_and_a_file_in_that_order(
    plans, installer, tmp_path, monkeypatch
):
    (tmp_path / "run.toml").write_text(
        f'api = "https://a.example.com/"\nkey = "{PUBLIC}"\nversion = "1.2.3"\ninterval = 5\ntries = 2\n'
        'restart = "on-signal"\nsmoke-test = ["--check", "all"]\nkeep-running = true\nstop-timeout = 1.5\n'
    )
    monkeypatch.setenv("PATCHIFY_RUN_TRIES", "3")
    monkeypatch.setenv("PATCHIFY_RUN_INTERVAL", "6")
    result = invoke(commands.run, "--config", tmp_path / "run.toml", "--interval", 7, "./app")
    assert result.exit_code == 0, result.output
    [plan] = plans
    assert (plan.interval, plan.restart, plan.keep_running, plan.stop_timeout) == (7, "on-signal", True, 1.5)
    config = plan.config
    assert (config.api, config.trial_tries, config.smoke_test) == ("https://a.example.com/", 3, ("--check", "all"))
    assert (config.executable, config.automatic, config.guardian) == (installer.path, "stage", False)
    assert str(config.current) == "1.2.3"


def test_run_says_which_releases_are_wanted(plans, installer):
    words = ["--appname", "app", "--channel", "beta", "--platform", "macos-arm64", "--pin", "<2.0.0"]
    switches = ["--allow-downgrade", "--update-documents", "required", "--reports", "--report-installation"]
    for extra in (["--version", "1.0.0"], ["--version", "1.0.0", *words, *switches]):
        assert invoke(commands.run, *GIVEN, *extra, "./app").exit_code == 0
    plain, chosen = (plan.config for plan in plans)
    assert (plain.appname, plain.channel, plain.platform, plain.pin) == (None, "stable", detect(), None)
    assert (plain.allow_downgrade, plain.update_documents, plain.reports) == (False, "auto", False)
    assert (chosen.appname, chosen.channel, chosen.platform, chosen.pin) == ("app", "beta", "macos-arm64", "<2.0.0")
    assert (chosen.allow_downgrade, chosen.update_documents) == (True, "required")
    assert (chosen.reports, chosen.report_installation) == (True, True)


def test_run_knows_the_version_after_the_first_update(plans, installer):
    updated(installer)
    assert invoke(commands.run, *GIVEN, "--version", "1.0.0", "./app").exit_code == 0
    assert invoke(commands.run, *GIVEN, "./app").exit_code == 0
    assert [str(plan.config.current) for plan in plans] == ["2.0.0", "2.0.0"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Missing argument 'COMMAND...'"),
        (["--no-such-option", "./app"], "No such option"),
        (["--restart", "never", "./app"], "'never' is not one of"),
        (["--interval", "0", "./app"], "0 is not 1 to 86400000 seconds"),
        (["--tries", "x", "./app"], "'x' is not a valid integer"),
        (["--trial-period", "300", "./app"], "--trial-timeout must be longer than --trial-period"),
        (["--api", "https://a.example.com", "./app"], "--api and --key need each other"),
        ([*GIVEN, "./app"], "--version is needed"),
        ([*GIVEN, "--version", "1.0", "./app"], "--version: '1.0' is not a SemVer version"),
        ([*GIVEN[:3], "12", "--version", "1.0.0", "./app"], "--key: "),
        (["--api", "ftp://a", "--key", PUBLIC, "--version", "1.0.0", "./app"], "--api: 'ftp://a' is not an address"),
        ([*GIVEN, "--version", "1.0.0", "--health-url", "x", "./app"], "--health-url: 'x' is not an address"),
        ([*GIVEN, "--version", "1.0.0", "--channel", "No!", "./app"], "--channel: 'No!' is not the name of a channel"),
        ([*GIVEN, "--version", "1.0.0", "--pin", "2", "./app"], "--pin: "),
        ([*GIVEN, "--version", "1.0.0", "--update-documents", "no", "./app"], "'no' is not one of"),
        (["--interval", "1e300", "./app"], "1e+300 is not 1 to 86400000 seconds"),
        (["--stop-timeout", "nan", "./app"], "nan is not 0 to 86400000 seconds"),
        (["--trial-period", "soon", "./app"], "'soon' is not a valid float"),
        (["--config", "words.toml", "./app"], "words.toml: smoke-test is no list of arguments"),
        (["sh", "./app"], "say with --program what is to be updated: not sh"),
        ([*GIVEN, "--version", "1.0.0", "/usr/bin/python3.11", "x"], "not /usr/bin/python3.11, it seems"),
        (["--config", "missing.toml", "./app"], "missing.toml: "),
        (["--config", "broken.toml", "./app"], "broken.toml: "),
        (["--config", "unknown.toml", "./app"], "unknown.toml: 'colour' is no option"),
        (["--config", "command.toml", "./app"], "command.toml: 'command' is no option"),
        (["--config", "wrong.toml", "./app"], "'many' is not a valid integer"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_run_that_is_called_wrongly_says_so_and_ends_with_125(plans, tmp_path, words, said):
    for name, text in {
        "broken": "api =",
        "unknown": "colour = 1",
        "command": "command = ['x']",
        "wrong": "tries = 'many'",
        "words": "smoke-test = '--version'",
    }.items():
        (tmp_path / f"{name}.toml").write_text(text)
    result = invoke(commands.run, *words)
    assert result.exit_code == 125, result.output
    assert said in result.stderr
    assert result.stderr.count("Error: ") == 1
    assert result.stdout == ""
    assert plans == []


def test_run_help_ends_with_0():
    result = invoke(commands.run, "--help")
    assert result.exit_code == 0
    assert "125: this command was called" in result.stdout

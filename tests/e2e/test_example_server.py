"""The example server as a user starts it: real gunicorn, alone and with the configuration that comes with it."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from patchify.keys import SigningKey, VerifyingKey
from tests.conftest import KEY
from tests.running import PATIENCE, ROOT, Gunicorn, Process, free_port, wait_until

APP = "examples.server:app"
CONFIG = ("-c", "config/gunicorn.conf.py")


@pytest.fixture
def env(tmp_path, monkeypatch):
    """Keep what the example writes out of the project's folder, and out of it what the developer has set."""
    for name in [name for name in os.environ if name.startswith(("FLASK_", "GUNICORN_")) or name.endswith("_DYNACONF")]:
        monkeypatch.delenv(name)
    return {"FLASK_KEY_FILE": str(tmp_path / "made" / "key")}


def environment_of(settings):
    """Return a server's settings as environment variables."""
    values = {
        **settings,
        "releases": str(settings["releases"]),
        "versions": f"@json {json.dumps(settings['versions'])}",
    }
    return {f"FLASK_PATCHIFY_{name.upper()}": value for name, value in values.items()}


def gunicorn(*options):
    """Return the command that a user types, which finds its address by itself."""
    return [sys.executable, "-m", "gunicorn", *options, APP]


def get(url):
    return requests.get(url, timeout=PATIENCE)


def signed_by(public: str, answer) -> bool:
    return VerifyingKey.from_hex(public).verify(answer.content, bytes.fromhex(answer.headers["X-Signature"]))


def public_keys(output: str) -> list[str]:
    """Return the keys that the example's own lines tell of."""
    return re.findall(r"examples\.server: \S+ at \S+, public key ([0-9a-f]{64})\n", output)


# What works -----------------------------------------------------------------------------------------------------------


def test_gunicorn_alone_serves_the_example_as_it_comes(env, tmp_path):
    with Gunicorn(APP, tmp_path / "log", env=env) as server:
        ping = get(f"{server.url}/api/ping")
        latest = get(f"{server.url}/api/latest")
        get(f"{server.url}/nothing")
        output = server.wait_for("/nothing")
    assert (ping.text, ping.headers["Content-Type"]) == ("pong", "text/plain; charset=utf-8")
    assert latest.content == b'{"version":"0.0.0"}'
    assert stat.S_IMODE((tmp_path / "made" / "key").stat().st_mode) == 0o600
    public = SigningKey.from_file(tmp_path / "made" / "key").verifying_key.to_hex()
    assert signed_by(public, latest)
    assert f"cli-app at http://127.0.0.1:8000/api/, public key {public}\n" in output
    for line in ("GET /api/ping 200", "GET /api/latest 200 19 bytes", "GET /nothing 404"):
        assert output.count(line) == 1


def test_a_fresh_copy_starts_and_makes_nothing_but_its_key(env, tmp_path):
    for folder in ("config", "examples"):
        shutil.copytree(
            ROOT / folder,
            tmp_path / "clone" / folder,
            ignore=shutil.ignore_patterns("key", "*.local.toml", "__pycache__"),
        )
    before = set((tmp_path / "clone").rglob("*"))
    del env["FLASK_KEY_FILE"]
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    with Gunicorn(APP, tmp_path / "log", *CONFIG, env=env, cwd=tmp_path / "clone") as server:
        assert get(f"{server.url}/api/latest").content == b'{"version":"0.0.0"}'
    assert set((tmp_path / "clone").rglob("*")) - before == {tmp_path / "clone" / "config" / "key"}


def test_the_configuration_for_gunicorn_takes_its_address_from_the_same_settings(env, tmp_path):
    port = free_port()
    with Process(gunicorn(*CONFIG), tmp_path / "log", cwd=ROOT, env={**env, "FLASK_PORT": str(port)}) as server:
        wait_until(lambda: server.output().count("Booting worker") == 2, "the start of two workers")
        output = server.wait_for("Using worker: gthread")
        assert f"cli-app at http://127.0.0.1:{port}/api/, " in output
        assert get(f"http://127.0.0.1:{port}/api/ping").text == "pong"
    assert output.index("cli-app at http") < output.index("Listening at")


def test_workers_that_start_at_once_share_one_key_made_once(env, tmp_path):
    with Gunicorn(APP, tmp_path / "log", "--workers", "4", env=env) as server:
        wait_until(lambda: len(public_keys(server.output())) == 4, "the start of four workers")
        public = public_keys(server.output())
    assert os.listdir(tmp_path / "made") == ["key"]
    assert set(public) == {SigningKey.from_file(tmp_path / "made" / "key").verifying_key.to_hex()}


def test_a_second_start_has_the_key_of_the_first(env, tmp_path):
    for log in ("first", "second"):
        with Gunicorn(APP, tmp_path / log, *CONFIG, env=env) as server:
            server.wait_for("public key")
    first, second = (public_keys((tmp_path / log).read_text()) for log in ("first", "second"))
    assert len(first) == 1
    assert first == second


def test_the_environment_overrides_the_file(env, tmp_path, publish, key):
    settings = publish({"1.9.0": b"old", "1.10.0-rc.1": b"new"}, appname="another")
    with Gunicorn(APP, tmp_path / "log", *CONFIG, env={**env, **environment_of(settings)}) as server:
        latest = get(f"{server.url}/api/latest")
        release = get(f"{server.url}/api/releases/1.9.0")
        output = server.output()
    assert latest.content == b'{"version":"1.10.0-rc.1"}'
    assert signed_by(key.verifying_key.to_hex(), latest)
    assert release.content == b"old"
    assert "another at http" in output
    assert not (tmp_path / "made").exists()


def test_a_further_file_holds_what_differs(env, tmp_path, publish):
    settings = publish({"1.0.0+b.1": b"one"}, appname="cli-app")
    assert invoke_hash(settings) == '"1.0.0+b.1" = "' + settings["versions"]["1.0.0+b.1"] + '"\n'
    (tmp_path / "more.toml").write_text(
        f'[default]\nPATCHIFY_RELEASES = "{settings["releases"]}"\n[default.PATCHIFY_VERSIONS]\n{invoke_hash(settings)}'
    )
    env["INCLUDES_FOR_DYNACONF"] = str(tmp_path / "more.toml")
    with Gunicorn(APP, tmp_path / "log", env=env) as server:
        assert get(f"{server.url}/api/latest").content == b'{"version":"1.0.0+b.1"}'


def invoke_hash(settings) -> str:
    """Return what the command prints to be pasted."""
    command = [sys.executable, "-m", "patchify", "hash", *sorted(settings["releases"].iterdir())]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout


def test_workers_started_anew_by_hup_answer_as_before(env, tmp_path):
    with Gunicorn(APP, tmp_path / "log", *CONFIG, env=env) as server:
        before = get(f"{server.url}/api/latest")
        server.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: server.output().count("Booting worker") == 4, "the start of two further workers")
        wait_until(lambda: server.output().count("Worker exiting") == 2, "the end of the first two workers")
        after = get(f"{server.url}/api/latest")
    assert before.headers["X-Signature"] == after.headers["X-Signature"]


def test_the_commands_know_the_example(env, tmp_path, publish):
    settings = publish({"1.0.0": b"one"})
    command = [Path(sys.executable).parent / "flask", "--app", "examples.server", "patchify", "list", "--json"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **env, **environment_of(settings)},
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    assert [release["version"] for release in json.loads(done.stdout)] == ["1.0.0"]


# What is refused ------------------------------------------------------------------------------------------------------


def loop(settings, env):
    path = settings["releases"] / "app-1.0.0"
    path.unlink()
    path.symlink_to(path)


def foreign_key_file(settings, env):
    del settings["key"]
    path = Path(env["FLASK_KEY_FILE"])
    path.parent.mkdir()
    path.write_text("not a key")
    path.chmod(0o600)  # others being able to read it is another line, a warning


def folder_for_a_key_is_a_file(settings, env):
    del settings["key"]
    Path(env["FLASK_KEY_FILE"]).parent.write_text("")


def broken_file(settings, env):
    path = settings["releases"] / "broken.toml"
    path.write_text("[default]\nPORT =\n")
    env["INCLUDES_FOR_DYNACONF"] = str(path)


WRONG = {
    "missing release": (
        lambda s, e: (s["releases"] / "app-1.0.0").unlink(),
        "release 1.0.0: .* is missing or not a regular file",
    ),
    "unreadable release": (loop, "release 1.0.0: .* cannot be read: Too many levels of symbolic links"),
    "wrong hash": (
        lambda s, e: s["versions"].update({"1.0.0": "0" * 64}),
        "release 1.0.0: .* has SHA-256 [0-9a-f]{64}, but 0{64} is .*",
    ),
    "invalid hash": (
        lambda s, e: s["versions"].update({"1.0.0": "12"}),
        "PATCHIFY_VERSIONS: the SHA-256 of 1.0.0 is '12', .*",
    ),
    "invalid version": (
        lambda s, e: s["versions"].update({"1.0": "0" * 64}),
        "PATCHIFY_VERSIONS: '1.0' is not a SemVer version: .*",
    ),
    "invalid key": (
        lambda s, e: s.update(key="0" * 63),
        "PATCHIFY_KEY: neither 64 hex digits nor the path of a key file .*",
    ),
    "a key of another kind": (
        lambda s, e: s.update(key="ssh-key " + "b3BlbnNzaC1r" * 40),
        r"PATCHIFY_KEY: neither 64 hex digits nor the path of a key file \(\d+ characters\)",
    ),
    "missing key file": (
        lambda s, e: s.update(key="/no/such/key"),
        "PATCHIFY_KEY: the key file /no/such/key cannot be read: .*",
    ),
    "no key in the key file": (foreign_key_file, "the key file .*/made/key is not a key: .*"),
    "no folder for the key file": (
        folder_for_a_key_is_a_file,
        "no folder for the key file .*/made/key can be made: File exists",
    ),
    "missing configuration key": (
        lambda s, e: e.update(FLASK_PATCHIFY_APPNAME="@none "),
        "PATCHIFY_APPNAME: is not configured",
    ),
    "port that is none": (lambda s, e: e.update(FLASK_PORT="http"), "settings: PORT cannot be 'http'"),
    "versions that are no JSON": (
        lambda s, e: e.update(FLASK_PATCHIFY_VERSIONS="@json {"),
        "settings: Cannot parse as JSON: .*",
    ),
    "settings that are no TOML": (broken_file, "settings: .*"),
}


@pytest.fixture
def wrong(request, env, publish):
    """Return an environment in which the server must not start, and what it says then."""
    spoil, line = WRONG[request.param]
    settings = publish({"1.0.0": b"one"})
    changes = dict(env)
    spoil(settings, changes)
    return {**environment_of(settings), **changes}, line


@pytest.mark.parametrize("wrong", WRONG, indirect=True)
def test_a_wrong_start_is_one_line_and_no_socket_is_opened(wrong, tmp_path):
    environment, line = wrong
    with socket.create_server(("127.0.0.1", 0)) as taken:  # gunicorn would complain if it wanted this port
        environment.setdefault("FLASK_PORT", str(taken.getsockname()[1]))
        with Process(gunicorn(*CONFIG), tmp_path / "log", cwd=ROOT, env=environment) as server:
            assert server.popen.wait(PATIENCE) == 4
            assert re.fullmatch(f"cannot start: {line}\n", server.output())


@pytest.mark.parametrize("wrong", ["missing release", "invalid key", "port that is none"], indirect=True)
def test_a_wrong_start_of_gunicorn_alone_ends_by_itself_with_one_line_of_ours(wrong, tmp_path):
    environment, line = wrong
    options = ("--no-control-socket", "--bind", "127.0.0.1:0")
    with Process(gunicorn(*options), tmp_path / "log", cwd=ROOT, env=environment) as server:
        assert server.popen.wait(PATIENCE) == 4
        output = server.output()
    assert len(re.findall(f"^cannot start: {line}$", output, re.MULTILINE)) == 1
    assert output.count("Booting worker") == 1
    assert "Traceback" not in output


# Behind a proxy -------------------------------------------------------------------------------------------------------


@pytest.fixture
def create_app(env, monkeypatch):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    from examples.server import create_app  # makes an application, and with it a key, where the environment says

    return create_app


@pytest.mark.parametrize(("proxies", "address"), [("0", "127.0.0.1"), ("1", "198.51.100.7")])
def test_what_a_proxy_says_of_the_client_is_believed_only_when_told_to(create_app, monkeypatch, proxies, address):
    from flask import request

    monkeypatch.setenv("FLASK_PROXIES", proxies)
    app = create_app()
    app.add_url_rule("/who", view_func=lambda: request.remote_addr)
    assert app.test_client().get("/who", headers={"X-Forwarded-For": "198.51.100.7"}).text == address


@pytest.mark.parametrize("key", [KEY, "ab" * 32])
def test_a_key_of_digits_alone_is_a_key_in_the_environment_too(create_app, monkeypatch, key):
    monkeypatch.setenv("FLASK_PATCHIFY_KEY", key)
    app = create_app()
    latest = app.test_client().get("/api/latest")
    assert latest.headers["X-Signature"] == SigningKey.from_hex(key).sign(latest.data).hex().upper()


def test_the_key_may_be_a_file_in_the_projects_folder(create_app, monkeypatch, tmp_path, key):
    key.write(tmp_path / "key")
    monkeypatch.setenv("FLASK_PATCHIFY_KEY", os.path.relpath(tmp_path / "key", ROOT))
    monkeypatch.chdir(tmp_path)
    latest = create_app().test_client().get("/api/latest")
    assert latest.headers["X-Signature"] == key.sign(latest.data).hex().upper()

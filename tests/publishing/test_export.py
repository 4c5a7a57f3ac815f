"""Exports: what is in them, what stays, what goes, and what is refused."""

import errno
import json
import os
import re
from datetime import timedelta

import pytest
from click.testing import CliRunner
from filelock import FileLock

from patchify.__main__ import program
from patchify.errors import (
    ExportBusyError,
    ExportRefusedError,
    ReleaseInvalidError,
    ReleaseMissingError,
    StorageUnavailableError,
)
from patchify.messages import UpdateDocument, split_signature
from patchify.platforms import KNOWN
from patchify.publishing import export as exports
from patchify.publishing.export import GRACE, OWN, Export
from patchify.publishing.export_plan import plan
from patchify.releases import ReleaseState, now, parse_time
from tests.conftest import KEY
from tests.publishing.exporting import MOMENT, content, core_of, exported, files_of, publish, sha256_of, versions_in

DAY = timedelta(days=1)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def write(storage, out):
    """Return a function that exports releases."""

    def write(*releases, time=MOMENT, life=None, platforms=(), to=out, settings=None, **how):
        core = core_of(storage, *releases, **(settings or {}))
        return Export(to, storage).write(plan(core, time, life=life, platforms=platforms), time, **how)

    return write


def contents(folder):
    """Return what is in a folder: the bytes of each file, and its inode and time."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and OWN not in path.parts)
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns)
        for path in files
    }


# What is in it --------------------------------------------------------------------------------------------------------


def test_an_export_has_the_documents_of_all_channels_and_platforms_and_every_file_they_name(storage, write, out):
    one = publish(storage, "1.0.0")
    two = publish(storage, "2.0.0", "1.0.0")
    three = publish(storage, "3.0.0", "2.0.0", channel="beta", platform="plan9-mips")
    outcome = write(one, two, three, platforms=["haiku-x86_64"], settings={"channel": "nightly"})
    found = exported(out)
    platforms = {*KNOWN, "plan9-mips", "haiku-x86_64"}
    assert set(found) == {(channel, name) for channel in ("beta", "nightly", "stable") for name in platforms}
    assert {str(each.version) for each in found["beta", "plan9-mips"].releases} == {"3.0.0"}
    assert found["beta", "any"].releases == found["nightly", "any"].releases == ()
    assert [len(each.forms.patches) for each in found["stable", "haiku-x86_64"].releases] == [1, 0]
    files = files_of(one) | files_of(two) | files_of(three)
    assert set(os.listdir(out / "files")) == files
    assert (outcome.written, outcome.linked, outcome.copied) == (len(found), len(files), 0)
    assert outcome.added == sum(path.stat().st_size for path in (out / "files").iterdir())


def test_the_documents_are_those_of_the_server(storage, write, out):
    releases = publish(storage, "1.0.0"), publish(storage, "2.0.0", rollout="10,50@1000w")
    write(*releases)
    served = core_of(storage, *releases).update_document("stable", "linux-x86_64")
    assert split_signature((out / "updates/stable/linux-x86_64").read_bytes()) == (served.body, served.signature)
    assert UpdateDocument.parse(served.body).releases[0].rollout.percent == 10


def test_only_what_is_offered_is_in_it(storage, write, out):
    one, two = publish(storage, "1.0.0"), publish(storage, "2.0.0")
    withdrawn = two.with_placement(two.placements[0].become(ReleaseState.WITHDRAWN, MOMENT))
    write(one, withdrawn)
    assert set(os.listdir(out / "files")) == files_of(one)
    assert [str(each.version) for each in exported(out)["stable", "any"].withdrawn] == ["2.0.0"]


def test_a_life_can_be_given_to_the_documents(storage, write, out):
    write(publish(storage, "1.0.0"), life=48)
    assert {each.expires - each.issued for each in exported(out).values()} == {2 * DAY}


@pytest.mark.parametrize("umask", [0o022, 0o077], ids=oct)
def test_everybody_may_read_it(storage, write, out, umask):
    before = os.umask(umask)
    try:
        release = publish(storage, "1.0.0")
        write(release)
    finally:
        os.umask(before)
    for path in out.rglob("*"):
        if OWN not in path.parts:
            assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path
    assert (out / OWN).stat().st_mode & 0o777 == 0o700


# How files get into it ------------------------------------------------------------------------------------------------


def test_files_are_linked_and_releases_can_be_published_over_them(storage, write, out):
    release = publish(storage, "1.0.0")
    write(release)
    assert (out / "files" / release.sha256).samefile(storage.path(release))
    staged = storage.make_incoming() / "staged"
    staged.write_bytes(b"other")
    storage.place(staged, release)
    exported(out)


def test_files_are_copied_where_they_cannot_be_linked(storage, write, out, monkeypatch):
    def refused(*names, **options):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    release = publish(storage, "1.0.0")
    done = []
    outcome = write(release, progress=done.append)
    assert (outcome.linked, outcome.copied) == (0, len(files_of(release)))
    assert exported(out)
    assert done == sorted(done)
    assert done[-1] == outcome.added


def test_a_release_that_is_a_symbolic_link_is_copied(storage, write, out, tmp_path):
    release = publish(storage, "1.0.0")
    storage.path(release).rename(tmp_path / "elsewhere")
    storage.path(release).symlink_to("../elsewhere")
    assert write(release).copied == 1
    assert not (out / "files" / release.sha256).is_symlink()
    assert exported(out)


def test_what_is_replaced_while_it_is_linked_is_copied_as_it_was_checked(storage, write, out, monkeypatch):
    release = publish(storage, "1.0.0")

    def replaced(source, target, link=os.link):
        if source == storage.path(release):
            (storage.folder / "new").write_bytes(b"other")
            os.replace(storage.folder / "new", source)
        link(source, target)

    monkeypatch.setattr(os, "link", replaced)
    assert write(release).copied == 1
    assert (out / "files" / release.sha256).read_bytes() == content("1.0.0")


def test_what_changes_while_it_is_copied_is_no_release(storage, write, out, monkeypatch):
    write(publish(storage, "1.0.0"))
    before = contents(out)
    release = publish(storage, "2.0.0")
    storage.path(release).chmod(0o600)  # so that it is copied

    def changed(file, source, opened, block, read=exports._read):
        if file.whole:
            source.write_bytes(b"other")
        return read(file, source, opened, block)

    monkeypatch.setattr(exports, "_read", changed)
    with pytest.raises(ReleaseInvalidError, match=r"release 2\.0\.0: .*app-2\.0\.0 has SHA-256"):
        write(release)
    assert {path: contents(out)[path] for path in before} == before


@pytest.mark.parametrize("form", ["whole", "compressed"])
@pytest.mark.parametrize(
    ("data", "error"), [(None, ReleaseMissingError), (b"x" * 1000, ReleaseInvalidError)], ids=["missing", "damaged"]
)
def test_a_file_that_is_missing_or_damaged_leaves_the_documents_as_they_are(storage, write, out, form, data, error):
    write(publish(storage, "1.0.0"))
    before = contents(out)
    release = publish(storage, "2.0.0")
    path = storage.path(release) if form == "whole" else storage.form_path(release.forms.compressed.sha256)
    path.unlink()
    if data:
        path.write_bytes(data)
    with pytest.raises(error, match=r"release 2\.0\.0: .* (is missing|has SHA-256)"):
        write(release)
    assert {path: found for path, found in contents(out).items() if path in before} == before
    assert versions_in(out) == {("1.0.0",)}


# Again ----------------------------------------------------------------------------------------------------------------


def test_an_export_again_writes_only_what_is_new(storage, write, out):
    one = publish(storage, "1.0.0")
    write(one)
    before = contents(out)
    outcome = write(one)
    assert (outcome.written, outcome.linked, outcome.copied, outcome.added) == (0, 0, 0, 0)
    assert contents(out) == before
    two = publish(storage, "2.0.0", "1.0.0")
    outcome = write(one, two)
    assert outcome.linked == len(files_of(two))
    assert {path: found for path, found in contents(out).items() if path in before and path.startswith("files")} == {
        path: found for path, found in before.items() if path.startswith("files")
    }
    assert versions_in(out) == {("2.0.0", "1.0.0")}


def test_a_file_of_another_size_is_replaced_and_a_damaged_one_of_the_same_when_all_are_hashed(storage, write, out):
    release = publish(storage, "1.0.0")
    write(release)
    file = out / "files" / release.sha256
    file.unlink()
    file.write_bytes(b"cut short")
    assert write(release).linked == 1
    exported(out)
    file.unlink()
    file.write_bytes(b"x" * release.size)
    assert write(release).linked == 0
    assert write(release, full=True).linked == 1
    exported(out)


def test_what_is_not_needed_goes_a_day_after_the_last_document_that_named_it_expired(storage, write, out):
    one, two = publish(storage, "1.0.0", channel="beta"), publish(storage, "2.0.0")
    write(one)
    (expires,) = {each.expires for each in exported(out).values()}
    assert write(two, time=expires + GRACE, prune=True).removed == []
    outcome = write(two, time=expires + GRACE + timedelta(seconds=1), prune=True)
    documents = [f"updates/beta/{platform}" for platform in KNOWN]
    assert sorted(outcome.removed) == sorted([f"files/{each}" for each in files_of(one)] + documents)
    assert set(os.listdir(out / "files")) == files_of(two)
    assert os.listdir(out / "updates") == ["stable"]
    assert write(two, time=expires + 9 * DAY, prune=True).removed == []


def test_what_is_needed_again_stays(storage, write, out):
    one, two = publish(storage, "1.0.0"), publish(storage, "2.0.0")
    write(one)
    write(two)
    write(one, two, time=MOMENT + 6 * DAY)
    assert write(two, time=MOMENT + 10 * DAY, prune=True).removed == []
    assert len(write(two, time=MOMENT + 20 * DAY, prune=True).removed) == len(files_of(one))


def test_only_what_an_export_has_written_is_removed(storage, write, out):
    one, two = publish(storage, "1.0.0"), publish(storage, "2.0.0")
    write(one)
    kept = [
        out / "index.html",
        out / "mine",
        out / "files" / sha256_of(b"mine"),
        out / "files" / "README",
        out / "updates" / "stable" / "mine",
    ]
    for path in kept:
        path.write_bytes(b"mine")
    foreign = out / "files" / one.sha256
    foreign.unlink()
    foreign.mkdir()  # and this is none of ours any more
    state = json.loads((out / OWN / "export.json").read_text())
    for path in ("../releases/app-2.0.0", "updates/../mine", "index.html"):
        state["needed"][path] = "2020-01-01T00:00:00Z"
    (out / OWN / "export.json").write_text(json.dumps(state))
    write(two, time=MOMENT + 30 * DAY, prune=True)
    assert all(path.read_bytes() == b"mine" for path in kept)
    assert foreign.is_dir()
    assert storage.path(two).exists()


def test_nothing_is_removed_unless_it_is_asked_for(storage, write, out):
    one, two = publish(storage, "1.0.0"), publish(storage, "2.0.0")
    write(one)
    assert write(two, time=MOMENT + 30 * DAY).removed == []
    assert set(os.listdir(out / "files")) == files_of(one) | files_of(two)
    assert len(write(two, time=MOMENT + 30 * DAY, prune=True).removed) == len(files_of(one))


# Refused --------------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_somebodys_is_left_alone(storage, write, out):
    out.mkdir()
    (out / "letter.txt").write_text("mine")
    with pytest.raises(ExportRefusedError, match="neither empty nor an export"):
        write(publish(storage, "1.0.0"))
    (out / OWN).mkdir()
    with pytest.raises(ExportRefusedError, match="neither empty nor an export"):
        write(publish(storage, "1.0.0"))
    assert sorted(os.listdir(out)) == [OWN, "letter.txt"]
    (out / "letter.txt").unlink()
    assert write(publish(storage, "1.0.0")).written == len(KNOWN)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("releases", "it is where the releases are kept"),
        ("releases/export", "it is where the releases are kept"),
        ("link/export", "it is where the releases are kept"),
        (".", "neither empty nor an export"),
        ("none/export", "none is not there; is its disk mounted?"),
        ("file", "it is no folder"),
    ],
)
def test_what_is_no_folder_to_export_to_is_refused(storage, write, tmp_path, place, said):
    release = publish(storage, "1.0.0")
    (tmp_path / "link").symlink_to("releases")
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ExportRefusedError, match=said):
        write(release, to=tmp_path / place)
    assert contents(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "releases"]


def test_the_export_of_another_application_is_left_alone(storage, write, out):
    release = publish(storage, "1.0.0")
    write(release)
    before = contents(out)
    with pytest.raises(ExportRefusedError, match="the export of app, and this is other"):
        write(release, settings={"appname": "other"})
    assert contents(out) == before


@pytest.mark.parametrize(
    "state", ["", "[]", '{"appname": "app"}', '{"appname": "app", "needed": {"files/%s": 1}}' % ("0" * 64)]
)
def test_an_export_that_cannot_be_read_is_left_alone(storage, write, out, state):
    release = publish(storage, "1.0.0")
    write(release)
    (out / OWN / "export.json").write_text(state)
    before = contents(out)
    with pytest.raises(ExportRefusedError, match=r"export\.json cannot be read"):
        write(release, publish(storage, "2.0.0"))
    assert contents(out) == before


def test_of_two_at_once_one_is_refused(storage, write, out):
    release = publish(storage, "1.0.0")
    write(release)
    with FileLock(out / OWN / "lock"), pytest.raises(ExportBusyError, match="another process exports to"):
        write(release)
    assert write(release).written == 0


# A disk that is full --------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_leaves_the_old_documents_with_their_files(storage, write, out, monkeypatch):
    one, two = publish(storage, "1.0.0"), publish(storage, "2.0.0", "1.0.0")
    for form in files_of(two) - {two.sha256}:
        storage.form_path(form).chmod(0o600)  # so that these are copied
    write(one)
    calls = 0
    left = None

    def failing(call):
        def fail(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == left:
                raise OSError(errno.ENOSPC, "No space left on device", str(out))
            return call(*arguments, **options)

        return fail

    for name in ("chmod", "fsync", "mkdir", "replace"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    for left in range(1, 1000):
        calls = 0
        try:
            write(one, two)
        except StorageUnavailableError:
            assert versions_in(out) <= {("1.0.0",), ("2.0.0", "1.0.0")}
            assert not (out / OWN / "draft").exists()
        else:
            if calls < left:
                break
    assert left > len(KNOWN)
    assert versions_in(out) == {("2.0.0", "1.0.0")}


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs the program in a folder without settings."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, status=0):
        result = CliRunner().invoke(program, arguments)
        assert result.exit_code == status, result.output
        return result

    return run


@pytest.fixture
def published(run, tmp_path):
    """Begin to publish, and publish two releases."""
    run("init", "app")
    for version in ("1.0.0", "2.0.0"):
        (tmp_path / "build").write_bytes(content(version))
        run("publish", "build", "--version", version)


@pytest.mark.usefixtures("published")
def test_the_command_says_what_it_has_done_and_until_when_it_is_good(run):
    lines = run("export", "out").stdout.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["documents", "13", "13", "written"],
        ["files", "2,", "2.0", "KiB", "2", "linked,", "0", "copied,", "2.0", "KiB"],
        ["removed", "0"],
    ]
    assert re.fullmatch(r"good until \d{4}-\d\d-\d\d \d\d:\d\d UTC: export again well before", lines[3])
    assert len(lines) == 4
    found = json.loads(run("export", "out", "--json", "--life", "2", "--platform", "plan9-mips").stdout)
    good_until = parse_time(found.pop("good_until"))
    assert timedelta(hours=1) < good_until - now() <= timedelta(hours=2)
    assert found == {
        "folder": "out",
        "documents": 14,
        "written": 14,
        "files": 2,
        "bytes": 2000,
        "linked": 0,
        "copied": 0,
        "added_bytes": 0,
        "removed": [],
        "next_step": None,
    }


@pytest.mark.usefixtures("published")
def test_the_command_says_when_a_rollout_is_to_widen(run):
    run("rollout", "2.0.0", "10,50@1d,100@3d")
    assert re.search(r"^a rollout widens at .* UTC: export again then$", run("export", "out").stdout, re.MULTILINE)
    found = json.loads(run("export", "out", "--json").stdout)
    assert timedelta(hours=23) < parse_time(found["next_step"]) - now() <= DAY


def test_the_releases_of_an_application_are_exported(storage, run, tmp_path, monkeypatch):
    release = publish(storage, "3.0.0")
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"APPNAME": "app", "KEY": KEY, "RELEASES": str(storage.folder), "VERSIONS": {"3.0.0": release.sha256}}
    (tmp_path / "application_to_export.py").write_text(
        "from flask import Flask\nfrom patchify.server import patchify_bp\napp = Flask(__name__)\n"
        f"app.config.update({ {f'PATCHIFY_{name}': value for name, value in settings.items()} })\n"
        "app.register_blueprint(patchify_bp)\n"
    )
    run("--app", "application_to_export:app", "export", "out")
    assert versions_in(tmp_path / "out") == {("3.0.0",)}
    assert os.listdir(tmp_path / "out" / "files") == [release.sha256]


@pytest.mark.usefixtures("published")
def test_the_command_tells_what_is_wrong_in_one_line(run, tmp_path):
    result = run("export", "releases", status=1)
    assert result.stderr == (
        "Error: nothing is exported to releases: it is where the releases are kept; name one outside of that\n"
    )
    run("export", "out")
    with FileLock(tmp_path / "out" / OWN / "lock"):
        result = run("export", "out", status=3)
    assert result.stderr == "Error: another process exports to out just now; try again when it is done\n"
    (tmp_path / "releases" / "app-2.0.0").unlink()
    (tmp_path / "releases" / "app-2.0.0").write_bytes(b"damaged")
    run("export", "out")  # it has all that it needs
    result = run("export", "another", status=1)
    assert result.stderr.splitlines()[-1].startswith("Error: release 2.0.0: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--life", "0"], "0 is not in the range"),
        (["--life", "9000"], "9000 is not in the range"),
        (["--platform", "Linux!"], "'Linux!' is not the name of a platform"),
        (["--config", "none"], "File 'none' does not exist"),
    ],
)
def test_a_wrong_call_is_wrong_usage(run, arguments, said, tmp_path):
    assert said in run("export", "out", *arguments, status=2).stderr
    assert not (tmp_path / "out").exists()


def test_without_settings_the_command_says_what_makes_them(run):
    assert "there is no patchify.toml: patchify init NAME makes one" in run("export", "out", status=2).stderr

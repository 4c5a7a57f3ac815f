"""The steps that every kind of program has in common, taken with real files of each kind."""

import contextlib
import errno
import io
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from filelock import FileLock
from semver import Version

from patchify.client import installer as module
from patchify.client import points
from patchify.client.locks import GUARDIAN
from patchify.client.processes import MEANT
from patchify.client.state import MAX_INTERRUPTIONS, Bad, Phase, Release, State, Update, load, save
from patchify.errors import (
    DamagedVersionError,
    FailedHashVerificationError,
    FileOperationError,
    NoPreviousVersionError,
    NotEnoughSpaceError,
    UnableToCreateDownloadError,
    UnableToCreateFolderError,
    UnableToReadFileError,
    UnableToSwapError,
    UnableToWriteStateError,
    UpdateInProgressError,
)
from tests.client.installations import KINDS, ONE, Installation
from tests.running import PATIENCE, ROOT

TWO, THREE = Version(2), Version(3)
CHANGED = (FailedHashVerificationError, DamagedVersionError)


@pytest.fixture(params=KINDS)
def made(request, tmp_path):
    """An installation whose lock is held."""
    made = Installation(tmp_path / "place", request.param)
    with made.installer.lock():
        yield made
    made.installer.retire()


def failing(error):
    def fail(*_, **__):
        raise OSError(error, os.strerror(error))

    return fail


@contextlib.contextmanager
def full():
    """Let no state be written."""

    def save(path, state):
        raise UnableToWriteStateError(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "save", save)
        yield


# The story ------------------------------------------------------------------------------------------------------------


def test_a_release_is_staged_prepared_swapped_in_and_confirmed(made):
    program = made.installer.installed()
    update = made.prepare()
    assert update == Update(made.release(2), Release(ONE, program))
    assert made.installer.state() == load(made.installer.state_path) == State(good=update.replaces, update=update)
    assert made.number == 1
    assert made.installer.swap(update, tries=3)
    assert made.number == 2
    assert made.installer.installed() == update.release.sha256
    assert made.installer.state().on_trial == replace(update, phase=Phase.ARMED, tries=3)
    assert made.installer.recover().on_trial  # of which recovery makes nothing
    assert made.installer.confirm()
    assert made.installer.state() == State(good=update.release, previous=update.replaces)
    assert not made.installer.confirm()
    assert made.number == 2


def test_of_many_updates_the_last_and_the_one_before_are_kept(made):
    first = made.installer.installed()
    for number in range(2, 6):
        made.confirm(number, running=Version(number - 1))
        assert made.number == number
        assert made.looks_like == number
    state = made.installer.recover()
    assert (state.good, state.previous) == (made.release(5), made.release(4))
    assert made.kept_path(state.previous).exists()
    kept = {"lock", "state.json"}
    if made.kind == "file":
        kept |= {f"previous-{made.release(4).sha256}"}
    else:
        names = [f"versions/{number}.0.0-{made.release(number).sha256}" for number in (4, 5)]
        kept |= {"versions", *names, *(f"{name}.manifest" for name in names)}
    if made.kind == "folder":  # the user's own, which is never deleted
        kept |= {f"versions/1.0.0-{first}"}
    assert set(made.names()) == kept


@pytest.mark.parametrize("phase", ["prepared", "swapped", "given back", "confirmed", "next prepared"])
def test_what_is_cleaned_up_is_never_the_program_nor_what_it_may_need(made, phase):
    made.confirm(2)
    if phase != "confirmed":
        made.prepare(3, TWO)
    if phase in {"swapped", "given back"}:
        made.installer.swap(made.installer.state().update, 1)
    if phase == "given back":
        made.installer.give_back("was killed", failed=True)
    if phase == "next prepared":
        made.prepare(4, TWO)
    for _ in range(2):
        made.installer._tidy(made.installer.state())
    state = made.installer.state()
    assert made.number == (3 if phase == "swapped" else 2)
    assert made.kept_path(state.previous).exists()
    if state.update:
        assert made.installer.is_staged(state.update.release.sha256)
        assert made.kept_path(state.update.replaces).exists()


def test_progress_goes_from_the_first_byte_to_the_last(made):
    release = made.download(2)
    seen = []
    made.installer.prepare(release, ONE, lambda done, total: seen.append(done / total))
    assert seen == sorted(seen)
    assert 0 <= seen[0] < seen[-1] == 1


def test_the_program_is_known_by_its_identity_until_it_is_replaced(made):
    before = made.installer.identity()
    assert made.installer.identity() == made.another().identity() == before
    made.swap()
    after = made.installer.identity()
    assert after != before
    made.replace()
    assert made.installer.identity() not in (before, after)


def test_swapping_what_another_process_swapped_already_is_no_error(made):
    update = made.prepare()
    assert made.another().swap(update, 1)
    assert not made.installer.swap(update, 1)
    assert made.number == 2


def test_a_program_that_somebody_else_replaced_is_not_swapped_away(made):
    update = made.prepare()
    made.replace()
    with pytest.raises(UnableToSwapError, match="somebody else"):
        made.installer.swap(update, 1)
    assert made.number == 9
    made.swap()
    made.installer.give_back("was killed", failed=True)
    assert made.number == 9


def test_an_update_that_was_given_up_meanwhile_is_not_swapped_in(made):
    update = made.prepare()
    made.another().forget()
    with pytest.raises(UnableToSwapError, match="given up"):
        made.installer.swap(update, 1)
    made.prepare(3)
    with pytest.raises(UnableToSwapError, match="given up"):
        made.installer.swap(update, 1)
    assert made.number == 1


def test_a_swap_that_is_interrupted_before_it_leaves_the_update_waiting(made, monkeypatch):
    update = made.prepare()

    def interrupt(release):
        raise KeyboardInterrupt

    monkeypatch.setattr(made.installer, "_place", interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.installer.swap(update, 1)
    assert made.installer.state().update == update
    assert made.number == 1


def test_a_swap_that_is_interrupted_after_it_leaves_the_release_on_trial(made, monkeypatch):
    update = made.prepare()
    place = made.installer._place

    def interrupt(release):
        place(release)
        raise KeyboardInterrupt

    monkeypatch.setattr(made.installer, "_place", interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.installer.swap(update, 1)
    assert made.installer.recover().on_trial.release == update.release
    assert made.number == 2


def test_a_swap_that_cannot_be_remembered_is_not_done(made):
    update = made.prepare()
    with full(), pytest.raises(UnableToWriteStateError):
        made.installer.swap(update, 1)
    assert made.number == 1


def test_a_swap_that_may_not_be_durable_is_a_swap(made, monkeypatch):
    update = made.prepare()
    kind = sys.modules[type(made.installer).__module__]
    breaking = {"placed": lambda: monkeypatch.setattr(kind, "sync_folder", failing(errno.EIO))}
    monkeypatch.setattr(points, "hook", lambda point: breaking.get(point, lambda: None)())
    assert made.installer.swap(update, 1)
    assert made.number == 2
    assert made.installer.state().on_trial


def test_what_was_made_ready_is_verified_when_it_is_swapped_in(made):
    update = made.prepare()
    made.damage(
        made.installer.staged_path(update.release.sha256) if made.kind == "file" else made.kept_path(update.release)
    )
    with pytest.raises(CHANGED) as caught:
        made.installer.swap(update, 1)
    assert caught.value.version == "2.0.0"
    assert made.number == 1
    assert not made.installer.is_staged(update.release.sha256)
    assert made.installer.recover().update == update
    made.swap()
    assert made.number == 2


def test_and_when_it_is_prepared(made):
    release = made.download(2)
    staged = made.installer.staged_path(release.sha256)
    staged.write_bytes(staged.read_bytes()[:-1])
    os.utime(staged, ns=(1, 1))
    with pytest.raises(FailedHashVerificationError):
        made.installer.prepare(release, ONE)
    assert not made.installer.is_staged(release.sha256)
    made.swap()
    assert made.number == 2


# Giving back ----------------------------------------------------------------------------------------------------------


def test_a_failed_release_is_tried_again_and_then_never(made):
    for failures in (1, 2):
        made.swap(tries=1)
        state = made.installer.give_back("was killed by SIGSEGV", failed=True)
        assert made.number == 1
        assert state == made.installer.state() == made.installer.recover()
        assert (state.update.failures if failures == 1 else state.update) == (1 if failures == 1 else None)
    assert state.untold == state.quarantined(made.release(2).sha256)
    assert state.untold.reason == "was killed by SIGSEGV"
    assert not made.installer.is_staged(made.release(2).sha256)
    made.installer.told()
    assert made.installer.state().untold is None
    assert made.installer.state().bad == state.bad


@pytest.mark.parametrize(("failed", "rounds"), [(True, 1), (False, MAX_INTERRUPTIONS + 1), (None, 20)])
def test_failures_and_interruptions_are_bounded_and_what_was_not_started_is_not(made, failed, rounds):
    update = made.prepare()
    for _ in range(rounds):
        assert made.installer.state().update
        assert made.installer.swap(update, tries=0)
        made.installer.give_back("went wrong", failed=failed)
        assert made.looks_like == 1
    assert (made.installer.state().update is None) == (failed is not None)


@pytest.mark.parametrize("before", ["nothing", "staged"])
def test_nothing_is_given_back_where_no_swap_was_ordered(made, before):
    if before == "staged":
        made.prepare()
    state = made.installer.state()
    assert made.installer.give_back("was killed", failed=True) == state
    assert made.number == 1


def test_a_swap_that_was_ordered_but_not_done_is_given_back_as_well(made):
    made.prepare()
    made.installer.save(made.installer.state().armed(1))
    state = made.installer.give_back("cannot be started", failed=None)
    assert (state.update.phase, state.update.failures) == (Phase.STAGED, 0)
    assert made.number == 1


def test_what_somebody_else_put_in_place_during_the_trial_stays(made):
    made.swap()
    made.replace()
    made.installer.give_back("was killed", failed=True)
    assert made.number == 9
    assert made.installer.recover().update is None
    assert made.number == 9


@pytest.mark.parametrize("failed", [True, False, None])
def test_with_a_full_disk_the_old_program_comes_back_all_the_same(made, failed, caplog):
    made.swap()
    with full(), pytest.raises(UnableToWriteStateError):
        made.installer.give_back("was killed", failed=failed)
    assert made.number == 1
    assert "No space left" in caplog.text
    state = made.another().recover()  # the count is lost, no more
    assert (state.update.phase, state.update.failures, state.update.interruptions) == (Phase.STAGED, 0, 1)
    assert made.number == 1
    made.swap()
    assert made.number == 2


def test_a_previous_version_that_was_changed_is_not_put_back(made):
    update = made.swap()
    made.damage(made.kept_path(update.replaces))
    for attempt in range(2):
        with pytest.raises(CHANGED if attempt == 0 or made.kind != "file" else UnableToReadFileError):
            made.installer.give_back("was killed", failed=True)
        assert made.number == 2
        assert made.installer.state().update.phase is Phase.RETURNING
        assert made.installer.state().update.failures == 1
    made.confirm(3, TWO)  # it is no obstacle to what mends it
    assert made.number == 3


def test_a_previous_version_that_is_gone_cannot_be_put_back(made):
    update = made.swap()
    kept = made.kept_path(update.replaces)
    kept.rename(made.place / "hidden")
    with pytest.raises((UnableToReadFileError, DamagedVersionError)):
        made.installer.give_back("was killed", failed=True)
    assert made.number == 2
    (made.place / "hidden").rename(kept)
    made.installer.recover()
    assert made.number == 1


def test_giving_back_needs_to_know_what_to_give_back(made, monkeypatch):
    made.swap()
    with monkeypatch.context() as patch:
        patch.setattr(io, "open", failing(errno.EIO))
        with pytest.raises(UnableToReadFileError):
            made.installer.give_back("was killed", failed=True)
    made.installer.give_back("was killed", failed=True)
    assert made.number == 1


# Going on -------------------------------------------------------------------------------------------------------------


def test_a_trial_that_nobody_watched_goes_on_a_few_times_and_is_then_taken_back(made):
    made.swap()
    made.installer.report(4711, 30.0)
    for interruptions in range(1, MAX_INTERRUPTIONS + 1):
        trial = made.installer.resume("the machine was started anew").on_trial
        assert (trial.interruptions, trial.process) == (interruptions, None)
        assert made.installer.state().on_trial == trial
        assert made.looks_like == 2
    state = made.installer.resume("the machine was started anew")
    assert made.number == 1
    assert state.update is None
    assert "the machine was started anew" in state.quarantined(made.release(2).sha256).reason


def test_where_nothing_is_on_trial_nothing_goes_on(made):
    update = made.prepare()
    assert made.installer.resume("the machine was started anew").update == update
    assert made.number == 1


def test_a_trial_goes_on_only_where_it_is_known(made, monkeypatch):
    made.swap()
    with monkeypatch.context() as patch:
        patch.setattr(io, "open", failing(errno.EIO))
        with pytest.raises(UnableToReadFileError):
            made.installer.resume("the machine was started anew")
    assert made.installer.state().on_trial
    assert made.number == 2


# Recovering -----------------------------------------------------------------------------------------------------------


def test_nothing_under_way_is_nothing_to_recover(made):
    assert made.installer.recover() == State()
    assert made.names() == ["lock"]


def test_what_waits_is_found_again_by_the_next_process(made):
    update = made.prepare()
    other = made.another()
    assert other.recover().update == update
    assert other.swap(update, 1)
    assert made.number == 2


@pytest.mark.parametrize("standing", ["the old one", "the new one", "another one"])
@pytest.mark.parametrize("phase", list(Phase))
def test_recovery_finishes_or_undoes_whatever_was_interrupted(made, phase, standing):
    update = made.prepare()
    if standing == "the new one":
        made.installer.swap(update, 1)
    elif standing == "another one":
        made.replace()
    made.installer.save(
        State(good=update.replaces, update=replace(update, phase=phase, tries=1, failures=1, reason="was killed"))
    )
    state = made.another().recover()
    assert state == made.installer.state()
    assert made.another().recover() == state
    found = state.update and (state.update.phase, state.update.failures, state.update.interruptions)
    expected, number = {
        (Phase.STAGED, "the old one"): ((Phase.STAGED, 1, 0), 1),
        (Phase.STAGED, "the new one"): (None, 2),
        (Phase.ARMED, "the old one"): ((Phase.STAGED, 1, 1), 1),
        (Phase.ARMED, "the new one"): ((Phase.ARMED, 1, 0), 2),
        (Phase.RETURNING, "the old one"): ((Phase.STAGED, 1, 0), 1),
        (Phase.RETURNING, "the new one"): ((Phase.STAGED, 1, 0), 1),
    }.get((phase, standing), (None, 9))
    assert (found, made.number) == (expected, number)
    if found is None:
        assert not made.installer.is_staged(update.release.sha256) or number == 2


def test_a_return_that_was_interrupted_may_end_in_quarantine(made):
    update = made.swap()
    spent = replace(update, phase=Phase.RETURNING, tries=0, failures=1, reason="was killed")
    made.installer.save(State(good=update.replaces, update=spent))
    state = made.installer.recover()
    assert [(bad.release, bad.reason) for bad in state.bad] == [(update.release, "was killed")]
    assert made.number == 1


def test_an_update_that_is_always_interrupted_before_its_swap_is_given_up(made):
    for _ in range(MAX_INTERRUPTIONS + 1):
        made.prepare()
        made.installer.save(made.installer.state().armed(5))
        state = made.installer.recover()
    assert state.update is None
    assert "interrupted before the swap" in state.bad[0].reason


@pytest.mark.parametrize("damage", ["garbage", "newer", "older", "folder", "not ours"])
def test_a_state_that_is_not_usable_is_set_aside_and_built_anew(made, damage, caplog, monkeypatch):
    made.prepare()
    path = made.installer.state_path
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "not ours":
        path.chmod(0)
        real = io.open  # root may read it all the same
        monkeypatch.setattr(
            io,
            "open",
            lambda file, *args, **kwargs: failing(errno.EACCES)() if file == path else real(file, *args, **kwargs),
        )
    else:
        path.write_bytes(
            {"garbage": b"\0" * 100, "newer": b'{"format": 3}', "older": b'{"format": 1, "staged": null}'}[damage]
        )
    assert made.installer.recover() == State()
    monkeypatch.undo()
    assert "set aside" in caplog.text
    assert not path.exists()
    assert made.folder.joinpath("state.json.unusable").exists()
    assert made.number == 1
    made.confirm()
    assert made.number == 2


@pytest.mark.parametrize(
    "step", ["note", "told", "report", "quarantine", "forget", "part", "prepare", "swap", "confirm", "give_back"]
)
def test_no_step_writes_over_a_state_that_it_could_not_read(made, monkeypatch, step):
    update = made.prepare()
    remembered = made.installer.save(
        replace(made.installer.state(), bad=(Bad(made.release(7), "was bad", datetime(2024, 1, 1, tzinfo=UTC)),))
    )
    steps = {
        "note": lambda: made.installer.note("no net"),
        "told": made.installer.told,
        "report": lambda: made.installer.report(1, 2.0),
        "quarantine": lambda: made.installer.quarantine(made.release(8), "was bad"),
        "forget": made.installer.forget,
        "part": lambda: made.installer.part(made.release(8).sha256),
        "prepare": lambda: made.installer.prepare(update.release, ONE),
        "swap": lambda: made.installer.swap(update, 1),
        "confirm": made.installer.confirm,
        "give_back": lambda: made.installer.give_back("was killed", failed=True),
    }
    real = io.open
    with monkeypatch.context() as patch:
        unreadable = made.installer.state_path
        patch.setattr(
            io,
            "open",
            lambda file, *args, **kwargs: (
                failing(errno.EMFILE)() if file == unreadable else real(file, *args, **kwargs)
            ),
        )
        if step == "note":
            steps[step]()
        else:
            with pytest.raises(UnableToReadFileError):
                steps[step]()
        assert made.installer.state() == State()  # a look may be wrong
    assert made.installer.state() == remembered
    assert made.number == 1


# Going back by hand ---------------------------------------------------------------------------------------------------


def test_the_previous_version_is_put_back_by_hand_and_the_good_one_is_condemned(made):
    made.confirm(2)
    assert made.installer.recall().version == ONE
    assert made.number == 1
    state = made.installer.recover()
    assert state.quarantined(made.release(2).sha256).reason == "was taken back by hand"
    assert (state.good.version, state.previous, state.update) == (ONE, None, None)
    with pytest.raises(NoPreviousVersionError):
        made.installer.recall()
    made.confirm(3)
    assert made.number == 3


def test_going_back_gives_up_what_only_waits(made):
    made.confirm(2)
    made.prepare(3, TWO)
    assert made.installer.recall().version == ONE
    assert made.number == 1
    assert made.installer.state().update is None
    assert not made.installer.is_staged(made.release(3).sha256)


def test_nothing_is_taken_back_by_hand_while_it_is_on_trial(made):
    made.confirm(2)
    made.swap(3, running=TWO)
    with FileLock(made.folder / GUARDIAN), pytest.raises(UpdateInProgressError, match=r"3\.0\.0 is on trial"):
        made.installer.recall()
    assert made.number == 3
    made.installer.give_back("was killed", failed=True)
    assert made.installer.recall().version == ONE
    assert made.number == 1


@pytest.mark.parametrize("interrupted", [False, True])
def test_what_nobody_watches_is_taken_back_by_hand_and_nothing_more(made, interrupted):
    made.confirm(2)
    made.swap(3, running=TWO)
    if interrupted:
        made.installer.save(made.installer.state().returning("crashed", failed=True))
    assert made.installer.recall().version == TWO
    assert made.number == 2
    state = made.installer.state()
    assert state.update is None
    assert state.quarantined(made.release(3).sha256).reason == "was taken back by hand"
    assert made.installer.recall().version == ONE


@pytest.mark.parametrize("back", [False, True])
def test_going_back_by_hand_is_finished_by_hand(made, back):
    made.confirm(2)
    made.installer.save(made.installer.state().recalled("was taken back by hand"))
    if back:
        made.installer._put_back(made.installer.state().update.replaces)
    assert made.installer.recall().version == ONE
    assert made.number == 1
    assert made.installer.state().quarantined(made.release(2).sha256)


@pytest.mark.parametrize("before", ["nothing", "staged", "replaced by somebody else"])
def test_without_a_previous_version_nothing_is_taken_back(made, before):
    if before == "staged":
        made.prepare()
    elif before != "nothing":
        made.confirm()
        made.replace()
    number = made.number
    with pytest.raises(NoPreviousVersionError) as caught:
        made.installer.recall()
    assert caught.value.path == made.installer.path
    assert made.number == number


def test_a_previous_version_that_was_changed_is_not_taken_back_to(made):
    made.confirm(2)
    state = made.installer.state()
    made.damage(made.kept_path(state.previous))
    with pytest.raises(CHANGED):
        made.installer.recall()
    assert made.number == 2
    assert made.installer.recover() == state


def test_going_back_by_hand_goes_on_after_a_crash(made):
    made.confirm(2)
    made.installer.save(made.installer.state().recalled("was taken back by hand"))
    state = made.another().recover()
    assert made.number == 1
    assert state.quarantined(made.release(2).sha256)


def test_going_back_by_hand_that_cannot_be_remembered_is_not_done(made):
    made.confirm(2)
    with full(), pytest.raises(UnableToWriteStateError):
        made.installer.recall()
    assert made.number == 2


def test_going_back_by_hand_whose_end_cannot_be_remembered_is_done_all_the_same(made, monkeypatch):
    made.confirm(2)
    real = made.installer.save
    calls = []

    def save(state):
        calls.append(state)
        if len(calls) > 1:
            raise UnableToWriteStateError(made.installer.state_path, "full")
        return real(state)

    with monkeypatch.context() as patch:
        patch.setattr(made.installer, "save", save)
        with pytest.raises(UnableToWriteStateError):
            made.installer.recall()
    assert made.number == 1
    assert made.installer.recover().quarantined(made.release(2).sha256)
    assert made.number == 1


# What is remembered ---------------------------------------------------------------------------------------------------


def test_the_process_on_trial_reports_itself(made):
    made.installer.report(4711, 30.0)  # nothing is on trial
    assert made.installer.state() == State()
    made.swap()
    made.installer.report(4711, 30.0, "not well")
    trial = made.installer.state().on_trial
    assert (trial.process, trial.patience, trial.reason) == (4711, 30.0, "not well")
    made.installer.report(4711, 30.0)
    assert made.installer.state().on_trial.reason == ""


def test_what_was_found_on_the_server_is_noted(made, monkeypatch):
    made.installer.note("no net")
    state = made.installer.state()
    assert state.error == "no net"
    assert state.checked.tzinfo is UTC
    assert state.checked.microsecond == 0
    made.installer.note("")
    assert made.installer.state().error == ""


def test_a_note_that_cannot_be_written_is_let_be(made):
    with full():
        made.installer.note("no net")
    assert made.installer.state() == State()


def test_a_note_does_not_come_between_the_steps_of_another_process(made):
    made.another().note("no net")
    assert made.installer.state() == State()


def test_word_of_an_ending_is_left_for_one_process_only(made):
    assert made.installer.ended(os.getpid()) == ""
    made.installer.ending("SIGTERM")
    made.installer.ending("SIGINT")
    assert made.another().ended(os.getpid()) == "SIGINT"
    assert made.installer.ended(os.getpid() + 1) == ""
    (made.folder / "ending").write_bytes(b"\xff\xfe")
    assert made.installer.ended(os.getpid()) == ""


def test_word_of_an_ending_needs_no_folder_and_follows_no_link(made):
    made.place.joinpath("precious").write_bytes(b"precious")
    (made.folder / "ending").symlink_to(made.place / "precious")
    made.installer.ending("SIGTERM")
    assert made.place.joinpath("precious").read_bytes() == b"precious"
    made.folder.joinpath("ending").unlink()
    made.folder.rename(made.place / "gone")
    made.installer.ending("SIGTERM")
    (made.place / "gone").rename(made.folder)


def test_word_that_an_earlier_process_of_the_same_number_left_does_not_count(made):
    update = made.prepare()
    made.installer.ending("SIGTERM")  # at the end of an earlier trial
    made.installer.swap(update, 1)
    assert made.installer.ended(os.getpid()) == ""
    made.installer.ending("it closed its updater")  # the one that did the swap, as it ends
    made.installer.report(os.getpid(), 30.0)
    assert made.installer.ended(os.getpid()) == ""
    made.installer.ending("SIGTERM")
    made.installer.report(os.getpid(), 30.0, "not well")  # again
    assert made.installer.ended(os.getpid()) == "SIGTERM"


def test_a_release_is_put_into_quarantine_before_it_was_ever_in_place(made):
    release = made.prepare().release
    state = made.installer.quarantine(release, "failed its smoke test")
    assert state == made.installer.state()
    assert state.quarantined(release.sha256).reason == "failed its smoke test"
    assert state.update is None
    assert not made.installer.is_staged(release.sha256)


@pytest.mark.parametrize("step", ["quarantine", "told", "report", "forget", "prepare", "confirm"])
def test_what_cannot_be_remembered_is_told_and_nothing_is_lost(made, step):
    update = made.swap()
    release = made.download(3)
    steps = {
        "quarantine": lambda: made.installer.quarantine(update.release, "was bad"),
        "told": made.installer.told,
        "report": lambda: made.installer.report(1, 1),
        "forget": made.installer.forget,
        "prepare": lambda: made.installer.prepare(release, TWO),
        "confirm": made.installer.confirm,
    }
    with full(), pytest.raises(UnableToWriteStateError):
        steps[step]()
    assert made.installer.state().on_trial.release == update.release
    assert made.number == 2
    made.installer.recover()
    made.installer.give_back("was killed", failed=True)
    assert made.number == 1


def test_a_release_is_not_confirmed_where_another_one_stands(made):
    made.swap()
    made.replace()
    assert not made.installer.confirm()
    assert made.installer.state().on_trial


# Downloads ------------------------------------------------------------------------------------------------------------


def test_leftovers_of_other_releases_and_of_crashes_go_when_a_download_begins(made):
    made.download(2)
    for name in ("staged-" + "a" * 64, f"staged-{'b' * 64}.part", ".draft", ".state.json.abc"):
        (made.folder / name).write_bytes(b"left")
    release = made.release(3)
    made.installer.part(release.sha256).close()
    assert [name for name in made.names() if name != "versions"] == ["lock", f"staged-{release.sha256}.part"]


def test_what_belongs_to_the_release_stays(made):
    release = made.download(2)
    made.installer.part(release.sha256).close()
    assert made.installer.is_staged(release.sha256)
    assert f"staged-{release.sha256}.part" in made.names()


@pytest.mark.parametrize("call", ["listdir", "unlink"])
def test_leftovers_that_cannot_be_found_or_removed_are_no_obstacle(made, monkeypatch, call):
    (made.folder / "staged-left").write_bytes(b"left")
    release = made.download(2)
    monkeypatch.setattr(os, call, failing(errno.EACCES))
    made.installer._tidy(made.installer.state())
    monkeypatch.undo()
    made.confirm()
    assert release.version == TWO
    assert "staged-left" not in made.names()


def test_a_download_that_cannot_be_made_is_an_error(made):
    (made.folder / f"staged-{made.release(2).sha256}.part").mkdir()
    with pytest.raises(UnableToCreateDownloadError):
        made.download(2)


def test_whether_a_release_is_there_may_not_be_told(made, monkeypatch):
    monkeypatch.setattr(module.Path, "is_file", failing(errno.EIO))
    with pytest.raises(UnableToReadFileError):
        made.installer.is_staged("a" * 64)


def test_a_release_that_does_not_fit_is_refused_before_it_is_downloaded(made):
    part = made.installer.part(made.release(2).sha256)
    with pytest.raises(NotEnoughSpaceError):
        part.reserve(2**60)
    part.close()


# Bad places -----------------------------------------------------------------------------------------------------------


def test_a_program_that_is_gone_cannot_be_updated_and_says_so(made):
    release = made.download(2)
    made.path.rename(made.place / "moved")
    for use in (lambda: made.installer.prepare(release, ONE), made.installer.installed):
        with pytest.raises(UnableToReadFileError) as caught:
            use()
        assert caught.value.errno == errno.ENOENT
        assert str(made.installer.path) in str(caught.value)
    assert made.installer.identity() is None
    (made.place / "moved").rename(made.path)
    made.confirm()
    assert made.number == 2


def test_a_program_that_is_gone_is_not_swapped(made):
    update = made.prepare()
    made.path.rename(made.place / "moved")
    for use in (made.installer.recover, lambda: made.installer.swap(update, 1)):
        with pytest.raises(UnableToReadFileError, match=r"unable to read .*app: No such file"):
            use()
        assert not os.path.lexists(made.path)
    (made.place / "moved").rename(made.path)
    made.installer.recover()
    assert made.number == 1


@pytest.mark.parametrize("by", ["the guardian", "the next start"])
def test_where_a_version_on_trial_is_gone_the_previous_one_is_put_back(made, by):
    made.swap()
    made.path.rename(made.place / "moved")
    with pytest.raises(UnableToReadFileError):
        made.installer.confirm()
    if by == "the guardian":
        made.installer.give_back("was killed", failed=True)
    else:
        made.installer.save(made.installer.state().returning("was killed", failed=True))
        made.installer.recover()
    assert made.number == 1
    assert made.installer.state().update.failures == 1


def test_a_file_that_changes_itself_on_trial_is_replaced_by_the_previous_one_all_the_same(made):
    if made.kind != "file":
        pytest.skip("what a folder is, its name says")
    made.swap()
    with made.path.open("ab") as file:
        file.write(b"# more")
    assert not made.installer.confirm()
    made.installer.give_back("was killed", failed=True)
    assert made.number == 1


def test_what_somebody_puts_in_the_place_of_a_version_on_trial_stays(made):
    if made.kind != "file":
        pytest.skip("what a folder is, its name says")
    made.swap()
    (made.place / "by hand").write_bytes(b"by hand")
    (made.place / "by hand").rename(made.path)
    state = made.installer.give_back("was killed", failed=True)
    assert made.path.read_bytes() == b"by hand"
    assert (state.update, state.bad, state.untold) == (None, (), None)


def test_a_version_that_is_known_by_its_hash_is_not_recorded_as_another(made):
    made.confirm(2)
    made.installer.recall()  # under a program of version 2, which runs on
    update = made.prepare(3, running=TWO)
    assert update.replaces.version == ONE


def test_another_process_of_the_program_does_not_replace_the_one_that_is_watched(made):
    made.swap()
    made.installer.report(os.getppid(), 30.0)
    made.installer.report(os.getpid(), 30.0)
    assert made.installer.trial().process == os.getppid()
    made.installer.save(made.installer.state().reported(os.getppid(), 30.0, "", "somebody else"))  # it has ended
    made.installer.report(os.getpid(), 30.0)
    assert made.installer.trial().process == os.getpid()


def test_an_old_word_explains_no_end(made, monkeypatch):
    made.installer.ending("SIGHUP")
    later = time.monotonic() + MEANT
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert made.installer.ended(os.getpid()) == ""


def test_a_trial_that_cannot_be_told_of_is_not_none(made, monkeypatch):
    made.swap()
    assert made.installer.trial() is not None
    with monkeypatch.context() as patch:
        patch.setattr(io, "open", failing(errno.EIO))
        with pytest.raises(UnableToReadFileError):
            made.installer.trial()
    made.installer.state_path.write_bytes(b"{")
    assert made.installer.trial() is None


def test_a_file_system_that_became_read_only_is_told_and_harms_nothing(made, monkeypatch):
    update = made.prepare()
    with monkeypatch.context() as patch:
        for name in ("replace", "link", "symlink", "unlink", "mkdir"):
            patch.setattr(os, name, failing(errno.EROFS))
        real = os.open

        def read_only(path, flags, *args, **kwargs):
            return failing(errno.EROFS)() if flags & (os.O_WRONLY | os.O_RDWR) else real(path, flags, *args, **kwargs)

        patch.setattr(os, "open", read_only)
        for use in (
            lambda: made.installer.swap(update, 1),
            lambda: made.installer.prepare(update.release, ONE),
            lambda: made.installer.part("a" * 64),
            made.installer.forget,
        ):
            with pytest.raises(FileOperationError, match="Read-only file system") as caught:
                use()
            assert caught.value.errno == errno.EROFS
    assert made.installer.recover().update == update
    assert made.number == 1


NOBODY = 65534
AS_NOBODY = """
import os, sys
from pathlib import Path
from patchify.client.kinds import installer_for
from patchify.errors import FileOperationError

os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
try:
    with installer_for(sys.argv[1]).lock():
        print("locked")
except FileOperationError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", ["never updated", "updated by root"])
def test_a_folder_that_is_not_writable_is_told_before_anything_is_done(tmp_path, kind, before):
    made = Installation(tmp_path / "place", kind)
    if before == "updated by root":
        with made.installer.lock():
            made.confirm()
    for folder in [made.place, *tmp_path.parents[:3], tmp_path]:
        folder.chmod(folder.stat().st_mode | 0o055)
    ended = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, made.path, str(NOBODY)],
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    reason = "Permission denied" if before == "never updated" else "it belongs to, or can be changed by, another user"
    expected = f"UnableToCreateFolderError unable to create the update folder {made.folder}: {reason}\n"
    assert (ended.stdout, ended.stderr) == (expected, "")
    assert made.looks_like == (1 if before == "never updated" else 2)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, monkeypatch, error):
    made = Installation(tmp_path / "place", "file")
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", failing(error))
        with pytest.raises(UnableToCreateFolderError) as caught, made.installer.lock():
            pass
    assert caught.value.errno == error
    with made.installer.lock():
        made.confirm()
    assert made.number == 2


def test_a_state_of_something_that_was_never_there_is_forgotten(made):
    save(made.installer.state_path, State(update=Update(Release(TWO, "a" * 64), Release(ONE, "b" * 64), Phase.ARMED)))
    assert made.installer.recover() == State()
    assert made.number == 1

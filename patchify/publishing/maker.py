"""Makes the forms of releases that are missing, one after the other, while nobody else does.

A form is written and made durable aside. Then, in one transaction, it is brought to its place and the release gets it,
as the catalogue has the release by then: so no document names a file that is not there, and whatever ends in between
leaves at most a file that nobody knows, which `LocalPublisher.prune` removes. What was not worth it is remembered.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from io import FileIO
from pathlib import Path

from filelock import FileLock, Timeout

from patchify import releases
from patchify.errors import (
    CatalogueError,
    CatalogueUnavailableError,
    FormGivenUpError,
    ReleaseError,
    StorageUnavailableError,
    UnsafeArchiveError,
)
from patchify.forms import LEAST_SEGMENTED, Compressed, Forms, Patch, Segments
from patchify.publishing.background import TAKEN, WORD
from patchify.publishing.bases import Bases
from patchify.publishing.compressing import Written, compress, list_segments
from patchify.publishing.given_up import GivenUp
from patchify.publishing.making import Kind, Limits, Shares, Task, in_demand, least_saving, missing
from patchify.publishing.patching import PatchEndedError, make_patch
from patchify.publishing.retention import withdrawn
from patchify.releases import Release
from patchify.server.catalogue import EditableCatalogue
from patchify.server.storage import FORMS, FolderStorage

LOCK = "making.lock"  # among the forms: held by the one process that makes some
NO_HDIFFPATCH = "hdiffpatch is not installed, so no patches are made: pip install 'patchify-updater[patches]'"
_ASIDE = "making-"

Tell = Callable[[str], None]


class Maker:
    """Makes forms.

    Args:
        catalogue: Which releases there are.
        storage: Where their files are.
        limits: How much is made.
        tell: Called with a line about each form.
        now: Gives the time, UTC.
    """

    def __init__(
        self,
        catalogue: EditableCatalogue,
        storage: FolderStorage,
        limits: Limits,
        tell: Tell = lambda line: None,
        now: Callable[[], datetime] = releases.now,
    ) -> None:
        self._catalogue = catalogue
        self._storage = storage
        self._limits = limits
        self._tell = tell
        self._now = now
        self._folder = storage.folder / FORMS
        self._given_up = GivenUp(self._folder)

    def make_wanted(self) -> None:
        """Make what is missing of all that is in demand, or leave it to the process that is at it.

        Raises:
            StorageUnavailableError, CatalogueError, CatalogueUnavailableError: the rest is missing still.
        """
        self._make_folder()
        with _storing(self._folder):
            (self._folder / WORD).touch()
        self._follow_word()

    def make(self, version: str | None = None, *, again: bool = False) -> int:
        """Make what is missing, when nobody else makes anything any more, and return how many forms were made.

        Args:
            version: Of which version, in demand or not; None: of all that is in demand.
            again: Try again what was given up.

        Raises:
            StorageUnavailableError, CatalogueError, CatalogueUnavailableError: the rest is missing still.
        """
        self._make_folder()
        lock = self._lock()
        with _storing(self._folder):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self._tell("another process makes forms just now; this one goes on when it is done")
                lock.acquire()
        try:
            made = self._make_all(version, again=again)
        finally:
            lock.release()
        self._follow_word()
        return made

    def given_up(self) -> dict[str, str]:
        """Return why tasks were given up, by their keys; see `making.Task.key`."""
        return self._given_up.all()

    def _follow_word(self) -> None:
        """Make what is missing as often as somebody has left word: who leaves it, tries this afterwards.

        A word that is taken goes when all is done, so that what is ended in between goes on another time.
        """
        word, taken = self._folder / WORD, self._folder / TAKEN
        while word.exists() or taken.exists():
            lock = self._lock()
            with _storing(self._folder):
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    return
                try:
                    if word.exists():
                        os.replace(word, taken)
                    self._make_all()
                    taken.unlink(missing_ok=True)
                finally:
                    lock.release()

    def _make_all(self, version: str | None = None, *, again: bool = False) -> int:
        limits = self._limits
        if limits.patches and importlib.util.find_spec("hdiffpatch") is None:
            self._tell(NO_HDIFFPATCH)
            limits = replace(limits, patches=0)
        shares = self._shares()
        tried = set() if again else set(self._given_up.all())
        made = 0
        failure: StorageUnavailableError | None = None
        with _aside(self._storage.make_incoming()) as folder:
            bases = Bases(self._storage, folder)
            while True:
                known = list(self._known().values())
                wanted = [each for each in known if version in (None, str(each.version)) and not withdrawn(each)]
                wanted = in_demand(known, self._now()) if version is None else wanted
                task = next(missing(wanted, known, limits, tried, shares), None)
                if task is None:
                    break
                tried.add(task.key)
                try:
                    made += self._carry_out(task, folder, bases)
                except StorageUnavailableError as error:  # of one release perhaps: the others are made all the same
                    self._tell(f"{task}: not made: {error}")
                    failure = failure or error
        if failure is not None:
            raise failure
        return made

    def _carry_out(self, task: Task, folder: Path, bases: Bases) -> bool:
        """Make a form and return whether it was made; what is wrong with one release is no matter of the others."""
        started = time.monotonic()
        try:
            with _storing(folder):
                if task.kind is Kind.TREE:
                    found = self._make_tree(task, bases)
                elif task.kind is Kind.PATCH:
                    found = self._make_patch(task, folder, bases)
                else:
                    found = self._make_of_whole(task, folder)
        except (FormGivenUpError, UnsafeArchiveError) as error:
            known = self._known().values()
            bases_known = {basis[0] for each in known if (basis := each.basis) is not None}
            with _storing(self._folder):
                self._given_up.add(task.key, str(error), bases_known | {each.sha256 for each in known})
            self._tell(f"{task}: not kept: {error}")
        except (ReleaseError, PatchEndedError) as error:
            self._tell(f"{task}: not made: {error}")
        else:
            seconds = time.monotonic() - started
            self._tell(f"{task}: {found}, in {seconds:.1f} s" if found else f"{task}: not wanted any more")
            return bool(found)
        return False

    # The kinds --------------------------------------------------------------------------------------------------------

    def _make_of_whole(self, task: Task, folder: Path) -> str:
        """Compress a release, or list its segments; return what is to be told, nothing if nobody wants it any more."""
        with self._storage.open(task.release) as source:
            if task.kind is Kind.SEGMENTS:
                listed = list_segments(source, folder / "segments")
                segments = Segments(listed.sha256)
                if not self._add(task.release, lambda forms: replace(forms, segments=segments), listed):
                    return ""
                return f"{listed.size:,} bytes of hashes"
            written = compress(source, folder / "compressed")
        files = [written]
        compressed = Compressed(written.sha256, written.size)
        if written.size >= LEAST_SEGMENTED:
            with FileIO(written.path) as source:
                files.append(list_segments(source, folder / "segments"))
            compressed = replace(compressed, segments=Segments(files[-1].sha256))
        if not self._add(task.release, lambda forms: replace(forms, compressed=compressed), *files):
            return ""
        return _spelled(written.size, task.release)

    def _make_tree(self, task: Task, bases: Bases) -> str:
        tree = bases.measure(task.release)
        if not self._add(task.release, lambda forms: replace(forms, tree=tree)):
            return ""
        return f"{tree.size:,} bytes unpacked"

    def _make_patch(self, task: Task, folder: Path, bases: Bases) -> str:
        assert task.base is not None
        assert task.base.basis is not None
        target = folder / "patch"
        made = make_patch(bases.file(task.base), bases.file(task.release), target, self._limits.patch_time)
        for release, found in ((task.base, made.old), (task.release, made.new)):
            if release.basis is None or found != release.basis[0]:
                raise ReleaseError(str(release.version), self._storage.path(release), "is not as it was published")
        if made.size > least_saving(task.release):
            raise FormGivenUpError(f"{_spelled(made.size, task.release)}: not much smaller")
        patch = Patch(made.old, made.sha256, made.size)

        def with_patch(forms: Forms) -> Forms:
            others = (each for each in forms.patches if each.base != patch.base)
            return replace(forms, patches=(*others, patch))

        if not self._add(task.release, with_patch, Written(target, made.sha256, made.size)):
            return ""
        return _spelled(made.size, task.release)

    # What is known ----------------------------------------------------------------------------------------------------

    def _known(self) -> dict[tuple[str, str], Release]:
        with self._catalogue.transaction() as transaction:  # a snapshot may be older than the word that was left
            return dict(transaction.releases())

    def _add(self, release: Release, change: Callable[[Forms], Forms], *files: Written) -> bool:
        """Give a release a form; return False if it is not there any more, or withdrawn."""
        with self._catalogue.transaction() as transaction:
            current = transaction.releases().get(release.name)
            if current is None or current.sha256 != release.sha256 or withdrawn(current):
                return False
            for each in files:
                self._storage.place_form(each.path, each.sha256)
            transaction.put(replace(current, forms=change(current.forms)))
        return True

    def _shares(self) -> Shares:
        """Return what runs in the field, where somebody counts that."""
        from patchify.server.fleet import Fleet  # noqa: PLC0415 - only for a catalogue in a database
        from patchify.server.sql_catalogue import SqlCatalogue  # noqa: PLC0415

        if isinstance(self._catalogue, SqlCatalogue):
            with contextlib.suppress(CatalogueError, CatalogueUnavailableError):
                return {each.version: each.share for each in Fleet(self._catalogue).versions()}
        return {}

    def _lock(self) -> FileLock:
        return FileLock(self._folder / LOCK, mode=0o600, thread_local=False)

    def _make_folder(self) -> None:
        self._storage.make_incoming()  # which says what is wrong if the folder of the releases is not there
        with _storing(self._folder):
            self._folder.mkdir(exist_ok=True)


@contextlib.contextmanager
def _aside(incoming: Path) -> Iterator[Path]:
    """Give an empty folder for what is being made; what a process left that was ended is removed."""
    with _storing(incoming):
        for each in incoming.glob(f"{_ASIDE}*"):
            shutil.rmtree(each, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=incoming, prefix=_ASIDE))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageUnavailableError(os.fspath(error.filename or path), error) from error


def _spelled(size: int, release: Release) -> str:
    return f"{size:,} bytes, {100 * size / release.size:.2f} % of the whole"

"""A catalogue in memory, which takes all of a transaction or nothing, as a database does."""

from contextlib import contextmanager

from patchify.server.catalogue import Snapshot


class MemoryTransaction:
    def __init__(self, releases):
        self._releases = dict(releases)
        self.changes = 0

    def releases(self):
        return Snapshot(self._releases.values()).releases

    def put(self, release):
        self._releases[release.name] = release
        self.changes += 1

    def remove(self, release):
        del self._releases[release.name]
        self.changes += 1


class MemoryCatalogue:
    """``changes`` counts what was put and removed; ``failure``, if set, is raised when a transaction is to end."""

    def __init__(self, releases=()):
        self._snapshot = Snapshot(releases)
        self.changes = 0
        self.failure = None

    def snapshot(self):
        return self._snapshot

    @contextmanager
    def transaction(self):
        transaction = MemoryTransaction(self._snapshot.releases)
        yield transaction
        if self.failure:
            raise self.failure
        self._snapshot = Snapshot(transaction.releases().values())
        self.changes += transaction.changes

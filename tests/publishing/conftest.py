from datetime import UTC, datetime

import pytest

from patchify.publishing.local import LocalPublisher
from patchify.publishing.publisher import Publication
from patchify.server.storage import FolderStorage
from patchify.versions import parse_version
from tests.publishing.fakes import MemoryCatalogue

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Clock:
    def __init__(self):
        self.time = NOW

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def catalogue():
    return MemoryCatalogue()


@pytest.fixture
def storage(tmp_path):
    (tmp_path / "releases").mkdir()
    return FolderStorage(tmp_path / "releases", "app")


@pytest.fixture
def publisher(catalogue, storage, clock):
    return LocalPublisher(catalogue, storage, clock)


@pytest.fixture
def put(publisher, tmp_path):
    """Return a function that publishes a version with its name, or other bytes, as content."""

    def put(version, content=None, **settings):
        file = tmp_path / "build"
        file.write_bytes(content or f"{version} {settings.get('platform', '')}".encode())
        floor = settings.pop("floor", None)
        return publisher.publish(
            file,
            Publication(version=parse_version(version), floor=floor and parse_version(floor), **settings),
        )

    return put

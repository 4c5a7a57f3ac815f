import pytest
from semver import Version

from patchify.errors import InvalidVersionError, VersionNotFoundError
from patchify.server.catalogue import Catalogue

HASHES = {"1.0.0": "aa" * 32, "1.0.0+b1": "bb" * 32, "1.0.0+b2": "cc" * 32, "2.0.0-rc.1": "dd" * 32}


def test_a_release_is_found_by_text_and_by_version():
    catalogue = Catalogue(HASHES)
    assert catalogue.find("2.0.0-rc.1") is catalogue.find(Version.parse("2.0.0-rc.1"))
    assert catalogue.find("2.0.0-rc.1").sha256 == "dd" * 32


def test_build_metadata_is_part_of_the_name():
    catalogue = Catalogue(HASHES)
    assert [catalogue.find(name).sha256[:2] for name in ("1.0.0", "1.0.0+b1", "1.0.0+b2")] == ["aa", "bb", "cc"]
    with pytest.raises(VersionNotFoundError, match=r"^Version 1\.0\.0\+b3 not found$"):
        catalogue.find("1.0.0+b3")


def test_pre_releases_count_for_the_latest():
    assert str(Catalogue(HASHES).latest) == "2.0.0-rc.1"


def test_without_releases_the_latest_is_0_0_0_and_does_not_exist():
    catalogue = Catalogue({})
    assert str(catalogue.latest) == "0.0.0"
    with pytest.raises(VersionNotFoundError):
        catalogue.find(catalogue.latest)


def test_what_is_no_version_is_not_looked_for():
    with pytest.raises(InvalidVersionError):
        Catalogue(HASHES).find("../1.0.0")


def test_a_catalogue_does_not_change():
    with pytest.raises(TypeError):
        Catalogue(HASHES).releases["3.0.0"] = None

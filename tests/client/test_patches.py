"""What is made of patches and compressed files, and what is refused."""

import hashlib
import random
import sys

import hdiffpatch
import pytest
from backports import zstd

from patchify.client import patches
from patchify.client.ways import Leg
from patchify.errors import PatchError, UnableToReadFileError, UnableToWriteDownloadError

OLD = random.Random(1).randbytes(100_000)
NEW = OLD[:50_000] + b"what is new" + OLD[50_000:]
PATCH = hdiffpatch.diff(OLD, NEW, hdiffpatch.COMPRESSION_ZSTD)
MIB = 1024 * 1024


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def leg(patch=PATCH, **changes) -> Leg:
    facts = {"size": len(patch), "result": sha256(NEW), "result_size": len(NEW), "base": sha256(OLD), **changes}
    return Leg(sha256(patch), **facts)


def apply(base=OLD, patch=PATCH, **changes) -> bytes:
    return patches.apply("2.0.0", base, patch, leg(**{"patch": patch, **changes}))


# Patches --------------------------------------------------------------------------------------------------------------


def test_a_patch_makes_the_new_of_the_old():
    assert patches.can_apply()
    assert apply() == NEW


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base": b"another program"}, "does not apply to what the program is by now"),
        ({"result": "0" * 64}, "makes something else than what is signed"),
        ({"result_size": len(NEW) - 1}, "makes something else than what is signed"),
        ({"patch": PATCH[:-1]}, "cannot be applied (HDiffPatchError)"),
        ({"patch": b"no patch"}, "cannot be applied (HDiffPatchError)"),
        ({"patch": b""}, "cannot be applied (HDiffPatchError)"),
    ],
)
def test_what_is_wrong_is_refused_and_named(changes, reason):
    if "base" in changes:
        base = changes.pop("base")
        with pytest.raises(PatchError) as caught:
            patches.apply("2.0.0", base, PATCH, leg())
    else:
        with pytest.raises(PatchError) as caught:
            apply(**changes)
    error = caught.value
    assert (error.version, error.reason) == ("2.0.0", reason)
    assert error.sha256 in str(error)


def test_a_patch_whose_hash_is_wrong_is_not_looked_into(monkeypatch):
    monkeypatch.setattr(hdiffpatch, "apply", lambda *_: pytest.fail("it was"))
    with pytest.raises(PatchError, match="has another hash than the one that is signed"):
        patches.apply("2.0.0", OLD, PATCH[:-1] + b"?", leg())


@pytest.mark.parametrize("error", [MemoryError, ValueError, RuntimeError])
def test_whatever_the_package_raises_is_an_error_of_ours(error, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(hdiffpatch, "apply", fail)
    with pytest.raises(PatchError, match=rf"cannot be applied \({error.__name__}\)"):
        apply()


def test_without_the_package_no_patch_can_be_applied(monkeypatch):
    monkeypatch.setitem(sys.modules, "hdiffpatch", None)
    assert not patches.can_apply()
    with pytest.raises(PatchError, match=r"cannot be applied \(ModuleNotFoundError\)"):
        apply()


# Compressed files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def decompress(tmp_path):
    def decompress(packed: bytes, size: int) -> bytes:
        file = tmp_path / "packed"
        file.write_bytes(packed)
        pieces = []
        patches.decompress("2.0.0", file, Leg(sha256(packed), len(packed), "", size), pieces.append)
        assert all(len(each) <= MIB for each in pieces)
        return b"".join(pieces)

    return decompress


@pytest.mark.parametrize("data", [NEW, b"", bytes(3 * MIB)], ids=["random", "nothing", "zeros"])
def test_a_compressed_file_is_decompressed(data, decompress):
    assert patches.can_decompress()
    assert decompress(zstd.compress(data, 19), len(data)) == data


@pytest.mark.parametrize(
    ("packed", "size", "reason"),
    [
        (zstd.compress(NEW), len(NEW) - 1, "is longer than what is signed"),
        (zstd.compress(NEW), len(NEW) + 1, "is shorter than what is signed"),
        (zstd.compress(NEW)[:-1], len(NEW), "ends too early"),
        (b"", 0, "ends too early"),
        (zstd.compress(NEW) + b"?", len(NEW), "goes on after its end"),
        (zstd.compress(NEW) + zstd.compress(b""), len(NEW), "goes on after its end"),
        (b"no zstd at all", 14, r"cannot be decompressed \(ZstdError\)"),
    ],
    ids=["longer", "shorter", "cut", "empty", "more", "another frame", "none"],
)
def test_what_is_no_such_file_is_refused(packed, size, reason, decompress):
    with pytest.raises(PatchError, match=reason) as caught:
        decompress(packed, size)
    assert caught.value.sha256 == sha256(packed)


def test_of_a_bomb_no_more_is_written_than_what_is_signed(tmp_path):
    bomb = tmp_path / "bomb"
    bomb.write_bytes(zstd.compress(bytes(64 * MIB)))
    assert bomb.stat().st_size < 10_000
    written = []
    with pytest.raises(PatchError, match="is longer"):
        patches.decompress("2.0.0", bomb, Leg("", 0, "", MIB), written.append)
    assert sum(map(len, written)) <= MIB


def wide(window: int) -> bytes:
    options = {zstd.CompressionParameter.window_log: window, zstd.CompressionParameter.compression_level: 1}
    compressor = zstd.ZstdCompressor(options=options)
    # Its size is not known when its header is written.
    return compressor.compress(NEW, compressor.FLUSH_BLOCK) + compressor.flush()


@pytest.mark.parametrize("window", [24, 28])
def test_a_frame_that_asks_for_more_memory_than_there_is_to_be_is_refused(decompress, window):
    with pytest.raises(PatchError, match=r"cannot be decompressed \(ZstdError\)") as caught:
        decompress(wide(window), len(NEW))
    assert caught.value.damage


def test_a_frame_of_the_window_that_publishing_makes_is_taken(decompress):
    assert decompress(wide(23), len(NEW)) == NEW


def test_a_file_that_cannot_be_read_or_written_is_no_fault_of_it(tmp_path):
    with pytest.raises(UnableToReadFileError):
        patches.decompress("2.0.0", tmp_path / "missing", Leg("", 0, "", 0), print)
    (tmp_path / "packed").write_bytes(zstd.compress(NEW))

    def full(data):
        raise UnableToWriteDownloadError(tmp_path, "disk full")

    with pytest.raises(UnableToWriteDownloadError):
        patches.decompress("2.0.0", tmp_path / "packed", Leg("", 0, "", len(NEW)), full)


def test_without_the_package_nothing_can_be_decompressed(monkeypatch):
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.delattr("backports.zstd")
    assert not patches.can_decompress()

"""What makes patches and applies them: each in a process of its own, whose time and memory are measured.

``python -m tests.benchmarks.engines ENGINE make|apply PATH PATH PATH`` is that process.
"""

import importlib
import importlib.util
import json
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from tests.running import ROOT

SMALLEST, FASTEST = 19, 3  # levels of zstd
LONGEST = 500  # seconds that one may take


@dataclass(frozen=True)
class Spent:
    """What a process took: seconds, seconds of CPU time, and the most memory (MiB, of which 10 are Python's)."""

    seconds: float
    cpu: float
    peak: float


class Hdiffpatch:
    """Ours: what makes the patches of releases, and what applies them in clients, with all hashes verified."""

    package = "hdiffpatch"
    label = "hdiffpatch"
    modules = ("hdiffpatch", "patchify.client.patches", "patchify.publishing.patching")  # that are imported before

    def prepare(self, file: Path, folder: Path, number: int) -> Path:
        """Return what is compared in place of a file; ``number`` tells the older from the newer."""
        return file

    def make(self, old: Path, new: Path, patch: Path) -> None:
        """Make a patch of two files that were prepared."""
        from patchify.publishing.patching import make_patch

        made = make_patch(old, new, patch, LONGEST)
        patch.with_suffix(".json").write_text(json.dumps(asdict(made) | {"result_size": new.stat().st_size}))

    def apply(self, old: Path, patch: Path, result: Path) -> None:
        """Make of the older file and the patch what the newer one was."""
        from patchify.client.patches import apply
        from patchify.client.ways import Leg

        known = json.loads(patch.with_suffix(".json").read_text())
        leg = Leg(known["sha256"], known["size"], known["new"], known["result_size"], known["old"])
        result.write_bytes(apply("2.0.0", old.read_bytes(), patch.read_bytes(), leg))


class Bsdiff(Hdiffpatch):
    """The one that most updaters use."""

    package = label = "bsdiff4"
    modules = ("bsdiff4",)

    def make(self, old, new, patch):
        import bsdiff4

        patch.write_bytes(bsdiff4.diff(old.read_bytes(), new.read_bytes()))

    def apply(self, old, patch, result):
        import bsdiff4

        result.write_bytes(bsdiff4.patch(old.read_bytes(), patch.read_bytes()))


class Zstd(Hdiffpatch):
    """The older file as the prefix of what is compressed: what `zstd --patch-from` does, and Velopack."""

    package = "backports.zstd"
    modules = ()

    def __init__(self, level: int) -> None:
        self.level = level
        self.label = f"zstd, old as prefix, level {level}"

    def make(self, old, new, patch):
        zstd = _zstd()
        data = old.read_bytes()
        parameter = zstd.CompressionParameter
        window = min(max((len(data) + new.stat().st_size).bit_length(), 20), 31)
        options = {
            parameter.compression_level: self.level,
            parameter.window_log: window,
            parameter.enable_long_distance_matching: 1,
        }
        made = zstd.compress(new.read_bytes(), options=options, zstd_dict=zstd.ZstdDict(data, is_raw=True).as_prefix)
        patch.write_bytes(made)

    def apply(self, old, patch, result):
        zstd = _zstd()
        prefix = zstd.ZstdDict(old.read_bytes(), is_raw=True).as_prefix
        options = {zstd.DecompressionParameter.window_log_max: 31}
        result.write_bytes(zstd.decompress(patch.read_bytes(), options=options, zstd_dict=prefix))


class Tufup(Hdiffpatch):
    """Tufup's own functions: patches between archives, and an archive made and unpacked for each update."""

    package = label = "tufup"
    modules = ("tufup.common", "tufup.repo")

    def prepare(self, file, folder, number):
        from tufup.repo import make_gztar_archive

        bundle = folder / f"bundle-{number}"
        bundle.mkdir()
        shutil.copy(file, bundle / "program")
        return make_gztar_archive(bundle, folder, "app", f"{number}.0").path

    def make(self, old, new, patch):
        from tufup.common import Patcher

        patch.with_suffix(".json").write_text(json.dumps(Patcher.diff_and_hash(old, new, patch)))

    def apply(self, old, patch, result):
        from tufup.common import Patcher, TargetMeta

        custom = {"user": None, "tufup": json.loads(patch.with_suffix(".json").read_text())}
        meta = TargetMeta(name="app", version="2.0", is_archive=False, custom=custom)
        archive = result.with_suffix(".tar.gz")
        Patcher.patch_and_verify(old, archive, {meta: patch})
        shutil.unpack_archive(archive, result.parent / "unpacked")
        (result.parent / "unpacked" / "program").replace(result)


HDIFFPATCH, BSDIFF, TUFUP = Hdiffpatch(), Bsdiff(), Tufup()
ZSTD, ZSTD_FAST = Zstd(SMALLEST), Zstd(FASTEST)
ENGINES = {each.label: each for each in (HDIFFPATCH, BSDIFF, ZSTD, ZSTD_FAST, TUFUP)}


def missing(engine: Hdiffpatch) -> str | None:
    """Return why an engine cannot be measured here; None if it can."""
    package = engine.package
    found = bool(importlib.util.find_spec(package.split(".")[0]))
    return None if found else f"{package} is not installed (pip install {package})"


def named(engine: Hdiffpatch) -> str:
    """Return the name of an engine, with its version."""
    found = version(engine.package)
    return f"{engine.label} {found}" if engine.label == engine.package else f"{engine.label} ({found})"


def made(engine: Hdiffpatch, old: Path, new: Path, folder: Path) -> tuple[Path, Spent]:
    """Make a patch in a folder that is empty; return where it is and what that took."""
    folder.mkdir(exist_ok=True)
    old, new = (engine.prepare(file, folder, number) for number, file in enumerate((old, new), 1))
    patch = folder / "patch"
    return patch, _run(engine, "make", old, new, patch)


def applied(engine: Hdiffpatch, old: Path, new: Path, folder: Path) -> Spent:
    """Apply the patch that was made in a folder, and see that the result is right; return what that took."""
    prepared = folder / "app-1.0.tar.gz" if engine is TUFUP else old
    result = folder / "result"
    spent = _run(engine, "apply", prepared, folder / "patch", result)
    if result.read_bytes() != new.read_bytes():
        raise AssertionError(f"{engine.label} made something else of the older file")
    result.unlink()
    return spent


def _run(engine: Hdiffpatch, what: str, *paths: Path) -> Spent:
    command = [sys.executable, "-m", "tests.benchmarks.engines", engine.label, what, *map(str, paths)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST, check=False)
    if ran.returncode:
        raise RuntimeError(f"{engine.label} cannot {what}: {ran.stderr.strip().splitlines()[-1:]}")
    return Spent(**json.loads(ran.stdout.splitlines()[-1]))


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _zstd():
    try:
        from compression import zstd
    except ImportError:
        from backports import zstd
    return zstd


def main() -> None:
    label, what, *paths = sys.argv[1:]
    for module in ENGINES[label].modules:
        importlib.import_module(module)
    started, before = time.perf_counter(), _cpu()
    getattr(ENGINES[label], what)(*map(Path, paths))
    seconds, cpu = time.perf_counter() - started, _cpu() - before
    lines = Path("/proc/self/status").read_text().splitlines()
    own = int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    peak = max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak}))


if __name__ == "__main__":
    main()

"""An application whose releases are exported, and what must be true of the folder at any instant.

`python -m tests.publishing.exporting export FOLDER` brings the export in a folder that was made by `prepare` up to date,
and removes nothing.
`python -m tests.publishing.exporting killed FOLDER WAY` does so in processes that kill themselves, at the first line of
the export, at the second, and so on; below FOLDER is one folder for each, named by its number: what it left behind.
"""

import hashlib
import itertools
import os
import random
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from patchify.forms import Compressed, Forms, Patch, Segments
from patchify.keys import SigningKey, decode_signature
from patchify.messages import UpdateDocument, split_signature
from patchify.publishing import export_plan
from patchify.publishing.export import Export
from patchify.publishing.export_plan import plan
from patchify.releases import Placement, Release, ReleaseState, Schedule
from patchify.server import Config, Core
from patchify.server.catalogue import FixedCatalogue
from patchify.server.storage import FolderStorage
from patchify.versions import parse_version
from tests.conftest import KEY
from tests.publishing.killed import kill_at

MOMENT = datetime(2026, 11, 24, 12, tzinfo=UTC)
LONG_AGO = MOMENT - timedelta(days=30)
SEGMENT = 64 * 1024  # bytes; all files are shorter
PUBLIC = SigningKey.from_hex(KEY).verifying_key
WAYS = {"linked": 0o644, "copied": 0o600}  # how files get into an export, and the mode of a release that it is by
FEW = ("linux-x86_64", "any")  # platforms, where each one more would only take longer


def sha256_of(data):
    return hashlib.sha256(data).hexdigest()


def content(version):
    """Return the bytes of a release."""
    return random.Random(version).randbytes(1000)


def described(version, base=None, *, channel="stable", platform="any", rollout="100", **members):
    """Return a release with a compressed form, both listed, and a patch of an older one; and its files by their hash."""
    whole = content(version)
    packed = random.Random(version + " packed").randbytes(500)
    patch = f"{base} to {version}".encode()
    lists = [hashlib.sha256(each).digest() for each in (whole, packed)]
    segments = [Segments(sha256_of(each), SEGMENT) for each in lists]
    live = Placement(
        channel, ReleaseState.LIVE, since=LONG_AGO, changed=LONG_AGO, schedule=Schedule.parse(rollout), seed="5eed"
    )
    release = Release(
        parse_version(version),
        sha256_of(whole),
        size=len(whole),
        platform=platform,
        published=LONG_AGO,
        placements=(live,),
        forms=Forms(
            segments=segments[0],
            compressed=Compressed(sha256_of(packed), len(packed), segments[1]),
            patches=(Patch(sha256_of(content(base)), sha256_of(patch), len(patch)),) if base else (),
        ),
        **members,
    )
    return release, {sha256_of(each): each for each in (whole, packed, patch, *lists)}


def publish(storage, version, base=None, **members):
    """Lay the files of a release and return it."""
    release, files = described(version, base, **members)
    storage.form_path("").mkdir(exist_ok=True)
    storage.path(release).write_bytes(files[release.sha256])
    for sha256 in files_of(release) - {release.sha256}:
        storage.form_path(sha256).write_bytes(files[sha256])
    return release


def core_of(storage, *releases, **settings):
    config = {"appname": "app", "key": KEY, "releases": storage.folder, "catalogue": FixedCatalogue(releases)}
    return Core(Config(**config | settings), clock=lambda: MOMENT)


def files_of(release):
    """Return the hashes of all files of a release."""
    return {release.sha256, *(sha256 for sha256, _ in release.forms.files(release.size))}


def exported(folder):
    """Return the documents of an export by channel and platform; fail unless they, and all files they name, are right."""
    found = {}
    for path in sorted(folder.glob("updates/*/*")):
        body, signature = split_signature(path.read_bytes())
        assert PUBLIC.verify(body, decode_signature(signature)), path
        document = UpdateDocument.parse(body)
        assert [document.channel, document.platform] == [path.parent.name, path.name]
        for release in document.releases:
            for sha256, size in ((release.sha256, release.size), *release.forms.files(release.size)):
                data = (folder / "files" / sha256).read_bytes()
                assert (sha256_of(data), len(data)) == (sha256, size), f"{path} names {sha256}"
        found[document.channel, document.platform] = document
    return found


def versions_in(folder):
    """Return what the documents of an export offer, each once."""
    return {tuple(str(each.version) for each in document.releases) for document in exported(folder).values()}


def prepare(folder, way="linked"):
    """Lay out releases, and an export that is a day old; some of it is there since an older one, and not needed."""
    folder.mkdir(exist_ok=True)
    (folder / "releases").mkdir()
    storage = FolderStorage(folder / "releases", "app")
    zero, one, _ = publish(storage, "0.9.0"), publish(storage, "1.0.0"), publish(storage, "2.0.0", "1.0.0")
    for release, time in ((zero, LONG_AGO), (one, MOMENT - timedelta(days=1))):
        export = Export(folder / "out", storage)
        export.write(plan(core_of(storage, release), time), time)
    for path in (folder / "releases").rglob("*"):
        if path.is_file():
            path.chmod(WAYS[way])


def bring_up_to_date(folder, *, prune=True):
    """Export the second release, and perhaps remove what is not needed."""
    storage = FolderStorage(folder / "releases", "app")
    core = core_of(storage, described("1.0.0")[0], described("2.0.0", "1.0.0")[0])
    return Export(folder / "out", storage).write(plan(core, MOMENT), MOMENT, prune=prune)


def killed(root, way):
    prepare(root / "before", way)
    for line in itertools.count(1):
        folder = root / str(line)
        shutil.copytree(root / "before", folder)
        child = os.fork()
        if not child:
            kill_at(line, {sys.modules[Export.__module__].__file__})
            bring_up_to_date(folder)
            sys.settrace(None)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    export_plan.KNOWN = FEW
    if sys.argv[1] == "export":
        bring_up_to_date(Path(sys.argv[2]), prune=False)
    else:
        killed(Path(sys.argv[2]), sys.argv[3])

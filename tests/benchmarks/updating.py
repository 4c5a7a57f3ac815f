"""What one client that is updated costs the server: ``python -m tests.benchmarks --only updating``.

Of a program that PyInstaller packed two lines change. Ours is asked for the update document and the patch, the
original's server for ``latest``, the hash and the whole file: what their clients ask for. Each client has a connection
of its own; all CPU time of the server's processes counts.
"""

import contextlib
import hashlib
import urllib.request
from collections.abc import Iterator, Sequence

from patchify.messages import UpdateDocument
from patchify.platforms import detect
from tests.benchmarks.asker import Asker
from tests.benchmarks.cpu import CpuTime, pinned
from tests.benchmarks.frozen import LINES, NEW, OLD, PACKED, Builds, NotBuiltError
from tests.benchmarks.served import APPNAME, KEY, served
from tests.benchmarks.serving import RUST
from tests.benchmarks.table import Options, Row, at_most, median
from tests.interop.programs import RustMissingError, RustServer, build_rust
from tests.running import Process

TITLE, TARGET = "server CPU for one client updated (PyInstaller, two lines changed)", at_most(0.1)
CLIENTS = {True: 100, False: 20}  # of ours, and of theirs, in a round


def rows(options: Options) -> Iterator[Row]:
    """Measure both servers in turn."""
    builds = Builds(options)
    try:
        files = {OLD: builds.old(PACKED), NEW: builds.new(PACKED, LINES)}
        program = build_rust(optimised=True).server
    except (NotBuiltError, RustMissingError) as error:
        yield Row.skipped(TITLE, str(error), TARGET)
        return
    with contextlib.ExitStack() as running:
        with pinned(servers=True):
            ours = running.enter_context(served(options.folder / "ours", files))
            releases = options.folder / "theirs"
            releases.mkdir()
            hashes = {}
            for version, file in files.items():
                data = file.read_bytes()
                (releases / f"{APPNAME}-{version}").write_bytes(data)
                hashes[version] = hashlib.sha256(data).hexdigest()
            config = {"appname": APPNAME, "releases": releases, "versions": hashes}
            log = options.folder / "theirs.log"
            theirs = running.enter_context(RustServer(program, config, KEY.to_hex(), log))
        asked = {
            ours: _our_requests(ours.port, hashes[OLD]),
            theirs: ["/api/latest", f"/api/hashes/{NEW}", f"/api/releases/{NEW}"],
        }
        figures: dict[Process, list[float]] = {ours: [], theirs: []}
        with pinned(servers=False):
            for turn in range(options.rounds(9) + 1):
                for server, paths in asked.items():
                    clients = CLIENTS[server is ours]
                    figure = _cpu(server, paths, clients)
                    if turn:
                        figures[server].append(figure * 1000)
    yield Row(TITLE, median(figures[ours]), "CPU ms", median(figures[theirs]), RUST, TARGET)


def _our_requests(port: int, old: str) -> Sequence[str]:
    """Return the paths of the update document and of the patch that it has for a client of the older version."""
    document = f"/api/updates/stable/{detect()}"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{document}", timeout=30) as answer:
        found = UpdateDocument.parse(answer.read())
    (newest,) = (each for each in found.releases if str(each.version) == NEW)
    (patch,) = (each for each in newest.forms.patches if each.base == old)
    return [document, f"/api/files/{patch.sha256}"]


def _cpu(server: Process, paths: Sequence[str], clients: int) -> float:
    """Return the CPU seconds that one client costs."""
    before = CpuTime(server.pid)
    for _ in range(clients):
        with contextlib.closing(Asker(server.port, paths[0])) as asker:
            asker.fetch()
            for path in paths[1:]:
                asker.turn_to(path)
                asker.fetch()
    return CpuTime(server.pid).since(before) / clients

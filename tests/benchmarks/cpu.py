"""The CPU time of processes, as the kernel counts it: other work on the machine changes little of it; and on which core
they run.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


class CpuTime:
    """The nanoseconds that each thread of a process, and of those it started, has run for until now."""

    def __init__(self, pid: int) -> None:
        self._threads = {}
        processes = [str(pid)]
        for process in processes:  # grows with what it finds
            for task in Path(f"/proc/{process}/task").iterdir():
                with contextlib.suppress(OSError):  # the thread has ended
                    processes += (task / "children").read_text().split()
                    self._threads[f"{process}/{task.name}"] = int((task / "schedstat").read_text().split()[0])

    def since(self, before: "CpuTime") -> float:
        """Return the seconds between two of them. What threads ran that have ended meanwhile is not in it."""
        return sum(ran - before._threads.get(thread, 0) for thread, ran in self._threads.items()) / 1e9


@contextlib.contextmanager
def pinned(*, servers: bool) -> Iterator[None]:
    """Run this thread, and what it starts, on one core: the first for servers, the last for what asks them."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores) if servers else max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)

"""The instants of an installation at which a crash would be the most telling, by name.

They do nothing. The tests put a ``kill -9`` in the place of `hook`, one point after the other, and look at what stands
at the program's path then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

POINTS: Final = (
    "folder-made",
    "form-fetched",
    "patched",
    "downloaded",
    "download-synced",
    "download-named",
    "unpacked",
    "described",
    "made-ready",
    "backup-linked",
    "backup-named",
    "state-written",
    "state-synced",
    "state-named",
    "staged",
    "armed",
    "placing",
    "placed",
    "place-synced",
    "returning",
    "putting-back",
    "put-back",
    "returned",
    "quarantined",
    "confirmed",
    "cleaned",
)


def _nothing(point: str) -> None:
    pass


hook: Callable[[str], None] = _nothing
"""Called with the name of each point that is reached."""


def reach(point: str) -> None:
    """Say that a point is reached."""
    hook(point)

"""Names of platforms: what a program was built for, and which builds a machine can run.

A name is the operating system and the processor, such as ``linux-x86_64``; ``any`` runs everywhere.
"""

from __future__ import annotations

import platform as _platform
import re
import sys
import sysconfig

ANY = "any"
"""The platform of a release that runs everywhere, such as a zipapp."""

KNOWN = (
    "linux-x86_64",
    "linux-aarch64",
    "linux-armv7l",
    "linux-i686",
    "linux-x86_64-musl",
    "linux-aarch64-musl",
    "macos-arm64",
    "macos-x86_64",
    "macos-universal",
    "windows-x86_64",
    "windows-arm64",
    "windows-i686",
    ANY,
)
"""The names that are in use; others of the same form are allowed."""

_NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+){0,5}")
_LONGEST = 40
_SYSTEMS = {"darwin": "macos", "win32": "windows", "cygwin": "windows"}
_PROCESSORS = {"amd64": "x86_64", "x64": "x86_64", "x86": "i686", "i386": "i686", "armv8l": "armv7l"}
_OF_32_BITS = {"x86_64": "i686", "aarch64": "armv7l"}  # what a program of 32 bits is for, where the kernel has 64


def parse_platform(text: str) -> str:
    """Return the name of a platform as it was given. Raises `ValueError` if it has not the form of one."""
    if len(text) > _LONGEST or not _NAME.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not the name of a platform, such as {KNOWN[0]} or {ANY}")
    return text


def detect() -> str:
    """Return the platform of the Python that runs, as `KNOWN` has it; one that is not known there by the same rule."""
    system = _SYSTEMS.get(sys.platform, sys.platform.rstrip("0123456789"))
    processor = _platform.machine().lower() or "unknown"
    processor = _PROCESSORS.get(processor, processor)
    if system == "macos" and processor == "aarch64":
        processor = "arm64"
    if system == "windows" and processor == "aarch64":
        processor = "arm64"
    if system == "linux" and processor == "arm64":
        processor = "aarch64"
    if sys.maxsize < 2**32:
        processor = _OF_32_BITS.get(processor, processor)
    musl = "-musl" if system == "linux" and "musl" in str(sysconfig.get_config_var("SOABI") or "") else ""
    return f"{system}-{processor}{musl}"


def fallbacks(platform: str) -> tuple[str, ...]:
    """Return the platforms whose builds run on ``platform``, the best one first; the last is ``any``."""
    universal = ("macos-universal",) if platform.startswith("macos-") else ()
    return tuple(dict.fromkeys((platform, *universal, ANY)))

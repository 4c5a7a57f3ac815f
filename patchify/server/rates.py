"""How much somebody may have in which time, as a text of the configuration says it: ``120/minute``, ``2 GiB/hour``."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_BYTES = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_REQUESTS = re.compile(r"([1-9][0-9]{0,11})()/(?:([1-9][0-9]{0,5}) ?)?(second|minute|hour|day)s?")
_BANDWIDTH = re.compile(r"([1-9][0-9]{0,11}) ?(KiB|MiB|GiB|TiB)/(?:([1-9][0-9]{0,5}) ?)?(second|minute|hour|day)s?")


@dataclass(frozen=True)
class Rate:
    """So many requests, or bytes, in so many seconds."""

    amount: int
    seconds: int


def requests(text: object) -> Rate:
    """Return what a text such as ``120/minute`` or ``1000/6 hours`` says. Raises `ValueError`."""
    return _parse(_REQUESTS, text, "requests in a time, such as 120/minute or 1000/6 hours")


def bandwidth(text: object) -> Rate:
    """Return what a text such as ``2 GiB/hour`` says, in bytes. Raises `ValueError`."""
    return _parse(_BANDWIDTH, text, "bytes in a time, such as 2 GiB/hour or 500 MiB/10 minutes")


def _parse(pattern: re.Pattern[str], text: object, what: str) -> Rate:
    found = pattern.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{text!r:.80} is not a number of {what}")
    amount, unit, multiple, time = found.groups()
    return Rate(int(amount) * _BYTES.get(unit, 1), int(multiple or 1) * _SECONDS[time])

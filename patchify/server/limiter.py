"""How often somebody may try: a bucket of attempts for each address, in the memory of one process.

No thread and no store: what a server of several workers allows is so many times as much, which is still little. It
takes notice of where a request comes from as WSGI says; behind a proxy that is right only with Werkzeug's `ProxyFix`.

This is for wrong tokens and reports, and always on. The library `limits`, by which the limits that are configured are
counted (`patchify.server.limits`), has no bucket that fills one by one: there, who has used up a window gets all of the
next one at once, which for guesses is the wrong way round.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MOST_ADDRESSES = 4096  # those that tried last are remembered


class RateLimiter:
    """Lets each address try so often at once, and then now and then.

    Args:
        burst: How many attempts are free after a long pause.
        every: Seconds after which there is one more.
        clock: Seconds that only grow.
    """

    def __init__(self, burst: int, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._every = every
        self._clock = clock
        self._full: OrderedDict[str, float] = OrderedDict()  # when all attempts of an address will be free again
        self._lock = threading.Lock()

    def wait(self, address: str) -> float:
        """Return the seconds until an attempt is free for an address, 0 if one is now. It is not taken."""
        with self._lock:
            return self._wait(network(address))

    def take(self, address: str) -> float:
        """Take an attempt and return 0, or return the seconds until there is one."""
        client = network(address)
        with self._lock:
            wait = self._wait(client)
            if wait == 0:
                self._full[client] = max(self._full.get(client, 0), self._clock()) + self._every
                self._full.move_to_end(client)
                if len(self._full) > MOST_ADDRESSES:
                    self._full.popitem(last=False)
            return wait

    def _wait(self, client: str) -> float:
        owed = self._full.get(client, 0) - self._clock()
        return max(0, owed - (self._burst - 1) * self._every)


def network(address: str) -> str:
    """Return what one customer of a provider has: an IPv4 address, or the 2**64 addresses of an IPv6 network."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # a socket in the file system has none
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((int(found), 64), strict=False))
    return str(found)

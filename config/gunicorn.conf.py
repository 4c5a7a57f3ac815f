"""How gunicorn runs the example server: ``gunicorn -c config/gunicorn.conf.py examples.server:app``."""

import importlib
import resource
from contextlib import suppress
from typing import Any

from examples.settings import load_settings, one_line_if_refused

with one_line_if_refused():
    settings = load_settings()

# The address that the application writes into its log; see config/settings.toml.
bind = f"{settings.HOST}:{settings.PORT}"

# Threads, because a slow download holds whatever serves it for as long as it lasts: a sync worker could send one file
# at a time, and would be killed in the middle of any that takes longer than `timeout`.
worker_class = "gthread"

# Two, so that one process that dies or is replaced leaves another to answer. The work is sending files, which the
# kernel does, and looking up answers that were signed before: more processes than cores win nothing.
workers = 2

# In each worker, so 1,200 slow downloads at once. A thread is started when it is first needed, and costs about 45 KiB
# of memory while it sends: a worker that holds 500 downloads has 60 MiB, 35 of which it has without any. Neither
# smaller stacks nor fewer arenas of malloc make that less: what is never touched is only addresses. It is the
# kernel that sends, so what else is asked meanwhile is answered as fast as ever. A client that takes nothing for
# PATCHIFY_STALL_TIMEOUT gives its thread back. Where nginx sends the files, by PATCHIFY_X_ACCEL_REDIRECT, no download
# holds a thread, and most of these are never started.
# A client that begins a request and never ends it holds its thread, too, and gunicorn waits for it: on the open
# internet let nginx stand in front, which drops it after 60 s (client_header_timeout, client_body_timeout).
threads = 600

# Connections of a worker: one for each thread, and 100 that are idle or wait for a thread. Only few may wait, for one
# that a worker has accepted is stuck with it, though the other may have a thread to spare.
worker_connections = threads + 100

# Connections that the kernel keeps until a worker accepts them; as many as Linux allows by default (somaxconn).
backlog = 4096

# Each download takes two descriptors, its connection and its file. Shells and systemd start programs with 1,024, which
# a program may raise for itself up to the hard limit; LimitNOFILE in config/patchify.service allows enough.
descriptors = 2 * worker_connections + 200
with suppress(ValueError, OSError):  # it may be forbidden: then fewer downloads have room
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < descriptors:
        most = descriptors if hard == resource.RLIM_INFINITY else min(descriptors, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

# Load the application before the fork and before the socket is opened: releases are hashed once, not in each worker;
# all workers have the same key; and a wrong setting ends the start instead of a worker. The price is that HUP
# starts new workers but reads no settings or releases again: restart for that.
preload_app = True

# Seconds. Longer than the 60 that nginx keeps an idle connection to us, so that we never close one that it is just
# about to use. An idle connection holds no thread.
keepalive = 75

# Seconds until a worker that gives no sign of life is killed. A thread that sends a file does not stand in its way, so
# this bounds only a worker that hangs as a whole.
timeout = 30

# Seconds that downloads may go on when a worker is told to end. Clients resume what is cut off, so there is no need to
# wait for all; TimeoutStopSec in config/patchify.service is a little longer.
graceful_timeout = 60

# Nothing here uses the control socket of gunicorn 25 and later, which is one more way in.
control_socket_disable = True

# No accesslog: the application writes one line for each request.


def post_fork(server: Any, worker: Any) -> None:
    """Forget what the import system remembers of files on the disk.

    An application that is a zip archive, and was replaced while the server ran, has another table of contents now; a
    worker started after a HUP would look for its late imports where they stood in the old one.
    """
    importlib.invalidate_caches()

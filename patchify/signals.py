"""Every signal that Patchify sends, in one blinker namespace.

Connect to them with ``signal.connect(receiver)``; blinker keeps only a weak reference to the receiver unless told
``weak=False``. A receiver that raises is logged and harms nobody.
"""

from __future__ import annotations

import logging
from typing import Any

from blinker import NamedSignal, Namespace

_log = logging.getLogger(__name__)
_namespace = Namespace()

# Server; the sender is the `Core` ------------------------------------------------------------------------------------

releases_checked = _namespace.signal(
    "releases-checked", "All releases were found to be as configured: ``releases`` (count), ``size`` (bytes)."
)
version_checked = _namespace.signal("version-checked", "A client asked for the newest version: ``version``.")
hash_sent = _namespace.signal("hash-sent", "A client asked for the hash of ``version``.")
update_document_sent = _namespace.signal(
    "update-document-sent", "A client asked for the update document of ``channel`` and ``platform``."
)
release_sent = _namespace.signal(
    "release-sent", "A release, or a range of it, went out whole: ``version``, ``start`` and ``size`` (bytes)."
)
release_aborted = _namespace.signal(
    "release-aborted", "A client left early: ``version``, ``sent`` and ``size`` (bytes) of what it had asked for."
)
release_handed_over = _namespace.signal(
    "release-handed-over",
    "The server in front was told to send a release, or a range of it: ``version``, ``size`` (bytes) of its file.",
)
release_failed = _namespace.signal("release-failed", "A release could not be served: ``version``, ``error``.")

# Server; the sender is the `Fleet` -----------------------------------------------------------------------------------

reports_received = _namespace.signal(
    "reports-received", "Clients told of their updates, and it was counted: ``batch``, a `patchify.reports.Batch`."
)
rollout_paused = _namespace.signal(
    "rollout-paused", "Too many failures were told of ``release``: it is paused in ``channel``; ``why``, a text."
)

# Client; the sender is the `Updater` ---------------------------------------------------------------------------------

status_changed = _namespace.signal("status-changed", "The updater has a new ``status``.")
update_available = _namespace.signal(
    "update-available", "A check found the newer ``version``; ``offer`` tells its size, notes and more."
)
release_downloaded = _namespace.signal(
    "release-downloaded",
    'The bytes of ``version`` are here and are the right ones: ``way`` is ``"patch"``, ``"chain"`` (of patches), '
    '``"zstd"`` (compressed) or ``"whole"``, ``size`` the bytes of the files of that way, also if some of them were '
    "there already from an earlier attempt.",
)
patch_failed = _namespace.signal(
    "patch-failed",
    "A patch, or a compressed file, of ``version`` was of no use: ``sha256`` (its), ``reason``; ``next`` is the way "
    "that is taken instead, as `release_downloaded` names them.",
)
version_withdrawn = _namespace.signal(
    "version-withdrawn",
    "The ``version`` that runs was withdrawn; ``replacement`` is what it can be replaced by here, or None.",
)
update_failed = _namespace.signal(
    "update-failed", "A check or an update ended early: ``error``, a `PatchifyError`. The updater is idle again."
)
wait_grew_long = _namespace.signal(
    "wait-grew-long",
    "A restart has waited longer than configured for critical actions: ``status``, a `PendingRestart`.",
)
update_confirmed = _namespace.signal(
    "update-confirmed", "The new ``version`` was on trial, has proved good and is kept."
)
rolled_back = _namespace.signal(
    "rolled-back",
    "A release is in quarantine: ``version``, ``sha256``, ``reason``. Sent by the version that survives, also after it "
    "was started again.",
)


def emit(signal: NamedSignal, sender: object, **facts: Any) -> None:
    """Call every receiver of ``signal``, each on its own: what one raises is logged and keeps nobody from the rest."""
    for receiver in signal.receivers_for(sender):
        try:
            receiver(sender, **facts)
        except Exception:
            _log.exception("a receiver of the signal %s failed", signal.name)

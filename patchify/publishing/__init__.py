"""Publishing: the command ``patchify publish`` and its kin, on the server's machine or over the network."""

from patchify.publishing.publisher import Publication, Publisher

__all__ = ["Publication", "Publisher"]

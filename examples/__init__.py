"""Programs that show how Patchify is used."""

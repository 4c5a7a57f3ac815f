"""Where a command publishes: a server elsewhere, or a folder and a catalogue here, as a configuration says.

What is only needed for one of them is only imported then: neither Flask nor a database is needed to publish elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from patchify.errors import ConfigError
from patchify.publishing.background import starter
from patchify.publishing.publisher import Publisher

if TYPE_CHECKING:
    from patchify.publishing.local import LocalPublisher
    from patchify.publishing.maker import Maker
    from patchify.server.catalogue import EditableCatalogue
    from patchify.server.config import Config
    from patchify.server.core import Core
    from patchify.server.storage import FolderStorage

SETTINGS = Path("patchify.toml")
"""The file of settings that is taken where none is named."""

TOKEN = "PATCHIFY_TOKEN"  # noqa: S105 - the name of the variable, not what it holds


@dataclass(frozen=True)
class Destination:
    """Where to publish, as the command line says: ``to``, or else ``config``, or else ``app``, or else `SETTINGS`.

    Attributes:
        to: The address of a server's update API.
        token_file: The file that holds the token for it; None: the token is in the environment.
        config: A file of settings.
        app: The import path of a Flask application.
    """

    to: str | None = None
    token_file: Path | None = None
    config: Path | None = None
    app: str | None = None

    def publisher(self) -> Publisher:
        """Return what publishes there. Raises `PatchifyError`, and `click.UsageError` if nothing says where."""
        if self.to is None:
            return self.local()
        from patchify.publishing.remote import RemotePublisher  # noqa: PLC0415 - see above

        return RemotePublisher(self.to, self._token())

    def local(self) -> LocalPublisher:
        """Return what publishes here. Raises as `publisher`."""
        from patchify.publishing.local import LocalPublisher  # noqa: PLC0415 - see above

        catalogue, storage, config = self._parts()
        return LocalPublisher(catalogue, storage, changed=starter(config))

    def catalogue(self) -> EditableCatalogue:
        """Return the catalogue here. Raises as `publisher`."""
        return self._parts()[0]

    def maker(self, tell: Callable[[str], None]) -> Maker:
        """Return what makes forms here, and calls ``tell`` with a line about each. Raises as `publisher`."""
        from patchify.publishing.maker import Maker  # noqa: PLC0415 - see above
        from patchify.publishing.making import Limits  # noqa: PLC0415

        catalogue, storage, config = self._parts()
        return Maker(catalogue, storage, Limits.of(config), tell)

    def core(self) -> Core:
        """Return what signs and has the releases here, also where nothing can be published. Raises as `publisher`."""
        if self._is_app:
            from patchify.server.commands import load_core  # noqa: PLC0415 - see above

            return load_core(self.app)
        from patchify.server import Core  # noqa: PLC0415 - see above

        return Core(self._settings())

    def is_configured(self) -> bool:
        """Return whether anything but an application says where to publish."""
        return self.to is not None or self.config is not None or (self.app is None and SETTINGS.exists())

    def _token(self) -> str:
        if self.token_file is not None:
            try:
                return self.token_file.read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                raise click.UsageError(f"the token file {self.token_file} cannot be read: {error}") from error
        token = os.environ.get(TOKEN, "").strip()
        if not token:
            raise click.UsageError(f"publishing to {self.to} needs a token, from --token-file or {TOKEN}")
        return token

    def _parts(self) -> tuple[EditableCatalogue, FolderStorage, Config]:
        if self._is_app:
            core = self.core()
            return _editable(core.catalogue), core.storage, core.config
        from patchify.server.storage import FolderStorage  # noqa: PLC0415 - see above

        config = self._settings()
        return _editable(_opened(config.catalogue)), FolderStorage(config.folder, config.appname), config

    @property
    def _is_app(self) -> bool:
        return self.app is not None and self.config is None

    def _settings(self) -> Config:
        path = self.config or SETTINGS
        if not path.exists():
            raise click.UsageError(
                f"there is no {path}: patchify init NAME makes one; --config, --app or --to name another place"
            )
        from patchify.server import Config  # noqa: PLC0415 - see above

        return Config.from_file(path)


def is_editable(catalogue: object) -> bool:
    """Return whether releases can be published into a catalogue; into that of ``PATCHIFY_VERSIONS`` they cannot."""
    return hasattr(catalogue, "transaction")


def _opened(catalogue: object) -> object:
    if not isinstance(catalogue, str):
        return catalogue
    from patchify.server.sql_catalogue import SqlCatalogue  # noqa: PLC0415 - see above

    return SqlCatalogue(catalogue)


def _editable(catalogue: Any) -> EditableCatalogue:
    if not is_editable(catalogue):
        raise ConfigError(
            "PATCHIFY_CATALOGUE",
            "is not configured, and releases cannot be published into PATCHIFY_VERSIONS; configure the URL of a "
            "database, such as sqlite:///catalogue.db",
        )
    found: EditableCatalogue = catalogue
    return found

"""Where the example's settings come from: ``config/settings.toml``, and the environment above it.

One place for the application and for ``config/gunicorn.conf.py``, so that both know the same address. What the keys
mean stands in ``config/settings.toml``.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynaconf import Dynaconf, ValidationError, Validator  # type: ignore[import-untyped]
from dynaconf.utils.parse_conf import DynaconfParseError  # type: ignore[import-untyped]

from patchify.errors import ConfigError, PatchifyError

ROOT = Path(__file__).resolve().parent.parent
"""The project's folder, which relative paths in the settings start from."""

_APP_LOAD_ERROR = 4  # the status by which gunicorn's master knows that starting further workers is no use
_MESSAGES = {"must_exist_true": "{name} is not configured", "operations": "{name} cannot be {value!r}"}
_TEXTS = ["APPNAME", "KEY", "RELEASES", "CATALOGUE", "CHANNEL", "PUBLISH_TOKEN"]
_LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


def load_settings() -> Dynaconf:
    """Read the settings anew. Raises `ConfigError` for what the example itself needs; the library checks the rest."""
    settings = Dynaconf(
        root_path=str(ROOT),
        settings_files=["config/settings.toml"],
        environments=True,
        env_switcher="FLASK_ENV",
        envvar_prefix="FLASK",
        validators=[
            Validator("HOST", "KEY_FILE", must_exist=True, is_type_of=str, len_min=1, messages=_MESSAGES),
            Validator("PORT", must_exist=True, is_type_of=int, gte=1, lte=65535, messages=_MESSAGES),
            Validator("PROXIES", must_exist=True, is_type_of=int, gte=0, messages=_MESSAGES),
            Validator("LOG_LEVEL", must_exist=True, is_in=_LEVELS, messages=_MESSAGES),
            # The environment's values are read as TOML, where a name or a key of digits alone is a number.
            *(Validator(f"PATCHIFY_{name}", cast=_text) for name in _TEXTS),
        ],
    )
    try:
        settings.validators.validate()
    except (ValidationError, DynaconfParseError, ValueError) as error:  # ValueError: a file is no TOML
        raise ConfigError("settings", " ".join(str(error).split())) from error
    return settings


def _text(value: object) -> str | None:
    return None if value is None else str(value)


@contextmanager
def one_line_if_refused() -> Iterator[None]:
    """End the process with one line, instead of a traceback, when something is configured wrongly."""
    try:
        yield
    except PatchifyError as error:
        print(f"cannot start: {error}", file=sys.stderr, flush=True)
        raise SystemExit(_APP_LOAD_ERROR) from None

"""What a launcher is told: which program it runs, and how it keeps that up to date."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from patchify.client.config import Config

Restart = Literal["on-exit", "at-once", "on-signal"]
"""When a release that is ready is put in place: when the program has ended, as soon as possible, or at SIGUSR2."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a launcher is told.

    Args:
        command: What is run.
        program: The file that is replaced, or the folder, or the link to it. Default: the file that the command names.
        config: How it is kept up to date; None only guards a program that does so itself.
        interval: Seconds between two checks.
        restart: When a release that is ready is put in place.
        stop_timeout: Seconds from asking the program to end (SIGTERM) to ending it.
        trial_timeout: Seconds that a version on trial has to report itself, if it embeds the client.
        keep_running: Start the program again whenever it ends by itself.
        confirm_on_success: Confirm a version on trial that ends by itself with status 0.
    """

    command: tuple[str, ...]
    program: Path | None = None
    config: Config | None = None
    interval: float = 3600.0
    restart: Restart = "on-exit"
    stop_timeout: float = 10.0
    trial_timeout: float = 300.0
    keep_running: bool = False
    confirm_on_success: bool = False

    @property
    def executable(self) -> str:
        """The file that the command names, as it would be found by a shell."""
        word = self.command[0]
        return word if os.sep in word else shutil.which(word) or word

    @property
    def target(self) -> Path:
        """What is replaced."""
        return Path(os.path.abspath(self.program or self.executable))

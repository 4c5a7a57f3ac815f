"""A program with a user, who is asked about updates: a notepad in the terminal.

Its updater only checks by itself. What there is it shows, with size and notes, and its user decides: update now, later,
or never; which channel; pre-releases or not. Build it with ``python -m examples.build 1 FILE --program desktop``. It
reads ``desktop-app.toml`` in the folder that it is started in: ``api``, ``key``, ``appname`` and what else is asked of
``settings`` below.
"""

import logging
import os
import sys
from datetime import timedelta

from dynaconf import Dynaconf  # type: ignore[import-untyped]
from rich.console import Console
from rich.filesize import decimal
from rich.markdown import Markdown
from rich.panel import Panel

from patchify import signals
from patchify.client import Config, Offer, Updater
from patchify.errors import PatchifyError

HELP = """\
+ TEXT   write a line         ?   look for updates    u   update now      l   remind me tomorrow
=        show what I wrote    i   what is new         s   skip this version
c NAME   take releases from this channel              p   take pre-releases, or not
q        quit"""

console = Console(highlight=False, emoji=False)


class Notepad:
    """The program: its lines, and what its user says of updates."""

    def __init__(self, version: str, updater: Updater) -> None:
        self._version = version
        self._updater = updater
        self._lines: list[str] = []

    def run(self) -> None:
        """Obey until the user quits."""
        console.print(f"Notepad {self._version}. h for help.", markup=False)
        for line in sys.stdin:
            command, _, rest = line.strip().partition(" ")
            if command == "q":
                break
            try:
                self._obey(command, rest)
            except (PatchifyError, ValueError) as error:
                console.print(str(error), style="red", markup=False)

    def _obey(self, command: str, rest: str) -> None:
        known = {
            "+": lambda: self._write(rest),
            "=": lambda: console.print("\n".join(self._lines) or "nothing yet", markup=False),
            "?": self._look,
            "i": lambda: show(self._updater.available),
            "u": self._update,
            "l": self._later,
            "s": self._skip,
            "c": lambda: self._follow(rest),
            "p": self._prereleases,
        }
        known.get(command, lambda: console.print(HELP, markup=False))()

    def _write(self, text: str) -> None:
        with self._updater.critical_action("writing"):  # no restart in the middle of it
            self._lines.append(text)

    def _look(self) -> None:
        if self._updater.check() is None:
            console.print("You have the newest version.")

    def _update(self) -> None:
        if not self._updater.update():
            console.print("There is nothing newer.")

    def _later(self) -> None:
        self._updater.remind(timedelta(days=1))
        console.print("I will ask again tomorrow.")

    def _skip(self) -> None:
        self._updater.skip()
        console.print("This version will not be offered again.")

    def _follow(self, channel: str) -> None:
        self._updater.choose(channel=channel)
        console.print(f"Releases now come from {channel}.", markup=False)

    def _prereleases(self) -> None:
        wanted = not self._updater.choices.prereleases
        self._updater.choose(prereleases=wanted)
        console.print("Pre-releases are welcome." if wanted else "No more pre-releases.")


def show(offer: Offer | None) -> None:
    """Show what can be installed, as far as the server tells."""
    if offer is None:
        console.print("Nothing is known of an update.")
        return
    size = "" if offer.size is None else f", {decimal(offer.size)}"
    urgent = " [bold red]It should not wait.[/]" if offer.critical else ""
    older = " It is older than yours, which was withdrawn." if offer.downgrade else ""
    console.print(
        f"[bold]Version {offer} is available[/]{size}.{older}{urgent} u: update, l: later, s: skip", soft_wrap=True
    )
    if offer.notes:
        console.print(Panel(Markdown(offer.notes), title="What is new", title_align="left"))


def main(version: str) -> None:
    """Run as this version until the user quits."""
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s: %(message)s")
    settings = Dynaconf(root_path=os.getcwd(), settings_files=["desktop-app.toml"], envvar_prefix="DESKTOP_APP")
    try:
        updater = Updater(
            Config(
                version=version,
                appname=settings.get("appname"),
                api=settings.api,
                key=settings.key,
                automatic="check",
                allow_downgrade=settings.get("allow_downgrade", False),
                reports=settings.get("reports", False),
                report_installation=settings.get("reports", False),
                check_on_startup=True,
                check_interval=timedelta(hours=4),
                trial_period=timedelta(seconds=settings.get("trial_period", 30)),
            )
        )
    except AttributeError as error:
        sys.exit(f"notepad: desktop-app.toml in this folder lacks {error}")
    except PatchifyError as error:
        sys.exit(f"notepad: {error}")

    @signals.update_available.connect_via(updater)
    def found(updater: Updater, offer: Offer, **_: object) -> None:
        show(offer)

    with updater:
        Notepad(version, updater).run()

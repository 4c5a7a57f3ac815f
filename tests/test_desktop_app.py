"""The program of the examples that asks its user."""

import io
import sys

import pytest

from examples.desktop_app import Notepad
from patchify.client import Config, Updater
from tests.client.fakes import FakeInstaller, FakeRestarter, FakeTransport


@pytest.fixture
def say(key, monkeypatch, capsys):
    """Type lines, and return what the program prints."""

    def say(*lines: str) -> str:
        config = Config(version="1.0.0", api="https://updates.example.com", key=key.verifying_key)
        seams = {"transport": FakeTransport(key, {}), "installer": FakeInstaller(), "restarter": FakeRestarter()}
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        with Updater(config, **seams) as updater:
            Notepad("1.0.0", updater).run()
        return capsys.readouterr().out

    return say


@pytest.mark.parametrize("text", ["[/]", "[red]x", "[/red", ":smile:"])
def test_what_somebody_else_has_written_is_printed_as_it_is(say, text):
    said = say(f"c {text}", f"+ {text}", "=", "c beta", "q")
    assert f"{text!r} is not the name of a channel" in said
    assert f"\n{text}\n" in said
    assert said.endswith("Releases now come from beta.\n")

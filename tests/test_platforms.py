import platform
import sys
import sysconfig

import pytest

from patchify.platforms import ANY, KNOWN, detect, fallbacks, parse_platform


@pytest.mark.parametrize(
    ("system", "machine", "soabi", "name"),
    [
        ("linux", "x86_64", "cpython-311-x86_64-linux-gnu", "linux-x86_64"),
        ("linux", "aarch64", "cpython-311-aarch64-linux-gnu", "linux-aarch64"),
        ("linux", "arm64", None, "linux-aarch64"),
        ("linux", "armv7l", None, "linux-armv7l"),
        ("linux", "x86_64", "cpython-311-x86_64-linux-musl", "linux-x86_64-musl"),
        ("darwin", "arm64", "cpython-311-darwin", "macos-arm64"),
        ("darwin", "x86_64", "cpython-311-darwin", "macos-x86_64"),
        ("win32", "AMD64", None, "windows-x86_64"),
        ("win32", "ARM64", None, "windows-arm64"),
        ("win32", "x86", None, "windows-i686"),
        ("linux", "armv8l", None, "linux-armv7l"),
        ("freebsd14", "amd64", None, "freebsd-x86_64"),
        ("sunos5", "", None, "sunos-unknown"),
    ],
)
def test_the_platform_is_found_out(monkeypatch, system, machine, soabi, name):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: soabi)
    monkeypatch.setattr(sys, "maxsize", 2**63 - 1)
    assert detect() == name
    assert parse_platform(name) == name


@pytest.mark.parametrize(
    ("system", "machine", "soabi", "name"),
    [
        ("linux", "aarch64", "cpython-311-arm-linux-gnueabihf", "linux-armv7l"),
        ("linux", "armv7l", "cpython-311-arm-linux-gnueabihf", "linux-armv7l"),
        ("linux", "x86_64", "cpython-311-i386-linux-gnu", "linux-i686"),
        ("linux", "i686", "cpython-311-i386-linux-gnu", "linux-i686"),
        ("win32", "AMD64", None, "windows-i686"),
    ],
)
def test_a_python_of_32_bits_is_for_32_bits_whatever_the_kernel_is(monkeypatch, system, machine, soabi, name):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: soabi)
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert detect() == name
    assert name in KNOWN


def test_what_runs_on_a_platform_goes_from_its_own_builds_to_those_for_all():
    assert fallbacks("linux-x86_64") == ("linux-x86_64", ANY)
    assert fallbacks("macos-arm64") == ("macos-arm64", "macos-universal", ANY)
    assert fallbacks("macos-universal") == ("macos-universal", ANY)
    assert fallbacks(ANY) == (ANY,)


@pytest.mark.parametrize("text", ["", "Linux", "linux x86", "../etc", "linux-", "-x", "a" * 41, "linux--x", "línux"])
def test_what_is_no_name_of_a_platform_is_refused(text):
    with pytest.raises(ValueError, match="not the name of a platform"):
        parse_platform(text)


def test_the_known_names_are_names():
    assert [parse_platform(each) for each in KNOWN] == list(KNOWN)

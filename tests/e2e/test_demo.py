import os
import signal
import sys

from tests.running import ROOT, Process


def demo(tmp_path, *before):
    folder = tmp_path / "tmp"
    folder.mkdir()
    command = [*before, sys.executable, "-m", "examples.demo"]
    return Process(command, tmp_path / "log", cwd=ROOT, env={"TMPDIR": str(folder)}), folder


def test_the_demo_ends_well_and_leaves_nothing_behind(tmp_path):
    process, folder = demo(tmp_path)
    with process:
        assert process.popen.wait(120) == 0
    for expected in ("v1.0.0", "Status: Pending restart: 2.0.0", f"v2.0.0, PID {running_pid(process)}", "by its next"):
        assert expected in process.output()
    assert list(folder.iterdir()) == []


def test_the_demo_ends_well_where_the_shell_ignores_ctrl_c(tmp_path):
    process, _ = demo(tmp_path, "sh", "-c", "trap '' INT; exec \"$@\"", "sh")
    with process:
        assert process.popen.wait(120) == 0


def test_ctrl_c_ends_the_demo_and_leaves_nothing_behind(tmp_path):
    process, folder = demo(tmp_path)
    with process:
        process.wait_for("Status: Pending restart", 120)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.popen.wait(120) == 130
    assert "Traceback" not in process.output()
    assert list(folder.iterdir()) == []


def running_pid(process) -> str:
    """Return the PID that version 1 gave."""
    return process.output().partition("v1.0.0, PID ")[2].split()[0]

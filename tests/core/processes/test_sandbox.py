"""The sandbox apart from what its guards contain (`test_attempts.py`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from coalign.core.processes import sandbox
from coalign.core.processes.sandbox import (
    GUARDS,
    SandboxError,
    SandboxOptions,
    choose,
    missing_reason,
    run_command,
    run_python,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sandboxes are POSIX's")


@pytest.fixture(params=list(GUARDS))
def guard(request):
    if reason := missing_reason(request.param):
        pytest.skip(f"{request.param}: {reason}")
    return request.param


def test_files_input_output_and_exit_code(guard):
    code = "import sys, part.of\nprint(part.of.name, sys.stdin.read(), open('data.bin', 'rb').read())\nsys.exit(3)"
    files = {"part/of.py": "name = 'Zoë'", "data.bin": b"\x00\xff"}
    outcome = run_python(code, files=files, stdin="in", guard=guard)
    assert (outcome.status, outcome.exit_code, outcome.ok) == ("failed", 3, False)
    assert outcome.stdout == "Zoë in b'\\x00\\xff'\n"
    assert 0 < outcome.seconds < 10


def test_a_traceback_names_the_file(guard):
    outcome = run_python("1 / 0", files={"main.py": "not run"}, guard=guard)
    assert outcome.status == "failed"
    assert "ZeroDivisionError" in outcome.stderr
    assert "_main.py" in outcome.stderr


def test_packages_of_this_interpreter_are_there(guard):
    outcome = run_python("import numpy; print(numpy.arange(3).sum())", guard=guard, memory_mb=1024)
    assert outcome.stdout == "3\n", outcome.stderr


def test_output_beyond_the_limit_is_dropped(guard):
    outcome = run_command(["sh", "-c", "yes | head -c 3000000; echo end >&2"], output_kb=1, guard=guard)
    assert outcome.ok
    assert outcome.stderr == "end\n"
    assert len(outcome.stdout) < 1100
    assert outcome.stdout.endswith("... and 2998976 bytes more")


def test_a_folder_may_be_worked_in_and_stays(guard, tmp_path):
    (tmp_path / "given").write_text("x")
    outcome = run_command(
        ["sh", "-c", "cat given more > made"], folder=tmp_path, files={"more": "y"}, guard=guard
    )
    assert outcome.ok, outcome.stderr
    assert (tmp_path / "made").read_text() == "xy"


def test_a_signal_that_ends_it_is_killed(guard):
    outcome = run_python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", guard=guard)
    assert (outcome.status, outcome.exit_code) == ("killed", -signal.SIGSEGV)


def test_children_that_were_left_do_not_delay(guard):
    assert run_command(["sh", "-c", "sleep 30 & echo ready"], guard=guard).seconds < 20


def test_memory_that_is_not_a_processs_own_counts(guard):
    code = "import mmap, time\nheld = mmap.mmap(-1, 300 << 20)\nheld.write(bytes(300 << 20))\ntime.sleep(5)"
    assert run_python(code, memory_mb=200, guard=guard).status == "memory"


def test_pages_that_children_share_count_once(guard):
    code = "import os, time\nheld = b'1' * (120 << 20)\nfor _ in range(3): os.fork()\ntime.sleep(0.6)"
    assert run_python(code, memory_mb=300, guard=guard).ok


@pytest.mark.parametrize("name", ["../out", "/out", "", "a/../../out"])
def test_files_stay_inside(name):
    with pytest.raises(ValueError, match="inside the folder"):
        run_python("", files={name: ""}, guard="limits")


def test_links_that_a_command_left_are_not_followed(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "kept").write_text("hers")
    run_command(["ln", "-s", str(outside), "folder"], folder=inside, guard="limits")
    run_command(["ln", "-s", str(outside / "kept"), "file"], folder=inside, guard="limits")
    with pytest.raises(ValueError, match="inside the folder"):
        run_command(["true"], folder=inside, files={"folder/made": "x"}, guard="limits")
    assert (
        run_command(["cat", "file"], folder=inside, files={"file": "mine"}, guard="limits").stdout == "mine"
    )
    assert (outside / "kept").read_text() == "hers"
    assert not (outside / "made").exists()


def test_a_command_that_is_not_there(guard):
    with pytest.raises(SandboxError, match=r"no-such-command was not started under .*No such file"):
        run_command(["no-such-command"], guard=guard)


def test_killed_with_this_process(guard):
    code = f"""
from coalign.core.processes.sandbox import run_command
run_command(["sh", "-c", "setsid sleep 60 & exec sleep 61"], seconds=60, guard={guard!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 20
    below: list[psutil.Process] = []
    while sum(one.name() == "sleep" for one in below) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        below = [one for one in psutil.Process(process.pid).children(recursive=True) if one.is_running()]
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(below, timeout=5)
    assert len(gone) >= 3
    assert not alive


def test_auto_takes_the_best_guard_that_is_there(monkeypatch):
    monkeypatch.setattr(sandbox, "missing_reason", lambda guard: None)
    assert choose("auto") == "bubblewrap"
    monkeypatch.setattr(sandbox, "missing_reason", {"bubblewrap": "is away", "namespaces": None}.get)
    assert choose("auto") == "namespaces"
    with pytest.raises(SandboxError, match="bubblewrap: is away"):
        choose("bubblewrap")


def test_where_nothing_holds_code_it_is_refused(monkeypatch):
    monkeypatch.setattr(sandbox, "missing_reason", lambda guard: "is away")
    with pytest.raises(SandboxError, match="nothing here holds it") as caught:
        run_python("print(1)")
    assert "--sandbox none" in str(caught.value)
    assert "bubblewrap" in str(caught.value.hint)
    assert choose("none") == "limits"


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_have_no_guard(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sandbox, "missing_reason", missing_reason.__wrapped__)
    with pytest.raises(SandboxError, match="bubblewrap: needs Linux; namespaces: needs Linux") as caught:
        choose()
    assert str(caught.value.hint).startswith("Say --sandbox none")


def test_a_guard_that_cannot_be_set_up_is_named(monkeypatch):
    monkeypatch.setattr(sandbox, "_guarded", lambda *_: ["sh", "-c", "echo no such right >&2; exit 1", "x"])
    with pytest.raises(SandboxError, match="was not started under bubblewrap: no such right"):
        run_python("print(1)", guard="bubblewrap")
    assert str(missing_reason.__wrapped__("namespaces")).endswith("no such right")


def test_options_carry_their_limits(guard):
    options = SandboxOptions(sandbox="none" if guard == "limits" else guard, code_seconds=0.3)
    assert options.run_python("import time; time.sleep(9)").status == "timeout"
    assert options.run_python("print(open('a').read())", files={"a": "b"}).stdout == "b\n"


def test_nothing_is_left_in_the_folder_for_temporary_files(guard, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_python("open('x', 'w')", guard=guard)
    assert not list(Path(tmp_path).iterdir())

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from coalign import __version__
from coalign.cli import main as main_module
from coalign.cli.main import COMMANDS
from coalign.core.errors import ConfigError, ModelError

PROBE = """
import atexit, sys
heavy = ("torch._C", "transformers", "pydantic", "rich", "datasets", "numpy._core")
atexit.register(lambda: print("HEAVY", [name for name in heavy if name in sys.modules], file=sys.stderr))
from coalign.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "argv", [["--help"], ["methods"], ["methods", "cream"], ["methods", "--json"], ["runs"], ["run"]]
)
def test_light_commands_import_nothing_heavy(argv: list[str]) -> None:
    result = subprocess.run([sys.executable, "-c", PROBE, *argv], capture_output=True, text=True, check=True)
    assert "HEAVY []" in result.stderr


@pytest.mark.parametrize("argv", [["--help"], ["methods"]])
def test_light_commands_answer_at_once(argv: list[str]) -> None:
    """The budget is 0.3 s of processor time, the best of three, so that a busy machine does not fail it."""
    assert min(processor_time([sys.executable, "-m", "coalign.cli.main", *argv]) for _ in range(3)) < 0.3


def processor_time(command: list[str]) -> float:
    before = os.times()
    subprocess.run(command, capture_output=True, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_version_help_and_the_nearest_command(coalign: Callable) -> None:
    assert __version__ in coalign("--version").out
    result = coalign("--help")
    assert result.code == 0
    assert all(f"  {name} " in result.out for name in COMMANDS)
    result = coalign("methds")
    assert result.code == 2
    assert "Did you mean methods?" in result.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_exists(name: str) -> None:
    command = main_module.coalign.get_command(click.Context(main_module.coalign), name)
    assert isinstance(command, click.Command)


def raising(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("beta: bad", hint="Do this."), 2, "Error: beta: bad\nDo this.\n"),
        (ModelError("no such model"), 1, "Error: no such model\n"),
        (OSError(errno.ENOSPC, "full", "/x/y"), 1, "No space left on the disk while writing /x/y"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 1, "Error: /x/y: Permission denied."),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (click.exceptions.Exit(3), 3, ""),
    ],
)
def test_errors_become_messages_and_exit_codes(
    coalign: Callable, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    monkeypatch.setattr(main_module.LazyGroup, "get_command", lambda *_: raising(error))
    result = coalign("doctor")
    assert result.code == code
    assert message in result.err
    assert "Traceback" not in result.err


def test_a_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_module.LazyGroup, "get_command", lambda *_: raising(ConfigError("x")))
    monkeypatch.setenv("COALIGN_TRACEBACK", "1")
    with pytest.raises(ConfigError):
        main_module.main(["doctor"])


@pytest.mark.parametrize("error", [ZeroDivisionError("by\nnothing"), OSError("odd"), RecursionError()])
def test_faults_of_the_code_are_one_line_and_a_file(
    coalign: Callable, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(main_module.LazyGroup, "get_command", lambda *_: raising(error))
    result = coalign("doctor")
    assert result.code == 1
    assert "Traceback" not in result.err
    first, second = result.err.splitlines()
    assert first.startswith(f"Error: {type(error).__name__} at main.py:")
    kept = Path(second.partition("Its traceback: ")[2])
    assert "Traceback (most recent call last)" in kept.read_text()
    shutil.rmtree(kept.parent)


@pytest.mark.parametrize("argv", [["methods", "--json"], ["--version"]])
def test_a_reader_that_goes_away_gets_no_complaint(argv: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "coalign.cli.main", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 2500])
def test_a_path_that_the_system_does_not_take_is_no_fault_of_ours(coalign, tmp_path, name):
    result = coalign("report", str(tmp_path / name))
    assert result.code == 1
    assert result.err.endswith("File name too long.\n")
    assert len(result.err) < 200


def test_a_file_in_the_place_of_a_folder_is_named(coalign, tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        '{"prompt": "p", "completion": "c"}\n{"prompt": 3, "completion": "c"}\n'
    )
    out = tmp_path / "rows.jsonl" / "rejects.jsonl"
    result = coalign(
        "data", "check", str(tmp_path / "rows.jsonl"), "--on-bad-record", "skip", "--rejects", str(out)
    )
    assert result.code == 1
    assert "rows.jsonl: File exists." in result.err


def test_what_cannot_be_shown_is_shown_by_its_code(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "日", "completion": "c"}\n', encoding="utf-8")
    command = [sys.executable, "-m", "coalign.cli.main", "data", "check", str(path)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run(command, capture_output=True, env=environment, text=True, check=True).stdout
    assert r"\u65e5" in shown

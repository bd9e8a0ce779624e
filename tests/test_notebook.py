"""The notebook of the first hour: its commands, flags and imports exist; and, slow, its cells run from top to bottom."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import coalign
from tests.cli.commands import unknown_in

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "first-hour.ipynb"
CONTENT = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
CELLS = ["".join(one["source"]) for one in CONTENT["cells"] if one["cell_type"] == "code"]
TEXTS = ["".join(one["source"]) for one in CONTENT["cells"] if one["cell_type"] == "markdown"]
SHELL = re.compile(r"^!(.*)$", re.MULTILINE)


def as_python(cell: str) -> str:
    """A cell without IPython: commands are called and must succeed, what is shown in the page is left out."""
    called = SHELL.sub(lambda found: f"_call({found[1]!r})", cell)
    return "\n".join(line for line in called.splitlines() if not line.startswith(("from IPython", "HTML(")))


def test_it_is_a_notebook_without_outputs() -> None:
    assert (CONTENT["nbformat"], CONTENT["nbformat_minor"]) == (4, 5)
    assert len({one["id"] for one in CONTENT["cells"]}) == len(CONTENT["cells"])
    for one in CONTENT["cells"]:
        assert one["cell_type"] == "markdown" or (one["outputs"], one["execution_count"]) == ([], None)


def test_its_commands_exist_with_their_flags() -> None:
    called = [line for cell in CELLS for line in SHELL.findall(cell)]
    told = [line for text in TEXTS for line in re.findall(r"`(coalign [^`]+)`", text)]
    assert len(called) > 8
    for line in [*called, *told]:
        assert shlex.split(line)[0] == "coalign"
        assert unknown_in(line) == [], line


def test_its_cells_are_python_and_its_names_of_coalign_exist() -> None:
    for cell in CELLS:
        for node in ast.walk(ast.parse(as_python(cell))):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "coalign"
            ):
                assert node.attr in dir(coalign)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_runs_from_top_to_bottom(tmp_path: Path) -> None:
    head = (
        "import subprocess, shlex, sys\n"
        "def _call(line):\n"
        "    subprocess.run([sys.executable, '-m', *shlex.split(line)], check=True)\n"
    )
    script = tmp_path / "cells.py"
    script.write_text(head + "\n".join(map(as_python, CELLS)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs" / "dpo" / "model" / "model.safetensors").is_file()
    assert {one.name for one in (tmp_path / "exported").iterdir()} == {
        "README.md",
        "DATA.md",
        "dpo-q8_0.gguf",
    }
    after = [line for line in done.stdout.splitlines() if line.startswith(" after:")]
    assert len(after) == 2
    before, aligned = (
        float(line.rpartition(":")[2])
        for line in done.stdout.splitlines()[-10:]
        if line.startswith(("default:", "runs/dpo:"))
    )
    assert aligned > before

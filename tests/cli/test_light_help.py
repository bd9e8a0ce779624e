"""Help, configuration and its validation of every method are there without the libraries that only a run needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from coalign.core.built_in import BUILT_IN
from coalign.core.catalogue import entries
from tests.cli.test_main import processor_time

PROBE = """
import contextlib, io, json, sys
from coalign.cli.main import main

for argv in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main(argv)
        except SystemExit as end:
            code = end.code
    heavy = [one for one in ("torch._C", "numpy._core", "transformers", "peft", "accelerate", "datasets") if one in sys.modules]
    checks = [one for one in sys.modules if one.startswith("coalign.checks")]
    print(json.dumps({"argv": argv, "code": code, "said": said.getvalue(), "loaded": heavy + checks}))
"""
SLUGS = [entry.slug for entry in entries() if entry.available]
QUICK = [["run", "ln-dpo", "--help"], ["run", "simpo", "--help"], ["run", "adaptive-mt", "--print-config"]]


def test_no_method_loads_more_than_its_options_need(tmp_path: Path) -> None:
    """All in one process, so that what one of them loads stands beside it: nothing heavy, and no check of a paper."""
    file = tmp_path / "options.yaml"
    file.write_text("data: pairs.jsonl\nlearning_rate: 1e-5\n")
    methods = [*SLUGS, *BUILT_IN, "simpo", "dpo"]
    good = [["run", name, flag] for name in methods for flag in ("--help", "--print-config")]
    good += [["run", "ln-dpo", "--config", str(file), "--beta", "0.3", "--print-config"]]
    bad = [["run", "ln-dpo", "--config", str(file), *wrong] for wrong in (["--beta", "-1"], ["--no-such"])]
    result = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps([*good, *bad])], capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["argv"] for row in rows if row["loaded"]] == []
    assert [row for row in rows[: len(good)] if row["code"] != 0] == []
    assert [row["code"] for row in rows[len(good) :]] == [2, 2]
    assert "--beta: '-1' is not usable" in rows[-2]["said"]


@pytest.mark.parametrize("argv", QUICK, ids=" ".join)
def test_options_of_a_method_are_shown_at_once(argv: list[str]) -> None:
    """The budget is 0.5 s of processor time, the best of three."""
    assert min(processor_time([sys.executable, "-m", "coalign", *argv]) for _ in range(3)) < 0.5


def test_three_records_are_checked_at_once(tmp_path: Path) -> None:
    """The budget is 0.4 s of processor time, the best of three."""
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 3)
    command = [sys.executable, "-m", "coalign", "data", "check", str(file)]
    assert min(processor_time(command) for _ in range(3)) < 0.4

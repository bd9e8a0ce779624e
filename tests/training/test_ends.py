"""How trainings of two processes end: one leaves early, dies, raises, finds the disk full, or finds no record of its own."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from coalign.core.runs import Run
from tests.preference.tiny_runs import assert_same_weights
from tests.training.in_processes import material, started

pytestmark = pytest.mark.slow
RECIPES = ["ddp", "fsdp2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ends")
    material(made)
    return made


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("leaves", 1, "Process 1 left its loop after step 3, before the last one"),
        ("raises", 1, ": only here"),
        ("full", 1, "No space left on the disk while writing"),
        ("few", 1, "1 record to train on, expected at least one for each of the 2 processes."),
        ("dies", 137, "Process 1 ended by signal 9; the others were ended."),
    ],
)
def test_all_end_soon_and_one_message_says_why(
    folder: Path, recipe: str, what: str, code: int, said: str
) -> None:
    before = time.monotonic()
    ended = started("tests.training.ends", folder, recipe, what)  # type: ignore[arg-type]
    assert ended.returncode == code, ended.stderr[-5000:]
    assert " ".join(ended.stderr.split()).count(said) in (1, 2), ended.stderr[
        -5000:
    ]  # two on a machine so busy that a process takes seconds to end
    assert "Traceback" not in ended.stderr
    assert time.monotonic() - before < 150
    run = folder / f"{what}-{recipe}"
    assert not run.exists() or Run(run).state != "done", "a run of which nothing was made is removed"


@pytest.mark.parametrize("recipe", RECIPES)
def test_processes_that_start_again_end_as_if_none_had_died(folder: Path, recipe: str) -> None:
    undisturbed = started("tests.training.ends", folder, recipe, "none")  # type: ignore[arg-type]
    assert undisturbed.returncode == 0, undisturbed.stderr[-5000:]
    shutil.rmtree(folder / f"dies-{recipe}", ignore_errors=True)  # of the test above
    again = started("tests.training.ends", folder, recipe, "dies", restarts=1)  # type: ignore[arg-type]
    assert again.returncode == 0, again.stderr[-5000:]
    whole, mended = Run(folder / f"none-{recipe}"), Run(folder / f"dies-{recipe}")
    assert mended.state == "done"
    assert [row["done"] for row in mended.events("plan")] == [0, 2]
    assert_same_weights(whole, mended)

"""Run folders that an earlier version wrote still open, list, report, compare and go on.

`finished/` and `stopped/` were made at commit c2c41ed from `data/` and the random models of `tests/contract/small.py`;
weights and pages are left out. The stopped ones were killed in the middle and end with the figures of the finished.
"""

from __future__ import annotations

import importlib
import io
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from coalign.cli.running.run import execute
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.core.system import load_system
from coalign.loops.rows import current
from coalign.models.backends import open as backends
from coalign.models.generation import fused_model
from coalign.training.module_trainer import ModuleTrainer
from tests.cli.conftest import coalign as coalign
from tests.contract.artefacts import artefacts, assert_close
from tests.contract.small import SMALL, Small, furnish

HERE = Path(__file__).parent
RUNS = sorted(path.name for path in (HERE / "finished").iterdir() if (path / "status.json").exists())
REPLIES = ("replies.jsonl",)
"""Are keyed by the folder of the model; what was concluded from them is compared."""


RENAMED = {
    "cut": {
        "evaluate-answers.jsonl": "artefacts/round-1/evaluate.jsonl",
        "evaluate.jsonl": "artefacts/round-1/heldout-after.jsonl",
    }
}
"""By system the artefacts that a run which goes on writes under another name."""
MENDED = {"pseudo-forced-alignment": "words"}
"""By system the column whose values were faulty: words could lie outside of their utterance."""
SOUND = {"awp": "clips.jsonl", "pseudo-forced-alignment": "recordings.jsonl"}
MODELS = ("tiny", "other", "base", "alignment")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs with the data and the models that they were made from."""
    root = tmp_path_factory.mktemp("old")
    shutil.copytree(HERE / "data", root, dirs_exist_ok=True)
    for name in ("finished", "stopped"):
        shutil.copytree(HERE / name, root / name)
    furnish(root, Small({"models": [f"models/{name}" for name in MODELS]}))
    return root


ADDED = {"before_losses", "after_losses"}
"""Of a finished training, since that version."""


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_goes_on_to_the_figures_of_the_version_that_began_it(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    if name in SOUND:
        pytest.importorskip("soundfile")
        pytest.importorskip("numba")
        furnish(folder, Small({"model": "models/recogniser"}, {SOUND[name]: SMALL[name].files[SOUND[name]]}))
    # That version trained a run of one step at the rate 0: its warm-up was all of the run.
    monkeypatch.setattr(ModuleTrainer, "create_scheduler", Trainer.create_scheduler)
    # It decoded with the model's own modules, all of them in bfloat16. Fused weights are in bfloat16 too, what goes between
    # them is not: logits are 2e-3 apart, and where all 301 tokens are about as likely that tips a draw in fifteen.
    monkeypatch.setattr(fused_model, "is_llama_like", lambda model: False)
    monkeypatch.setattr(backends, "decoding_dtype", lambda device: torch.bfloat16)
    stopped = Run.open(Path("stopped") / name)
    assert stopped.state == "interrupted"
    system: Any = importlib.import_module("coalign.judging.run") if name == "judge" else load_system(name)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        run = execute(name, system, build(system.Config, stopped.config()), stopped.path)
    assert run.events("resumed")
    finished = Run.open(Path("finished") / name)
    figures, before = run.status().get("figures"), finished.status().get("figures")
    expected, found = (artefacts(one.path, but=REPLIES) for one in (finished, run))
    assert_close(figures, before)
    renamed = RENAMED.get(name, {})
    for key, value in expected.items():
        theirs = found[renamed.get(Path(key).name, key)] if key.endswith("jsonl") else None
        rows = None if theirs is None else in_both(value, theirs, but=MENDED.get(name))
        new = (
            {name: one for name, one in found[key].items() if name not in ADDED or name in value}
            if isinstance(value, dict)
            else found.get(key)
        )
        assert_close(*(rows or (new, value)), place=key)


def in_both(old: list[Any], new: list[Any], but: str | None = None) -> tuple[list[Any], list[Any]]:
    """(new, old) rows in the schema of today, in the columns that the old ones have, `but` one at any depth."""
    assert len(old) == len(new)
    pairs = [(current(one), current(other)) for one, other in zip(new, old, strict=True)]
    known = [{key for key, value in was.items() if value != [None]} for _, was in pairs]
    sides = [
        [
            without({key: pair[side][key] for key in keys}, but)
            for pair, keys in zip(pairs, known, strict=True)
        ]
        for side in (0, 1)
    ]
    return sides[0], sides[1]


def without(value: Any, name: str | None) -> Any:
    if isinstance(value, dict):
        return {key: without(one, name) for key, one in value.items() if key != name}
    return [without(one, name) for one in value] if isinstance(value, list) else value


def test_finished_runs_are_listed_reported_and_compared(
    coalign: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    listed = coalign("runs", "--root", "finished")
    assert listed.code == 0
    rows = listed.out.splitlines()[1:]
    assert sorted(row.split()[0] for row in rows) == RUNS
    assert all(row.split()[1] == "done" for row in rows)
    for name in RUNS:
        shown = coalign("report", f"finished/{name}")
        assert shown.code == 0, shown.err
        assert Run.open(Path("finished") / name).report.exists()
    compared = coalign("compare", *(f"finished/{name}" for name in RUNS))
    assert compared.code == 0, compared.err


def test_the_workbench_shows_them(folder: Path) -> None:
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    from coalign.web.workbench import workbench

    client = TestClient(workbench(folder / "finished"), base_url="http://127.0.0.1:8600")
    listed = client.get("/").text
    for name in RUNS:
        assert f"/runs/{name}" in listed
        assert client.get(f"/runs/{name}").status_code == 200


def test_generating_goes_on_with_the_rows_that_are_there(
    coalign: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = coalign(
        *("generate", "--model", "models/tiny", "--device", "cpu", "--prompts", "prompts.jsonl"),
        *("--max-new-tokens", "5", "--batch-size", "1", "--out", "stopped/generate/out.jsonl"),
    )
    assert "2 of 4 prompts are done" in result.err
    whole, rest = (Path(one, "generate", "out.jsonl").read_text() for one in ("finished", "stopped"))
    assert rest == whole

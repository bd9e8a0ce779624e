"""ACT end to end on a tiny model: artefacts, report, model, and going on after an interruption."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.core.errors import CoalignError
from coalign.core.options import build
from coalign.core.runs import Run
from coalign.data.readers import read_records
from coalign.models.files.loading import load_model
from coalign.models.types import ResponseLogps
from coalign.selfalign import act
from coalign.training.objective import ScoredBatch
from tests.selfalign.tiny import SETTINGS, make_model_folder, make_prompts


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("material")
    return {
        **SETTINGS,
        "model": str(make_model_folder(folder / "model")),
        "prompts": str(make_prompts(folder / "prompts.jsonl")),
    }


def start(material: dict[str, Any], folder: Path, **changes: Any) -> tuple[act.Config, Run]:
    config = build(act.Config, {**material, **changes})
    return config, Run.start(folder, "act", config, seed=config.seed)


@pytest.fixture(scope="module")
def finished(material: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    config, run = start(material, tmp_path_factory.mktemp("runs") / "whole")
    act.run(config, run)
    return run


def comparison(run: Run) -> dict[str, Any]:
    return json.loads((run.artefacts / "round-1" / "comparison.json").read_text())


def test_run_leaves_everything(finished: Run) -> None:
    assert finished.report.exists()
    assert (finished.model / "README.md").exists()
    assert "satisfaction" in finished.status()["headline"]
    rows = json.loads((finished.artefacts / "round-1" / "generate.jsonl").read_text().splitlines()[0])
    assert len(rows["responses"]) == 4
    for stage in ("baseline", "evaluate", "heldout-after"):
        ids = [json.loads(line)["id"] for line in (finished.artefacts / "round-1" / f"{stage}.jsonl").open()]
        assert ids == ["p8", "p9", "p10", "p11"]
    rankings = read_records(finished.artefacts / "round-1" / "filter.jsonl")
    assert rankings.kind == "ranking"
    result = comparison(finished)
    assert set(result["kinds"]) == {"max characters", "no commas"}
    assert result["satisfaction"]["difference"]["n"] == 4


def test_result_loads_and_differs_from_the_base(finished: Run, material: dict[str, Any]) -> None:
    base, tuned = (
        load_model(material["model"], training=False),
        load_model(str(finished.path), training=False),
    )
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert (base(input_ids=ids).logits - tuned(input_ids=ids).logits).abs().max() > 1e-3


def test_nothing_to_rank_is_explained(material: dict[str, Any], tmp_path: Path) -> None:
    rows = [json.loads(line) for line in Path(material["prompts"]).read_text().splitlines()]
    for row in rows:
        row["constraints"] = [{"verifier": "max_words", "n": 1000}]
    path = tmp_path / "easy.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config, run = start(material, tmp_path / "run", prompts=str(path), unfinished="as is", top_p=1.0)
    with pytest.raises(CoalignError, match="No prompt has two responses"):
        act.run(config, run)


def test_a_response_that_ran_out_of_tokens_satisfies_nothing_in_training() -> None:
    row = {
        "id": "a",
        "prompt": [],
        "responses": ["one ", "two", "two", " "],
        "finish_reasons": ["length", "stop", "length", "stop"],
        "csr": [1.0, 0.5, 1.0, 1.0],
    }
    strict = act.ranked_row(row, unfinished_as_zero=True)
    assert (strict["responses"], strict["scores"]) == (["two", "one"], [0.5, 0.0])
    plain = act.ranked_row(row, unfinished_as_zero=False)
    assert (plain["responses"], plain["scores"]) == (["one", "two"], [1.0, 1.0])


def test_two_rounds(material: dict[str, Any], tmp_path: Path) -> None:
    config, run = start(material, tmp_path / "run", rounds=2, epochs=1)
    act.run(config, run)
    assert (run.artefacts / "round-2" / "evaluate.done.json").exists()
    first = (run.artefacts / "round-1" / "generate.jsonl").read_text()
    assert first != (run.artefacts / "round-2" / "generate.jsonl").read_text()


def test_objective_against_a_loop() -> None:
    """The ragged objective equals equations A2 to A4 written out for every prompt."""
    torch.manual_seed(0)
    lengths = torch.tensor([3, 1, 4, 2, 5])
    tokens = -torch.rand(int(lengths.sum()), dtype=torch.float64)
    index = torch.tensor([0, 0, 0, 1, 1])
    values = torch.tensor([0.5, 1.0, 0.0, 0.3, 0.3])
    batch = ScoredBatch(ResponseLogps(tokens, lengths, index), None, index, values)
    constants = act.Constants(margin=0.7, ft_weight=2.0)
    means = [part.mean() for part in torch.split(tokens, lengths.tolist())]
    expected = []
    for rows in ([0, 1, 2], [3, 4]):
        pairs = [
            torch.relu(means[j] - means[i] + 0.7 * (values[i] - values[j]))
            for i in rows
            for j in rows
            if values[i] > values[j]
        ]
        best = max(rows, key=lambda row: (float(values[row]), -row))
        expected.append(sum(pairs, torch.zeros(())) - 2.0 * means[best])
    torch.testing.assert_close(
        act.constraint_ranking(batch, constants).losses, torch.stack(expected).double()
    )


@pytest.mark.slow
def test_killed_ten_times(material: dict[str, Any], finished: Run, tmp_path: Path) -> None:
    """SIGKILL at ten random moments of a real process; the eleventh attempt ends with the undisturbed figures."""
    out = tmp_path / "run"
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in material.items()]
    command = [sys.executable, "-m", "coalign.cli.main", "run", "act", *flags, "--out", str(out)]
    environment = {**os.environ, "COALIGN_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    draw = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(draw.uniform(4, 16))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert comparison(Run.open(out)) == comparison(finished)

"""ACT on a tiny model: what a run leaves, and its objective."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from coalign.core.errors import CoalignError
from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.data.readers import read_records
from coalign.models.files.loading import load_model
from coalign.models.types import ResponseLogps
from coalign.selfalign import act
from coalign.training.objective import ScoredBatch
from tests.preference.tiny_runs import run_system, write

OPTIONS: dict[str, Any] = {
    "samples": 4, "max_new_tokens": 10, "epochs": 2, "batch_size": 2, "eval_samples": 2, "unfinished": "as is",
}  # fmt: skip


def prompts(training: int = 8, held_out: int = 4, **columns: Any) -> list[dict[str, Any]]:
    """Length limits that random text meets about half of the time."""
    return [
        {
            "id": f"p{n}",
            "prompt": f"Say {n}." + " Please." * (n % 3),
            "constraints": [{"verifier": "max_characters", "n": 6 + n % 3}, {"verifier": "no_commas"}],
            "split": "train" if n < training else "heldout",
            **columns,
        }
        for n in range(training + held_out)
    ]


def start(model: str, folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Run:
    data = str(write(folder.with_suffix(".jsonl"), rows))
    return run_system("act", act, folder, **{**OPTIONS, "model": model, "prompts": data, **changes})


def test_a_run_leaves_everything_and_a_model_that_differs(tiny_model: str, tmp_path: Path) -> None:
    run = start(tiny_model, tmp_path / "run", prompts())
    assert "satisfaction" in run.status()["headline"]
    folder = run.artefacts / "round-1"
    assert len(read_rows(folder / "generate.jsonl")[0]["responses"]) == 4
    for stage in ("baseline", "evaluate", "heldout-after"):
        assert [row["id"] for row in read_rows(folder / f"{stage}.jsonl")] == ["p8", "p9", "p10", "p11"]
    assert read_records(folder / "filter.jsonl").kind == "ranking"
    result = json.loads((folder / "comparison.json").read_text())
    assert set(result["kinds"]) == {"max characters", "no commas"}
    assert result["satisfaction"]["difference"]["n"] == 4
    base, tuned = (load_model(one, training=False) for one in (tiny_model, str(run.path)))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert (base(input_ids=ids).logits - tuned(input_ids=ids).logits).abs().max() > 1e-3


def test_nothing_to_rank_is_explained(tiny_model: str, tmp_path: Path) -> None:
    easy = prompts(constraints=[{"verifier": "max_words", "n": 1000}])
    with pytest.raises(CoalignError, match="No prompt has two responses"):
        start(tiny_model, tmp_path / "run", easy, top_p=1.0)


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


def test_objective_against_a_loop() -> None:
    """The ragged objective equals equations A2 to A4 written out for every prompt."""
    torch.manual_seed(0)
    lengths = torch.tensor([3, 1, 4, 2, 5])
    tokens = -torch.rand(int(lengths.sum()), dtype=torch.float64)
    index = torch.tensor([0, 0, 0, 1, 1])
    values = torch.tensor([0.5, 1.0, 0.0, 0.3, 0.3])
    batch = ScoredBatch(ResponseLogps(tokens, lengths, index), None, index, values)
    means = [part.mean() for part in torch.split(tokens, lengths.tolist())]
    expected = []
    for rows in ([0, 1, 2], [3, 4]):
        pairs = [(i, j) for i in rows for j in rows if values[i] > values[j]]
        hinges = [torch.relu(means[j] - means[i] + 0.7 * (values[i] - values[j])) for i, j in pairs]
        best = max(rows, key=lambda row: (float(values[row]), -row))
        expected.append(sum(hinges, torch.zeros(())) - 2.0 * means[best])
    losses = act.constraint_ranking(batch, act.Constants(margin=0.7, ft_weight=2.0)).losses
    torch.testing.assert_close(losses, torch.stack(expected).double())

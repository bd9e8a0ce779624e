"""The trainer of any module: one normalisation, also by term; exact resume with what a task keeps; what it tells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from coalign.core.runs import Run
from coalign.training.job import FitResult
from coalign.training.modules import fit_module
from coalign.training.objective import Losses
from coalign.training.options import TrainingOptions
from coalign.training.task import DivergedError, Task

Example = tuple[str, list[float], float]


def examples(count: int, seed: int = 0) -> list[Example]:
    drawn = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)).tolist()
    return [(f"e{place}", row[:3], row[3]) for place, row in enumerate(drawn)]


class Squares(Task):
    """Squared errors; it keeps how many examples it has seen."""

    name = "squared error"
    examples = "the points"
    advice = "look at these points"

    def __init__(self, spoilt: int | None = None) -> None:
        self.spoilt = spoilt
        self.seen = 0

    def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        ids, x, y = zip(*examples, strict=True)
        return {"ids": list(ids), "x": torch.tensor(x), "y": torch.tensor(y)}

    def loss(self, model: nn.Module, batch: dict[str, Any], state: Any) -> Losses:
        if model.training:
            self.seen += len(batch["ids"])
        errors = (model(batch["x"])[:, 0] - batch["y"]) ** 2
        bad = float("nan") if model.training and state.global_step == self.spoilt else 1.0
        return Losses(errors * bad, {"size": errors.detach().sqrt()})

    def save(self, folder: Path) -> None:
        (folder / "seen.json").write_text(json.dumps(self.seen))

    def load(self, folder: Path) -> None:
        self.seen = json.loads((folder / "seen.json").read_text())


class Terms(Squares):
    """Two terms, each a mean over its own rows: errors above and below."""

    def count(self, batch: dict[str, Any]) -> torch.Tensor:
        return torch.tensor([int((batch["y"] > 0).sum()), int((batch["y"] <= 0).sum())])

    def loss(self, model: nn.Module, batch: dict[str, Any], state: Any) -> Losses:
        errors, above = super().loss(model, batch, state).losses, batch["y"] > 0
        return Losses(torch.stack([errors[above].sum(), errors[~above].sum()]), {"above": errors[above]})


def train(
    folder: Path, task: Task, count: int = 20, held_out: int = 0, quiet: bool = True, **options: Any
) -> tuple[torch.Tensor, FitResult, Run]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.0), nn.Linear(8, 1))
    settings = {"learning_rate": 1e-2, "batch_size": 8, "epochs": 2.0, "schedule": "linear", **options}
    run = Run(folder)
    run.artefacts.mkdir(parents=True, exist_ok=True)
    fit = fit_module(
        model,
        task,
        examples(count),
        TrainingOptions(**settings),
        run,
        held_out=examples(held_out, 1),
        quiet=quiet,
    )
    return torch.cat([one.detach().flatten() for one in model.parameters()]), fit, run


@pytest.mark.parametrize("task", [Squares, Terms])
def test_the_update_does_not_depend_on_how_a_step_is_cut(task: type[Squares], tmp_path: Path) -> None:
    whole, one, _ = train(tmp_path / "a", task(), held_out=7)
    cut, two, _ = train(tmp_path / "b", task(), held_out=7, batch_size=2, gradient_accumulation=4)
    torch.testing.assert_close(cut, whole, atol=2e-6, rtol=1e-4)
    assert one.steps == two.steps == 6
    for key in ("loss", "eval_loss"):
        rows = [[row[key] for row in fit.history if key in row] for fit in (one, two)]
        assert rows[0]
        assert rows[1] == pytest.approx(rows[0], rel=1e-4)


def test_a_term_without_rows_adds_nothing(tmp_path: Path) -> None:
    class Above(Terms):
        def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
            batch = super().collate(examples)
            return {**batch, "y": batch["y"].abs() + 0.1}

    _, fit, _ = train(tmp_path, Above(), max_steps=2, held_out=3)
    (row,) = [one for one in fit.history if "eval_loss" in one]
    assert row["eval_loss"] == pytest.approx(row["eval_above"], rel=1e-6)


@pytest.mark.parametrize("in_evaluation", [True, False])
def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path: Path, in_evaluation: bool) -> None:
    class Killed(Squares):
        def loss(self, model: nn.Module, batch: dict[str, Any], state: Any) -> Losses:
            if state.global_step == (3 if in_evaluation else 4) and model.training != in_evaluation:
                raise KeyboardInterrupt
            return super().loss(model, batch, state)

    options = {"save_steps": 3, "logging_steps": 2, "held_out": 7}
    whole, undisturbed, _ = train(tmp_path / "a", Squares(), **options)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", Killed(), **options)
    task = Squares()
    resumed, fit, run = train(tmp_path / "b", task, **options)
    assert torch.equal(whole, resumed)
    assert fit.steps == 6
    assert task.seen == 40, "what a task keeps goes on from the checkpoint"
    assert [plan["done"] for plan in run.events("plan")] == [0, 3]
    timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
    rows = [
        [{k: v for k, v in row.items() if k not in timed} for row in one.history]
        for one in (undisturbed, fit)
    ]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0] if "eval_loss" in row] == [3, 6]


@pytest.mark.parametrize("steps", [2, 4])
def test_a_training_that_had_ended_inside_of_an_epoch_takes_no_step_more(tmp_path: Path, steps: int) -> None:
    """Transformers 5.23 takes one from the checkpoint of the last step: 3 batches a pass, the last step amid one."""
    whole, before, _ = train(tmp_path, Squares(), max_steps=steps, save_steps=1)
    again, after, _ = train(tmp_path, Squares(), max_steps=steps, save_steps=1)
    assert before.steps == after.steps == steps
    assert torch.equal(whole, again)


class Momentum(Squares):
    """With an optimizer of its own."""

    def optimizer(self, model: nn.Module, args: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=args.learning_rate, momentum=0.9)


def test_the_optimizer_of_a_task_moves_the_weights(tmp_path: Path) -> None:
    """And not that of the options."""
    found, *_ = train(
        tmp_path / "own", Momentum(), count=8, epochs=1.0, schedule="constant", warmup_ratio=0.0
    )
    other, *_ = train(
        tmp_path / "usual", Squares(), count=8, epochs=1.0, schedule="constant", warmup_ratio=0.0
    )
    assert not torch.allclose(found, other)


def test_the_plan_is_told_and_metrics_are_means_over_the_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, fit, run = train(tmp_path, Squares(), held_out=5, quiet=False, logging_steps=3, epochs=1.0)
    told = capsys.readouterr().err
    assert "squared error" in told
    assert "20 to train, 5 held out" in told
    assert "Tokens" not in told
    (plan,) = run.events("plan")
    assert (plan["steps"], plan["batch_size"], plan["responses"]) == (3, 8, 0)
    assert {"loss", "size", "step"} <= fit.history[0].keys()
    assert [row["step"] for row in fit.history if "eval_size" in row] == [3]


def test_a_loss_that_is_no_number_names_the_examples(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"after step 2, in the batch of the points e\d+, e\d+") as error:
        train(tmp_path, Squares(spoilt=2), batch_size=2)
    assert "look at these points" in str(error.value.hint)
    assert (tmp_path / "checkpoints" / "train" / "checkpoint-2" / "complete").exists()


@pytest.mark.parametrize(("count", "steps"), [(8, 1), (20, 6)])
def test_a_run_of_one_step_learns(tmp_path: Path, count: int, steps: int) -> None:
    """A warm-up of all steps would leave the only one at the rate 0."""
    start, _, _ = train(tmp_path / "none", Squares(), count=count, epochs=1.0, learning_rate=1e-30)
    weights, fit, _ = train(
        tmp_path / "one", Squares(), count=count, epochs=1.0 if steps == 1 else 2.0, warmup_ratio=0.1
    )
    assert fit.steps == steps
    assert not torch.allclose(weights, start, atol=1e-4)

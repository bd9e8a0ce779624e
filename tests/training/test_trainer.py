"""The trainer's promises: one normalisation, exact resume, the same step over several processes."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from coalign.training.checkpoints import COMPLETE, last_checkpoint
from coalign.training.objective import Losses, NoConstants, Objective, ScoredBatch
from coalign.training.processes import own_batches
from coalign.training.task import DivergedError
from tests.models.tiny import make_model
from tests.training.helpers import (
    PAIRS,
    PAIRS_FREE,
    TOKENS,
    adapted,
    logged,
    make_examples,
    pair_loss,
    train,
    trainer_of,
)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([one.detach().flatten() for one in model.parameters() if one.requires_grad])


@pytest.mark.parametrize("objective", [PAIRS, PAIRS_FREE, TOKENS], ids=lambda one: one.name)
def test_accumulation_gives_the_same_update(objective: Objective, tmp_path: Path) -> None:
    results = []
    for batch, accumulation in ((8, 1), (1, 8), (2, 4)):
        model = adapted()
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        trainer = train(model, objective, tmp_path, **sizes)
        results.append((weights(model), [row["loss"] for row in logged(trainer)]))
    for changed, losses in results[1:]:
        torch.testing.assert_close(changed, results[0][0], rtol=1e-3, atol=2e-5)
        assert losses == pytest.approx(results[0][1], rel=1e-5)


def test_uneven_last_step_is_normalised_by_its_own_records(tmp_path: Path) -> None:
    """10 records in steps of 8: the second step has 2 records, in micro-batches of 1 or 8 alike."""
    results = []
    for batch, accumulation in ((8, 1), (1, 8)):
        model = adapted()
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        train(model, PAIRS_FREE, tmp_path, 10, max_steps=-1, num_train_epochs=1, **sizes)
        results.append(weights(model))
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=2e-5)


def test_reference_is_the_start_model(tmp_path: Path) -> None:
    first = logged(train(adapted(), PAIRS, tmp_path))[0]
    assert first["loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert first["rewards/margins"] == pytest.approx(0.0, abs=1e-5)


def test_a_reference_model_equals_the_disabled_adapter(tmp_path: Path) -> None:
    one, two = adapted(), adapted()
    train(one, PAIRS, tmp_path)
    train(two, PAIRS, tmp_path, reference=make_model("llama", scale=1.0))
    torch.testing.assert_close(weights(one), weights(two))


def test_full_model_needs_a_reference(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give one, or train an adapter"):
        trainer_of(make_model("llama"), PAIRS, tmp_path)


def test_resume_is_exact(tmp_path: Path) -> None:
    """Dropout, schedule and data order go on as if nothing had happened."""
    whole = adapted(dropout=0.2)
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "linear"}
    train(whole, PAIRS, tmp_path / "a", **options)
    again = adapted(dropout=0.2)
    for path in (tmp_path / "a").glob("checkpoint-6"):
        (path / COMPLETE).unlink()
    checkpoint = last_checkpoint(tmp_path / "a")
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-3"
    trainer = trainer_of(again, PAIRS, tmp_path / "b", **options)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert torch.equal(weights(whole), weights(again))


def test_evaluation_is_normalised_over_all_records(tmp_path: Path) -> None:
    model = adapted()
    examples = make_examples(7, seed=5)
    whole, *singles = (
        trainer_of(model, PAIRS_FREE, tmp_path, eval_examples=some).evaluate()["eval_loss"]
        for some in (examples, *([one] for one in examples))
    )
    assert whole == pytest.approx(sum(singles) / len(singles), rel=1e-5)


def spoilt_after(calls: int, spoil: Callable[[torch.Tensor], torch.Tensor]) -> Objective:
    """The loss on pairs, from then on with something added."""
    made = itertools.count(1)

    def loss(batch: ScoredBatch, constants: NoConstants) -> Losses:
        losses = pair_loss(batch, constants).losses
        return Losses(losses + spoil(losses) if next(made) > calls else losses)

    return Objective("spoilt", data="preference", reference=False, loss=loss)


def test_nan_stops_with_the_records_and_a_checkpoint(tmp_path: Path) -> None:
    objective = spoilt_after(2, lambda losses: losses * float("nan"))
    with pytest.raises(DivergedError, match=r"after step 2, in the batch of records \d+, \d+"):
        train(adapted(), objective, tmp_path)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_an_infinite_gradient_stops_before_the_weights_are_spoilt(tmp_path: Path) -> None:
    """The loss is a number; its derivative is not: 0, with an infinite slope, is added."""
    objective = spoilt_after(4, lambda losses: (losses - losses.detach()).clamp(min=0).sqrt())
    model = adapted()
    with pytest.raises(
        DivergedError, match=r"A gradient is NaN or infinite after step 2, .* records (\d+, ){3}\d+\."
    ):
        train(model, objective, tmp_path, gradient_accumulation_steps=2, per_device_train_batch_size=2)
    assert bool(weights(model).isfinite().all())
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


_WORKER = """
import json, sys, torch
from pathlib import Path
from coalign.training.processes import end_processes
from tests.training.helpers import TOKENS, adapted, logged, make_examples, train
from tests.training.test_trainer import weights
torch.set_num_threads(1)
model = adapted()
trainer = train(
    model, TOKENS, Path(sys.argv[1]), per_device_train_batch_size=int(sys.argv[2]), per_device_eval_batch_size=3
)
held_out = [trainer.evaluate(make_examples(count, seed=1)) for count in (7, 1)]
if trainer.is_world_process_zero():
    losses = [row["loss"] for row in logged(trainer)]
    result = {"losses": losses, "weights": weights(model).tolist(), "held_out": held_out}
    Path(sys.argv[1], "result.json").write_text(json.dumps(result))
end_processes()
"""


def _launch(folder: Path, processes: int, batch: int) -> dict:
    folder.mkdir()
    script = folder / "worker.py"
    script.write_text(_WORKER)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--mixed_precision", "no"]
    launcher += ["--num_processes", str(processes), "--num_machines", "1", "--dynamo_backend", "no"]
    # the launcher's name for "several processes"; the environment below keeps them on the CPU
    if processes > 1:
        launcher += ["--multi_gpu", "--main_process_port", "0"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([os.getcwd(), os.path.join(os.getcwd(), "src")]),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    result = subprocess.run(
        [*launcher, str(script), str(folder), str(batch)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_processes_share_records_without_repeats(count: int, processes: int) -> None:
    shares = [
        list(own_batches(range(count), 3, list, process=process, processes=processes))
        for process in range(processes)
    ]
    assert len({len(batches) for batches in shares}) == 1, "every process makes as many passes"
    assert sorted(one for share in shares for batch, counts in share if counts for one in batch) == [
        *range(count)
    ]


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """`accelerate launch` with two gloo processes: the same losses and weights as one process."""
    one = _launch(tmp_path / "one", 1, 4)
    two = _launch(tmp_path / "two", 2, 2)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    # Seven records in batches of three: two for one process, one and one that does not count for the other; of a
    # single record the other process has nothing.
    for shared, alone in zip(two["held_out"], one["held_out"], strict=True):
        assert shared == pytest.approx(alone, rel=1e-4)
    torch.testing.assert_close(
        torch.tensor(two["weights"]), torch.tensor(one["weights"]), rtol=1e-3, atol=2e-5
    )

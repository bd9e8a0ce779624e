"""What is logged of every objective, and checkpoints that are silent."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from coalign.models.scoring.engine import score_responses
from tests.models.tiny import make_model
from tests.training.helpers import PAIRS, PAIRS_FREE, adapted, logged, make_examples, train, trainer_of


def test_log_ratio_to_the_reference(tmp_path: Path) -> None:
    model, examples = adapted(), make_examples(4)
    trainer = trainer_of(
        model, PAIRS, tmp_path, examples, eval_examples=examples, per_device_eval_batch_size=2
    )
    before = trainer.evaluate()
    assert before["eval_kl/policy_reference"] == pytest.approx(0.0, abs=1e-5)
    trainer.train()
    after = trainer.evaluate()
    responses = next(iter(trainer.get_eval_dataloader()))["batch"].responses
    assert len(responses.response_ids) < 8, "several batches are averaged"
    total = 0.0
    with torch.no_grad():
        for inputs in trainer.get_eval_dataloader():
            policy = score_responses(model, inputs["batch"].responses).sums()
            with model.disable_adapter():  # type: ignore[operator]
                reference = score_responses(model, inputs["batch"].responses).sums()
            total += float((policy - reference).sum())
    assert after["eval_kl/policy_reference"] == pytest.approx(total / 8, rel=1e-4)
    lengths = [len(ids) for one in examples for ids in one.contexts[0].response_ids]
    assert after["eval_length/response"] == pytest.approx(sum(lengths) / 8)


def test_no_log_ratio_without_a_reference(tmp_path: Path) -> None:
    (row,) = logged(train(adapted(), PAIRS_FREE, tmp_path, 4, max_steps=1))
    assert "kl/policy_reference" not in row
    assert row["length/response"] > 0


@pytest.mark.parametrize("adapter", [True, False])
def test_checkpoints_are_silent_and_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], adapter: bool
) -> None:
    model = adapted() if adapter else make_model("llama", scale=1.0)
    trainer = trainer_of(model, PAIRS_FREE, tmp_path, 4, max_steps=1, save_strategy="steps", save_steps=1)
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", FutureWarning)
        trainer.train()
    names = {path.name for path in (tmp_path / "checkpoint-1").iterdir()}
    assert {"training_args.bin", "optimizer.pt", "trainer_state.json"} <= names
    assert ("adapter_model.safetensors" if adapter else "model.safetensors") in names
    captured = capfd.readouterr()
    assert "Writing" not in captured.err
    assert "fetch" not in captured.err

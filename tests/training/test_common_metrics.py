"""What is logged of every objective, and checkpoints that are silent."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coalign.models.scoring.engine import score_responses
from coalign.training.batches import Example
from coalign.training.objective import Objective
from tests.models.tiny import make_model
from tests.training.helpers import (
    PAIRS,
    PAIRS_FREE,
    TOKENS,
    adapted,
    logged,
    make_examples,
    train,
    trainer_of,
)


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


def test_checkpoints_soon_after_each_other_raise_no_alarm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Transformers warns of file systems without times where checkpoints come within a second."""
    caplog.set_level("WARNING")
    logger = logging.getLogger("transformers")
    before, logger.propagate = logger.propagate, True
    try:
        trainer = trainer_of(
            make_model("llama", scale=1.0), PAIRS_FREE, tmp_path, 4,
            max_steps=4, save_strategy="steps", save_steps=1, save_total_limit=2,
        )  # fmt: skip
        trainer.train()
    finally:
        logger.propagate = before
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}
    assert [one.getMessage() for one in caplog.records if "mtime" in one.getMessage()] == []


def untrained(example: Example) -> Example:
    """Without a token that counts."""
    (context,) = example.contexts
    masks = [[False] * len(ids) for ids in context.response_ids]
    return replace(example, contexts=(replace(context, trained=masks),))


@pytest.mark.parametrize("objective", [PAIRS_FREE, TOKENS, replace(TOKENS, normalise="sequences")])
def test_the_loss_of_every_source_is_that_of_its_records_alone(tmp_path: Path, objective: Objective) -> None:
    parts = {tag: [replace(one, tag=tag) for one in make_examples(5, seed)] for seed, tag in enumerate("ab")}
    parts["a"][2] = untrained(parts["a"][2])
    model = adapted()

    def evaluated(*examples: Example) -> dict[str, float]:
        return trainer_of(model, objective, tmp_path, 2, eval_examples=list(examples)).evaluate()

    mixed = evaluated(*(one for both in zip(*parts.values(), strict=True) for one in both))
    for tag, examples in parts.items():
        alone = evaluated(*(replace(one, tag="") for one in examples))
        assert mixed[f"eval_loss/{tag}"] == pytest.approx(alone["eval_loss"], rel=1e-5)
        assert not [name for name in alone if "loss/" in name]

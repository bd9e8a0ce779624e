"""A tiny training set-up: records, tokenizer-free examples and objectives to test the trainer with."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import TrainingArguments

from coalign.data.encoding import EncodedRecord
from coalign.training.batches import Example
from coalign.training.objective import Losses, NoConstants, Objective, ScoredBatch
from coalign.training.trainer import AlignmentTrainer
from tests.models.tiny import make_model


def make_examples(count: int, seed: int = 0) -> list[Example]:
    """Pairs with prompts and responses of varied length."""
    draw = random.Random(seed)

    def ids(low: int, high: int) -> list[int]:
        return [draw.randint(3, 96) for _ in range(draw.randint(low, high))]

    return [
        Example((EncodedRecord(n, ids(1, 9), [ids(1, 7), ids(1, 7)], None, [1.0, 0.0], False),), str(n), {})
        for n in range(count)
    ]


def pair_loss(batch: ScoredBatch, constants: NoConstants) -> Losses:
    """A logistic loss on log-ratios (or log-probabilities without a reference)."""
    scores = batch.policy.sums()
    if batch.reference is not None:
        scores = scores - batch.reference.sums()
    chosen, rejected = batch.pairs()
    margin: Tensor = scores[chosen] - scores[rejected]
    losses = -torch.nn.functional.logsigmoid(0.1 * margin)
    return Losses(losses, {"rewards/margins": margin.detach()})


def token_loss(batch: ScoredBatch, constants: NoConstants) -> Losses:
    """Negative log-likelihood, summed by record: to be normalised by tokens."""
    sums = torch.zeros(batch.n_records, dtype=batch.policy.token_logps.dtype)
    return Losses(-sums.index_add(0, batch.record_index, batch.policy.sums()))


PAIRS = Objective("test_pairs", data="preference", reference=True, loss=pair_loss)
PAIRS_FREE = Objective("test_pairs_free", data="preference", reference=False, loss=pair_loss)
TOKENS = Objective("test_tokens", data="preference", reference=False, normalise="tokens", loss=token_loss)


def arguments(folder: Path, **changes: object) -> TrainingArguments:
    settings: dict = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "max_steps": 4,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "seed": 0,
        "data_seed": 0,
    }
    return TrainingArguments(**{**settings, **changes})


def adapted(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=dropout)
    return get_peft_model(make_model("llama", scale=1.0), config)  # type: ignore[arg-type]


def trainer_of(
    model: nn.Module, objective: Objective, folder: Path, examples: list[Example] | int = 32, **changes: Any
) -> AlignmentTrainer:
    """A trainer on given examples, or on so many; what it does not take itself are the arguments of the training."""
    own = {name: changes.pop(name) for name in ("eval_examples", "reference") if name in changes}
    data = make_examples(examples) if isinstance(examples, int) else examples
    return AlignmentTrainer(model, objective, NoConstants(), data, arguments(folder, **changes), **own)


def train(*given: Any, **changes: Any) -> AlignmentTrainer:
    trainer = trainer_of(*given, **changes)
    trainer.train()
    return trainer


def logged(trainer: AlignmentTrainer) -> list[dict[str, float]]:
    return [row for row in trainer.state.log_history if "loss" in row]

"""Options that every trained system shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from coalign.core.extras import is_installed, require
from coalign.core.options import (
    Count,
    CountOrZero,
    Fraction,
    NonNegative,
    OptionGroup,
    Positive,
    Seed,
    option,
)

Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio", "swanlab"]
"""Where Transformers can log to; each is a module and an extra of its own."""


Batching = Literal["shuffled", "sorted"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd"]


def assert_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are not installed, before anything is loaded.

    Raises:
        MissingExtraError: one is not.
    """
    for name in names:
        if not is_installed(name):
            require(name, name)


@dataclass(kw_only=True)
class TrainingOptions(OptionGroup):
    """How to train: batches, schedule, checkpoints."""

    __group__ = "Training"

    learning_rate: Positive | None = option(
        None, "peak learning rate; by default 1e-4 for an adapter and 1e-6 for full fine-tuning"
    )
    epochs: Positive = option(1.0, "passes over the training records")
    max_steps: Count | None = option(None, "stop after this many optimizer steps, whatever `epochs` says")
    batch_size: Count = option(8, "records in one forward pass of one process")
    gradient_accumulation: Count = option(1, "forward passes in one optimizer step")
    optimizer: Optimizer = option("adamw", "what moves the weights; those of 8 bits are bitsandbytes'")
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = option(
        "cosine", "learning-rate schedule"
    )
    warmup_ratio: Fraction = option(0.1, "share of the steps with rising learning rate")
    weight_decay: NonNegative = option(0.0, "AdamW weight decay")
    max_grad_norm: Positive = option(1.0, "gradient clipping")
    neftune_noise_alpha: Positive | None = option(
        None, "NEFTune: uniform noise of this / sqrt(tokens x width) on the embeddings that are trained on"
    )
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass to save memory")
    reference_logps: Literal["precomputed", "live"] = option(
        "precomputed", "reference log-probabilities: computed once and kept on disk, or in every step"
    )
    max_length: Count | None = option(2048, "most tokens of prompt and response together")
    max_prompt_length: Count | None = option(
        None, "most tokens of the prompt; longer ones lose their beginning"
    )
    eval_fraction: Fraction = option(0.0, "share of the prompts held out for evaluation")
    eval_steps: Count | None = option(None, "evaluate every so many steps; by default once an epoch")
    logging_steps: Count = option(1, "log every so many steps")
    save_steps: CountOrZero = option(50, "write a checkpoint every so many steps; 0 writes none")
    report_to: list[Tracker] = option([], "also log to these trackers")
    seed: Seed = option(0, "seed of everything random")

    def __post_init__(self) -> None:
        super().__post_init__()
        assert_trackers(self.report_to)


@dataclass(kw_only=True)
class ModuleTrainingOptions(OptionGroup):
    """How to train a module that is no language model. Rate, passes, batches and seed are each system's own."""

    __group__ = "Training"

    max_steps: Count | None = option(None, "stop after this many optimizer steps, whatever `epochs` says")
    gradient_accumulation: Count = option(1, "forward passes in one optimizer step")
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = option(
        "cosine", "learning-rate schedule"
    )
    max_grad_norm: Positive = option(1.0, "gradient clipping")
    save_steps: CountOrZero = option(500, "write a checkpoint every so many steps; 0 writes none")
    report_to: list[Tracker] = option([], "also log to these trackers")

    gradient_checkpointing: ClassVar = False
    eval_steps: ClassVar = None
    logging_steps: ClassVar = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        assert_trackers(self.report_to)

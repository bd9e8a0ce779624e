"""The heads of an alignment function, and the options of its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coalign.core.options import Count, CountOrZero, Fraction, NonNegative, Positive, Seed, option

Head = Literal["nli", "bin", "reg"]
"""What an alignment model says of a pair: three classes, two, or a number."""


@dataclass(kw_only=True)
class EncoderTraining:
    """How an encoder is trained."""

    __group__ = "Training"

    learning_rate: Positive = option(1e-5, "peak learning rate", source="official code")
    epochs: Positive = option(3.0, "passes over the training records", source="official code")
    max_steps: Count | None = option(None, "stop after this many optimizer steps, whatever `epochs` says")
    batch_size: Count = option(32, "pairs in one forward pass of one process", source="official code")
    gradient_accumulation: Count = option(1, "forward passes in one optimizer step")
    schedule: str = option("linear", "learning-rate schedule of Transformers", source="official code")
    warmup_ratio: Fraction = option(
        0.06, "share of the steps with rising learning rate", source="official code"
    )
    weight_decay: NonNegative = option(0.1, "AdamW weight decay", source="official code")
    adam_epsilon: Positive = option(1e-6, "AdamW epsilon", source="official code")
    max_grad_norm: Positive = option(1.0, "gradient clipping")
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass to save memory")
    max_length: Count = option(512, "most tokens of a pair", source="official code")
    mlm: bool = option(
        False, "also predict masked tokens, with weight 0.5", source="official code: off; on in the paper"
    )
    augmentation: Fraction = option(
        0.05, "chance of a pair of a text with itself, and of swapped texts", source="official code"
    )
    held_out: Fraction = option(0.05, "share of the records held out", source="official code")
    eval_steps: Count | None = option(None, "evaluate every so many steps; by default once an epoch")
    logging_steps: Count = option(10, "log every so many steps")
    save_steps: CountOrZero = option(500, "write a checkpoint every so many steps; 0 writes none")
    report_to: list[str] = option([], "also log to tensorboard or wandb")
    seed: Seed = option(2022, "seed of everything random", source="official code")

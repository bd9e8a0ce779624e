"""Options of a training of prompts and adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from coalign.core.options import Count, CountOrZero, NonNegative, OptionGroup, Positive, option

Criterion = Literal["cosine", "mse"]
"""How the distance of features is measured."""
Protocol = Literal["base-to-novel", "all"]
"""Which classes are trained on."""


@dataclass(kw_only=True)
class TuningOptions(OptionGroup):
    """How prompts and adapters are trained."""

    __group__ = "Training"

    learning_rate: Positive = option(0.0035, "of SGD", source="released configuration; the paper says 0.035")
    epochs: Positive = option(8.0, "passes over the shots", source="released configuration")
    max_steps: Count | None = option(None, "stop after this many optimizer steps, whatever `epochs` says")
    batch_size: Count = option(4, "shots in one forward pass", source="released configuration")
    gradient_accumulation: Count = option(1, "forward passes in one optimizer step")
    optimizer: Literal["sgd", "adamw"] = option(
        "sgd", "what moves the weights", source="released configuration"
    )
    momentum: NonNegative = option(
        0.9, "of SGD", source="Dassl's default, from memory", only_with={"optimizer": "sgd"}
    )
    weight_decay: NonNegative = option(
        5e-4, "of all weights but biases", source="Dassl's default, from memory"
    )
    schedule: Literal["epochs", "cosine", "linear", "constant"] = option(
        "epochs",
        "epochs: the rate of a cosine, set once an epoch, after a first epoch at `warmup_rate`; the others step by step",
        source="released configuration",
    )
    warmup_rate: Positive = option(
        1e-5, "rate of the first epoch", source="released configuration", only_with={"schedule": "epochs"}
    )
    max_grad_norm: Positive = option(
        1e9, "gradient clipping; the default clips nothing", source="released code"
    )
    save_steps: CountOrZero = option(200, "write a checkpoint every so many steps; 0 writes none")

    warmup_ratio: ClassVar = 0.0
    gradient_checkpointing: ClassVar = False
    eval_steps: ClassVar = None
    logging_steps: ClassVar = 10
    report_to: ClassVar = ()

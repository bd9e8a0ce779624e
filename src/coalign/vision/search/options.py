"""Options of the two trainings of a search by description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from coalign.core.options import (
    Count,
    CountOrZero,
    Fraction,
    NonNegative,
    OptionGroup,
    Positive,
    option,
)


@dataclass(kw_only=True)
class PretrainingOptions(OptionGroup):
    """How the towers are trained on pseudo-texts."""

    __group__ = "Pretraining"

    learning_rate: Positive = option(1e-5, "peak learning rate", source="official code")
    epochs: Positive = option(15.0, "passes over the pictures", source="official code")
    max_steps: Count | None = option(None, "stop after this many optimizer steps, whatever `epochs` says")
    batch_size: Count = option(
        64, "pictures in one forward pass of one process", source="official code: 64 a card"
    )
    gradient_accumulation: Count = option(
        1, "forward passes in one optimizer step; pairs are contrasted within each"
    )
    weight_decay: NonNegative = option(0.01, "AdamW weight decay", source="official code")
    warmup_ratio: Fraction = option(
        0.1, "share of the steps with rising learning rate", source="official code"
    )
    schedule: Literal["linear", "cosine", "constant"] = option(
        "linear", "learning-rate schedule", source="official code"
    )
    max_grad_norm: Positive = option(1.0, "gradient clipping")
    save_steps: CountOrZero = option(500, "write a checkpoint every so many steps; 0 writes none")
    temperature: Positive = option(
        1.0, "of the contrastive loss; 0.07 learns faster from small data", source="official code: none"
    )
    word_weight: NonNegative = option(1.0, "of predicting masked words; 0 leaves it out", source="paper")
    word_share: Fraction = option(
        0.15, "chance of a word to be masked", source="official code", only_with="word_weight"
    )
    equal_captions: Literal["negatives", "positives"] = option(
        "negatives",
        "equal pseudo-texts of a batch: against each other, as released, or as each other's pairs",
    )
    flip: bool = option(True, "mirror pictures by lot, unless a text names a side", source="official code")

    gradient_checkpointing: ClassVar = False
    eval_steps: ClassVar = None
    logging_steps: ClassVar = 10
    report_to: ClassVar = ()


@dataclass(kw_only=True)
class FineTuningOptions(OptionGroup):
    """How the towers are trained on captions that people wrote."""

    __group__ = "Fine-tuning"

    margin: NonNegative = option(
        0.2, "of the ranking loss (alpha)", source="not confirmed", only_with="captions"
    )
    identity_weight: NonNegative = option(1.0, "of the identity loss", source="paper", only_with="captions")
    part_weight: NonNegative = option(
        0.5, "of both losses on the parts (gamma)", source="not confirmed", only_with="parts"
    )
    tune_rate: Positive = option(1e-5, "peak learning rate", source="pretraining's", only_with="captions")
    tune_epochs: Positive = option(60.0, "passes over the captioned pictures", only_with="captions")
    tune_steps: Count | None = option(
        None, "stop after this many steps, whatever `tune_epochs` says", only_with="captions"
    )
    tune_batch_size: Count = option(64, "pictures in a step", source="paper", only_with="captions")

    def tuning(self, config: Any) -> Any:
        """The options that `fit_module` reads, for the fine-tuning."""
        import copy

        made = copy.copy(config)
        made.learning_rate, made.epochs, made.max_steps = self.tune_rate, self.tune_epochs, self.tune_steps
        made.batch_size, made.gradient_accumulation = self.tune_batch_size, 1
        return made

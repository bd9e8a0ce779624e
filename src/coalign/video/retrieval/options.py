"""Options of text and clip retrieval: which encoder, how clips are sampled, how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

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


@dataclass(kw_only=True)
class ClipOptions(OptionGroup):
    """How clips and texts are read."""

    __group__ = "Clips"

    frames: Count = option(12, "most frames of a clip (long clips: 64)", source="train_*.sh")
    fps: Positive = option(1.0, "frames a second that the frames are spread over", source="train_*.sh")
    words: Count = option(32, "most tokens of a text (long captions: 64)", source="train_*.sh")
    device: str = option("auto", "cpu, cuda, cuda:<n> or mps; auto: the first accelerator, else cpu")
    encode_batch: Count = option(16, "clips or texts that are encoded at once for the index")


@dataclass(kw_only=True)
class ClipTraining(OptionGroup):
    """How encoder and head are trained."""

    __group__ = "Training"

    learning_rate: Positive = option(1e-4, "peak learning rate of the new modules", source="train_*.sh")
    encoder_rate: Positive = option(
        1e-3, "learning rate of the encoder as a share of that of the new modules", source="train_*.sh"
    )
    epochs: Positive = option(5.0, "passes over the captions", source="train_*.sh")
    max_steps: Count | None = option(None, "stop after this many optimizer steps, whatever `epochs` says")
    batch_size: Count = option(128, "pairs that are contrasted with each other", source="train_*.sh")
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = option(
        "cosine", "learning-rate schedule", source="official code"
    )
    warmup_ratio: Fraction = option(
        0.1, "share of the steps with rising learning rate", source="official code"
    )
    weight_decay: NonNegative = option(
        0.2, "decoupled weight decay, of weights and not of norms and biases", source="official code"
    )
    max_grad_norm: Positive = option(1.0, "gradient clipping", source="official code")
    workers: CountOrZero = option(0, "processes that decode clips ahead; 0: the training's own")
    gradient_checkpointing: bool = option(False, "recompute the encoder in the backward pass to save memory")
    eval_fraction: Fraction = option(0.1, "share of the clips held out, where no eval_data is given")
    save_steps: CountOrZero = option(200, "write a checkpoint every so many steps; 0 writes none")
    seed: Seed = option(0, "seed of everything random")

    gradient_accumulation: ClassVar = 1
    eval_steps: ClassVar = None
    logging_steps: ClassVar = 10
    report_to: ClassVar = ()

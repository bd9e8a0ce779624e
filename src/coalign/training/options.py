"""Options that every trained system shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
Optimizer = Literal[
    "adamw",
    "adafactor",
    "adagrad",
    "rmsprop",
    "sgd",
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "lion_32bit",
    "lion_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
    "ademamix",
    "ademamix_8bit",
    "paged_ademamix_32bit",
    "paged_ademamix_8bit",
    "rmsprop_bnb_8bit",
    "adamw_torch_8bit",
    "adamw_torch_4bit",
]
"""Transformers' names, but `adamw` for its default and `adamw_8bit` for `adamw_bnb_8bit`."""
_OWN_LOOP = "it takes over the backward pass, which a step over several forward passes has no place for"
_OWN_RATES = "it keeps averages of its own in place of a schedule, and weights that differ between training and evaluation"
_PROJECTED = "it needs to be told which modules it projects; an adapter of low rank is the option here"
_OF_ONE_LIBRARY = "its library is not among the extras"
REFUSED_OPTIMIZERS = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf"), "it is adamw here"),
    "adamw_bnb_8bit": "it is adamw_8bit here",
    **dict.fromkeys(("lomo", "adalomo"), _OWN_LOOP),
    **dict.fromkeys(("schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"), _OWN_RATES),
    **dict.fromkeys(
        (
            *(
                f"galore_{one}{end}"
                for one in ("adamw", "adamw_8bit", "adafactor")
                for end in ("", "_layerwise")
            ),
            *("apollo_adamw", "apollo_adamw_layerwise"),
        ),
        _PROJECTED,
    ),
    **dict.fromkeys(("grokadamw", "stable_adamw", "adamw_anyprecision"), _OF_ONE_LIBRARY),
}
"""Optimizers of Transformers that are not offered under this name, and why."""
WHAT_MOVES = "what moves the weights; those of 8 bits, lion, ademamix and paged ones are bitsandbytes', adamw_torch_… torchao's"
QUICKER_B = "LoRA+: LoRA's matrices B move at this many times the rate (the paper: about 16, with half the usual rate)"

Schedule = Literal[
    "linear",
    "cosine",
    "constant",
    "constant_with_warmup",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
]
_DECAY = {"num_decay_steps", "min_lr_ratio", "num_cycles"}
SCHEDULE_NUMBERS: dict[str, set[str]] = {
    "cosine": {"num_cycles"},
    "cosine_with_restarts": {"num_cycles"},
    "cosine_with_min_lr": {"min_lr", "min_lr_rate", "num_cycles"},
    "polynomial": {"lr_end", "power"},
    "inverse_sqrt": {"timescale"},
    "warmup_stable_decay": _DECAY,
}
"""The numbers that a schedule reads, by Transformers' names."""
_NEEDED = {"cosine_with_min_lr": {"min_lr", "min_lr_rate"}, "warmup_stable_decay": {"num_decay_steps"}}
"""Of which one has to be given."""
NUMBERS_OF_SCHEDULE = (
    "numbers of the schedule by Transformers' names, such as `{min_lr_rate: 0.1}` of cosine_with_min_lr"
)


def assert_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are not installed, before anything is loaded.

    Raises:
        MissingExtraError: one is not.
    """
    for name in names:
        if not is_installed(name):
            require(name, name)


def library_of(optimizer: str) -> tuple[str, str] | None:
    """The module that an optimizer comes from and its extra; None for PyTorch's and Transformers' own."""
    if optimizer in ("adamw_torch_8bit", "adamw_torch_4bit"):
        return "torchao", "torchao"
    if optimizer in ("adamw", "adafactor", "adagrad", "rmsprop", "sgd"):
        return None
    return "bitsandbytes", "quantization"


def assert_steps(options: Any) -> None:
    """Refuse trackers and optimizers that are not installed, numbers that the schedule does not read, and a rate of B without
    a B, before anything is loaded.

    Args:
        options: with `report_to`, `optimizer`, `schedule`, `schedule_options` and `loraplus_lr_ratio`, and perhaps those of a model.

    Raises:
        MissingExtraError: a library is not installed.
        ValueError: options that have no effect beside each other.
    """
    assert_trackers(options.report_to)
    library = library_of(options.optimizer)
    if library and not is_installed(library[0]):
        require(*library)
    schedule, numbers = options.schedule, options.schedule_options
    read = SCHEDULE_NUMBERS.get(schedule, set())
    if unknown := sorted(numbers.keys() - read):
        expected = f"expected some of: {', '.join(sorted(read))}" if read else "which reads none"
        raise ValueError(f"schedule_options: {unknown[0]} is not read by schedule: {schedule}, {expected}")
    needed = _NEEDED.get(schedule)
    if needed and len(needed & numbers.keys()) != 1:
        raise ValueError(
            f"schedule: {schedule} needs schedule_options with one of: {', '.join(sorted(needed))}"
        )
    if options.loraplus_lr_ratio is not None:
        kind, tuning = getattr(options, "adapter_kind", "lora"), getattr(options, "tuning", "auto")
        if kind not in ("lora", "rslora", "dora") or tuning == "full":
            other = "tuning: full" if tuning == "full" else f"adapter_kind: {kind}"
            raise ValueError(
                f"loraplus_lr_ratio has no effect with {other}, which has no matrices B; leave it out"
            )


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
    optimizer: Optimizer = option("adamw", WHAT_MOVES, refused=REFUSED_OPTIMIZERS)
    loraplus_lr_ratio: Positive | None = option(None, QUICKER_B, source="LoRA+, arXiv 2402.12354")
    schedule: Schedule = option("cosine", "learning-rate schedule")
    schedule_options: dict[str, float] = option({}, NUMBERS_OF_SCHEDULE)
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
        assert_steps(self)


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

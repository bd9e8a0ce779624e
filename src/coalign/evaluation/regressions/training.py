"""Training of a compatibility adapter: the new version learns from itself and from the old version."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.errors import DataError, ModelError
from coalign.core.files import write_json
from coalign.core.options import Fraction, Positive, option, required
from coalign.core.runs import Run, is_main_process
from coalign.data.encoding import encode_records
from coalign.data.records import Record
from coalign.data.sources import DataSources, canonical_sources, named
from coalign.models.adapters import active_adapter, disabled_adapter, trainable_summary
from coalign.models.files import loading
from coalign.models.files.places import locate
from coalign.models.files.saving import save_model
from coalign.models.options import ADAPTER, ModelOptions
from coalign.training.distillation import Distillation, Teacher, TokenExample, TokenLoss
from coalign.training.material import ReadingOptions, announce, overlap_note, read_sources, split_and_weigh
from coalign.training.modules import fit_module
from coalign.training.options import TrainingOptions

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

SHIPPED = "shipped"
"""Name of the frozen copy of the new version's adapter beside the one that is trained."""


@dataclass(kw_only=True)
class CompatibilityOptions(ModelOptions, TrainingOptions):
    """Options of a compatibility training; `model` is the new version."""

    __group__ = "Training"

    old: str = required(
        "the old version, whose answers users rely on: a run, a model folder, an adapter or a hub id",
        group="Method",
    )
    train_data: DataSources | None = option(
        None,
        "demonstrations of the task to train the compatibility adapter on; without it, only report",
        group="Method",
    )
    train_on: Literal["all", "completion"] = option(
        "all",
        "tokens that are trained: of prompt and completion, or of the completion alone",
        source="paper, section 3.3",
    )
    epochs: Positive = option(
        10.0,
        "passes over the training records; the best by validation loss is kept",
        source="paper, section 5.2",
    )
    eval_fraction: Fraction = option(
        0.2, "share of the training records that chooses the epoch", source="paper, appendix A.1"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_data is not None:
            self.train_data = canonical_sources(self.train_data, "train_data")
        self.refuse(
            ("eval_steps", "save_steps", "reference_logps"),
            "here: evaluation and checkpoints come once an epoch",
        )


def train_compatible(
    config: CompatibilityOptions, run: Run, loss: TokenLoss, evaluated: Sequence[Record] = ()
) -> None:
    """Train the adapter and save it as the run's model; what was finished before is not done again.

    The epoch with the lowest loss on held-out records is kept; without any, the last.

    Args:
        loss: of the student's logits and those of the old and the new version, in this order.
        evaluated: the test items, of which the run says whether they are trained on.

    Raises:
        DataError: records that cannot be used, or none left to train on.
        ModelError: the versions' tokenizers differ.
    """
    from transformers import set_seed

    done = run.artefacts / "training.json"
    if done.exists() and run.model.exists():
        return
    tokenizer = _shared_tokenizer(config)
    examples, held_out = _examples(config, tokenizer, run, evaluated)
    set_seed(config.seed)  # a new adapter's first weights
    student, new_version = _student(config)
    run.log("model", summary=trainable_summary(student))
    old = loading.load_model(version_options(config, config.old), training=False).requires_grad_(False)
    fitted = fit_module(
        student,
        Distillation(loss, [_fixed(old), new_version]),
        examples,
        config,
        run,
        held_out=held_out,
        save_strategy="epoch",
        load_best_model_at_end=bool(held_out),
        metric_for_best_model="loss",
        greater_is_better=False,
    )
    if is_main_process():
        if SHIPPED in student.peft_config:
            student.delete_adapter(SHIPPED)
        save_model(student, tokenizer, run.model)
        write_json(done, {"steps": fitted.steps, "history": fitted.history, "records": len(examples)})


def version_options(config: CompatibilityOptions, model: str) -> ModelOptions:
    """How to load one of the versions; the revision is the new version's, a chat template is chosen for both."""
    return ModelOptions.of(config, model=model, revision=config.revision if model == config.model else None)


def training_history(run: Run) -> dict[str, Any]:
    """What `train_compatible` did; empty where nothing was trained."""
    path = run.artefacts / "training.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _student(config: CompatibilityOptions) -> tuple[Any, Teacher]:
    """The model to train, and how to ask it for what the new version says."""
    if locate(config.model, config.revision).is_adapter:
        changed = config.changed(ADAPTER)
        if changed or config.tuning == "full":
            raise ModelError(
                f"{changed[0] if changed else 'tuning: full'} has no effect: the adapter of {config.model} is trained further."
            )
        model: Any = loading.load_adapter_twice(config, SHIPPED)
        return model, lambda student, given: _logits(student, given, active_adapter(student, SHIPPED))
    model = loading.load_for_training(dataclasses.replace(config, tuning="lora"))
    return model, lambda student, given: _logits(student, given, disabled_adapter(student))


def _fixed(model: nn.Module) -> Teacher:
    return lambda student, given: _logits(model, given, contextlib.nullcontext())


def _logits(model: nn.Module, given: dict[str, Tensor], context: Any) -> Tensor:
    """Logits [R, T, V] without dropout."""
    training = model.training
    model.eval()
    try:
        with context:
            return model(**given).logits
    finally:
        model.train(training)


def _shared_tokenizer(config: CompatibilityOptions) -> PreTrainedTokenizerBase:
    old, new = loading.load_tokenizer(version_options(config, config.old)), loading.load_tokenizer(config)
    if old.get_vocab() != new.get_vocab() or old.chat_template != new.chat_template:
        what = "vocabularies" if old.get_vocab() != new.get_vocab() else "chat templates"
        raise ModelError(
            f"{config.old} and {config.model} have different {what}, so their tokens cannot be compared.",
            hint="Compatibility training needs versions that share a tokenizer; without --train-data the flips are reported.",
        )
    return new


def _examples(
    config: CompatibilityOptions,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
    evaluated: Sequence[Record],
) -> tuple[list[TokenExample], list[TokenExample]]:
    assert config.train_data is not None
    notes: list[str] = []
    reading = ReadingOptions(kind="demonstration")
    sources = read_sources(reading, config.train_data, "demonstration", notes, seed=config.seed)
    if evaluated:
        notes.append(overlap_note([one for part in sources for one in part.records], evaluated, run))
    announce(notes, run)
    sides = zip(*split_and_weigh(sources, config.eval_fraction, config.seed), strict=True)
    parts = [_encoded([one for part in side for one in part], config, tokenizer, run) for side in sides]
    if not parts[0]:
        raise DataError(
            f"{named(config.train_data)}: no record is left to train on.",
            hint="Raise --max-length, give more records, or lower --eval-fraction.",
        )
    return parts[0], parts[1]


def _encoded(
    records: Sequence[Record], config: CompatibilityOptions, tokenizer: PreTrainedTokenizerBase, run: Run
) -> list[TokenExample]:
    encoded = encode_records(
        records, tokenizer, max_prompt_length=config.max_prompt_length, max_length=config.max_length
    )
    run.log(
        "encoded", records=len(records), dropped=len(encoded.dropped), truncated=encoded.n_truncated_responses
    )
    found = []
    for one in encoded.records:
        for ids in one.response_ids:
            prompt = [config.train_on == "all"] * len(one.prompt_ids)
            found.append(TokenExample([*one.prompt_ids, *ids], [*prompt, *[True] * len(ids)]))
    return [one for one in found if one.targets]

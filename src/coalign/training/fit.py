"""Fit a model to records with an objective: encode, train, checkpoint, continue after a kill."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from coalign.core.errors import DataError, RecordProblem
from coalign.core.files import write_json
from coalign.core.runs import Run, is_main_process
from coalign.data.encoding import Encoded, EncodedRecord, encode_records
from coalign.data.records import Record
from coalign.training.batches import Example
from coalign.training.callbacks import ProgressBar, RunEvents
from coalign.training.objective import Objective
from coalign.training.options import TrainingOptions
from coalign.training.trainer import COMPLETE, AlignmentTrainer, last_checkpoint

ADAPTER_LEARNING_RATE = 1e-4
FULL_LEARNING_RATE = 1e-6


@dataclass(frozen=True)
class FitResult:
    """What training did.

    Attributes:
        steps: optimizer steps in all, those before a resume included.
        history: one row per log line: `step`, `loss`, the objective's metrics, `eval_...`.
        before: the same metrics on the evaluation records before training; empty without them.
        seconds: wall time of this process's part.
        truncated: records of which tokens were cut off.
        dropped: records without a response left, with reasons.
    """

    steps: int
    history: list[dict[str, float]]
    before: dict[str, float]
    seconds: float
    truncated: int
    dropped: int


def fit(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    objective: Objective,
    constants: Any,
    options: TrainingOptions,
    run: Run,
    *,
    name: str = "train",
    eval_records: Sequence[Record] = (),
    reference: nn.Module | None = None,
) -> FitResult:
    """Train `model` in place. Checkpoints lie under `run.checkpoints/name`; the newest whole one is continued.

    Raises:
        DataError: no record is left after encoding.
        DivergedError: the loss became NaN or infinite.
    """
    started = time.monotonic()
    set_seed(options.seed)
    train, encoded = _examples(records, objective, tokenizer, options)
    held_out, _ = _examples(eval_records, objective, tokenizer, options) if eval_records else ([], None)
    if not train:
        raise DataError(
            "No training record is left after encoding.",
            [
                RecordProblem("records", None, "response", str(reason), "at least one token")
                for reason in encoded.dropped[:3]
            ],
        )
    folder = run.checkpoints / name
    bar = ProgressBar("Training")
    trainer = AlignmentTrainer(
        model,
        objective,
        constants,
        train,
        training_arguments(options, folder, model, n_eval=len(held_out)),
        eval_examples=held_out,
        reference=reference,
        processing_class=tokenizer,
        callbacks=[bar, RunEvents(run, name)],
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    checkpoint = _resume_point(folder)
    before = _evaluate_once(trainer, folder / "before.json") if held_out else {}
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        bar.close()
    if held_out and not any(
        row.get("step") == trainer.state.global_step and "eval_loss" in row
        for row in trainer.state.log_history
    ):
        trainer.evaluate()
    history = [
        {key: value for key, value in row.items() if key != "epoch"} for row in trainer.state.log_history
    ]
    return FitResult(
        steps=trainer.state.global_step,
        history=history,
        before=before,
        seconds=time.monotonic() - started,
        truncated=encoded.n_truncated_prompts + encoded.n_truncated_responses,
        dropped=len(encoded.dropped),
    )


def training_arguments(
    options: TrainingOptions, folder: Path, model: nn.Module, *, n_eval: int = 0
) -> TrainingArguments:
    """Hugging Face training arguments for the options."""
    device = next(model.parameters()).device
    has_adapter = hasattr(model, "peft_config")
    evaluate = "no" if not n_eval else ("steps" if options.eval_steps else "epoch")
    return TrainingArguments(
        output_dir=str(folder),
        learning_rate=options.learning_rate or (ADAPTER_LEARNING_RATE if has_adapter else FULL_LEARNING_RATE),
        num_train_epochs=options.epochs,
        max_steps=options.max_steps or -1,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        lr_scheduler_type=options.schedule,
        warmup_steps=options.warmup_ratio,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        gradient_checkpointing=options.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy=evaluate,
        eval_steps=options.eval_steps,
        logging_steps=options.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps" if options.save_steps else "no",
        save_steps=options.save_steps or 1,
        save_total_limit=2,
        report_to=list(options.report_to) or "none",
        seed=options.seed,
        data_seed=options.seed,
        use_cpu=device.type == "cpu",
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def _evaluate_once(trainer: AlignmentTrainer, path: Path) -> dict[str, float]:
    """Evaluation metrics of the start model; kept in a file, because a resumed run has no start model."""
    if not path.exists():
        metrics = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
        trainer.state.log_history.clear()
        if is_main_process():
            write_json(path, {name: value for name, value in metrics.items() if math.isfinite(value)})
        return metrics
    return json.loads(path.read_text(encoding="utf-8"))


def _examples(
    records: Sequence[Record],
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    options: TrainingOptions,
) -> tuple[list[Example], Encoded]:
    contexts = [objective.contexts(one) if objective.contexts else (one,) for one in records]
    flat = [one for group in contexts for one in group]
    owners = [index for index, group in enumerate(contexts) for _ in group]
    encoded = encode_records(
        flat,
        tokenizer,
        max_prompt_length=options.max_prompt_length,
        max_length=options.max_length,
        label="Tokenising",
    )
    prepared = [replace(one, record_index=owners[one.record_index]) for one in encoded.records]
    if objective.prepare:
        prepared = objective.prepare(prepared, options.max_length)
    grouped: dict[int, list[EncodedRecord]] = {}
    for one in prepared:
        grouped.setdefault(one.record_index, []).append(one)
    examples = [
        Example(
            tuple(group),
            records[index].id,
            {name: _column(records[index], name) for name in objective.columns},
        )
        for index, group in grouped.items()
        if len(group) == len(contexts[index])
    ]
    return examples, encoded


def _column(record: Record, name: str) -> list[float]:
    if name not in record.extra:
        source = record.source
        problem = RecordProblem(
            source.file, source.line, name, "is missing", "a number or a list of numbers", source.index
        )
        raise DataError(f"The objective needs the column {name!r}.", [problem])
    value = record.extra[name]
    return [float(one) for one in value] if isinstance(value, list | tuple) else [float(value)]


def _resume_point(folder: Path) -> Path | None:
    """The newest whole checkpoint; half-written ones are removed."""
    for path in folder.glob("checkpoint-*"):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)
    return last_checkpoint(folder)

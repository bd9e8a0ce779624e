"""Fit a model to records with an objective: encode, train, checkpoint, continue after a kill."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from coalign.core.files import write_json
from coalign.core.runs import Run, is_main_process
from coalign.data.records import Record
from coalign.models.adapters import disabled_adapter, has_adapter
from coalign.training.batches import Example
from coalign.training.callbacks import ProgressBar, RunEvents
from coalign.training.checkpoints import resume_point
from coalign.training.examples import Prepared, prepare_examples
from coalign.training.monitor import Monitor, earlier_lengths, plan_signs
from coalign.training.objective import Objective
from coalign.training.options import TrainingOptions
from coalign.training.plan import Estimate, make_plan, show_plan
from coalign.training.reference import with_reference
from coalign.training.trainer import AlignmentTrainer

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
    records: Sequence[Record] | Prepared,
    objective: Objective,
    constants: Any,
    options: TrainingOptions,
    run: Run,
    *,
    name: str = "train",
    eval_records: Sequence[Record] | Prepared = (),
    reference: nn.Module | None = None,
    quiet: bool = False,
) -> FitResult:
    """Train `model` in place. Checkpoints lie under `run.checkpoints/name`; the newest whole one is continued.
    Before the first step the plan is printed; known signs of failure are told while it runs (`coalign.training.monitor`).

    Args:
        records, eval_records: records, or what `prepare_examples` made of them.
        quiet: plan and signs are logged and not printed, for one training of many.

    Raises:
        DataError: no record is left after encoding.
        DivergedError: the loss or a gradient became NaN or infinite.
    """
    started = time.monotonic()
    set_seed(options.seed)
    prepared = _prepared(records, objective, tokenizer, options, "training")
    held_out = _prepared(eval_records, objective, tokenizer, options, "held-out").examples
    folder = run.checkpoints / name
    checkpoint = resume_point(folder)
    arguments = training_arguments(options, folder, model, n_eval=len(held_out))
    _share_pad_token(model, tokenizer)
    monitor = Monitor(run, name, quiet=quiet)
    if is_main_process():
        done = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        plan = make_plan(objective.name, prepared, len(held_out), options, arguments, model, done=done)
        show_plan(plan, run, name, quiet=quiet)
        monitor.tell(plan_signs(plan, [] if quiet else earlier_lengths(run, name)))
    train = prepared.examples
    if objective.reference and options.reference_logps == "precomputed":
        train, held_out = _with_reference([train, held_out], model, reference)
        reference = None
    bar = ProgressBar("Training")
    trainer = AlignmentTrainer(
        model,
        objective,
        constants,
        train,
        arguments,
        eval_examples=held_out,
        reference=reference,
        processing_class=tokenizer,
        callbacks=[bar, RunEvents(run, name), monitor, *([] if quiet else [Estimate(run, name)])],
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
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
        truncated=prepared.truncated_prompts + prepared.truncated_responses,
        dropped=len(prepared.dropped),
    )


def _with_reference(
    parts: Sequence[Sequence[Example]], model: nn.Module, reference: nn.Module | None
) -> list[list[Example]]:
    """The examples with reference log-probabilities; the first process computes, the others read its file."""
    training = model.training
    adapter = (
        disabled_adapter(model) if reference is None and has_adapter(model) else contextlib.nullcontext()
    )
    frozen = (reference if reference is not None else model).eval()
    try:
        with PartialState().main_process_first(), adapter:
            return [with_reference(part, frozen) for part in parts]
    finally:
        model.train(training)


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
        **_checkpointing(options.gradient_checkpointing),
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


def _checkpointing(wanted: bool) -> dict[str, Any]:
    """The arguments for recomputing activations, under the names that the installed Transformers has for them."""
    new = any(one.name == "activation_checkpointing" for one in fields(TrainingArguments))
    name = "activation_checkpointing" if new else "gradient_checkpointing"
    return {name: wanted, f"{name}_kwargs": {"use_reentrant": False}}


def _prepared(
    records: Sequence[Record] | Prepared,
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    options: TrainingOptions,
    what: str,
) -> Prepared:
    if isinstance(records, Prepared):
        return records
    return prepare_examples(records, objective, tokenizer, options, what=what) if records else Prepared([])


def _share_pad_token(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model the pad token that was chosen for its tokenizer, which Transformers would do with a warning."""
    hf_model: Any = model
    if tokenizer.pad_token_id is None:
        return
    hf_model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if getattr(hf_model, "generation_config", None) is not None:
        hf_model.generation_config.pad_token_id = tokenizer.pad_token_id

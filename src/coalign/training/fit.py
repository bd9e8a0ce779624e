"""Fit a model to records with an objective: encode, train, checkpoint, continue after a kill."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase, set_seed

from coalign.core.runs import is_main_process
from coalign.models.adapters import disabled_adapter, has_adapter
from coalign.training.batches import Example
from coalign.training.checkpoints import keep_step, resume_point
from coalign.training.examples import prepare_job
from coalign.training.job import FitResult, Job
from coalign.training.module_trainer import training_arguments
from coalign.training.processes import assert_group
from coalign.training.reference import with_reference
from coalign.training.trainer import AlignmentTrainer
from coalign.training.watch.monitor import Monitor, earlier_lengths, plan_signs
from coalign.training.watch.plan import make_plan, show_plan


def fit(
    job: Job, model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, reference: nn.Module | None = None
) -> FitResult:
    """Train `model` in place. Checkpoints lie under `run.checkpoints/name`; the newest whole one is continued.
    Before the first step the plan is printed; known signs of failure are told while it runs (`coalign.training.watch.monitor`).

    Args:
        reference: what an objective with a reference compares with, where it is not the model that training starts from.

    Raises:
        DataError: no record is left after encoding, or fewer than there are processes.
        ConfigError: a launcher started several processes that do not know of each other.
        DivergedError: the loss or a gradient became NaN or infinite.
    """
    started = time.monotonic()
    objective, options, run, name, quiet = job.objective, job.options, job.run, job.name, job.quiet
    set_seed(options.seed)
    prepared, evaluated = prepare_job(job, tokenizer)
    held_out = evaluated.examples
    folder = run.checkpoints / name
    checkpoint = resume_point(folder)
    arguments = training_arguments(options, folder, model, n_eval=len(held_out))
    assert_group(len(prepared.examples))
    keep_step(arguments, checkpoint)
    _share_pad_token(model, tokenizer)
    monitor = Monitor(run, name, quiet=quiet)
    if is_main_process():
        plan = make_plan(
            objective.name, prepared, len(held_out), options, arguments, model, checkpoint=checkpoint
        )
        show_plan(plan, run, name, quiet=quiet)
        monitor.tell(plan_signs(plan, [] if quiet else earlier_lengths(run, name)))
    train = prepared.examples
    constants = options if job.constants is None else job.constants
    if objective.reference and not objective.compares_live(options, constants):
        train, held_out = _with_reference([train, held_out], model, reference)
        reference = None
    trainer = AlignmentTrainer(
        model,
        objective,
        constants,
        train,
        arguments,
        eval_examples=held_out,
        reference=reference,
        batching=getattr(options, "batching", "shuffled"),
        processing_class=tokenizer,
    )
    trainer.watch(run, name, monitor, quiet=quiet)
    before = trainer.before(folder / "before.json")
    history = trainer.complete(checkpoint)
    before_losses, after_losses = trainer.record_losses()
    return FitResult(
        steps=trainer.state.global_step,
        history=history,
        before=before,
        seconds=time.monotonic() - started,
        truncated=prepared.truncated_prompts + prepared.truncated_responses,
        dropped=len(prepared.dropped),
        before_losses=before_losses,
        after_losses=after_losses,
    )


def _with_reference(
    parts: Sequence[Sequence[Example]], model: nn.Module, reference: nn.Module | None
) -> list[Sequence[Example]]:
    """The examples with reference log-probabilities, which all processes compute together."""
    training = model.training
    adapter = (
        disabled_adapter(model) if reference is None and has_adapter(model) else contextlib.nullcontext()
    )
    frozen = (reference if reference is not None else model).eval()
    try:
        with adapter:
            return [with_reference(part, frozen) for part in parts]
    finally:
        model.train(training)


def _share_pad_token(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model the pad token that was chosen for its tokenizer, which Transformers would do with a warning."""
    hf_model: Any = model
    if tokenizer.pad_token_id is None:
        return
    hf_model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if getattr(hf_model, "generation_config", None) is not None:
        hf_model.generation_config.pad_token_id = tokenizer.pad_token_id

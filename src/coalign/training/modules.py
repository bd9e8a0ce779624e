"""One trainer for any module: what is learnt is a `Task`, and the rest is that of every training.

A task says how examples become a batch and a batch becomes losses. Order, normalisation over the whole optimizer step,
checkpoints, resume, schedule, evaluation, plan, signs of failure and logs come with `fit_module`::

    class Regression(Task):
        name = "squared error"

        def collate(self, examples):
            return {"ids": [one.id for one in examples], "x": ..., "y": ...}

        def loss(self, model, batch, state):
            errors = (model(batch["x"]) - batch["y"]) ** 2
            return Losses(errors, {"error": errors.detach()})

    fit_module(model, Regression(), examples, options, run)
"""

from __future__ import annotations

import time
from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, Any

from coalign.core.runs import Run, is_main_process
from coalign.training.job import FitResult
from coalign.training.task import Task

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerCallback


def fit_module(
    model: nn.Module,
    task: Task,
    examples: Sized,
    options: Any,
    run: Run,
    *,
    name: str = "train",
    held_out: Sized = (),
    processor: Any = None,
    callbacks: Sequence[TrainerCallback] = (),
    quiet: bool = False,
    before: bool = False,
    **arguments: Any,
) -> FitResult:
    """Train `model` in place. Checkpoints lie under `run.checkpoints/name`; the newest whole one is continued.
    Before the first step the plan is printed; known signs of failure are told while it runs (`coalign.training.watch.monitor`).

    Args:
        examples, held_out: to train and to evaluate on; any sequence or map-style data set whose items `task.collate`
            takes. Without held-out examples nothing is evaluated.
        options: `TrainingOptions`, or a class with its options from `learning_rate` to `gradient_checkpointing` and from
            `eval_steps` on.
        name: of this training among those of the run.
        processor: tokenizer or the like that is saved with every checkpoint.
        before: evaluate the start model, too.
        quiet: plan and signs are logged and not printed, for one training of many.
        arguments: of `transformers.TrainingArguments`, in place of what the options give.

    Raises:
        DataError: there are fewer examples than processes.
        ConfigError: a launcher started several processes that do not know of each other, or asks for parts of a model whose best
            evaluation is kept.
        DivergedError: the loss or a gradient became NaN or infinite; a checkpoint of the last good step is written first.
    """
    from transformers import set_seed

    from coalign.training.checkpoints import keep_step, resume_point
    from coalign.training.module_trainer import ModuleTrainer, training_arguments
    from coalign.training.processes import assert_group, assert_whole_models
    from coalign.training.watch.monitor import Monitor
    from coalign.training.watch.plan import module_plan, show_plan

    if arguments.get("load_best_model_at_end"):
        # Transformers waits for ever to read it in parts.
        assert_whole_models("a training that ends with its best evaluation")
    started = time.monotonic()
    set_seed(options.seed)
    folder = run.checkpoints / name
    checkpoint = resume_point(folder)
    settings = training_arguments(options, folder, model, n_eval=len(held_out), **arguments)
    assert_group(len(examples))
    keep_step(settings, checkpoint)
    if is_main_process():
        plan = module_plan(task.name, len(examples), len(held_out), settings, model, checkpoint=checkpoint)
        show_plan(task.planned(plan), run, name, quiet=quiet)
    trainer = ModuleTrainer(
        model,
        task,
        examples,
        settings,
        held_out=held_out,
        processing_class=processor,
        callbacks=list(callbacks),
    )
    trainer.watch(run, name, Monitor(run, name, quiet=quiet), quiet=quiet)
    start = trainer.before(folder / "before.json") if before else {}
    history = trainer.complete(checkpoint)
    before_losses, after_losses = trainer.record_losses() if before else ([], [])
    return FitResult(
        trainer.state.global_step,
        history,
        time.monotonic() - started,
        start,
        before_losses=before_losses,
        after_losses=after_losses,
    )

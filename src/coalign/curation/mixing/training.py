"""A training on a mixture of domains, from records to a saved model and its weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from coalign.core.files import write_json
from coalign.core.runs import Run, is_main_process
from coalign.curation.mixing.domains import DomainOptions, Domains, assert_filled, prepare_texts
from coalign.curation.mixing.report import MEASURED, WEIGHTS, write_measured, write_weights
from coalign.training.job import FitResult
from coalign.training.objective import get_objective
from coalign.training.processes import process_count

if TYPE_CHECKING:
    from coalign.curation.mixing.task import MixtureTask
    from coalign.training.batches import Example

MakeTask = Callable[["Sequence[Example]", "Sequence[Example]", int], "MixtureTask"]
"""(examples of the domains, examples of the target, examples of an optimizer step) to what is learnt."""


def train_mixture(config: DomainOptions, run: Run, domains: Domains, make_task: MakeTask) -> FitResult:
    """Train, save the model and the weights; what was finished before is read, not done again.

    A pass is as many examples as there are, however often each is drawn; `epochs` counts these, and without `eval_steps` the
    held-out records are looked at after each.

    Raises:
        DataError: no record is left after encoding, or none of a domain.
        DivergedError: the loss or a gradient became NaN or infinite.
    """
    from transformers import set_seed

    from coalign.models.adapters import trainable_summary
    from coalign.models.files.loading import load_for_training, load_tokenizer
    from coalign.models.files.saving import save_model
    from coalign.models.limits import assert_fits
    from coalign.training.batches import Prepared
    from coalign.training.examples import texts_of
    from coalign.training.modules import fit_module

    done = run.artefacts / "train.json"
    if done.exists() and run.model.exists():
        return FitResult(**json.loads(done.read_text(encoding="utf-8")))
    tokenizer, objective = load_tokenizer(config), get_objective("sft")
    prepared, target, held_out = (
        prepare_texts(records, objective, tokenizer, config, what) if records else Prepared([])
        for records, what in (
            (domains.records, "training"),
            (domains.target, "target"),
            (domains.held_out, "held-out"),
        )
    )
    assert_filled(domains.names, prepared.examples)
    set_seed(config.seed)  # the adapter's first weights
    model = load_for_training(config)
    assert_fits(model, texts_of([prepared, target, held_out]))
    run.log("model", summary=trainable_summary(model))
    per_step = config.batch_size * config.gradient_accumulation * process_count()
    steps = config.max_steps or max(1, round(config.epochs * len(prepared.examples) / per_step))
    changes: dict[str, Any] = {"num_train_epochs": 1, "max_steps": steps}
    if held_out.examples and not config.eval_steps:
        changes |= {"eval_strategy": "steps", "eval_steps": -(-len(prepared.examples) // per_step)}
    task = make_task(prepared.examples, target.examples, per_step)
    result = fit_module(
        model,
        task,
        range(steps * per_step),
        config,
        run,
        held_out=held_out.examples,
        processor=tokenizer,
        before=True,
        **changes,
    ).finite()
    if is_main_process():
        save_model(model, tokenizer, run.model)
        write_weights(run.artefacts / WEIGHTS, domains, task)
        write_measured(run.artefacts / MEASURED, held_out.examples, result)
        write_json(done, asdict(result))
    return result

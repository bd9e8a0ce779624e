"""Learning from a file of feedback with any objective: check the data, load, train, evaluate, save, report.

`coalign run OBJECTIVE` works for every registered objective through `learner`; a preference system builds its own
`Config` on `ObjectiveOptions` and calls `learn`.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from coalign.core.files import write_json
from coalign.core.own_code import names_code
from coalign.core.runs import Run, is_main_process
from coalign.models.adapters import has_adapter, trainable_summary
from coalign.models.files.loading import load_for_training, load_model, load_tokenizer
from coalign.models.files.saving import save_model
from coalign.models.limits import assert_fits
from coalign.models.options import ModelOptions
from coalign.training.distributed.shared_work import by_all
from coalign.training.job import FitResult, Job
from coalign.training.learning_report import write_learning_report
from coalign.training.material import Material, ObjectiveOptions, announce, read_material
from coalign.training.objective import Objective, get_objective, own_objective
from coalign.training.watch.answers import answer, questions_of

if TYPE_CHECKING:
    from coalign.report.model import AnySection


def learner(name: str) -> SimpleNamespace:
    """`Config` and `run` for the objective `name`, or for one of the user's (`file.py:function`), as a system has them.

    Raises:
        ConfigError: there is no such objective; the known ones are listed.
    """
    objective = own_objective(name) if names_code(name) else get_objective(name.replace("-", "_"))

    config = dataclasses.make_dataclass(
        "Config", [], bases=(objective.constants, ObjectiveOptions), kw_only=True
    )
    config.__doc__ = f"Options of `coalign run {name}`."

    def run(config: Any, run: Run) -> None:
        learn(config, objective, run)

    summary = (objective.loss.__doc__ or "").strip()
    return SimpleNamespace(
        Config=config, run=run, objective=objective, __doc__=f"{summary}\n\n{objective.when}"
    )


def learn(
    config: Any,
    objective: Objective,
    run: Run,
    *,
    material: Material | None = None,
    sections: Sequence[AnySection] = (),
    limitations: Sequence[str] = (),
) -> FitResult:
    """Train the model of `config` with `objective` and write model, card and report into the run folder.

    The data is read, checked and encoded before any weight is loaded. A run whose training was finished is not
    trained again.

    Args:
        config: an instance of a class that has `ObjectiveOptions` and the objective's constants.
        material: records to use in place of those that `config` names (a system that builds its own).
        sections: put into the report after its figures.
        limitations: said in the model card.
    """
    if material is None:
        material = read_material(config, objective.data, run)
    announce(material.notes, run)
    records, held_out = material.training, material.held_out
    job = Job(
        objective=objective,
        options=config,
        run=run,
        records=records,
        held_out=held_out,
        questions=questions_of(held_out, config.show_answers),
    )
    result = train(job, run.model)
    if is_main_process():
        write_learning_report(
            run,
            config,
            objective,
            material,
            result,
            sections=sections,
            limitations=limitations,
        )
    return result


@by_all
def train(job: Job, folder: Path, *, reference_from: ModelOptions | None = None) -> FitResult:
    """Load the model of a job, train it and save it in `folder`; what was finished before is read, not done again.

    Args:
        reference_from: the reference, where it is not the model that training starts from.

    Raises:
        DataError: no record is left after encoding.
        DivergedError: the loss or a gradient became NaN or infinite.
    """
    from transformers import set_seed

    from coalign.training.examples import prepare_job, texts_of
    from coalign.training.fit import fit

    objective, config, run = job.objective, job.options, job.run
    done = run.artefacts / f"{job.name}.json"
    if done.exists() and folder.exists():
        return FitResult(**json.loads(done.read_text(encoding="utf-8")))
    tokenizer = load_tokenizer(config)
    training, held_out = prepare_job(job, tokenizer)
    set_seed(config.seed)  # the adapter's first weights
    model = load_for_training(config)
    assert_fits(model, texts_of([training, held_out]))
    run.log("model", summary=trainable_summary(model))
    reference = None
    if objective.reference and reference_from is not None:
        reference = load_model(reference_from, training=True)
    elif not has_adapter(model) and objective.compares_live(config, job.constants or config):
        reference = copy.deepcopy(model)
    encoded = dataclasses.replace(job, records=training, held_out=held_out)
    answer(job, model, tokenizer, "before")
    result = fit(encoded, model, tokenizer, reference=reference).finite()
    answer(job, model, tokenizer, "after")
    if is_main_process():
        save_model(model, tokenizer, folder)
        write_json(done, dataclasses.asdict(result))
    return result

"""Learning from a model's own solutions to questions: fine-tune, sample, mark by the final answer, train on the groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from coalign.core.errors import DataError
from coalign.core.options import Count, NonNegative, option, options_of
from coalign.core.runs import Run
from coalign.loops.rounds import Round
from coalign.loops.rows import answer_rows
from coalign.models.backends.open import open_generator
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.types import Sampling
from coalign.preference.data.solutions import Marked, Question, mark, questions_of
from coalign.report.model import Comparison
from coalign.report.parts import compared
from coalign.training.distributed.leading import led
from coalign.training.job import Job
from coalign.training.learning import train
from coalign.training.learning_report import write_learning_report
from coalign.training.material import Material, ObjectiveOptions, announce
from coalign.training.objective import Objective, get_objective


@dataclass(kw_only=True)
class SolutionOptions(SamplingOptions, ObjectiveOptions):
    """How solutions to questions are sampled and marked."""

    __group__ = "Method"

    answer_column: str | None = option(
        None,
        "of demonstrations, the column with the final answer; else it is taken from the reference solution",
    )
    vft_epochs: NonNegative = option(
        1.0,
        "of demonstrations, passes of plain fine-tuning before solutions are sampled; 0 for a model that was fine-tuned "
        "already",
    )
    samples: Count = option(6, "of demonstrations, solutions sampled to every question")
    max_new_tokens: Count = option(256, "most tokens of a sampled solution", group="Sampling")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("temperature 0 gives the same solution every time; raise it, or take samples 1")


OF_QUESTIONS = ("answer_column", "vft_epochs", "samples", *(one.name for one in options_of(SamplingOptions)))
"""Options that act on demonstrations alone."""


@led
def learn_own_solutions(config: SolutionOptions, objective: Objective, run: Run, material: Material) -> None:
    """Fine-tune on demonstrations, sample solutions, mark them by their final answers, train on the marked groups and
    report; with held-out questions also the share that is answered rightly before and after.

    A killed run goes on at the first missing solution or checkpoint.

    Args:
        objective: over rankings; its constants are fields of `config`.

    Raises:
        DataError: a question without a final answer, or none to which right and wrong solutions were sampled.
    """
    parts = (material.training, material.held_out)
    questions, held_out = (questions_of(part, config.answer_column) for part in parts)
    announce(material.notes, run)
    stages = Round(run, 1)
    start = _fine_tuned(config, run, material, stages)
    sampling = config.sampling(n=config.samples, seed=config.seed)
    marked = _sampled(stages, "samples", questions, start, sampling)
    if not marked.contrasts:
        raise DataError(
            f"No question has right and wrong solutions: {marked.told()}.",
            hint="Sample more (--samples), or start from a model that is right now and then (--vft-epochs).",
        )
    notes = [f"Training: {marked.told()}"]
    others = Marked()
    if held_out:
        others = _sampled(stages, "held-out", held_out, start, replace(sampling, seed=config.seed + 1))
        notes.append(f"Held out: {others.told()}")
    announce(notes, run)
    groups = Material([*marked.groups], [*others.groups], [*material.notes, *notes])
    job = Job(objective=objective, options=start, run=run, records=groups.training, held_out=groups.held_out)
    result = train(job, run.model)
    final = config.at(run.model)
    greedy = config.sampling(temperature=0.0, seed=config.seed)
    sections = (
        [_right_answers(stages, held_out, {"before": start, "after": final}, greedy)] if held_out else []
    )
    write_learning_report(run, config, objective, groups, result, sections=sections)


def _fine_tuned(config: SolutionOptions, run: Run, material: Material, stages: Round) -> SolutionOptions:
    """Fine-tune on the reference solutions (VFT): the options with the model that the solutions are sampled from."""
    if config.vft_epochs == 0:
        return config
    folder = stages.folder / "vft"
    job = Job(
        objective=get_objective("sft"),
        options=replace(config, epochs=config.vft_epochs),
        run=run,
        records=material.training,
        held_out=material.held_out,
        name="vft",
    )
    train(job, folder)
    return config.at(folder)


def _sampled(
    stages: Round, stage: str, questions: Sequence[Question], model: SolutionOptions, sampling: Sampling
) -> Marked:
    """Solutions of `model`, marked. Their rows lie in the run folder, and a killed run goes on there."""
    path, label = stages.path(stage), "Sampling solutions"
    return mark(questions, answer_rows(path, questions, lambda: open_generator(model), sampling, label=label))


def _right_answers(
    stages: Round, questions: Sequence[Question], models: Mapping[str, SolutionOptions], greedy: Sampling
) -> Comparison:
    """Share of held-out questions that are answered rightly without sampling, before and after alignment."""
    shares = [
        _sampled(stages, f"answers-{side}", questions, model, greedy).accuracy
        for side, model in models.items()
    ]
    note = (
        "Held-out questions, greedy decoding; before: the fine-tuned model that solutions were sampled from."
    )
    row = compared("Right final answers", *shares, n=len(questions))
    return Comparison("Right answers", note=note, scale="row", rows=[row])

"""Studies: many trainings that differ in few things, measured alike, one row each, resumable cell by cell.

A cell is one training: an objective, a start model, a number of pairs, a seed, and settings that differ from the
study's own. Its row is appended to `artefacts/cells.jsonl` once it is trained and measured, and is never made again;
a killed study goes on at the first missing row, and inside a training at its last checkpoint. A training whose loss
diverges is a row too.
"""

from __future__ import annotations

import gc
import random
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from coalign.core.errors import ConfigError, DataError
from coalign.core.files import append_rows, read_rows, write_json
from coalign.core.options import Count, build, option, options_of, to_dict
from coalign.core.progress import duration, progress
from coalign.core.runs import Run
from coalign.data.convert import convert
from coalign.data.multiple_choice import read_questions
from coalign.data.records import Preference, Record
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.files.saving import save_model
from coalign.models.options import ModelOptions
from coalign.preference.studies.examination import Examination, examine, prompts_of, read_prompts
from coalign.training.job import Job
from coalign.training.learning import train
from coalign.training.material import read_material
from coalign.training.objective import Objective, get_objective
from coalign.training.options import TrainingOptions

Settings = Mapping[str, float | int | str | bool]
Rows = list[dict[str, Any]]
START = "start"
"""What the `objective` of a start model's own row says."""


@dataclass(kw_only=True)
class StudyOptions:
    """What a study repeats and measures."""

    __group__ = "Study"

    seeds: Count = option(
        3, "trainings of every cell, each with its own records, order and first adapter weights"
    )
    prompts: str | None = option(
        None,
        "prompts that every model answers; a `constraints` column makes them count; by default the held-out pairs' own",
    )
    answers: Count = option(64, "how many prompts are answered, at most")
    answer_tokens: Count = option(128, "most tokens of an answer")
    questions: str | None = option(
        None, "multiple-choice questions: rows of `question`, `choices` and `answer`"
    )
    keep: Literal["best", "all"] = option(
        "best", "models that are kept: the best one, or all (also in the run)"
    )


@dataclass(kw_only=True)
class CellOptions(ModelOptions, TrainingOptions):
    """What one training reads."""


@dataclass(frozen=True)
class Cell:
    """One training of a study.

    Attributes:
        objective: name of a registered objective.
        start: name of the model that it starts from, which is its reference too.
        size: preference pairs that it learns from.
        seed: of the pairs drawn, their order, and the first weights of an adapter.
        settings: constants of the objective and training options that the study varies.
    """

    objective: str
    start: str
    size: int
    seed: int
    settings: Settings = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Fit for a file name: `dpo-pretrained-1000-beta=0.1-s0`."""
        varied = [f"{name}={value}" for name, value in self.settings.items()]
        return "-".join([self.objective, self.start, str(self.size), *varied, f"s{self.seed}"])


@dataclass(frozen=True)
class Study:
    """What all cells share.

    Attributes:
        config: model, training and study options.
        pairs: to train on; a cell draws its own from them.
        starts: name of a start model to the options that load it.
        exam: what models are measured on.
    """

    config: Any
    pairs: Sequence[Preference]
    starts: Mapping[str, ModelOptions]
    exam: Examination


def read_study(config: Any, run: Run, starts: Mapping[str, ModelOptions]) -> tuple[Study, list[str]]:
    """A study of the pairs that `config` names, and what became of the data.

    Raises:
        DataError: pairs or files to measure on that cannot be used.
    """
    material = read_material(config, "preference", run)
    pairs = [one for one in material.training if isinstance(one, Preference)]
    return Study(config, pairs, starts, read_exam(config, material.held_out)), material.notes


def read_exam(config: Any, held_out: Sequence[Record]) -> Examination:
    """What the models of a study are measured on, from its options and the held-out pairs.

    Raises:
        DataError: no held-out pairs, or files that cannot be read.
    """
    pairs = [one for one in held_out if isinstance(one, Preference)]
    if not pairs:
        raise DataError(
            "A study needs held-out pairs to measure models on.",
            hint="Give --eval-data, or an --eval-fraction above 0.",
        )
    tasks, constraints = prompts_of(pairs, config.answers), {}
    if config.prompts is not None:
        tasks, constraints = read_prompts(config.prompts, config.answers)
    return Examination(
        pairs=pairs,
        tasks=tasks,
        constraints=constraints,
        questions=read_questions(config.questions) if config.questions is not None else (),
        max_new_tokens=config.answer_tokens,
        max_length=config.max_length,
        max_prompt_length=config.max_prompt_length,
    )


def assert_possible(study: Study, cells: Sequence[Cell]) -> None:
    """Refuse a study that would stop on the way.

    Raises:
        ConfigError: more pairs than there are, or settings that an objective or the trainer does not take.
    """
    largest = max((cell.size for cell in cells), default=0)
    if largest > len(study.pairs):
        raise ConfigError(
            f"{largest} pairs are asked for, {len(study.pairs)} are there to train on.",
            hint="Ask for fewer, give more, or hold out fewer (--eval-fraction).",
        )
    for cell in cells:
        constants_of(get_objective(cell.objective), cell.settings, cell.id)
        cell_options(study, cell)


def run_cells(run: Run, study: Study, cells: Sequence[Cell]) -> Rows:
    """Train and measure every cell that has no row yet.

    Returns:
        One row a start model, then one a cell, in order: `id`, `objective`, `start`, `size`, `seed`, `settings`,
        `diverged`, `steps`, `seconds` and the metrics of `examination.MEASURES` (None where not measured).

    Raises:
        ConfigError: see `assert_possible`.
    """
    assert_possible(study, cells)
    path = run.artefacts / "cells.jsonl"
    done = {row["id"]: row for row in read_rows(path, repair=True)}
    starts = [Cell(START, name, 0, 0) for name in dict.fromkeys(cell.start for cell in cells)]
    wanted = [*starts, *cells]
    missing = [cell for cell in wanted if cell.id not in done]
    _tell(cells, done, study)
    with progress(len(wanted), "Study", "cell") as bar:
        bar.advance(len(wanted) - len(missing))
        for number, cell in enumerate(missing):
            bar.note(cell.id)
            row = _start_row(study, cell) if cell.objective == START else _cell_row(run, study, cell)
            append_rows(path, [row])
            done[cell.id] = row
            _tidy(run, study, cell, done.values())
            gc.collect()  # trainers hold reference cycles around their models
            bar.advance()
            if number == len(starts):
                left = row["seconds"] * (len(missing) - number - 1)
                print(f"About {duration(left)} left if all cells take as long.", file=sys.stderr, flush=True)
    return [done[cell.id] for cell in wanted]


def draw(pairs: Sequence[Preference], size: int, seed: int) -> list[Preference]:
    """`size` pairs in a seeded order; a larger draw under the same seed begins with the smaller one."""
    order = list(range(len(pairs)))
    random.Random(seed).shuffle(order)
    return [pairs[index] for index in order[:size]]


def constants_of(objective: Objective, settings: Settings, where: str) -> Any:
    """The objective's constants, those in `settings` changed.

    Raises:
        ConfigError: a value out of range.
    """
    known = {one.name for one in options_of(objective.constants)}
    return build(
        objective.constants, {name: value for name, value in settings.items() if name in known}, where=where
    )


def best_row(rows: Iterable[Mapping[str, Any]], metric: str) -> Mapping[str, Any] | None:
    """The trained cell with the highest value; the first of equals. None where none was measured."""
    measured = [row for row in rows if row["objective"] != START and row.get(metric) is not None]
    return max(measured, key=lambda row: row[metric], default=None)


def save_best(run: Run, study: Study, rows: Rows) -> Mapping[str, Any] | None:
    """Put the best model into `run.model` and return its row; whole where its start model lies in the run."""
    best = best_row(rows, study.exam.main)
    if best is None:
        return None
    folder = _folder(run, best["id"])
    if not run.model.exists():
        if Path(study.starts[best["start"]].model).resolve().is_relative_to(run.path.resolve()):
            model = load_model(ModelOptions.of(study.config, model=str(folder)), training=True)
            save_model(model, load_tokenizer(str(folder)), run.model)
        else:
            run.publish_model(folder)
    write_json(run.artefacts / "best.json", dict(best))
    if study.config.keep == "best":
        shutil.rmtree(folder, ignore_errors=True)
    return best


def _folder(run: Run, cell: str) -> Path:
    return run.artefacts / "cells" / cell / "model"


def cell_options(study: Study, cell: Cell) -> CellOptions:
    """Model and training options of a cell.

    Raises:
        ConfigError: a setting that is not usable.
    """
    start = study.starts[cell.start]
    values = to_dict(CellOptions.of(study.config))
    varied = {name: value for name, value in cell.settings.items() if name in values}
    values |= {"model": start.model, "revision": start.revision, "seed": cell.seed, "eval_fraction": 0.0}
    if not get_objective(cell.objective).reference:
        values["reference_logps"] = "precomputed"
    return build(CellOptions, {**values, **varied}, where=cell.id)


def _tell(cells: Sequence[Cell], done: Mapping[str, Any], study: Study) -> None:
    names = ", ".join(dict.fromkeys(cell.objective for cell in cells))
    have = sum(cell.id in done for cell in cells)
    print(
        f"Study: {len(cells)} trainings of {names}"
        + (f", {have} done before" if have else "")
        + ". Measured on "
        f"{len(study.exam.pairs)} held-out pairs, {len(study.exam.tasks)} answers"
        + (f", {len(study.exam.questions)} questions" if study.exam.questions else "")
        + f"; compared by: {study.exam.main}.",
        file=sys.stderr,
        flush=True,
    )


def _start_row(study: Study, cell: Cell) -> dict[str, Any]:
    started = time.monotonic()
    start = study.starts[cell.start]
    metrics, _ = examine(start, start, study.exam)
    return _row(cell, steps=0, seconds=time.monotonic() - started, metrics=metrics)


def _cell_row(run: Run, study: Study, cell: Cell) -> dict[str, Any]:
    from coalign.training.task import DivergedError

    started = time.monotonic()
    objective = get_objective(cell.objective)
    options = cell_options(study, cell)
    records = convert(draw(study.pairs, cell.size, cell.seed), "preference", objective.data)
    folder = _folder(run, cell.id)
    job = Job(
        objective=objective,
        options=options,
        run=run,
        records=records,
        constants=constants_of(objective, cell.settings, cell.id),
        name=f"cells/{cell.id}/train",
        quiet=True,
    )
    try:
        result = train(job, folder)
    except DivergedError as error:
        run.log("diverged", cell=cell.id, error=error.message)
        return _row(cell, seconds=time.monotonic() - started, diverged=True)
    policy = ModelOptions.of(options).at(folder)
    metrics, _ = examine(policy, study.starts[cell.start], study.exam)
    return _row(cell, steps=result.steps, seconds=time.monotonic() - started, metrics=metrics)


def _row(
    cell: Cell,
    *,
    seconds: float,
    steps: int | None = None,
    diverged: bool = False,
    metrics: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    return {
        "id": cell.id,
        **asdict(cell),
        "diverged": diverged,
        "steps": steps,
        "seconds": round(seconds, 1),
        **{name: None if value is None else round(value, 6) for name, value in (metrics or {}).items()},
    }


def _tidy(run: Run, study: Study, cell: Cell, rows: Iterable[Mapping[str, Any]]) -> None:
    """Remove the checkpoints of a finished cell, and its model unless it is kept."""
    shutil.rmtree(run.checkpoints / "cells" / cell.id, ignore_errors=True)
    if study.config.keep == "all":
        return
    best = best_row(rows, study.exam.main)
    for folder in (run.artefacts / "cells").glob("*/model"):
        if best is None or folder.parent.name != best["id"]:
            shutil.rmtree(folder)

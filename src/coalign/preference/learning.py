"""Learning from a file of feedback with any objective: check the data, load, train, evaluate, save, report.

`coalign run OBJECTIVE` works for every registered objective through `learner`; a preference system builds its own
`Config` on `LearningOptions` and calls `learn`.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from coalign.core.errors import DataError
from coalign.core.options import Fraction, option, required
from coalign.core.runs import Run, is_main_process
from coalign.data.convert import CONVERSIONS, convert
from coalign.data.readers import RecordSet, read_records
from coalign.data.records import Kind, Record
from coalign.data.splits import split_records
from coalign.data.usable import assert_contrast, equal_pairs
from coalign.models.adapters import has_adapter, trainable_summary
from coalign.models.loading import load_for_training, load_tokenizer
from coalign.models.options import ModelOptions
from coalign.models.saving import save_model
from coalign.preference.learning_report import write_learning_report
from coalign.training.examples import prepare_examples
from coalign.training.fit import FitResult, fit
from coalign.training.objective import Objective, all_objectives, get_objective
from coalign.training.options import TrainingOptions


@dataclass(kw_only=True)
class DataOptions:
    """Which records to learn from."""

    __group__ = "Data"

    data: str = required(
        "records to learn from: a file, a hub id, a saved dataset folder or - for standard input"
    )
    eval_data: str | None = option(
        None, "records to evaluate on; else --eval-fraction of the prompts is held out"
    )
    split: str = option("train", "split of a hub dataset")
    limit: int | None = option(None, "read only so many records")
    on_bad_record: Literal["fail", "skip"] = option(
        "fail", "stop at bad records, or write them to rejects.jsonl in the run folder and go on"
    )


@dataclass(kw_only=True)
class LearningOptions(DataOptions, ModelOptions, TrainingOptions):
    """Options of every objective. A subclass adds the constants of one."""

    eval_fraction: Fraction = option(
        0.05, "share of the prompts held out, where --eval-data gives none", group="Data"
    )


@dataclass(frozen=True)
class Material:
    """Records to train and to evaluate on, and how they came about.

    Attributes:
        notes: what was recognised, converted, skipped: one sentence each, for the plan and the report.
    """

    training: list[Record]
    held_out: list[Record]
    notes: list[str]


def load_objectives() -> dict[str, Objective]:
    """Import every module that registers objectives, and return all of them by name."""
    for package in ("coalign.preference", "coalign.selfalign"):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{module.name}")
    return all_objectives()


def learner(name: str) -> SimpleNamespace:
    """`Config` and `run` for the objective `name`, as a system has them.

    Raises:
        ConfigError: there is no such objective; the known ones are listed.
    """
    load_objectives()
    objective = get_objective(name.replace("-", "_"))
    config = dataclasses.make_dataclass(
        "Config",
        [],
        bases=(objective.constants, LearningOptions),
        kw_only=True,
        namespace={"__group__": "Method"},
    )
    summary = (objective.loss.__doc__ or "").strip()
    config.__doc__ = f"Options of `coalign run {name}`."

    def run(config: Any, run: Run) -> None:
        learn(config, objective, run)

    return SimpleNamespace(
        Config=config, run=run, objective=objective, __doc__=f"{summary}\n\n{objective.when}"
    )


def read_material(config: LearningOptions, kind: Kind, run: Run | None = None) -> Material:
    """Read, convert and split the records; nothing but data is touched.

    Raises:
        DataError: bad records under `on_bad_record: fail`, a kind that cannot be converted, nothing to train on, or
            nothing that says what is better (labels of one class, ties throughout).
    """
    found = _read(config, config.data, run)
    notes = [f"{config.data}: {found.recognised}", *_skipped(found)]
    records = convert(found.records, found.kind, kind)
    notes += _converted(found, kind, len(records))
    records = _distinct(records, config, notes)
    if config.eval_data is not None:
        other = _read(config, config.eval_data, run)
        held_out = convert(other.records, other.kind, kind)
        notes += [
            f"{config.eval_data}: {other.recognised}",
            *_skipped(other),
            *_converted(other, kind, len(held_out)),
        ]
        held_out = _distinct(held_out, config, notes)
    else:
        records, held_out = split_records(records, config.eval_fraction, config.seed)
    if not records:
        raise DataError(
            f"{config.data}: no record is left to train on.", hint="`coalign data check` shows why."
        )
    assert_contrast(records, kind, config.data)
    return Material(list(records), list(held_out), notes)


def learn(config: Any, objective: Objective, run: Run, *, material: Material | None = None) -> FitResult:
    """Train the model of `config` with `objective` and write model, card and report into the run folder.

    The data is read, checked and encoded before any weight is loaded.

    Args:
        config: an instance of a class that has `LearningOptions` and the objective's constants.
        material: records to use in place of those that `config` names (a system that builds its own).
    """
    if material is None:
        material = read_material(config, objective.data, run)
    for note in material.notes:
        run.log("data", note=note)
    tokenizer = load_tokenizer(config.model, revision=config.revision)
    training = prepare_examples(material.training, objective, tokenizer, config)
    model = load_for_training(config)
    run.log("model", summary=trainable_summary(model))
    reference = copy.deepcopy(model) if objective.reference and not has_adapter(model) else None
    result = fit(
        model,
        tokenizer,
        training,
        objective,
        config,
        config,
        run,
        eval_records=material.held_out,
        reference=reference,
    )
    if is_main_process():
        save_model(model, tokenizer, run.model)
        write_learning_report(run, config, objective, material, result)
    return result


def _read(config: LearningOptions, source: str, run: Run | None) -> RecordSet:
    rejects: Path | None = None
    if config.on_bad_record == "skip" and run is not None:
        rejects = run.path / "rejects.jsonl"
    return read_records(
        source, split=config.split, on_bad_record=config.on_bad_record, rejects=rejects, limit=config.limit
    )


def _distinct(records: list[Record], config: LearningOptions, notes: list[str]) -> list[Record]:
    """The records without pairs of equal responses; these stop the run, or are skipped and noted."""
    problems = equal_pairs(records)
    if not problems:
        return records
    if config.on_bad_record == "fail":
        raise DataError(
            f"{len(problems)} of {len(records)} pairs hold the same response twice.",
            problems,
            hint="Correct them, or leave them out with --on-bad-record skip.",
        )
    notes.append(f"{len(problems)} pairs of equal responses were skipped; the first: {problems[0]}")
    bad = {(one.source, one.line, one.index) for one in problems}
    return [one for one in records if (one.source.file, one.source.line, one.source.index) not in bad]


def _skipped(found: RecordSet) -> list[str]:
    if not found.problems:
        return []
    return [f"{len(found.problems)} bad records were skipped; the first: {found.problems[0]}"]


def _converted(found: RecordSet, kind: Kind, kept: int) -> list[str]:
    if found.kind == kind:
        return []
    how = CONVERSIONS.get((found.kind, kind), "the prompts alone")
    return [f"{len(found.records)} {found.kind} records were read as {kept} {kind} records: {how}"]

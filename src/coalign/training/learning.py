"""Learning from a file of feedback with any objective: check the data, load, train, evaluate, save, report.

`coalign run OBJECTIVE` works for every registered objective through `learner`; a preference system builds its own
`Config` on `LearningOptions` and calls `learn`.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from transformers import set_seed

from coalign.core.errors import DataError
from coalign.core.files import write_json
from coalign.core.options import Fraction, option, required
from coalign.core.runs import Run, is_main_process
from coalign.data.convert import CONVERSIONS, convert
from coalign.data.readers import RecordSet, read_records
from coalign.data.records import Kind, Record
from coalign.data.splits import split_records
from coalign.data.usable import assert_contrast, equal_responses
from coalign.models.adapters import has_adapter, trainable_summary
from coalign.models.files.loading import load_for_training, load_model, load_tokenizer
from coalign.models.files.saving import save_model
from coalign.models.options import ModelOptions
from coalign.training.examples import Prepared, prepare_examples
from coalign.training.fit import FitResult, fit
from coalign.training.learning_report import write_learning_report
from coalign.training.objective import Objective, get_objective
from coalign.training.options import TrainingOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from coalign.report.model import Section

HELD_OUT = 0.05
"""Share of the prompts that is held out by default."""


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
        "fail",
        "stop at bad records, or write them to rejects.jsonl in the run folder (eval_rejects.jsonl those of --eval-data) and go on",
    )


@dataclass(kw_only=True)
class LearningOptions(DataOptions, ModelOptions, TrainingOptions):
    """Options of every objective. A subclass adds the constants of one.

    Where these constants have a `__post_init__`, the subclass has one that calls both.
    """

    eval_fraction: Fraction = option(
        HELD_OUT, "share of the prompts held out, where --eval-data gives none", group="Data"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eval_data is not None and self.eval_fraction != HELD_OUT:
            raise ValueError("eval_fraction has no effect beside eval_data; leave one of them out")


@dataclass(frozen=True)
class Material:
    """Records to train and to evaluate on, and how they came about.

    Attributes:
        notes: what was recognised, converted, skipped: one sentence each, for the plan and the report.
    """

    training: list[Record]
    held_out: list[Record]
    notes: list[str]


def learner(name: str) -> SimpleNamespace:
    """`Config` and `run` for the objective `name`, as a system has them.

    Raises:
        ConfigError: there is no such objective; the known ones are listed.
    """
    objective = get_objective(name.replace("-", "_"))

    def check(self: Any) -> None:
        if hasattr(objective.constants, "__post_init__"):
            objective.constants.__post_init__(self)
        LearningOptions.__post_init__(self)

    config = dataclasses.make_dataclass(
        "Config",
        [],
        bases=(objective.constants, LearningOptions),
        kw_only=True,
        namespace={"__post_init__": check},
    )
    config.__doc__ = f"Options of `coalign run {name}`."

    def run(config: Any, run: Run) -> None:
        learn(config, objective, run)

    summary = (objective.loss.__doc__ or "").strip()
    return SimpleNamespace(
        Config=config, run=run, objective=objective, __doc__=f"{summary}\n\n{objective.when}"
    )


def read_material(
    config: LearningOptions, kind: Kind, run: Run | None = None, *, also: Collection[Kind] = ()
) -> Material:
    """Read, convert and split the records; nothing but data is touched.

    Args:
        kind: to convert to.
        also: kinds that are taken as they are, and whose contrast is the caller's to check.

    Raises:
        DataError: bad records under `on_bad_record: fail`, a kind that cannot be converted, nothing to train on, or
            nothing that says what is better (labels of one class, ties throughout).
    """
    notes: list[str] = []
    records = _usable(config, config.data, kind, also, run, notes)
    if config.eval_data is not None:
        held_out = _usable(config, config.eval_data, kind, also, run, notes)
    else:
        records, held_out = split_records(records, config.eval_fraction, config.seed)
    return Material(records, held_out, notes)


def learn(
    config: Any,
    objective: Objective,
    run: Run,
    *,
    material: Material | None = None,
    constants: Any = None,
    sections: Sequence[Section] = (),
    limitations: Sequence[str] = (),
) -> FitResult:
    """Train the model of `config` with `objective` and write model, card and report into the run folder.

    The data is read, checked and encoded before any weight is loaded. A run whose training was finished is not
    trained again.

    Args:
        config: an instance of a class that has `LearningOptions` and the objective's constants.
        material: records to use in place of those that `config` names (a system that builds its own).
        constants: of the objective, where `config` does not have them under their own names.
        sections: put into the report after its figures.
        limitations: said in the model card.
    """
    if material is None:
        material = read_material(config, objective.data, run)
    tell(material, run)
    constants = config if constants is None else constants
    result = train(config, objective, run, material, constants=constants, folder=run.model)
    if is_main_process():
        write_learning_report(
            run, config, objective, material, result, sections=sections, limitations=limitations
        )
    return result


def tell(material: Material, run: Run) -> None:
    """Print and log what became of the data."""
    for note in material.notes:
        run.log("data", note=note)
        if is_main_process():
            print(f"Data: {note}", file=sys.stderr, flush=True)


def train(
    config: Any,
    objective: Objective,
    run: Run,
    material: Material,
    *,
    constants: Any,
    folder: Path,
    name: str = "train",
    reference_from: ModelOptions | None = None,
    quiet: bool = False,
) -> FitResult:
    """Train the model of `config` and save it in `folder`; what was finished before is read, not done again.

    Args:
        config: model and training options.
        name: of this training among those of the run.
        reference_from: the reference, where it is not the model that training starts from.
        quiet: nothing but a progress bar is shown, for one training of many.
    """
    done = run.artefacts / f"{name}.json"
    if done.exists() and folder.exists():
        return FitResult(**json.loads(done.read_text(encoding="utf-8")))
    tokenizer = load_tokenizer(
        config.model, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    training = prepare_examples(material.training, objective, tokenizer, config)
    held_out = _prepared_held_out(material, objective, tokenizer, config)
    set_seed(config.seed)  # the adapter's first weights
    model = load_for_training(config)
    run.log("model", summary=trainable_summary(model))
    reference = None
    if objective.reference and reference_from is not None:
        reference = load_model(reference_from, training=True)
    elif objective.reference and not has_adapter(model) and config.reference_logps == "live":
        reference = copy.deepcopy(model)
    result = fit(
        model,
        tokenizer,
        training,
        objective,
        constants,
        config,
        run,
        name=name,
        eval_records=held_out,
        reference=reference,
        quiet=quiet,
    )
    result = dataclasses.replace(
        result, history=[_finite(row) for row in result.history], before=_finite(result.before)
    )
    if is_main_process():
        save_model(model, tokenizer, folder)
        write_json(done, dataclasses.asdict(result))
    return result


def _prepared_held_out(
    material: Material, objective: Objective, tokenizer: PreTrainedTokenizerBase, config: Any
) -> Prepared | tuple[()]:
    if not material.held_out:
        return ()
    try:
        return prepare_examples(material.held_out, objective, tokenizer, config, what="held-out")
    except DataError as error:
        raise DataError(
            f"Held-out records: {error.message}",
            error.problems,
            hint="Hold out more prompts (--eval-fraction), or none (--eval-fraction 0).",
        ) from error


def _finite(row: dict[str, float]) -> dict[str, float]:
    """Without the metrics that nothing was measured for (no thumbs-up in a batch)."""
    return {name: value for name, value in row.items() if math.isfinite(value)}


def _usable(
    config: LearningOptions,
    source: str,
    kind: Kind,
    also: Collection[Kind],
    run: Run | None,
    notes: list[str],
) -> list[Record]:
    """The records of one source that can be learnt from; what happened is added to `notes`."""
    found = _read(config, source, run)
    notes += [f"{source}: {found.recognised}", *_skipped(found)]
    kept: Kind = found.kind if found.kind in also else kind
    distinct = found.records
    if kept not in ("demonstration", "prompt"):
        distinct = _distinct(found.records, config, notes)
    records = convert(distinct, found.kind, kept)
    converted = _converted(found.kind, kept, len(distinct), len(records))
    if not records:
        why = "".join(f" {note}." for note in converted)
        raise DataError(
            f"{source}: no record is left to learn from.{why}",
            hint="`coalign data check` shows what is there.",
        )
    notes += converted
    if found.kind not in also:
        assert_contrast(records, kind, source)
    return records


def _read(config: LearningOptions, source: str, run: Run | None) -> RecordSet:
    rejects: Path | None = None
    if config.on_bad_record == "skip" and run is not None:
        rejects = run.path / ("rejects.jsonl" if source == config.data else "eval_rejects.jsonl")
    return read_records(
        source, split=config.split, on_bad_record=config.on_bad_record, rejects=rejects, limit=config.limit
    )


def _distinct(records: list[Record], config: LearningOptions, notes: list[str]) -> list[Record]:
    """The records that do not set a response against itself; these stop the run, or are skipped and noted."""
    problems = equal_responses(records)
    if not problems:
        return records
    if config.on_bad_record == "fail":
        raise DataError(
            f"{len(problems)} of {len(records)} records set a response against itself.",
            problems,
            hint="Correct them, or leave them out with --on-bad-record skip.",
        )
    notes.append(
        f"{len(problems)} records that set a response against itself were skipped; the first: {problems[0]}"
    )
    bad = {(one.source, one.line, one.index) for one in problems}
    return [one for one in records if (one.source.file, one.source.line, one.source.index) not in bad]


def _skipped(found: RecordSet) -> list[str]:
    if not found.problems:
        return []
    return [f"{len(found.problems)} bad records were skipped; the first: {found.problems[0]}"]


def _converted(found: Kind, kind: Kind, before: int, after: int) -> list[str]:
    if found == kind:
        return []
    how = CONVERSIONS.get((found, kind), "the prompts alone")
    return [f"{before} {found} records were read as {after} {kind} records: {how}"]

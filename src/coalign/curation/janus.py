"""Janus: one model that follows the values which its system message states, also combinations that it never saw.

Aligning to Thousands of Preferences via System Message Generalization (arXiv 2405.17977).

    coalign run janus --data instructions.jsonl --model default --teacher Qwen/Qwen2.5-7B-Instruct --judge-model default
    coalign run janus --data multifaceted.jsonl --collection --policies sft,dpo --reward-model --judge-model prometheus

Values of a hierarchy (dimensions, sub-dimensions, values: `--values`) are combined, one of each dimension. A teacher says
what each means for the instruction, puts them into a system message, and answers under it: three system messages with three
answers an instruction. Policies learn from it: fine-tuning on all rows (`sft`), DPO after fine-tuning on one message an
instruction (`dpo`), ORPO from the start model (`orpo`). In a pair the rejected answer is the one to *another* system message
of the same instruction, so both are good and only the values tell them apart. The reward model learns these pairs and then
general ones (`--helpfulness`); best of n takes the answer that it likes best. Held-out instructions get combinations that no
training row has; a judge rates every value of an answer by itself, or programs do where a value has constraints.

Differences: the shipped hierarchy (4 dimensions, 18 sub-dimensions, 52 values) and the requests to the teacher are ours, as
the authors' 107 values and few-shot examples are not part of the sheet that this follows; learning rates are those of
adapters unless given. Where the official code fails it is not followed: scores outside of 1 to 5 are no scores, a judge that
fails is counted and not averaged, the judge sees the system message, templates are written in one way by training, decoding
and reward model. Templates without a system role get the system text before the first question, as there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from coalign.core.errors import CoalignError, DataError
from coalign.core.files import write_json
from coalign.core.options import Count, Fraction, NonNegative, Positive, option, required
from coalign.core.runs import Run
from coalign.curation.stated_values import rating
from coalign.curation.stated_values.collection import read_collection, split_by_instruction, without_system
from coalign.curation.stated_values.hierarchy import read_hierarchy
from coalign.curation.stated_values.learning import (
    REWARD,
    Lessons,
    PolicyOptions,
    pair_figures,
    policy_folder,
    train_policies,
    train_reward,
)
from coalign.curation.stated_values.report import Results, write_values_report
from coalign.curation.stated_values.writing import WritingOptions, write_collection
from coalign.data.checking.usable import repeated_ids
from coalign.data.splits import split_records
from coalign.judging.verifiers.tasks import prompt_records
from coalign.loops.rounds import Round, Stage, run_rounds
from coalign.models.backends.options import BackendOptions
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.options import ModelOptions
from coalign.training.distributed.leading import led
from coalign.training.material import HELD_OUT
from coalign.training.options import TrainingOptions

if TYPE_CHECKING:
    from coalign.data.records import Record
    from coalign.models.types import Generator

START = "start model"
SIDES = ("training", "held-out")


@dataclass(kw_only=True)
class Config(
    WritingOptions,
    PolicyOptions,
    rating.RatingOptions,
    SamplingOptions,
    BackendOptions,
    ModelOptions,
    TrainingOptions,
):
    """Options of `coalign run janus`; the back end is the teacher's."""

    __group__ = "Data"

    data: str = required(
        "instructions: a file, a hub id or a saved data set folder; their own system messages are left out"
    )
    collection: bool = option(
        False,
        "data has rows with `system`, `prompt` and `output` (maybe `preference_set`) already, several an instruction: the "
        "layout of the Multifaceted Collection",
    )
    values: Path | None = option(
        None, "YAML or JSON file of the hierarchy of values; by default the shipped one"
    )
    limit: Count | None = option(None, "read only so many instructions")
    teacher: str | None = option(
        None,
        "model that writes and answers: hub id or folder; by default the start model",
        group="System messages",
    )
    max_new_tokens: Count = option(
        1024, "most tokens of one response", source="official code", group="Sampling"
    )
    top_p: Fraction = option(0.9, "nucleus of the sampling", source="official code", group="Sampling")
    temperature: NonNegative = option(
        1.0,
        "of teacher and policies; 0 takes the most probable token",
        source="official code",
        group="Sampling",
    )
    eval_fraction: Fraction = option(HELD_OUT, "share of the instructions that is held out", group="Data")
    epochs: Positive = option(
        4.0, "passes over the rows in fine-tuning", source="official code", group="Training"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.collection:
            for one in (WritingOptions, BackendOptions, ["teacher", "values", "limit"]):
                self.refuse(one, "with collection, which is written already")
        if self.chosen_backend == "endpoint":
            self.refuse(["teacher"], "with an endpoint, whose model is the teacher")
        if (
            self.data is not None
            and self.system_messages < 2
            and (self.reward_model or self.policies != ["sft"])
        ):
            raise ValueError(
                "system_messages: 1 gives no pairs, expected at least 2 for dpo, orpo and reward_model"
            )
        if self.eval_fraction == 0 and self.bench is None:
            raise ValueError("eval_fraction: 0 leaves nothing to measure on; give a share above 0, or bench")


@led
def run(config: Config, run: Run) -> None:
    """Write rows, train policies and the reward model, answer and rate held-out items, report.

    Raises:
        DataError: instructions, rows, values or bench items that cannot be used.
        CoalignError: no row is left, or too many ratings are missing.
    """
    bench = rating.read_bench(config.bench) if config.bench is not None else None
    one = run_rounds(run, make_stages(config, bench))[0]
    lessons = _lessons(config, one)
    items = bench or rating.held_out_items(lessons.held_out)
    answers: dict[str, list[str]] = {}
    for row in one.read("evaluate"):
        answers.setdefault(row["policy"], []).append(row["answer"])
    scores: Mapping[str, rating.Scores] = {}
    if config.judge_model is not None:
        scores = rating.judged_scores(run, config, items, answers, config.device)
    elif rating.checkable(items):
        scores = {name: rating.checked_scores(items, texts) for name, texts in answers.items()}
    figures = pair_figures(run, lessons, config.device, rewarded=config.reward_model)
    results = Results(items, answers, scores, figures, START)
    write_json(run.artefacts / "results.json", results.to_dict())
    write_values_report(run, config, one, lessons, results)


def make_stages(config: Config, bench: Sequence[rating.Item] | None) -> dict[str, Stage]:
    """Write the rows, train, answer."""

    def generate(round: Round) -> None:
        hierarchy = read_hierarchy(config.values)
        backend = BackendOptions.of(config)
        teacher = config.at(config.teacher) if config.teacher is not None else config
        name = config.endpoint_model or str(config.endpoint) if config.endpoint else teacher.model
        fold = config.chosen_backend != "endpoint" and not _knows_system(teacher)
        sides = split_records(_instructions(config), config.eval_fraction, config.seed)
        for side, records in zip(SIDES, sides, strict=True):
            made = write_collection(
                round.folder / side, records, hierarchy, config, partial(_opened, teacher, backend),
                config.sampling(seed=config.seed), held_out=side == "held-out", seed=config.seed, name=name, fold=fold,
            )  # fmt: skip
            if records and not made.manifest["kept"]:
                worst = "; ".join(f"{why} ({count})" for why, count in made.reasons().items())
                raise CoalignError(f"No {side} row is left: {worst}.", hint=f"All are in {made.rejects}.")
        round.run.publish_records(round.folder / SIDES[0] / "kept.jsonl")

    def fit(round: Round) -> None:
        lessons = _lessons(config, round)
        results = train_policies(config, round.run, lessons)
        if config.reward_model:
            train_reward(config, round.run, lessons)
        round.run.publish_model(policy_folder(round.run, [*results][-1]))

    def evaluate(round: Round) -> None:
        items = bench or rating.held_out_items(_lessons(config, round).held_out)
        models = {START: config}
        models |= {name: config.at(policy_folder(round.run, name)) for name in config.policies}
        models |= {name: config.at(name) for name in config.compare}
        samples = config.best_of if config.reward_model else 1
        answers: dict[str, list[str]] = {}
        for place, (name, model) in enumerate(models.items()):
            fold = not _knows_system(model)
            rows = rating.answer_items(
                round.path(f"answers-{place}"), items, partial(_opened, model, BackendOptions()),
                config.sampling(n=samples, seed=config.seed + 1), fold=fold, label=f"Answering, {name}",
            )  # fmt: skip
            answers[name] = [row["responses"][0] for row in rows]
            if config.reward_model:
                path, reward = round.path(f"rewards-{place}"), round.run.path / REWARD
                best = rating.best_answers(path, items, rows, reward, config.device, fold=fold)
                answers[f"{name}, best of {samples}"] = best
        round.write(
            "evaluate",
            [
                {"policy": name, "id": item.id, "answer": text}
                for name, texts in answers.items()
                for item, text in zip(items, texts, strict=True)
            ],
        )

    writing = {} if config.collection else {"generate": generate}
    return {**writing, "fit": fit, "evaluate": evaluate}


def _instructions(config: Config) -> list[Record]:
    records = prompt_records(config.data, config.limit)
    bare = [one for one in records if not without_system(one.prompt)[1]]
    problems = [one.problem("prompt", "has no question", "a user's message") for one in bare]
    if problems := [*problems, *repeated_ids(records)]:
        raise DataError(
            f"{config.data}: {len(problems)} of {len(records)} instructions cannot be used.", problems
        )
    return records


def _lessons(config: Config, round: Round) -> Lessons:
    """The rows to learn from and those held out, of the pipeline or of the given file."""
    if config.collection:
        sides = split_by_instruction(read_collection(config.data), config.eval_fraction, config.seed)
    else:
        kept = (round.folder / side / "kept.jsonl" for side in SIDES)
        sides = [read_collection(one) if one.stat().st_size else [] for one in kept]
    return Lessons(*sides, fold=not _knows_system(config), seed=config.seed)


def _knows_system(options: ModelOptions) -> bool:
    from coalign.data.frame import Frame
    from coalign.models.files.loading import load_tokenizer

    return Frame(load_tokenizer(options)).knows_system


def _opened(model: ModelOptions, backend: BackendOptions) -> Generator:
    from coalign.models.backends.open import open_generator

    return open_generator(model, backend)

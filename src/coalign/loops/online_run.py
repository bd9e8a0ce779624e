"""A run of an online method on a file of prompts: data and rewards are checked first, then the model is loaded and trained."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalign.core.errors import DataError, RecordProblem
from coalign.core.files import write_json
from coalign.core.runs import Run, is_main_process
from coalign.data.records import Messages, Record
from coalign.data.sources import Sources
from coalign.judging.protocol import Judge
from coalign.judging.rewards.mix import Draft, RewardMix
from coalign.judging.rewards.specs import build_rewards, innermost, judge_over, parse_reward
from coalign.judging.store import ReplyStore
from coalign.judging.verifiers.constraints import Constraint, ConstraintError
from coalign.judging.verifiers.following import constraints_of
from coalign.judging.verifiers.isolation import IsolatedVerifiers
from coalign.loops.online_options import OnlineOptions
from coalign.loops.rollouts import ScoreRows
from coalign.loops.rows import Row
from coalign.models.backends.open import open_transformers
from coalign.models.types import Generator
from coalign.training.job import FitResult
from coalign.training.online.policy_gradient import OnlineMethod
from coalign.training.processes import assert_whole_models, process_index

if TYPE_CHECKING:
    from coalign.data.encoding import EncodedRecord
    from coalign.training.material import Part


@dataclass(frozen=True)
class Task:
    """A prompt to learn on.

    Attributes:
        number: its place among all prompts, training and held-out ones, by which rewards know it.
    """

    number: int
    id: str
    prompt: Any
    record: Record


def run_online(config: Any, method: OnlineMethod, run: Run) -> FitResult:
    """Read the prompts, build the rewards, train, and write model, card and report.

    Raises:
        DataError: prompts that cannot be used, with their places.
        ConfigError: rewards that cannot be used, or a launcher that shares out the weights of the model.
        CoalignError, DivergedError: see `coalign.loops.reinforcement.reinforce`.
    """
    from transformers import set_seed

    from coalign.loops.online_report import write_online_report
    from coalign.loops.reinforcement import Reinforcement, reinforce
    from coalign.models.adapters import trainable_summary
    from coalign.models.files.loading import load_for_training, load_tokenizer
    from coalign.models.files.saving import save_model

    assert_whole_models("sampling from the policy")
    training, held_out = read_tasks(config, run)
    mix = open_rewards(config, [*training, *held_out], run)
    tokenizer = load_tokenizer(config)
    training, held_out = (as_shown(part, tokenizer) for part in (training, held_out))
    keep = read_kept(config, tokenizer, run)
    done = run.artefacts / "train.json"
    if done.exists() and run.model.exists():
        result = FitResult(**json.loads(done.read_text(encoding="utf-8")))
    else:
        set_seed(config.seed)  # the adapter's first weights
        model = load_for_training(config)
        run.log("model", summary=trainable_summary(model))
        loop = Reinforcement(
            method=method,
            constants=config,
            config=config,
            run=run,
            prompts=training,
            held_out=held_out,
            score=scorer(mix, {one.id: one.number for one in [*training, *held_out]}),
            keep=keep,
        )
        result = reinforce(loop, model, tokenizer)
        result = dataclasses.replace(result, history=[_finite(row) for row in result.history])
        if is_main_process():
            save_model(model, tokenizer, run.model)
            write_json(done, dataclasses.asdict(result))
    if is_main_process():
        write_online_report(run, config, method, result, n_training=len(training), n_held_out=len(held_out))
    return result


def read_tasks(config: OnlineOptions, run: Run | None = None) -> tuple[list[Task], list[Task]]:
    """(training, held-out) prompts.

    Raises:
        DataError: a source that cannot be read, or two prompts with one id.
    """
    from coalign.data.checking.usable import repeated_ids
    from coalign.training.material import (
        ReadingOptions,
        announce,
        overlap_note,
        read_sources,
        split_and_weigh,
        told_of_sources,
    )

    notes: list[str] = []
    reading = ReadingOptions(kind="prompt", split=config.split, limit=config.limit, column=config.column)

    def read(sources: Sources) -> list[Part]:
        return read_sources(reading, sources, "prompt", notes, seed=config.seed, text_alone=True)

    parts = read(config.prompts)
    sides = split_and_weigh(parts, config.eval_fraction if config.eval_prompts is None else 0, config.seed)
    records, held_out = ([one for side in sides for one in side[which]] for which in (0, 1))
    notes += told_of_sources(parts, sides, run)
    if config.eval_prompts is not None:
        held_out = [one for part in read(config.eval_prompts) for one in part.records]
        notes.append(overlap_note(records, held_out, run))
    problems = [*repeated_ids(records), *repeated_ids(held_out)]
    if problems:
        raise DataError(f"{len(problems)} prompts cannot be used.", problems)
    prefix = "held-out " if config.eval_prompts is not None else ""
    tasks = [Task(n, one.id, one.prompt, one) for n, one in enumerate(records)]
    others = [
        Task(n, f"{prefix}{one.id}", one.prompt, one) for n, one in enumerate(held_out, start=len(records))
    ]
    if run is not None:
        announce(notes, run)
    return tasks, others


def read_kept(config: OnlineOptions, tokenizer: Any, run: Run) -> list[EncodedRecord]:
    """The demonstrations that the policy is held to, encoded; none where none are named.

    Raises:
        DataError: a source that cannot be read, or holds no demonstrations that fit into the model.
    """
    from coalign.data.encoding import encode_records
    from coalign.training.material import ReadingOptions, announce, read_sources

    if config.ptx_data is None:
        return []
    notes: list[str] = []
    reading = ReadingOptions(kind="demonstration", split=config.split, limit=config.limit)
    parts = read_sources(reading, config.ptx_data, "demonstration", notes, seed=config.seed)
    announce(notes, run)
    longest = None if tokenizer.model_max_length > 10**9 else tokenizer.model_max_length
    records = [one for part in parts for one in part.records]
    encoded = encode_records(records, tokenizer, max_length=longest, label="Tokenising demonstrations")
    if not encoded.records:
        raise DataError("ptx_data: no demonstration fits into the model.")
    return list(encoded.records)


def open_rewards(config: Any, tasks: Sequence[Task], run: Run | None = None) -> RewardMix:
    """The rewards of the options; what they need of the prompts is checked. A judge's replies are kept in the run folder before they
    are read.

    Args:
        config: `RewardOptions` and `ModelOptions`, with `verifier_seconds`.

    Raises:
        ConfigError: a reward that cannot be used.
        DataError: prompts without a column that a reward reads, with their places.
    """
    own = None
    if any(innermost(parse_reward(one)).kind == "constraints" for one in config.reward):
        own = _own_constraints(tasks)
    return build_rewards(
        config,
        constraints=own,
        columns={one.number: one.record for one in tasks},
        open_judge=_judge(config, run),
        unscorable="leave out",
        verify=IsolatedVerifiers(config.verifier_seconds),
    )


def scorer(mix: RewardMix, numbers: Mapping[str, int]) -> ScoreRows:
    """Rewards of rows of answers, as rollouts ask for them.

    Args:
        mix: the rewards, which leave out what they cannot score.
        numbers: id of a prompt to the number by which the rewards know it.
    """

    def number(row: Row) -> int:
        name = row["id"]
        return numbers[name if name in numbers else name.rpartition("#")[0]]

    def score(rows: Sequence[Row]) -> list[dict[str, Any]]:
        drafts = [
            Draft.of(number(row), row["prompt"], text, True) for row in rows for text in row["responses"]
        ]
        values = mix.values(drafts)
        combined = mix.combined(drafts, values)
        mix.forget()
        found, start = [], 0
        for row in rows:
            end = start + len(row["responses"])
            columns = zip(*values[start:end], strict=True)
            by_name = {name: list(column) for name, column in zip(mix.names, columns, strict=True)}
            missing = [name for name, column in by_name.items() if any(map(math.isnan, column))]
            more = {"failure": f"{missing[0]} gave no number for prompt {row['id']}"} if missing else {}
            found.append({"rewards": combined[start:end], "values": by_name, **more})
            start = end
        return found

    return score


def _own_constraints(tasks: Sequence[Task]) -> dict[int, tuple[Constraint, ...]]:
    found: dict[int, tuple[Constraint, ...]] = {}
    problems: list[RecordProblem] = []
    for task in tasks:
        try:
            found[task.number] = constraints_of(task.record.extra)
        except ConstraintError as error:
            problems.append(task.record.problem(error.field, error.problem, error.expected))
    if problems:
        raise DataError(f"{len(problems)} of {len(tasks)} prompts cannot be rewarded.", problems)
    return found


def _judge(config: Any, run: Run | None) -> Callable[[str | None], Judge]:
    """The judge is another model than the one in training, which changes: by default the start model."""

    class Lazy:
        opened: Generator | None = None

        def generate(self, *given: Any, **more: Any) -> Any:
            if self.opened is None:
                self.opened = open_transformers(config)
            return self.opened.generate(*given, **more)

    opened: list[Judge] = []

    def open_judge(name: str | None) -> Judge:
        """One judge for all rewards that have one: its file of replies is open once."""
        if not opened:
            own = (
                "" if is_main_process() else f"-{process_index()}"
            )  # a file of replies belongs to one process
            store = ReplyStore(run.artefacts / f"replies{own}.jsonl" if run else None)
            opened.append(judge_over(Lazy(), store)(name))
        return opened[0]

    return open_judge


def as_shown(tasks: Sequence[Task], tokenizer: Any) -> list[Task]:
    """The prompts as this model is shown them: those that the file has as plain text stay so where there is no chat template."""
    return [_as_text(one) for one in tasks] if tokenizer.chat_template is None else list(tasks)


def _as_text(task: Task) -> Task:
    """Plain text for a model without a chat template, where the file has plain text."""
    prompt: Messages = task.prompt
    if not task.record.plain or len(prompt) != 1:
        return task
    return dataclasses.replace(task, prompt=prompt[0]["content"])


def _finite(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if math.isfinite(value)}

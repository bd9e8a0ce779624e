"""Prompts of rounds: which options say so, how they are read and split, and what their answers are measured by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import Count, option, required
from coalign.data.checking.usable import repeated_ids
from coalign.data.records import PromptRecord, Record
from coalign.data.splits import split_records
from coalign.judging.verifiers.tasks import prompt_records
from coalign.loops.rows import Row
from coalign.models.backends.options import PolicyBackendOptions

if TYPE_CHECKING:
    from coalign.judging.rewards.mix import Unscorable
    from coalign.judging.verifiers.constraints import Constraint

Values = Callable[[Sequence[Any], Sequence[Row]], list[list[float]]]
"""(prompts, their rows) to the value of each response, `[prompts][responses]`."""


@dataclass(kw_only=True)
class RoundOptions(PolicyBackendOptions):
    """Rounds over unlabelled prompts."""

    __group__ = "Rounds"
    __may_change__ = ("rounds",)

    prompts: str = required(
        "prompts without labels: a file, a hub id or a saved dataset folder; `quickstart` for the bundled ones"
    )
    limit: Count | None = option(None, "read only so many prompts")
    rounds: Count = option(
        2, "rounds, each with prompts of its own; may be raised later in the same run folder"
    )
    prompts_per_round: Count | None = option(
        None, "prompts of a round; by default an equal share, which depends on the number of rounds"
    )
    measure: list[str | dict[str, Any]] = option(
        [],
        "a reward (NAME:ARGUMENTS, as for `coalign run deal`) that nothing is learned from: it says how good held-out "
        "answers are and how many of the self-made labels are right",
        split=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_values(self.measure)


def read_prompts(config: Any) -> tuple[list[PromptRecord], list[PromptRecord]]:
    """(training, held-out) prompts of `config.prompts`; `limit`, `eval_fraction`, `seed` and `rounds` as its options say.

    Raises:
        DataError: the file cannot be read, an id that occurs twice, or fewer prompts than rounds.
    """
    records = prompt_records(config.prompts, config.limit)
    problems = repeated_ids(records)
    if problems:
        raise DataError(f"{len(problems)} of {len(records)} prompts cannot be used.", problems)
    training, held_out = split_records(
        [_as_prompt(one) for one in records], config.eval_fraction, config.seed
    )
    if len(training) < config.rounds:
        raise DataError(
            f"{config.prompts}: {len(training)} prompts to train on for {config.rounds} rounds.",
            hint="Give more prompts, or fewer --rounds.",
        )
    return training, held_out


def _as_prompt(record: Record) -> PromptRecord:
    return record if isinstance(record, PromptRecord) else PromptRecord.of(record)


def check_values(specs: Sequence[str | dict[str, Any]]) -> None:
    """Find what is wrong with rewards before anything is loaded.

    Raises:
        ConfigError: a reward that cannot be read, or a judge's.
    """
    if specs:
        from coalign.judging.rewards.specs import parse_reward

        for one in specs:
            if parse_reward(one).kind == "judge":
                raise ConfigError(
                    f"reward: {one!r} is not usable here, expected a reward model or verifiers."
                )


def open_values(
    specs: Sequence[str | dict[str, Any]], prompts: Sequence[Record], *, unscorable: Unscorable = "lowest"
) -> Values | None:
    """What `specs` value responses by, in the reward language (`coalign.judging.rewards.specs`); None without any.
    Models are loaded when the first response is valued.

    Args:
        prompts: all that may occur; a reward `constraints` reads their own column, one such as `final_answer:{answer}` the
            column named.
        unscorable: whether a response that cannot be scored has the lowest value, or is not a number.

    Raises:
        ConfigError, DataError: a reward or a column that cannot be used.
    """
    if not specs:
        return None
    from coalign.judging.rewards.mix import Draft, RewardMix
    from coalign.judging.rewards.specs import RewardOptions, build_rewards, parse_reward

    options = RewardOptions(reward=list(specs))
    own = any(parse_reward(one).kind == "constraints" for one in specs)
    constraints = dict(enumerate(_constraints_of(prompts))) if own else None
    places = {one.id: place for place, one in enumerate(prompts)}
    opened: list[RewardMix] = []

    def values(tasks: Sequence[Any], rows: Sequence[Row]) -> list[list[float]]:
        if not opened:
            columns = dict(enumerate(prompts))
            opened.append(
                build_rewards(options, constraints=constraints, columns=columns, unscorable=unscorable)
            )
        drafts = [
            Draft(places[row["id"]], row["prompt"], text, reason != "length")
            for row in rows
            for text, reason in zip(row["responses"], row["finish_reasons"], strict=True)
        ]
        found = iter(opened[0](drafts))
        return [[next(found) for _ in row["responses"]] for row in rows]

    return values


def _constraints_of(prompts: Sequence[Record]) -> list[tuple[Constraint, ...]]:
    from coalign.judging.verifiers.constraints import ConstraintError
    from coalign.judging.verifiers.following import constraints_of

    found, problems = [], []
    for one in prompts:
        try:
            found.append(constraints_of(one.extra))
        except ConstraintError as error:
            problems.append(one.problem(error.field, error.problem, error.expected))
    if problems:
        raise DataError(
            f"{len(problems)} of {len(prompts)} prompts have no constraints that programs can check.",
            problems,
        )
    return found

"""Rewards of the base model's own responses to each prompt: sampled once, kept in the cache for every later run.

What is kept depends on the base (a hash of its files), the reward (its text, and a hash of the files of its model), how was
sampled, and the prompt with the columns that a reward may read. Nothing of it changes while a policy is trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coalign.core.cache import cache_root
from coalign.core.errors import CoalignError, ModelError
from coalign.core.files import write_json, write_rows
from coalign.core.options import Count, option, required
from coalign.core.runs import Run, is_main_process
from coalign.judging.rewards.mix import RewardMix
from coalign.judging.rewards.specs import innermost, parse_reward
from coalign.judging.store import content_hash
from coalign.loops.online_options import OnlineOptions
from coalign.loops.online_run import Task, scorer
from coalign.loops.rows import Keep, Row, fill_rows_together
from coalign.models.backends.open import is_served, open_policy
from coalign.models.generation.rows import row_of
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from coalign.training.processes import assert_one_process, process_count, wait_for_all

FILE = "base_rewards.jsonl"
"""Artefact with a row a prompt and reward, which the reward language reads."""


@dataclass(kw_only=True)
class BaseOptions(OnlineOptions):
    """How the base model's responses are sampled."""

    __group__ = "Base samples"

    reward: list[str | dict[str, Any]] = required(
        "a reward as NAME:ARGUMENTS@WEIGHT, such as model:PATH, max_words:20 or judge:CRITERION; may be given several times",
        group="Rewards",
        split=False,
    )
    base_samples: Count = option(64, "responses of the base model to every prompt")


def base_rewards(
    config: BaseOptions, run: Run, tasks: Sequence[Task], mix: RewardMix
) -> dict[str, dict[str, list[float]]]:
    """Id of a prompt to the rewards of the base's responses, sorted, by the reward as it is written.

    The responses lie in `artefacts/base.jsonl`, rows as of any answers with their `values`, whether they were sampled now or are
    from the cache.

    Args:
        tasks: all prompts, training and held-out.
        mix: their rewards, which leave out what they cannot score.

    Raises:
        CoalignError: a prompt of which too many responses have no reward.
        ModelError: a reward that is one number everywhere.
    """
    if is_served(config):
        assert_one_process("--backend vllm-server samples from the base")
    names = [parse_reward(one).name for one in config.reward]
    keys = [content_key(one, config, names) for one in tasks]
    score = scorer(mix, {one.id: one.number for one in tasks})
    kept = [cache_root() / "base-rewards" / f"{one}.json" for one in keys]

    def work(done: list[int], keep: Keep) -> None:
        left = [place for place in range(len(tasks)) if place not in set(done)]
        sampled = [place for place in left if not kept[place].exists()]
        known = [place for place in left if kept[place].exists()]
        keep({place: json.loads(kept[place].read_text(encoding="utf-8")) for place in known})
        run.log(
            "base_rewards", prompts=len(tasks), cached=len(tasks) - len(sampled), samples=config.base_samples
        )

        def rewarded(batch: dict[int, Any]) -> None:
            wanted = {place: one for place, one in batch.items() if place in set(sampled)}
            rows = {place: {"prompt": tasks[place].prompt, **row_of(mine)} for place, mine in wanted.items()}
            found = score([{**row, "id": tasks[place].id} for place, row in rows.items()])
            made = {
                place: {**row, "values": _numbers(dict(zip(names, one["values"].values(), strict=True)))}
                for (place, row), one in zip(rows.items(), found, strict=True)
            }
            for place, row in made.items():
                write_json(kept[place], row)
            keep(made)

        if sampled:
            base: Any = open_policy(config, config)
            base.generate(
                [one.prompt for one in tasks],
                _sampling(config),
                done=[place for place in range(len(tasks)) if place not in set(sampled)],
                on_batch=rewarded,
                label="Sampling the base",
                **({"part": sampled} if process_count() > 1 else {}),
            )

    rows = fill_rows_together(run.artefacts / "base.jsonl", [one.id for one in tasks], work)
    found = {task.id: _of_prompt(task, row, config) for task, row in zip(tasks, rows, strict=True)}
    _assert_varied(found, names)
    return found


def _numbers(values: Mapping[str, Sequence[float]]) -> dict[str, list[float | None]]:
    return {name: [one if math.isfinite(one) else None for one in column] for name, column in values.items()}


def _of_prompt(task: Task, row: Row, config: BaseOptions) -> dict[str, list[float]]:
    found = {}
    for name, column in row["values"].items():
        found[name] = sorted(one for one in column if one is not None)
        missing = len(column) - len(found[name])
        if missing > config.max_unscorable * len(column) or not found[name]:
            raise CoalignError(
                f"{missing} of {len(column)} responses of the base to prompt {task.id} have no reward by {name}, more than the "
                f"accepted share of {config.max_unscorable:g}.",
                hint="Responses are kept. Mend the reward, or accept a larger share (--max-unscorable).",
            )
    return found


def write_base_rewards(
    path: Path,
    tasks: Sequence[Task],
    rewards: Mapping[str, Mapping[str, Sequence[float]]],
    config: BaseOptions,
    references: Mapping[str, Mapping[str, float]] | None = None,
    **facts: Any,
) -> None:
    """Write the file that `log_sigmoid:FILE:REWARD` and `calibrated:FILE:REWARD` read.

    Args:
        references: id to the reference of each reward, where there is one.
        facts: columns of every row.
    """
    rows = []
    for one in tasks:
        for name, values in rewards[one.id].items():
            prompt = [{"role": "user", "content": one.prompt}] if isinstance(one.prompt, str) else one.prompt
            row = {"id": one.id, "prompt": prompt, "reward": name, "base": config.model, **facts}
            if references is not None:
                row["reference"] = references[one.id][name]
            rows.append({**row, "samples": len(values), "rewards": list(values)})
    if is_main_process():
        write_rows(path, rows)
    wait_for_all()


def content_key(task: Task, config: BaseOptions, names: Sequence[str]) -> str:
    """What base rewards of a prompt are kept under."""
    from coalign.models.files.identity import model_identity

    identities = [model_identity(ModelOptions.of(config))]
    for one in config.reward:
        spec = innermost(parse_reward(one))
        if spec.kind == "model":
            identities.append(_identity(spec.arguments["path"]))
        elif spec.kind == "judge":
            identities.append(_identity(config.judge_model or config.model))
    parts = [identities, list(names), asdict(_sampling(config)), task.prompt, _columns(task)]
    return content_hash(parts)


def _identity(model: str) -> str:
    from coalign.models.files.identity import model_identity

    return model_identity(ModelOptions(model=model))


def _columns(task: Task) -> dict[str, Any]:
    return {name: value for name, value in task.record.extra.items() if name != "id"}


def _sampling(config: BaseOptions) -> Sampling:
    return Sampling(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        n=config.base_samples,
        seed=config.seed + 7919,  # not the streams of training
    )


def _assert_varied(rewards: Mapping[str, Mapping[str, Sequence[float]]], names: Sequence[str]) -> None:
    """Raises ModelError: a reward without any difference teaches nothing, and has no quantiles."""
    for name in names:
        values = {one for by_name in rewards.values() for one in by_name[name]}
        if len(values) == 1:
            raise ModelError(
                f"The reward {name} is {values.pop():g} for every response of the base: there is nothing to learn from it.",
                hint="Look at artefacts/base.jsonl: the prompts, the reward or --max-new-tokens do not fit.",
            )

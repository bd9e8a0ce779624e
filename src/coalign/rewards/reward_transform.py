"""Reward transform: learn from the log-probability that an answer is good, so that several rewards mean good in every respect.

Transforming and Combining Rewards for Aligning Large Language Models (arXiv 2402.00742).

    coalign run reward-transform --prompts prompts.jsonl --reward model:HELPFUL --reward model:HARMLESS
    coalign run reward-transform --prompts prompts.jsonl --reward model:HELPFUL --compare --stop-at-kl 10

The base model answers every prompt `base_samples` times; a quantile of the rewards of these answers is the prompt's reference,
frozen before anything is learnt. Learnt is `sum_k w_k log sigmoid(r_k - r_k^ref)`, the log-probability that an answer is good in
all properties, by REINFORCE leave-one-out with the KL divergence to the base in the reward (`--beta`). `--compare` trains a second
policy on the plain weighted sum and compares both at the same divergence.

References are written to `artefacts/base_rewards.jsonl`: `--reward log_sigmoid:FILE:REWARD` uses them in best-of-n, search, `grpo` and
`rloo`. They are cached by prompt, reward model and base.

Reconstruction: there is no official code, and the experimental section could not be read in full. The quantile 0.85, the 64 base
samples, their Gaussian fit and the canned refusal as the reference of harmlessness are from an independent implementation and
from memory; all are options. The paper's optimiser is PPO.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coalign.core.errors import ConfigError
from coalign.core.options import Count, option
from coalign.core.runs import Run, is_main_process
from coalign.judging.rewards.specs import parse_reward
from coalign.loops.online_run import as_shown, open_rewards, read_tasks, scorer
from coalign.measures.reward_transforms import (
    joint_log_sigmoid,
    log_sigmoid_centred,
)
from coalign.models.files.places import full_name, short_name
from coalign.report import model as doc
from coalign.rewards.transformed.base_rewards import FILE, base_rewards, write_base_rewards
from coalign.rewards.transformed.references import ReferenceOptions, References, references_of
from coalign.rewards.transformed.report import write_transform_report
from coalign.rewards.transformed.training import Measure, Utility, curve_of, train_arm, with_utility
from coalign.training.online.methods import RlooOptions


@dataclass(kw_only=True)
class Config(ReferenceOptions, RlooOptions):
    """Options of `coalign run reward-transform`."""

    __group__ = "Method"

    compare: bool = option(False, "also train on the plain weighted sum, and compare at the same divergence")
    base_samples: Count = option(
        64, "responses of the base model to every prompt", source="from memory", group="Base samples"
    )
    eval_samples: Count = option(4, "responses to every held-out prompt, each time", group="Evaluation")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse(["combine", "normalise"], "here: log-probabilities add")
        if not self.eval_fraction and self.eval_prompts is None:
            raise ConfigError(
                "eval_fraction: 0 leaves no prompt to measure on; give --eval-prompts or a share above 0"
            )


def run(config: Config, run: Run) -> None:
    """Sample the base, set the references, train, compare at the same divergence, report.

    Raises:
        DataError: prompts that cannot be used.
        ConfigError, CoalignError: a reward that cannot be used, or is one number everywhere.
    """
    from coalign.models.files.loading import load_tokenizer

    training, held_out = (as_shown(part, load_tokenizer(config)) for part in read_tasks(config, run))
    tasks = [*training, *held_out]
    mix = open_rewards(config, tasks, run)
    rewards = base_rewards(config, run, tasks, mix)
    references = references_of(config, tasks, mix, rewards)
    write_base_rewards(
        run.artefacts / FILE,
        tasks,
        rewards,
        config,
        references,
        method=config.reference,
        quantile=config.quantile,
    )
    weights = {parse_reward(one).name: parse_reward(one).weight for one in config.reward}
    names = dict(zip(mix.names, weights, strict=True))
    score = scorer(mix, {one.id: one.number for one in tasks})
    arms: dict[str, Utility] = {"train": good_in_all(names, references, weights)}
    if config.compare:
        arms["plain-sum"] = lambda _, values, __: {"rewards": plain_sum(values, names, weights)}
    results = {
        name: train_arm(config, run, name, training, held_out, with_utility(score, utility))
        for name, utility in arms.items()
    }
    if not is_main_process():
        return
    measure = _measure(names, references)
    titles = {"train": "log-sigmoid sum", "plain-sum": "plain sum"}
    write_transform_report(
        run,
        config,
        title=f"{short_name(config.model)} learns from transformed rewards",
        curves={titles[name]: curve_of(run, name, held_out, measure) for name in arms},
        measures={"all_good": "Responses above every reference"}
        | ({name: f"Above the reference of {name}" for name in weights} if len(weights) > 1 else {})
        | {"probability": "Mean probability of being good in all"},
        results={titles[name]: one for name, one in results.items()},
        held_out=held_out,
        facts={
            "Model": full_name(config.model),
            "Rewards": ", ".join(weights),
            "Reference": config.reference,
            "KL strength": f"{config.beta:g}",
        },
        notes=[
            f"{len(training)} prompts to train, {len(held_out)} held out; {config.base_samples} base samples each."
        ],
        sections=[_reference_table(weights, references, rewards)],
    )


def good_in_all(names: Mapping[str, str], references: References, weights: Mapping[str, float]) -> Utility:
    """`sum_k w_k log sigmoid(r_k - r_k^ref)` of each response (equation of section 4), with each term beside it.

    Args:
        names: of the rewards in rows to their names as they are written.
    """

    def utility(prompt: str, values: Mapping[str, Sequence[float | None]], _: Any) -> dict[str, Any]:
        raw = _columns(values, names)
        held_against = np.array([references[prompt][name] for name in names.values()])
        terms = log_sigmoid_centred(raw, held_against)
        utilities = joint_log_sigmoid(raw, np.broadcast_to(held_against, raw.shape), list(weights.values()))
        more = {f"log P({name})": terms[:, place].tolist() for place, name in enumerate(names.values())}
        return {"rewards": utilities.tolist(), "values": more}

    return utility


def plain_sum(
    values: Mapping[str, Sequence[float | None]], names: Mapping[str, str], weights: Mapping[str, float]
) -> list[float]:
    """`sum_k w_k r_k` of each response: the baseline."""
    return (_columns(values, names) @ np.array(list(weights.values()))).tolist()


def _columns(values: Mapping[str, Sequence[float | None]], names: Mapping[str, str]) -> Any:
    """[n, K] raw rewards; NaN where there is none."""
    return np.array(
        [[math.nan if one is None else one for one in values[name]] for name in names], np.float64
    ).T


def _measure(names: Mapping[str, str], references: References) -> Measure:
    def measure(prompt: str, _: Any, values: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
        raw = _columns(values, names)
        raw = raw[~np.isnan(raw).any(1)]
        if not len(raw):
            return dict.fromkeys(["all_good", *names.values(), "probability"], math.nan)
        held_against = np.array([references[prompt][name] for name in names.values()])
        above = raw > held_against
        joint = joint_log_sigmoid(raw, np.broadcast_to(held_against, raw.shape))
        each = {name: float(above[:, place].mean()) for place, name in enumerate(names.values())}
        return {"all_good": float(above.all(1).mean()), **each, "probability": float(np.exp(joint).mean())}

    return measure


def _reference_table(weights: Mapping[str, float], references: References, rewards: Any) -> doc.TableSection:
    rows: list[list[Any]] = []
    for name, weight in weights.items():
        base = [value for one in rewards.values() for value in one[name]]
        rows.append(
            [
                name,
                weight,
                float(np.mean(base)),
                float(np.std(base)),
                float(np.mean([one[name] for one in references.values()])),
            ]
        )
    return doc.TableSection(
        "References",
        note="Means over prompts. The transform takes a reward at its own scale: a deviation far from 1 makes it nearly a step or nearly linear.",
        columns=["reward", "weight", "mean of the base", "deviation of the base", "reference"],
        rows=rows,
    )

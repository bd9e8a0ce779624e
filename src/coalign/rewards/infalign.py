"""InfAlign: train a policy for the way in which it will be decoded, by best-of-n or against worst-of-n.

InfAlign: Inference-aware language model alignment (arXiv 2412.19792).

    coalign run infalign --prompts prompts.jsonl --reward model:PATH --decoding best_of_n --n 4
    coalign run infalign --prompts prompts.jsonl --reward model:SAFETY --decoding worst_of_n --compare

Three steps (CTRL). *Calibrate*: the base model answers every prompt `base_samples` times; a reward becomes the share of these
answers that it beats, ties counting half. *Transform*: sign(t) exp(t C), t above 0 weighs the best quantiles for best-of-n, t
below 0 punishes the worst, which is what worst-of-n (a jailbreak that tries n times) finds. *Reinforce*: REINFORCE
leave-one-out on the transformed reward, with the KL divergence to the base in the reward (`--beta`). Then decode as the
transform was chosen for: `coalign generate --method best-of-n --option best_of=4`.

The report has the win rates over the base at one sample, best of n and worst of n, at their divergence: what helps under
best-of-n costs at one sample. `--compare` also trains on the calibrated reward as it is.

`--transform optimal` takes, in place of the exponential, the fixed point of the stationarity condition for this n and `--beta`
(tabulated, at its own scale; with n = 1 it is the calibrated reward). Exponentials are divided by their largest size on [0, 1],
so that one `--beta` has the same meaning for every t.

Reconstruction: there is no official code; t = 10, n = 4 and 100 base samples are from memory, and options. The fixed point is
derived from the paper's theorem and checked numerically. The paper's optimiser is PPO-like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from coalign.core.errors import ConfigError
from coalign.core.options import Count, NonNegative, Positive, option
from coalign.core.runs import Run, is_main_process
from coalign.judging.rewards.specs import parse_reward
from coalign.loops.online_run import as_shown, open_rewards, read_tasks, scorer
from coalign.measures.reward_transforms import calibrated, exponential
from coalign.measures.win_rates import (
    Procedure,
    optimal_transform,
    quantile_win_rates,
    sampled_win_rates,
    tilted_density,
)
from coalign.models.files.places import full_name, short_name
from coalign.report import model as doc
from coalign.rewards.transformed.base_rewards import FILE, BaseOptions, base_rewards, write_base_rewards
from coalign.rewards.transformed.report import write_transform_report
from coalign.rewards.transformed.training import Measure, Utility, curve_of, train_arm, with_utility
from coalign.training.online.methods import RlooOptions

NAMES = {
    "standard": "Win rate of one sample",
    "best_of_n": "Win rate, best of n",
    "worst_of_n": "Win rate, worst of n",
}


@dataclass(kw_only=True)
class Config(RlooOptions, BaseOptions):
    """Options of `coalign run infalign`."""

    __group__ = "Transform"

    decoding: Procedure = option("best_of_n", "how the policy will be decoded, or what it must withstand")
    n: Count = option(4, "n of it", source="from memory")
    transform: Literal["exponential", "optimal", "identity"] = option(
        "exponential", "of the calibrated reward; optimal: the fixed point for n and beta; identity: none"
    )
    t: Positive = option(
        10.0,
        "steepness of the exponential; worst_of_n takes -t",
        source="from memory",
        only_with={"transform": "exponential"},
    )
    beta: NonNegative = option(
        0.05, "weight of the KL divergence, on the scale of a transform that is at most 1", group="Objective"
    )
    compare: bool = option(
        False, "also train on the calibrated reward as it is, and compare at the same divergence"
    )
    base_samples: Count = option(
        100, "responses of the base model to every prompt", source="from memory", group="Base samples"
    )
    eval_samples: Count = option(8, "responses to every held-out prompt, each time", group="Evaluation")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.eval_fraction and self.eval_prompts is None:
            raise ConfigError(
                "eval_fraction: 0 leaves no prompt to measure on; give --eval-prompts or a share above 0"
            )
        if len(self.reward) != 1:
            raise ConfigError(
                f"reward: {len(self.reward)} are given, expected one: a calibrated sum has no quantiles of its own"
            )
        if min(self.eval_samples, self.base_samples) < self.n:
            raise ConfigError(
                f"n: {self.n} is more than eval_samples or base_samples; win rates need so many samples"
            )
        if self.transform == "optimal" and not self.beta:
            raise ConfigError("beta: the optimal transform depends on it, expected a number above 0")
        self.refuse(["combine", "normalise"], "here: there is one reward, and it is calibrated")


def run(config: Config, run: Run) -> None:
    """Calibrate, transform, train, measure win rates as decoded, report.

    Raises:
        DataError: prompts that cannot be used.
        ConfigError, CoalignError: a reward that cannot be used, or is one number everywhere.
    """
    from coalign.models.files.loading import load_tokenizer

    training, held_out = (as_shown(part, load_tokenizer(config)) for part in read_tasks(config, run))
    tasks = [*training, *held_out]
    mix = open_rewards(config, tasks, run)
    rewards = base_rewards(config, run, tasks, mix)
    write_base_rewards(run.artefacts / FILE, tasks, rewards, config)
    (name,) = (parse_reward(one).name for one in config.reward)
    base = {key: values[name] for key, values in rewards.items()}
    score = scorer(mix, {one.id: one.number for one in tasks})
    table = transform_table(config)
    arms: dict[str, Utility] = {"train": transformed(base, mix.names[0], table)}
    if config.compare:
        arms["calibrated"] = transformed(base, mix.names[0], (np.array([0.0, 1.0]), np.array([0.0, 1.0])))
    results = {
        arm: train_arm(config, run, arm, training, held_out, with_utility(score, utility))
        for arm, utility in arms.items()
    }
    if not is_main_process():
        return
    measure = win_rates_over(base, mix.names[0], config.n)
    titles = {"train": config.transform, "calibrated": "calibrated reward"}
    order = sorted(NAMES, key=lambda one: one != config.decoding)
    saturated = f"A reward above all {config.base_samples} base samples counts 1: beyond the quantile 1 - 1/{config.base_samples} nothing is gained."
    write_transform_report(
        run,
        config,
        title=f"{short_name(config.model)} learns for {config.decoding.replace('_', '-')} of {config.n}",
        curves={titles[arm]: curve_of(run, arm, held_out, measure) for arm in arms},
        measures={one: NAMES[one] for one in order} | {"saturated": "Responses above all base samples"},
        results={titles[arm]: one for arm, one in results.items()},
        held_out=held_out,
        facts={
            "Model": full_name(config.model),
            "Reward": name,
            "Decoding": f"{config.decoding}, n = {config.n}",
            "KL strength": f"{config.beta:g}",
        },
        notes=[
            f"{len(training)} prompts to train, {len(held_out)} held out; {config.base_samples} base samples each."
        ],
        sections=[_expected(config, table)],
        limitations=[
            saturated,
            "Calibration keeps what is wrong with a reward, such as a liking for length.",
        ],
    )


def transform_table(config: Config) -> tuple[Any, Any]:
    """Calibrated rewards and Phi there, over its largest size on [0, 1]; between them it is linear.

    Raises:
        ConfigError: the fixed point is not reached.
    """
    if config.transform == "optimal":
        try:
            values, _ = optimal_transform(config.n, config.beta, config.decoding)
        except ValueError as error:
            raise ConfigError(f"beta: {error}") from error
        places = (np.arange(len(values)) + 0.5) / len(values)
        # At its own scale: the fixed point is that of this beta.
        return np.array([0.0, *places, 1.0]), np.array([values[0], *values, values[-1]])
    places = np.linspace(0, 1, 2001)
    t = 0.0 if config.transform == "identity" else config.t * (1 if config.decoding == "best_of_n" else -1)
    return places, exponential(places, t, normalise=True)


def transformed(base: Mapping[str, Sequence[float]], column: str, table: tuple[Any, Any]) -> Utility:
    """`Phi(C(x, y))` of each response, with `C` beside it.

    Args:
        base: id of a prompt to the rewards of the base's responses.
        column: of the raw reward among the values of rows.
    """

    def utility(prompt: str, values: Mapping[str, Sequence[float | None]], _: Any) -> dict[str, Any]:
        found = calibrated(_raw(values[column]), base[prompt])
        return {"rewards": np.interp(found, *table).tolist(), "values": {"calibrated": found.tolist()}}

    return utility


def win_rates_over(base: Mapping[str, Sequence[float]], column: str, n: int) -> Measure:
    """Standard, best-of-n and worst-of-n win rates of a policy's responses over the base's to the same prompt."""

    def measure(prompt: str, _: Any, values: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
        raw = _raw(values[column])
        raw = raw[~np.isnan(raw)]
        if len(raw) < n or len(base[prompt]) < n:
            return dict.fromkeys([*NAMES, "saturated"], math.nan)
        rates = dict(zip(NAMES, sampled_win_rates(raw, base[prompt], n), strict=True))
        return {**rates, "saturated": float((raw > max(base[prompt])).mean())}

    return measure


def _raw(values: Sequence[float | None]) -> Any:
    return np.array([math.nan if one is None else one for one in values], np.float64)


def _expected(config: Config, table: tuple[Any, Any]) -> doc.TableSection:
    """What the exact optimum of a reward without ties reaches under this transform, for several strengths."""
    places = (np.arange(2000) + 0.5) / 2000
    values = np.interp(places, *table)
    rows: list[list[Any]] = []
    for factor in (4.0, 2.0, 1.0, 0.5, 0.25):
        strength = factor * (config.beta or 0.05)
        rates = quantile_win_rates(tilted_density(values, strength), config.n)
        rows.append([strength, rates.kl, *(getattr(rates, name) for name in NAMES)])
    return doc.TableSection(
        "What the transform can reach",
        note="The exact optimum for a reward without ties, whatever the model: no training is in it. A policy that learnt well comes near.",
        columns=["KL strength", "divergence, nats", *NAMES.values()],
        rows=rows,
        units=dict.fromkeys(NAMES.values(), "percent"),
    )

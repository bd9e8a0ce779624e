"""Policies that learn to follow stated values, and a reward model that says whether an answer follows them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from coalign.core.options import Count, NonNegative, OptionGroup, Positive, option
from coalign.curation.stated_values.collection import Answered, demonstrations, draw_pairs, grouped
from coalign.data.records import Messages, Preference, Ranking, Record
from coalign.data.sources import DataSources, canonical_sources
from coalign.data.splits import split_records
from coalign.training.job import FitResult, Job
from coalign.training.material import Material, ReadingOptions, announce, read_sources
from coalign.training.objective import get_objective

if TYPE_CHECKING:
    from coalign.core.runs import Run

Policy = Literal["sft", "dpo", "orpo"]
DPO_START, REWARD_START, REWARD = "dpo-start", "reward-start", "reward"
"""The models that DPO and the reward model start from, beside the policies."""


@dataclass(kw_only=True)
class PolicyOptions(OptionGroup):
    """Which policies are trained, and whether a reward model is."""

    __group__ = "Policies"

    policies: list[Policy] = option(
        ["sft"],
        "sft: all rows; dpo: pairs, from a model fine-tuned on one system message an instruction; orpo: pairs, from the "
        "start model. The last one is the run's model",
        source="paper",
    )
    beta: Positive = option(0.1, "beta of DPO", source="TRL's default; not in the official configuration")
    odds_weight: NonNegative = option(0.1, "weight of ORPO's odds ratio", source="official code")
    pair_learning_rate: Positive | None = option(
        None,
        "of DPO and ORPO; by default 1e-4 for an adapter and 1e-6 for full fine-tuning",
        source="official code: DPO 5e-7, ORPO 5e-6, all weights",
    )
    pair_epochs: Positive = option(2.0, "passes over the pairs in DPO and ORPO", source="official code")
    reward_model: bool = option(
        False, "train a reward model on the pairs; the policies are then also measured as best of n by it"
    )
    helpfulness: DataSources | None = option(
        None,
        "general preference pairs: the reward model's second stage",
        source="paper: HH-RLHF 72 %, OASST1 14 %, WebGPT 14 %",
        only_with="reward_model",
    )
    reward_learning_rate: Positive | None = option(
        None,
        "of both stages; by default 1e-4 for an adapter and 1e-6 for full fine-tuning",
        source="official code: 9e-6, all weights",
        only_with="reward_model",
    )
    best_of: Count = option(
        4, "samples of which the reward model picks one", source="paper", only_with="reward_model"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.policies or len({*self.policies}) < len(self.policies):
            raise ValueError("policies: expected at least one of sft, dpo and orpo, each once")
        if "dpo" not in self.policies:
            self.refuse(["beta"], "without policies: dpo")
        if "orpo" not in self.policies:
            self.refuse(["odds_weight"], "without policies: orpo")
        if self.policies == ["sft"]:
            self.refuse(["pair_learning_rate", "pair_epochs"], "without policies: dpo or orpo")
        if self.helpfulness is not None:
            self.helpfulness = canonical_sources(self.helpfulness, "helpfulness")


@dataclass(frozen=True)
class Lessons:
    """What is learnt from, and what is held out of it.

    Attributes:
        rows, held_out: answers under system messages; no instruction is on both sides.
        fold: the model's template has no system role.
        seed: of the pairs.
    """

    rows: Sequence[Answered]
    held_out: Sequence[Answered]
    fold: bool
    seed: int

    def pairs(self) -> tuple[list[Preference], list[Preference]]:
        """(training, held out), one an instruction."""
        training, held_out = (
            draw_pairs(rows, self.seed, fold=self.fold) for rows in (self.rows, self.held_out)
        )
        return training, held_out

    def one_each(self) -> list[Answered]:
        """The first row of each instruction."""
        return [mine[0] for mine in grouped(self.rows).values()]


def train_policies(config: Any, run: Run, lessons: Lessons) -> dict[str, FitResult]:
    """Train and save every policy of `config` (`PolicyOptions`, model and training options); what is there is not trained
    again.

    Returns:
        Policy to what its last training did.
    """
    from coalign.training.learning import train

    def fitted(
        objective: str,
        name: str,
        options: Any,
        records: Sequence[Record],
        held_out: Sequence[Record],
        **constants: Any,
    ) -> FitResult:
        known = get_objective(objective)
        job = Job(
            objective=known, options=options, run=run, records=records, held_out=held_out,
            constants=known.constants(**constants), name=name,
        )  # fmt: skip
        return train(job, policy_folder(run, name))

    on_pairs = replace(config, learning_rate=config.pair_learning_rate, epochs=config.pair_epochs)
    answered = demonstrations(lessons.held_out, fold=lessons.fold)
    pairs, held_out_pairs = lessons.pairs()
    results: dict[str, FitResult] = {}
    for policy in config.policies:
        if policy == "sft":
            rows = demonstrations(lessons.rows, fold=lessons.fold)
            results[policy] = fitted("sft", policy, config, rows, answered)
        elif policy == "dpo":
            fitted("sft", DPO_START, config, demonstrations(lessons.one_each(), fold=lessons.fold), answered)
            start = on_pairs.at(policy_folder(run, DPO_START))
            results[policy] = fitted("dpo", policy, start, pairs, held_out_pairs, beta=config.beta)
        else:
            results[policy] = fitted(
                "orpo", policy, on_pairs, pairs, held_out_pairs, odds_weight=config.odds_weight
            )
    return results


def train_reward(config: Any, run: Run, lessons: Lessons) -> dict[str, FitResult]:
    """A policy fine-tuned on all rows for one epoch, then its trunk with a scalar head: on the pairs, then on general
    preferences where `helpfulness` names some. The last stage is saved in `reward` of the run folder.

    Returns:
        Stage to what it did.
    """
    from coalign.training.learning import train
    from coalign.training.reward_models.fit import RewardModelOptions, train_reward_model

    sft = get_objective("sft")
    rows = demonstrations(lessons.rows, fold=lessons.fold)
    start = Job(
        objective=sft, options=replace(config, epochs=1.0), run=run, records=rows, constants=sft.constants(),
        name=REWARD_START,
    )  # fmt: skip
    train(start, policy_folder(run, REWARD_START))
    pairs, held_out = (_as_rankings(side) for side in lessons.pairs())
    stages = {"values": Material(pairs, held_out, [])}
    if config.helpfulness is not None:
        notes: list[str] = []
        parts = read_sources(
            ReadingOptions(), config.helpfulness, "ranking", notes, seed=config.seed, run=run
        )
        announce(notes, run)
        general = [record for one in parts for record in one.records]
        stages["helpfulness"] = Material(*split_records(general, config.eval_fraction, config.seed), notes)
    results, model = {}, policy_folder(run, REWARD_START)
    for name, material in stages.items():
        options = RewardModelOptions.of(
            config, data="the pairs of this run", eval_data=None, model=str(model), revision=None, chat_template=None, epochs=1.0,
            learning_rate=config.reward_learning_rate, max_prompt_length=None, reference_logps="precomputed",
        )  # fmt: skip
        model = run.path / (REWARD if name == [*stages][-1] else f"{REWARD}-{name}")
        results[name] = train_reward_model(options, material, run, name=f"reward-{name}", folder=model)
    return results


def _as_rankings(pairs: Sequence[Preference]) -> list[Record]:
    return [Ranking.of(one, responses=(one.chosen, one.rejected), scores=(1.0, 0.0)) for one in pairs]


def policy_folder(run: Run, name: str) -> Path:
    """Where a policy is saved."""
    return run.path / "policies" / name


def pair_figures(run: Run, lessons: Lessons, device: str, *, rewarded: bool) -> dict[str, float]:
    """What the pairs show: `longer`, how often the chosen answer has more characters (a half where length tells nothing);
    with a reward model the share of held-out pairs that it orders rightly, with and `without` their system message. The
    second is a half where nothing but the message says which answer fits.
    """
    training, held_out = lessons.pairs()
    lengths = [(len(one.chosen), len(one.rejected)) for one in (*training, *held_out)]
    figures = {"longer": _share_ahead(lengths)} if lengths else {}
    if not rewarded or not held_out:
        return figures
    from coalign.models.reward_model import load_reward_model

    model = load_reward_model(str(run.path / REWARD), device=device)
    for name, bare in (("accuracy", False), ("without", True)):
        shown = [replace(one, prompt=_bare(one, lessons)) if bare else one for one in held_out]
        rewards = model.score_records(_as_rankings(shown))
        figures[name] = _share_ahead([(first, second) for first, second in rewards])
    return {**figures, "held-out pairs": len(held_out)}


def _bare(pair: Preference, lessons: Lessons) -> Messages:
    """The pair's prompt without its system message."""
    return next(one.turns for one in lessons.held_out if one.id == pair.id)


def _share_ahead(pairs: Sequence[tuple[float, float]]) -> float:
    """How often the first is larger; equal ones count half."""
    return statistics.fmean(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs)

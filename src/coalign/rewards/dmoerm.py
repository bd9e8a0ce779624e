"""DMoERM: a reward model for each kind of task, made of experts for single capabilities.

DMoERM: Recipes of Mixture-of-Experts for Effective Reward Modeling (arXiv 2403.01197). A router reads the query alone and
picks the category. Each category has a fully tuned base (phase 1, on 60 % of its records), on it a LoRA expert for every
capability point (phase 2, from pairs that were compared in that respect only), and an aggregator with a PReLU over the
experts' hidden states (phase 3, on the other 40 %). A language model compares each pair twice, with the responses
swapped, and only what it says both times is learnt.

    coalign run dmoerm --data rankings.jsonl --labeller Qwen/Qwen2.5-7B-Instruct --points points.yaml
    coalign generate --method best-of-n --reward model:runs/dmoerm --prompts prompts.jsonl --out best.jsonl

Records name their category in a column `category` (or are a source each, with a tag); those without are put where the router
puts them. `--capabilities` gives the comparisons by point instead of a labeller.

Differences from the official code. It trains from random weights, never trains the experts' heads, keeps the worst model for
a better one (its accuracy reads ranks the other way round), swaps training and validation parts and takes a softmax twice in
the router; here none of that. That the aggregator reads hidden states is the code's way; the paper's text speaks of outputs.
Ours: rewards of each category are put on one scale by mean and deviation on its held-out (else its training) responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from coalign.core.errors import ConfigError, DataError
from coalign.core.options import Count, Fraction, Positive, option
from coalign.core.runs import Run
from coalign.core.yaml_text import load_yaml
from coalign.data.records import Preference, Ranking
from coalign.rewards.mixture.labels import label_points
from coalign.rewards.mixture.phases import Phases, category_of, shares
from coalign.rewards.mixture.report import finish_mixture
from coalign.training.distributed.leading import led
from coalign.training.material import announce, read_material
from coalign.training.processes import assert_whole_models
from coalign.training.reward_models.fit import RewardModelOptions

if TYPE_CHECKING:
    from torch import Tensor

POINTS: dict[str, list[str]] = {
    "role-play": [
        "character and emotional investment", "conversational sense", "empathy", "relationship traits",
        "personalised traits", "richness of content",
    ],
    "chit-chat": ["conversational sense", "proactivity", "emotion", "empathy", "richness of content"],
    "subjective question": ["persuasiveness", "logic", "richness of viewpoints", "breadth", "relevance"],
    "objective question": ["correctness", "objectivity", "reasoning", "logic", "depth", "relevance"],
    "text creation": ["fit to the intention", "expression", "readability", "richness of content", "logic"],
}  # fmt: skip
"""The paper's categories and their capability points."""


def aggregate_experts(
    states: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, slope: Tensor
) -> Tensor:
    """[B] `W2 PReLU(W1 [z_1; ...; z_P] + b1) + b2`; `models.reward_mixture.Aggregator` is the module.

    Args:
        states: [P, B, D] hidden states of the experts at the last token, in their fixed order.
        w1, b1: [D, P D] and [D].
        w2, b2: [1, D] and [] or [1].
        slope: [] of the PReLU below 0.
    """
    import torch

    joined = torch.cat(list(states), dim=-1)
    hidden = torch.nn.functional.prelu(joined @ w1.T + b1, slope.reshape(1))
    return (hidden @ w2.T).squeeze(-1) + b2


@dataclass(kw_only=True)
class Config(RewardModelOptions):
    """Options of `coalign run dmoerm`; `--learning-rate` is that of the bases."""

    __group__ = "Method"

    points: Path | None = option(
        None,
        "YAML file of categories with the names of their capability points; by default the paper's five",
        source="paper",
    )
    labeller: str = option(
        "default",
        "language model that says which response is better in each respect: hub id, folder or `default`",
        source="paper: a strong model behind an API",
    )
    capabilities: str | None = option(
        None,
        "pairs with columns `category` and `point` that were compared in that respect, in place of a labeller",
    )
    base_fraction: Fraction = option(
        0.6, "share of a category's records for its base; the rest is the aggregator's", source="paper"
    )
    validation_fraction: Fraction = option(
        0.3, "share of each phase's records that says when to stop", source="official code"
    )
    validation_pairs: Count = option(500, "at most so many of them", source="official code")
    evaluate_every: Count = option(100, "steps between evaluations", source="official code")
    patience: Count = option(20, "evaluations without gain after which a phase stops", source="official code")
    expert_learning_rate: Positive | None = option(
        None, "of the experts; by default 1e-4", source="official code: 5e-5"
    )
    aggregator_learning_rate: Positive = option(
        1e-3, "of the aggregator", source="our choice; official code: 1e-6"
    )
    router_learning_rate: Positive | None = option(
        None,
        "of the router; by default 1e-4 for an adapter and 1e-6 for all weights",
        source="official code: 3e-8",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.capabilities is not None:
            self.refuse(["labeller"], "beside capabilities, which say what is better in each respect")
        self.refuse(
            ["save", "eval_steps"], "here: a mixture is saved as it is, its phases evaluate by evaluate_every"
        )


@led
def run(config: Config, run: Run) -> None:
    """Train router, bases, experts and aggregators, save the mixture, measure it on held-out records, report.

    Raises:
        ConfigError: categories or points that the records or the file do not fit.
        DataError: a category or a point without records.
    """
    assert_whole_models("dmoerm keeps the best evaluation of each training, and")
    points = read_points(config.points)
    material = read_material(config, "ranking", run)
    announce(material.notes, run)
    phases = Phases(config, run, run.path / "mixture")
    labelled, without = by_category(cast("list[Ranking]", material.training), points)
    phases.router(labelled)
    records = phases.routed(labelled, without)
    pairs = _capability_pairs(config, run, records, points)
    for number, (category, mine) in enumerate(records.items()):
        first, second = shares(mine, config.base_fraction, config.seed)
        phases.base(number, first)
        for place, point in enumerate(points[category]):
            phases.expert(number, place, pairs[category][point])
        phases.aggregator(number, len(points[category]), second)
    finish_mixture(phases, records, points, material)


def read_points(path: Path | None) -> dict[str, list[str]]:
    """Categories with their points.

    Raises:
        ConfigError: the file is no mapping of names to lists of names.
    """
    if path is None:
        return POINTS
    found = load_yaml(path)
    good = isinstance(found, dict) and found and all(isinstance(one, list) and one for one in found.values())
    if not good:
        raise ConfigError(f"points: {path} is no mapping of categories to lists of their capability points.")
    return {str(name): [str(one) for one in points] for name, points in found.items()}


def by_category(
    records: Sequence[Ranking], points: Mapping[str, Sequence[str]]
) -> tuple[dict[str, list[Ranking]], list[Ranking]]:
    """The records of each category, in the order of `points`, and those that name none.

    Raises:
        DataError: a category that has no points, every such record named, or fewer than two categories with records.
    """
    found: dict[str, list[Ranking]] = {name: [] for name in points}
    without, problems = [], []
    for record in records:
        name = category_of(record)
        if name is None:
            without.append(record)
        elif name in found:
            found[name].append(record)
        else:
            problems.append(record.problem("category", f"is {name!r}", f"one of {', '.join(points)}"))
    if problems:
        raise DataError(f"{len(problems)} records are of a category without capability points.", problems)
    found = {name: mine for name, mine in found.items() if mine}
    if len(found) < 2:
        raise DataError(
            f"A mixture needs two categories with records, and there are {len(found)}.",
            hint="Name the category of each record in a column `category`; `coalign run reward-model` trains one model.",
        )
    return found, without


def _capability_pairs(
    config: Config, run: Run, records: Mapping[str, Sequence[Ranking]], points: Mapping[str, Sequence[str]]
) -> Mapping[str, Mapping[str, Sequence[Ranking]]]:
    """By category and point what its expert learns from.

    Raises:
        DataError: a point has nothing.
    """
    if config.capabilities is None:
        found = label_points(run, config.labeller, records, points, config.device)
    else:
        found = read_capabilities(config.capabilities, {name: points[name] for name in records})
    empty = [f"{name}: {point}" for name, each in found.items() for point, mine in each.items() if not mine]
    if empty:
        raise DataError(
            f"{len(empty)} capability points have no pair to learn from, first {empty[0]}.",
            hint="Give more records, a labeller that agrees with itself more often, or fewer points.",
        )
    return found


def read_capabilities(
    source: str, points: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, list[Ranking]]]:
    """Pairs with the columns `category` and `point`, by both."""
    from coalign.data.readers import read_records

    found: dict[str, dict[str, list[Ranking]]] = {
        name: {one: [] for one in mine} for name, mine in points.items()
    }
    problems = []
    for record in read_records(source, kind="preference").records:
        name, point = (str(record.extra.get(one, "")) for one in ("category", "point"))
        if point not in found.get(name, {}):
            problems.append(
                record.problem("point", f"is {point!r} of {name!r}", "a point of a category with records")
            )
        elif isinstance(record, Preference):
            pair = Ranking.of(record, responses=(record.chosen, record.rejected), scores=(1.0, 0.0))
            found[name][point].append(pair)
    if problems:
        raise DataError(f"{len(problems)} capability pairs cannot be used.", problems)
    return found

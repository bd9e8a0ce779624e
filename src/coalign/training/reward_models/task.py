"""Learning a reward model from rankings: examples, batches and the loss, whatever the model reads."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from coalign.core.errors import DataError
from coalign.core.limits import is_number
from coalign.core.options import NonNegative, OptionGroup, Positive, option
from coalign.data.records import Ranking
from coalign.training.losses.bradley_terry import bradley_terry_losses, record_means
from coalign.training.losses.listwise import best_responses, ordered_pairs, ranking_accuracies
from coalign.training.losses.pairs import reward_metrics
from coalign.training.losses.pairwise import Smoothing
from coalign.training.objective import Losses
from coalign.training.task import Batch, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import TrainerState

MARGIN_COLUMN = "margin"


@dataclass(kw_only=True)
class RewardLossOptions(OptionGroup):
    """Constants of the Bradley-Terry loss."""

    __group__ = "Objective"

    margin: Literal["none", "scores", "column"] = option(
        "none",
        "by how much a better response should be ahead: nothing, the difference of the scores in the data, or the column "
        "`margin` of each record",
        source="arXiv 2307.09288",
    )
    margin_scale: Positive = option(
        1.0, "margins are multiplied by it", only_with={"margin": ("scores", "column")}
    )
    label_smoothing: Smoothing = option(0.0, "the assumed share of pairs whose labels are swapped")
    center_rewards_coefficient: NonNegative = option(
        0.0,
        "weight of the squared sum of a pair's rewards, which keeps them around 0 (0.01 is usual)",
        source="TRL",
    )
    reward_l2: NonNegative = option(
        0.0,
        "weight of the sum of a pair's squared rewards, which bounds them too (0.01 is usual)",
        source="arXiv 2404.00934; Align Anything has it halved",
    )
    score_weight: NonNegative = option(
        0.0,
        "weight of the squared distance of each reward from the response's absolute score, z-scored in its data set; "
        "records that hold an order alone have no such term",
        source="arXiv 2410.14940, equation 1",
    )


class Inputs(Protocol):
    """How a model reads texts, or anything else that is rewarded: `models.reward_inputs.RewardInputs`, for instance."""

    def rewards(self, model: nn.Module, groups: Sequence[Sequence[Any]]) -> Tensor:
        """[B] rewards of what the groups hold, in order, with gradient."""
        ...


@dataclass(frozen=True)
class RewardExample:
    """One prompt with its responses.

    Attributes:
        id: of the record, for messages.
        tag: of its data set.
        inputs: for each response what the model reads.
        values: for each response how good it is; equal values are not compared.
        margin: of every pair; None takes the difference of the values.
        scores: what each reward should be; empty where the values are an order alone.
    """

    id: str
    tag: str
    inputs: tuple[Any, ...]
    values: tuple[float, ...]
    margin: float | None = 0.0
    scores: tuple[float, ...] = ()

    @property
    def pairs(self) -> int:
        """Pairs of different value."""
        return sum(one > other for one in self.values for other in self.values)


def tag_of(record: Ranking) -> str:
    """The data set of a record: the tag of its source in a mix, or its column `tag`."""
    return str(record.source.tag or record.extra.get("tag") or "")


def score_scales(records: Sequence[Ranking]) -> dict[str, tuple[float, float]]:
    """Mean and deviation (n in the divisor) of the absolute scores of each data set, by its tag."""
    found: dict[str, list[float]] = {}
    for one in records:
        if one.absolute:
            found.setdefault(tag_of(one), []).extend(one.scores)
    return {tag: (statistics.fmean(scores), statistics.pstdev(scores)) for tag, scores in found.items()}


def make_examples(
    records: Sequence[Ranking],
    inputs: Sequence[Sequence[Any]],
    margin: str,
    scales: Mapping[str, tuple[float, float]] | None = None,
) -> list[RewardExample]:
    """Records with what the model reads of their responses; those in which nothing is better are left out.

    Args:
        scales: mean and deviation of the scores of each data set, where rewards are to be near them.

    Raises:
        DataError: the column `margin` is asked for and is missing, or is no finite number.
    """
    examples, problems = [], []
    for record, texts in zip(records, inputs, strict=True):
        known: float | None = 0.0 if margin == "none" else None
        if margin == "column":
            known = record.extra.get(MARGIN_COLUMN)
            if not is_number(known):
                found = "is missing" if known is None else f"is {known!r:.60}"
                problems.append(record.problem(MARGIN_COLUMN, found, "a finite number"))
                continue
        tag = tag_of(record)
        mean, deviation = (scales or {}).get(tag, (0.0, 0.0))
        scores = (
            [(score - mean) / deviation for score in record.scores] if deviation and record.absolute else ()
        )
        one = RewardExample(record.id, tag, tuple(texts), record.scores, known, tuple(scores))
        if one.pairs:
            examples.append(one)
    if problems:
        raise DataError(f"{len(problems)} of {len(records)} records have no margin.", problems)
    return examples


class RewardTask(Task):
    """Bradley-Terry on every pair of a record whose values differ; a record counts once, however many pairs it has."""

    name = "reward model"

    def __init__(self, inputs: Inputs, options: RewardLossOptions, tags: Sequence[str]) -> None:
        self.inputs = inputs
        self.options = options
        self.tags = list(tags)

    def collate(self, examples: Sequence[RewardExample]) -> Batch:
        index = [row for row, one in enumerate(examples) for _ in one.values]
        margins = [math.nan if one.margin is None else one.margin for one in examples]
        return {
            "ids": [one.id for one in examples],
            "groups": [one.inputs for one in examples],
            "tags": torch.tensor([self.tags.index(one.tag) for one in examples]),
            "record_index": torch.tensor(index),
            "values": torch.tensor([value for one in examples for value in one.values]),
            "margins": torch.tensor(margins),
            "scores": torch.tensor(
                [score for one in examples for score in one.scores or [math.nan] * len(one.values)]
            ),
        }

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        rewards = self.inputs.rewards(model, batch["groups"])
        return Losses(self.record_losses(rewards, batch), self.metrics(rewards.detach(), batch))

    def record_losses(self, rewards: Tensor, batch: Batch) -> Tensor:
        """[R] the mean loss over the pairs of each record (arXiv 2203.02155, equation 1)."""
        options, values, index = self.options, batch["values"], batch["record_index"]
        better, worse = ordered_pairs(values, index)
        margins = batch["margins"][index[better]]
        gaps = torch.where(margins.isnan(), values[better] - values[worse], margins)
        losses = bradley_terry_losses(
            rewards[better],
            rewards[worse],
            options.margin_scale * gaps.to(rewards.dtype),
            label_smoothing=options.label_smoothing,
            center_rewards_coefficient=options.center_rewards_coefficient,
            reward_l2=options.reward_l2,
            score_weight=options.score_weight,
            scores=(batch["scores"][better].to(rewards.dtype), batch["scores"][worse].to(rewards.dtype)),
        )
        return record_means(losses, index[better], len(batch["ids"]))

    def metrics(self, rewards: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Best and worst response of each record, and the share of pairs in order, of each data set too."""
        values, index = batch["values"], batch["record_index"]
        best, worst = best_responses(values, index), best_responses(-values, index)
        accuracies = ranking_accuracies(rewards, values, index)
        known = {**reward_metrics(rewards[best], rewards[worst]), "rewards/accuracies": accuracies}
        if len(self.tags) > 1:
            for place, tag in enumerate(self.tags):
                known[f"accuracy/{tag}"] = torch.where(batch["tags"] == place, accuracies, torch.nan)
        return known

"""Learn a reward from ranked captions, and measure it on pictures that were held out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from coalign.core.options import Count, Fraction, NonNegative, Positive, Seed, option
from coalign.curation.image_text.annotations import RankedCaptions
from coalign.training.losses.bradley_terry import Ties, ranking_losses
from coalign.training.options import ModuleTrainingOptions
from coalign.training.reward_models.task import RewardExample, RewardLossOptions, RewardTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coalign.core.runs import Run
    from coalign.curation.image_text.reward import RewardModel
    from coalign.training.job import FitResult
    from coalign.training.task import Batch

Average = Literal["groups", "pairs"]
FEATURES_RATE, BACKBONE_RATE = 1e-3, 1e-5


@dataclass(kw_only=True)
class RewardTrainingOptions(ModuleTrainingOptions):
    """How the reward learns from ranked captions."""

    __group__ = "Training"

    ties: Ties = option(
        "exclude", "captions of equal rank: no pair, or a pair that is half won by either side"
    )
    average: Average = option("groups", "of the losses: pictures count alike, or pairs do")
    frozen: Fraction = option(0.7, "of BLIP: share of the layers of each tower that stay as they are")
    dropout: Fraction = option(0.2, "in the head")
    learning_rate: Positive | None = option(
        None, "peak learning rate; by default 1e-3 for a head on features, 1e-5 where BLIP learns too"
    )
    epochs: Positive = option(10.0, "passes over the annotated pictures")
    batch_size: Count = option(32, "pictures, each with all its captions, in one forward pass")
    warmup_ratio: Fraction = option(0.1, "share of the steps with rising learning rate")
    weight_decay: NonNegative = option(0.01, "AdamW weight decay")
    eval_fraction: Fraction = option(0.1, "share of the annotated pictures held out")
    seed: Seed = option(0, "seed of everything random")


class RankedCaptionTask(RewardTask):
    """The pairwise logistic loss over the captions of a picture (arXiv 2312.06726, section 3.2): all captions of a picture
    are in one example, so that none of them is seen more often than the others.

    Args:
        average: `groups` divides a picture's loss by its pairs, and a step's by its pictures; `pairs` the sum of all losses
            of a step by its pairs.
    """

    name = "reward of captions"
    examples = "the annotated pictures"
    advice = "look at these pictures and captions"

    def __init__(self, inputs: Any, ties: Ties, average: Average) -> None:
        super().__init__(inputs, RewardLossOptions(), [""])
        self.ties: Ties = ties
        self.average: Average = average

    def count(self, batch: Batch) -> int:
        if self.average == "groups":
            return len(batch["ids"])
        _, pairs = self._losses(torch.zeros(len(batch["values"])), batch)
        return int(pairs.sum())

    def record_losses(self, rewards: Tensor, batch: Batch) -> Tensor:
        """[R] the loss of each picture: the mean over its pairs, or their sum where pairs count alike."""
        sums, pairs = self._losses(rewards, batch)
        return sums / pairs.clamp(min=1) if self.average == "groups" else sums

    def _losses(self, rewards: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        values, index = batch["values"].to(rewards.device), batch["record_index"].to(rewards.device)
        return ranking_losses(rewards, values, index, ties=self.ties)


@dataclass(frozen=True)
class Learnt:
    """What the training did.

    Attributes:
        history: one row a log line.
        pictures, pairs: that were learnt from; `held_out` pictures were not.
        untold: annotated pictures without a pair, which teach nothing.
        broken: annotated pictures that could not be opened, each with its reason.
        origins: where the captions that were learnt from come from.
    """

    steps: int
    history: list[dict[str, float]]
    pictures: int
    pairs: int
    held_out: int
    untold: int
    broken: list[str]
    origins: list[str]


def split_pictures(
    records: Sequence[RankedCaptions], fraction: float, seed: int
) -> tuple[list[RankedCaptions], list[RankedCaptions]]:
    """To learn from, and held out: all rankings of one picture are on the same side."""
    pictures = sorted({one.image.called for one in records})
    random.Random(f"{seed}/held out").shuffle(pictures)
    held_out = set(pictures[: round(fraction * len(pictures))])
    sides: tuple[list[RankedCaptions], list[RankedCaptions]] = ([], [])
    for one in records:
        sides[one.image.called in held_out].append(one)
    return sides


def make_example(record: RankedCaptions, items: Sequence[Any]) -> RewardExample:
    """A picture with what the model reads of each caption."""
    return RewardExample(record.id, "", tuple(items), tuple(-rank for rank in record.ranks))


def fit_reward(
    model: RewardModel,
    inputs: Any,
    examples: Sequence[RewardExample],
    held_out: Sequence[RewardExample],
    options: RewardTrainingOptions,
    run: Run,
) -> FitResult:
    """Train `model` in place, then standardise it on all captions that it learnt from.

    Args:
        inputs: `rewards(model, groups) -> [B]` of what the examples hold.
        examples, held_out: of one or more captions each; those without a pair are to be left out.
    """
    from coalign.curation.image_text.reward import EmbeddingReward
    from coalign.training.modules import fit_module

    rate = FEATURES_RATE if isinstance(model, EmbeddingReward) else BACKBONE_RATE
    result = fit_module(
        model,
        RankedCaptionTask(inputs, options.ties, options.average),
        examples,
        options,
        run,
        held_out=held_out,
        learning_rate=options.learning_rate or rate,
    ).finite()
    model.eval()
    model.standardise(rewards_of(model, inputs, examples, options.batch_size))
    return result


def rewards_of(model: nn.Module, inputs: Any, examples: Sequence[RewardExample], batch_size: int) -> Tensor:
    """[captions] rewards of all examples in order, without gradient, on the CPU."""
    found = []
    with torch.no_grad():
        for start in range(0, len(examples), batch_size):
            groups = [one.inputs for one in examples[start : start + batch_size]]
            found.append(inputs.rewards(model, groups).float().cpu())
    return torch.cat(found) if found else torch.zeros(0)

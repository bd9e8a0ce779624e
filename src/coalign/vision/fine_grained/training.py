"""Learn the scores that people gave: examples, batches, the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from coalign.core.options import Count, Fraction, NonNegative, Positive, Seed, option
from coalign.training.objective import Losses
from coalign.training.options import ModuleTrainingOptions
from coalign.training.task import Batch, Task
from coalign.vision.fine_grained.elements import element_mask, phrase_of, prompt_variances
from coalign.vision.fine_grained.items import Item
from coalign.vision.fine_grained.losses import Distance, VarianceWeight, fine_grained_losses

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerState

    from coalign.vision.fine_grained.reading import Reader

DEFAULT_BASE = "Salesforce/blip2-itm-vit-g-coco"


@dataclass(kw_only=True)
class FineGrainedTraining(ModuleTrainingOptions):
    """How the scorer learns."""

    __group__ = "Training"

    variance_weight: VarianceWeight = option(
        "exp",
        "of the overall term: exp of the variance of the prompt's scores, or none as in the released code",
        source="paper",
    )
    token_weight: NonNegative = option(0.1, "of the scores of tokens", source="official code")
    mask_weight: NonNegative = option(0.1, "of the guess which tokens are elements", source="official code")
    distance: Literal["auto", "absolute", "cross-entropy"] = option(
        "auto",
        "of scores in the loss; auto: absolute (official code) for BLIP-2, cross-entropy for joint layers, which start from "
        "random weights",
    )
    text_length: Count = option(
        32, "tokens of a prompt in training; scoring reads it whole", source="official code"
    )
    learning_rate: Positive | None = option(
        None, "peak learning rate; by default 1e-5 for BLIP-2 (official code), 3e-4 for joint layers"
    )
    epochs: Positive = option(5.0, "passes over the items", source="official code")
    batch_size: Count = option(14, "items in one forward pass", source="official code")
    warmup_ratio: Fraction = option(
        0.01, "share of the steps with rising learning rate; the official code has 100 steps"
    )
    weight_decay: NonNegative = option(0.05, "AdamW weight decay", source="official code")
    eval_fraction: Fraction = option(
        0.1, "share of the prompts, with all their pictures, held out of the training items"
    )
    seed: Seed = option(42, "seed of everything random", source="official code")


@dataclass(frozen=True)
class Example:
    """An item as it is learnt.

    Attributes:
        ids: [L] tokens of the prompt, with special ones, cut to the length.
        mask, scores: [length] of `elements.ElementMask.framed`.
        overall: 1 to 5.
        variance: of the overall scores of all pictures of the prompt.
    """

    item: Item
    ids: list[int]
    mask: list[float]
    scores: list[float]
    overall: float
    variance: float


@dataclass(frozen=True)
class Examples:
    """What items teach.

    Attributes:
        unscored: items without an overall score.
        lost: items with an element whose phrase is not found in the prompt, which are left out (official preprocessing).
        cut: examples with an element beyond the text length.
    """

    examples: list[Example]
    unscored: int
    lost: int
    cut: int


def make_examples(items: Sequence[Item], reader: Reader, length: int) -> Examples:
    """Items as they are learnt; variances are over all scored items of a prompt."""
    scored = [one for one in items if one.score is not None]
    overall = [one.score or 0.0 for one in scored]
    variances = prompt_variances([one.prompt for one in scored], overall)
    found: list[Example] = []
    lost = cut = 0
    for one, score, variance in zip(scored, overall, variances, strict=True):
        ids = reader.prompt_ids(one.prompt)
        means = one.element_means
        marked = element_mask(ids, {name: reader.phrase_ids(phrase_of(name)) for name in means}, means)
        if marked.missing:
            lost += 1
            continue
        cut += sum(marked.mask[length:]) > 0
        mask, scores = marked.framed(length, score)
        found.append(Example(one, ids[:length], mask, scores, score, variance))
    return Examples(found, len(items) - len(scored), lost, cut)


class FineGrainedTask(Task):
    """The objective of `losses.fine_grained_losses` on items with pictures."""

    name = "fine-grained alignment"
    examples = "the items"
    advice = "look at these pictures and scores"

    def __init__(self, reader: Reader, options: FineGrainedTraining, distance: Distance = "absolute") -> None:
        self.reader = reader
        self.options = options
        self.distance: Distance = distance

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Texts are padded to the whole text length: all its places count in the loss."""
        length = self.options.text_length
        ids, mask = self.reader.padded([one.ids for one in examples], length)
        return {
            "ids": [one.item.id for one in examples],
            "pixels": self.reader.pixels([one.item.image for one in examples]),
            "text": ids,
            "attention": mask,
            "mask": torch.tensor([one.mask for one in examples]),
            "scores": torch.tensor([one.scores for one in examples]),
            "overall": torch.tensor([one.overall for one in examples]),
            "variances": torch.tensor([one.variance for one in examples]),
        }

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        scored: Any = model(batch["pixels"], batch["text"], batch["attention"])
        losses = fine_grained_losses(
            scored.logits,
            scored.marks,
            batch["mask"],
            batch["scores"],
            batch["overall"],
            batch["variances"],
            queries=scored.queries,
            token_weight=self.options.token_weight,
            mask_weight=self.options.mask_weight,
            variance_weight=self.options.variance_weight,
            distance=self.distance,
        )
        with torch.no_grad():
            gap = (scored.overall - batch["overall"]).abs()
        return Losses(losses, {"overall_error": gap})

"""Human negatives beside samples of the default model: margins between them, and what becomes of the chosen responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from coalign.checks.arms import Measures
from coalign.checks.worlds.records.default_model import sampled, short, text_logps
from coalign.core.errors import DataError
from coalign.data.records import Demonstration, Preference, Ranking
from coalign.preference.data.anchors import anchor, human_negatives


@dataclass(frozen=True)
class NegativeText:
    """Pairs, and their rejected responses beside samples of the default model.

    Attributes:
        rankings: the samples (score 1) and the rejected response (score 0, last) to each prompt.
        before: for each ranking the summed log-probabilities of its responses under the default model.
    """

    seed: int
    pairs: list[Preference]
    rankings: list[Ranking]
    before: list[list[float]]

    @property
    def rejected(self) -> list[Demonstration]:
        """The rejected responses alone."""
        return [Demonstration.of(one, completion=one.rejected) for one in self.pairs]


def negative_text(
    pairs: Sequence[Preference], seed: int, *, prompts: int = 20, samples: int = 3, tokens: int = 160
) -> NegativeText:
    """`prompts` short pairs and `samples` samples of 24 tokens to each of their prompts.

    Raises:
        DataError: too few pairs are short, or no sample is usable.
    """
    taken = short(pairs, prompts, seed, tokens=tokens)
    own = sampled([one.prompt for one in taken], samples, max_new_tokens=24, seed=seed)
    anchored = anchor(human_negatives(taken), own)
    if not anchored.records:
        raise DataError(
            "No sample of the default model is usable: all are empty or equal to the rejected response.",
            anchored.dropped,
        )
    return NegativeText(seed, taken, anchored.records, _sums(anchored.records))


def negative_measures(
    material: NegativeText, model: nn.Module | None, margins: Callable[[Tensor, Tensor], Tensor]
) -> Measures:
    """Mean margin of self-samples over the negative, and cross-entropy of the chosen responses in nats a token.

    Args:
        model: None for the default model.
        margins: ([R] mean log-ratio of the self-samples, [R] log-ratio of the negative) to margins.
    """
    after = material.before if model is None else _sums(material.rankings, model)
    ratios = [
        [new - old for new, old in zip(row, known, strict=True)]
        for row, known in zip(after, material.before, strict=True)
    ]
    found = margins(
        torch.tensor([fmean(row[:-1]) for row in ratios]), torch.tensor([row[-1] for row in ratios])
    )
    chosen = torch.cat([row[0] for row in text_logps(material.pairs, model)])
    return {"margin": float(found.mean()), "nll, chosen": -float(chosen.mean())}


def _sums(rankings: Sequence[Ranking], model: nn.Module | None = None) -> list[list[float]]:
    return [[float(one.sum()) for one in row] for row in text_logps(rankings, model)]

"""Density ratios between the prompts of two groups of records, by a classifier on sentence embeddings.

When thumbs-up and thumbs-down come from different mixes of prompts, a model can tell the labels apart by the prompt.
A classifier that reads only the prompt says how much: its odds p / (1 - p) are the ratio of the two prompt
densities, up to a constant, and weighting one group by them gives it the prompts of the other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import torch

from coalign.core.errors import DataError
from coalign.data.records import Feedback, Messages

if TYPE_CHECKING:
    from torch import Tensor

PROB_DESIRABLE = "prob_desirable"
"""Column with the probability that a record's prompt belongs to a desirable response."""
GUARD = 1e-8
"""Added to 1 - p before dividing, as the official code of BCO does."""

Embed: TypeAlias = "Callable[[Sequence[str]], Tensor]"


def density_ratios(prob_desirable: Tensor, *, minimum: float, maximum: float) -> Tensor:
    """[R] `clip(p / (1 - p + 1e-8), minimum, maximum)`: how much more often the desirable group has such a prompt.

    Args:
        prob_desirable: [R] probabilities p that the prompt belongs to the desirable group, classes balanced.
    """
    return (prob_desirable / (1 - prob_desirable + GUARD)).clamp(minimum, maximum)


@dataclass(frozen=True)
class LinearClassifier:
    """A fitted logistic regression.

    Attributes:
        weights: [D] float64.
        bias: [] float64.
    """

    weights: Tensor
    bias: Tensor

    def probabilities(self, embeddings: Tensor) -> Tensor:
        """[n] probability of label 1 for [n, D] embeddings."""
        return torch.sigmoid(embeddings.double() @ self.weights + self.bias)


def fit_classifier(embeddings: Tensor, labels: Tensor, *, penalty: float = 1.0) -> LinearClassifier:
    """Logistic regression with balanced classes: the minimum of `penalty |w|^2 / 2 + sum_i c_i log(1 + exp(-z_i))`.

    Each class gets the same total weight (c = n / (2 n_class)); the bias is not penalised. The problem is convex:
    the result does not depend on a seed. With `penalty=1` this is scikit-learn's
    `LogisticRegression(class_weight="balanced")`.

    Args:
        embeddings: [n, D]
        labels: [n] true (or 1) and false (or 0).

    Raises:
        DataError: only one class is there.
    """
    features, targets = embeddings.detach().cpu().double(), labels.detach().cpu().double()
    positives = float(targets.sum())
    negatives = len(targets) - positives
    if min(positives, negatives) == 0:
        found = "desirable" if positives else "undesirable"
        raise DataError(
            f"All {len(targets)} records are {found}: there is nothing to tell their prompts from.",
            hint="Density ratios need thumbs-up and thumbs-down records.",
        )
    balance = torch.where(targets == 1, len(targets) / (2 * positives), len(targets) / (2 * negatives))
    parameters = torch.zeros(features.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [parameters],
        max_iter=1000,
        tolerance_grad=1e-9,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        solver.zero_grad()
        logits = features @ parameters[:-1] + parameters[-1]
        fit = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, targets, weight=balance, reduction="sum"
        )
        loss = fit + penalty / 2 * parameters[:-1].square().sum()
        loss.backward()
        return loss

    solver.step(closure)  # type: ignore[arg-type]
    fitted = parameters.detach()
    return LinearClassifier(fitted[:-1], fitted[-1])


def with_prob_desirable(
    records: Sequence[Feedback],
    embed: Embed,
    *,
    sample_size: int,
    seed: int = 0,
    fitted_on: Sequence[Feedback] | None = None,
) -> list[Feedback]:
    """The records with the column `prob_desirable`: the classifier's probability for each prompt.

    Every prompt is embedded once. The classifier is fitted on at most `sample_size` records a class, drawn without
    replacement.

    Args:
        embed: texts to [n, D] embeddings (`SentenceEncoder.encode`).
        fitted_on: the records to fit on, by default `records`; among `records` may be held-out ones then.

    Raises:
        DataError: the records are of one class only.
    """
    texts = [prompt_text(record.prompt) for record in records]
    source = records if fitted_on is None else fitted_on
    source_texts = [prompt_text(record.prompt) for record in source]
    rows = {text: row for row, text in enumerate(dict.fromkeys([*texts, *source_texts]))}
    if not rows:
        raise DataError(
            "There are no records to weight.", hint="Density ratios need thumbs-up and thumbs-down records."
        )
    embeddings = embed(list(rows))
    order = list(range(len(source)))
    random.Random(seed).shuffle(order)
    chosen = [
        index
        for label in (True, False)
        for index in [one for one in order if source[one].label is label][:sample_size]
    ]
    labels = torch.tensor([float(source[index].label) for index in chosen])
    classifier = fit_classifier(embeddings[[rows[source_texts[index]] for index in chosen]], labels)
    probabilities = classifier.probabilities(embeddings.cpu()).tolist()
    return [
        replace(record, extra={**record.extra, PROB_DESIRABLE: probabilities[rows[text]]})
        for record, text in zip(records, texts, strict=True)
    ]


def prompt_text(messages: Messages) -> str:
    """What of a prompt is embedded: the contents of its messages, a line break between them."""
    return "\n".join(message["content"] for message in messages)

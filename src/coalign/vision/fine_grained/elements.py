"""Elements of a prompt: where their words stand among the prompt's tokens, and what people say of them."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_CATEGORY = re.compile(r"\s*\(([^()]*)\)\s*$")
DIGITS = 6
"""Decimals of means over annotators. Source: the official preprocessing."""


@dataclass(frozen=True)
class ElementMask:
    """What is said of each token of a prompt.

    Attributes:
        mask: [L] 1 where a token belongs to an element.
        scores: [L] mean score of the elements that a token belongs to, 0 elsewhere.
        missing: elements whose tokens are not found.
    """

    mask: list[float]
    scores: list[float]
    missing: tuple[str, ...] = ()

    def framed(self, length: int, overall: float) -> tuple[list[float], list[float]]:
        """([length], [length]) mask and scores cut or padded with 0; the first place, that of the leading special token,
        carries the overall score of 1 to 5 as a share.
        """
        mask, scores = ((values + [0.0] * length)[:length] for values in (self.mask, self.scores))
        mask[0], scores[0] = 1.0, (overall - 1) / 4
        return mask, scores


def phrase_of(element: str) -> str:
    """The words of an element that is written "phrase (category)"."""
    return _CATEGORY.sub("", element).strip()


def category_of(element: str) -> str:
    """The category of an element that is written "phrase (category)"; empty where there is none."""
    found = _CATEGORY.search(element)
    return found[1].strip() if found else ""


def find_tokens(tokens: Sequence[int], part: Sequence[int]) -> int | None:
    """Where `part` stands in `tokens` for the first time, as one stretch; None where it does not, or is empty."""
    size = len(part)
    if not size:
        return None
    wanted = list(part)
    return next(
        (place for place in range(len(tokens) - size + 1) if list(tokens[place : place + size]) == wanted),
        None,
    )


def element_mask(
    tokens: Sequence[int], elements: Mapping[str, Sequence[int]], scores: Mapping[str, float] | None = None
) -> ElementMask:
    """The tokens of a prompt that its elements cover. Tokens of several elements have the mean of their scores.

    Args:
        tokens: [L] the prompt with its special tokens.
        elements: element to its tokens, without special ones.
        scores: element to what people say of it, in [0, 1]; None leaves scores 0.
    """
    sums, counts = [0.0] * len(tokens), [0] * len(tokens)
    missing = []
    for element, part in elements.items():
        start = find_tokens(tokens, part)
        if start is None:
            missing.append(element)
            continue
        for place in range(start, start + len(part)):
            sums[place] += scores[element] if scores is not None else 0.0
            counts[place] += 1
    return ElementMask(
        [float(count > 0) for count in counts],
        [total / count if count else 0.0 for total, count in zip(sums, counts, strict=True)],
        tuple(missing),
    )


def mean_label(labels: Sequence[float]) -> float:
    """Mean over annotators, rounded to six decimals."""
    return round(statistics.fmean(labels), DIGITS)


def prompt_variances(prompts: Sequence[str], scores: Sequence[float]) -> list[float]:
    """[n] of each picture the sample variance (n - 1) of the mean overall scores of all pictures of its prompt; 0 where
    there is one.
    """
    of_prompt: dict[str, list[float]] = {}
    for prompt, score in zip(prompts, scores, strict=True):
        of_prompt.setdefault(prompt, []).append(score)
    found = {
        prompt: statistics.variance(several) if len(several) > 1 else 0.0
        for prompt, several in of_prompt.items()
    }
    return [found[prompt] for prompt in prompts]


def element_accuracy(
    predicted: Sequence[float], human: Sequence[float], threshold: float = 0.5
) -> float | None:
    """Share of elements that are on the same side of the threshold in both (at it counts as shown); None without any."""
    if not human:
        return None
    same = [(one >= threshold) == (other >= threshold) for one, other in zip(predicted, human, strict=True)]
    return math.fsum(same) / len(same)

"""Whether two texts come of one template: the words that they share in order."""

from __future__ import annotations

from collections.abc import Sequence

from coalign.measures.texts.text_units import words


def common_in_order(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    from rapidfuzz.distance import LCSseq

    return LCSseq.similarity(first, second)


def template_similarity(first: Sequence[str], second: Sequence[str]) -> float:
    """The longest common subsequence of words over the length of the longer text, in [0, 1]; 0 where one is empty.

    Source: the Baichuan Alignment report (arXiv 2410.14940), section 3.1.2; the ratio is ours, the report says that the
    longest common subsequence tells.
    """
    longer = max(len(first), len(second))
    return common_in_order(first, second) / longer if longer else 0.0


class TemplatePool:
    """Texts that were kept, to see whether another comes of one of their templates.

    Args:
        threshold: similarity from which on two texts have one template.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._known: list[list[str]] = []

    def nearest(self, text: str) -> float:
        """The similarity to the first kept text that has the same template, else 0. Texts whose lengths alone rule it out
        are not compared.
        """
        said = [one.casefold() for one in words(text)]
        for other in self._known:
            if min(len(said), len(other)) >= self._threshold * max(len(said), len(other)):
                similarity = template_similarity(said, other)
                if similarity >= self._threshold:
                    return similarity
        return 0.0

    def add(self, text: str) -> None:
        self._known.append([one.casefold() for one in words(text)])

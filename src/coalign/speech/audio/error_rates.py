"""Word and character error rates: edits over the length of the reference, pooled over a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ErrorRate:
    """Edits between hypotheses and references, summed over a corpus.

    Attributes:
        length: units of all references.
    """

    substitutions: int
    insertions: int
    deletions: int
    length: int

    @property
    def rate(self) -> float:
        """Edits over reference units; may exceed 1. Without any reference unit 0 if nothing was written, else 1."""
        edits = self.substitutions + self.insertions + self.deletions
        return edits / self.length if self.length else float(edits > 0)


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorRate:
    """Over words, split at white space."""
    return _pooled([one.split() for one in references], [one.split() for one in hypotheses])


def character_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorRate:
    """Over characters, single spaces between words counted."""
    return _pooled(
        [" ".join(one.split()) for one in references], [" ".join(one.split()) for one in hypotheses]
    )


def edit_pairs(reference: Sequence[Any], hypothesis: Sequence[Any]) -> list[tuple[int | None, int | None]]:
    """Places of an optimal Levenshtein alignment in order: (reference, hypothesis), None for what is missing.

    Of equally good alignments the one with matches and substitutions as late as possible.
    """
    costs = [list(range(len(hypothesis) + 1))]
    for row, one in enumerate(reference, start=1):
        before, now = costs[-1], [row]
        for column, other in enumerate(hypothesis, start=1):
            now.append(min(before[column - 1] + (one != other), before[column] + 1, now[-1] + 1))
        costs.append(now)
    pairs: list[tuple[int | None, int | None]] = []
    row, column = len(reference), len(hypothesis)
    while row or column:
        here = costs[row][column]
        if (
            row
            and column
            and here == costs[row - 1][column - 1] + (reference[row - 1] != hypothesis[column - 1])
        ):
            row, column = row - 1, column - 1
            pairs.append((row, column))
        elif row and here == costs[row - 1][column] + 1:
            row -= 1
            pairs.append((row, None))
        else:
            column -= 1
            pairs.append((None, column))
    return pairs[::-1]


def _pooled(references: Sequence[Sequence[Any]], hypotheses: Sequence[Sequence[Any]]) -> ErrorRate:
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references for {len(hypotheses)} hypotheses, expected as many")
    substitutions = insertions = deletions = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        for mine, other in edit_pairs(reference, hypothesis):
            if mine is None:
                insertions += 1
            elif other is None:
                deletions += 1
            else:
                substitutions += reference[mine] != hypothesis[other]
    return ErrorRate(substitutions, insertions, deletions, sum(map(len, references)))

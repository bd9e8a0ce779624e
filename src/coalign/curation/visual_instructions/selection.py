"""The cascade: shares of conversations by their questions, then by their answers; and whether a rewriting is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from coalign.loops.rows import Row
from coalign.loops.steps.choices import numbers
from coalign.loops.steps.kinds import Picks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coalign.judging.protocol import PairVerdict

Rounding = Literal["down", "down, one at least"]
_ROUNDING = 1e-9


def kept_of(size: int, share: float, rounding: Rounding = "down") -> int:
    """How many of `size` a share is: `int(share size)`, as the official code has it, or one at least."""
    count = int(share * size + _ROUNDING)
    return max(count, 1) if rounding == "down, one at least" and size else count


def top(scores: Sequence[float], share: float, *, rounding: Rounding = "down, one at least") -> list[int]:
    """The places of the highest share of the scores, in their order; of equal scores the first."""
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    return sorted(order[: kept_of(len(scores), share, rounding)])


def two_stages(
    question_scores: Sequence[float],
    answer_scores: Sequence[Sequence[float]],
    alpha: float,
    beta: float,
) -> tuple[list[int], list[tuple[int, int]]]:
    """Single answers: the questions of the first stage, and of all their answers those of the second, as (question, answer).

    The first reading of the paper's figure; the official code keeps whole conversations (`TopOfEach`).
    """
    first = top(question_scores, alpha)
    candidates = [(place, number) for place in first for number in range(len(answer_scores[place]))]
    second = top([answer_scores[place][number] for place, number in candidates], beta)
    return first, [candidates[one] for one in second]


def best_answers(scores: Sequence[Sequence[float]]) -> tuple[list[int], float]:
    """([turns], mean) the best-scored answer of each turn, the first of equal ones, and the mean of their scores."""
    picked = [max(range(len(each)), key=lambda place: (each[place], -place)) for each in scores]
    return picked, sum(each[place] for each, place in zip(scores, picked, strict=True)) / len(picked)


@dataclass(frozen=True)
class TopOfEach:
    """Keeps the share of the records with the highest `column` within each group, in their order; of equal ones the first.

    Args:
        group: of a record; one group where it is None.
        most_of: keep at most so many records of one picture before the share is taken, the best ones.
    """

    name: str
    column: str
    share: float
    group: Callable[[Row], str] | None = None
    rounding: Rounding = "down"
    most_of: int | None = None

    @property
    def needs(self) -> Sequence[str]:
        return (self.column,)

    def sketch(self, rows: Sequence[Row]) -> NDArray[Any]:
        import numpy as np

        found = np.empty(len(rows), dtype=[("score", "f8"), ("group", "u8"), ("picture", "u8")])
        found["score"] = numbers(rows, self.column)
        found["group"] = [_digest(self.group(row)) if self.group else 0 for row in rows]
        found["picture"] = [_digest(row["image"] or row["id"]) for row in rows]
        return found

    def choose(self, sketches: NDArray[Any]) -> Picks:
        import numpy as np

        scores, kept = sketches["score"], []
        for group in np.unique(sketches["group"]):
            members = np.flatnonzero(sketches["group"] == group)
            order = members[np.argsort(-scores[members], kind="stable")]
            if self.most_of is not None:
                order = order[_among_first(sketches["picture"][order], self.most_of)]
            kept.append(order[: kept_of(len(members), self.share, self.rounding)])
        chosen = np.sort(np.concatenate(kept)) if kept else np.empty(0, np.int64)
        return Picks(chosen, f"not among the highest {self.column}")


def _among_first(values: NDArray[Any], most: int) -> NDArray[Any]:
    """Whether each is among the first `most` of its value."""
    import numpy as np

    order = np.argsort(values, kind="stable")
    ordered = values[order]
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(values) else np.empty(0, bool)
    starts = np.maximum.accumulate(np.where(begins, np.arange(len(values)), 0))
    found = np.empty(len(values), bool)
    found[order] = np.arange(len(values)) - starts < most
    return found


def _digest(text: str) -> int:
    import hashlib

    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )


def rewriting_wins(verdict: PairVerdict) -> bool:
    """Whether a review of (original, rewriting) takes the rewriting: in every order that was asked."""
    return verdict.choice == "second"

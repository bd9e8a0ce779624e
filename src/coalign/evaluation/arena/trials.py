"""Trials of rankings on verdicts that are there already: random brackets and comparisons with a reference, drawn from the
judged pairs of a file.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coalign.core.errors import DataError, RecordProblem
from coalign.data.messages import FieldError
from coalign.data.rows import Row, iter_rows, parse_each
from coalign.evaluation.arena.tournament import play_bracket
from coalign.measures.agreement import spearman
from coalign.measures.ratings import bradley_terry, is_connected, wins_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

Pair = tuple[int, int]


@dataclass(frozen=True)
class JudgedPairs:
    """Verdicts of pairs of models.

    Attributes:
        shares: for each prompt, from (first model, second model) to the first one's share of the win; both directions.
    """

    models: tuple[str, ...]
    shares: list[dict[Pair, float]]

    def complete(self) -> list[int]:
        """Prompts on which every pair of models was judged."""
        pairs = len(self.models) * (len(self.models) - 1)
        return [place for place, one in enumerate(self.shares) if len(one) == pairs]

    def ratings(self, prompts: Sequence[int]) -> NDArray[np.float64]:
        """Bradley-Terry ratings of all verdicts on some prompts."""
        return _ratings(
            [
                (first, second, share)
                for place in prompts
                for (first, second), share in self.shares[place].items()
                if first < second
            ],
            len(self.models),
        )


def read_judged_pairs(path: Path) -> JudgedPairs:
    """Verdicts from rows of `matches.jsonl` of a run with every pair: `prompt`, `model_a`, `model_b`, `share_a`.

    A pair that was judged several times on a prompt counts by its mean; rows whose `share_a` is null have no verdict.

    Raises:
        DataError: rows that are not such, fewer than three models, or no prompt on which every pair was judged.
    """
    found: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    problems: list[RecordProblem] = []
    for prompt, first, second, share in parse_each(iter_rows(path), path, _judged_pair, problems):
        if share is not None:
            found[prompt][first, second].append(share)
            found[prompt][second, first].append(1 - share)
    if problems:
        raise DataError(f"{path}: {len(problems)} rows are no judged pairs.", problems)
    models = tuple(sorted({name for one in found.values() for names in one for name in names}))
    place = {name: index for index, name in enumerate(models)}
    shares = [
        {(place[a], place[b]): sum(values) / len(values) for (a, b), values in one.items()}
        for one in found.values()
    ]
    judged = JudgedPairs(models, shares)
    if len(models) < 3 or not judged.complete():
        raise DataError(
            f"{path}: {len(models)} models, {len(judged.complete())} prompts on which every pair of them was judged; "
            "needed are three models and one such prompt.",
            hint="`coalign run varco-arena --schedule all` writes such a file.",
        )
    return judged


def _judged_pair(row: Row) -> tuple[str, str, str, float | None]:
    value = row.value or {}
    share = value.get("share_a")
    wrong = [name for name in ("model_a", "model_b") if not isinstance(value.get(name), str)]
    wrong += [name for name in ("prompt", "share_a") if name not in value]
    if not wrong and share is not None and not (isinstance(share, int | float) and 0 <= share <= 1):
        wrong = ["share_a"]
    if wrong:
        shown = f"is {value[wrong[0]]!r}" if wrong[0] in value else "missing"
        raise FieldError(shown, "as in matches.jsonl", wrong[0])
    return str(value["prompt"]), value["model_a"], value["model_b"], None if share is None else float(share)


def trial(
    judged: JudgedPairs, prompts: Sequence[int], truth: Sequence[float], draw: random.Random
) -> tuple[float, float]:
    """Rank correlations with `truth` of one random tournament a prompt, and of comparisons with a reference.

    The reference is each model in turn, itself with half a win, and the correlation the mean over them; so both ways
    spend N - 1 verdicts a prompt.
    """
    order = list(range(len(judged.models)))
    matches: list[tuple[int, int, float]] = []
    for place in prompts:
        shares = judged.shares[place]

        def winner_of(first: int, second: int, shares: dict[Pair, float] = shares) -> int:
            share = shares[first, second]
            matches.append((first, second, share))
            return first if share > 0.5 or (share == 0.5 and draw.random() < 0.5) else second

        draw.shuffle(order)
        play_bracket(order, winner_of)
    anchored = []
    for reference in order:
        rates = [
            float(np.mean([judged.shares[place].get((one, reference), 0.5) for place in prompts]))
            for one in range(len(order))
        ]
        anchored.append(_correlation(rates, truth))
    return _correlation(_ratings(matches, len(order)).tolist(), truth), float(np.mean(anchored))


def _correlation(values: Sequence[float], truth: Sequence[float]) -> float:
    """Spearman's; 0 where all values are equal, for such a ranking says nothing."""
    found = spearman([round(float(one), 9) for one in values], list(truth))
    return float(found) if np.isfinite(found) else 0.0


def _ratings(matches: Sequence[tuple[int, int, float]], players: int) -> NDArray[np.float64]:
    table = wins_table(matches, players)
    return bradley_terry(table, l2=0.0 if is_connected(table) else 1.0).values

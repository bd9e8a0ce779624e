"""From tasks to preference pairs: models answer, judges score, and pairs on which the judges agree are kept."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coalign.evaluation.retrieval.pairs import Pair
from coalign.evaluation.retrieval.scenarios import CRITERIA, RetrievalTask
from coalign.judging.protocol import Cost, JudgeItem, Rating, Rubric, Scale, check_failures
from coalign.loops.rows import answer_rows
from coalign.measures.texts.text_units import words

if TYPE_CHECKING:
    from coalign.judging.protocol import Judge
    from coalign.models.types import Generator, Sampling

SCALE = Scale(low=1, high=5)
Response = tuple[str, str]
"""The model that wrote it, and its text."""


@dataclass(frozen=True)
class JudgeFilter:
    """What several judges' scores of the responses to one prompt come to.

    Attributes:
        mean, spread: [responses] mean score, and highest less lowest.
        kept_pairs: (better, worse) places of responses.
    """

    mean: tuple[float, ...]
    spread: tuple[float, ...]
    kept_pairs: tuple[tuple[int, int], ...]


def judge_filter(scores: Sequence[Sequence[float]], *, max_spread: float, min_mean_gap: float) -> JudgeFilter:
    """Pairs of responses that judges order alike.

    A response counts where its scores are within `max_spread` of each other; a pair where every judge scores the one
    strictly above the other and the means differ by `min_mean_gap` or more. The thresholds are a reconstruction.

    Args:
        scores: `[judges][responses]`.
    """
    table = np.asarray(scores, dtype=np.float64)
    mean, spread = table.mean(0), table.max(0) - table.min(0)
    kept = [
        (better, worse)
        for better, worse in itertools.permutations(range(table.shape[1]), 2)
        if spread[better] <= max_spread and spread[worse] <= max_spread
        and (table[:, better] > table[:, worse]).all() and mean[better] - mean[worse] >= min_mean_gap
    ]  # fmt: skip
    return JudgeFilter(tuple(mean.tolist()), tuple(spread.tolist()), tuple(kept))


def answered(
    folder: Path,
    tasks: Sequence[RetrievalTask],
    models: Mapping[str, Callable[[], Generator]],
    sampling: Sampling,
) -> list[list[Response]]:
    """`[tasks][responses]` those that tasks bring and what every model answers, equal texts once; kept a file a model."""
    found = [list(one.responses) for one in tasks]
    for number, (name, open_model) in enumerate(models.items()):
        rows = answer_rows(
            folder / f"answers-{number}.jsonl", tasks, open_model, sampling, label=f"Answering, {name}"
        )
        for responses, row in zip(found, rows, strict=True):
            responses += [(name, text) for text in row["responses"]]
    return [
        [
            one
            for place, one in enumerate(each)
            if one[1].strip() and one[1] not in [x[1] for x in each[:place]]
        ]
        for each in found
    ]


def scored(
    tasks: Sequence[RetrievalTask],
    responses: Sequence[Sequence[Response]],
    judges: Sequence[Judge],
    *,
    max_failures: float,
) -> tuple[list[list[list[float | None]]], Cost]:
    """`[tasks][judges][responses]` scores from 1 to 5 by the criteria of each task's category, None where there is none; and
    what they cost.

    Raises:
        CoalignError: a judge of which more than `max_failures` of the scores are missing.
    """
    items = [
        JudgeItem(
            id=f"{task.id}/{place}", prompt=task.prompt, responses=(text,),
            reference="; ".join(task.answers) or None, rubric=Rubric(criteria=CRITERIA[task.category]),
        )
        for task, each in zip(tasks, responses, strict=True)
        for place, (_, text) in enumerate(each)
    ]  # fmt: skip
    by_judge: list[list[Rating]] = []
    for judge in judges:
        ratings = judge.rate(items, scale=SCALE, label=f"Scoring, {judge.name}")
        check_failures(ratings, limit=max_failures)
        by_judge.append(ratings)
    ends = list(itertools.accumulate(map(len, responses), initial=0))
    scores = [
        [[one.score for one in ratings[start:end]] for ratings in by_judge]
        for start, end in itertools.pairwise(ends)
    ]
    return scores, sum((one.cost for ratings in by_judge for one in ratings), Cost())


def drawn_pairs(
    tasks: Sequence[RetrievalTask],
    responses: Sequence[Sequence[Response]],
    scores: Sequence[Sequence[Sequence[float | None]]],
    *,
    max_spread: float,
    min_mean_gap: float,
) -> tuple[list[tuple[Pair, str, str]], dict[str, int]]:
    """One pair a task, with the models of both responses, and how many tasks gave none by reason.

    Of the pairs that `judge_filter` keeps the one is drawn that balances best what was drawn before: how often each model
    was better and worse, and whether the longer response was better.
    """
    balance: Counter[str] = Counter()
    longer = 0
    found: list[tuple[Pair, str, str]] = []
    dropped: Counter[str] = Counter()
    for task, each, table in zip(tasks, responses, scores, strict=True):
        whole = [place for place in range(len(each)) if all(row[place] is not None for row in table)]
        if len(whole) < 2:
            dropped["fewer than two responses with all scores"] += 1
            continue
        numbers = [[float(row[place] or 0.0) for place in whole] for row in table]
        kept = judge_filter(numbers, max_spread=max_spread, min_mean_gap=min_mean_gap).kept_pairs
        if not kept:
            dropped["no pair on which the judges agree"] += 1
            continue

        def sign(pair: tuple[int, int], each: Sequence[Response] = each, whole: Sequence[int] = whole) -> int:
            lengths = [len(words(each[whole[one]][1])) for one in pair]
            return (lengths[0] > lengths[1]) - (lengths[0] < lengths[1])

        def cost(pair: tuple[int, int], each: Sequence[Response] = each, whole: Sequence[int] = whole) -> int:
            better, worse = (each[whole[one]][0] for one in pair)
            return balance[better] - balance[worse] + longer * sign(pair)  # noqa: B023

        pair = min(kept, key=cost)
        (chosen_model, chosen), (rejected_model, rejected) = (each[whole[one]] for one in pair)
        balance[chosen_model] += 1
        balance[rejected_model] -= 1
        longer += sign(pair)
        made = Pair(
            id=task.id, prompt=task.prompt, chosen=chosen, rejected=rejected, subset=task.subset, category=task.category,
            references=task.passages, judge_scores=tuple((row[pair[0]], row[pair[1]]) for row in numbers),
        )  # fmt: skip
        found.append((made, chosen_model, rejected_model))
    return found, dict(dropped)

"""Which of two responses is better in one respect: a language model is asked twice, the second time with the responses
swapped, and only what it says both times is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coalign.core.runs import Run
from coalign.data.records import Messages, Ranking
from coalign.loops.rows import answer_rows
from coalign.models.backends.open import open_named
from coalign.models.types import Sampling

QUESTION = (
    "Compare two responses to the conversation below in one respect only: {point}. Leave everything else about them out of "
    "account.\n\n[Conversation]\n{prompt}\n\n[Response 1]\n{first}\n\n[Response 2]\n{second}\n\n"
    "Which response is better in this respect? Answer with 1 or 2 alone."
)
_DIGIT = re.compile("[12]")


def consistent_label(answer: str, swapped: str) -> tuple[int, int] | None:
    """(1, 2) where the first response is the better one, (2, 1) where the second is: the ranks of both. None where the
    answers contradict each other (the judge looks at the place) or one of them has no digit.

    Args:
        answer, swapped: to the responses as they stand, and to the responses swapped; the first 1 or 2 counts.
    """
    first, second = (_DIGIT.search(one) for one in (answer, swapped))
    said = (first and first[0], second and second[0])
    return {("1", "2"): (1, 2), ("2", "1"): (2, 1)}.get(said)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Asked:
    """One question to the labeller."""

    id: str
    prompt: Messages


def label_points(
    run: Run,
    labeller: str,
    records: Mapping[str, Sequence[Ranking]],
    points: Mapping[str, Sequence[str]],
    device: str,
) -> dict[str, dict[str, list[Ranking]]]:
    """By category and point the pairs (best against worst response of each record) on which the labeller agreed with
    itself, better response first. Raw answers are kept in `artefacts/labels.jsonl` before they are read.

    Args:
        records, points: by category.
    """
    asked = [
        (category, point, record, swapped)
        for category, mine in records.items()
        for point in points[category]
        for record in mine
        for swapped in (False, True)
    ]
    tasks = [
        Asked(f"{place}", _question(point, record, swapped))
        for place, (_, point, record, swapped) in enumerate(asked)
    ]
    rows = answer_rows(
        run.artefacts / "labels.jsonl",
        tasks,
        lambda: open_named(labeller, device=device),
        Sampling(max_new_tokens=8, temperature=0.0),
        label="Labelling capabilities",
    )
    answers = [row["responses"][0] for row in rows]
    found: dict[str, dict[str, list[Ranking]]] = {
        one: {point: [] for point in points[one]} for one in records
    }
    kept = 0
    for place in range(0, len(asked), 2):
        category, point, record, _ = asked[place]
        ranks = consistent_label(answers[place], answers[place + 1])
        if ranks is not None:
            kept += 1
            pair = _pair(record)
            found[category][point].append(Ranking.of(record, responses=pair, scores=(-ranks[0], -ranks[1])))
    run.log("labels", asked=len(asked) // 2, kept=kept)
    return found


def _pair(record: Ranking) -> tuple[str, str]:
    """The best and the worst response, in the order of the record, so that the place says nothing."""
    order = sorted((record.scores.index(max(record.scores)), record.scores.index(min(record.scores))))
    return record.responses[order[0]], record.responses[order[1]]


def _question(point: str, record: Ranking, swapped: bool) -> Messages:
    first, second = _pair(record)[:: -1 if swapped else 1]
    conversation = "\n".join(f"{one['role']}: {one['content']}" for one in record.prompt)
    text = QUESTION.format(point=point, prompt=conversation, first=first, second=second)
    message: Any = {"role": "user", "content": text}
    return [message]

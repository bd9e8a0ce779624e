"""S_Q: a judge's opinion of long answers in six dimensions, from one JSON object a reply."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from coalign.data.records import Messages
from coalign.judging.store import ReplyStore, ask
from coalign.models.types import Generator, Sampling

DIMENSIONS: dict[str, str] = {
    "Relevance": "it deals with what was asked for, all of it and nothing else",
    "Accuracy": "what it says is true and free of mistakes",
    "Coherence": "its parts follow from each other and fit together",
    "Clarity": "it is plain, precise and easy to understand",
    "Breadth and Depth": "it covers the matter, and goes into it with reasons and details",
    "Reading Experience": "it holds the reader and is pleasant to read",
}
"""Dimension to what 5 stands for, in our words; the names are the published ones."""
TRIES = 5
"""Times that a judge is asked for a reply that can be read (original LongWriter code)."""
Scores = Mapping[str, int]


TEMPLATE = f"""You are a strict expert who rates texts. Rate the response to the user's request in six dimensions, each with a whole number from 1 (very poor) to 5 (excellent):
{chr(10).join(f"- {name}: 5 when {what}." for name, what in DIMENSIONS.items())}
Do not consider how long the response is, nor whether it keeps to a required length: that is measured elsewhere.

[Request]
{{request}}

[Response]
{{response}}

Reply with one JSON object in this form and with nothing else, your numbers in place of the zeros:
{json.dumps(dict.fromkeys(DIMENSIONS, 0))}"""
"""What the judge is asked; `{request}` and `{response}` are filled in."""


def quality_request(request: str, response: str, template: str = TEMPLATE) -> str:
    """What the judge is asked of one answer."""
    parts = re.split(r"\{(request|response)\}", template)  # what is filled in is not looked at again
    return "".join(
        {"request": request, "response": response}[one] if odd % 2 else one for odd, one in enumerate(parts)
    )


def read_scores(reply: str) -> Scores | None:
    """The six scores of a reply: those of its first JSON object that has all of them, whole numbers from 1 to 5."""
    for found in re.finditer(r"\{", reply):
        try:
            value, _ = json.JSONDecoder().raw_decode(reply, found.start())
        except (ValueError, RecursionError):
            continue
        scores = {name: value.get(name) for name in DIMENSIONS}
        if all(not isinstance(one, bool) and one in (1, 2, 3, 4, 5) for one in scores.values()):
            return {name: int(one) for name, one in scores.items()}
    return None


def rate_quality(
    generator: Generator,
    pairs: Sequence[tuple[str, str]],
    sampling: Sampling,
    *,
    store: ReplyStore,
    identity: Mapping[str, Any],
    template: str = TEMPLATE,
    tries: int = TRIES,
) -> list[Scores | None]:
    """[answers] the judge's scores; None where none of its replies can be read.

    Args:
        pairs: request and answer.
        sampling: of the first try; each further one has a seed of its own. A greedy judge says the same again and is asked once.
        store: keeps replies.
        identity: who is asked.
        template: of the request.
    """
    found: list[Scores | None] = [None] * len(pairs)
    for number in range(tries if sampling.temperature else 1):
        missing = [place for place, one in enumerate(found) if one is None]
        if not missing:
            break
        requests: list[Messages] = [
            [{"role": "user", "content": quality_request(*pairs[place], template)}] for place in missing
        ]
        drawn = replace(sampling, seed=sampling.seed + number)
        replies = ask(generator, requests, drawn, store=store, identity=identity, label="Judging quality")
        for place, reply in zip(missing, replies, strict=True):
            found[place] = read_scores(reply.text)
    return found


def quality_totals(scores: Sequence[Scores | None], missing: float | None = None) -> dict[str, float] | None:
    """Each dimension's mean as (mean - 1) x 25, 0 to 100, and `total`, the mean of the six (S_Q).

    Args:
        missing: score in every dimension of an answer that was not rated; None leaves such answers out. The official code
            counts 3, which raises poor models and lowers good ones.

    Returns:
        None where nothing was rated.
    """
    rows = [one if one is not None else dict.fromkeys(DIMENSIONS, missing) for one in scores]
    rows = [one for one in rows if None not in one.values()]
    if not rows:
        return None
    totals = {name: (fmean(float(one[name] or 0) for one in rows) - 1) * 25 for name in DIMENSIONS}
    return {**totals, "total": fmean(totals.values())}


def answer_quality(scores: Scores | None, missing: float | None = None) -> float | None:
    """S_Q of one answer."""
    found = quality_totals([scores], missing)
    return None if found is None else found["total"]

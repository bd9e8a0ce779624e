"""A benchmark of rules and answers together: FollowRAG's records and scores, and IFEval's, which have rules alone."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.data.messages import FieldError
from coalign.data.records import Messages
from coalign.data.rows import Row, assert_unique, iter_rows, parse_each
from coalign.judging.verifiers.constraints import Constraint, ConstraintError
from coalign.judging.verifiers.following import Followed, constraints_of, follow
from coalign.measures.short_answers import has_match
from coalign.measures.texts.text_units import is_blank

_RATING = re.compile(r"Rating: \[(0|0\.5|1)\]")
ALL = "all"


@dataclass(frozen=True)
class Item:
    """A record of the benchmark.

    Attributes:
        question: what is answered, without rules and passages; the prompt where the record does not say.
        gold: reference answers, any of which will do; none where only rules are scored.
        kind: `ifnq`, ...; empty where there are no kinds.
        response: the record's own, where it brings one.
    """

    id: str
    text: str
    question: str
    rules: tuple[Constraint, ...]
    gold: tuple[str, ...] = ()
    kind: str = ""
    response: str | None = None

    @property
    def prompt(self) -> Messages:
        return [{"role": "user", "content": self.text}]


@dataclass(frozen=True)
class Scored:
    """An item's response, scored.

    Attributes:
        answer: 0, 0.5 or 1; None where nothing is known of it.
    """

    kind: str
    followed: Followed
    answer: float | None = None


def read_benchmark(source: str) -> list[Item]:
    """Records of FollowRAG (`prompt`, `instruction_id_list`, `kwargs`, `question`, `answer_gold`, `type`), of IFEval (the first three), or
    prompts with `constraints`. A column `response` is the answer to score.

    Raises:
        DataError: the source cannot be read, a record without prompt, with an unknown rule, or an id that occurs
            twice; every such record is listed.
    """
    problems: list[RecordProblem] = []
    items = list(parse_each(iter_rows(source), source, _item, problems))
    if problems:
        raise DataError(f"{source}: {len(problems)} records cannot be scored.", problems)
    assert_unique((one.id for one in items), source)
    return items


def benchmark_scores(scored: Sequence[Scored]) -> dict[str, dict[str, float]]:
    """Percentages, rounded to two decimals as the published ones are: for all items, and for each kind.

    `strict_prompt_score` and `loose_prompt_score` are shares of responses that follow all their rules, `..._instruction_score` of rules
    that are followed. `answer_score` is the mean over the answers that were scored, and `average` the mean of it and of the loose
    instruction score *of the same items* (the official script takes that of all items for one kind).
    """
    kinds = [ALL, *dict.fromkeys(one.kind for one in scored if one.kind)]
    return {kind: _scores([one for one in scored if kind in (ALL, one.kind)]) for kind in kinds}


def score_responses(items: Sequence[Item], responses: Sequence[str]) -> list[Followed]:
    """Which rules every response follows."""
    return [follow(one.rules, one.text, text) for one, text in zip(items, responses, strict=True)]


def matched(item: Item, response: str) -> float:
    """1 where a reference answer is in the response as whole words, capitals, punctuation and marks aside; else 0."""
    return float(has_match(response, item.gold))


def rating_request(item: Item, response: str) -> str:
    """What a judge is asked about an answer."""
    gold = " / ".join(item.gold)
    return (
        "Compare a response with the reference answer to a question.\n"
        "1: the response gives the reference answer.\n0.5: it gives a part of it.\n0: it does not.\n"
        "Judge whether the answer is right and nothing else: not form, length, language or capitals. More than the "
        "reference says is no fault. Go by the reference, not by what you know.\n"
        f"[Question]\n{item.question}\n[Reference]\n{gold}\n[Response]\n{response}\n"
        "Reply in this form alone:\nRating: [0.5]\nReason: [a sentence]"
    )


def read_rating(reply: str) -> float | None:
    """0, 0.5 or 1 in `Rating: [...]`; None where it does not stand there."""
    found = _RATING.search(reply)
    return float(found[1]) if found else None


def _scores(scored: Sequence[Scored]) -> dict[str, float]:
    if not scored:
        return {}
    found: dict[str, float] = {}
    for form in ("strict", "loose"):
        rows: list[tuple[bool, ...]] = [getattr(one.followed, form) for one in scored]
        found[f"{form}_prompt_score"] = _percent([all(row) for row in rows])
        found[f"{form}_instruction_score"] = _percent([each for row in rows for each in row])
    answers = [one.answer for one in scored if one.answer is not None]
    if answers:
        found["answer_score"] = _percent(answers)
        found["average"] = round((found["loose_instruction_score"] + found["answer_score"]) / 2, 2)
    return found


def _percent(values: Sequence[float]) -> float:
    return round(100 * statistics.fmean(values), 2)


def _item(row: Row) -> Item:
    value: Mapping[str, Any] = row.value or {}
    text, response = value.get("prompt"), value.get("response")
    if not isinstance(text, str) or is_blank(text):
        raise FieldError(f"is {text!r:.40}", "a text", "prompt")
    if response is not None and not isinstance(response, str):
        raise FieldError(f"is {response!r:.40}", "a text", "response")
    try:
        rules = constraints_of(value)
    except ConstraintError as error:
        raise FieldError(error.problem, error.expected, error.field) from error
    if any(one.needs_group for one in rules):
        raise FieldError("compares with other answers", "constraints on one answer", "constraints")
    return Item(
        id=str(value.get("id", value.get("key", row.index))),
        text=text,
        question=str(value.get("question") or text),
        rules=rules,
        gold=_gold(value.get("answer_gold", value.get("answers"))),
        kind=str(value.get("type") or ""),
        response=response,
    )


def _gold(value: Any) -> tuple[str, ...]:
    """Reference answers; aliases of one text stand between slashes, unless these are a date's or a fraction's."""
    if isinstance(value, list | tuple):
        return tuple(str(one) for one in value if not is_blank(str(one)))
    text = "" if value is None else str(value)
    if is_blank(text):
        return ()
    parts = [one.strip() for one in text.split("/") if one.strip()]
    return (text,) if any(one.isdecimal() for one in parts) else tuple(dict.fromkeys(parts))

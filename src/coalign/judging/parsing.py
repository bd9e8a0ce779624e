"""From a judge's reply to its verdict: strict, so that what cannot be read is counted and not guessed.

A verdict stands in double brackets (`[[A]]`, `[[7]]`, `[[8, 5]]`), once or several times alike, or is the whole reply.
Two different verdicts in a reply are no verdict. What a reasoning model thinks before it answers
(`<think>...</think>`) is not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from coalign.judging.protocol import Choice, Failure, Scale

Form = Literal["relation", "choice", "score", "likert"]
"""How a judge says which of two answers is better: by a letter, a tie among them; by the better one's letter or number, without a
tie; by a score for each; or by one number from 1 (the first is much better) to 5 (the second is)."""

LETTERS: dict[str, Choice] = {"A": "first", "B": "second", "C": "tie", "TIE": "tie"}
CHOICES: dict[str, Choice] = {"A": "first", "B": "second", "1": "first", "2": "second"}
LIKERT = Scale(low=1, high=5)

_MARK = re.compile(r"\[\[\s*([^\[\]]{1,80}?)\s*\]\]")
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_OPEN_THOUGHT = re.compile(r"^\s*<think>(?!.*</think>)", re.DOTALL | re.IGNORECASE)
_DECORATION = re.compile(r"^[\s*_`\"'(\[]+|[\s*_`\"')\].]+$")
_CHOSEN = re.compile(r"(?:choose|choice|answer)[:\s]*", re.IGNORECASE)
_NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?)(?:/(\d+))?")
_RESULT = re.compile(
    r"(?:(?P<tag>\[(?:result|score)\])|\b(?:result|score))(?P<of>:?\s*(?:score\s+)?of\b)?[\s:*(\[]*(?P<score>\d+)(?![\d.]*\d)",
    re.IGNORECASE,
)
_BETWEEN_RANKS = re.compile(r"\s*[,;>]\s*|\s+")
_REFUSAL = re.compile(
    r"\b(i'?m sorry|i am sorry|i apologi[sz]e|i can(?:no|')t|i can not|i won't|i will not|i'?m (?:not able|unable)|"
    r"i am (?:not able|unable)|as an ai\b|i must decline|n/a)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Read:
    """A reply that was read.

    Attributes:
        choice: of a comparison, by place.
        scores: of a rating (one), or of both responses by place.
        margin: how much better the first one is, where the form tells.
        order: of a ranking: places of the responses, best first.
        failure: why there is no verdict.
    """

    choice: Choice | None = None
    scores: tuple[float, ...] | None = None
    margin: float | None = None
    order: tuple[int, ...] | None = None
    failure: Failure | None = None


def read_comparison(reply: str, form: Form, scale: Scale, *, truncated: bool = False) -> Read:
    """The verdict of a reply to a comparison, by place.

    Args:
        scale: of the scores, in the form `score`.
        truncated: the reply ran out of tokens.
    """
    return _read(reply, truncated, lambda text: _comparison(text, form, scale))


def read_rating(reply: str, scale: Scale, *, truncated: bool = False) -> Read:
    """The score in a reply to a rating."""

    def rating(text: str) -> Read | None:
        found = _numbers(text, 1, scale)
        return Read(scores=found) if found else None

    return _read(reply, truncated, rating)


def read_result(reply: str, scale: Scale, *, truncated: bool = False) -> Read:
    """The score after a result tag (`[RESULT] 4`), as graders that write feedback first are asked for; without a tag that
    after `score` or `result`. Two different scores are none, nor is one outside of the scale.
    """
    if _OPEN_THOUGHT.search(reply):
        return Read(failure="truncated" if truncated else "malformed")
    text = _THOUGHT.sub("", reply)
    found = {*(results_in(text, tag=True) or results_in(text))}
    if len(found) == 1 and scale.low <= (score := found.pop()) <= scale.high:
        return Read(scores=(float(score),))
    if not found and _REFUSAL.search(text):
        return Read(failure="refusal")
    return Read(failure="truncated" if truncated else "malformed")


def results_in(text: str, *, tag: bool = False, of: bool = True) -> list[int]:
    """The whole numbers that a text gives as its result, in order: after `[RESULT]`, `score:` and the like.

    Args:
        tag: only those after a tag in brackets.
        of: also after "score of".
    """
    found = (one for one in _RESULT.finditer(text) if one["tag"] or not tag)
    return [int(one["score"]) for one in found if of or not one["of"]]


def read_ranking(reply: str, n: int, *, truncated: bool = False) -> Read:
    """The order in a reply that ranks n responses by their numbers, `[[3, 1, 2]]` or `3 > 1 > 2`: all of them, once each."""

    def ranking(text: str) -> Read | None:
        numbers = [one.strip() for one in _BETWEEN_RANKS.split(text)]
        if sorted(numbers) != sorted(map(str, range(1, n + 1))):
            return None
        return Read(order=tuple(int(one) - 1 for one in numbers))

    return _read(reply, truncated, ranking)


def _comparison(text: str, form: Form, scale: Scale) -> Read | None:
    if form == "relation":
        letter = LETTERS.get(text.upper())
        return Read(choice=letter) if letter else None
    if form == "choice":
        chosen = CHOICES.get(_CHOSEN.sub("", text, count=1).upper())
        return Read(choice=chosen) if chosen else None
    found = _numbers(text, 2 if form == "score" else 1, scale if form == "score" else LIKERT)
    if found is None:
        return None
    if form == "score":
        margin = found[0] - found[1]
        return Read(choice=choice_of(margin), scores=found, margin=margin)
    if found[0] != int(found[0]):
        return None
    margin = (LIKERT.low + LIKERT.high) / 2 - found[0]
    return Read(choice=choice_of(margin), margin=margin)


def read_letter_odds(top: Iterable[tuple[str, float]], *, ties: bool = True) -> Read:
    """The verdict in the probabilities of the first token: the likelier of the letters A, B and, with `ties`, C (a tie).

    The margin is log P(A) - log P(B), in nats, over all tokens that are the letter, spaces and quotes aside. A letter
    that is not among the tokens has at most the probability of the least of them, which stands in for it.

    Args:
        top: the most probable tokens as (text, log-probability).
    """
    tokens = list(top)
    odds = {letter: letter_logp(tokens, letter) for letter in "ABC"}
    if odds["A"] == odds["B"] == -math.inf:
        return Read(failure="malformed")
    floor = min(value for _, value in tokens)
    margin = max(odds["A"], floor) - max(odds["B"], floor)
    return Read(
        choice="tie" if ties and odds["C"] > max(odds["A"], odds["B"]) else choice_of(margin), margin=margin
    )


def read_expected_score(top: Iterable[tuple[str, float]], scale: Scale) -> Read:
    """The mean of the whole numbers of the scale under the probabilities of the first token, renormalised over them."""
    tokens = list(top)
    scores = range(math.ceil(scale.low), math.floor(scale.high) + 1)
    weights = {score: math.exp(letter_logp(tokens, str(score))) for score in scores}
    total = math.fsum(weights.values())
    if not total:
        return Read(failure="malformed")
    return Read(scores=(math.fsum(score * one for score, one in weights.items()) / total,))


def letter_logp(tokens: Iterable[tuple[str, float]], text: str) -> float:
    """Log of the summed probability of the tokens that are `text`, decoration aside."""
    found = [value for token, value in tokens if _DECORATION.sub("", token) == text]
    return math.log(math.fsum(map(math.exp, found))) if found else -math.inf


def choice_of(margin: float) -> Choice:
    """Who is better when the first response is better by `margin`; 0 is a tie."""
    return "first" if margin > 0 else "second" if margin < 0 else "tie"


def _numbers(text: str, count: int, scale: Scale) -> tuple[float, ...] | None:
    """Exactly `count` numbers of the scale; `4/5` is one where 5 is the end of the scale."""
    text = re.sub(r"\s*/\s*", "/", text)
    pieces = re.split(r"\s*[,;]\s*|\s+", text) if count > 1 else [text]
    if len(pieces) != count:
        return None
    values = []
    for piece in pieces:
        found = _NUMBER.fullmatch(piece)
        if not found or (found[2] and float(found[2]) != scale.high):
            return None
        values.append(float(found[1]))
    return tuple(values) if all(scale.low <= one <= scale.high for one in values) else None


def _read(reply: str, truncated: bool, parse: Callable[[str], Read | None]) -> Read:
    if _OPEN_THOUGHT.search(reply):
        return Read(failure="truncated" if truncated else "malformed")
    text = _THOUGHT.sub("", reply)
    marks = _MARK.findall(text)
    whole = _DECORATION.sub("", text)
    candidates = marks or ([whole] if len(whole) <= 40 else [])
    found = {parse(one) for one in candidates}
    if len(found) == 1 and (only := found.pop()) is not None:
        return only
    if len(found) <= 1 and _REFUSAL.search(text):
        return Read(failure="refusal")
    return Read(failure="truncated" if truncated and not marks else "malformed")

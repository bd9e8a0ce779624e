"""Answers to requests with a length: their lengths, whether they ended, and how much they repeat themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from coalign.core.errors import DataError
from coalign.curation.long_writing.filtering import asked_text
from coalign.curation.long_writing.lengths import Counter, Reading, count_words, length_score, required_length
from coalign.data.readers import read_records
from coalign.loops.rows import answer_rows
from coalign.measures.agreement import spearman
from coalign.measures.texts.text_units import folded_words, ngrams

if TYPE_CHECKING:
    from coalign.data.records import Messages
    from coalign.models.types import Generator, Sampling

EDGES = (0, 500, 1000, 2000, 4000)
"""Required lengths from which a group of the report begins; the published groups end at 500, 2000 and 4000 words."""


@dataclass(frozen=True)
class Order:
    """A request, and the words that it asks for."""

    id: str
    prompt: Messages
    length: int

    @property
    def request(self) -> str:
        return asked_text(self.prompt)


def read_orders(source: str, reading: Reading, *, limit: int | None = None) -> list[Order]:
    """Requests of a file of prompts: a column `length` (LongBench-Write) says how long, else the request itself.

    Raises:
        DataError: cannot be read, a length that is none, or a request that names none where there is no column.
    """
    found = []
    for one in read_records(source, kind="prompt", limit=limit).records:
        length = one.extra.get("length")
        if length is None:
            length = required_length(asked_text(one.prompt), reading)
            if length is None:
                raise DataError(
                    f"{source}: a request that names no length.",
                    [
                        one.problem(
                            "length",
                            "is not there, and the request names not exactly one",
                            "a number of words",
                        )
                    ],
                )
        if isinstance(length, bool) or not isinstance(length, int | float) or length < 1:
            raise DataError(
                f"{source}: a length that is none.",
                [one.problem("length", repr(length), "a number of words")],
            )
        found.append(Order(one.id, one.prompt, int(length)))
    return found


@dataclass(frozen=True)
class Written:
    """What a model wrote to an order.

    Attributes:
        words: of the answer.
        score: its length score (S_L).
        cut: it ran out of tokens.
        repetition: share of its runs of four words that were there before.
    """

    order: Order
    text: str
    words: int
    score: float
    cut: bool
    repetition: float


def write_to_orders(
    path: Path, orders: Sequence[Order], generator: Callable[[], Generator], sampling: Sampling, *,
    counter: Counter, label: str,
) -> list[Written]:  # fmt: skip
    """Answer every order once; rows are kept in `path` and go on after a kill."""
    rows = answer_rows(path, orders, generator, sampling, label=label)
    return [written(one, row, counter) for one, row in zip(orders, rows, strict=True)]


def written(order: Order, row: Mapping[str, Any], counter: Counter) -> Written:
    """A row of answers as what was written to an order."""
    (text, *_), (reason, *_) = row["responses"], row["finish_reasons"]
    words = count_words(text, counter)
    return Written(
        order, text, words, length_score(order.length, words), reason == "length", repetition(text)
    )


def repetition(text: str, n: int = 4) -> float:
    """Share of a text's n-grams of words that repeat an earlier one, 0 to 1: loops make long texts without content."""
    found = ngrams(folded_words(text), n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def obedience(answers: Sequence[Written]) -> dict[str, Any]:
    """S_L, Spearman's correlation of required and written length, and shares that are cut or repeat themselves."""
    lengths = [float(one.order.length) for one in answers]
    return {
        "answers": len(answers),
        "S_L": fmean(one.score for one in answers),
        "correlation": spearman(lengths, [float(one.words) for one in answers])
        if len({*lengths}) > 1
        else None,
        "cut": fmean(one.cut for one in answers),
        "repetition": fmean(one.repetition for one in answers),
        "words": fmean(one.words for one in answers),
    }


def by_length(answers: Sequence[Written], edges: Sequence[int] = EDGES) -> list[dict[str, Any]]:
    """A row a group of required lengths that has answers: `from`, `to` (None: no end), mean required and written words,
    and what `obedience` says.
    """
    rows = []
    for low, high in zip(edges, [*edges[1:], None], strict=True):
        some = [
            one for one in answers if one.order.length >= low and (high is None or one.order.length < high)
        ]
        if some:
            required = fmean(one.order.length for one in some)
            rows.append({"from": low, "to": high, "required": required, **obedience(some)})
    return rows

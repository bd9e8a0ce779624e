"""Queries that are to be answered under a rule: plain ones, and questions with the passages that were retrieved for them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.data.messages import FieldError
from coalign.data.readers import read_records
from coalign.data.rows import Row, assert_unique, iter_rows, parse_each
from coalign.measures.texts.text_units import is_blank

_QUESTION = ("question", "query", "prompt", "instruction")
_PASSAGES = ("passages", "contexts", "ctxs", "documents")
_TEXT = ("content", "text", "passage", "contents")


@dataclass(frozen=True)
class Query:
    """What is asked.

    Attributes:
        passages: texts that stand before it, best first; none of a plain query.
    """

    id: str
    text: str
    passages: tuple[str, ...] = ()

    def with_passages(self, text: str | None = None) -> str:
        """The passages, numbered, and the query, or `text` in its place."""
        asked = self.text if text is None else text
        if not self.passages:
            return asked
        found = "\n".join(f"[{number}] {one}" for number, one in enumerate(self.passages, start=1))
        return f"Passages:\n{found}\n\nAnswer by the passages or by what you know.\nQuestion: {asked}"


def read_queries(source: str, lengths: tuple[int, int]) -> tuple[list[Query], int]:
    """Plain queries: prompts of one user turn, in any form of records.

    Args:
        lengths: fewest and most characters of a query.

    Returns:
        The queries, and how many prompts were left out for their length or for earlier turns.

    Raises:
        DataError: the source cannot be read, or no query is left.
    """
    records = read_records(source, kind="prompt").records
    low, high = lengths
    found = [
        Query(one.id, one.prompt[-1]["content"].strip())
        for one in records
        if sum(turn["role"] != "system" for turn in one.prompt) == 1
        and low <= len(one.prompt[-1]["content"].strip()) <= high
    ]
    if not found:
        raise DataError(
            f"{source}: none of {len(records)} prompts is a single turn of {low} to {high} characters.",
            hint="Other lengths are set with --query-characters.",
        )
    return found, len(records) - len(found)


def read_rag(source: str, most: int) -> list[Query]:
    """Questions with passages: rows of `question` and `passages` (also `contexts`, `ctxs`, `documents`), a list of texts or of
    mappings with `content` (or `text`) and perhaps `title`.

    Args:
        most: passages of a question; the first are taken.

    Raises:
        DataError: the source cannot be read, a row without question or passages, or an id that occurs twice; every such
            row is listed.
    """
    problems: list[RecordProblem] = []
    queries = list(parse_each(iter_rows(source), source, lambda row: _rag_query(row, most), problems))
    if problems:
        raise DataError(f"{source}: {len(problems)} rows cannot be used.", problems)
    assert_unique((one.id for one in queries), source)
    return queries


def read_pools(config: Any) -> tuple[dict[str, tuple[Sequence[Query], int]], list[str]]:
    """The queries of a configuration (`query_data`, `rag_data`) by pool, each with how many a rule gets; and notes on them.

    Raises:
        DataError: as `read_queries` and `read_rag`.
    """
    pools: dict[str, tuple[Sequence[Query], int]] = {}
    notes: list[str] = []
    if config.query_data is not None:
        low, high = config.query_characters
        queries, left_out = read_queries(config.query_data, (low, high))
        pools["general"] = queries, config.queries_per_rule
        notes.append(
            f"{len(queries)} plain queries; {left_out} prompts of other lengths or with earlier turns were left out."
        )
    if config.rag_data is not None:
        pools["rag"] = read_rag(config.rag_data, config.passages), config.rag_per_rule
        notes.append(f"{len(pools['rag'][0])} questions with passages.")
    return pools, notes


def pairings(
    rules: Sequence[Mapping[str, Any]], pools: Mapping[str, tuple[Sequence[Query], int]], seed: int
) -> Iterator[dict[str, Any]]:
    """Every rule with queries drawn from each pool, without repetition within a rule.

    Args:
        rules: rows with `id`; their columns are those of the result, too.
        pools: name to queries and how many of them a rule gets (all where there are fewer).
    """
    for rule in rules:
        draw = random.Random(f"{seed}/{rule['id']}")
        for name, (queries, n) in pools.items():
            for one in draw.sample(queries, min(n, len(queries))):
                yield {
                    **rule,
                    "id": f"{rule['id']}/{name}-{one.id}",
                    "query": one.text,
                    "passages": list(one.passages),
                    "pool": name,
                }


def passage_texts(value: Any) -> tuple[str, ...] | None:
    """Passages as texts, each with its title before it where it has one; None where a value is no list of passages."""
    if not isinstance(value, list | tuple):
        return None
    texts = [_passage(one) for one in value]
    return None if any(one is None for one in texts) else tuple(one for one in texts if one)


def question_of(value: Mapping[str, Any]) -> str:
    """The question of a row.

    Raises:
        FieldError: it has none.
    """
    found = next((value[name] for name in _QUESTION if value.get(name) is not None), None)
    if not isinstance(found, str) or is_blank(found):
        raise FieldError(f"is {found!r:.40}", "a text", "question")
    return found.strip()


def _rag_query(row: Row, most: int) -> Query:
    value = row.value or {}
    text = question_of(value)
    given = next((value[name] for name in _PASSAGES if value.get(name) is not None), None)
    passages = passage_texts(given)
    if not passages:
        raise FieldError(
            f"is {given!r:.40}", "a list of texts, or of mappings with content and title", "passages"
        )
    return Query(str(value.get("id", value.get("key", row.index))), text, passages[:most])


def _passage(value: Any) -> str | None:
    if isinstance(value, str):
        return value.strip()
    if not isinstance(value, Mapping):
        return None
    text = next((value[name] for name in _TEXT if isinstance(value.get(name), str)), None)
    if text is None:
        return None
    title = value.get("title")
    return f"{title}: {text.strip()}" if isinstance(title, str) and title.strip() else text.strip()

"""Real text under the default model, for checks that are given records (`coalign reproduce SLUG --data FILE`)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from coalign.checks.tiny_models import stream
from coalign.core.errors import DataError
from coalign.core.files import read_rows
from coalign.data.encoding import encode_records
from coalign.data.readers import read_records
from coalign.data.records import Demonstration, Judgment, Ranking, Record
from coalign.models.loading import load_model, load_tokenizer
from coalign.models.scoring import score_responses
from coalign.models.types import Responses

MODEL = "default"
MAX_LENGTH = 512
"""Tokens of prompt and response; longer responses are cut."""


@functools.cache
def open_model(name: str) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The model, loaded once for all seeds."""
    return load_model(name, training=False), load_tokenizer(name)


def mean_logps(records: Sequence[Record]) -> list[list[float]]:
    """For each record the log-probabilities of its responses under the default model, averaged over tokens.

    Raises:
        DataError: a prompt leaves no room for a response.
    """
    model, tokenizer = open_model(MODEL)
    encoded = encode_records(records, tokenizer, max_length=MAX_LENGTH)
    if encoded.dropped:
        raise DataError(f"{len(encoded.dropped)} prompts have {MAX_LENGTH} tokens or more.", encoded.dropped)
    responses = Responses(
        [one.prompt_ids for one in encoded.records],
        [ids for one in encoded.records for ids in one.response_ids],
        [row for row, one in enumerate(encoded.records) for _ in one.response_ids],
    )
    with torch.no_grad():
        means = iter(score_responses(model, responses).means().tolist())
    return [[next(means) for _ in one.response_ids] for one in encoded.records]


def drawn(records: Sequence[Any], n: int, seed: int) -> list[Any]:
    """`n` of the records (all, where there are fewer), others under another seed."""
    order = torch.randperm(len(records), generator=stream(seed, "records")).tolist()
    return [records[row] for row in order[:n]]


def read_groups(path: Path) -> list[Ranking]:
    """Rankings with different scores, from a rankings file or from GSM8K's `example_model_solutions.jsonl`.

    Raises:
        DataError: there is none.
    """
    found = _example_solutions(path)
    if not found:
        found = [one for one in read_records(path).records if isinstance(one, Ranking)]
    usable = [one for one in found if len(set(one.scores)) > 1]
    if not usable:
        raise DataError(
            f"{path}: no ranking whose scores differ.",
            hint="Give `prompt`, `responses` and `scores`, or GSM8K's example_model_solutions.jsonl.",
        )
    return usable


def _example_solutions(path: Path) -> list[Ranking]:
    """Rows of a question and, under several names, `{"solution", "is_correct"}`; an empty list for other files."""
    if path.suffix != ".jsonl":
        return []
    rankings = []
    for row in read_rows(path):
        marks = {
            one["solution"]: float(one["is_correct"])
            for one in row.values()
            if isinstance(one, dict) and {"solution", "is_correct"} <= one.keys()
        }
        if isinstance(row.get("question"), str) and len(marks) > 1:
            prompt: Any = [{"role": "user", "content": row["question"]}]
            rankings.append(Ranking(prompt=prompt, responses=tuple(marks), scores=tuple(marks.values())))
    return rankings


def read_answers(path: Path) -> list[Demonstration]:
    """Prompts with one answer each, from demonstrations or judged answers.

    Raises:
        DataError: there are fewer than two.
    """
    found = [
        Demonstration(prompt=one.prompt, completion=one.completion, plain=one.plain)
        for one in read_records(path).records
        if isinstance(one, Demonstration | Judgment)
    ]
    if len(found) < 2:
        raise DataError(
            f"{path}: {len(found)} prompts with an answer.", hint="Give `prompt` and `completion`."
        )
    return found


def misplaced(records: Sequence[Demonstration], share: float) -> tuple[list[Demonstration], int]:
    """The records, the first so many of them (`share`, at least two) with each other's answers, and their number."""
    count = max(2, round(share * len(records)))
    answers = [records[(row + 1) % count].completion for row in range(count)]
    moved = [replace(one, completion=text) for one, text in zip(records[:count], answers, strict=True)]
    return [*moved, *records[count:]], count


def share_above(higher: Sequence[float], lower: Sequence[float]) -> float:
    """Share of pairs of a value of `higher` and one of `lower` in which the first is larger, ties half: the area under
    the ROC curve."""
    one, other = torch.tensor(higher)[:, None], torch.tensor(lower)[None, :]
    return float(((one > other).double() + (one == other).double() / 2).mean())

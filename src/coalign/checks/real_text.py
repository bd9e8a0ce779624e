"""Real text under the default model, for checks that are given records (`coalign reproduce SLUG --data FILE`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from coalign.checks.tiny_models import stream
from coalign.core.errors import DataError
from coalign.core.files import read_rows
from coalign.data.encoding import encode_records
from coalign.data.readers import read_records
from coalign.data.records import Demonstration, Judgment, Preference, PromptRecord, Ranking, Record
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.scoring.engine import score_responses
from coalign.models.types import Responses

R = TypeVar("R", bound=Record)
Contexts = Callable[[Any], Sequence[Record]]

MODEL = "default"
MAX_LENGTH = 512
"""Tokens of prompt and response; longer responses are cut."""
SCORING_TOKENS = 4096
"""Most tokens in one pass."""


@functools.cache
def open_model(name: str) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The model, loaded once for all seeds."""
    return load_model(name, training=False), load_tokenizer(name)


def text_logps(records: Sequence[Record], model: nn.Module | None = None) -> list[list[Tensor]]:
    """For each record the token log-probabilities of its responses (end of turn included), without gradient.

    Args:
        model: by default the default model; its tokenizer is the default model's.

    Raises:
        DataError: a prompt leaves no room for a response.
    """
    default, tokenizer = open_model(MODEL)
    encoded = encode_records(records, tokenizer, max_length=MAX_LENGTH)
    if encoded.dropped:
        raise DataError(f"{len(encoded.dropped)} prompts have {MAX_LENGTH} tokens or more.", encoded.dropped)
    responses = Responses(
        [one.prompt_ids for one in encoded.records],
        [ids for one in encoded.records for ids in one.response_ids],
        [row for row, one in enumerate(encoded.records) for _ in one.response_ids],
    )
    with torch.no_grad():
        found = score_responses(model or default, responses, batch_tokens=SCORING_TOKENS)
    pieces = iter(found.split())
    return [[next(pieces) for _ in one.response_ids] for one in encoded.records]


def mean_logps(records: Sequence[Record], model: nn.Module | None = None) -> list[list[float]]:
    """For each record the log-probabilities of its responses averaged over tokens; as `text_logps`."""
    return [[float(one.mean()) for one in row] for row in text_logps(records, model)]


def drawn(records: Sequence[Any], n: int, seed: int) -> list[Any]:
    """`n` of the records (all, where there are fewer), others under another seed."""
    order = torch.randperm(len(records), generator=stream(seed, "records")).tolist()
    return [records[row] for row in order[:n]]


def short(
    records: Sequence[R], n: int, seed: int, *, tokens: int, contexts: Contexts | None = None
) -> list[R]:
    """As `drawn`, of the records that have at most so many tokens, prompt and all responses together.

    Args:
        contexts: what of a record is scored; by default the record.

    Raises:
        DataError: fewer than `n` are that short.
    """
    tokenizer = open_model(MODEL)[1]
    found: list[R] = []
    for one in drawn(records, len(records), seed):
        parts = encode_records(contexts(one) if contexts else [one], tokenizer).records
        if sum(len(part.prompt_ids) + sum(map(len, part.response_ids)) for part in parts) <= tokens:
            found.append(one)
        if len(found) == n:
            return found
    raise DataError(
        f"{len(found)} of {len(records)} records have at most {tokens} tokens, {n} are needed.",
        hint="Give a file with more short records.",
    )


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


def read_pairs(path: Path) -> tuple[list[Preference], int]:
    """Preference pairs, and how many records of the file cannot be used.

    Raises:
        DataError: there is none.
    """
    found = read_records(path, on_bad_record="skip")
    pairs = [one for one in found.records if isinstance(one, Preference)]
    if not pairs:
        raise DataError(
            f"{path}: no preference pair, found {found.recognised}.",
            hint="Give `prompt`, `chosen` and `rejected`, or a file of the Anthropic HH data.",
        )
    return pairs, found.n_bad


def read_prompts(path: Path) -> list[PromptRecord]:
    """The prompts of records of any kind, each once.

    Raises:
        DataError: there are fewer than two.
    """
    found = [one for one in read_records(path, kind="prompt").records if isinstance(one, PromptRecord)]
    distinct = list({str(one.prompt): one for one in found}.values())
    if len(distinct) < 2:
        raise DataError(f"{path}: {len(distinct)} distinct prompts.", hint="Give `prompt` on every line.")
    return distinct


def read_judgments(path: Path) -> list[Judgment]:
    """Answers with what a judge said of them in words.

    Raises:
        DataError: there is none.
    """
    found = read_records(path)
    judged = [one for one in found.records if isinstance(one, Judgment)]
    if not judged:
        raise DataError(
            f"{path}: no judged answer, found {found.recognised}.",
            hint="Give `prompt`, `completion` and `judgment`, or CUT's train-alpaca-sample-iter1.json.",
        )
    return judged


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

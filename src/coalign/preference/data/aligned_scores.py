"""How much aligned models like a response: their length-averaged log-probabilities, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from coalign.core.errors import RecordProblem
from coalign.core.files import append_rows, read_rows
from coalign.data.encoding import EncodedRecord, encode_records
from coalign.data.records import Demonstration
from coalign.models.scoring.engine import DEFAULT_BATCH_TOKENS, score_responses
from coalign.models.types import ResponseLogps, Responses

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

ALIGNED_LOGP = "aligned_logp"
"""Column with the mean over aligned models of their length-averaged log-probability of the response."""
END_TOKENS = "end_tokens"
"""Column with the number of end-of-turn tokens at the end of the response, as the trained model's tokenizer has it."""
CHUNK = 64
"""Records that are scored between two writes to disk."""


@dataclass(frozen=True)
class Scorer:
    """An aligned model that votes.

    Attributes:
        name: names its column (`<name>.logp`) and its file of scores.
        load: gives model and tokenizer; called only when a score is missing.
        max_length: tokens of prompt and response together that it reads.
    """

    name: str
    load: Callable[[], tuple[nn.Module, PreTrainedTokenizerBase]]
    max_length: int = 4096


@dataclass(frozen=True)
class ScoredDemonstrations:
    """Demonstrations with the columns `<name>.logp`, `aligned_logp` and `end_tokens`.

    Attributes:
        records: in order, without the dropped ones.
        dropped: records that an aligned model could not score: no content left.
    """

    records: list[Demonstration]
    dropped: list[RecordProblem] = field(default_factory=list)


def precompute_scores(
    records: Sequence[Demonstration],
    scorers: Sequence[Scorer],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> ScoredDemonstrations:
    """Score every record once with every aligned model and add the columns `<name>.logp`, `aligned_logp`, `end_tokens`.

    Scores are appended to `folder/<name>.jsonl` as they come; a later call computes only what is missing. A row is
    keyed by prompt, response and `max_length` (the file by the scorer's name): changed records are scored anew.

    Args:
        tokenizer: of the model to be trained, with the lengths that its training will use.

    Raises:
        ValueError: there is no scorer, or two have the same name.
    """
    if not scorers or len({scorer.name for scorer in scorers}) < len(scorers):
        raise ValueError("at least one aligned model is needed, each under a name of its own")
    scores = {scorer.name: _scores_of(scorer, records, folder, batch_tokens) for scorer in scorers}
    ends = count_end_tokens(records, tokenizer, max_length=max_length, max_prompt_length=max_prompt_length)
    kept: list[Demonstration] = []
    dropped: list[RecordProblem] = []
    for row, record in enumerate(records):
        votes = {name: values[row] for name, values in scores.items()}
        missing = [name for name, value in votes.items() if not math.isfinite(value)]
        if missing:
            found = f"has no tokens to score under {', '.join(missing)}"
            dropped.append(record.problem("completion", found, "an answer"))
            continue
        columns = {f"{name}.logp": value for name, value in votes.items()}
        mean = sum(votes.values()) / len(votes)
        extra = {**record.extra, **columns, ALIGNED_LOGP: mean, END_TOKENS: ends[row]}
        kept.append(replace(record, extra=extra))
    return ScoredDemonstrations(kept, dropped)


def count_end_tokens(
    records: Sequence[Demonstration],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
) -> list[int]:
    """End-of-turn tokens of each response under `tokenizer`; 0 where they were cut off."""
    encoded = encode_records(records, tokenizer, max_length=max_length, max_prompt_length=max_prompt_length)
    counts = [0] * len(records)
    for one in encoded.records:
        counts[one.record_index] = _trailing_special(one.response_ids[0], _special_ids(tokenizer))
    return counts


def split_end(logps: ResponseLogps, end_tokens: Tensor) -> tuple[Tensor, Tensor]:
    """([B] mean over the content tokens, [B] sum over the end-of-turn tokens) of each response.

    A response without content tokens has mean 0.

    Args:
        end_tokens: [B] how many tokens at the end of each response are not content.
    """
    lengths = logps.lengths
    place = torch.arange(len(logps.token_logps), device=lengths.device)
    first = (lengths.cumsum(0) - lengths)[logps.segment_ids]
    is_end = place - first >= (lengths - end_tokens)[logps.segment_ids]
    zero = torch.zeros_like(logps.token_logps)
    content = replace(logps, token_logps=torch.where(is_end, zero, logps.token_logps)).sums()
    end = replace(logps, token_logps=torch.where(is_end, logps.token_logps, zero)).sums()
    return content / (lengths - end_tokens).clamp(min=1), end


def whole_texts(records: Sequence[EncodedRecord], max_length: int | None = None) -> list[EncodedRecord]:
    """Make everything but the first token of prompt and response the response, so that a mean runs over both.

    Args:
        records: one response each.
        max_length: was kept already.
    """
    return [
        replace(
            one,
            prompt_ids=one.prompt_ids[:1],
            response_ids=[[*one.prompt_ids[1:], *one.response_ids[0]]],
        )
        for one in records
    ]


def _scores_of(
    scorer: Scorer, records: Sequence[Demonstration], folder: Path, batch_tokens: int
) -> list[float]:
    """The scorer's length-averaged log-probability of every record, NaN where there is none."""
    file = folder / f"{scorer.name.replace('/', '--')}.jsonl"
    known = {row["key"]: row["logp"] for row in read_rows(file, repair=True)}
    keys = [_key(record, scorer.max_length) for record in records]
    todo = list({key: record for key, record in zip(keys, records, strict=True) if key not in known}.items())
    if todo:
        model, tokenizer = scorer.load()
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            logps = mean_content_logps(
                [record for _, record in chunk],
                model,
                tokenizer,
                max_length=scorer.max_length,
                batch_tokens=batch_tokens,
            )
            rows = [
                {"key": key, "logp": logp if math.isfinite(logp) else None}
                for (key, _), logp in zip(chunk, logps, strict=True)
            ]
            append_rows(file, rows)
            known.update({row["key"]: row["logp"] for row in rows})
    return [math.nan if known[key] is None else known[key] for key in keys]


def mean_content_logps(
    records: Sequence[Demonstration],
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> list[float]:
    """Log-probability of each response in nats per token, end-of-turn tokens left out; NaN without a token left."""
    special = _special_ids(tokenizer)
    contents: dict[int, tuple[list[int], list[int]]] = {}
    for one in encode_records(records, tokenizer, max_length=max_length).records:
        ids = one.response_ids[0]
        content = ids[: len(ids) - _trailing_special(ids, special)]
        if content:
            contents[one.record_index] = (one.prompt_ids, content)
    prompts, answers = ([pair[side] for pair in contents.values()] for side in (0, 1))
    responses = Responses(prompts, answers, list(range(len(contents))))
    with torch.no_grad():
        scored = score_responses(model, responses, batch_tokens=batch_tokens)
    means = dict(zip(contents, scored.means().tolist(), strict=True))
    return [means.get(row, math.nan) for row in range(len(records))]


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _trailing_special(ids: Sequence[int], special: Collection[int]) -> int:
    return len(list(itertools.takewhile(lambda one: one in special, reversed(ids))))


def _key(record: Demonstration, max_length: int) -> str:
    content = [record.prompt, record.completion, record.plain, max_length]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()

"""Given records under the default model: their log-probabilities, short trainings, samples.

Everything is short, so that three seeds take minutes on one core: few records of few tokens, one a step, an adapter.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from coalign.checks.steps import reference_logps, trained
from coalign.checks.tiny_models import seeded, stream
from coalign.core.errors import DataError
from coalign.data.encoding import encode_records
from coalign.data.records import Messages, Ranking, Record
from coalign.models.adapters import add_adapter
from coalign.models.files.loading import load_model, load_tokenizer
from coalign.models.generation.generator import TransformersGenerator
from coalign.models.options import ModelOptions
from coalign.models.scoring.engine import score_responses
from coalign.models.types import Generation, Responses, Sampling
from coalign.training.examples import prepare_examples
from coalign.training.losses.listwise import ranking_accuracies
from coalign.training.objective import Objective, get_objective
from coalign.training.options import TrainingOptions

R = TypeVar("R", bound=Record)
Contexts = Callable[[Any], Sequence[Record]]

MODEL = "default"
MAX_LENGTH = 512
"""Tokens of prompt and response; longer responses are cut."""
SCORING_TOKENS = 4096
"""Most tokens in one pass."""
LEARNING_RATE = 3e-4


@functools.cache
def open_model(name: str) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The model, loaded once for all seeds."""
    return load_model(name, training=False), load_tokenizer(name)


def open_default() -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The default model and its tokenizer."""
    return open_model(MODEL)


def text_logps(records: Sequence[Record], model: nn.Module | None = None) -> list[list[Tensor]]:
    """For each record the token log-probabilities of its responses (end of turn included), without gradient.

    Args:
        model: by default the default model; its tokenizer is the default model's.

    Raises:
        DataError: a prompt leaves no room for a response.
    """
    default, tokenizer = open_default()
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
    tokenizer = open_default()[1]
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


def adapted(
    records: Sequence[Record], objective: Objective | str, constants: Any, *, steps: int, seed: int
) -> nn.Module:
    """The default model with a new adapter, trained for so many steps of one record with Adam at 3e-4.

    The reference of an objective that has one is the default model.

    Args:
        records: of the objective's kind, drawn in permutations.
        objective: or its name.
        constants: of the objective; its defaults when None.
    """
    if isinstance(objective, str):
        objective = get_objective(objective)
    model, tokenizer = open_default()
    examples = prepare_examples(
        records, objective, tokenizer, TrainingOptions(max_length=MAX_LENGTH)
    ).examples
    base: Any = copy.deepcopy(model)
    return trained(
        seeded(lambda: add_adapter(base, ModelOptions()), seed),
        examples,
        objective,
        constants,
        steps=steps,
        batch_size=1,
        learning_rate=LEARNING_RATE,
        generator=stream(seed, "records/order"),
        reference=reference_logps(model, examples, path="auto") if objective.reference else None,
        path="auto",
    )


def sampled(
    prompts: Sequence[Messages], n: int, *, max_new_tokens: int, seed: int, model: nn.Module | None = None
) -> list[list[Generation]]:
    """`n` responses to every prompt at temperature 1, by default of the default model."""
    default, tokenizer = open_default()
    sampling = Sampling(max_new_tokens=max_new_tokens, n=n, seed=seed)
    return TransformersGenerator(model or default, tokenizer).generate(prompts, sampling)


def share_in_order(groups: Sequence[Ranking], model: nn.Module | None = None) -> float:
    """Share of pairs of a better and a worse response that log-probabilities averaged over tokens order rightly, mean
    over the rankings.

    Args:
        model: by default the default model.
    """
    scores = torch.tensor([one for row in mean_logps(groups, model) for one in row])
    values = torch.tensor([one for group in groups for one in group.scores])
    owners = torch.tensor([row for row, group in enumerate(groups) for _ in group.scores])
    return float(ranking_accuracies(scores, values, owners).nanmean())

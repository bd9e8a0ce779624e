"""The reward that a model is by itself: how much more probable it makes a response than another model does.

Direct Preference Optimization (arXiv 2305.18290), equation 5: `r(x, y) = beta log(pi(y|x) / pi_ref(y|x))`, up to a
constant of the prompt. Responses are scored as they are trained on: the same chat template, the same token ids, the
end-of-turn token counted, role headers not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coalign.data.encoding import encode_records
from coalign.data.records import Messages, Ranking
from coalign.models.scoring.engine import DEFAULT_BATCH_TOKENS, score_responses
from coalign.models.types import Responses

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class SequenceLogps:
    """Log-probabilities of whole responses, `[prompts][responses]`.

    Attributes:
        sums: over a response's tokens, in nats; NaN where its prompt leaves no room under the length limits.
        tokens: how many are counted; 0 there.
    """

    sums: list[list[float]]
    tokens: list[list[int]]

    def means(self) -> list[list[float]]:
        """`[prompts][responses]` log-probability a token."""
        return [
            [value / max(n, 1) for value, n in zip(values, counts, strict=True)]
            for values, counts in zip(self.sums, self.tokens, strict=True)
        ]

    def rewards(self, reference: SequenceLogps, *, beta: float = 1.0) -> list[list[float]]:
        """`[prompts][responses]` `beta (log pi - log pi_ref)`, sums over tokens; beta changes no order."""
        return [
            [beta * (value - fixed) for value, fixed in zip(values, others, strict=True)]
            for values, others in zip(self.sums, reference.sums, strict=True)
        ]


def sequence_logps(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Messages],
    responses: Sequence[Sequence[str]],
    *,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> SequenceLogps:
    """Score responses to prompts under one model, without gradient; a prompt is computed once for its responses.

    Args:
        prompts: P conversations.
        responses: [P] for each prompt its responses, texts.
        max_length, max_prompt_length: limits in tokens, as in training (`coalign.data.encoding.encode_records`).
        on_batch: called with the number of responses done after each forward pass.

    Raises:
        DataError: a conversation that the chat template refuses.
    """
    records = [
        Ranking(prompt=prompt, responses=tuple(texts), scores=(0.0,) * len(texts))
        for prompt, texts in zip(prompts, responses, strict=True)
    ]
    encoded = encode_records(
        records, tokenizer, max_length=max_length, max_prompt_length=max_prompt_length
    ).records
    sums = [[math.nan] * len(texts) for texts in responses]
    tokens = [[0] * len(texts) for texts in responses]
    batch = Responses(
        prompt_ids=[one.prompt_ids for one in encoded],
        response_ids=[ids for one in encoded for ids in one.response_ids],
        prompt_index=[place for place, one in enumerate(encoded) for _ in one.response_ids],
    )
    if batch.response_ids:
        with torch.inference_mode():
            logps = score_responses(model, batch, batch_tokens=DEFAULT_BATCH_TOKENS, on_batch=on_batch)
        found = zip(logps.sums().tolist(), logps.lengths.tolist(), strict=True)
        for one in encoded:
            for place in range(len(one.response_ids)):
                sums[one.record_index][place], tokens[one.record_index][place] = next(found)
    return SequenceLogps(sums, tokens)

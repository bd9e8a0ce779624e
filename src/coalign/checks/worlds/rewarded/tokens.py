"""A world of token sequences with rewards that are linear in their tokens, differently for every prompt.

A prompt is a number, a response ten of twelve tokens. The model that training starts from is a small recurrent network with
random weights, so it has no opinion worth keeping and every change of it is the reward's doing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from coalign.checks.online import Sampled, sampled
from coalign.checks.tiny_models import TinyGRU, seeded, stream

VOCABULARY = 12
LENGTH = 10
PROMPTS = 16
WIDTH = 48


class PromptedGRU(TinyGRU):
    """A recurrent model whose first input is the number of a prompt, which it sees again at every token."""

    def __init__(self) -> None:
        super().__init__(VOCABULARY, WIDTH, 1)
        self.asked = nn.Embedding(PROMPTS, WIDTH)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> CausalLMOutputWithPast:
        """As `TinyGRU.forward`; `past_key_values` is the prompt's embedding and the hidden state."""
        if past_key_values is None:
            asked, state = self.asked(input_ids[:, :1]), None
            given = torch.cat([torch.zeros_like(asked), self.embedding(input_ids[:, 1:])], dim=1)
        else:
            asked, state = past_key_values
            given = self.embedding(input_ids)
        hidden, state = self.gru(given + asked, state)
        logits = self.head(hidden[:, -logits_to_keep:] if logits_to_keep else hidden)
        past: Any = (asked, state) if use_cache else None
        return CausalLMOutputWithPast(logits=logits, past_key_values=past)


@dataclass(frozen=True)
class TokenWorld:
    """Prompts, K rewards and the model that samples.

    Attributes:
        scores: [K, P, T, V] what a token is worth at each place of a response.
    """

    seed: int
    base: TinyGRU
    scores: Tensor

    @property
    def prompts(self) -> list[list[int]]:
        return [[place] for place in range(PROMPTS)]

    def rewards(self, tokens: Tensor) -> Tensor:
        """[P, n, T] responses to [K, P, n] rewards."""
        places = torch.arange(LENGTH).expand_as(tokens)
        rows = torch.arange(PROMPTS)[:, None, None].expand_as(tokens)
        return self.scores[:, rows, places, tokens].sum(-1)

    def sample(self, model: TinyGRU, n: int, purpose: str) -> Sampled:
        """n responses of a model to every prompt, in their own random stream."""
        return sampled(model, self.prompts, stream(self.seed, purpose), n=n, length=LENGTH)


def token_world(
    seed: int, *, spreads: Sequence[float] = (1.0,), correlation: float = 0.0, falling: bool = False
) -> TokenWorld:
    """A world under a seed.

    Args:
        spreads: standard deviation of a token's worth, one a reward; one or two rewards.
        correlation: of the two rewards' worths of a token.
        falling: a token's worth falls linearly from 1.5 of it at the first place to 0.5 at the last; otherwise only counts
            matter.
    """
    drawn = torch.randn(len(spreads), PROMPTS, 1, VOCABULARY, generator=stream(seed, "scores"))
    if len(spreads) == 2:
        drawn[1] = correlation * drawn[0] + math.sqrt(1 - correlation**2) * drawn[1]
    places = torch.linspace(1.5, 0.5, LENGTH) if falling else torch.ones(LENGTH)
    scores = drawn * torch.tensor(spreads)[:, None, None, None] * places[:, None]
    return TokenWorld(seed, seeded(PromptedGRU, seed).eval(), scores)

"""Log-probabilities of a prompt's own tokens: what an evaluation harness asks a server for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from coalign.models.generation.sampling import token_logps, top_token_logps
from coalign.models.modules import cache_argument, evaluation

if TYPE_CHECKING:
    from torch import nn

_CHUNK = 256
"""Places whose logits are held at once."""

Logps = tuple[list[float | None], list[list[tuple[int, float]] | None]]


@torch.inference_mode()
def prompt_logps(model: nn.Module, ids: list[int], top: int = 0) -> Logps:
    """Natural-log probability of every token given those before it, and the most probable tokens at its place.

    Args:
        model: a Hugging Face causal language model.
        ids: [L] tokens.
        top: alternatives a place.

    Returns:
        [L] log-probabilities and [L] alternatives in falling order; None for the first token, which follows nothing.
    """
    from transformers import DynamicCache

    device = next(model.parameters()).device
    row = torch.tensor([ids], device=device)
    logps: list[float | None] = [None]
    tops: list[list[tuple[int, float]] | None] = [None]
    cache = DynamicCache()
    forward: Any = model
    past = {cache_argument(model): cache}
    with evaluation(model):
        for start in range(0, len(ids) - 1, _CHUNK):
            part = row[:, start : min(start + _CHUNK, len(ids) - 1)]
            logits = forward(input_ids=part, use_cache=True, **past).logits[0]
            following = row[0, start + 1 : start + 1 + part.shape[1]]
            logps += token_logps(logits, following).tolist()
            if top:
                found, values = (one.tolist() for one in top_token_logps(logits, top))
                tops += [list(zip(*pair, strict=True)) for pair in zip(found, values, strict=True)]
            else:
                tops += [[] for _ in range(part.shape[1])]
    return logps, tops

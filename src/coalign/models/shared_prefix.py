"""Attention over packed rows in which all responses of a prompt share its computation.

A row holds `prompt, response 1, ..., response n` of one prompt after another, without padding. A token sees the
tokens before it in its own prompt and response, and nothing else; positions of every response continue its prompt's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from coalign.models.types import Responses

NAME = "coalign_shared_prefix"
"""Attention implementation under which a model accepts a `shared_prefix` layout; without one it is SDPA."""


@dataclass(frozen=True)
class Layout:
    """Where things are in a packed row.

    Attributes:
        spans: for each prompt group (start, end) in the row.
        masks: for each group its attention mask [L, L], True where a query (row) sees a key (column).
    """

    spans: list[tuple[int, int]]
    masks: list[Tensor]


@dataclass(frozen=True)
class PackedRow:
    """A packed row of T tokens with N response tokens to score.

    Attributes:
        input_ids: [1, T].
        position_ids: [1, T].
        predictors: [U] positions whose hidden state predicts response tokens, each once and in order; the last token
            of a prompt predicts the first tokens of all its responses.
        targets: [N] the response tokens.
        rows: [N] for each target its entry in `predictors`.
        layout: attention layout.
    """

    input_ids: Tensor
    position_ids: Tensor
    predictors: Tensor
    targets: Tensor
    rows: Tensor
    layout: Layout


def pack(responses: Responses, device: torch.device | str = "cpu") -> PackedRow:
    """Lay prompts and their responses out in one row.

    The last token of a response predicts nothing that is scored, so it is left out of the row.

    Raises:
        ValueError: a prompt is empty (there is no position that predicts the first response token).
    """
    input_ids: list[int] = []
    position_ids: list[int] = []
    predictors: list[int] = []
    spans: list[tuple[int, int]] = []
    masks: list[Tensor] = []
    by_prompt: dict[int, list[list[int]]] = {}
    for prompt, ids in zip(responses.prompt_index, responses.response_ids, strict=True):
        by_prompt.setdefault(prompt, []).append(ids)
    for prompt, group in by_prompt.items():
        prompt_ids = responses.prompt_ids[prompt]
        if not prompt_ids:
            raise ValueError(f"prompt {prompt} is empty: there is nothing to predict its response from")
        start = len(input_ids)
        prompt_end = start + len(prompt_ids)
        input_ids += prompt_ids
        position_ids += range(len(prompt_ids))
        for ids in group:
            body = len(input_ids)
            input_ids += ids[:-1]
            position_ids += range(len(prompt_ids), len(prompt_ids) + len(ids) - 1)
            predictors += [prompt_end - 1, *range(body, body + len(ids) - 1)]
        spans.append((start, len(input_ids)))
        masks.append(_group_mask(len(prompt_ids), [len(ids) - 1 for ids in group], device))
    unique, rows = torch.unique(torch.tensor(predictors, device=device), return_inverse=True)
    return PackedRow(
        input_ids=torch.tensor([input_ids], device=device),
        position_ids=torch.tensor([position_ids], device=device),
        predictors=unique,
        rows=rows,
        targets=torch.tensor([token for ids in responses.response_ids for token in ids], device=device),
        layout=Layout(spans, masks),
    )


def _group_mask(prompt_length: int, response_lengths: list[int], device: torch.device | str) -> Tensor:
    """[L, L] causal, the prompt visible to all, each response visible to itself alone."""
    owners = torch.repeat_interleave(
        torch.arange(len(response_lengths) + 1), torch.tensor([prompt_length, *response_lengths])
    ).to(device)
    visible = (owners[:, None] == owners[None, :]) | (owners[None, :] == 0)
    return visible.tril_()


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    shared_prefix: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function for Transformers' interface; [1, H, T, D] queries to [1, T, H, D].

    Raises:
        NotImplementedError: soft-capped scores or attention sinks, which SDPA does not have.
    """
    if shared_prefix is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise NotImplementedError("soft-capped attention or attention sinks")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    outputs = [
        F.scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, start:end],
            value[:, :, start:end],
            attn_mask=mask,
            dropout_p=dropout,
            scale=scaling,
        )
        for (start, end), mask in zip(shared_prefix.spans, shared_prefix.masks, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, shared_prefix_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)

"""Attention over packed rows in which all responses of a prompt share its computation.

A row holds `prompt, response 1, ..., response n` of one prompt after another, without padding. A token sees the
tokens before it in its own prompt and response, and nothing else; positions of every response continue its prompt's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import flex_attention_mask, sdpa_mask

from coalign.models.scoring.recomputed import current
from coalign.models.types import Responses

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

NAME = "coalign_shared_prefix"
"""Attention implementation under which a model accepts a `shared_prefix` layout; without one it is SDPA."""
FLEX_NAME = "coalign_shared_prefix_flex"
"""The same over FlexAttention: one kernel a layer that skips the blocks in which nothing is seen."""


def implementation_over(current: str, device: torch.device) -> str:
    """The name of shared-prefix attention for a model that runs under the implementation `current`.

    FlexAttention where the model was loaded with it, but not on a CPU, where it has no backward pass.
    """
    wants_flex = current == "flex_attention" and device.type != "cpu"
    return FLEX_NAME if wants_flex or current == FLEX_NAME else NAME


@dataclass(frozen=True)
class Layout:
    """Where things are in a packed row.

    Attributes:
        spans: for each prompt group (start, end) in the row.
        owners: [T] for each token of the row 0 in a prompt, else the number (from 1) of its response in the group.
    """

    spans: list[tuple[int, int]]
    owners: Tensor

    @cached_property
    def masks(self) -> list[Tensor]:
        """For each group its attention mask [L, L], True where a query (row) sees a key (column): causal, the prompt
        visible to all, each response visible to itself alone.
        """
        parts = [self.owners[start:end] for start, end in self.spans]
        return [((one[:, None] == one[None, :]) | (one[None, :] == 0)).tril_() for one in parts]

    def biases(self, dtype: torch.dtype) -> list[Tensor]:
        """The masks as what is added to scores: made once for all layers, where SDPA would make them in each and keep them."""
        if dtype not in self._biases:
            self._biases[dtype] = [
                torch.zeros(one.shape, dtype=dtype, device=one.device).masked_fill_(~one, -torch.inf)
                for one in self.masks
            ]
        return self._biases[dtype]

    @cached_property
    def _biases(self) -> dict[torch.dtype, list[Tensor]]:
        return {}

    @cached_property
    def block_mask(self) -> BlockMask:
        """The same for FlexAttention, over the whole row."""
        from torch.nn.attention.flex_attention import create_block_mask

        owners, length = self.owners, len(self.owners)
        sizes = torch.tensor([end - start for start, end in self.spans])
        groups = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(owners.device)

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            own = (owners[query] == owners[key]) | (owners[key] == 0)
            return (query >= key) & (groups[query] == groups[key]) & own

        return create_block_mask(sees, None, None, length, length, device=owners.device)


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


@dataclass(frozen=True)
class PackedTexts:
    """A packed row of T tokens with B whole responses.

    Attributes:
        input_ids, position_ids: [1, T].
        ends: [B] the position of each response's last token.
        layout: attention layout.
    """

    input_ids: Tensor
    position_ids: Tensor
    ends: Tensor
    layout: Layout


def pack(responses: Responses, device: torch.device | str = "cpu") -> PackedRow:
    """Lay prompts and their responses out in one row, to score their tokens.

    The last token of a response predicts nothing that is scored, so it is left out of the row.

    Raises:
        ValueError: a prompt is empty (there is no position that predicts the first response token).
    """
    for prompt in set(responses.prompt_index):
        if not responses.prompt_ids[prompt]:
            raise ValueError(f"prompt {prompt} is empty: there is nothing to predict its response from")
    row = _Row(responses, [ids[:-1] for ids in responses.response_ids])
    predictors = [
        place
        for prompt_end, start, ids in zip(row.prompt_ends, row.starts, responses.response_ids, strict=True)
        for place in (prompt_end - 1, *range(start, start + len(ids) - 1))
    ]
    unique, rows = torch.unique(torch.tensor(predictors, device=device), return_inverse=True)
    return PackedRow(
        input_ids=torch.tensor([row.input_ids], device=device),
        position_ids=torch.tensor([row.position_ids], device=device),
        predictors=unique,
        rows=rows,
        targets=torch.tensor([token for ids in responses.response_ids for token in ids], device=device),
        layout=row.layout(device),
    )


def pack_whole(responses: Responses, device: torch.device | str = "cpu") -> PackedTexts:
    """Lay prompts and their whole responses out in one row, to read states at their ends. A prompt may be empty."""
    row = _Row(responses, responses.response_ids)
    ends = [start + len(ids) - 1 for start, ids in zip(row.starts, responses.response_ids, strict=True)]
    return PackedTexts(
        input_ids=torch.tensor([row.input_ids], device=device),
        position_ids=torch.tensor([row.position_ids], device=device),
        ends=torch.tensor(ends, device=device),
        layout=row.layout(device),
    )


class _Row:
    """Prompts and what is taken of their responses, one after another.

    Attributes:
        prompt_ends, starts: for each response where its prompt ends and where it starts in the row.
    """

    def __init__(self, responses: Responses, bodies: Sequence[Sequence[int]]) -> None:
        self.input_ids: list[int] = []
        self.position_ids: list[int] = []
        self.owners: list[int] = []
        self.spans: list[tuple[int, int]] = []
        self.prompt_ends: list[int] = []
        self.starts: list[int] = []
        groups: dict[int, list[Sequence[int]]] = {}
        for prompt, ids in zip(responses.prompt_index, bodies, strict=True):
            groups.setdefault(prompt, []).append(ids)
        for prompt, group in groups.items():
            start, prompt_ids = len(self.input_ids), responses.prompt_ids[prompt]
            self._add(prompt_ids, 0, 0)
            prompt_end = len(self.input_ids)
            for owner, ids in enumerate(group, 1):
                self.prompt_ends.append(prompt_end)
                self.starts.append(len(self.input_ids))
                self._add(ids, len(prompt_ids), owner)
            self.spans.append((start, len(self.input_ids)))

    def layout(self, device: torch.device | str) -> Layout:
        return Layout(self.spans, torch.tensor(self.owners, device=device))

    def _add(self, ids: Sequence[int], first: int, owner: int) -> None:
        self.input_ids += ids
        self.position_ids += range(first, first + len(ids))
        self.owners += [owner] * len(ids)


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
    kept = current()
    outputs = [
        F.scaled_dot_product_attention(
            query[:, :, start:end],
            _for_each_query(key[:, :, start:end], query.shape[1], "key"),
            _for_each_query(value[:, :, start:end], query.shape[1], "value"),
            attn_mask=mask,
            dropout_p=dropout,
            scale=scaling,
        )
        for (start, end), mask in zip(shared_prefix.spans, shared_prefix.biases(query.dtype), strict=True)
    ]
    joined = _side_by_side(*outputs)
    if kept:
        kept.offer("attended", joined, _side_by_side, *outputs)
    return joined, None


def _side_by_side(*outputs: Tensor) -> Tensor:
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def _for_each_query(heads: Tensor, queries: int, name: str) -> Tensor:
    """Heads [1, K, L, D] repeated for as many heads of queries; the backward pass repeats them again."""
    groups = queries // heads.shape[1]
    if groups == 1:
        return heads
    repeated = repeat_kv(heads, groups)
    if kept := current():
        kept.offer(name, repeated, partial(repeat_kv, n_rep=groups), heads)
    return repeated


def shared_prefix_flex_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    shared_prefix: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The same interface over FlexAttention, for CUDA; on a CPU it has a forward pass alone, and is not compiled.

    Raises:
        NotImplementedError: attention dropout, soft-capped scores or attention sinks.
    """
    if shared_prefix is None:
        return flex_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    if dropout or kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise NotImplementedError("attention dropout, soft-capped attention or attention sinks")
    attend = _flex_attention(query.is_cuda)
    output = attend(
        query,
        key,
        value,
        block_mask=shared_prefix.block_mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).contiguous(), None


@cache
def _flex_attention(compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention  # type: ignore[return-value]


AttentionInterface.register(NAME, shared_prefix_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
AttentionInterface.register(FLEX_NAME, shared_prefix_flex_attention)
AttentionMaskInterface.register(FLEX_NAME, flex_attention_mask)

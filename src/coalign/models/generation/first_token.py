"""Encoders whose last layer is computed for the first token alone, for heads that read nothing else.

The last layer's keys and values need every token; its queries, its output and its feed-forward part are then wanted at one
position. Of an encoder with L layers this saves nearly 1/L of the work, and changes no number but by rounding.
"""

from __future__ import annotations

import copy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

KNOWN_LAYERS = {"BertLayer", "CamembertLayer", "ElectraLayer", "RobertaLayer", "XLMRobertaLayer"}
"""Layers of Transformers built as in BERT: absolute positions, attention, norm, feed-forward part, norm."""


class FirstTokenLayer(nn.Module):
    """A layer of BERT's kind, for the first token.

    Args:
        layer: one of `KNOWN_LAYERS`; its modules are used, not copied.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        """[B, T, H] to [B, 1, H].

        Args:
            attention_mask: [B, 1, 1 or T, T] as the encoder gives it to its layers: true or 0 where a token is seen,
                false or a large negative number where not.
        """
        attention = self.layer.attention.self
        first = hidden[:, :1]
        query, key, value = (
            part(states).unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
            for part, states in ((attention.query, first), (attention.key, hidden), (attention.value, hidden))
        )
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if attention_mask is None else attention_mask[:, :, :1],
            dropout_p=attention.dropout.p if attention.training else 0.0,
            scale=attention.scaling,
        )
        attended = self.layer.attention.output(mixed.transpose(1, 2).flatten(2), first)
        return self.layer.output(self.layer.intermediate(attended), attended)


def first_token_view(model: nn.Module) -> nn.Module | None:
    """`model` with its last layer computed for the first token alone, or None where its architecture is not known.

    The view shares every weight; `model` stays as it is. Whatever reads hidden states of the view finds one token. Only
    masks as of the attention kinds `sdpa` and `eager` are understood.
    """
    stacks = [
        (name, stack)
        for name, stack in model.named_modules()
        if isinstance(stack, nn.ModuleList) and len(stack) and type(stack[-1]).__name__ in KNOWN_LAYERS
    ]
    if len(stacks) != 1:
        return None
    name, stack = stacks[0]
    layer: Any = stack[-1]
    kind = getattr(getattr(layer.attention.self, "config", None), "_attn_implementation", None)
    if kind not in ("sdpa", "eager") or layer.is_decoder:
        return None
    return _replaced(model, [*name.split("."), str(len(stack) - 1)], FirstTokenLayer(layer))


def _replaced(module: nn.Module, path: list[str], new: nn.Module) -> nn.Module:
    """A shallow copy of `module` in which the module at `path` is another one."""
    if not path:
        return new
    view = copy.copy(module)
    children = dict(module.named_children())
    children[path[0]] = _replaced(children[path[0]], path[1:], new)
    vars(view)["_modules"] = children
    return view

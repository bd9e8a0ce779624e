"""Log-probabilities of chosen tokens straight from hidden states, without keeping logits.

Logits exist for one chunk of positions at a time. A frozen output layer (the usual case under LoRA) needs no
recomputation: each log-probability is a scalar, so its derivative with respect to the hidden state is known already
in the forward pass. A trainable output layer recomputes its chunks in the backward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK_ELEMENTS = 2**24
"""Logits of one chunk: 64 MiB in float32."""


def token_logps_from_hidden(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """log softmax(W h + b)[target] for every position.

    Args:
        hidden: [N, D] final hidden states.
        weight: [V, D] output layer.
        bias: [V] or None.
        targets: [N] token ids.

    Returns:
        [N] log-probabilities, float32 (float64 for float64 inputs).
    """
    return _TokenLogps.apply(hidden, weight, bias, targets)  # type: ignore[no-any-return]


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        needs_hidden, needs_weight, needs_bias, _ = ctx.needs_input_grad
        trainable_head = needs_weight or needs_bias
        early = needs_hidden and not trainable_head
        logps = hidden.new_empty(len(targets), dtype=_wide(hidden))
        jacobian = torch.empty_like(hidden) if early else None
        for rows in _chunks(len(targets), len(weight)):
            logits = F.linear(hidden[rows], weight, bias).to(logps.dtype)
            normaliser = torch.logsumexp(logits, dim=-1)
            logps[rows] = logits.gather(1, targets[rows, None]).squeeze(1) - normaliser
            if jacobian is not None:
                probabilities = logits.sub_(normaliser[:, None]).exp_().to(weight.dtype)
                torch.sub(weight[targets[rows]], probabilities @ weight, out=jacobian[rows])
        ctx.early = early
        if early:
            ctx.save_for_backward(jacobian)
        else:
            ctx.save_for_backward(hidden, weight, bias, targets)
        return logps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        gradient = gradients[0]
        if ctx.early:
            (jacobian,) = ctx.saved_tensors
            return gradient[:, None].to(jacobian.dtype) * jacobian, None, None, None
        hidden, weight, bias, targets = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=_wide(weight))
        grad_bias = torch.zeros_like(bias, dtype=_wide(bias)) if bias is not None else None
        for rows in _chunks(len(targets), len(weight)):
            logits = F.linear(hidden[rows], weight, bias).to(gradient.dtype)
            # d logp / d logits = onehot(target) - softmax(logits)
            delta = torch.softmax(logits, dim=-1).mul_(-gradient[rows, None])
            delta.scatter_add_(1, targets[rows, None], gradient[rows, None])
            grad_hidden[rows] = delta.to(weight.dtype) @ weight
            grad_weight.addmm_(delta.T.to(grad_weight.dtype), hidden[rows].to(grad_weight.dtype))
            if grad_bias is not None:
                grad_bias += delta.sum(0)
        needs = ctx.needs_input_grad
        return (
            grad_hidden if needs[0] else None,
            grad_weight.to(weight.dtype) if needs[1] else None,
            grad_bias.to(bias.dtype) if needs[2] and grad_bias is not None and bias is not None else None,
            None,
        )


@contextlib.contextmanager
def fused_token_head(head: nn.Linear, targets: Tensor) -> Iterator[None]:
    """While active, `head` maps hidden states [1, N, D] to log-probabilities of `targets` [1, N, 1].

    The model is still called from the outside, so that wrappers around it (DDP, FSDP, PEFT) see a normal forward.
    """

    def forward(hidden: Tensor) -> Tensor:
        return token_logps_from_hidden(hidden.squeeze(0), head.weight, head.bias, targets)[None, :, None]

    head.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del head.forward


def token_logps_from_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(logits)[target]: [N, V], [N] -> [N]. Keeps the logits for the backward pass."""
    wide = logits.to(_wide(logits))
    return wide.gather(1, targets[:, None]).squeeze(1) - torch.logsumexp(wide, dim=-1)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _chunks(length: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))

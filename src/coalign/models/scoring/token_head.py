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
from torch import Tensor, nn

from coalign.models.scoring.products import linear

CHUNK_ELEMENTS = 2**24
"""Logits of one chunk: 64 MiB in float32."""


def token_logps_from_hidden(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: Tensor
) -> Tensor:
    """log softmax(W h + b)[target] for every target.

    Several targets may share a row (the first tokens of all responses to a prompt are predicted from one position):
    its logits are formed once, and its gradient is summed in a fixed order, so that results repeat to the last bit.

    Args:
        hidden: [U, D] final hidden states.
        weight: [V, D] output layer.
        bias: [V] or None.
        targets: [N] token ids.
        rows: [N] the row of `hidden` that predicts each target.

    Returns:
        [N] log-probabilities, float32 (float64 for float64 inputs).
    """
    return _TokenLogps.apply(hidden, weight, bias, targets, rows)  # type: ignore[no-any-return]


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: Tensor
    ) -> Tensor:
        needs_hidden, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        trainable_head = needs_weight or needs_bias
        early = needs_hidden and not trainable_head
        logps = hidden.new_empty(len(targets), dtype=wide(hidden))
        expected = torch.empty_like(hidden, dtype=weight.dtype) if early else None
        for chunk, tokens in _chunks(rows, len(hidden), len(weight)):
            logits = linear(hidden[chunk], weight, bias).to(logps.dtype)
            local = rows[tokens] - chunk.start
            # In place, one pass of exponentials: `torch.logsumexp` takes longer than the product before it.
            logits -= logits.amax(-1, keepdim=True)
            chosen = logits[local, targets[tokens]]
            total = logits.exp_().sum(-1)
            logps[tokens] = chosen - total.log()[local]
            if expected is not None:
                probabilities = logits.div_(total[:, None]).to(weight.dtype)
                with torch.autocast(hidden.device.type, enabled=False):
                    expected[chunk] = linear(probabilities, weight.t())
        ctx.hidden_dtype = hidden.dtype
        ctx.early, ctx.autocast = early, autocast_of(hidden)
        if early:
            ctx.save_for_backward(expected, weight, targets, rows)
        else:
            ctx.save_for_backward(hidden, weight, bias, targets, rows)
        return logps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        if ctx.early:
            # d logp / d h = W[target] - sum over v of p_v W[v]
            expected, weight, targets, rows = ctx.saved_tensors
            weights = gradient.to(expected.dtype)
            totals = weights.new_zeros(len(expected)).index_add_(0, rows, weights)
            grad_hidden = -totals[:, None] * expected
            grad_hidden.index_add_(0, rows, weights[:, None] * weight[targets])
            return grad_hidden.to(ctx.hidden_dtype), None, None, None, None
        hidden, weight, bias, targets, rows = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=wide(weight))
        grad_bias = torch.zeros_like(bias, dtype=wide(bias)) if bias is not None else None
        for chunk, tokens in _chunks(rows, len(hidden), len(weight)):
            with ctx.autocast:
                logits = linear(hidden[chunk], weight, bias).to(gradient.dtype)
            local = rows[tokens] - chunk.start
            totals = gradient.new_zeros(len(logits)).index_add_(0, local, gradient[tokens])
            # d logp / d logits = onehot(target) - softmax(logits), summed over the targets of a row
            delta = torch.softmax(logits, dim=-1).mul_(-totals[:, None])
            flat = local * delta.shape[1] + targets[tokens]
            delta.view(-1).index_add_(0, flat, gradient[tokens])
            with ctx.autocast:
                grad_hidden[chunk] = linear(delta.to(weight.dtype), weight.t()).to(hidden.dtype)
            grad_weight.addmm_(delta.T.to(grad_weight.dtype), hidden[chunk].to(grad_weight.dtype))
            if grad_bias is not None:
                grad_bias += delta.sum(0)
        needs = ctx.needs_input_grad
        return (
            grad_hidden if needs[0] else None,
            grad_weight.to(weight.dtype) if needs[1] else None,
            grad_bias.to(bias.dtype) if needs[2] and grad_bias is not None and bias is not None else None,
            None,
            None,
        )


@contextlib.contextmanager
def fused_token_head(
    head: nn.Linear, targets: Tensor, rows: Tensor, temperature: float = 1.0
) -> Iterator[None]:
    """While active, `head` maps hidden states [1, U, D] to log-probabilities of `targets` [1, N, 1].

    The model is still called from the outside, so that wrappers around it (DDP, FSDP, PEFT) see a normal forward.
    """

    def forward(hidden: Tensor) -> Tensor:
        states, bias = hidden.squeeze(0), head.bias
        if temperature != 1:
            states, bias = states / temperature, None if bias is None else bias / temperature
        logps = token_logps_from_hidden(states, head.weight, bias, targets, rows)
        return logps[None, :, None]

    head.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del head.forward


def token_logps_from_logits(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature)[target]: [N, V], [N] -> [N]. Keeps the logits for the backward pass."""
    logits = logits.to(wide(logits)) / temperature
    return logits.gather(1, targets[:, None]).squeeze(1) - torch.logsumexp(logits, dim=-1)


def wide(tensor: Tensor) -> torch.dtype:
    """The format to normalise in: float32, float64 for float64."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def autocast_of(tensor: Tensor) -> torch.autocast:
    """What autocast does in the forward pass, to do it in the backward pass, where it is off."""
    device = tensor.device.type
    return torch.autocast(device, torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device))


def _chunks(rows: Tensor, count: int, vocabulary: int) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the hidden states, and the targets (positions in `rows`) that each slice predicts."""
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    order = torch.argsort(rows, stable=True)
    bounds = torch.searchsorted(
        rows[order].contiguous(), torch.arange(0, count + size, size, device=rows.device)
    ).tolist()
    for number, start in enumerate(range(0, count, size)):
        yield slice(start, min(start + size, count)), order[bounds[number] : bounds[number + 1]]

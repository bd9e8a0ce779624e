"""How exact decoding in a cheaper number format is, measured on what it has just said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from coalign.models.files.file_pages import (
    frugal,
    release_file_pages,
    return_freed_memory,
    unwritten_files,
)
from coalign.models.generation.batching import left_padded
from coalign.models.modules import evaluation

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coalign.models.generation.incremental import Rows

Precision = Literal["float32", "bfloat16", "int4"]
PLACES, LONGEST = 64, 512
"""Tokens whose distributions are compared, and the longest text that is."""
_HEAD_PART = 4096
FAR = 0.01
"""Nats of divergence from which on it is worth a warning."""


@dataclass(frozen=True)
class Exactness:
    """Distributions of next tokens against those of the model's own modules.

    Attributes:
        kl: mean KL(own, cheaper) in nats.
        agreement: share of places with the same likeliest token.
        places: how many were compared.
    """

    kl: float
    agreement: float
    places: int

    def describe(self, precision: str) -> str:
        """One line for people."""
        return (
            f"Decoding in {precision}: KL from the model's own distributions {self.kl:.2g} nats a token, the same "
            f"likeliest token in {self.agreement:.1%} of {self.places} places of the first answers."
        )


@torch.inference_mode()
def measure_exactness(
    model: nn.Module, open_rows: Callable[[], Rows], answers: Sequence[tuple[list[int], list[int]]]
) -> Exactness | None:
    """Compare on prompts and what was answered, as tokens, up to `PLACES` of them.

    Args:
        model: computes with its own modules, in the format of its weights; one for which
            `coalign.models.generation.fused_decoder.is_llama_like` holds.
        open_rows: rows on the cheaper path.

    Returns:
        None where no text is short enough to be looked at.
    """
    divergences: list[Tensor] = []
    same: list[Tensor] = []
    left = PLACES
    device = next(model.parameters()).device
    bare: Any = model
    for prompt, answer in answers:
        said = answer[: min(left, LONGEST - len(prompt))]
        if not said or left <= 0:
            continue
        left -= len(said)
        with evaluation(model), frugal(model):
            ids = torch.tensor([[*prompt, *said]], device=device)
            hidden = bare.model(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 : -1]
            own = _head_in_parts(bare.lm_head, hidden)
        rows = open_rows()
        found = [rows.start(*left_padded([prompt], device))]
        found += [rows.step(torch.tensor([token], device=device)) for token in said[:-1]]
        for one, other in zip(own, torch.cat(found), strict=True):
            wanted, cheaper = one.double().log_softmax(-1), other.double().log_softmax(-1)
            divergences.append((wanted.exp() * (wanted - cheaper)).sum())
            same.append(one.argmax() == other.argmax())
    return_freed_memory()
    if not same:
        return None
    agreement = torch.stack(same).double().mean()
    return Exactness(float(torch.stack(divergences).mean()), float(agreement), PLACES - left)


def _head_in_parts(head: nn.Linear, hidden: Tensor) -> Tensor:
    """What the output layer makes of hidden states, with few of its numbers, which may lie in a file, in memory at a time."""
    files = unwritten_files([head.weight])
    parts = []
    for start in range(0, head.out_features, _HEAD_PART):
        weight = head.weight[start : start + _HEAD_PART]
        bias = None if head.bias is None else head.bias[start : start + _HEAD_PART]
        parts.append(F.linear(hidden, weight, bias))
        release_file_pages([weight], files)
    return torch.cat(parts, -1)

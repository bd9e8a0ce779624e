"""How exact decoding in a cheaper number format is, measured on what it has just said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from coalign.models.files.file_pages import frugal
from coalign.models.generation.batching import left_padded
from coalign.models.modules import evaluation

if TYPE_CHECKING:
    from torch import Tensor, nn

    from coalign.models.generation.incremental import Rows

Precision = Literal["float32", "bfloat16", "int4"]
PLACES, LONGEST = 64, 512
"""Tokens whose distributions are compared, and the longest text that is."""
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
        model: computes with its own modules, in the format of its weights.
        open_rows: rows on the cheaper path.

    Returns:
        None where no text is short enough to be looked at.
    """
    divergences: list[Tensor] = []
    same: list[Tensor] = []
    left = PLACES
    device = next(model.parameters()).device
    forward: Any = model
    for prompt, answer in answers:
        said = answer[: min(left, LONGEST - len(prompt))]
        if not said or left <= 0:
            continue
        left -= len(said)
        with evaluation(model), frugal(model):
            ids = torch.tensor([[*prompt, *said]], device=device)
            own = forward(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        rows = open_rows()
        found = [rows.start(*left_padded([prompt], device))]
        found += [rows.step(torch.tensor([token], device=device)) for token in said[:-1]]
        wanted, cheaper = own.double().log_softmax(-1), torch.cat(found).double().log_softmax(-1)
        divergences.append((wanted.exp() * (wanted - cheaper)).sum(-1))
        same.append(wanted.argmax(-1) == cheaper.argmax(-1))
    if not same:
        return None
    agreement = torch.cat(same).double().mean()
    return Exactness(float(torch.cat(divergences).mean()), float(agreement), PLACES - left)

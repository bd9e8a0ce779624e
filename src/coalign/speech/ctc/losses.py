"""The CTC loss of recognisers, as every training and the small recogniser itself computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def ctc_losses(logits: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]], blank: int) -> Tensor:
    """[B] CTC losses, -log p(text | audio) summed over the sequence; 0 where no alignment exists (too few frames).

    Args:
        logits: [B, T, V], float32 or wider; `lengths` [B] frames of each item.
    """
    labels = torch.tensor([one for ids in targets for one in ids], dtype=torch.long)
    counts = torch.tensor([len(ids) for ids in targets])
    logps = logits.log_softmax(-1).transpose(0, 1)
    return torch.nn.functional.ctc_loss(
        logps, labels.to(logits.device), lengths.cpu(), counts, blank, reduction="none", zero_infinity=True
    )

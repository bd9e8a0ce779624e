"""Training on two views of each record, one with more in its prompt than the other, that share every weight.

`L = CE_more + w_s CE_less + w_k KL(more || less)`: the terms are means over the target tokens of the whole optimizer step (the
divergence over those that are not the last of their response), whatever the accumulation.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coalign.models.modules import unwrap
from coalign.training.distillation import IGNORED, TokenExample, collate
from coalign.training.losses.self_distillation import self_distillation_terms
from coalign.training.objective import Losses
from coalign.training.task import Batch, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import TrainerState


@dataclass(frozen=True)
class TwoViews:
    """The same target tokens after two prompts.

    Attributes:
        more: the prompt that knows more, and the target.
        less: the other prompt, and the same target; its last token is the end.

    Raises:
        ValueError: the targets differ.
    """

    id: str
    more: TokenExample
    less: TokenExample

    def __post_init__(self) -> None:
        targets = [
            [token for token, wanted in zip(one.ids, one.trained, strict=True) if wanted]
            for one in (self.more, self.less)
        ]
        if targets[0] != targets[1] or not targets[0]:
            raise ValueError(f"{self.id}: the two views have the targets {targets}, expected the same")


class SelfDistillation(Task):
    """What a language model learns of two views.

    Args:
        student_weight: w_s.
        divergence_weight: w_k.
        teacher: whether the view with more is learnt at all; otherwise `CE_less` alone is, with weight 1.
    """

    name = "self-distillation"
    examples = "the judgements"

    def __init__(
        self, *, student_weight: float = 0.3, divergence_weight: float = 2.0, teacher: bool = True
    ) -> None:
        self.weights = (1.0, student_weight, divergence_weight) if teacher else (0.0, 1.0, 0.0)

    def collate(self, examples: Sequence[TwoViews]) -> Batch:
        views = [*(one.more for one in examples), *(one.less for one in examples)]
        return {"ids": [one.id for one in examples], **collate(views)}

    def count(self, batch: Batch) -> Tensor:
        """[3] targets of either view, and those that are not an end."""
        half = len(batch["ids"])
        targets = int((batch["labels"][:half] != IGNORED).sum())
        return torch.tensor([targets, targets, targets - half], dtype=torch.float64)

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        labels = batch["labels"][:, 1:]
        wanted = labels != IGNORED
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits = _logits_at(model, given, wanted)
        targets = labels[wanted]
        rows = wanted.nonzero()[:, 0]
        ends = torch.cat([rows[1:] != rows[:-1], rows.new_ones(1, dtype=torch.bool)])
        half = len(targets) // 2
        terms = self_distillation_terms(logits[:half], logits[half:], targets[:half], ends[:half])
        losses = torch.stack([weight * one.sum() for weight, one in zip(self.weights, terms, strict=True)])
        hits = (logits[half:].argmax(-1) == targets[:half])[~ends[:half]]
        return Losses(
            losses,
            {
                "loss/with_reference": terms[0].detach(),
                "loss/without_reference": terms[1].detach(),
                "divergence": terms[2].detach(),
                "accuracy": hits.float(),
            },
        )


def _logits_at(model: nn.Module, given: dict[str, Tensor], wanted: Tensor) -> Tensor:
    """[N, V] logits, float32 or wider, that predict the wanted tokens [R, T - 1]; of other positions none are formed where the model can
    leave them out.
    """
    if "logits_to_keep" in inspect.signature(unwrap(model).forward).parameters:
        places = wanted.any(0).nonzero()[:, 0]
        logits = model(**given, logits_to_keep=places).logits
        chosen = logits[wanted[:, places]]
    else:
        chosen = model(**given).logits[:, :-1][wanted]
    return chosen if chosen.dtype == torch.float64 else chosen.float()

"""Distillation: a student learns from the token distributions of frozen teachers.

What is learned is a function of logits; this module makes the batches, asks teachers and student for their logits at
the trained positions, and divides by the trained tokens of the whole optimizer step, whatever the accumulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coalign.training.objective import Losses
from coalign.training.task import Batch, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import TrainerState

IGNORED = -100
"""Label of a token that is not trained, as in Transformers."""

Teacher = Callable[["nn.Module", "dict[str, Tensor]"], "Tensor"]
"""(student, {input_ids, attention_mask}) to the teacher's logits [R, T, V]. Called without gradient, before the student."""
TokenLoss = Callable[["Tensor", "Sequence[Tensor]", "Tensor", "Tensor"], "Tensor"]
"""(student logits [N, V], teachers' logits [N, V] each, labels [N], row of each token [N]) to losses [N]."""


@dataclass(frozen=True)
class TokenExample:
    """A text as tokens.

    Attributes:
        ids: [T] token ids.
        trained: [T] whether a token is learned. The first one has no context and never is.
    """

    ids: list[int]
    trained: list[bool]

    @property
    def targets(self) -> int:
        """Tokens that are learned."""
        return sum(self.trained[1:])


def collate(examples: Sequence[TokenExample]) -> dict[str, Tensor]:
    """Right-padded `input_ids`, `attention_mask` and `labels` [R, T]; `labels` are `IGNORED` where nothing is learned."""
    from torch.nn.utils.rnn import pad_sequence

    def padded(rows: Sequence[Sequence[int]], value: int = 0) -> Tensor:
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)

    labels = [
        [IGNORED, *(t if wanted else IGNORED for t, wanted in zip(one.ids[1:], one.trained[1:], strict=True))]
        for one in examples
    ]
    return {
        "input_ids": padded([one.ids for one in examples]),
        "attention_mask": padded([[1] * len(one.ids) for one in examples]),
        "labels": padded(labels, IGNORED),
    }


class Distillation(Task):
    """A loss of the student's and the teachers' logits at trained tokens, divided by the trained tokens of the step."""

    name = "distillation"

    def __init__(self, loss: TokenLoss, teachers: Sequence[Teacher]) -> None:
        self.token_loss = loss
        self.teachers = list(teachers)

    def collate(self, examples: Sequence[TokenExample]) -> Batch:
        return dict(collate(examples))

    def count(self, batch: Batch) -> int:
        """Trained tokens."""
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        labels = batch["labels"][:, 1:]
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        wanted = labels != IGNORED
        rows = wanted.nonzero()[:, 0]
        with torch.no_grad():
            taught = [teacher(model, given)[:, :-1][wanted] for teacher in self.teachers]
        logits = model(**given).logits[:, :-1][wanted]
        return Losses(self.token_loss(logits, taught, labels[wanted], rows))

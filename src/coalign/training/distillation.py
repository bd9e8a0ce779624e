"""Distillation: a student learns from the token distributions of frozen teachers.

What is learned is a function of logits; this module makes the batches, asks teachers and student for their logits at
the trained positions, and divides by the trained tokens of the whole optimizer step, whatever the accumulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from coalign.training.checkpoints import EpochShuffle, WholeCheckpoints

IGNORED = -100
"""Label of a token that is not trained, as in Transformers."""

Teacher = Callable[[nn.Module, dict[str, Tensor]], Tensor]
"""(student, {input_ids, attention_mask}) to the teacher's logits [R, T, V]. Called without gradient, before the student."""
TokenLoss = Callable[[Tensor, Sequence[Tensor], Tensor, Tensor], Tensor]
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
    width = max(len(one.ids) for one in examples)
    rows = []
    for one in examples:
        padding = width - len(one.ids)
        labels = [token if wanted else IGNORED for token, wanted in zip(one.ids, one.trained, strict=True)]
        labels[0] = IGNORED
        rows.append(
            (
                one.ids + [0] * padding,
                [1] * len(one.ids) + [0] * padding,
                labels + [IGNORED] * padding,
            )
        )
    ids, mask, labels = zip(*rows, strict=True)
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor(labels),
    }


class DistillationTrainer(WholeCheckpoints, Trainer):
    """Trains `model` on `loss` of its own and the teachers' logits at trained tokens."""

    def __init__(
        self,
        model: nn.Module,
        loss: TokenLoss,
        teachers: Sequence[Teacher],
        examples: Sequence[TokenExample],
        arguments: TrainingArguments,
        *,
        eval_examples: Sequence[TokenExample] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model=model,  # type: ignore[arg-type]
            args=arguments,
            train_dataset=list(examples),  # type: ignore[arg-type]
            eval_dataset=list(eval_examples) or None,  # type: ignore[arg-type]
            data_collator=collate,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = (
            True  # so that Transformers counts the trained tokens of a whole step
        )
        self._token_loss = loss
        self._teachers = list(teachers)

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochShuffle:
        return EpochShuffle(len(self.train_dataset), self.args.seed)  # type: ignore[arg-type]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        labels = inputs["labels"][:, 1:]
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        wanted = labels != IGNORED
        rows = wanted.nonzero()[:, 0]
        with torch.no_grad():
            taught = [teacher(model, given)[:, :-1][wanted] for teacher in self._teachers]
        logits = model(**given).logits[:, :-1][wanted]
        losses = self._token_loss(logits, taught, labels[wanted], rows)
        if num_items_in_batch is None:
            total = losses.sum() / max(int(wanted.sum()), 1)
        else:
            total = losses.sum() / num_items_in_batch
            if self.args.average_tokens_across_devices:
                total = total * self.accelerator.num_processes
        return (total, {"loss": total}) if return_outputs else total

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Tensor], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        with torch.no_grad():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))  # type: ignore[arg-type]
        return loss.detach(), None, None

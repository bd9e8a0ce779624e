"""Training of prompts and adapters on few shots, and their accuracy."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn.functional import cross_entropy, normalize

from coalign.pairs.losses import similarity
from coalign.training.checkpoints import KeyedShuffle
from coalign.training.objective import Losses
from coalign.training.task import Batch, Task
from coalign.vision.tuning.options import Criterion

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import TrainerState

    from coalign.pairs.encoders import ImageTextEncoder
    from coalign.vision.tuning.prompted import PromptedEncoder

View = Callable[[int, random.Random], "Tensor"]
"""A random view of a shot by its place, as pixel values [3, H, W]."""


def consistency_loss(
    image: Tensor, text: Tensor, frozen_image: Tensor, frozen_text: Tensor, criterion: Criterion = "cosine"
) -> tuple[Tensor, Tensor]:
    """How far features have gone from those of the frozen model; no gradient goes into the latter.

    Args:
        image, frozen_image: [B, D] features of any length.
        text, frozen_text: [K, D] features of any length.
        criterion: `cosine`: 1 - cos; `mse`: mean over D of the squared difference of unit vectors.

    Returns:
        [B] of the images and [K] of the texts; the term is the sum of both means.
    """

    def apart(one: Tensor, other: Tensor) -> Tensor:
        one, other = normalize(one, dim=-1), normalize(other.detach(), dim=-1)
        return 1 - (one * other).sum(-1) if criterion == "cosine" else (one - other).pow(2).mean(-1)

    return apart(image, frozen_image), apart(text, frozen_text)


@dataclass
class ConsistentTuning(Task):
    """Cross-entropy over the classes, and weight x the distance from the frozen model (Roy and Etemad 2024, section 3).

    Attributes:
        encoder: the frozen model.
        class_ids: [K, L] token ids of the class texts.
        descriptions: of each class [M_k, D] features of its sentences under the frozen model. A step takes the same number
            for all classes, modulo M_k.
        views: two random ones of a shot; the first goes to the tuned model, the second to the frozen one.
        labels: class of each shot.
        weight: lambda; 0 leaves the term out, and the frozen model is not run.
        seed: of the views and of the number of the description.
    """

    encoder: ImageTextEncoder
    class_ids: Tensor
    descriptions: Sequence[Tensor]
    views: tuple[View, View]
    labels: Sequence[int]
    weight: float
    criterion: Criterion
    seed: int
    name: ClassVar[str] = "cross-entropy with consistency"  # type: ignore[misc]
    examples: ClassVar[str] = "the pictures"  # type: ignore[misc]
    advice: ClassVar[str] = "look at these pictures"  # type: ignore[misc]

    def collate(self, examples: Sequence[int]) -> Batch:
        """Items are keys `epoch * size + index`; the views of one depend on seed and key alone."""
        pixels: list[Tensor] = []
        second: list[Tensor] = []
        for key in examples:
            draw = random.Random(f"{self.seed}/{key}")
            index = key % len(self.labels)
            pixels.append(self.views[0](index, draw))
            if self.weight:
                second.append(self.views[1](index, draw))
        labels = torch.tensor([self.labels[key % len(self.labels)] for key in examples])
        batch: Batch = {
            "ids": [str(key % len(self.labels)) for key in examples],
            "pixels": torch.stack(pixels),
        }
        return batch | {"labels": labels} | ({"second": torch.stack(second)} if second else {})

    def sampler(self, size: int, seed: int) -> KeyedShuffle:
        return KeyedShuffle(size, seed)

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        image, text = model(batch["pixels"], self.class_ids)
        losses = cross_entropy(
            similarity(image, text, self.encoder.scale.detach()), batch["labels"], reduction="none"
        )
        metrics = {"cross_entropy": losses.detach()}
        if self.weight:
            with torch.no_grad():
                frozen = self.encoder.image(batch["second"]).pooled
            by_image, by_text = consistency_loss(
                image, text, frozen, self.described(state.global_step), self.criterion
            )
            apart = by_image + by_text.mean()
            losses = losses + self.weight * apart
            metrics["consistency"] = apart.detach()
        return Losses(losses, metrics)

    def described(self, step: int) -> Tensor:
        """[K, D] the description of each class whose turn it is in a step."""
        longest = max(map(len, self.descriptions))
        place = random.Random(f"{self.seed}/description/{step}").randrange(longest)
        return torch.stack([one[place % len(one)] for one in self.descriptions])


def epoch_rate(step: int, steps_an_epoch: int, epochs: float, *, first: float) -> float:
    """Factor of the learning rate: `first` in epoch 1, then that of a cosine over all epochs at the epoch's start.

    With e the number of epochs that are over: (1 + cos(pi e / epochs)) / 2.
    """
    past = step // steps_an_epoch
    return first if past == 0 and epochs > 1 else 0.5 * (1 + math.cos(math.pi * past / max(epochs, 1)))


def rate_callback(options: Any, steps_an_epoch: int) -> Any:
    """A callback that puts `epoch_rate` in place of the schedule of the trainer, which is constant."""
    from transformers import TrainerCallback

    first = options.warmup_rate / options.learning_rate

    class EpochRates(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            scheduler, optimizer = kwargs["lr_scheduler"], kwargs["optimizer"]
            epochs = state.max_steps / steps_an_epoch

            def factor(step: int) -> float:
                return epoch_rate(step, steps_an_epoch, epochs, first=first)

            inner = getattr(scheduler, "scheduler", scheduler)
            inner.lr_lambdas = [factor] * len(inner.base_lrs)
            for group, base in zip(optimizer.param_groups, inner.base_lrs, strict=True):
                group["lr"] = base * factor(state.global_step)

    return EpochRates()


@torch.no_grad()
def class_features(encoder: ImageTextEncoder, sentences: Mapping[str, Sequence[str]]) -> list[Tensor]:
    """Of each class [M_k, D] features of its sentences under the frozen model, of unit length."""
    return [normalize(encoder.text(encoder.ids(texts)).pooled, dim=-1) for texts in sentences.values()]


@torch.no_grad()
def predictions(
    image: Callable[[Tensor], Tensor], text: Tensor, batches: Sequence[Tensor] | Any
) -> list[int]:
    """The class with the highest cosine of every picture, of equal ones the first.

    Args:
        image: pixel values [B, 3, H, W] to features [B, D].
        text: [K, D] features of the classes.
        batches: of pixel values.
    """
    return [one for pixels in batches for one in similarity(image(pixels), text).argmax(1).tolist()]


def prompted_text(model: PromptedEncoder, names: Sequence[str]) -> Tensor:
    """[K, D] features of classes under the tuned model, any classes: prompts carry over."""
    with torch.no_grad():
        return model.text(model.class_ids(names))

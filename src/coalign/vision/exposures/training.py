"""Training of the network on windows that are made of shots, through the one trainer of modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from coalign.core.own_code import load_code
from coalign.training.checkpoints import KeyedShuffle
from coalign.training.objective import Losses
from coalign.training.task import Batch, Task
from coalign.vision.exposures.losses import frequency_losses, temporal_losses
from coalign.vision.exposures.photometry import tone_mapped
from coalign.vision.exposures.synthesis import Synthesis, Windows, synthesised

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import TrainerState

    from coalign.vision.exposures.options import RadianceTraining
    from coalign.vision.exposures.shots import Shot

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pictures, which encoders of pictures were trained on."""


class WindowsOf(Dataset[tuple[str, Windows]]):
    """Shots, each with the windows of its epoch: item `epoch * size + index` depends on seed, epoch and index alone."""

    def __init__(self, shots: Sequence[Shot], synthesis: Synthesis, seed: int) -> None:
        self.shots, self.synthesis, self.seed = shots, synthesis, seed

    def __len__(self) -> int:
        return len(self.shots)

    def __getitem__(self, key: int) -> tuple[str, Windows]:
        shot = self.shots[key % len(self)]
        rng = np.random.default_rng([self.seed, key // len(self), key % len(self)])
        return shot.id, synthesised(shot, self.synthesis, rng)


class RadianceTask(Task):
    """`|T^ - T|_1 + 0.1 perceptual + 0.1 frequency` of the first window, `+ 0.1 temporal` over both (paper, equation 9).

    A record's loss is the mean over its own pixels; windows are all of one size.
    """

    name = "tone-mapped distance"
    examples = "the shots"
    advice = "look at their frames and exposures"

    def __init__(self, options: RadianceTraining) -> None:
        self.options = options
        self.features: Callable[[Tensor], Tensor] | None = None
        if options.perceptual is not None:
            self.features = load_code(options.perceptual, "perceptual")

    def sampler(self, size: int, seed: int) -> KeyedShuffle:
        return KeyedShuffle(size, seed)

    def collate(self, examples: Sequence[tuple[str, Windows]]) -> Batch:
        """`ldr` [B, 2, N, 3, h, w], `exposures` [B, 2, N], `target` [B, 2, 3, h, w]."""
        parts = ("ldr", "exposures", "target")
        stacked = {part: torch.stack([getattr(one, part) for _, one in examples]) for part in parts}
        return {"ids": [name for name, _ in examples], **stacked}

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        both = self.options.temporal_weight > 0
        windows = slice(None) if both else slice(1)
        ldr, exposures = batch["ldr"][:, windows].flatten(0, 1), batch["exposures"][:, windows].flatten(0, 1)
        target = tone_mapped(batch["target"][:, windows])
        found = tone_mapped(model(ldr, exposures)).unflatten(0, target.shape[:2])
        difference = found - target
        terms = {
            "l1": difference[:, 0].abs().flatten(1).mean(1),
            "frequency": frequency_losses(found[:, 0], target[:, 0]),
        }
        loss = terms["l1"] + self.options.frequency_weight * terms["frequency"]
        if both:
            terms["temporal"] = temporal_losses(found[:, 0], found[:, 1], target[:, 0], target[:, 1])
            loss = loss + self.options.temporal_weight * terms["temporal"]
        if self.features is not None:
            terms["perceptual"] = self._perceptual(found[:, 0], target[:, 0])
            loss = loss + self.options.perceptual_weight * terms["perceptual"]
        metrics: dict[str, Any] = {name: one.detach() for name, one in terms.items()}
        error = (difference[:, 0].detach() ** 2).flatten(1).mean(1)
        return Losses(loss, {**metrics, "psnr_mu": -10 * error.clamp(min=1e-10).log10()})

    def _perceptual(self, found: Tensor, target: Tensor) -> Tensor:
        assert self.features is not None
        mean, deviation = (found.new_tensor(one)[:, None, None] for one in (MEAN, DEVIATION))
        ours, theirs = (self.features((one - mean) / deviation) for one in (found, target))
        return ((ours - theirs.detach()) ** 2).flatten(1).mean(1)

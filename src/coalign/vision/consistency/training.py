"""Consistency training of a U-Net on pictures: what is drawn for each picture, the averages of the weights, the trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.func import functional_call
from torch.utils.data import Dataset

from coalign.core.runs import Run
from coalign.models.diffusion.pixels import to_tensor
from coalign.models.modules import unwrap
from coalign.training.averages import WeightAverage
from coalign.training.checkpoints import KeyedShuffle
from coalign.training.job import FitResult
from coalign.training.modules import fit_module
from coalign.training.objective import Losses
from coalign.training.task import Batch, Task
from coalign.vision.consistency.losses import Network
from coalign.vision.consistency.network import network_function
from coalign.vision.consistency.objective import ConsistencyObjective
from coalign.vision.consistency.options import ConsistencyTrainingOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn
    from torch.optim import Optimizer
    from transformers import TrainerState, TrainingArguments

AVERAGE, TEACHER = "average.safetensors", "teacher.safetensors"


class NoisedPictures(Dataset[dict[str, Any]]):
    """Pictures, each with the noise, the noise level and the mirroring of its epoch.

    Item `epoch * size + index` is picture `index` in that epoch; what is drawn depends on seed, epoch and picture alone.

    Args:
        pictures: [N, channels, height, width] bytes; may lie on disk.
        labels: [N] classes, or none.
    """

    def __init__(
        self, pictures: NDArray[np.uint8], labels: Sequence[int] | None, seed: int, *, flip: bool
    ) -> None:
        self.pictures = pictures
        self.labels = labels
        self.seed = seed
        self.flip = flip

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: int) -> dict[str, Any]:
        index = key % len(self)
        stream = np.random.default_rng((self.seed, key))
        values = self.pictures[index]
        if self.flip and stream.random() < 0.5:
            values = values[..., ::-1]
        return {
            "id": str(index),
            "data": to_tensor(values),
            "uniform": stream.random(),
            "noise": torch.from_numpy(stream.standard_normal(values.shape, dtype=np.float32)),
            "label": None if self.labels is None else self.labels[index],
        }


class ConsistencyTask(Task):
    """Consistency training of a U-Net; a moving average of the weights is kept to sample from, and a teacher where it is
    another than the student.
    """

    name = "consistency"
    examples = "the pictures"
    advice = "look at these pictures"

    def __init__(
        self, unet: nn.Module, objective: ConsistencyObjective, *, scale: float, decay: float, optimizer: str
    ) -> None:
        self.objective = objective
        self.scale = scale
        self.kind = optimizer
        self.average = WeightAverage(unet, decay)
        self.teacher = WeightAverage(unet, objective.teacher) if objective.teacher else None

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        labels = [one["label"] for one in examples]
        return {
            "ids": [one["id"] for one in examples],
            "data": torch.stack([one["data"] for one in examples]),
            "noise": torch.stack([one["noise"] for one in examples]),
            "uniform": torch.tensor([one["uniform"] for one in examples], dtype=torch.float32),
            **({} if None in labels else {"classes": torch.tensor(labels)}),
        }

    def sampler(self, size: int, seed: int) -> KeyedShuffle:
        return KeyedShuffle(size, seed)

    def optimizer(self, model: nn.Module, args: TrainingArguments) -> Optimizer | None:
        if self.kind != "radam":
            return None
        weights = [one for one in model.parameters() if one.requires_grad]
        return torch.optim.RAdam(
            weights, lr=args.learning_rate, weight_decay=args.weight_decay, decoupled_weight_decay=True
        )

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        step = min(
            state.global_step, state.max_steps - 1
        )  # evaluated at the end, it is that of the last step
        classes = batch.get("classes")
        losses = self.objective.losses(
            network_function(model, self.scale, classes),
            self._teacher(model, classes),
            batch["data"],
            batch["noise"],
            batch["uniform"],
            step=step,
            steps=state.max_steps,
        )
        levels = float(len(self.objective.levels(step, state.max_steps).sigmas))
        return Losses(losses, {"noise levels": torch.full_like(losses.detach(), levels)})

    def _teacher(self, model: nn.Module, classes: torch.Tensor | None) -> Network:
        if self.teacher is None:
            return network_function(model, self.scale, classes)
        weights, inner = self.teacher.weights, unwrap(model)

        def network(scaled: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            given = {} if classes is None else {"class_labels": classes}
            arguments = (scaled, level * self.scale)
            return functional_call(inner, weights, arguments, {"return_dict": False, **given})[0]

        return network

    def after_step(self, model: nn.Module, state: TrainerState) -> None:
        self.average.update(model)
        if self.teacher is not None:
            self.teacher.update(model, self.objective.decay(state.global_step - 1, state.max_steps))

    def save(self, folder: Path) -> None:
        self.average.save(folder / AVERAGE)
        if self.teacher is not None:
            self.teacher.save(folder / TEACHER)

    def load(self, folder: Path) -> None:
        self.average.load(folder / AVERAGE)
        if self.teacher is not None:
            self.teacher.load(folder / TEACHER)


def train_consistency(
    unet: nn.Module,
    objective: ConsistencyObjective,
    training: NoisedPictures,
    held_out: NoisedPictures | tuple[()],
    options: ConsistencyTrainingOptions,
    run: Run,
    *,
    scale: float,
) -> tuple[FitResult, WeightAverage]:
    """Train `unet` in place; checkpoints lie under `run.checkpoints/train`, the newest whole one is continued.

    Returns:
        What training did, and the moving average of the weights.

    Raises:
        DivergedError: the loss or a gradient became NaN or infinite.
    """
    if options.gradient_checkpointing:
        unet.enable_gradient_checkpointing()  # type: ignore[operator]
    task = ConsistencyTask(unet, objective, scale=scale, decay=options.ema, optimizer=options.optimizer)
    fitted = fit_module(
        unet,
        task,
        training,
        options,
        run,
        held_out=held_out,
        optim="adamw_torch",  # for --optimizer adamw; RAdam is the task's
        max_grad_norm=options.max_grad_norm
        or math.inf,  # measured, so that one that is not finite stops the training
    )
    unet.eval()
    return fitted, task.average

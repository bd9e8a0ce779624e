"""Fine-tuning of a text-to-image model on a mix of general and spatial captions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset

from coalign.core.runs import Run
from coalign.models.devices import autocast_format
from coalign.models.diffusion.losses import Prediction, diffusion_losses, noised, prediction_of
from coalign.models.diffusion.pixels import to_tensor
from coalign.models.diffusion.text_to_image import latents_of, text_to_image_of, tokens_of
from coalign.models.modules import unwrap
from coalign.training.averages import WeightAverage
from coalign.training.checkpoints import KeyedShuffle
from coalign.training.job import FitResult
from coalign.training.modules import fit_module
from coalign.training.objective import Losses
from coalign.training.task import Batch, Task
from coalign.vision.spatial.captions import drawn_caption
from coalign.vision.spatial.options import MixedTrainingOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn
    from torch.optim import Optimizer
    from transformers import TrainerState, TrainingArguments

AVERAGE = "average.safetensors"


@dataclass(frozen=True)
class Captioned:
    """What is said of a picture; `spatial` is None where nothing says how its objects stand."""

    id: str
    general: str
    spatial: str | None


class CaptionedPictures(Dataset[dict[str, Any]]):
    """Pictures with a caption that is drawn for each epoch.

    Item `epoch * size + index` is picture `index` in that epoch; what is drawn depends on seed, epoch and picture alone.

    Args:
        pictures: [N, 3, height, width] bytes; may lie on disk.
    """

    def __init__(
        self, pictures: NDArray[np.uint8], captions: Sequence[Captioned], options: MixedTrainingOptions
    ) -> None:
        self.pictures, self.captions, self.options = pictures, captions, options

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: int) -> dict[str, Any]:
        options, one = self.options, self.captions[key % len(self)]
        draw = random.Random(f"{options.seed}/{key}")
        text, spatial, mirror = drawn_caption(
            one.general,
            one.spatial,
            draw,
            share=options.spatial_share,
            form=options.caption_form,
            flip=options.flip == "swap",
        )
        values = self.pictures[key % len(self)]
        return {
            "id": one.id,
            "pixels": to_tensor(values[..., ::-1] if mirror else values),
            "text": text,
            "spatial": spatial,
            "time": draw.random(),
            "seed": draw.getrandbits(60),
        }


class MixedCaptionTask(Task):
    """The diffusion loss of U-Net and text encoder on pictures with their drawn captions; an average of the U-Net's weights
    is kept beside.
    """

    name = "diffusion"
    examples = "the pictures"
    advice = "look at these pictures"

    def __init__(self, pipeline: Any, options: MixedTrainingOptions) -> None:
        self.tokenizer, self.vae = pipeline.tokenizer, getattr(pipeline, "vae", None)
        self.prediction: Prediction = prediction_of(pipeline.scheduler)
        self.products = pipeline.scheduler.alphas_cumprod.float()
        self.options = options
        self.average = WeightAverage(pipeline.unet, options.ema) if options.ema else None

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        ids, _ = tokens_of(self.tokenizer, [one["text"] for one in examples])
        times = [int(one["time"] * len(self.products)) for one in examples]
        return {
            "ids": [one["id"] for one in examples],
            "seeds": [one["seed"] for one in examples],
            "pixels": torch.stack([one["pixels"] for one in examples]),
            "tokens": ids,
            "times": torch.tensor(times),
            "spatial": torch.tensor([float(one["spatial"]) for one in examples]),
        }

    def sampler(self, size: int, seed: int) -> KeyedShuffle:
        return KeyedShuffle(size, seed)

    def optimizer(self, model: nn.Module, args: TrainingArguments) -> Optimizer:
        """AdamW with a rate for the U-Net and one for the text encoder."""
        inner = cast(Any, unwrap(model))
        parts = [
            (inner.unet, self.options.learning_rate),
            (inner.text_encoder, self.options.text_learning_rate),
        ]
        groups = [
            {"params": found, "lr": rate}
            for part, rate in parts
            if (found := [one for one in part.parameters() if one.requires_grad])
        ]
        return torch.optim.AdamW(groups, weight_decay=args.weight_decay)

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        streams = [torch.Generator().manual_seed(seed) for seed in batch["seeds"]]

        def draw(shape: torch.Size) -> torch.Tensor:
            return torch.stack([torch.randn(shape[1:], generator=one) for one in streams])

        data = latents_of(self.vae, batch["pixels"], draw).float()
        noise = draw(data.shape).to(data)
        noisy = noised(self.products, data, noise, batch["times"])
        predicted = model(noisy, batch["times"], batch["tokens"])
        losses = diffusion_losses(
            predicted, data, noise, batch["times"], self.products, self.prediction, gamma=self.options.min_snr
        )
        return Losses(losses, {"spatial captions": batch["spatial"]})

    def after_step(self, model: nn.Module, state: TrainerState) -> None:
        if self.average is not None:
            self.average.update(cast(Any, model).unet)

    def save(self, folder: Path) -> None:
        if self.average is not None:
            self.average.save(folder / AVERAGE)

    def load(self, folder: Path) -> None:
        if self.average is not None:
            self.average.load(folder / AVERAGE)


def train_on_captions(
    pipeline: Any, name: str, pictures: CaptionedPictures, options: MixedTrainingOptions, run: Run
) -> FitResult:
    """Train U-Net and text encoder of `pipeline` in place; the U-Net ends with its averaged weights. Checkpoints lie under
    `run.checkpoints/train`, the newest whole one is continued.

    Raises:
        ModelError: a model of another form, or with a scheduler that is not of Gaussian diffusion.
        DivergedError: the loss or a gradient became NaN or infinite.
    """
    model = text_to_image_of(pipeline, name)
    if pipeline.vae is not None:
        pipeline.vae.requires_grad_(False).eval()
    model.text_encoder.requires_grad_(options.train_text_encoder)
    model.unet.requires_grad_(True)
    if options.gradient_checkpointing:
        for part in (model.unet, model.text_encoder):
            switch: Any = (
                getattr(part, "enable_gradient_checkpointing", None) or part.gradient_checkpointing_enable
            )
            switch()
    model.autocast_dtype = autocast_format(pipeline.device)  # type: ignore[assignment]
    task = MixedCaptionTask(pipeline, options)
    fitted = fit_module(model, task, pictures, options, run)
    model.eval()
    if task.average is not None:
        task.average.copy_to(model.unet)
    return fitted

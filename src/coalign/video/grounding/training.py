"""Training of an aligner: examples, batches, the loss of every decoder layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from coalign.core.options import (
    Count,
    CountOrZero,
    Fraction,
    NonNegative,
    OptionGroup,
    Positive,
    Seed,
    option,
)
from coalign.training.objective import Losses
from coalign.training.task import Batch, Task
from coalign.video.grounding.losses import batch_positives, mil_nce, moments, time_mask

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import TrainerState

    from coalign.video.grounding.features import Features
    from coalign.video.grounding.records import Video

Order = Literal["ordered", "shuffled", "coin"]
UNKNOWN = -1.0
"""A time that is not known; no frame is shown then."""


@dataclass(kw_only=True)
class AlignerOptions(OptionGroup):
    """What the aligner is and how it learns."""

    __group__ = "Aligner"

    order: Order = option(
        "ordered",
        "ordered: sentences as they follow, with positions (narrations); shuffled: without (lists of steps); coin: "
        "each batch one or the other",
        source="official README; coin: official code",
    )
    read_as: Literal["auto", "ordered", "shuffled"] = option(
        "auto",
        "how sentences are placed: with their positions, or without; auto: as was learnt, after a coin with them",
    )
    width: Count = option(256, "of the transformer (D)", source="configs/htm.yaml")
    joint: Count = option(64, "of the space of comparison (D_p)", source="configs/htm.yaml")
    heads: Count = option(8, "heads of attention", source="configs/htm.yaml")
    encoder_layers: CountOrZero = option(3, "layers over the frames", source="configs/htm.yaml")
    decoder_layers: Count = option(
        3, "layers over the sentences, each with a loss", source="configs/htm.yaml"
    )
    feed_forward: Count = option(2048, "width inside a layer", source="official code")
    dropout: Fraction = option(0.1, "dropout", source="configs/htm.yaml")
    temperature: Positive = option(0.07, "of the similarity (tau)", source="official code")
    mean: Literal["padded", "valid"] = option(
        "padded",
        "what the loss is divided by: all places for sentences of the batch, or those with a frame of their own",
        source="official code",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ValueError(
                f"width: {self.width} is not usable, expected a multiple of heads ({self.heads})"
            )
        if self.width % 2:
            raise ValueError(f"width: {self.width} is not usable, expected an even number")


@dataclass(kw_only=True)
class AlignerTraining(OptionGroup):
    """How an aligner is trained."""

    __group__ = "Training"

    learning_rate: Positive = option(1e-4, "peak learning rate", source="configs/htm.yaml")
    epochs: Positive = option(20.0, "passes over the videos", source="configs/htm.yaml")
    max_steps: Count | None = option(None, "stop after this many optimizer steps, whatever `epochs` says")
    batch_size: Count = option(8, "videos in one forward pass", source="configs/htm.yaml")
    gradient_accumulation: Count = option(1, "forward passes in one optimizer step")
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = option(
        "cosine", "learning-rate schedule", source="configs/htm.yaml"
    )
    warmup_ratio: Fraction = option(
        0.0, "share of the steps with rising learning rate", source="configs/htm.yaml"
    )
    weight_decay: NonNegative = option(
        5e-5, "AdamW weight decay, of weights and not of norms and biases", source="configs/htm.yaml"
    )
    max_grad_norm: Positive = option(1.0, "gradient clipping", source="configs/htm.yaml")
    eval_fraction: Fraction = option(0.1, "share of the videos held out, where no eval_data is given")
    save_steps: CountOrZero = option(200, "write a checkpoint every so many steps; 0 writes none")
    seed: Seed = option(0, "seed of everything random")

    gradient_checkpointing: ClassVar = False
    eval_steps: ClassVar = None
    logging_steps: ClassVar = 10
    report_to: ClassVar = ()


def times_of(video: Video) -> tuple[Tensor, Tensor]:
    """([S], [S]) starts and ends of a video's sentences, -1 where they cannot be learnt from."""
    pairs = [(one.start, one.end) if one.timed else (UNKNOWN, UNKNOWN) for one in video.sentences]
    starts, ends = zip(*pairs, strict=True)
    return torch.tensor(starts, dtype=torch.float64), torch.tensor(ends, dtype=torch.float64)


@dataclass(frozen=True)
class Example:
    """A video as the aligner sees it.

    Attributes:
        visual: [T, D_v], text: [S, D_t] frozen features.
        inside: [S, T] frames inside each sentence's interval.
    """

    id: str
    visual: Tensor
    text: Tensor
    inside: Tensor


class Examples:
    """The examples of videos; features are read when one is asked for."""

    def __init__(self, videos: Sequence[Video], features: Features) -> None:
        self.videos, self.features = videos, features

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, place: int) -> Example:
        video = self.videos[place]
        visual = self.features.visual(video)
        inside = time_mask(*times_of(video), len(visual), self.features.fps(video))
        return Example(video.id, visual, self.features.text(video), inside)


def collate(examples: Sequence[Example]) -> Batch:
    """A batch: `visual` [B, T, D_v], `text` [B, S, D_t], True on padding in `visual_padding` and `text_padding`, and `inside`
    [B, S, T]. Padding is 0.
    """
    longest = max(len(one.visual) for one in examples), max(len(one.text) for one in examples)
    inside = torch.zeros(len(examples), longest[1], longest[0], dtype=torch.bool)
    for row, one in enumerate(examples):
        inside[row, : one.inside.shape[0], : one.inside.shape[1]] = one.inside
    batch: Batch = {"ids": [one.id for one in examples], "inside": inside}
    for name, count in (("visual", longest[0]), ("text", longest[1])):
        parts: list[Tensor] = [getattr(one, name) for one in examples]
        lengths = torch.tensor([len(one) for one in parts])
        batch[name] = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        batch[f"{name}_padding"] = torch.arange(count) >= lengths[:, None]
    return batch


def shuffled(batch: Batch, generator: torch.Generator) -> Batch:
    """The batch with the sentences of every video in an order of its own: features, padding and intervals together."""
    size, count = batch["text_padding"].shape
    order = torch.rand(size, count, generator=generator).argsort(1).to(batch["text"].device)
    rows = torch.arange(size, device=order.device)[:, None]
    return {**batch, **{name: batch[name][rows, order] for name in ("text", "text_padding", "inside")}}


class Alignment(Task):
    """MIL-NCE of sentences over the frames of the batch, the mean over the decoder layers (paper, section 3)."""

    name = "MIL-NCE"
    examples = "the videos"
    advice = "look at the features of these videos"

    def __init__(self, options: AlignerOptions, seed: int) -> None:
        self.options, self.seed = options, seed

    def collate(self, examples: Sequence[Example]) -> Batch:
        return collate(examples)

    def count(self, batch: Batch) -> int:
        if self.options.mean == "padded":
            return batch["text_padding"].numel()
        return max(int(batch["inside"].any(-1).sum()), 1)

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        ordered = reads_ordered(self.options.order, self.options.read_as)
        if model.training:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + state.global_step)
            if self.options.order == "coin":
                ordered = bool(torch.rand((), generator=generator) < 0.5)
            batch = batch if ordered else shuffled(batch, generator)
        losses, found = layer_losses(model, batch, ordered=ordered, temperature=self.options.temperature)
        hit = batch["inside"].gather(-1, found[..., None]).squeeze(-1)[batch["inside"].any(-1)]
        return Losses(losses, {"recall": hit.float()})


def reads_ordered(order: str, read_as: str) -> bool:
    """Whether sentences are placed with their positions."""
    return (order if read_as == "auto" else read_as) != "shuffled"


def layer_losses(
    model: nn.Module, batch: Batch, *, ordered: bool, temperature: float
) -> tuple[Tensor, Tensor]:
    """([B * S] losses, the mean over the decoder layers; [B, S] the frames that the last layer finds)."""
    frames, found = model(
        batch["visual"], batch["visual_padding"], batch["text"], batch["text_padding"], ordered=ordered
    )
    positives, padding = batch_positives(batch["inside"]), batch["visual_padding"].flatten()
    every = frames.flatten(0, 1).T
    losses = [
        mil_nce(one.flatten(0, 1) @ every, positives, padding, temperature=temperature) for one in found
    ]
    with torch.no_grad():
        last = found[-1] @ frames.transpose(1, 2)
        places, _ = moments(last, batch["visual_padding"], temperature=temperature)
    return torch.stack(losses).mean(0), places

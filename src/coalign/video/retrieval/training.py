"""Training of a retriever: pairs of clips and captions, batches, and a loss that reads a whole batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from coalign.training.objective import Losses
from coalign.training.task import Batch, Task
from coalign.video.retrieval.records import CaptionedClip, pairs_of

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import TrainerState, TrainingArguments

    from coalign.pairs.encoders import ImageTextEncoder
    from coalign.video.retrieval.options import ClipOptions

MOST_SCALE = math.log(100)


@dataclass(frozen=True)
class Reader:
    """How clips and texts become tensors: the encoder's own preprocessing, frames spread over a clip.

    Attributes:
        frames, fps, words: see `ClipOptions`.
    """

    encoder: ImageTextEncoder
    frames: int
    fps: float
    words: int

    @classmethod
    def of(cls, encoder: ImageTextEncoder, options: ClipOptions) -> Reader:
        return cls(encoder, options.frames, options.fps, options.words)

    def clips(self, clips: Sequence[CaptionedClip]) -> dict[str, Tensor]:
        """`pixels` [B, F, 3, H, W] and `mask` [B, F]; F is the most frames of these clips, padding is 0.

        Raises:
            MediaError: a clip that cannot be decoded.
        """
        found = [self.encoder.pixels(one.frames.evenly(self.frames, self.fps)) for one in clips]
        return padded_frames(found)

    def texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`ids` and `words` [B, L], 1 on tokens and 0 on padding; longer texts lose their end."""
        tokenizer, limit = (
            self.encoder.tokenizer,
            self.encoder.model.text_model.config.max_position_embeddings,
        )
        most = min(self.words, limit)
        # a model that reads its padding wants all of it; a causal one does not see it
        length = most if hasattr(self.encoder.model, "text_projection") else limit
        short = tokenizer(list(texts), truncation=True, max_length=most, verbose=False)["input_ids"]
        found = tokenizer.pad(
            {"input_ids": short}, padding="max_length", max_length=length, return_tensors="pt"
        )
        return {"ids": found["input_ids"], "words": self.encoder.text_mask(found["input_ids"]).float()}

    def cut(self, texts: Sequence[str]) -> int:
        """How many texts are longer than is read of them."""
        limit = min(self.words, self.encoder.model.text_model.config.max_position_embeddings)
        return sum(
            len(one) > limit for one in self.encoder.tokenizer(list(texts), verbose=False)["input_ids"]
        )


def padded_frames(clips: Sequence[Tensor]) -> dict[str, Tensor]:
    """`pixels` [B, F, 3, H, W] and `mask` [B, F] of clips of [f, 3, H, W] frames each."""
    counts = torch.tensor([len(one) for one in clips])
    pixels = torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    return {"pixels": pixels, "mask": (torch.arange(pixels.shape[1]) < counts[:, None]).float()}


class Pairs:
    """Every caption with its clip."""

    def __init__(self, clips: Sequence[CaptionedClip]) -> None:
        self.clips, self.pairs = clips, pairs_of(clips)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, place: int) -> tuple[CaptionedClip, str]:
        clip, text = self.pairs[place]
        return self.clips[clip], text


class Matching(Task):
    """Texts and clips of a batch, drawn to each other by any loss over the whole batch.

    Args:
        loss: from what the retriever gives and the scale of the logits to a scalar (mean over the batch) and figures.
        encoder_rate: learning rate of the encoder as a share of the head's.
    """

    name = "matching"
    examples = "the clips"
    advice = "look at these clips"

    def __init__(
        self,
        reader: Reader,
        loss: Callable[[dict[str, Tensor], Tensor], tuple[Tensor, dict[str, Tensor]]],
        *,
        encoder_rate: float,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
    ) -> None:
        self.reader, self.batch_loss = reader, loss
        self.encoder_rate, self.betas, self.eps = encoder_rate, betas, eps

    def collate(self, examples: Sequence[tuple[CaptionedClip, str]]) -> Batch:
        clips, texts = zip(*examples, strict=True)
        return {
            "ids": [one.id for one in clips],
            "texts": self.reader.texts(texts),
            "clips": self.reader.clips(clips),
        }

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        found = model({**batch["texts"], **batch["clips"]})
        scale = self.reader.encoder.scale
        loss, figures = self.batch_loss(found, scale)
        count = len(batch["ids"])
        return Losses(loss.expand(count), {name: one.detach().expand(count) for name, one in figures.items()})

    def optimizer(self, model: nn.Module, args: TrainingArguments) -> Optimizer:
        """AdamW with a rate of its own for the encoder; norms and biases do not decay. Source: prep_optimizer, whose BertAdam
        has no bias correction.
        """
        groups: dict[tuple[bool, bool], list[Any]] = {}
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                groups.setdefault((name.startswith("backbone."), weight.ndim > 1), []).append(weight)
        rate = float(args.learning_rate)
        return torch.optim.AdamW(
            [
                {
                    "params": weights,
                    "lr": rate * (self.encoder_rate if encoder else 1.0),
                    "weight_decay": args.weight_decay if decays else 0.0,
                }
                for (encoder, decays), weights in groups.items()
            ],
            lr=rate,
            betas=self.betas,
            eps=self.eps,
        )

    def after_step(self, model: nn.Module, state: TrainerState) -> None:
        clamp_scale(model)


def clamp_scale(model: nn.Module) -> None:
    """Keep the scale of the logits at 100 or below, as CLIP does after each step."""
    for name, weight in model.named_parameters():
        if name.endswith("logit_scale"):
            with torch.no_grad():
                weight.clamp_(max=MOST_SCALE)

"""Train a CTC recogniser on clips: the CTC loss, and any further term beside it. Checkpoints, resume, counts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch

from coalign.core.errors import CoalignError
from coalign.core.files import write_json
from coalign.core.options import Count, CountOrZero, Fraction, NonNegative, Positive, Seed, option
from coalign.core.runs import Run
from coalign.speech.audio.audio import Samples, is_silent, read_audio
from coalign.speech.audio.recordings import Recording, reasons_text
from coalign.speech.ctc.losses import ctc_losses
from coalign.training.modules import fit_module
from coalign.training.objective import Losses
from coalign.training.task import Batch, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import Sampler
    from transformers import TrainerState

    from coalign.loops.rounds import Round
    from coalign.speech.ctc.recogniser import Recogniser
    from coalign.training.job import FitResult

SMALL_LEARNING_RATE = 2e-3
LARGE_LEARNING_RATE = 1e-4


@dataclass(kw_only=True)
class CTCTrainingOptions:
    """How to train a recogniser."""

    __group__ = "Training"

    learning_rate: Positive | None = option(
        None, "peak learning rate; by default 2e-3 for a small recogniser, 1e-4 for another"
    )
    epochs: Positive = option(5.0, "passes over the clips")
    max_steps: Count | None = option(None, "stop after this many optimizer steps, whatever `epochs` says")
    batch_size: Count = option(16, "clips in one forward pass")
    gradient_accumulation: Count = option(1, "forward passes in one optimizer step")
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = option(
        "linear", "learning-rate schedule"
    )
    warmup_ratio: Fraction = option(0.1, "share of the steps with rising learning rate")
    weight_decay: NonNegative = option(0.0, "AdamW weight decay")
    max_grad_norm: Positive = option(5.0, "gradient clipping")
    freeze_features: bool = option(True, "keep the convolutional front end of Wav2Vec2, Hubert, ... as it is")
    save_steps: CountOrZero = option(100, "write a checkpoint every so many steps; 0 writes none")
    seed: Seed = option(0, "seed of everything random")

    gradient_checkpointing: ClassVar = False
    eval_steps: ClassVar = None
    logging_steps: ClassVar = 10
    report_to: ClassVar = ()


@dataclass(frozen=True)
class Clip:
    """A stretch of an audio file with its text, normalised to the vocabulary; `samples` where they are in memory."""

    id: str
    text: str
    audio: Path | None = None
    start: float = 0.0
    seconds: float | None = None
    samples: Samples | None = None

    @classmethod
    def of(cls, recording: Recording, text: str) -> Clip:
        """A recording, or the stretch of a file that it is."""
        if not recording.part:
            return cls(recording.id, text, recording.audio)
        return cls(recording.id, text, recording.audio, recording.start, recording.seconds)

    def read(self, sample_rate: int, conversions: Counter[str] | None = None) -> Samples:
        if self.samples is not None:
            return self.samples
        assert self.audio is not None
        return read_audio(
            self.audio,
            start=self.start,
            seconds=self.seconds,
            sample_rate=sample_rate,
            conversions=conversions,
        )


class ExtraTerm(Protocol):
    """A term beside the CTC loss: logits [B, T, V] and frames [B] of a batch, its texts, and the optimizer step, to
    losses [B] (already weighted) and figures to log.
    """

    def __call__(
        self, logits: Tensor, lengths: Tensor, texts: Sequence[str], step: int
    ) -> tuple[Tensor, dict[str, float]]: ...


class CTCTask(Task):
    """The CTC loss of clips, with a further term where there is one."""

    name = "CTC"
    examples = "the clips"
    advice = "listen to these clips"

    def __init__(self, recogniser: Recogniser, extra: ExtraTerm | None = None) -> None:
        self.recogniser = recogniser
        self.extra = extra

    def collate(self, examples: Sequence[Clip]) -> Batch:
        return {"ids": [clip.id for clip in examples], "clips": list(examples)}

    def sampler(self, size: int, seed: int) -> Sampler[int]:
        """An order drawn from seed + epoch, as checkpoints of earlier versions go on with it."""
        from torch.utils.data import RandomSampler

        return RandomSampler(range(size))

    def loss(self, model: nn.Module, batch: Batch, state: TrainerState) -> Losses:
        clips: list[Clip] = batch["clips"]
        texts = [clip.text for clip in clips]
        heard = [clip.read(self.recogniser.sample_rate) for clip in clips]
        logits, lengths = self.recogniser.logits(heard, model)
        vocabulary = self.recogniser.vocabulary
        losses = ctc_losses(logits, lengths, [vocabulary.encode(text) for text in texts], vocabulary.blank)
        metrics = {"ctc": losses.detach()}
        if self.extra is not None:
            further, figures = self.extra(logits, lengths, texts, state.global_step)
            losses = losses + further
            metrics |= {name: torch.tensor(value).expand(len(clips)) for name, value in figures.items()}
        return Losses(losses, metrics)


def train_recogniser(
    recogniser: Recogniser,
    clips: Sequence[Clip],
    options: CTCTrainingOptions,
    run: Run,
    *,
    name: str = "train",
    extra: ExtraTerm | None = None,
) -> tuple[FitResult, Counter[str]]:
    """Train `recogniser` in place. Checkpoints lie under `run.checkpoints/name`; the newest whole one is continued.

    Clips without text, silent ones and those with fewer frames than their text needs are left out and counted.

    Raises:
        CoalignError: no clip is left.
        DivergedError: the loss became NaN or infinite.
    """
    kept, left_out = _trainable(recogniser, clips)
    if not kept:
        raise CoalignError(f"No clip is left to train on: {reasons_text(left_out) or 'there was none'}.")
    if left_out:
        run.log("clips left out", stage=name, reasons=dict(left_out))
    model: Any = recogniser.model
    if options.freeze_features and hasattr(model, "freeze_feature_encoder"):
        model.freeze_feature_encoder()
    small = model.config.model_type == "small-ctc"
    fitted = fit_module(
        model,
        CTCTask(recogniser, extra),
        kept,
        options,
        run,
        name=name,
        learning_rate=options.learning_rate or (SMALL_LEARNING_RATE if small else LARGE_LEARNING_RATE),
    )
    model.eval()
    return fitted, left_out


def fit_round(
    round: Round,
    recogniser: Recogniser,
    clips: Sequence[Clip],
    options: CTCTrainingOptions,
    *,
    name: str = "train",
    extra: ExtraTerm | None = None,
) -> None:
    """The stage `fit` of a round: `train_recogniser`, with history, counts and model written into the round."""
    fitted, left_out = train_recogniser(recogniser, clips, options, round.run, name=name, extra=extra)
    round.write("history", fitted.history)
    counts = {"clips": len(clips) - left_out.total(), "left out": dict(left_out)}
    write_json(round.path("training", ".json"), counts)
    recogniser.save(round.folder / "model")


def _trainable(recogniser: Recogniser, clips: Sequence[Clip]) -> tuple[list[Clip], Counter[str]]:
    kept: list[Clip] = []
    left_out: Counter[str] = Counter()
    conversions: Counter[str] = Counter()
    for clip in clips:
        ids = recogniser.vocabulary.encode(clip.text)
        sound = clip.read(recogniser.sample_rate, conversions)
        frames = len(sound) // recogniser.samples_per_frame
        needed = len(ids) + sum(a == b for a, b in itertools.pairwise(ids))
        if not ids:
            left_out["no text in the vocabulary"] += 1
        elif is_silent(sound):
            left_out["silent"] += 1
        elif frames <= needed:
            left_out["text longer than the audio"] += 1
        else:
            kept.append(clip)
    return kept, left_out

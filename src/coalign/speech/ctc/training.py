"""Train a CTC recogniser on clips: the CTC loss, and any further term beside it. Checkpoints, resume, counts."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from coalign.core.errors import CoalignError
from coalign.core.options import Count, CountOrZero, Fraction, NonNegative, Positive, option
from coalign.core.runs import Run
from coalign.models.quiet import no_weight_bars
from coalign.speech.audio.audio import Samples, is_silent, read_audio
from coalign.speech.ctc.recogniser import Recogniser
from coalign.training.callbacks import ProgressBar, RunEvents
from coalign.training.checkpoints import WholeCheckpoints, resume_point
from coalign.training.trainer import DivergedError

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
    seed: int = option(0, "seed of everything random")


@dataclass(frozen=True)
class Clip:
    """A stretch of an audio file with its text, normalised to the vocabulary; `samples` where they are in memory."""

    id: str
    text: str
    audio: Path | None = None
    start: float = 0.0
    seconds: float | None = None
    samples: Samples | None = None

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
    losses [B] (already weighted) and figures to log."""

    def __call__(
        self, logits: Tensor, lengths: Tensor, texts: Sequence[str], step: int
    ) -> tuple[Tensor, dict[str, float]]: ...


@dataclass(frozen=True)
class CTCFit:
    """What training did."""

    steps: int
    history: list[dict[str, float]]
    clips: int
    left_out: Counter[str]


def ctc_losses(logits: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]], blank: int) -> Tensor:
    """[B] CTC losses, -log p(text | audio) summed over the sequence; 0 where no alignment exists (too few frames).

    Args:
        logits: [B, T, V], float32 or wider; `lengths` [B] frames of each item.
    """
    labels = torch.tensor([one for ids in targets for one in ids], dtype=torch.long)
    counts = torch.tensor([len(ids) for ids in targets])
    logps = logits.log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(
        logps, labels.to(logits.device), lengths.cpu(), counts, blank, reduction="none", zero_infinity=True
    )


class CTCTrainer(WholeCheckpoints, Trainer):
    """`transformers.Trainer` over clips."""

    def __init__(
        self, recogniser: Recogniser, clips: Sequence[Clip], arguments: TrainingArguments, extra: ExtraTerm | None, **rest: Any
    ) -> None:  # fmt: skip
        self.recogniser = recogniser
        self.extra = extra
        self._figures: dict[str, float] = {}
        super().__init__(
            model=recogniser.model,
            args=arguments,
            train_dataset=cast(Any, list(clips)),
            data_collator=lambda batch: {"clips": batch},
            **rest,
        )

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **unused: Any
    ) -> Any:
        clips: list[Clip] = inputs["clips"]
        sounds = [clip.read(self.recogniser.sample_rate) for clip in clips]
        batch, lengths = self.recogniser.batch(sounds)
        logits = model(**batch).logits.float()
        lengths = lengths.clamp(max=logits.shape[1])
        vocabulary = self.recogniser.vocabulary
        targets = [vocabulary.encode(clip.text) for clip in clips]
        losses = ctc_losses(logits, lengths, targets, vocabulary.blank)
        self._figures = {"ctc": float(losses.detach().mean())}
        if self.extra is not None:
            further, figures = self.extra(
                logits, lengths, [clip.text for clip in clips], self.state.global_step
            )
            losses = losses + further
            self._figures |= figures
        loss = losses.mean()
        if not math.isfinite(float(loss.detach())):
            raise DivergedError(
                f"The loss is NaN or infinite after step {self.state.global_step}, in the batch of the clips "
                f"{', '.join(clip.id for clip in clips[:10])}.",
                hint="Lower the learning rate, or listen to these clips.",
            )
        return (loss, logits) if return_outputs else loss

    def log(self, logs: dict[str, float], *rest: Any, **named: Any) -> None:
        super().log({**logs, **self._figures} if "loss" in logs else logs, *rest, **named)


def train_recogniser(
    recogniser: Recogniser,
    clips: Sequence[Clip],
    options: CTCTrainingOptions,
    run: Run,
    *,
    name: str = "train",
    extra: ExtraTerm | None = None,
) -> CTCFit:
    """Train `recogniser` in place. Checkpoints lie under `run.checkpoints/name`; the newest whole one is continued.

    Clips without text, silent ones and those with fewer frames than their text needs are left out and counted.

    Raises:
        CoalignError: no clip is left.
        DivergedError: the loss became NaN or infinite.
    """
    set_seed(options.seed)
    kept, left_out = _trainable(recogniser, clips)
    if not kept:
        raise CoalignError(f"No clip is left to train on: {_reasons(left_out) or 'there was none'}.")
    if left_out:
        run.log("clips left out", stage=name, reasons=dict(left_out))
    folder = run.checkpoints / name
    checkpoint = resume_point(folder)
    if options.freeze_features and hasattr(recogniser.model, "freeze_feature_encoder"):
        cast(Any, recogniser.model).freeze_feature_encoder()
    bar = ProgressBar("Training")
    trainer = CTCTrainer(
        recogniser,
        kept,
        _arguments(options, folder, recogniser),
        extra,
        callbacks=[bar, RunEvents(run, name)],
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    try:
        with no_weight_bars():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        bar.close()
    recogniser.model.eval()
    history = [{key: one for key, one in row.items() if key != "epoch"} for row in trainer.state.log_history]
    return CTCFit(trainer.state.global_step, history, len(kept), left_out)


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


def _reasons(left_out: Counter[str]) -> str:
    return "; ".join(f"{count} x {reason}" for reason, count in left_out.most_common())


def _arguments(options: CTCTrainingOptions, folder: Path, recogniser: Recogniser) -> TrainingArguments:
    small = recogniser.model.config.model_type == "small-ctc"
    return TrainingArguments(
        output_dir=str(folder),
        learning_rate=options.learning_rate or (SMALL_LEARNING_RATE if small else LARGE_LEARNING_RATE),
        num_train_epochs=options.epochs,
        max_steps=options.max_steps or -1,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        lr_scheduler_type=options.schedule,
        warmup_steps=options.warmup_ratio,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        logging_steps=10,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps" if options.save_steps else "no",
        save_steps=options.save_steps or 1,
        save_total_limit=2,
        report_to="none",
        seed=options.seed,
        data_seed=options.seed,
        use_cpu=recogniser.device.type == "cpu",
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        average_tokens_across_devices=False,
    )

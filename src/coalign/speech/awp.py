"""AWP: train a CTC recogniser towards a property of its alignments: earlier tokens, or fewer wrong words.

Align With Purpose: Optimize Desired Properties in CTC Models with a General Plug-and-Play Framework
(arXiv 2307.01715). Alignments are sampled from the model, each is made a little better in the property, and a hinge
on their scores, added to the CTC loss, makes the better one likelier. Encoder, decoder and CTC loss stay as they are.

    coalign run awp --data clips.jsonl --model recogniser/ --property low-latency

`AlignWithPurpose` is the term alone, for a trainer of your own::

    term = AlignWithPurpose("low-latency", Constants(), vocabulary)
    loss = (ctc_losses + term(logits, lengths, texts)).mean()

Differences from the authors' code, all towards the paper: the mean over samples where the code sums (the paper's
weight is N times the code's); candidates are drawn alike where the code never draws the last one; sampling and
shifting stay inside an item's own frames; words are found at their true place where the code is off by one after a
leading space. Weight and margin of the paper's experiments could not be read again: the defaults are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from coalign.core.options import Count, CountOrZero, Fraction, NonNegative, Positive, option, required
from coalign.core.runs import Run
from coalign.speech.ctc.recogniser_options import RecogniserOptions
from coalign.speech.ctc.training import CTCTrainingOptions
from coalign.speech.ctc.vocabulary import Vocabulary
from coalign.speech.objectives.properties import Context, get_property
from coalign.speech.objectives.run import run_purpose

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-7
"""Added to probabilities before the logarithm. Source: the official code."""


@dataclass(kw_only=True)
class Constants:
    """Constants of the term."""

    __group__ = "Objective"

    property: str = option(
        "low-latency", "what to improve: low-latency, minimum-wer, or module:function of your own"
    )
    weight: Positive = option(0.1, "weight of the term beside the CTC loss (alpha)")
    samples: Count = option(5, "alignments sampled from every clip (N)", source="official code")
    margin: NonNegative = option(
        0.01, "margin of the hinge, nats a frame (lambda)", source="paper, from memory"
    )
    temperature: Positive = option(1.0, "of the sampling (tau)", source="official code")
    shift: Count = option(1, "low-latency: frames removed at once (k)", source="paper")
    max_char_distance: Count = option(
        2, "minimum-wer: most substitutions in a word that is corrected", source="official code"
    )


@dataclass(kw_only=True)
class Config(Constants, RecogniserOptions, CTCTrainingOptions):
    """Options of `coalign run awp`."""

    __group__ = "Method"

    data: Path = required("clips with transcripts: a manifest, a folder, or Common Voice")
    split: str = option("train", "file of Common Voice")
    eval_fraction: Fraction = option(0.1, "share of the clips held out")
    start_step: CountOrZero = option(0, "optimizer step at which the term joins the CTC loss")
    start_accuracy: Fraction = option(
        0.8,
        "word accuracy that the model must have on the held-out clips for the term to join at step 0",
        source="authors' reply in the public reviews: after 80 to 90 %",
    )
    reference_model: str | None = option(
        None, "offline recogniser whose forced alignment says when tokens start; by default the start model"
    )


def sample_alignments(
    logits: Tensor, lengths: Tensor, samples: int, generator: torch.Generator, *, temperature: float = 1.0
) -> Tensor:
    """[B, N, T] alignments: every frame on its own from softmax(logits / temperature), without gradient.

    Args:
        logits: [B, T, V]; frames from `lengths[b]` on are drawn too and mean nothing.
    """
    batch, frames, labels = logits.shape
    probabilities = (logits.detach().cpu().double() / temperature).softmax(-1).reshape(-1, labels)
    drawn = torch.multinomial(probabilities, samples, replacement=True, generator=generator)
    return drawn.reshape(batch, frames, samples).transpose(1, 2).to(logits.device)


def alignment_scores(logits: Tensor, paths: Tensor, lengths: Tensor) -> Tensor:
    """[B, N] mean of `log(p_t[a_t] + 1e-7)` over an item's own frames, p the softmax of `logits` [B, T, V]."""
    probabilities = logits.softmax(-1)
    taken = probabilities.gather(-1, paths.transpose(1, 2)).transpose(1, 2)  # [B, N, T]
    own = torch.arange(logits.shape[1], device=logits.device) < lengths[:, None, None]
    return ((taken + EPS).log() * own).sum(-1) / lengths[:, None].clamp(min=1)


def hinge_loss(logits: Tensor, paths: Tensor, better: Tensor, lengths: Tensor, *, margin: float) -> Tensor:
    """`1/N sum_i max(0, s(a_i) - s(b_i) + margin)` over the pairs whose scores differ (paper, section 3.1).

    Args:
        logits: [B, T, V], float32 or wider.
        paths, better: [B, N, T] sampled alignments and their improved ones.
        lengths: [B] own frames of each item.

    Returns:
        [B] losses. The gradient lowers the score of `paths` and raises that of `better`; a pair
        that was not changed is 0 whatever the margin.
    """
    gap = alignment_scores(logits, paths, lengths) - alignment_scores(logits, better, lengths)
    return (torch.relu(gap + margin) * (gap != 0)).mean(-1)


class AlignWithPurpose:
    """The weighted term: logits and texts of a batch in, [B] losses out.

    Args:
        property: a registered name, `file.py:function` or `module:function`.
        vocabulary: of the model; low latency reads its blank alone.
        seed: of sampling and of the property's choices.
    """

    def __init__(self, property: str, constants: Constants, vocabulary: Vocabulary, seed: int = 0) -> None:
        self.property = get_property(property)
        self.constants = constants
        self.vocabulary = vocabulary
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)

    def at_step(self, step: int) -> None:
        """Draw from the stream of an optimizer step, so that a resumed training repeats."""
        self.generator.manual_seed(self.seed * 1_000_003 + step)

    def __call__(self, logits: Tensor, lengths: Tensor, texts: Sequence[str] | None = None) -> Tensor:
        constants, generator = self.constants, self.generator
        logits, lengths = logits.float() if logits.dtype.itemsize < 4 else logits, lengths.to(logits.device)
        paths = sample_alignments(
            logits, lengths, constants.samples, generator, temperature=constants.temperature
        )
        context = Context(self.vocabulary, generator, constants.shift, constants.max_char_distance)
        with torch.no_grad():
            better = self.property(paths, lengths, texts, context)
        return constants.weight * hinge_loss(logits, paths, better, lengths, margin=constants.margin)


def run(config: Config, run: Run) -> None:
    """Measure, train with the term, measure again on held-out clips, report.

    Raises:
        DataError: clips that cannot be used.
        CoalignError: the start model is not good enough for the term (see `start_accuracy`).
    """
    run_purpose(
        config, run, lambda vocabulary: AlignWithPurpose(config.property, config, vocabulary, config.seed)
    )

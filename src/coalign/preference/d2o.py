"""D2O: unlearn bad answers with examples of bad answers only.

Negating Negatives: Alignment without Human Positive Samples via Distributional Dispreference Optimization
(arXiv 2403.03419). The rejected answer of people is set against the distribution of what the model says by itself:
the mean over K sampled answers stands where DPO has one chosen answer, so no single bad sample is learned.

    coalign run d2o --data bad_answers.jsonl --model default

Takes thumbs-down records or pairs; of a pair only the rejected side is used.

Reconstruction: there is no official code. The loss is the paper's equation 3 with one model as both references, as in
the paper's experiments. Drawing the anchors again from the model in training is mentioned, its intervals are not
given: they are options, off by default. With `--resample-every` training is cut into parts, each with anchors of the
policy at its start, an optimizer and a learning-rate schedule of its own; the reference stays the start model.
Samples equal to the negative are left out (our choice).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from coalign.core.errors import DataError
from coalign.core.options import Count, Fraction, NonNegative, Positive, option
from coalign.core.runs import Run
from coalign.data.records import Feedback
from coalign.data.sources import named
from coalign.loops.rounds import Round
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.preference.data import anchors as anchoring
from coalign.preference.data.parts import joined, segments
from coalign.training.distributed.leading import led
from coalign.training.job import FitResult, Job
from coalign.training.learning import train
from coalign.training.learning_report import write_learning_report
from coalign.training.losses.pairs import reward_metrics
from coalign.training.material import LearningOptions, Material, announce, read_material
from coalign.training.objective import Losses, ScoredBatch, get_objective, objective

if TYPE_CHECKING:
    from torch import Tensor


def d2o_margins(
    anchor_log_ratios: Tensor, negative_log_ratios: Tensor, *, alpha: float, beta: float
) -> Tensor:
    """[R] `z = beta h(anchors) - alpha h(negative)`.

    Args:
        anchor_log_ratios: [R] mean over the K self-samples of `S_policy - S_reference` (sums over response tokens).
        negative_log_ratios: [R] the same of the human negative.
        alpha, beta: weights of negative and anchors.
    """
    return beta * anchor_log_ratios - alpha * negative_log_ratios


def d2o_loss(anchor_log_ratios: Tensor, negative_log_ratios: Tensor, *, alpha: float, beta: float) -> Tensor:
    """[R] `-log sig(beta/K sum_i [S_policy(y_i) - S_ref(y_i)] - alpha [S_policy(y_l) - S_ref(y_l)])`: equation 3.

    The mean over the K self-samples is inside the sigmoid: it cannot be taken over losses. With K = 1 and
    alpha = beta this is DPO with a self-sample as the chosen answer. Arguments as in `d2o_margins`; gradients flow
    through both, the caller keeps the reference out of them.
    """
    return torch.nn.functional.softplus(
        -d2o_margins(anchor_log_ratios, negative_log_ratios, alpha=alpha, beta=beta)
    )


def split_anchors(values: Tensor, is_negative: Tensor, record_index: Tensor) -> tuple[Tensor, Tensor]:
    """([R] mean over each record's anchors, [R] value of its negative).

    Args:
        values: [B] one value a response.
        is_negative: [B] true for the human negative.
        record_index: [B] the record of each response, 0..R-1.

    Raises:
        ValueError: a record does not have exactly one negative and at least one anchor.
    """
    counts = torch.bincount(record_index)
    negatives = torch.bincount(record_index[is_negative], minlength=len(counts))
    if bool((negatives != 1).any()) or bool((counts < 2).any()):
        raise ValueError("every record needs one negative (score 0) and at least one self-sample (score 1)")
    zeros = values.new_zeros(len(counts))
    anchors = zeros.index_add(0, record_index[~is_negative], values[~is_negative]) / (counts - 1)
    return anchors, zeros.index_add(0, record_index[is_negative], values[is_negative])


@dataclass(kw_only=True)
class D2OConstants:
    """Constants of D2O."""

    __group__ = "Objective"

    alpha: Positive = option(0.1, "weight of the human negative", source="paper, section 4")
    beta: Positive = option(0.1, "weight of the mean over self-samples", source="paper, section 4")


@objective(
    "d2o",
    title="D2O",
    data="ranking",
    reference=True,
    constants=D2OConstants,
    prepare=anchoring.check_anchored,
    equation=r"-\log \sigma\left(\frac{\beta}{K} \sum_{i=1}^{K} \log\frac{\pi_\theta(y_i|x)}{\pi_{ref}(y_i|x)} - \alpha \log\frac{\pi_\theta(y_l|x)}{\pi_{ref}(y_l|x)}\right)",
    when="Only bad answers are labelled, or the chosen answers of pairs are not to be trusted.",
)
def d2o(batch: ScoredBatch, constants: D2OConstants) -> Losses:
    """D2O (arXiv 2403.03419), equation 3, over rankings of self-samples (score 1) and one negative (score 0)."""
    log_ratios = batch.policy.sums() - batch.reference_sums()
    anchors, negatives = split_anchors(log_ratios, batch.values == anchoring.NEGATIVE, batch.record_index)
    losses = d2o_loss(anchors, negatives, alpha=constants.alpha, beta=constants.beta)
    return Losses(losses, reward_metrics(constants.beta * anchors, constants.alpha * negatives))


@dataclass(kw_only=True)
class Config(D2OConstants, SamplingOptions, LearningOptions):
    """Options of `coalign run d2o`."""

    __group__ = "Method"

    samples: Count = option(11, "self-samples to every prompt (K)", source="paper, section 4")
    resample_every: Count | None = option(
        None, "draw the self-samples again from the model in training every so many steps; by default never"
    )
    resample_warmup: Count | None = option(
        None,
        "steps before they are drawn again for the first time; by default --resample-every",
        only_with="resample_every",
    )
    temperature: NonNegative = option(1.0, "sampling temperature of the self-samples", group="Sampling")
    top_p: Fraction = option(1.0, "nucleus of the self-samples", group="Sampling")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                "temperature 0 gives the same self-sample every time; raise it, or take samples 1"
            )


@led
def run(config: Config, run: Run) -> None:
    """Sample the model's own answers, set them against the negatives, train; again where `resample_every` says so.

    Raises:
        DataError: no negatives, or no usable self-sample to any of them.
    """
    material = read_material(config, "feedback", run, also=["preference", "feedback"])
    negatives, held_out = (anchoring.human_negatives(part) for part in (material.training, material.held_out))
    if not negatives:
        raise DataError(
            f"{named(config.data)}: there is no negative to learn from.",
            hint="Give pairs or thumbs-down records.",
        )
    negatives, held_out, told_of = anchoring.negatives_with_room(config, negatives, held_out)
    notes = [*material.notes, *told_of]
    announce(notes, run)
    sampling = config.sampling(n=config.samples, seed=config.seed)
    anchored = anchoring.Anchored([])
    if held_out:
        anchored = anchoring.sampled_anchors(Round(run, 1), "held-out", held_out, sampling, config)
    material = Material([], [*anchored.records], notes)
    material, results = _train_parts(config, run, negatives, material)
    write_learning_report(run, config, get_objective("d2o"), material, joined(results))


def _train_parts(
    config: Config, run: Run, negatives: Sequence[Feedback], material: Material
) -> tuple[Material, list[FitResult]]:
    """Sample and train, part after part; the material of the last part, with the notes of all, and the results."""
    parts = segments(config, len(negatives), every=config.resample_every, warmup=config.resample_warmup)
    policy = config
    results: list[FitResult] = []
    for number, steps in enumerate(parts, start=1):
        round = Round(run, number)
        sampling = config.sampling(n=config.samples, seed=config.seed + number - 1)
        anchored = anchoring.sampled_anchors(round, "samples", negatives, sampling, policy)
        if not anchored.records:
            raise DataError(
                "No self-sample is usable: all are empty or equal to the negative.", anchored.dropped
            )
        note = (f"Part {number}: " if number > 1 else "") + anchoring.told(anchored, len(negatives))
        announce([note], run)
        material = Material([*anchored.records], material.held_out, [*material.notes, note])
        options = replace(policy, max_steps=steps, seed=config.seed + number - 1)
        folder = run.model if number == len(parts) else round.folder / "model"
        job = Job(
            objective=get_objective("d2o"),
            options=options,
            run=run,
            records=material.training,
            held_out=material.held_out,
            name=f"train-{number}" if len(parts) > 1 else "train",
        )
        results.append(train(job, folder, reference_from=config if number > 1 else None))
        policy = config.at(folder)
    return material, results

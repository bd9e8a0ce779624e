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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coalign.checks.arms import Measures, measure_arms, seconds_spent
from coalign.checks.real_text import read_pairs
from coalign.checks.rules import decide, exceeds, mean_of, paired_gaps, values_of
from coalign.checks.system_arms.real_text_arms import NegativeText, negative_measures, negative_text
from coalign.checks.text_training import adapted
from coalign.checks.worlds.marked_world import ASCENT, Unlearning, unlearning, unlearning_arm, untouched_arm
from coalign.core.catalogue import get
from coalign.core.errors import DataError
from coalign.core.options import Count, Fraction, NonNegative, Positive, option
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.records import Feedback, Preference, Record
from coalign.loops.rounds import Round
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.options import ModelOptions
from coalign.preference.data.anchors import (
    NEGATIVE,
    Anchored,
    check_anchored,
    human_negatives,
    negatives_with_room,
    sampled_anchors,
    told,
)
from coalign.preference.data.parts import joined, segments
from coalign.training.fit import FitResult
from coalign.training.learning import LearningOptions, Material, read_material, tell, train
from coalign.training.learning_report import write_learning_report
from coalign.training.losses.pairwise import DPOConstants
from coalign.training.objective import Losses, ScoredBatch, get_objective, objective
from coalign.training.processes import assert_one_process


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
    return F.softplus(-d2o_margins(anchor_log_ratios, negative_log_ratios, alpha=alpha, beta=beta))


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
    data="ranking",
    reference=True,
    constants=D2OConstants,
    prepare=check_anchored,
    equation=r"-\log \sigma\left(\frac{\beta}{K} \sum_{i=1}^{K} \log\frac{\pi_\theta(y_i|x)}{\pi_{ref}(y_i|x)} - \alpha \log\frac{\pi_\theta(y_l|x)}{\pi_{ref}(y_l|x)}\right)",
    when="Only bad answers are labelled, or the chosen answers of pairs are not to be trusted.",
)
def d2o(batch: ScoredBatch, constants: D2OConstants) -> Losses:
    """D2O (arXiv 2403.03419), equation 3, over rankings of self-samples (score 1) and one negative (score 0)."""
    if batch.reference is None:
        raise ValueError("D2O needs log-probabilities under the reference")
    log_ratios = batch.policy.sums() - batch.reference.sums().detach()
    anchors, negatives = split_anchors(log_ratios, batch.values == NEGATIVE, batch.record_index)
    losses = d2o_loss(anchors, negatives, alpha=constants.alpha, beta=constants.beta)
    chosen, rejected = constants.beta * anchors.detach(), constants.alpha * negatives.detach()
    metrics = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).to(chosen.dtype),
    }
    return Losses(losses, metrics)


@dataclass(kw_only=True)
class Config(D2OConstants, SamplingOptions, LearningOptions):
    """Options of `coalign run d2o`."""

    __group__ = "Method"

    samples: Count = option(11, "self-samples to every prompt (K)", source="paper, section 4")
    resample_every: Count | None = option(
        None, "draw the self-samples again from the model in training every so many steps; by default never"
    )
    resample_warmup: Count | None = option(
        None, "steps before they are drawn again for the first time; by default --resample-every"
    )
    temperature: NonNegative = option(1.0, "sampling temperature of the self-samples", group="Sampling")
    top_p: Fraction = option(1.0, "nucleus of the self-samples", group="Sampling")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resample_warmup is not None and self.resample_every is None:
            raise ValueError("resample_warmup has no effect without resample_every")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                "temperature 0 gives the same self-sample every time; raise it, or take samples 1"
            )


def run(config: Config, run: Run) -> None:
    """Sample the model's own answers, set them against the negatives, train; again where `resample_every` says so.

    Raises:
        DataError: no negatives, or no usable self-sample to any of them.
        ConfigError: more than one process: the anchors are sampled by one.
    """
    assert_one_process("d2o samples")
    material = read_material(config, "feedback", run, also=["preference", "feedback"])
    negatives, held_out = (_negatives(part) for part in (material.training, material.held_out))
    if not negatives:
        raise DataError(
            f"{config.data}: there is no negative to learn from.", hint="Give pairs or thumbs-down records."
        )
    negatives, held_out, told_of = negatives_with_room(config, negatives, held_out)
    notes = [*material.notes, *told_of]
    tell(replace(material, notes=notes), run)
    sampling = config.sampling(n=config.samples, seed=config.seed)
    anchored = Anchored([])
    if held_out:
        anchored = sampled_anchors(Round(run, 1), "held-out", held_out, sampling, config)
    material = Material([], [*anchored.records], notes)
    material, results = _train_parts(config, run, negatives, material)
    write_learning_report(run, config, get_objective("d2o"), material, joined(results))


def _train_parts(
    config: Config, run: Run, negatives: Sequence[Feedback], material: Material
) -> tuple[Material, list[FitResult]]:
    """Sample and train, part after part; the material of the last part, with the notes of all, and the results."""
    parts = segments(config, len(negatives), every=config.resample_every, warmup=config.resample_warmup)
    policy: ModelOptions = config
    results: list[FitResult] = []
    for number, steps in enumerate(parts, start=1):
        round = Round(run, number)
        sampling = config.sampling(n=config.samples, seed=config.seed + number - 1)
        anchored = sampled_anchors(round, "samples", negatives, sampling, policy)
        if not anchored.records:
            raise DataError(
                "No self-sample is usable: all are empty or equal to the negative.", anchored.dropped
            )
        note = (f"Part {number}: " if number > 1 else "") + told(anchored, len(negatives))
        tell(Material([], [], [note]), run)
        material = Material([*anchored.records], material.held_out, [*material.notes, note])
        options: Any = replace(
            config,
            model=policy.model,
            revision=policy.revision,
            max_steps=steps,
            seed=config.seed + number - 1,
        )
        folder = run.model if number == len(parts) else round.folder / "model"
        result = train(
            options,
            get_objective("d2o"),
            run,
            material,
            constants=config,
            folder=folder,
            name=f"train-{number}" if len(parts) > 1 else "train",
            reference_from=config if number > 1 else None,
        )
        results.append(result)
        policy = replace(config, model=str(folder), revision=None)
    return material, results


def _negatives(records: Sequence[Record]) -> list[Feedback]:
    return human_negatives([one for one in records if isinstance(one, Preference | Feedback)])


def check(run: Run, *, seeds: int = 5, data: Path | None = None) -> Verdict:
    """D2O removes marked answers as gradient ascent does, and keeps what the model could, in a world of copying.

    With `data`, pairs of real text (the Anthropic HH data as it is): margins and the likelihood of the chosen side after
    a short training of the default model on the rejected side.
    """
    if data is not None:
        return _check_on_text(run, seeds, data)
    constants = D2OConstants(alpha=0.1, beta=0.1)
    arms: dict[str, Callable[[Unlearning], Measures]] = {
        "start": untouched_arm,
        "gradient ascent": unlearning_arm(ASCENT, None, "bad"),
        "DPO, one self-sample": unlearning_arm(get_objective("dpo"), DPOConstants(beta=0.1), "pairs"),
        "D2O": unlearning_arm(get_objective("d2o"), constants, "anchors"),
    }
    arms |= {
        "gradient ascent, 100 steps": unlearning_arm(ASCENT, None, "bad", steps=100),
        "D2O, 100 steps": unlearning_arm(get_objective("d2o"), constants, "anchors", steps=100),
        "D2O, 11 anchors": unlearning_arm(get_objective("d2o"), constants, "more anchors"),
    }
    rows = measure_arms(run, seeds=seeds, prepare=unlearning, arms=arms)
    start, after = values_of(rows, "marked", "start"), values_of(rows, "marked", "D2O")
    removed = all(after[seed] < 0.5 * start[seed] for seed in start)
    nll = paired_gaps(rows, "nll", "D2O", "gradient ascent")
    lost = paired_gaps(rows, "gold", "start", "D2O")
    lost_by_ascent = paired_gaps(rows, "gold", "start", "gradient ascent")
    kept = mean_of(lost) <= 0.15 and mean_of(lost_by_ascent) > 0.4
    below = all(gap < 0 for gap in nll.values())
    return Verdict(
        slug="d2o",
        outcome=decide(seen=removed and below and kept, not_seen=not removed or not below),
        claim=get("d2o").claim,
        rule="Seen: in every seed D2O's share of marked answers is below half the start's and its cross-entropy on held-"
        "out unmarked answers is below gradient ascent's; and in the mean over seeds D2O loses at most 0.15 of the gold "
        "of unmarked answers while gradient ascent loses more than 0.4. Not seen: the share is not halved in a seed, or "
        "the cross-entropy is not below. Mixed: between.",
        setting="Copying with a mark: transformer of 2 layers and width 48, 4 of 10 answers that it learned begin with "
        "two tokens that nobody wants. 800 prompts with a marked answer; 5 samples each of the start model as anchors; "
        "200 steps of 32, Adam 3e-4, alpha = beta = 0.1. 400 fresh prompts, 4 samples each.",
        measures=rows,
        summary={
            "marked, start": mean_of(start),
            "marked, D2O": mean_of(after),
            "nll, D2O - gradient ascent": mean_of(nll),
            "gold lost, D2O": mean_of(lost),
            "gold lost, gradient ascent": mean_of(lost_by_ascent),
            "gold, D2O - DPO on one self-sample": mean_of(
                paired_gaps(rows, "gold", "D2O", "DPO, one self-sample")
            ),
        },
        tried=[
            _tried(rows, "100 steps in place of 200", "D2O, 100 steps", "gradient ascent, 100 steps"),
            _tried(rows, "11 anchors in place of 5, others", "D2O, 11 anchors", "gradient ascent"),
        ],
        seconds=seconds_spent(run),
    )


def _tried(rows: Sequence[dict[str, Any]], what: str, arm: str, ascent: str) -> str:
    """The figures of the rule for another arm, in words."""
    start, after = values_of(rows, "marked", "start"), values_of(rows, "marked", arm)
    halved = sum(after[seed] < 0.5 * start[seed] for seed in start)
    lost, lost_by_ascent = (mean_of(paired_gaps(rows, "gold", "start", one)) for one in (arm, ascent))
    nll = mean_of(paired_gaps(rows, "nll", arm, ascent))
    return (
        f"{what}: marked {mean_of(after):.3f}, below half the start's in {halved} of {len(start)} seeds; nll, D2O - "
        f"gradient ascent {nll:+.3f}; gold lost, D2O {lost:+.3f}, gradient ascent {lost_by_ascent:+.3f}."
    )


def _check_on_text(run: Run, seeds: int, data: Path) -> Verdict:
    pairs, unusable = read_pairs(data)
    constants = D2OConstants()

    def measured(material: NegativeText, model: nn.Module | None) -> Measures:
        return negative_measures(
            material, model, partial(d2o_margins, alpha=constants.alpha, beta=constants.beta)
        )

    def by_d2o(material: NegativeText) -> Measures:
        model = adapted(material.rankings, get_objective("d2o"), constants, steps=40, seed=material.seed)
        return measured(material, model)

    def by_ascent(material: NegativeText) -> Measures:
        return measured(material, adapted(material.rejected, ASCENT, None, steps=40, seed=material.seed))

    rows = measure_arms(
        run,
        seeds=seeds,
        prepare=partial(negative_text, pairs),
        arms={
            "default model": lambda material: measured(material, None),
            "gradient ascent": by_ascent,
            "D2O": by_d2o,
        },
    )
    margin = values_of(rows, "margin", "D2O")
    kept = paired_gaps(rows, "nll, chosen", "gradient ascent", "D2O")
    return Verdict(
        slug="d2o",
        outcome=decide(
            seen=exceeds(margin) and exceeds(kept),
            not_seen=not exceeds(margin, errors=1.0) or not exceeds(kept, errors=1.0),
        ),
        claim=get("d2o").claim,
        rule="Seen: after D2O the margin of self-samples over the rejected responses is above 0, and the cross-entropy of "
        "the chosen responses, which nothing was trained on, is below that after gradient ascent, both by more than 2 "
        "standard errors over the seeds. Not seen: one of them not by more than 1. Mixed: between. It speaks of margins "
        "and likelihoods after a short training, not of what the model then says.",
        setting=f"{data.name} ({unusable} unusable records left out): 20 pairs a seed of at most 160 tokens; 3 samples of "
        "24 tokens of the default model to each prompt as anchors; 40 steps of one prompt, adapter of rank 16, Adam 3e-4, "
        "alpha = beta = 0.1.",
        measures=rows,
        summary={
            "margin, D2O": mean_of(margin),
            "nll of the chosen side, gradient ascent - D2O": mean_of(kept),
            "nll of the chosen side, D2O - default model": mean_of(
                paired_gaps(rows, "nll, chosen", "D2O", "default model")
            ),
        },
        seconds=seconds_spent(run),
    )

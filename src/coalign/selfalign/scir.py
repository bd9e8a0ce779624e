"""SCIR: self-rewarding rounds in which the model's two internal rewards are made to agree.

Self-Consistency of the Internal Reward Models Improves Self-Rewarding Language Models (arXiv 2502.08922). A model holds
two opinions on a pair of its own answers: as a judge that names the better one, and by its DPO reward. In every step
a penalty pulls the two probabilities together and away from one half, and DPO learns only from pairs on which both
agree at that moment.

    coalign run scir --prompts prompts.jsonl --judge-data pairs.jsonl --seed-data demonstrations.jsonl

Before the rounds the model learns to answer (`--seed-data`) and to judge (`--judge-data`, pairs of known order shown in
an order that is drawn). A judge reads the probability of the letters A and B after a question that shows both answers,
in both orders; several templates (`--judge-templates`) are several judges. `--labels judge` is plain self-rewarding:
the judge's labels, DPO on all pairs. `--penalty-weight 0` keeps the selection alone.

Reconstruction: there is no official code, and the paper's formulas could not be read. The penalty (cross-entropies
between the opinions with stopped targets, plus their entropy), its weights, the length correction, the threshold of
the selection, the reference of the implicit reward and the warm-up are ours, and options. At the first step of a round
the model is its own reference, so the implicit reward has no opinion: in the first batches the penalty alone is learned
(`--warmup-batches`), or the reference is M0 (`--reference first`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt

from coalign.core.errors import CoalignError
from coalign.core.options import Count, CountOrZero, Fraction, NonNegative, Positive, option
from coalign.core.runs import Run
from coalign.data.records import Preference, PromptRecord
from coalign.loops.labelling import Labelling, run_labelling
from coalign.loops.prompts import RoundOptions, open_values, read_prompts
from coalign.loops.report import write_rounds_report
from coalign.loops.rounds import Round
from coalign.loops.rows import Row
from coalign.loops.seeds import SeedOptions, read_seed, seed_stage
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.options import ModelOptions
from coalign.selfalign.own_judge.opinions import (
    disagreement,
    judged_probabilities,
    mean_entropy,
    select,
)
from coalign.selfalign.own_judge.pairs import ordered_by_judge, sampled_pairs, tell_verdicts
from coalign.selfalign.own_judge.prompts import LetterJudge, first_letters
from coalign.selfalign.own_judge.verdicts import pair_verdicts
from coalign.training.distributed.leading import led
from coalign.training.losses.batch_count import BatchCount
from coalign.training.losses.pairwise import logistic_loss
from coalign.training.objective import Losses, ScoredBatch, get_objective, objective
from coalign.training.options import TrainingOptions


@dataclass(kw_only=True)
class Constants:
    """Constants of the objective."""

    __group__ = "Objective"

    beta: Positive = option(0.1, "inverse temperature of the implicit reward", source="reconstruction")
    length_penalty: NonNegative = option(
        0.0, "implicit reward taken off for each token (eta)", source="reconstruction"
    )
    entropy_weight: NonNegative = option(
        0.5, "weight of the judges' entropy in the penalty", source="reconstruction"
    )
    min_confidence: Annotated[float, Ge(0.5), Lt(1)] = option(
        0.5,
        "how sure every judge must be of a pair that is learned from; 0.5: agreement alone",
        source="reconstruction",
    )
    penalty_weight: NonNegative = option(1.0, "weight of the penalty (gamma)", source="reconstruction")
    warmup_batches: CountOrZero = option(
        4, "batches at the start of each round that learn the penalty alone", source="reconstruction"
    )
    reduction: Literal["kept", "all"] = option(
        "kept",
        "DPO's mean over the pairs that a batch keeps, or over all of them, which is the same however a step is divided",
        source="reconstruction",
    )


@objective(
    "internal_consistency",
    title="Internal consistency",
    data="preference",
    reference=True,
    constants=Constants,
    contexts=LetterJudge().contexts,
    prepare=first_letters,
    state=BatchCount,
    equation=r"\frac{\sum_j k_j\,[-\log \sigma(s_j z_j)]}{\max(1, \sum_j k_j)} + \gamma\,\overline{\mathrm{pen}}, \quad \mathrm{pen} = \frac{1}{K(K-1)}\sum_{i \ne j} \mathrm{KL}(\mathrm{sg}\,p_i \| p_j) + \frac{w}{K} \sum_i H(p_i)",
    when="Pairs of the model's own answers that nobody ordered (the order of a record is not read), and a model that can judge: `coalign run scir`.",
)
def internal_consistency(batch: ScoredBatch, constants: Constants) -> Losses:
    """SCIR (arXiv 2502.08922), our reconstruction: DPO on the pairs that both internal rewards order alike, and a penalty."""
    probabilities, margins = judged_probabilities(batch, constants)
    apart, entropy = disagreement(probabilities), mean_entropy(probabilities)
    agreed, first_wins = select(probabilities, confidence=constants.min_confidence)
    warm = isinstance(batch.state, BatchCount) and batch.state.seen <= constants.warmup_batches
    kept = torch.zeros_like(agreed) if warm else agreed
    dpo = logistic_loss(torch.where(first_wins, margins, -margins))
    scale = len(kept) / kept.sum().clamp(min=1) if constants.reduction == "kept" else 1.0
    penalty = apart + constants.entropy_weight * entropy
    p = probabilities.detach()
    metrics = {
        "internal/agreement": ((p > 0.5) == (p[:1] > 0.5)).all(0).to(p.dtype),
        "internal/kept": kept.to(p.dtype),
        "internal/disagreement": apart.detach(),
        "internal/entropy": entropy.detach(),
        "internal/first_wins": first_wins.to(p.dtype),
        "rewards/margins": torch.where(first_wins, margins, -margins).detach(),
    }
    return Losses(kept * dpo * scale + constants.penalty_weight * penalty, metrics)


@dataclass(kw_only=True)
class Config(RoundOptions, SeedOptions, Constants, ModelOptions, SamplingOptions, TrainingOptions):
    """Options of `coalign run scir`."""

    __group__ = "Method"
    seeds_from = ("seed_data", "judge_data")

    judge_data: str | None = option(
        None, "pairs of known order, from which M0 learns to judge before the rounds", group="Seed stage"
    )
    judge_templates: list[Path] = option(
        [],
        "templates of questions that are answered by the letter A or B, each a judge; by default one of our own",
    )
    samples: Count = option(
        2, "responses to every prompt; each two of them are a pair", source="reconstruction"
    )
    labels: Literal["agreed", "judge"] = option(
        "agreed",
        "learn from what both rewards agree on in every step, or from the judge's labels (self-rewarding)",
    )
    reference: Literal["start", "first"] = option(
        "start",
        "what the implicit reward is relative to: the round's start model or M0",
        source="reconstruction",
    )
    eval_fraction: Fraction = option(0.1, "share of the prompts held out and answered greedily", group="Data")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels == "judge":
            self.refuse(
                ["entropy_weight", "penalty_weight", "warmup_batches", "reduction"], "with labels: judge"
            )
        if self.samples < 2:
            raise ValueError("samples: 1 is not usable, expected at least 2: one response is no pair")


@led
def run(config: Config, run: Run) -> None:
    """Learn to answer and to judge, then rounds of pairs on which two internal rewards are made to agree; report.

    Raises:
        DataError: seed data, judge data or prompts that cannot be used.
        CoalignError: no prompt has two different responses.
    """
    loop = make_loop(config, run, *read_prompts(config))
    rounds = run_labelling(run, loop)
    write_rounds_report(
        run,
        loop,
        rounds,
        title=f"Self-rewarding with consistent rewards, {len(rounds)} rounds",
        facts={"Labels": "pairs on which both rewards agree" if config.labels == "agreed" else "the judge's"},
        note="After each round, over its pairs: agreement of the internal rewards; the share selected by agreement and "
        "confidence; label balance, the smaller share of one side among these; the judges' entropy in nats.",
        drawn=("agreement", "selected", "entropy"),
        charts=tuple((f"internal/{name}", f"Pairs, {name}") for name in ("agreement", "kept", "entropy")),
        units=dict.fromkeys(("agreement", "selected", "label balance", "judge accuracy"), "percent"),
    )


def make_loop(
    config: Config, run: Run, training: Sequence[PromptRecord], held_out: Sequence[PromptRecord]
) -> Labelling[PromptRecord]:
    """What SCIR is to the loop engine: pairs without order, whose order the objective finds while it learns."""
    judge = LetterJudge(tuple(config.judge_templates)) if config.judge_templates else LetterJudge()
    judging = replace(get_objective("internal_consistency"), contexts=judge.contexts)
    judged = read_seed(config.judge_data, "preference") if config.judge_data else []

    def verdicts(round: Round, stage: str, rows: Sequence[Row], policy: ModelOptions) -> list[Row]:
        reference = loop.model(run, 0) if config.reference == "first" else loop.policy(round.previous)
        return pair_verdicts(
            round,
            stage,
            rows,
            judging,
            config,
            policy,
            reference,
            lambda batch: judged_probabilities(batch, config)[0],
        )

    def pairs(round: Round, rows: Sequence[Row]) -> list[Row]:
        found = sampled_pairs(round, rows)
        if config.labels == "agreed" or not found:
            return found
        return ordered_by_judge(found, verdicts(round, "labels", found, loop.policy(round.previous)))

    def learned(round: Round) -> None:
        rows = round.read("pairs")
        tell_verdicts(
            round, rows, verdicts(round, "verdicts", rows, loop.policy(round)), config.min_confidence
        )

    loop = Labelling(
        config=config,
        objective=judging if config.labels == "agreed" else get_objective("dpo"),
        training=training,
        held_out=held_out,
        evaluation=config.sampling(temperature=0.0),
        samples=config.samples,
        seed=seed_stage(
            config,
            get_objective("sft"),
            also=judge.demonstrations([one for one in judged if isinstance(one, Preference)], config.seed),
        ),
        score=lambda round, tasks, rows: [*rows],
        pair=pairs,
        learned=learned,
        unlabelled=True,
        reference=lambda round: loop.model(run, 0) if config.reference == "first" else None,
        probe=open_values(config.measure, [*training, *held_out]),
        fresh=True,
        per_round=config.prompts_per_round,
        nothing=CoalignError(
            "No prompt has two different responses, so there is no pair to learn from.",
            hint="Sample more responses (--samples), or at a higher temperature.",
        ),
    )
    return loop

"""ACT: align a model with constraints that programs can check, without labels.

From Instructions to Constraints: Language Model Alignment with Automatic Constraint Verification (arXiv 2403.06326).
Verifiers take the place of annotators: several responses are sampled to every prompt, each gets the share of the
prompt's constraints that it satisfies, and a ranking loss teaches the model that order.

    coalign run act --prompts prompts.jsonl --model default
    coalign quickstart

Reconstruction: there is no official code, and the paper's loss constants could not be confirmed. The loss is that of
RRHF with a margin scaled by the gap in satisfaction; margin, fine-tuning weight, length normalisation and pair
reduction are options. Ours besides: in training a response that ran out of tokens counts as satisfying nothing
(`--unfinished zero`), because a model must not learn from replies that never ended; and identical responses to a
prompt are ranked once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from coalign.core.errors import CoalignError
from coalign.core.options import Count, Fraction, NonNegative, option, required
from coalign.core.runs import Run
from coalign.judging.verifiers.tasks import ConstraintTask, measure_responses, read_tasks, split_tasks
from coalign.loops.labelling import Labelling, run_labelling
from coalign.loops.rounds import Round
from coalign.loops.rows import Row
from coalign.models.backends.options import PolicyBackendOptions
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from coalign.selfalign.constraint_report import compare_runs, write_constraint_report
from coalign.training.distributed.leading import led
from coalign.training.losses.listwise import best_responses, ranking_hinge_loss, ranking_metrics
from coalign.training.objective import Losses, ScoredBatch, get_objective, objective
from coalign.training.options import TrainingOptions


@dataclass(kw_only=True)
class Constants:
    """Constants of the constraint-ranking loss."""

    __group__ = "Objective"

    margin: NonNegative = option(
        1.0, "margin of a pair, per unit of the gap in satisfaction; nats per token when length-normalised"
    )
    ft_weight: NonNegative = option(
        1.0, "weight of the likelihood of the best response", source="the ranking form of RRHF"
    )
    length_normalised: bool = option(
        True, "rank mean instead of summed token log-probabilities", source="reconstruction"
    )
    pair_reduction: Literal["sum", "mean"] = option(
        "sum", "over the pairs of a prompt", source="reconstruction"
    )


@dataclass(kw_only=True)
class Config(Constants, PolicyBackendOptions, ModelOptions, SamplingOptions, TrainingOptions):
    """Options of `coalign run act`."""

    __group__ = "Method"
    __may_change__ = ("rounds",)

    prompts: str = required("prompts with a `constraints` column; `quickstart` for the bundled ones")
    samples: Count = option(4, "responses sampled to every prompt (K)")
    rounds: Count = option(1, "how often the loop runs", source="paper: once")
    unfinished: Literal["zero", "as is"] = option(
        "zero",
        "how training values a response that ran out of tokens: as satisfying nothing, or by its constraints",
    )
    temperature: NonNegative = option(1.0, "sampling temperature", group="Sampling")
    top_p: Fraction = option(0.95, "nucleus of the sampling", group="Sampling")
    eval_samples: Count = option(
        4, "responses to every held-out prompt, before and after", group="Evaluation"
    )
    eval_temperature: NonNegative = option(0.7, "their temperature", group="Evaluation")
    eval_fraction: Fraction = option(
        0.25, "share of the prompts held out, where no `split` column says which", group="Evaluation"
    )


@objective(
    "constraint_ranking",
    title="Constraint ranking",
    data="ranking",
    reference=False,
    constants=Constants,
    equation=r"\sum_{i,j:\,s_i>s_j}\max\bigl(0,\;p_j-p_i+m\,(s_i-s_j)\bigr)\;-\;w\,p_{i^*},\qquad "
    r"p_i=\tfrac1{|y_i|}\textstyle\sum_t\log\pi_\theta(y_{i,t}\mid x,y_{i,<t})",
    when="Rankings whose scores come from verifiers: the margin grows with the gap in satisfaction.",
)
def constraint_ranking(batch: ScoredBatch, constants: Constants) -> Losses:
    """Ranking loss over ordered pairs plus fine-tuning on the best response (our reconstruction).

    `batch.values` [B] are satisfaction rates in [0, 1]. One loss a record; the first response wins a tie for the best.
    """
    means = batch.policy.means()
    scores = means if constants.length_normalised else batch.policy.sums()
    rank = ranking_hinge_loss(
        scores, batch.values, batch.record_index, margin=constants.margin, reduction=constants.pair_reduction
    )
    best = best_responses(batch.values, batch.record_index)
    metrics = {"losses/ranking": rank.detach(), **ranking_metrics(batch, scores)}
    return Losses(rank - constants.ft_weight * means[best], metrics)


@led
def run(config: Config, run: Run) -> None:
    """The loop of ACT: sample, verify, rank, train, evaluate on held-out prompts, report.

    Raises:
        DataError: prompts without usable constraints, or none left to train on.
        CoalignError: no prompt tells its responses apart.
    """
    loop = make_loop(config, *split_tasks(read_tasks(config.prompts), config.eval_fraction, config.seed))
    write_constraint_report(run, loop, run_labelling(run, loop))


def make_loop(
    config: Config, training: list[ConstraintTask], held_out: list[ConstraintTask]
) -> Labelling[ConstraintTask]:
    """What ACT is to the loop engine: satisfaction scores the responses, and their order is learned."""

    def satisfaction(round: Round, tasks: Sequence[ConstraintTask], rows: Sequence[Row]) -> list[Row]:
        return measure_responses({task.id: task for task in tasks}, rows)

    def ranked(round: Round, rows: Sequence[Row]) -> list[Row]:
        return [ranked_row(row, unfinished_as_zero=config.unfinished == "zero") for row in rows]

    return Labelling(
        config=config,
        objective=get_objective("constraint_ranking"),
        training=training,
        held_out=held_out,
        evaluation=Sampling(
            max_new_tokens=config.max_new_tokens,
            temperature=config.eval_temperature,
            top_p=config.top_p,
            n=config.eval_samples,
            seed=config.seed + 1_000_003,
        ),
        samples=config.samples,
        columns=lambda task: {"constraints": [one.to_json() for one in task.constraints]},
        score=satisfaction,
        pair=ranked,
        keep=lambda rows, seed: [row for row in rows if len(set(row["scores"])) > 1],
        compare=partial(compare_runs, model=config, tasks=held_out),
        nothing=CoalignError(
            "No prompt has two responses that satisfy its constraints to a different degree.",
            hint="Sample more responses (--samples), or at a higher temperature.",
        ),
    )


def ranked_row(row: Row, *, unfinished_as_zero: bool) -> Row:
    """A row in the ranking format of the data readers: distinct, non-empty responses, best first.

    Args:
        row: measured.
        unfinished_as_zero: a response that ran out of tokens satisfies nothing.
    """
    best: dict[str, float] = {}
    for text, reason, score in zip(row["responses"], row["finish_reasons"], row["csr"], strict=True):
        value = 0.0 if unfinished_as_zero and reason == "length" else score
        if text.strip():
            best[text.strip()] = max(value, best.get(text.strip(), 0.0))
    ranked = sorted(best, key=lambda text: -best[text])
    scores = [best[text] for text in ranked]
    return {"id": row["id"], "prompt": row["prompt"], "responses": ranked, "scores": scores}

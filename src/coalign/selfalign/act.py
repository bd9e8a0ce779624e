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

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coalign.core.errors import CoalignError
from coalign.core.files import atomic_path
from coalign.core.options import Count, Fraction, NonNegative, option, required
from coalign.core.runs import Run
from coalign.data.records import Ranking
from coalign.judging.verifiers.tasks import ConstraintTask, measure_responses, read_tasks, split_tasks
from coalign.loops.rounds import Round, Stage, run_rounds
from coalign.loops.rows import sample_rows
from coalign.models.adapters import trainable_summary
from coalign.models.backends.open import open_generator
from coalign.models.files.loading import load_for_training, load_tokenizer
from coalign.models.files.saving import save_model
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.options import ModelOptions
from coalign.models.types import Sampling
from coalign.selfalign.constraint_report import compare_runs, write_constraint_report
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
class Config(Constants, ModelOptions, SamplingOptions, TrainingOptions):
    """Options of `coalign run act`."""

    __group__ = "Method"

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
    data="ranking",
    reference=False,
    constants=Constants,
    equation=r"\sum_{i,j:\,s_i>s_j}\max\bigl(0,\;p_j-p_i+m\,(s_i-s_j)\bigr)\;-\;w\,p_{i^*},\qquad "
    r"p_i=\tfrac1{|y_i|}\textstyle\sum_t\log\pi_\theta(y_{i,t}\mid x,y_{i,<t})",
    when="rankings whose scores come from verifiers: the margin grows with the gap in satisfaction",
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


def run(config: Config, run: Run) -> None:
    """The loop of ACT: sample, verify, rank, train, evaluate on held-out prompts, report.

    Raises:
        DataError: prompts without usable constraints, or none left to train on.
    """
    training, held_out = split_tasks(read_tasks(config.prompts), config.eval_fraction, config.seed)
    rounds = run_rounds(run, make_stages(config, training, held_out), rounds=config.rounds)
    final = rounds[-1].folder / "model"
    if not run.model.exists():
        with atomic_path(run.model) as path:
            shutil.copytree(final, path)
    write_constraint_report(run, config, rounds, training, held_out)


def make_stages(
    config: Config, training: list[ConstraintTask], held_out: list[ConstraintTask]
) -> dict[str, Stage]:
    """The stages of a round (see `loop.STAGES` for their order)."""
    from transformers import set_seed

    from coalign.training.fit import fit

    evaluation = Sampling(
        max_new_tokens=config.max_new_tokens,
        temperature=config.eval_temperature,
        top_p=config.top_p,
        n=config.eval_samples,
        seed=config.seed + 1_000_003,
    )

    def start(round: Round) -> ModelOptions:
        return config if round.number == 1 else config.at(_previous(round) / "model")

    def baseline(round: Round) -> None:
        if round.number == 1:
            generator = open_generator(config)
            sample_rows(
                round, "baseline", held_out, generator, evaluation, "Answering held-out prompts (before)"
            )

    def propose(round: Round) -> None:
        constraints = {task.id: [one.to_json() for one in task.constraints] for task in training}
        round.write(
            "propose", [{"id": t.id, "prompt": t.prompt, "constraints": constraints[t.id]} for t in training]
        )

    def generate(round: Round) -> None:
        sampling = config.sampling(n=config.samples, seed=config.seed + round.number - 1)
        sample_rows(round, "generate", training, open_generator(start(round)), sampling, "Sampling responses")

    def measure(round: Round) -> None:
        tasks = {task.id: task for task in training}
        zero = config.unfinished == "zero"
        round.write("measure", measure_responses(tasks, round.read("generate"), unfinished_as_zero=zero))

    def build(round: Round) -> None:
        prompts = {task.id: task.prompt for task in training}
        round.write("build", [_ranked(row, prompts[row["id"]]) for row in round.read("measure")])

    def keep(round: Round) -> None:
        rows = round.read("build")
        kept = [row for row in rows if len(set(row["scores"])) > 1]
        round.write("filter", kept)
        round.run.log("filtered", round=round.number, kept=len(kept), dropped=len(rows) - len(kept))

    def train(round: Round) -> None:
        records = [_record(row) for row in round.read("filter")]
        if not records:
            raise CoalignError(
                "No prompt has two responses that satisfy its constraints to a different degree.",
                hint="Sample more responses (--samples), or at a higher temperature.",
            )
        options = start(round)
        set_seed(config.seed)  # the adapter's first weights
        model, tokenizer = (
            load_for_training(options),
            load_tokenizer(options.model, revision=options.revision),
        )
        round.run.log("model", summary=trainable_summary(model))
        result = fit(
            model,
            tokenizer,
            records,
            get_objective("constraint_ranking"),
            config,
            config,
            round.run,
            name=f"round-{round.number}",
        )
        round.write("history", result.history)
        save_model(model, tokenizer, round.folder / "model")

    def evaluate(round: Round) -> None:
        generator = open_generator(config.at(round.folder / "model"))
        sample_rows(round, "evaluate", held_out, generator, evaluation, "Answering held-out prompts (after)")
        del generator
        first = Round(round.run, 1)
        compare_runs(round, config, held_out, first.read("baseline"), round.read("evaluate"))

    return {
        "baseline": baseline,
        "propose": propose,
        "generate": generate,
        "measure": measure,
        "build": build,
        "filter": keep,
        "fit": train,
        "evaluate": evaluate,
    }


def _previous(round: Round) -> Path:
    return Round(round.run, round.number - 1).folder


def _ranked(row: dict[str, Any], prompt: Any) -> dict[str, Any]:
    """A row in the ranking format of the data readers: distinct, non-empty responses, best first."""
    best: dict[str, float] = {}
    for response, score in zip(row["responses"], row["csr"], strict=True):
        text = response["text"].strip()
        if text:
            best[text] = max(score, best.get(text, 0.0))
    ranked = sorted(best, key=lambda text: -best[text])
    return {"id": row["id"], "prompt": prompt, "responses": ranked, "scores": [best[text] for text in ranked]}


def _record(row: dict[str, Any]) -> Ranking:
    return Ranking(
        prompt=row["prompt"],
        responses=tuple(row["responses"]),
        scores=tuple(row["scores"]),
        extra={"id": row["id"]},
    )

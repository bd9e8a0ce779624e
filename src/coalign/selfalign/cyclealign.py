"""CycleAlign: a judge that can be asked in text alone ranks a model's responses, and both get better demonstrations.

CycleAlign: Iterative Distillation from Black-box LLM to White-box Models for Better Human Alignment (arXiv 2310.16271).

    coalign run cyclealign --prompts prompts.jsonl --model default --judge http://127.0.0.1:8000/v1
    coalign run cyclealign --prompts prompts.jsonl --model default --reward model:REWARD_MODEL

In each round the model answers fresh prompts several times. The judge puts the answers in order, going by
demonstrations; the model orders them too, by their likelihood a token. Where the two orders agree far enough, what they
agree on joins the demonstrations, and the judge is asked again. The model then learns from the judge's last order, by the
loss of RRHF or PRO. The demonstrations travel from round to round; every reply is kept, so nobody is asked twice.

Reconstruction: no official code is public and the paper's text could not be read beyond its abstract. The ranking loss,
the agreement (a longest common subsequence), the queue and all constants are ours within what the abstract and the works
it builds on say; they are options. Agreement is not correctness: both sides may share a liking for long answers, so how
far the ranks go with length is told in every round. `--queue 0` distils one way, without new demonstrations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any, Literal

from annotated_types import Ge

from coalign.core.errors import CoalignError
from coalign.core.options import Count, CountOrZero, Fraction, option
from coalign.core.runs import Run
from coalign.data.records import Record
from coalign.judging.demonstrations import DemonstrationQueue, read_demonstrations
from coalign.judging.protocol import JudgeItem, check_failures
from coalign.judging.ranking import Ranker, RankerOptions, RatingRanker, open_ranker
from coalign.judging.ranking_cycles import Cycles, rank_in_cycles
from coalign.judging.scoring_judges import ScoringJudge
from coalign.judging.store import ReplyStore
from coalign.loops.labelling import Labelling, run_labelling
from coalign.loops.prompts import RoundOptions, open_values, read_prompts
from coalign.loops.ranked_rows import (
    distinct_places,
    item_of,
    preference_credits,
    ranking_columns,
    ranking_figures,
    ranking_row,
)
from coalign.loops.readings import LABEL_ACCURACY, tell, told
from coalign.loops.report import write_rounds_report
from coalign.loops.rounds import Round
from coalign.loops.rows import Row
from coalign.loops.scoring import scored_logps
from coalign.models.files.places import short_name
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.options import ModelOptions
from coalign.training.distributed.leading import led
from coalign.training.losses.ranking_distillation import Constants
from coalign.training.objective import get_objective
from coalign.training.options import TrainingOptions

CALLS, COMPARING, PREFERRED = "calls", "held-out calls", "held-out preferred"


@dataclass(kw_only=True)
class Config(Constants, RankerOptions, RoundOptions, ModelOptions, SamplingOptions, TrainingOptions):
    """Options of `coalign run cyclealign`."""

    __group__ = "Method"
    __may_change__ = ("max_calls",)

    samples: Annotated[int, Ge(2)] = option(4, "responses to every prompt (n)", source="reconstruction")
    interactions: Count = option(
        5,
        "how often a prompt is ranked at most, while its demonstrations change (R)",
        source="reconstruction",
    )
    queue: CountOrZero = option(
        3,
        "demonstrations that came up on the way, at most so many at a time; 0 takes none",
        source="reconstruction",
    )
    min_agreement: Annotated[int, Ge(2)] | None = option(
        None,
        "responses that both must agree on for a demonstration; by default all but one",
        source="reconstruction",
    )
    demonstrated: Literal["all", "ends"] = option(
        "all", "what of an agreed order is shown: all of it, or best and worst"
    )
    topic: str | None = option(
        None, "column of the prompts that names their topic: each has demonstrations of its own"
    )
    max_calls: Count | None = option(
        None, "requests to the judge over all rounds, kept replies included; what is left is not ranked"
    )
    top_p: Fraction = option(0.95, "nucleus of the sampling", source="reconstruction", group="Sampling")
    eval_fraction: Fraction = option(
        0.1, "share of the prompts held out: the judge compares answers before and after", group="Evaluation"
    )


@led
def run(config: Config, run: Run) -> None:
    """Rounds of answering, ranking, agreeing and training; report.

    Raises:
        DataError: prompts or demonstrations that cannot be used.
        CoalignError: the judge gave too few rankings, or none that tells responses apart.
    """
    with ReplyStore(None if config.reward else run.artefacts / "replies.jsonl") as store:
        loop = make_loop(config, store)
        write_rounds_report(
            run,
            loop,
            run_labelling(run, loop),
            title=f"Rankings of a judge, learned by {short_name(config.model)}",
            facts={"Judge": _judge_name(config)},
            note="Agreement: share of the responses on whose order model and judge agree. Rank with length: correlation of "
            "the judge's order with length, 1 is longest first. First shown best: 1/n where the display does not matter. "
            "Held-out preferred: share of held-out prompts to which the judge prefers the answer after the round to that of M0.",
            drawn=[LABEL_ACCURACY, "agreement", PREFERRED, "length"],
            charts=[
                ("losses/ranking", "Ranking loss"),
                ("nll/token", "Negative log-likelihood of the best, nats a token"),
            ],
            units=dict.fromkeys(("agreement", PREFERRED, "first shown best"), "percent"),
            labelled_by=_judge_name(config),
            limitations=["The judge that is learned from also prefers: its liking is no proof of quality."],
        )


def make_loop(config: Config, store: ReplyStore) -> Labelling[Any]:
    """What CycleAlign is to the loop engine: a judge ranks in cycles, and its last order is learned.

    Args:
        store: keeps the replies of a language model.
    """
    training, held_out = read_prompts(config)
    ranker = _open_ranker(config, store, [*training, *held_out])
    fixed = () if config.reward else read_demonstrations(config.demonstrations)

    def budget_of(round: Round) -> int | None:
        """Requests that the rounds before have left."""
        before = [told(Round(round.run, number)) for number in range(1, round.number)]
        spent = sum(facts.get(name) or 0 for facts in before for name in (CALLS, COMPARING))
        return None if config.max_calls is None else max(0, config.max_calls - spent)

    def ranked(round: Round, tasks: Sequence[Record], rows: Sequence[Row]) -> list[Row]:
        logps = scored_logps(
            round.path("beliefs"), rows, loop.policy(round.previous), config, label="Scoring responses"
        ).means()
        places = [
            distinct_places(row["responses"], beliefs) for row, beliefs in zip(rows, logps, strict=True)
        ]
        items = [item_of(task, row, those) for task, row, those in zip(tasks, rows, places, strict=True)]
        asked = [number for number, those in enumerate(places) if len(those) > 1]
        before = round.previous
        queue = DemonstrationQueue(config.queue, before.memory if before else [])
        cycled = rank_in_cycles(
            [items[number] for number in asked],
            [str(tasks[number].extra.get(config.topic or "", "")) for number in asked],
            [[logps[number][place] for place in places[number]] for number in asked],
            ranker,
            queue,
            Cycles(
                fixed=fixed,
                interactions=config.interactions,
                min_agreement=config.min_agreement,
                ends_only=config.demonstrated == "ends",
                budget=budget_of(round),
                seed=config.seed + round.number,
            ),
        )
        check_failures([one.ranked for one in cycled if one.ranked], limit=config.max_failures)
        round.remember(queue.rows())
        tell(round, {**ranking_figures(items, asked, cycled), CALLS: sum(one.cost.calls for one in cycled)})
        verdicts = dict(zip(asked, cycled, strict=True))
        return [
            {**row, "ranked": [*items[n].responses], **ranking_columns(verdicts.get(n))}
            for n, row in enumerate(rows)
        ]

    def compared(round: Round, before: Sequence[Row], after: Sequence[Row]) -> None:
        left = budget_of(round)
        left = None if left is None else left - (told(round).get(CALLS) or 0)
        credits, calls = preference_credits(ranker, fixed, before, after, left)
        tell(round, {PREFERRED: fmean(credits) if credits else None, COMPARING: calls})

    loop: Labelling[Any] = Labelling(
        config=config,
        objective=get_objective("ranking_distillation"),
        training=training,
        held_out=held_out,
        evaluation=config.sampling(temperature=0.0),
        samples=config.samples,
        fresh=True,
        per_round=config.prompts_per_round,
        score=ranked,
        assess=lambda round, tasks, rows: [*rows],
        pair=lambda round, rows: [one for row in rows if (one := ranking_row(row)) is not None],
        compare=compared,
        probe=open_values(config.measure, [*training, *held_out]),
        may_skip=config.max_calls is not None,
        nothing=CoalignError(
            "No prompt has responses that the judge tells apart.",
            hint="Sample more responses (--samples), at a higher temperature, or ask another judge.",
        ),
    )
    return loop


def _open_ranker(config: Config, store: ReplyStore, prompts: Sequence[Record]) -> Ranker:
    values = open_values(config.reward, prompts)
    if values is None:
        return open_ranker(config, store, config.device)

    def score(items: Sequence[JudgeItem]) -> list[float]:
        rows = [
            {"id": one.id, "prompt": one.prompt, "responses": [*one.responses], "finish_reasons": [None]}
            for one in items
        ]
        return [row[0] for row in values(items, rows)]

    return RatingRanker(ScoringJudge(score, name=_judge_name(config)))


def _judge_name(config: Config) -> str:
    return ", ".join(map(str, config.reward)) or config.judge_served or config.judge

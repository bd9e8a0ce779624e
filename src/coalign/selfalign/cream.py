"""CREAM: preference rounds on the model's own labels, softened where two models of its past disagree.

CREAM: Consistency Regularized Self-Rewarding Language Models (arXiv 2410.12735). The model answers prompts several
times and ranks its answers by its own DPO reward; the model of the round before ranks them too. Best and worst become
a pair, and the less both rankings agree, the less its order is believed: DPO with a label smoothing made of Kendall's
rank correlation. Neither annotators nor a reward model are asked.

    coalign run cream --prompts prompts.jsonl --seed-data demonstrations.jsonl --model default
    coalign run cream --prompts prompts.jsonl --model TUNED --initial-model BASE --consistency sample

M0 is the model as it is, M1 is M0 fine-tuned on `--seed-data` (or is given, and M0 by `--initial-model`), a round makes
M2, M3, ... of it. The reward is relative to M0 throughout; what training compares with is the model that its round
started from. `--consistency off` is plain self-rewarding, `--oracle` ranks by a reward from outside.

Where paper and official code differ, this follows the paper: a rate stays with its prompt, the reference of an adapted
model is the round's start and not the model below the adapter, padding is never learned, role headers belong to the
prompt. Equal rewards are ranked in their order, as the code does (`--ties`). Ours besides: answers that are all the
same have the rate 1/2, and of texts beyond `--max-length` the end is cut off where the code drops the pair.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from coalign.core.errors import CoalignError, ConfigError
from coalign.core.options import Count, Fraction, NonNegative, Positive, option
from coalign.core.runs import Run
from coalign.data.records import PromptRecord
from coalign.loops.labelling import Judge, Labelling, run_labelling
from coalign.loops.prompts import RoundOptions, check_values, open_values, read_prompts
from coalign.loops.readings import FLOORS, Floor, tell
from coalign.loops.report import write_rounds_report
from coalign.loops.rounds import Round
from coalign.loops.rows import Row, with_column
from coalign.loops.scoring import best_and_worst, scored_logps
from coalign.loops.seeds import SeedOptions, seed_stage
from coalign.measures.agreement import kendall_tau
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.options import ModelOptions
from coalign.training.distributed.leading import led
from coalign.training.losses.pairwise import CONFIDENCE, DPOConstants
from coalign.training.objective import get_objective
from coalign.training.options import TrainingOptions

Ties = Literal["order", "zero"]
CONSISTENCY = Floor(
    0.5,
    "the model and the one before it order answers no better than by chance",
    "Its labels say little: use fewer rounds, a lower learning rate, or more seed data.",
)


def consistency(current: Sequence[float], previous: Sequence[float], ties: Ties = "order") -> float:
    """C = (tau + 1) / 2 in [0, 1] of one prompt: how far two judges agree on its N responses (paper, section 4).

    Args:
        current, previous: [N] rewards of the same responses under the round's model and under the one before.
        ties: `order` ranks equal rewards by position (official code), `zero` counts such a pair as neither (paper).

    Raises:
        ValueError: fewer than two responses, or rewards that are not finite.
    """
    return (kendall_tau(current, previous, ties=ties) + 1) / 2


@dataclass(kw_only=True)
class Config(RoundOptions, SeedOptions, DPOConstants, ModelOptions, SamplingOptions, TrainingOptions):
    """Options of `coalign run cream`."""

    __group__ = "Method"

    samples: Count = option(5, "responses to every prompt (N)", source="paper, section 4")
    consistency: Literal["set", "sample", "off"] = option(
        "set",
        "what softens the labels: the mean rate of all prompts, each prompt's own, or nothing (self-rewarding)",
        source="paper, algorithm 1",
    )
    ties: Ties = option("order", "ranks of equal rewards: by position, or none", source="official code")
    unfinished: Literal["as is", "leave out"] = option(
        "as is", "whether responses that ran out of tokens become chosen or rejected", source="official code"
    )
    initial_model: str | None = option(None, "M0, which `model` was fine-tuned from; in place of seed_data")
    oracle: list[str | dict[str, Any]] = option(
        [],
        "rank by this reward (NAME:ARGUMENTS, such as model:PATH) instead of the model's own, and believe it",
        source="paper, the baseline Oracle",
        split=False,
    )
    seed_epochs: Positive = option(
        5.0, "passes over the seed data", source="official code", group="Seed stage"
    )
    temperature: NonNegative = option(0.8, "sampling temperature", source="official code", group="Sampling")
    top_p: Fraction = option(0.95, "nucleus of the sampling", source="official code", group="Sampling")
    max_new_tokens: Count = option(768, "most tokens of a response", source="official code", group="Sampling")
    weight_decay: NonNegative = option(0.01, "AdamW weight decay", source="official code", group="Training")
    eval_fraction: Fraction = option(0.1, "share of the prompts held out and answered greedily", group="Data")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed_data is not None and self.initial_model is not None:
            raise ValueError(
                "seed_data and initial_model exclude each other: M1 is made of model, or is model"
            )
        check_values(self.oracle)
        if self.oracle:
            self.refuse(["consistency", "ties"], "with oracle")
        if self.samples < 2:
            raise ValueError("samples: 1 is not usable, expected at least 2: one response has no rank")


@led
def run(config: Config, run: Run) -> None:
    """Fine-tune on the seed data, then rounds of answers, two rankings and softened DPO; report.

    Raises:
        ConfigError: neither seed data nor an initial model.
        DataError: seed data or prompts that cannot be used.
        CoalignError: all answers of every prompt are worth the same.
    """
    if config.seed_data is None and config.initial_model is None:
        raise ConfigError(
            "cream compares two models: give demonstrations that make the second one (--seed-data), or the model that "
            "--model was fine-tuned from (--initial-model)."
        )
    loop = make_loop(config, run, *read_prompts(config))
    rounds = run_labelling(run, loop)
    write_rounds_report(
        run,
        loop,
        rounds,
        title=f"Self-rewarding with consistency, {len(rounds)} rounds",
        facts={
            "Labels": ", ".join(map(str, config.oracle))
            or f"the model's own, consistency: {config.consistency}"
        },
        note="Consistency: how far the round's model and the one before rank the same answers alike, from 0 to 1; 0.5 is "
        "chance. Same extremes: share of prompts on whose best and worst answer both agree.",
        drawn=("consistency", "length"),
        charts=(("labels/confidence", "Confidence in the labels"),),
        units={"same extremes": "percent"},
    )


def make_loop(
    config: Config, run: Run, training: Sequence[PromptRecord], held_out: Sequence[PromptRecord]
) -> Labelling[PromptRecord]:
    """What CREAM is to the loop engine: two judges, their agreement, and pairs that are believed as far as it goes."""
    everyone = [*training, *held_out]
    oracle = open_values(config.oracle, everyone)

    def logps(round: Round, rows: Sequence[Row], index: int) -> Any:
        """Under M0, M1, ...; each is asked once a round."""
        name, policy = f"M{index}", loop.model(run, index)
        return scored_logps(round.path(f"logps-{name}"), rows, policy, config, label=f"Scoring under {name}")

    def implicit(index: int, round: Round, rows: Sequence[Row]) -> list[list[float]]:
        """r_t = log pi_t - log pi_0 (Eq. R). M0 has no reward against itself: its likelihood a token stands for it."""
        if index == 0:
            return logps(round, rows, 0).means()
        return logps(round, rows, index).rewards(logps(round, rows, 0))

    def current(round: Round, tasks: Sequence[PromptRecord], rows: Sequence[Row]) -> list[Row]:
        rewards = oracle(tasks, rows) if oracle else implicit(loop.index(round.previous), round, rows)
        return with_column(rows, "reward", rewards)

    def previous(round: Round, tasks: Sequence[PromptRecord], rows: Sequence[Row]) -> list[Row]:
        return with_column(rows, "previous_reward", implicit(loop.index(round.previous) - 1, round, rows))

    def agreed(round: Round, tasks: Sequence[PromptRecord], rows: Sequence[Row]) -> list[Row]:
        return rate_agreement(round, rows, config.ties) if not oracle else [*rows]

    def pairs(round: Round, rows: Sequence[Row]) -> list[Row]:
        return make_pairs(round, rows, config)

    judges: Mapping[str, Judge] = {"current": current, **({} if oracle else {"previous": previous})}
    loop = Labelling(
        config=config,
        objective=get_objective("soft_dpo"),
        training=training,
        held_out=held_out,
        evaluation=config.sampling(temperature=0.0),
        samples=config.samples,
        seed=seed_stage(config, get_objective("sft")),
        base=config.at(config.initial_model) if config.initial_model else None,
        judges=judges,
        score=agreed,
        assess=lambda round, tasks, rows: [*rows],
        pair=pairs,
        probe=open_values(config.measure, everyone),
        fresh=True,
        per_round=config.prompts_per_round,
        nothing=CoalignError(
            "All answers of every prompt have the same reward, so there is no pair to learn from.",
            hint="Sample more answers (--samples), or at a higher temperature.",
        ),
    )
    return loop


def rate_agreement(round: Round, rows: Sequence[Row], ties: Ties) -> list[Row]:
    """The rows with their `consistency`, null where a reward is missing; their mean is told."""
    rated, same = [], []
    for row in rows:
        both = row["reward"], row["previous_reward"]
        if None in (*both[0], *both[1]):
            rated.append({**row, "consistency": None})
            continue
        distinct = len({*row["responses"]}) > 1
        rated.append({**row, "consistency": consistency(*both, ties=ties) if distinct else 0.5})
        same.append(best_and_worst(both[0]) == best_and_worst(both[1]))
    rates = [row["consistency"] for row in rated if row["consistency"] is not None]
    mean = statistics.fmean(rates) if rates else None
    told = {
        "consistency": mean,
        "tau": None if mean is None else 2 * mean - 1,
        "same extremes": statistics.fmean(same) if same else None,
        "identical answers": sum(len({*row["responses"]}) == 1 for row in rows),
    }
    tell(round, told, floors={**FLOORS, "consistency": CONSISTENCY})
    return rated


def make_pairs(round: Round, rows: Sequence[Row], config: Config) -> list[Row]:
    """Best and worst answer of each prompt by the round's model alone, with how far the order is believed."""
    known = [row["consistency"] for row in rows if row.get("consistency") is not None]
    mean, pairs = statistics.fmean(known) if known else 1.0, []
    for row in rows:
        places = [
            place
            for place, reason in enumerate(row["finish_reasons"])
            if config.unfinished == "as is" or reason != "length"
        ]
        rewards = [row["reward"][place] for place in places]
        found = None if None in rewards or not rewards else best_and_worst(rewards)
        if found is None:
            continue
        chosen, rejected = (row["responses"][places[place]] for place in found)
        own = mean if row.get("consistency") is None else row["consistency"]
        believed = 1.0 if config.oracle else {"set": mean, "sample": own, "off": 1.0}[config.consistency]
        pair = {"id": row["id"], "prompt": row["prompt"], "chosen": chosen, "rejected": rejected}
        pairs.append({**pair, CONFIDENCE: believed})
    tell(round, {"without a pair": len(rows) - len(pairs)})
    return pairs

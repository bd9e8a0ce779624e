"""SPA: a few labelled pairs are spread over bare prompts; the model labels its own responses by its implicit reward.

Aligning Large Language Models with Self-generated Preference Data, later Spread Preference Annotation: Direct Preference
Judgment for Efficient LLM Alignment (arXiv 2406.04412).

    coalign run selfie --seed-data pairs.jsonl --prompts prompts.jsonl --model default

DPO on the seed pairs gives the model of round 1. In each round it answers fresh prompts twice, and of two responses the
one is chosen whose probability has grown more since the very start; there is no judge and no reward model. Nothing is
filtered out. Wrong labels are met in the loss: pairs that a guess at the model trained further doubts, by logits that go
on from the round's start model past the model in training, have their labels smoothed. How often the model labels rightly
is told in every round, on held-out seed pairs and, with `--measure`, on its own pairs; below one half it warns.

Differences from the official code. It never sets the extrapolation, so its recipe runs without; here the paper's
schedule is the default. The threshold of doubt is over single pairs, and over means of batches with `--margins-of
batches` (the recipe's batches have one pair). Every response is scored once, whatever their number; equal texts and
equal rewards make no pair. Learning rate, batch and length limits are the library's (recipe: 5e-7, 32, 2048).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any

from annotated_types import Ge

from coalign.core.errors import CoalignError
from coalign.core.options import Count, Fraction, NonNegative, Positive, option, required
from coalign.core.runs import Run
from coalign.data.records import Preference
from coalign.data.splits import split_records
from coalign.loops.labelling import Labelling, SeedStage, run_labelling
from coalign.loops.prompts import RoundOptions, open_values, read_prompts
from coalign.loops.readings import FLOORS, LABEL_ACCURACY, tell
from coalign.loops.report import write_rounds_report
from coalign.loops.rounds import Round
from coalign.loops.rows import Row
from coalign.loops.scoring import best_and_worst, implicit_rewards
from coalign.loops.seeds import SeedOptions, read_seed, seed_training
from coalign.models.files.places import short_name
from coalign.models.generation.sampling_options import SamplingOptions
from coalign.models.options import ModelOptions
from coalign.training.distributed.leading import led
from coalign.training.losses.pairwise import DPOConstants
from coalign.training.losses.self_refinement import Constants, Refinement
from coalign.training.objective import get_objective
from coalign.training.options import TrainingOptions

SEED_ACCURACY = "accuracy on held-out seed pairs"
ENOUGH = 20
"""Held-out seed pairs from which an accuracy below one half is warned about; of fewer it says too little."""


@dataclass(kw_only=True)
class Config(Refinement, RoundOptions, SeedOptions, ModelOptions, SamplingOptions, TrainingOptions):
    """Options of `coalign run selfie`."""

    __group__ = "Method"

    seed_data: str = required(  # pyright: ignore[reportIncompatibleVariableOverride]
        "labelled pairs to begin with: a file, a hub id or a saved dataset folder", group="Seed stage"
    )
    seed_epochs: Positive = option(3.0, "passes over them", source="official code", group="Seed stage")
    seed_held_out: Fraction | None = option(
        None,
        "share of them that is not trained on and tells how often the model labels rightly; by default a tenth where "
        "that makes 20 pairs, else none",
        group="Seed stage",
    )
    rounds: Count = option(3, "rounds, each with prompts of its own", source="paper", group="Rounds")
    samples: Annotated[int, Ge(2)] = option(
        2, "responses to every prompt; the best and the worst are a pair", source="paper, official code"
    )
    extrapolation: list[NonNegative] = option(
        [0.5, 0.25, 0.125],
        "lambda of each round, the last one also of later rounds; 0 judges doubt by the model itself",
        source="paper (the official recipe runs without)",
    )
    max_new_tokens: Count = option(
        300, "most tokens of one response", source="official code", group="Sampling"
    )
    temperature: NonNegative = option(0.7, "of the sampling", source="official code", group="Sampling")
    eval_fraction: Fraction = option(0.1, "share of the prompts held out", group="Evaluation")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.extrapolation:
            raise ValueError("extrapolation: names no round, expected at least one number (0 for none)")
        if self.temperature == 0:
            raise ValueError("temperature: 0 gives equal responses, expected more, such as 0.7")


@led
def run(config: Config, run: Run) -> None:
    """Train on the seed pairs, then rounds of answering, labelling and training; report.

    Raises:
        DataError: seed pairs or prompts that cannot be used.
        CoalignError: no prompt has two responses that differ.
    """
    loop = make_loop(config)
    write_rounds_report(
        run,
        loop,
        run_labelling(run, loop),
        title=f"Spread preferences on {short_name(config.model)}",
        facts={"Seed pairs": f"{len(loop.seed.records) if loop.seed else 0} ({config.seed_data})"},
        note="Label accuracy: own pairs whose order `--measure` confirms; on held-out seed pairs: those whose order the "
        "round's labelling model gets right. Margin: how sure it is. Longer chosen: pairs with the longer one chosen.",
        drawn=[LABEL_ACCURACY, SEED_ACCURACY, "longer chosen", "length"],
        charts=[
            ("doubtful", "Share of doubtful pairs"),
            ("rewards/judged_margins", "Margin of the judge of doubt"),
        ],
        units={SEED_ACCURACY: "percent", "longer chosen": "percent"},
        limitations=["The implicit reward sums over tokens, so it may come to favour longer responses."],
    )


def make_loop(config: Config) -> Labelling[Any]:
    """What SPA is to the loop engine: the implicit reward scores the responses, the best and the worst are learned."""
    pairs, known = read_seed_pairs(config)
    training, held_out = read_prompts(config)
    constants = {one.name: getattr(config, one.name) for one in dataclasses.fields(Refinement)}

    def labelled(round: Round, tasks: Sequence[Any], rows: Sequence[Row]) -> list[Row]:
        labelling = loop.policy(round.previous)

        def judged(name: str, those: Sequence[Row]) -> list[list[float | None]]:
            return implicit_rewards(round.folder, name, those, labelling, config, config, beta=config.beta)

        tell_accuracy(round, judged("seed-pairs", [_as_row(one) for one in known]))
        return [{**row, "rewards": one} for row, one in zip(rows, judged("responses", rows), strict=True)]

    def scheduled(round: Round) -> Constants:
        return Constants(**constants, extrapolation=config.extrapolation[: round.number][-1])

    loop: Labelling[Any] = Labelling(
        config=config,
        objective=get_objective("self_refinement"),
        constants=scheduled,
        training=training,
        held_out=held_out,
        evaluation=config.sampling(temperature=0.0),
        seed=SeedStage(
            objective=get_objective("dpo"),
            records=pairs,
            options=seed_training(config),
            constants=DPOConstants(beta=config.beta),
        ),
        samples=config.samples,
        fresh=True,
        per_round=config.prompts_per_round,
        score=labelled,
        assess=lambda round, tasks, rows: list(rows),
        pair=self_labelled_pairs,
        probe=open_values(config.measure, [*training, *held_out]),
        nothing=CoalignError(
            "No prompt has two responses that differ in text and implicit reward.",
            hint="Sample more responses (--samples), or at a higher temperature.",
        ),
    )
    return loop


def read_seed_pairs(config: Config) -> tuple[list[Preference], list[Preference]]:
    """(to train on, held out) pairs of the seed data.

    Raises:
        DataError: they cannot be read as pairs, or hold none that differ.
        ConfigError: a share of them cannot be held out.
    """
    pairs = [one for one in read_seed(config.seed_data, "preference") if isinstance(one, Preference)]
    share = config.seed_held_out
    if share is None:
        share = 0.1 if len(pairs) >= 10 * ENOUGH else 0.0
    return split_records(pairs, share, config.seed)


def tell_accuracy(round: Round, rewards: Sequence[Sequence[float | None]]) -> None:
    """Tell how often the chosen response of a seed pair, the first one, has the higher reward; a tie is no hit."""
    pairs = [(one[0], one[1]) for one in rewards]
    known = [(chosen, rejected) for chosen, rejected in pairs if chosen is not None and rejected is not None]
    if known:
        accuracy = fmean(chosen > rejected for chosen, rejected in known)
        floors = {SEED_ACCURACY: FLOORS[LABEL_ACCURACY]} if len(known) >= ENOUGH else {}
        tell(round, {SEED_ACCURACY: accuracy}, floors=floors)


def self_labelled_pairs(round: Round, rows: Sequence[Row]) -> list[Row]:
    """A pair of each row: the response with the highest reward chosen, with the lowest rejected. None where these have
    the same text or reward, or a text is empty.
    """
    pairs = [one for row in rows if (one := _pair(row)) is not None]
    lengths = [(row["chosen_tokens"], row["rejected_tokens"]) for row in pairs]
    longer = [a > b for a, b in lengths if a is not None and b is not None and a != b]
    margins = [one["chosen_reward"] - one["rejected_reward"] for one in pairs]
    means = {"reward margin": margins, "longer chosen": longer}
    told = {name: fmean(values) if values else None for name, values in means.items()}
    tell(round, {"without a pair": len(rows) - len(pairs), **told})
    return pairs


def _pair(row: Row) -> Row | None:
    usable = [
        (reward, text, tokens)
        for reward, text, tokens in zip(row["rewards"], row["responses"], row["tokens"], strict=True)
        if reward is not None and text.strip()
    ]
    found = best_and_worst([reward for reward, *_ in usable]) if usable else None
    if found is None:
        return None
    best, worst = (usable[place] for place in found)
    if best[1].strip() == worst[1].strip():
        return None
    pair: Row = {"id": row["id"], "prompt": row["prompt"]}
    for side, (reward, text, tokens) in (("chosen", best), ("rejected", worst)):
        pair |= {side: text, f"{side}_reward": reward, f"{side}_tokens": tokens}
    return pair


def _as_row(one: Preference) -> Row:
    return {"id": one.id, "prompt": one.prompt, "responses": [one.chosen, one.rejected]}

"""Reward-augmented data: tell the model which score its reply should reach, and train DPO as ever.

Reward-Augmented Data Enhances Direct Preference Alignment of LLMs (arXiv 2410.08067). Every pair with scores gives
two: under the goal of the better score the better response is preferred, under the goal of the worse score the other
one. The model learns the whole scale instead of unlearning good responses that happened to lose; at inference one
asks for the highest score.

    coalign run reward-augmented --data scored_pairs.jsonl --out runs/goals
    coalign chat runs/goals --method reward-augmented

The trained model answers for a score: `--method reward-augmented` puts the goal into every prompt (`coalign chat`,
`generate`, and `serve --align`), by default the highest of the scale that the model was trained with.

The loss is DPO with label smoothing (`cdpo`) on the conditioned prompts; the reference sees the same prompts.

Differences from the official code. Its script for templates without a system role does not swap the responses of the
second row, so that row contradicts its goal; here both placements follow the paper's rule. Pairs of equal scores or
equal responses are left out and counted (the code keeps them). The goal text has our own wording. Held-out pairs are
relabelled too, so that accuracies are measured under goals. Not offered: goals from implicit rewards, goals of
several attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from coalign.checks.arms import Measures, measure_arms, seconds_spent
from coalign.checks.real_text import read_prompts
from coalign.checks.rules import decide, mean_of, most_seeds, paired_gaps, values_of
from coalign.checks.system_arms.real_text_arms import (
    GOALS,
    SCALE,
    GoalText,
    goal_measures,
    goal_text,
    text_placement,
)
from coalign.checks.text_training import adapted
from coalign.checks.worlds.scored_world import ScoredPairs, base_arm, goal_arm, scored_pairs
from coalign.core.catalogue import get
from coalign.core.errors import DataError
from coalign.core.files import write_json
from coalign.core.options import Fraction, Positive, option
from coalign.core.runs import Run, is_main_process
from coalign.core.verdict import Verdict
from coalign.data.records import Preference, Ranking, Record
from coalign.models.files.loading import load_tokenizer
from coalign.models.methods import Method
from coalign.preference.data.goal_conditioning import Placement, Scale, goal_placement, goal_reward, relabel
from coalign.preference.data.goal_generation import GOAL_FILE, GoalOptions, goal_generator
from coalign.report.model import Text
from coalign.training.learning import LearningOptions, Material, learn, read_material
from coalign.training.losses.pairwise import CDPOConstants, DPOConstants
from coalign.training.objective import get_objective

OBJECTIVE = "cdpo"
"""The objective that is trained on the relabelled pairs."""


@dataclass(kw_only=True)
class RewardAugmentedConstants(CDPOConstants):
    """DPO's constants in the official recipes."""

    __group__ = "Objective"

    beta: Positive = option(0.01, "inverse temperature of the implicit reward", source="official recipes")
    label_smoothing: Fraction = option(
        0.0,
        "assumed share of swapped labels, below 0.5; the recipes for Qwen2 and Gemma-2 take 0.3",
        source="official recipes (Mistral)",
    )


@dataclass(kw_only=True)
class Config(RewardAugmentedConstants, LearningOptions):
    """Options of `coalign run reward-augmented`."""

    __group__ = "Method"

    lowest: float = option(
        1.0, "lower end of the scores' scale, named in every goal", source="paper: UltraFeedback"
    )
    highest: float = option(10.0, "upper end, the goal at inference", source="paper: UltraFeedback")
    rescale: bool = option(False, "map the scores of each file on that scale, to one decimal")
    share: Positive = option(
        1.0, "share of the pairs that is used; 0.5 is the paper's Half-RA", source="paper"
    )
    ratings: str | None = option(
        None, "column of further ratings, one entry a response; pairs that contradict them are left out"
    )
    placement: Literal["auto", "system", "user"] = option(
        "auto", "where the goal stands; auto: the system message where the chat template shows one"
    )

    def __post_init__(self) -> None:
        RewardAugmentedConstants.__post_init__(self)
        LearningOptions.__post_init__(self)
        if self.share > 1:
            raise ValueError(f"share: {self.share} is not usable, expected at most 1")
        Scale(self.lowest, self.highest)


def run(config: Config, run: Run) -> None:
    """Relabel pairs with scores and train DPO under goals; the report says how to ask for the best replies.

    Raises:
        DataError: scores are missing or off the scale, or no pair has two different ones.
    """
    material = read_material(config, "preference", run, also=["ranking"])
    tokenizer = load_tokenizer(
        config.model, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    placement: Placement = goal_placement(tokenizer) if config.placement == "auto" else config.placement
    scale = Scale(config.lowest, config.highest)
    notes = list(material.notes)
    everything = [
        one for one in (*material.training, *material.held_out) if isinstance(one, Preference | Ranking)
    ]

    def relabelled(records: Sequence[Record], name: str, share: float) -> list[Record]:
        found = relabel(
            [one for one in records if isinstance(one, Preference | Ranking)],
            scale=scale,
            placement=placement,
            share=share,
            ratings=config.ratings,
            rescale=config.rescale,
            range_from=everything,
            seed=config.seed,
        )
        left_out = {key: value for key, value in asdict(found).items() if key != "records" and value}
        text = f"{len(found.records)} score-conditioned pairs from {len(records)} {name} records"
        text += "".join(f"; {value} left out: {_LEFT_OUT[key]}" for key, value in left_out.items())
        notes.append(text)
        return [*found.records]

    training = relabelled(material.training, "training", config.share)
    if not training:
        raise DataError(
            f"{config.data}: no pair with two different scores is left to train on.", hint=f"{notes[-1]}."
        )
    held_out = relabelled(material.held_out, "held-out", 1.0) if material.held_out else []
    goal = {
        "placement": placement,
        **asdict(scale),
        "goal": scale.highest,
        "text": scale.goal_text(scale.highest),
    }
    if is_main_process():
        write_json(run.artefacts / GOAL_FILE, goal)
    warning = (
        f"Trained on goals from {scale.lowest:g} to {scale.highest:g} in the {placement} message; without one the "
        f"model is off its training distribution. Begin the {placement} message with this text:"
    )
    learn(
        config,
        get_objective(OBJECTIVE),
        run,
        material=Material(training, held_out, notes),
        sections=[_how_to_ask(goal, run)],
        limitations=[warning, str(goal["text"])],
    )
    if is_main_process():
        write_json(run.model / GOAL_FILE, goal)


_LEFT_OUT = {
    "ties": "equal scores",
    "identical": "equal responses",
    "inconsistent": "ratings that contradict the scores",
    "unused": "beyond --share",
}


def _how_to_ask(goal: dict[str, object], run: Run) -> Text:
    where = "as the system message" if goal["placement"] == "system" else "before the user's first message"
    told = (
        f"The model writes for a score. `coalign chat {run.path} --method reward-augmented` asks for the highest, "
        "and so do `coalign generate` and `coalign serve --align reward-augmented`; the option `goal` asks for "
        f"another one. Other programs put this text {where}:"
    )
    return Text(
        title="How to ask for the best replies",
        paragraphs=[
            told,
            str(goal["text"]),
        ],
    )


METHOD = Method(
    "reward-augmented",
    "ask a model that was trained on scores for the highest one",
    GoalOptions,
    wrap=goal_generator,
)


def check(run: Run, *, seeds: int = 5, data: Path | None = None) -> Verdict:
    """Under goals good rejected replies are unlearned less than by DPO, and quality follows the goal, in a world of
    scored replies.

    With `data`, prompts in real text: the same two measures on replies of the default model that a program scores.
    """
    if data is not None:
        return _check_on_text(run, seeds, data)
    dpo = get_objective("dpo")
    plain, longer, relabelled, half = (
        "DPO",
        "DPO, as many steps",
        "reward-augmented",
        "reward-augmented, half",
    )
    constants = DPOConstants(beta=0.1)
    arms: dict[str, Callable[[ScoredPairs], Measures]] = {
        "base": base_arm,
        plain: goal_arm(dpo, constants, None),
        longer: goal_arm(dpo, constants, None, epochs=6),
        relabelled: goal_arm(dpo, constants, goal_reward),
        half: goal_arm(dpo, constants, goal_reward, share=0.5),
    }
    rows = measure_arms(run, seeds=seeds, prepare=scored_pairs, arms=arms)
    change = "good rejected, change"
    over_plain, over_longer = (paired_gaps(rows, change, relabelled, arm) for arm in (plain, longer))
    kept = {seed: over_plain[seed] > 0 and over_longer[seed] > 0 for seed in over_plain}
    rise = _of_goals(rows, relabelled, (4, 5)) - _of_goals(rows, relabelled, (0, 2))
    return Verdict(
        slug="reward-augmented",
        outcome=decide(seen=most_seeds(kept) and rise >= 0.1),
        claim=get("reward-augmented").claim,
        rule="Seen: in at least 4 of 5 seeds the log-probability of rejected replies of score 4 or more falls less from "
        "the base model than under DPO, also under DPO with as many steps, the relabelled model asked for the highest "
        "score; and the mean quality of its samples rises by 0.1 or more from goals 0 and 2 to goals 4 and 5. Otherwise "
        "not seen. Quality at the highest goal against DPO's has no part in it.",
        setting="Classes and replies of eight symbols, true scores 0 to 6: GRU of 2 layers and width 96, 12,000 rows, half "
        "under a score up to 2 off. 1500 pairs of its own samples with true scores; 3 epochs of batches of 32, Adam 1e-3, "
        "beta 0.1. 300 prompts, 2 samples each at temperature 1.",
        measures=rows,
        summary={
            "seeds in which good rejected replies fall less": sum(kept.values()),
            "change, reward-augmented - DPO": mean_of(over_plain),
            "change, reward-augmented - DPO, as many steps": mean_of(over_longer),
            "quality, goals 4 and 5 - goals 0 and 2": rise,
            "quality, reward-augmented at goal 6 - DPO": _of_goals(rows, relabelled, (6,))
            - mean_of(values_of(rows, "quality, no goal", plain)),
            "quality, reward-augmented at goal 5 - DPO": _of_goals(rows, relabelled, (5,))
            - mean_of(values_of(rows, "quality, no goal", plain)),
        },
        tried=[_tried(rows, relabelled, (plain, longer))],
        seconds=seconds_spent(run),
    )


def _tried(rows: Sequence[dict[str, Any]], arm: str, against: tuple[str, str]) -> str:
    """The first measure under goal 5 in place of 6, in words."""
    under_5 = values_of(rows, "good rejected, change, goal 5", arm)
    others = [values_of(rows, "good rejected, change", one) for one in against]
    kept = sum(all(under_5[seed] > one[seed] for one in others) for seed in under_5)
    gaps = [mean_of(under_5) - mean_of(one) for one in others]
    return (
        "Asked for score 5 in place of 6: good rejected replies fall less than under both trainings of DPO in "
        f"{kept} of {len(under_5)} seeds; change, reward-augmented - DPO {gaps[0]:+.3f}, reward-augmented - DPO, as many "
        f"steps {gaps[1]:+.3f}."
    )


def _of_goals(rows: Sequence[dict[str, Any]], arm: str, goals: Sequence[int]) -> float:
    """Mean quality of an arm's samples over some goals and all seeds."""
    return fmean(mean_of(values_of(rows, f"quality, goal {goal}", arm)) for goal in goals)


def _check_on_text(run: Run, seeds: int, data: Path) -> Verdict:
    prompts = read_prompts(data)
    dpo, constants = get_objective("dpo"), DPOConstants(beta=0.1)

    def plain(material: GoalText, passes: int) -> Measures:
        steps = passes * len(material.pairs)
        model = adapted(material.pairs, dpo, constants, steps=steps, seed=material.seed)
        return goal_measures(material, model, None)

    def under_goals(material: GoalText) -> Measures:
        rows = relabel(material.pairs, scale=SCALE, placement=text_placement()).records
        model = adapted(rows, dpo, constants, steps=len(rows), seed=material.seed)
        return goal_measures(material, model, SCALE.highest)

    arms: dict[str, Callable[[GoalText], Measures]] = {
        "default model": lambda material: goal_measures(material, None, SCALE.highest),
        "DPO": lambda material: plain(material, 1),
        "DPO, as many steps": lambda material: plain(material, 2),
        "reward-augmented": under_goals,
    }
    rows = measure_arms(run, seeds=seeds, prepare=partial(goal_text, prompts), arms=arms)
    over_plain, over_longer = (
        paired_gaps(rows, "good rejected, change", "reward-augmented", arm)
        for arm in ("DPO", "DPO, as many steps")
    )
    kept = {seed: over_plain[seed] > 0 and over_longer[seed] > 0 for seed in over_plain}
    low, high = (values_of(rows, f"score, goal {goal}", "reward-augmented") for goal in GOALS)
    rise = mean_of(high) - mean_of(low)
    return Verdict(
        slug="reward-augmented",
        outcome=decide(seen=most_seeds(kept) and rise >= 0.9),
        claim=get("reward-augmented").claim,
        rule="Seen: in at least 4 of 5 seeds (of 3: all) the log-probability of good rejected replies falls less from the "
        "default model than under DPO, also under DPO with as many steps, the relabelled model asked for score 10; and the "
        "mean score of its samples rises by 0.9, a tenth of the scale, or more from goal 2 to goal 9. Otherwise not seen.",
        setting=f"{data.name}: 24 prompts a seed of at most 64 tokens, two replies of 32 tokens to each by the default "
        "model; a program scores them from 1 to 10 by the letters of a word on average, short words high; pairs of "
        "different scores. Good: a rejected reply at or above the median of the rejected ones. One pass of one row a step, "
        "adapter of rank 16, Adam 3e-4, beta 0.1; two samples a prompt and goal.",
        measures=rows,
        summary={
            "seeds in which good rejected replies fall less": sum(kept.values()),
            "change, reward-augmented - DPO": mean_of(over_plain),
            "change, reward-augmented - DPO, as many steps": mean_of(over_longer),
            "score, goal 9 - goal 2": rise,
            "score, goal 9 - goal 2, default model": mean_of(
                values_of(rows, "score, goal 9", "default model")
            )
            - mean_of(values_of(rows, "score, goal 2", "default model")),
        },
        seconds=seconds_spent(run),
    )

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

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Le

from coalign.core.errors import DataError
from coalign.core.files import write_json
from coalign.core.options import Positive, option
from coalign.core.runs import Run, is_main_process
from coalign.data.records import Preference, Ranking, Record
from coalign.data.sources import named
from coalign.models.files.loading import load_tokenizer
from coalign.models.methods import Method
from coalign.preference.data.goal_conditioning import Placement, Scale, goal_placement, relabel
from coalign.preference.data.goal_generation import GOAL_FILE, GoalOptions, goal_generator
from coalign.report.model import Text
from coalign.training.learning import learn
from coalign.training.losses.pairwise import CDPOConstants, Smoothing
from coalign.training.material import Material, ObjectiveOptions, read_material
from coalign.training.objective import get_objective

OBJECTIVE = "cdpo"
"""The objective that is trained on the relabelled pairs."""


@dataclass(kw_only=True)
class RewardAugmentedConstants(CDPOConstants):
    """DPO's constants in the official recipes."""

    __group__ = "Objective"

    beta: Positive = option(0.01, "inverse temperature of the implicit reward", source="official recipes")
    label_smoothing: Smoothing = option(
        0.0,
        "assumed share of swapped labels, below 0.5; the recipes for Qwen2 and Gemma-2 take 0.3",
        source="official recipes (Mistral)",
    )


@dataclass(kw_only=True)
class Config(RewardAugmentedConstants, ObjectiveOptions):
    """Options of `coalign run reward-augmented`."""

    __group__ = "Method"

    lowest: float = option(
        1.0, "lower end of the scores' scale, named in every goal", source="paper: UltraFeedback"
    )
    highest: float = option(10.0, "upper end, the goal at inference", source="paper: UltraFeedback")
    rescale: bool = option(False, "map the scores of each source on that scale, to one decimal")
    share: Annotated[float, Gt(0), Le(1)] = option(
        1.0, "share of the pairs that is used; 0.5 is the paper's Half-RA", source="paper"
    )
    ratings: str | None = option(
        None, "column of further ratings, one entry a response; pairs that contradict them are left out"
    )
    placement: Literal["auto", "system", "user"] = option(
        "auto", "where the goal stands; auto: the system message where the chat template shows one"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        Scale(self.lowest, self.highest)


def run(config: Config, run: Run) -> None:
    """Relabel pairs with scores and train DPO under goals; the report says how to ask for the best replies.

    Raises:
        DataError: scores are missing or off the scale, or no pair has two different ones.
    """
    material = read_material(config, "preference", run, also=["ranking"])
    tokenizer = load_tokenizer(config)
    placement: Placement = goal_placement(tokenizer) if config.placement == "auto" else config.placement
    scale = Scale(config.lowest, config.highest)
    notes = list(material.notes)

    def scored(records: Sequence[Record]) -> list[Preference | Ranking]:
        return [one for one in records if isinstance(one, Preference | Ranking)]

    def relabelled(records: Sequence[Record], name: str, share: float) -> list[Record]:
        found = relabel(
            scored(records),
            scale=scale,
            placement=placement,
            share=share,
            ratings=config.ratings,
            rescale=config.rescale,
            range_from=scored([*material.training, *material.held_out]),
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
            f"{named(config.data)}: no pair with two different scores is left to train on.",
            hint=f"{notes[-1]}.",
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
    return Text("How to ask for the best replies", paragraphs=[told, str(goal["text"])])


METHOD = Method(
    "reward-augmented",
    "ask a model that was trained on scores for the highest one",
    GoalOptions,
    wrap=goal_generator,
)

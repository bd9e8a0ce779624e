"""Check of `wildfeedback`: users' reactions, found by a small detector, as labels of the replies before them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from coalign.checks.arms import Measures, keep_items, kept_items, measure_arms
from coalign.checks.rules import decide, most_seeds
from coalign.checks.steps import example, reference_logps, trained
from coalign.checks.tiny_models import stream
from coalign.checks.worlds.replies import reactions
from coalign.checks.worlds.replies.reactions import HELD_OUT, ReactionWorld, Turn
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.curation.feedback.detector import LABELS, Label, fit_detector
from coalign.curation.feedback.signals import Signal, locate
from coalign.measures.agreement import cohen_kappa
from coalign.measures.statistics import paired_bootstrap
from coalign.training.losses.pairwise import DPOConstants
from coalign.training.objective import get_objective

PAIRS, STEPS, BATCH, TESTED = 160, 200, 16, 300
OURS, BASE, GENERIC, SHIFTED = "users' reactions", "base", "longer is better", "shifted by one turn"
Labelled = Callable[["Material", Turn, tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]
"""Of a turn and a rewritten reply the chosen and the rejected one."""


@dataclass(frozen=True)
class Material:
    """What the arms of a seed share.

    Attributes:
        signals: `[dialogues][turns]` what the detector says of the turn that follows each reply.
        kappa: of the detector with the truth, on sentences that it did not learn from.
    """

    world: ReactionWorld
    signals: list[list[Signal]]
    kappa: float


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Reactions of users, mined by the rule that a turn judges the reply before it, teach what they want.

    Rule:
        Seen: in every seed the detector's kappa on held-out sentences is 0.5 or more; the share of replies in the wanted
        manner is above that of the base model and that of the generic judge by 0.05 or more in the mean, with a paired
        bootstrap over requests at p < 0.05 against both in at least two thirds of the seeds; and it is above that of the
        rule shifted by one turn in the mean. Otherwise not seen.

    Setting:
        400 dialogues of three turns; users want one of 5 manners, a cue of which stands in every request beside one of 8
        topics. The logged assistant meets the wish in 40 % of its replies and mends 80 % after a complaint. Reactions are
        sentences, 16 satisfied, 16 dissatisfied and 16 new questions (30 % of the turns, whatever the reply); the detector,
        two logistic regressions over sentence embeddings, learns from 12 of each. Pairs: 160 replies that drew
        dissatisfaction, each against a reply in the wanted manner. Generic judge: the same pairs, the longer one chosen.
        Shifted: the reply after the reaction is taken for the judged one. GRU of 1 layer and width 96, trained on 6,000
        replies like the logged ones (500 steps of 64, Adam 3e-3); DPO, beta 0.1, 200 steps of 16 pairs, Adam 3e-4. 300 new
        requests, 2 samples each.
    """
    arms = {
        BASE: partial(_base, run),
        OURS: partial(_tuned, run, OURS, 0, _as_reacted),
        GENERIC: partial(_tuned, run, GENERIC, 0, _by_length),
        SHIFTED: partial(_tuned, run, SHIFTED, 1, _as_reacted),
    }
    rows = measure_arms(run, seeds=seeds, prepare=prepare, arms=arms)
    kept = {arm: kept_items(run, arm, seeds) for arm in arms}
    gains = {arm: rows.gap("met", OURS, arm) for arm in (BASE, GENERIC, SHIFTED)}
    clear = {
        seed: all(_p(kept[arm][seed]["met"], kept[OURS][seed]["met"]) < 0.05 for arm in (BASE, GENERIC))
        for seed in range(seeds)
    }
    kappas = rows.values("kappa", BASE)
    seen = min(kappas.values()) >= 0.5 and min(gains[BASE], gains[GENERIC]) >= 0.05 and gains[SHIFTED] > 0
    return rows.verdict(
        check,
        outcome=decide(seen=seen and most_seeds(clear, "2/3")),
        summary={
            **{f"in the wanted manner, {arm}": rows.mean("met", arm) for arm in arms},
            **{f"gain over {arm}": gain for arm, gain in gains.items()},
            "kappa of the detector, lowest seed": min(kappas.values()),
            "seeds with p < 0.05 against both": sum(clear.values()),
            "pairs with a reply that was fine, shifted": rows.mean("fine", SHIFTED),
            "pairs with a reply that was fine": rows.mean("fine", OURS),
        },
    )


def prepare(seed: int) -> Material:
    """The world, a detector that was trained on some sentences, and what it says of all."""
    world = reactions.make_reaction_world(seed)
    embedded = reactions.sentence_embeddings()
    learned = {kind: world.order[kind][:-HELD_OUT] for kind in LABELS}
    vectors = torch.cat([embedded[kind][learned[kind]] for kind in LABELS])
    labels: list[Label] = [kind for kind in LABELS for _ in learned[kind]]
    detector = fit_detector(vectors, labels)
    said = {kind: detector.signals(embedded[kind]) for kind in LABELS}
    turns = [one for dialogue in world.dialogues for one in dialogue]
    held = [one for one in turns if one.sentence in world.order[one.reaction][-HELD_OUT:]]
    names = {"unclear": "none"}
    found = [said[one.reaction][one.sentence].polarity for one in held]
    kappa = cohen_kappa(
        [names.get(str(one), str(one)) for one in found], [one.reaction for one in held], resamples=1
    )
    signals = [[said[one.reaction][one.sentence] for one in dialogue] for dialogue in world.dialogues]
    return Material(world, signals, kappa.mean)


def mined(material: Material, shift: int) -> list[Turn]:
    """The turns whose reply drew dissatisfaction, as the system locates them.

    Args:
        shift: 1 takes the reply after the reaction for the judged one.
    """
    found = []
    for turns, signals in zip(material.world.dialogues, material.signals, strict=True):
        # The user's turn k + 1 reacts to the reply of turn k; the texts are places, to be found again.
        spoken: Any = [
            {"role": role, "content": str(k)} for k in range(len(turns)) for role in ("user", "assistant")
        ]
        spoken.append({"role": "user", "content": "the last reaction"})
        for one in locate(spoken, [None, *signals]):
            place = int(one.judged) + shift
            if one.polarity == "dsat" and place < len(turns):
                found.append(turns[place])
    return found


def _as_reacted(
    material: Material, turn: Turn, rewritten: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return rewritten, turn.reply


def _by_length(
    material: Material, turn: Turn, rewritten: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    longer = len(rewritten) >= len(turn.reply)
    return (rewritten, turn.reply) if longer else (turn.reply, rewritten)


def _base(run: Run, material: Material) -> Measures:
    return {**_measured(run, BASE, material, material.world.base), "kappa": material.kappa, "fine": 0.0}


def _tuned(run: Run, arm: str, shift: int, label: Labelled, material: Material) -> Measures:
    """DPO on the pairs that were mined, labelled in a way."""
    world = material.world
    draw = stream(world.seed, "rewrites")
    turns = mined(material, shift)
    turns = [turns[place] for place in torch.randperm(len(turns), generator=draw).tolist()][:PAIRS]
    pairs = [label(material, one, reactions.compliant(one.prompt, draw)) for one in turns]
    examples = [
        example(one.prompt, [chosen, rejected], [1.0, 0.0])
        for one, (chosen, rejected) in zip(turns, pairs, strict=True)
    ]
    model = trained(
        world.base,
        examples,
        get_objective("dpo"),
        DPOConstants(beta=0.1),
        steps=STEPS,
        batch_size=BATCH,
        learning_rate=3e-4,
        generator=stream(world.seed, "order"),
        reference=reference_logps(world.base, examples),
    )
    fine = sum(reactions.meets(one.reply, one.prompt) for one in turns) / len(turns)
    return {**_measured(run, arm, material, model), "kappa": material.kappa, "fine": fine}


def _measured(run: Run, arm: str, material: Material, model: torch.nn.Module) -> Measures:
    world = material.world
    met = world.met(model, world.prompts(TESTED, "test requests"))
    keep_items(run, arm, world.seed, met=met)
    return {"met": sum(met) / len(met)}


def _p(before: list[float], after: list[float]) -> float:
    p_value = paired_bootstrap(before, after).p_value
    assert p_value is not None
    return p_value

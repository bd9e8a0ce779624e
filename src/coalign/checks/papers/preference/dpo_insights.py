"""Desk-scale check of `dpo-insights`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from coalign.checks.arms import Measures, measure_arms, seconds_spent
from coalign.checks.rules import decide, mean_of, paired_gaps
from coalign.checks.steps import example, prepared
from coalign.checks.worlds.preference_world import (
    PreferenceWorld,
    Start,
    start_with,
    training_arm,
    untrained_arm,
)
from coalign.core.catalogue import get
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.training.losses.binary import KTOConstants
from coalign.training.losses.pairwise import CPOConstants, DPOConstants, IPOConstants
from coalign.training.objective import get_objective


@dataclass(frozen=True)
class Starts:
    """What the check's arms of a seed share: records of the fine-tuned model, and the two models they are learned by."""

    tuned: Start
    undertrained: Start


CHECKED_SIZES = FEW, MIDDLE, MANY = (300, 1200, 3600)


EPOCHS = 3


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Gains shrink with more pairs, and a fine-tuned start ends higher than one that learned little, in a world of
    copying."""
    methods = {
        "DPO": ("dpo", DPOConstants(beta=0.1)),
        "IPO": ("ipo", IPOConstants(tau=0.5, length_normalised=True)),
        "KTO": ("kto", KTOConstants(beta=0.1)),
        "CPO": ("cpo", CPOConstants(beta=0.1, nll_reduction="mean")),
    }
    arms: dict[str, Callable[[Starts], Measures]] = {
        "SFT": lambda starts: untrained_arm(starts.tuned),
        "undertrained": lambda starts: untrained_arm(starts.undertrained),
    }
    for method, (name, constants) in methods.items():
        for size in CHECKED_SIZES:
            arms[f"{method} {size}"] = _learned("tuned", name, constants, size)
        arms[f"{method} 1200, undertrained"] = _learned("undertrained", name, constants, 1200)
    rows = measure_arms(run, seeds=seeds, prepare=_starts, arms=arms)

    def gain(method: str, fewer: int, more: int) -> float:
        return mean_of(paired_gaps(rows, "gold", f"{method} {more}", f"{method} {fewer}"))

    early = {method: gain(method, 300, 1200) for method in methods}
    late = {method: gain(method, 1200, 3600) for method in methods}
    above = {
        method: mean_of(paired_gaps(rows, "gold", f"{method} 1200", f"{method} 1200, undertrained"))
        for method in methods
    }
    flatter = sum(late[method] < early[method] for method in methods)
    higher = sum(gap > 0 for gap in above.values())
    return Verdict(
        slug="dpo-insights",
        outcome=decide(seen=flatter >= 3 and higher >= 3),
        claim=get("dpo-insights").claim,
        rule="Seen: in the mean over seeds, for at least 3 of the 4 methods gold rises less from 1200 to 3600 pairs than "
        "from 300 to 1200, and for at least 3 of the 4 it is higher at 1200 pairs from the fine-tuned start than from the "
        "undertrained one. Otherwise not seen. Truthfulness and reasoning have no counterpart here.",
        setting="Copying letters: transformer of 2 layers and width 48, fine-tuned for 700 steps or undertrained for 120. "
        "Pairs of the fine-tuned model's samples labelled by gold with noise, for both; 3 epochs in steps of 32 pairs (64 "
        "responses for KTO), Adam 1e-3. DPO, KTO: beta 0.1; IPO: averaged, tau 0.5; CPO: beta 0.1, averaged likelihood. "
        "400 fresh prompts, 4 samples each.",
        measures=rows,
        summary={
            "methods with smaller gains later": flatter,
            "methods higher from the fine-tuned start": higher,
            **{f"gain from 300 to 1200, {method}": one for method, one in early.items()},
            **{f"gain from 1200 to 3600, {method}": one for method, one in late.items()},
            **{f"fine-tuned - undertrained, {method}": one for method, one in above.items()},
        },
        seconds=seconds_spent(run),
    )


def _starts(seed: int) -> Starts:
    world = PreferenceWorld(seed)
    base, undertrained = world.base_model(), world.base_model(steps=120)
    pairs = world.candidates(base, max(CHECKED_SIZES), samples=2).pairs()
    panels = {f"preference {size}": pairs[:size] for size in CHECKED_SIZES}
    for size in CHECKED_SIZES:
        thumbs = [
            example(record.prompt_ids, [ids], [value])
            for record in (one.contexts[0] for one in pairs[:size])
            for ids, value in zip(record.response_ids, record.values, strict=True)
        ]
        panels[f"feedback {size}"] = prepared(thumbs, get_objective("kto"))
    half = {name: panels[name] for name in (f"preference {MIDDLE}", f"feedback {MIDDLE}")}
    return Starts(
        start_with(world, base, panels, compared=panels), start_with(world, undertrained, half, compared=half)
    )


def _learned(
    start: Literal["tuned", "undertrained"], name: str, constants: Any, size: int
) -> Callable[[Starts], Measures]:
    """An arm: three passes over so many pairs."""
    objective = get_objective(name)
    arm = training_arm(
        objective,
        constants,
        f"{objective.data} {size}",
        steps=EPOCHS * size // 32,
        batch_size=64 if objective.data == "feedback" else 32,
        learning_rate=1e-3,
    )
    return lambda starts: arm(getattr(starts, start))

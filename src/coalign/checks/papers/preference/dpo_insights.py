"""Check of `dpo-insights`: gains by number of pairs and by starting model, in the world of copying."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from coalign.checks.arms import Arm, Measures, measure_arms
from coalign.checks.rules import decide
from coalign.checks.starts import Start, start_with, training_arm, untrained_arm
from coalign.checks.steps import example, prepared
from coalign.checks.worlds.copying.copying import CopyingWorld
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.training.losses.binary import KTOConstants
from coalign.training.losses.pairwise import CPOConstants, DPOConstants, IPOConstants
from coalign.training.objective import get_objective

SIZES = FEW, MIDDLE, MANY = (300, 1200, 3600)
EPOCHS = 3


@dataclass(frozen=True)
class Starts:
    """What the check's arms of a seed share: records of the fine-tuned model, and the two models they are learned by."""

    tuned: Start[CopyingWorld]
    undertrained: Start[CopyingWorld]


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Gains shrink with more pairs, and a fine-tuned start ends higher than one that learned little, in a world of
    copying.

    Rule:
        Seen: in the mean over seeds, for at least 3 of the 4 methods gold rises less from 1200 to 3600 pairs than from
        300 to 1200, and for at least 3 of the 4 it is higher at 1200 pairs from the fine-tuned start than from the
        undertrained one. Otherwise not seen. Truthfulness and reasoning have no counterpart here.

    Setting:
        Copying letters: transformer of 2 layers and width 48, fine-tuned for 700 steps or undertrained for 120. Pairs
        of the fine-tuned model's samples labelled by gold with noise, for both; 3 epochs in steps of 32 pairs (64
        responses for KTO), Adam 1e-3. DPO, KTO: beta 0.1; IPO: averaged, tau 0.5; CPO: beta 0.1, averaged likelihood.
        400 fresh prompts, 4 samples each.
    """
    methods = {
        "DPO": ("dpo", DPOConstants(beta=0.1)),
        "IPO": ("ipo", IPOConstants(tau=0.5, length_normalised=True)),
        "KTO": ("kto", KTOConstants(beta=0.1)),
        "CPO": ("cpo", CPOConstants(beta=0.1, nll_reduction="mean")),
    }
    arms: dict[str, Arm[Starts]] = {
        "SFT": lambda starts: untrained_arm(starts.tuned),
        "undertrained": lambda starts: untrained_arm(starts.undertrained),
    }
    for method, (name, constants) in methods.items():
        for size in SIZES:
            arms[f"{method} {size}"] = _learned("tuned", name, constants, size)
        arms[f"{method} 1200, undertrained"] = _learned("undertrained", name, constants, MIDDLE)
    rows = measure_arms(run, seeds=seeds, prepare=_starts, arms=arms)
    early = {one: rows.gap("gold", f"{one} {MIDDLE}", f"{one} {FEW}") for one in methods}
    late = {one: rows.gap("gold", f"{one} {MANY}", f"{one} {MIDDLE}") for one in methods}
    above = {method: rows.gap("gold", f"{method} 1200", f"{method} 1200, undertrained") for method in methods}
    flatter = sum(late[method] < early[method] for method in methods)
    higher = sum(gap > 0 for gap in above.values())
    return rows.verdict(
        check,
        outcome=decide(seen=flatter >= 3 and higher >= 3),
        summary={
            "methods with smaller gains later": flatter,
            "methods higher from the fine-tuned start": higher,
            **{f"gain from 300 to 1200, {method}": one for method, one in early.items()},
            **{f"gain from 1200 to 3600, {method}": one for method, one in late.items()},
            **{f"fine-tuned - undertrained, {method}": one for method, one in above.items()},
        },
    )


def _starts(seed: int) -> Starts:
    world, kto = CopyingWorld(seed), get_objective("kto")
    base, undertrained = world.base_model(), world.base_model(steps=120)
    pairs = world.candidates(base, max(SIZES), samples=2).pairs()
    panels = {f"preference {size}": pairs[:size] for size in SIZES}
    for size in SIZES:
        thumbs = [
            example(record.prompt_ids, [ids], [value])
            for record in (one.contexts[0] for one in pairs[:size])
            for ids, value in zip(record.response_ids, record.values, strict=True)
        ]
        panels[f"feedback {size}"] = prepared(thumbs, kto)
    half = {name: panels[name] for name in (f"preference {MIDDLE}", f"feedback {MIDDLE}")}
    return Starts(
        start_with(world, base, panels, compared=panels), start_with(world, undertrained, half, compared=half)
    )


def _learned(
    start: Literal["tuned", "undertrained"], name: str, constants: Any, size: int
) -> Callable[[Starts], Measures]:
    """An arm: three passes over so many pairs."""
    objective = get_objective(name)
    batch_size = 64 if objective.data == "feedback" else 32
    panel = f"{objective.data} {size}"
    arm = training_arm(objective, constants, panel, epochs=EPOCHS, batch_size=batch_size, learning_rate=1e-3)
    return lambda starts: arm(getattr(starts, start))

"""Check of `coprompt`: accuracy on classes that were not tuned for, over drawn objects."""

from __future__ import annotations

from coalign.checks.arms import measure_arms
from coalign.checks.rules import decide, mean_of, most_seeds
from coalign.checks.worlds.drawn.few_shot import FewShotWorld, few_shot_world, tuned, zero_shot
from coalign.checks.worlds.drawn.scene import SHIFTED
from coalign.core.runs import Run
from coalign.core.verdict import Verdict

ZERO, MAPLE, OURS, WEAKER = "zero-shot", "prompts alone (MaPLe)", "CoPrompt, weight 8", "CoPrompt, weight 2"
OTHERS = {
    "shots without coincidence": {"coincidence": False},
    "shifted style, 16 shots": {"style": SHIFTED[1], "shots": 16},
}
"""Settings reported beside the one that decides."""


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Consistency with the frozen model keeps few-shot prompts good on classes that they were not tuned for.

    Rule:
        Seen: novel accuracy of CoPrompt (weight 8) is above that of prompts alone by 2 points or more on the mean, in at
        least 4 of 5 seeds at all, and its mean harmonic mean is at least theirs. Not seen: otherwise.

    Setting:
        The small CLIP of the drawn world; 48 classes, colour and shape, of which four random colours are base and four
        novel; 4 shots of each base class in which place and size are a function of the class; 20 test pictures a class
        in which they are free. 2 prompt vectors in 3 layers, adapters; 250 steps of 16, SGD 0.05 with momentum 0.9 and a
        cosine. Both views of a shot are moved by up to 2 pixels, 10 % brighter or darker, with noise 0.05; descriptions
        are five captions. Reported besides: weight 2, zero-shot, and two settings in which a prototype did not
        see the effect (shots without coincidence; a shifted style common to all classes, with 16 shots).
    """

    def prepare(seed: int) -> dict[str, FewShotWorld]:
        return {"": few_shot_world(seed)} | {
            name: few_shot_world(seed, **how) for name, how in OTHERS.items()
        }  # type: ignore[arg-type]

    arms = {
        ZERO: lambda worlds: zero_shot(worlds[""]),
        MAPLE: lambda worlds: tuned(worlds[""], weight=0.0, adapters=False),
        OURS: lambda worlds: tuned(worlds[""], weight=8.0, adapters=True),
        WEAKER: lambda worlds: tuned(worlds[""], weight=2.0, adapters=True),
    }
    for name in OTHERS:
        arms |= {
            f"{ZERO}, {name}": lambda worlds, at=name: zero_shot(worlds[at]),
            f"{MAPLE}, {name}": lambda worlds, at=name: tuned(worlds[at], weight=0.0, adapters=False),
            f"{OURS}, {name}": lambda worlds, at=name: tuned(worlds[at], weight=8.0, adapters=True),
        }
    rows = measure_arms(run, seeds=seeds, prepare=prepare, arms=arms)
    gains = rows.gaps("novel accuracy", OURS, MAPLE)
    mean = rows.gap("harmonic mean", OURS, MAPLE)
    won = {seed: gain > 0 for seed, gain in gains.items()}
    return rows.verdict(
        check,
        outcome=decide(seen=mean_of(gains) >= 0.02 and most_seeds(won) and mean >= 0),
        summary={
            "novel accuracy, CoPrompt - prompts alone": mean_of(gains),
            "seeds in which it is higher": sum(won.values()),
            "harmonic mean, CoPrompt - prompts alone": mean,
            "novel accuracy, weight 2 - prompts alone": rows.gap("novel accuracy", WEAKER, MAPLE),
            "novel accuracy, CoPrompt - zero-shot": rows.gap("novel accuracy", OURS, ZERO),
            **{
                f"novel accuracy, CoPrompt - prompts alone, {name}": rows.gap(
                    "novel accuracy", f"{OURS}, {name}", f"{MAPLE}, {name}"
                )
                for name in OTHERS
            },
        },
    )

"""Check of `pseudo-forced-alignment`: boundaries and adaptation from anchored windows, in the world of two voices."""

from __future__ import annotations

import random
from functools import partial

from coalign.checks.arms import measure_arms
from coalign.checks.rules import decide, mean_of, most_seeds
from coalign.checks.worlds.speech.voices import CER, EDGES, VoiceStart, adapted_arm, seed_arm, voice_start
from coalign.core.runs import Run
from coalign.core.verdict import Verdict


def check(run: Run, *, seeds: int = 5) -> Verdict:
    """Windows from anchor to anchor find boundaries as well as one pass does, and the clips adapt a recogniser.

    Rule:
        Seen: the boundary error of the kept utterances is at most that of one pass of CTC-segmentation in two thirds of
        the seeds (4 of 5), and the character error rate on held-out speech of the new voice falls in every seed, by 10
        % relative or more in the mean. Not seen: it falls in no seed. Mixed: between.

    Setting:
        espeak-ng, 60 words. A recogniser (log-mel features, convolution, BiGRU of 1 layer and width 96, 20 ms frames)
        learns 240 utterances of voice en-us in 350 steps of 16. Three recordings of 40 utterances of voice en-gb+f4,
        gaps of 0.3 to 1 s; of the captions 15 % of the utterances are missing and 10 % of the words are wrong. Both
        arms keep utterances with a confidence of -1 or more and train 80 steps of 16 on them, Adam 5e-4. 30 held-out
        utterances of en-gb+f4. Boundary error: |start| + |end| of the kept utterances, mean, in seconds.
    """
    arms = {
        "seed model": seed_arm,
        "one pass": partial(adapted_arm, whole=True),
        "windows": partial(adapted_arm, whole=False),
    }

    def prepare(seed: int) -> VoiceStart:
        return voice_start(seed, run.artefacts / "voices" / str(seed), random.Random(seed))

    rows = measure_arms(run, seeds=seeds, prepare=prepare, arms=arms)
    edges = rows.gaps(EDGES, "windows", "one pass")
    before, after = rows.values(CER, "seed model"), rows.values(CER, "windows")
    gains = {seed: (before[seed] - after[seed]) / before[seed] if before[seed] else 0.0 for seed in before}
    boundary = most_seeds({seed: gap <= 0 for seed, gap in edges.items()}, "2/3")
    adapted = all(gain > 0 for gain in gains.values()) and mean_of(gains) >= 0.1
    return rows.verdict(
        check,
        outcome=decide(seen=boundary and adapted, not_seen=not any(gain > 0 for gain in gains.values())),
        summary={
            "seeds with boundary error at most one pass's": sum(gap <= 0 for gap in edges.values()),
            "boundary error in seconds, windows - one pass": mean_of(edges),
            "smallest relative gain in character errors": min(gains.values()),
            "mean relative gain in character errors": mean_of(gains),
            "mean relative gain of one pass": 1 - rows.mean(CER, "one pass") / max(mean_of(before), 1e-9),
        },
    )

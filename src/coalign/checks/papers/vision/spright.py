"""Check of `spright`: do pictures of two squares obey spatial words after fine-tuning on captions that say how they stand?"""

from __future__ import annotations

from dataclasses import dataclass

from coalign.checks.arms import Arm, Measures, measure_arms
from coalign.checks.rules import decide, mean_of
from coalign.checks.worlds.scenes.squares import captions, measured, new_model, prompts, train
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.measures.spatial import SpatialPrompt
from coalign.models.diffusion.text_to_image import TextToImage

BASE_STEPS, STEPS, BATCH = 1500, 400, 32
BASE_SHARE, SHARE, PROMPTS, RATE = 0.05, 0.5, 96, 2e-3


@dataclass(frozen=True)
class Start:
    """What the arms of a seed share: the base model and the descriptions."""

    seed: int
    model: TextToImage
    asked: list[SpatialPrompt]


def check(run: Run, *, seeds: int = 3) -> Verdict:
    """Fine-tuning on captions of which half are spatial makes pictures of two squares stand as described.

    Rule:
        Seen: VISOR_cond of the mixed captions is 10 points or more above that of general captions alone in every seed, and
        OA is not more than 5 points lower in any. Not seen: the mean gain is below 3 points. Mixed: between.

    Setting:
        Scenes of 12 x 12 pixels with two squares of 3 x 3 in two of six colours, one clearly left of, right of, above or
        below the other. A denoiser of patches and a GRU over the words of the caption (0.2 million weights), 100 steps of
        the cosine schedule, 20 of DDIM, no guidance. Base: {base} steps of {batch} scenes, captions that name both squares,
        5 % of them with their relation; then {more} steps with general captions alone, or with a spatial one for half of
        the scenes. 96 of the 120 descriptions, which are those that spatial captions have, 4 pictures each, found by their
        colours. Besides: other shares, and mirrored pictures under unchanged captions.
    """
    general, mixed, mirrored = "general captions", "half spatial", "half spatial, mirrored"
    arms: dict[str, Arm[Start]] = {
        general: lambda start: _arm(start, 0.0),
        mixed: lambda start: _arm(start, SHARE),
        mirrored: lambda start: _arm(start, SHARE, flip=True),
    }
    rows = measure_arms(run, seeds=seeds, prepare=_start, arms=arms)
    gains, objects = rows.gaps("VISOR_cond", mixed, general), rows.gaps("OA", mixed, general)
    sideways = rows.values("VISOR_cond, left and right", mirrored)
    return rows.verdict(
        check,
        outcome=decide(
            seen=min(gains.values()) >= 10 and min(objects.values()) >= -5, not_seen=mean_of(gains) < 3
        ),
        summary={
            "smallest gain in VISOR_cond": min(gains.values()),
            "mean gain in VISOR_cond": mean_of(gains),
            "largest loss in OA": -min(objects.values()),
            "VISOR_cond of left and right, mirrored": mean_of(sideways),
        },
        base=BASE_STEPS,
        more=STEPS,
        batch=BATCH,
    )


def _start(seed: int) -> Start:
    base = train(
        new_model(seed),
        captions(BASE_SHARE),
        steps=BASE_STEPS,
        batch_size=BATCH,
        learning_rate=RATE,
        seed=seed,
    )
    return Start(seed, base, prompts(PROMPTS, seed))


def _arm(start: Start, share: float, *, flip: bool = False) -> Measures:
    """Every arm sees the same scenes in the same order."""
    tuned = train(
        start.model,
        captions(share, flip=flip),
        steps=STEPS,
        batch_size=BATCH,
        learning_rate=RATE / 2,
        seed=start.seed + 1000,
    )
    return measured(tuned, start.asked, start.seed)

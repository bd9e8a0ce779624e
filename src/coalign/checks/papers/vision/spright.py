"""Check of `spright`: do pictures of two squares obey spatial words after fine-tuning on captions that say how they stand?"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from coalign.checks.arms import Arm, Measures, measure_arms
from coalign.checks.rules import decide, mean_of
from coalign.checks.worlds.drawn.squares import (
    Squares,
    asked_descriptions,
    captioned,
    drawn_squares,
    new_model,
    obeyed,
    trained_on_squares,
)
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.measures.media.spatial import SpatialPrompt
from coalign.models.diffusion.text_to_image import TextToImage
from coalign.vision.spatial.training import Captioned

SCENES, PROMPTS = 4000, 96
BASE_STEPS, STEPS, BATCH, LEARNING_RATE = 400, 1000, 128, 2e-3
BASE_SHARE, SHARE = 0.05, 0.5


@dataclass(frozen=True)
class Start:
    """What the arms of a seed share: the base model, the scenes to learn from, and the descriptions that are asked for."""

    seed: int
    model: TextToImage
    scenes: list[Squares] = field(repr=False)
    captions: list[Captioned] = field(repr=False)
    asked: list[SpatialPrompt] = field(repr=False)


def check(run: Run, *, seeds: int = 3) -> Verdict:
    """Fine-tuning on captions of which half are spatial makes pictures of two squares stand as described.

    Rule:
        Seen: VISOR_cond of the mixed captions is 10 points or more above that of general captions alone in every seed, and
        OA is not more than 5 points lower in any. Not seen: the mean gain is below 3 points. Mixed: between. Beside the
        rule: mirrored pictures under captions that stay as they are.

    Setting:
        Scenes of 3 x 3 cells, each a pixel, with two squares of two of eight colours, one farther from the other on one axis
        than on the other. A denoiser of two transformer layers over cells that look at the words, and one layer over the
        words of the caption; both learn (0.15 million weights). 100 steps of the cosine schedule, the scene is predicted, 20
        steps of DDIM, no guidance. Base: 400 steps of 128 scenes out of 4000 with captions that name both squares, 5 % of
        them with their relation; then 1000 steps on the same scenes with general captions alone, or with the spatial one for
        half of them. AdamW 2e-3. 96 descriptions that no caption has, 4 pictures each, found by their colours.
    """
    general, mixed, mirrored = "general captions", "half spatial", "half spatial, mirrored"
    arms: dict[str, Arm[Start]] = {
        general: lambda start: _arm(start, 0.0),
        mixed: lambda start: _arm(start, SHARE),
        mirrored: lambda start: _arm(start, SHARE, mirror=True),
    }
    rows = measure_arms(run, seeds=seeds, prepare=_start, arms=arms)
    gains, objects = rows.gaps("VISOR_cond", mixed, general), rows.gaps("OA", mixed, general)
    return rows.verdict(
        check,
        outcome=decide(
            seen=min(gains.values()) >= 10 and min(objects.values()) >= -5, not_seen=mean_of(gains) < 3
        ),
        summary={
            "smallest gain in VISOR_cond": min(gains.values()),
            "mean gain in VISOR_cond": mean_of(gains),
            "largest loss in OA": -min(objects.values()),
            "VISOR_cond of left and right, half spatial": rows.mean("VISOR_cond, left and right", mixed),
            "VISOR_cond of left and right, mirrored": rows.mean("VISOR_cond, left and right", mirrored),
        },
    )


def _start(seed: int) -> Start:
    draw = random.Random(f"squares/{seed}")
    scenes, asked = drawn_squares(SCENES, draw), asked_descriptions(PROMPTS, draw)
    captions = captioned(scenes, asked, draw)
    base = trained_on_squares(
        new_model(seed),
        _pictures(scenes),
        captions,
        share=BASE_SHARE,
        steps=BASE_STEPS,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        seed=2 * seed,
    )
    return Start(seed, base, scenes, captions, asked)


def _arm(start: Start, share: float, *, mirror: bool = False) -> Measures:
    """Fine-tuning; every arm sees the same scenes in the same order. `mirror` turns half of the pictures round."""
    pictures = _pictures(start.scenes)
    if mirror:
        turned = np.random.default_rng(start.seed).random(len(pictures)) < 0.5
        pictures[turned] = pictures[turned][..., ::-1]
    tuned = trained_on_squares(
        start.model,
        pictures,
        start.captions,
        share=share,
        steps=STEPS,
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        seed=2 * start.seed + 1,
    )
    return obeyed(tuned, start.asked, start.seed)


def _pictures(scenes: list[Squares]) -> np.ndarray:
    return np.stack([one.picture() for one in scenes])

"""Check of `t-prompter`: themes that a small in-painting network never saw, shown to it as matched references."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from coalign.checks.arms import Measures, measure_arms
from coalign.checks.rules import decide, mean_of
from coalign.checks.worlds.drawn import themes as world
from coalign.checks.worlds.drawn.small_clip import train_small_clip
from coalign.core.runs import Run
from coalign.core.verdict import Verdict
from coalign.data.media.pictures import Picture, open_picture
from coalign.vision.reference_sheets.matching import Matched, match_references, normalised
from coalign.vision.reference_sheets.painting import Painter, Pool, Settings, chosen
from coalign.vision.reference_sheets.scenes import Reference, Scene

STEPS, BATCH, STRANGE = 900, 8, 2
CLIP_TILES, CLIP_STEPS, CLIP_BATCH = 4000, 250, 64
PROMPTS, OWN, OTHERS = 60, 12, 12
FARTHEST = 0.15
"""Mean absolute distance to the nearest plain tile above which a picture has no theme."""
Selection = Literal["matched", "random", "none"]


@dataclass(frozen=True)
class Wanted:
    """A scene with the theme and the shape that it asks for, and its pool of references."""

    scene: Scene
    theme: world.Theme
    shape: str
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class Material:
    """What the arms of a seed share.

    Attributes:
        scorer, held_out: small CLIPs, the second of which never chooses.
    """

    seed: int
    network: world.Inpainter
    scorer: world.TileScorer
    held_out: world.TileScorer
    wanted: list[Wanted] = field(repr=False)


def check(run: Run, *, seeds: int = 3) -> Verdict:
    """References matched to the elements of a prompt bring the theme to pictures of an in-painting network.

    Rule:
        Seen: with matched references and the best of six orders the theme is right at least 15 points more often than with
        one sheet of random references, in every seed, and more often than without references in every seed, and the shape
        is in the mean right at most 5 points less often than with random references. Not seen: in the mean the theme is
        right less than 5 points more often than with random references. Mixed: between. Beside the rule: by a second
        encoder the chosen picture against the mean of its six candidates.

    Setting:
        Tiles of 16 x 16: a palette of two of ten colours, one of four textures, one of six shapes; 40 themes, of which 8
        are held out. A U-Net of diffusers (1.0 million weights) learns 900 steps of 8 sheets (L1, AdamW 2e-3) to fill the
        centre of nine tiles, of which up to two around it are of other themes. Two small CLIPs learn 250 steps of 64 tiles
        with captions of the 32 themes: one matches and chooses, one only scores. 60 prompts a seed on held-out themes; the
        pool of each has 12 tiles of its theme and 12 of others. A picture has the theme of the nearest of all 240 plain
        tiles, where its mean absolute distance is at most 0.15.
    """
    ours, drawn, without = "matched, best of six orders", "random, one order", "no references"
    arms = {
        ours: lambda one: painted(one, "matched"),
        drawn: lambda one: painted(one, "random"),
        without: lambda one: painted(one, "none"),
    }
    rows = measure_arms(run, seeds=seeds, prepare=prepared, arms=arms)
    over_random, over_none = (rows.gaps("theme", ours, other) for other in (drawn, without))
    shape = rows.gap("shape", ours, drawn)
    held_out = rows.mean("held-out text score", ours) - rows.mean("held-out text score of six", ours)
    return rows.verdict(
        check,
        outcome=decide(
            seen=min(over_random.values()) >= 0.15 and min(over_none.values()) > 0 and shape >= -0.05,
            not_seen=mean_of(over_random) < 0.05,
        ),
        summary={
            "theme right, matched - random": mean_of(over_random),
            "smallest over seeds": min(over_random.values()),
            "theme right, matched - no references": mean_of(over_none),
            "shape right, matched - random": shape,
            "held-out text score, best of six - mean of six": held_out,
        },
    )


def prepared(
    seed: int, *, steps: int = STEPS, clip_steps: int = CLIP_STEPS, prompts: int = PROMPTS
) -> Material:
    """Networks and prompts of a seed."""
    held_out = world.held_out_themes(seed)
    learnt = [one for one in world.THEMES if one not in held_out]
    network = world.trained_inpainter(learnt, steps=steps, batch=BATCH, seed=seed, others=STRANGE)
    rng = np.random.default_rng([seed, 31])
    return Material(
        seed,
        network,
        _scorer(learnt, 2 * seed, clip_steps),
        _scorer(learnt, 2 * seed + 1, clip_steps),
        [_wanted(number, held_out, rng) for number in range(prompts)],
    )


def _scorer(themes: list[world.Theme], seed: int, steps: int) -> world.TileScorer:
    tiles, texts = world.captioned_tiles(themes, CLIP_TILES, seed)
    return world.TileScorer(
        *train_small_clip(tiles, texts, steps=steps, seed=seed, batch=CLIP_BATCH, words=world.WORDS)
    )


def _wanted(number: int, held_out: list[world.Theme], rng: np.random.Generator) -> Wanted:
    theme, shape = held_out[rng.integers(len(held_out))], str(rng.choice(world.SHAPES))
    others = [one for one in world.THEMES if one != theme]
    themes = [theme] * OWN + [others[place] for place in rng.integers(len(others), size=OTHERS)]
    references = []
    for place, one in enumerate(themes[place] for place in rng.permutation(len(themes))):
        tile = world.as_picture(world.drawn_tile(one, str(rng.choice(world.SHAPES)), rng))
        references.append(Reference(f"{place:02d}", Picture(tile), "", {}))
    text, phrases = world.described(theme, shape), world.phrases_of(theme, shape)
    return Wanted(Scene(str(number), text, phrases), theme, shape, tuple(references))


def painted(one: Material, selection: Selection) -> Measures:
    """Every prompt painted by one way of choosing references, and how often theme and shape are right."""
    rng = np.random.default_rng([one.seed, 37])
    settings = Settings(prefix="", side=world.SIDE, all_orders=selection == "matched", held_out=one.held_out)
    found, measures = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, wanted in enumerate(one.wanted):
            pool = Pool(wanted.references, one.scorer.pictures([each.open() for each in wanted.references]))
            blocks, cosines = _references(one, wanted, pool, selection, rng)
            rows = Painter(
                lambda: world.painting(one.network),
                lambda: one.scorer,
                pool,
                settings,
                Path(folder) / f"{number}.jsonl",
                Path(folder) / "pictures",
            ).paint(number, wanted.scene, blocks, cosines, seed=0)
            best = chosen(rows, 0.0)
            picture = open_picture(Path(folder) / best["tile"])
            found.append(world.as_tensor(picture).numpy())
            scores = [row["held_out_score"] for row in rows]
            measures.append((best["held_out_score"], float(np.mean(scores)), best["copy_score"]))
    seen = world.seen_as(np.stack(found))
    themes = [
        far <= FARTHEST and theme == each.theme
        for (theme, _, far), each in zip(seen, one.wanted, strict=True)
    ]
    shapes = [shape == each.shape for (_, shape, _), each in zip(seen, one.wanted, strict=True)]
    chosen_score, mean_score, copy = np.mean(measures, axis=0)
    return {
        "theme": float(np.mean(themes)),
        "shape": float(np.mean(shapes)),
        "held-out text score": float(chosen_score),
        "held-out text score of six": float(mean_score),
        "nearest reference": float(copy),
    }


def _references(
    one: Material, wanted: Wanted, pool: Pool, selection: Selection, rng: np.random.Generator
) -> tuple[list[Matched], np.ndarray]:
    texts = one.scorer.texts(wanted.scene.elements)
    cosines = normalised(texts) @ normalised(pool.embeddings).T
    if selection == "none":
        return [], cosines[:0]
    if selection == "matched":
        return match_references(texts, pool.embeddings), cosines
    places = rng.permutation(len(wanted.references))[:9].tolist()
    drawn = [tuple(places[start : start + 3]) for start in (0, 3, 6)]
    return [Matched(each, each) for each in drawn], cosines

"""T-Prompter: new pictures in the theme of a folder of pictures, from text, without training anything.

Bringing Characters to New Stories: Training-Free Theme-Specific Image Generation via Dynamic Visual Prompting
(arXiv 2501.15641; published as IP-Prompter). Key elements of a scene are matched with reference pictures by an
image-text encoder; the references are laid around an empty tile, and an in-painting model fills it. This is repeated for
every order of the elements, and the picture that fits the text best is chosen.

    coalign run t-prompter --data scenes.jsonl --references theme/ --generator black-forest-labs/FLUX.1-Fill-dev
    coalign run t-prompter --data scenes.jsonl --references theme/ --generator paint.py:inpaint --encoder clip/ --story

A scene is a row: `prompt`, and as far as they are there `elements` (phrases), `pinned` (pictures with a place of their own),
`seed`, `id`. Every candidate lies in `pictures/` as tile and as sheet, what is known of it in `artefacts/candidates.jsonl`,
the chosen ones in `artefacts/scenes.jsonl`, where the references came from in `artefacts/references.jsonl`.

As the official code has it, the sixth of nine tiles lies under the mask (`--skip-centre` uses the eight that are seen), and
the choice is by text alone (`--reference-weight` counts likeness to the references, too). The paper asks a language model
for the elements (`--elements auto`) and arranges again while the score rises (`--rounds`); the code does neither, and how
a round follows another is ours: the best order first, each element's least similar tile replaced by its next unused
reference. Ours are also the story mode (`--story`: one seed, and each chosen picture pinned for the next scene), other
numbers of elements than three, and a seed drawn for every scene. Scores of the encoder that chose flatter the choice:
`--held-out-encoder` measures with another. The pipelines of diffusers were run with random weights alone, FLUX.1-Fill among
them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from coalign.core.errors import DataError
from coalign.core.files import append_rows, read_rows, write_rows
from coalign.core.progress import progress
from coalign.core.runs import Run
from coalign.data.media.pictures import open_picture
from coalign.training.processes import assert_one_process
from coalign.vision.reference_sheets.inpainting import drawn_seed, open_inpainting
from coalign.vision.reference_sheets.matching import PINNED, PLACES, Matched, match_references, normalised
from coalign.vision.reference_sheets.options import SheetOptions
from coalign.vision.reference_sheets.painting import Painter, Pool, Row, Settings, chosen, publish_scene
from coalign.vision.reference_sheets.scenes import Reference, Scene, read_references, read_scenes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from coalign.vision.reference_sheets.encoders import EncoderScorer


@dataclass(kw_only=True)
class Config(SheetOptions):
    """Options of `coalign run t-prompter`."""

    __group__ = "Method"


def run(config: Config, run: Run) -> None:
    """Read scenes and references, match, paint, choose, report.

    Raises:
        DataError: scenes or references that cannot be used, or too few references.
        ModelError, ConfigError: see `open_inpainting` and `ImageTextEncoder.load`.
    """
    from coalign.vision.reference_sheets.report import write_report

    assert_one_process("t-prompter works")
    scenes = read_scenes(
        config.data,
        elements=config.elements == "given" and config.selection != "none",
        most_elements=len(PLACES),
        most_pinned=len(PINNED) - config.story,
        limit=config.limit,
    )
    references = read_references(config.references)
    scorer = _encoder(config.encoder, config.device)
    held_out = _encoder(config.held_out_encoder, config.device) if config.held_out_encoder else None
    elements = elements_of(scenes, config, run)
    write_rows(run.artefacts / "references.jsonl", (_provenance(one) for one in references))
    pool = Pool(references, scorer.pictures([one.open() for one in references]))
    settings = Settings(
        prefix=config.prefix,
        side=config.tile,
        rounds=config.rounds,
        gain=config.min_gain,
        weight=config.reference_weight,
        skip_centre=config.skip_centre,
        all_orders=config.orders == "all",
        held_out=held_out,
    )
    inpaint = cache(lambda: open_inpainting(config))
    pictures = run.path / "pictures"
    painter = Painter(inpaint, lambda: scorer, pool, settings, run.artefacts / "candidates.jsonl", pictures)
    path = run.artefacts / "scenes.jsonl"
    done = {row["id"]: row for row in read_rows(path, repair=True)}
    candidates: dict[str, list[Row]] = {}
    before: Image.Image | None = None
    with progress(len(scenes), "Painting", "scene") as bar:
        for number, scene in enumerate(scenes):
            phrases = elements[scene.id]
            seed = seed_of(scenes[0] if config.story else scene, config.seed)
            blocks, cosines = references_of(scene, phrases, pool, scorer, config)
            pinned = [*([before] if before is not None else []), *(one.open() for one in scene.pinned)]
            rows = painter.paint(
                number, scene, blocks, cosines, seed, pinned, on_candidate=lambda row: bar.note(row["order"])
            )
            best = chosen(rows, config.reference_weight)
            if scene.id not in done:
                files = publish_scene(pictures, number, rows, best)
                done[scene.id] = _result(scene, phrases, rows, best, files)
                append_rows(path, [done[scene.id]])
            candidates[scene.id] = rows
            if config.story:
                before = open_picture(run.path / best["tile"])
            bar.advance()
    cut = scorer.cut([one.prompt for one in scenes])
    write_report(run, config, scenes, references, [done[one.id] for one in scenes], candidates, cut)


def references_of(
    scene: Scene, phrases: Sequence[str], pool: Pool, scorer: EncoderScorer, config: Config
) -> tuple[list[Matched], NDArray[np.float64]]:
    """The references of each element, and the cosine of every element with every reference [E, M].

    Raises:
        DataError: too few references for the elements.
    """
    if config.selection == "none":
        return [], np.zeros((0, len(pool.references)))
    tiles = tiles_of(len(phrases), config.tiles, scene)
    texts = scorer.texts(phrases)
    cosines = normalised(texts) @ normalised(pool.embeddings).T
    if config.selection == "matched":
        try:
            return match_references(texts, pool.embeddings, top=config.top, tiles=tiles), cosines
        except DataError as error:
            raise DataError(f"{scene.source}: {error.message}", hint=error.hint) from error
    draw = random.Random(f"{config.seed}/{scene.id}/references")
    places = draw.sample(range(len(pool.references)), min(tiles * len(phrases), len(pool.references)))
    drawn = [places[place % len(places)] for place in range(tiles * len(phrases))]
    blocks = [tuple(drawn[start : start + tiles]) for start in range(0, len(drawn), tiles)]
    return [Matched(one, one) for one in blocks], cosines


def tiles_of(elements: int, tiles: int | None, scene: Scene) -> int:
    """References that each of so many elements shows: all together nine at most.

    Raises:
        DataError: more were asked for.
    """
    most = len(PLACES) // elements
    if tiles is not None and tiles > most:
        raise DataError(
            f"{scene.source}: elements: {elements} elements of {tiles} tiles each, expected at most {len(PLACES)} tiles "
            "together."
        )
    return most if tiles is None else tiles


def seed_of(scene: Scene, seed: int) -> int:
    """The seed that the scene names, else one drawn for it."""
    return drawn_seed(seed, scene.id) if scene.seed is None else scene.seed


def elements_of(scenes: Sequence[Scene], config: Config, run: Run) -> dict[str, tuple[str, ...]]:
    """Scene to its elements: those of the data, else those that the language model names."""
    found = {one.id: one.elements for one in scenes}
    missing = [one for one in scenes if not one.elements]
    if config.elements == "auto" and config.selection != "none" and missing:
        from coalign.judging.asked.options import asked_model
        from coalign.vision.reference_sheets.elements import asked_elements

        model = asked_model(config.element_model, config.element_served, device=config.device)
        path = run.artefacts / "elements.jsonl"
        found |= asked_elements(
            path, missing, model, count=config.element_count, tokens=config.element_tokens
        )
    return found


def _encoder(name: str, device: str) -> EncoderScorer:
    from coalign.vision.reference_sheets.encoders import EncoderScorer

    return EncoderScorer(name, device)


def _provenance(one: Reference) -> Row:
    return {"id": one.id, "source": one.picture.called, "sha256": one.digest, **{"record": one.more}}


def _result(scene: Scene, phrases: Sequence[str], rows: Sequence[Row], best: Row, files: Row) -> Row:
    """A row of `scenes.jsonl`."""
    scores = {name: value for name, value in best.items() if name.endswith("_score") or name == "seam"}
    kept = ("round", "permutation", "seed", "tiles", "sheet")
    return {
        "id": scene.id,
        "prompt": scene.prompt,
        "elements": list(phrases),
        "candidates": len(rows),
        "mean_text_score": float(np.mean([row["text_score"] for row in rows])),
        **{name: best[name] for name in kept},
        **scores,
        **files,
        "prompt_sha256": hashlib.sha256(scene.prompt.encode()).hexdigest(),
    }

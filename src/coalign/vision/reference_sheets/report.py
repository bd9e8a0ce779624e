"""The report of painted scenes: what was chosen, beside every candidate and the references of its sheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from coalign.core.runs import Run
from coalign.data.media.pictures import open_picture
from coalign.measures.statistics import paired_bootstrap
from coalign.report.format import number
from coalign.report.model import AnySection, Figure, Headline, TableSection
from coalign.report.page import publish
from coalign.report.parts import estimate, outcome_of, too_few
from coalign.report.pictures import Shown, gallery, thumbnail

if TYPE_CHECKING:
    from coalign.vision.reference_sheets.options import SheetOptions
    from coalign.vision.reference_sheets.painting import Row
    from coalign.vision.reference_sheets.scenes import Reference, Scene

COPY = 0.95
"""Cosine with a reference above which a picture is looked at as a copy of it. Our choice."""
MOST_SCENES = 60
"""Scenes whose candidates are shown."""


def write_report(
    run: Run,
    config: SheetOptions,
    scenes: Sequence[Scene],
    references: Sequence[Reference],
    results: Sequence[Row],
    candidates: Mapping[str, Sequence[Row]],
    cut: int,
) -> None:
    """Publish the report of a run.

    Args:
        results: a row of each scene.
        candidates: scene to all of its candidates.
        cut: prompts that are longer than the encoder reads.
    """
    best = [row["text_score"] for row in results]
    means = [row["mean_text_score"] for row in results]
    copies = [row for row in results if row["copy_score"] > COPY]
    many = sum(len(one) for one in candidates.values())
    held_out = _held_out(results, candidates)
    figures = [
        Figure("Text score, chosen", float(np.mean(best)), note=f"{len(results)} scenes"),
        Figure("Text score, all candidates", float(np.mean(means)), note=f"{many} candidates"),
        Figure("Likeness to the references, chosen", _mean(results, "reference_score")),
        Figure("Likely copies", len(copies), unit="integer", better="lower", note=f"cosine above {COPY}"),
    ]
    text = (
        f"{_count(len(results), 'scene')} painted from {_count(many, 'candidate')}: the chosen pictures score "
        f"{number(float(np.mean(best)))} by text, all candidates {number(float(np.mean(means)))}."
    )
    outcome = "neutral"
    if held_out is not None:
        ours, theirs = held_out
        gain = paired_bootstrap(theirs, ours)
        outcome = outcome_of(gain, n=len(ours))
        figures.append(
            Figure(
                "Held-out text score, chosen",
                float(np.mean(ours)),
                before=float(np.mean(theirs)),
                difference=estimate(gain),
                note="against the mean of a scene's candidates",
            )
        )
        text += (
            f" By the held-out encoder {number(float(np.mean(ours)))} and {number(float(np.mean(theirs)))}."
            f"{too_few(len(ours))}"
        )
    publish(
        run,
        config,
        title="Pictures in a theme",
        verdict=Headline(outcome, text, figures),
        facts={"Generator": config.generator, "Encoder": config.encoder, "References": str(len(references))},
        sections=_sections(run, scenes, results, candidates),
        limitations=_limitations(config, cut, len(results), copies),
        figures={"text_score": float(np.mean(best)), "scenes": len(results), "candidates": many},
    )


def _sections(
    run: Run, scenes: Sequence[Scene], results: Sequence[Row], candidates: Mapping[str, Sequence[Row]]
) -> list[AnySection]:
    columns = ["Scene", "Order", "Round", "Seed", "Text", "References", "Nearest reference", "Seam"]
    rows = [
        [
            one["id"],
            _order(one, one["elements"]),
            one["round"],
            one["seed"],
            *(one[name] for name in ("text_score", "reference_score", "copy_score", "seam")),
        ]
        for one in results
    ]
    units: Any = {"Round": "integer", "Seed": "integer"}
    note = (
        "Cosines of the chosen picture with the scene's text, with its references (mean) and with the nearest of them. "
        "Seam: how far the tile stands out from its neighbours; below 0 they may have run into it."
    )
    shown = list(zip(scenes, results, strict=True))[:MOST_SCENES]
    return [
        *gallery(
            "Chosen",
            (_chosen(run, scene, row) for scene, row in shown),
            note="The chosen tile, and the sheet that it was painted into.",
            total=len(results),
        ),
        *gallery(
            "Candidates",
            _candidates(run, shown, candidates),
            note="Every order of the elements, the chosen one set apart.",
            total=sum(len(one) for one in candidates.values()),
        ),
        TableSection(title="Scores", note=note, columns=columns, rows=rows, units=units),
    ]


def _chosen(run: Run, scene: Scene, row: Row) -> Shown:
    tile, sheet = (open_picture(run.path / row[name]) for name in ("best", "sheet"))
    values = {"elements": ", ".join(row["elements"]) or None, "order": _order(row, row["elements"])}
    pictures = [thumbnail(tile, "chosen"), thumbnail(sheet, "sheet", side=256)]
    return Shown(pictures, scene.prompt, {name: value for name, value in values.items() if value})


def _candidates(
    run: Run, shown: Sequence[tuple[Scene, Row]], candidates: Mapping[str, Sequence[Row]]
) -> Iterator[Shown]:
    for scene, result in shown:
        for row in candidates[scene.id]:
            mine = (row["round"], row["permutation"]) == (result["round"], result["permutation"])
            values = {"text": round(row["text_score"], 4), "references": round(row["reference_score"], 4)}
            order = _order(row, result["elements"])
            caption = f"{scene.id}: {order}" + (f" (round {row['round']})" if row["round"] > 1 else "")
            picture = thumbnail(open_picture(run.path / row["tile"]), side=128)
            yield Shown([picture], caption, values, tone="good" if mine else None)


def _order(row: Row, elements: Sequence[str]) -> str:
    return " → ".join([str(elements[place]) for place in row["permutation"]]) or "no references"


def _held_out(
    results: Sequence[Row], candidates: Mapping[str, Sequence[Row]]
) -> tuple[list[float], list[float]] | None:
    """Scores of the other encoder: of the chosen pictures, and the mean over the candidates of each scene."""
    if not all("held_out_score" in row for row in results):
        return None
    means = [float(np.mean([row["held_out_score"] for row in candidates[one["id"]]])) for one in results]
    return [row["held_out_score"] for row in results], means


def _limitations(config: SheetOptions, cut: int, scenes: int, copies: Sequence[Row]) -> list[str]:
    found = []
    if config.held_out_encoder is None:
        found.append(
            "The encoder that chose also scores: the text score of the chosen pictures is flattered by the choice. "
            "--held-out-encoder measures with another one."
        )
    if cut:
        found.append(
            f"{cut} of {scenes} prompts are longer than the encoder reads; it scored their beginning."
        )
    if copies:
        names = ", ".join(row["id"] for row in copies[:5])
        found.append(
            f"{len(copies)} chosen pictures are so close to a reference (cosine above {COPY}) that they may be copies of it: {names}."
        )
    if config.selection != "none" and config.reference_weight == 0:
        found.append("The choice is by text alone, which may prefer a picture that leaves the theme.")
    return found


def _mean(rows: Sequence[Row], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"

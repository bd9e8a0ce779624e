"""Report of retrieval both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from coalign.core.runs import Run
from coalign.loops.rounds import STAGES, Round, timings
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import curves, figure_of, judged, paired
from coalign.report.pictures import Gallery, Shown, gallery, thumbnail

if TYPE_CHECKING:
    from coalign.video.retrieval.records import CaptionedClip

KS = (1, 5, 10)
PICTURES, SIDE_BY_SIDE = 20, 3
"""Texts whose best clips are shown, and how many of each."""
WAYS = {"rank": "text to clip", "clip_rank": "clip to text"}


def write_retrieval_report(run: Run, config: Any, round: Round, clips: Sequence[CaptionedClip]) -> None:
    """`report.html` of the run."""
    rows, before = round.read("evaluate"), round.read("baseline")
    found = {name: by_query(rows, name) for name in WAYS}
    start = {name: by_query(before, name) for name in WAYS} if before else {}
    compared = [
        paired(f"R@{k}, {way}", _hits(start[name], k), _hits(found[name], k), emphasis=k == 1)
        for name, way in WAYS.items()
        if start
        for k in KS
    ]
    first = {way: fmean(_hits(found[name], 1)) for name, way in WAYS.items()}
    count = f"{len(found['rank'])} texts and {len(clips)} clips"
    text = f"Of {count}, {first['text to clip']:.1%} of the texts find their clip first, {first['clip to text']:.1%} of the clips a text of theirs."
    figures = [
        figure_of(row, "before: mean frame of the start model")
        for row in compared
        if row.name.startswith("R@1,")
    ] or [doc.Figure(f"R@1, {way}", value, unit="percent") for way, value in first.items()]
    publish(
        run,
        config,
        title=f"Retrieval among {len(clips)} clips",
        facts={"Data": str(config.data), "Model": str(config.model or config.encoder)},
        verdict=judged(compared[0].difference if compared else None, text, figures, n=len(found["rank"])),
        sections=[
            *(
                [
                    doc.Comparison(
                        title="Before and after training",
                        note="Before: cosine of the text and the mean frame under the encoder as it was. Intervals are over queries.",
                        rows=compared,
                    )
                ]
                if compared
                else []
            ),
            _table(found, rows),
            *_pictures(rows, {one.id: one for one in clips}),
            doc.Distribution(
                title="Ranks",
                note="Of the clip that belongs to a text, and of the first text that belongs to a clip.",
                samples=[doc.Values(way, found[name]) for name, way in WAYS.items()],
                x_label="rank",
            ),
            *curves(
                [(one, one) for one in ("loss", "matching", "consistency", "diversity")],
                {"training": round.read("history")},
            ),
        ],
        notes=[
            f"{event['texts']} captions are longer than {event['words']} tokens: their end is not read."
            for event in run.events("cut")[-1:]
            if event["texts"]
        ],
        rounds=timings([round], STAGES),
        limitations=_LIMITATIONS,
        then=[doc.Command(f'coalign search {run.path} "TEXT"', "find the clips that a text describes")],
        figures=dict(first),
    )


_LIMITATIONS = [
    "A clip whose score equals that of the right one is counted before it.",
    "A text whose words equal those of another clip's counts as a text of both.",
    "Recall falls with the number of clips: compare it among equal collections alone.",
]


def by_query(rows: Sequence[Mapping[str, Any]], name: str) -> list[int]:
    """A rank a query: of every text, or of every clip once."""
    if "clip" not in name:
        return [row[name] for row in rows]
    return list({row["id"]: row[name] for row in rows}.values())


def _hits(ranks: Sequence[int], k: int) -> list[float]:
    return [float(one <= k) for one in ranks]


def _table(found: Mapping[str, Sequence[int]], rows: Sequence[Mapping[str, Any]]) -> doc.TableSection:
    lines = {way: found[name] for name, way in WAYS.items()}
    if rows and "normalised_rank" in rows[0]:
        lines |= {f"{way}, QB-Norm": by_query(rows, f"normalised_{name}") for name, way in WAYS.items()}
    return doc.TableSection(
        title="Recall both ways",
        note="Ranks begin at 1. Equal scores count against the query.",
        columns=["way", "queries", *(f"R@{k}" for k in KS), "median rank", "mean rank"],
        rows=[
            [way, len(ranks), *(fmean(_hits(ranks, k)) for k in KS), median(ranks), fmean(ranks)]
            for way, ranks in lines.items()
        ],
        units={**{f"R@{k}": "percent" for k in KS}, "queries": "integer"},
    )


def _pictures(rows: Sequence[Mapping[str, Any]], clips: Mapping[str, CaptionedClip]) -> list[Gallery]:
    """The middle frames of the best clips of the first texts."""

    def shown(row: Mapping[str, Any]) -> Shown:
        pictures = []
        for name, value in row["found"][:SIDE_BY_SIDE]:
            frames = clips[name].frames
            middle = list(frames.evenly(3, 1.0))
            pictures.append(thumbnail(middle[len(middle) // 2], f"{Path(name).name[:24]}, {value:.2f}"))
        return Shown(pictures, row["text"], {"rank": row["rank"]}, "good" if row["rank"] == 1 else "bad")

    return gallery(
        "What texts find",
        (shown(row) for row in rows[:PICTURES]),
        note="The middle frames of the best clips with their scores, best first.",
        total=len(rows),
    )

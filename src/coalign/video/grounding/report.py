"""Files, pages and report of sentences that were placed in videos."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from coalign.core.files import read_rows, write_json, write_text
from coalign.core.runs import Run
from coalign.data.files.subtitles import Cue, vtt
from coalign.loops.rounds import STAGES, Round, timings
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import curves, figure_of, judged, paired
from coalign.report.pictures import Gallery, Shown, gallery, thumbnail
from coalign.video.grounding.page import clock, write_page
from coalign.video.grounding.steps import FILE

if TYPE_CHECKING:
    from coalign.video.grounding.records import Video

SHOWN = 200
"""Sentences in the report's table."""
CURVES, PICTURES = 6, 24


def write_moment_files(
    config: Any, run: Run, rows: Sequence[Mapping[str, Any]], videos: Mapping[str, Video]
) -> None:
    """`alignments/ID.json` with times and curves, `ID.vtt` (chapters for a player), and the page."""
    folder = run.path / "alignments"
    for row in rows:
        name = re.sub(r"[^\w.-]", "_", row["id"])
        write_json(folder / f"{name}.json", row)
        write_text(folder / f"{name}.vtt", vtt(_cues(row)))
        if config.page_video != "none":
            write_page(
                folder / f"{name}.html", row, video=videos[row["id"]].frames.video, way=config.page_video
            )


def _cues(row: Mapping[str, Any]) -> list[Cue]:
    """A cue a sentence in the order of their times, each until the next one begins."""
    found = sorted(row["sentences"], key=lambda one: one["time"])
    ends = [*(one["time"] for one in found[1:]), row["frames"] / row["fps"]]
    return [
        Cue(one["time"], max(end, one["time"]), one["text"]) for one, end in zip(found, ends, strict=True)
    ]


def write_moment_report(run: Run, config: Any, round: Round, videos: Mapping[str, Video]) -> None:
    """`report.html` of the run."""
    rows, before = round.read("evaluate"), round.read("baseline")
    counted = [one for row in rows for one in row["sentences"] if one["hit"] is not None]
    right = [float(one["hit"]) for one in counted]
    raw = [float(one["hit"]) for row in before for one in row["sentences"] if one["hit"] is not None]
    total = sum(len(row["sentences"]) for row in rows)
    recall = sum(right) / len(right) if right else None
    compared = paired("Recall (R@1)", raw, right, emphasis=True) if raw and len(raw) == len(right) else None
    text = f"{total} sentences of {len(rows)} video{'s' * (len(rows) != 1)} have a moment"
    text += f"; {recall:.1%} of the {len(right)} with a stated interval lie inside it." if right else "."
    figures = [doc.Figure("Sentences placed", total, unit="integer")]
    if compared:
        figures.insert(0, figure_of(compared, f"{len(right)} sentences; before: frozen features alone"))
    elif recall is not None:
        figures.insert(0, doc.Figure("Recall (R@1)", recall, unit="percent", note=f"{len(right)} sentences"))
    if config.steps:
        kept = sum(len(one["sentences"]) for one in read_rows(run.artefacts / FILE))
        figures.append(doc.Figure("Steps kept", kept, unit="integer", note=f"of {total} written"))
        text += f" {kept} of {total} steps are kept."
    difference = compared.difference if compared else None
    publish(
        run,
        config,
        title=f"Moments of sentences in {len(rows)} video{'s' * (len(rows) != 1)}",
        facts={
            "Data": str(config.data),
            "Encoder": config.encoder or "features of files",
            "Order": config.order,
        },
        verdict=judged(difference, text, figures, n=len(right)),
        sections=[
            *([_comparison(compared)] if compared else []),
            *_pictures(rows, videos),
            *_curves(rows),
            _sentences(rows),
            _per_video(rows),
            *curves(
                [("loss", "MIL-NCE"), ("recall", "Recall of the batches")],
                {"training": round.read("history")},
            ),
        ],
        notes=_notes(config, videos.values()),
        rounds=timings([round], STAGES),
        limitations=_LIMITATIONS + (_STEPS if config.steps else []),
        then=[
            doc.Command(
                f"ls {run.path / 'alignments'}", "times, curves, WebVTT, and a page a video to look at"
            ),
            *(
                [
                    doc.Command(
                        f"coalign run tvta --data NEW.jsonl --model {run.path}", "place other sentences"
                    )
                ]
                if config.model is None
                else []
            ),
        ],
        figures={"recall": recall, "sentences": total},
    )


_LIMITATIONS = [
    "A moment is the second of the highest score: every sentence gets one, also one that the video never shows.",
    "An interval that holds no looked-at frame is counted as missed, and nothing is learnt from it.",
]
_STEPS = ["Without eval_data the intervals that steps are held against are those of stage 1, not a person's."]


def _comparison(row: doc.ComparisonRow) -> doc.Comparison:
    return doc.Comparison(
        title="The aligner and the frozen features",
        note="Share of the sentences whose moment lies in the stated interval. Intervals are over sentences.",
        rows=[row],
        names=("Frozen features", "Aligner"),
    )


def _pictures(rows: Sequence[Mapping[str, Any]], videos: Mapping[str, Video]) -> list[Gallery]:
    """What is shown at the moments of the first sentences, where there are clips to look at."""
    every = [
        (row, one) for row in rows for one in row["sentences"] if videos[row["id"]].frames.video is not None
    ]

    def shown(row: Mapping[str, Any], one: Mapping[str, Any]) -> Shown:
        picture = videos[row["id"]].frames.at(one["time"])
        tone = {True: "good", False: "bad", None: None}[one["hit"]]
        return Shown([thumbnail(picture, clock(one["time"]))], one["text"], {"score": one["score"]}, tone)  # type: ignore[arg-type]

    note = "The frame at the moment of each sentence; set apart where the stated interval is known."
    first = every[:PICTURES]
    return gallery("What is seen there", (shown(*one) for one in first), note=note, total=len(every))


def _curves(rows: Sequence[Mapping[str, Any]]) -> list[doc.Curves]:
    """Score curves of the first sentences of the first video."""
    if not rows:
        return []
    row = rows[0]
    charts = [
        doc.Chart(
            f"{one['text'][:60]} ({clock(one['time'])})",
            [doc.Series("score", [place / row["fps"] for place in range(len(one["curve"]))], one["curve"])],
            x_label="second",
        )
        for one in row["sentences"][:CURVES]
    ]
    note = f"The first sentences of {row['id']}; all are on the pages of the folder alignments."
    return [doc.Curves(title="Score curves", note=note, charts=charts)]


def _sentences(rows: Sequence[Mapping[str, Any]]) -> doc.TableSection:
    every = [(row["id"], one) for row in rows for one in row["sentences"]]
    note = f"The first {SHOWN} of {len(every)}." if len(every) > SHOWN else ""
    words = {True: "inside", False: "outside", None: ""}
    return doc.TableSection(
        title="Moments",
        note=note,
        columns=["video", "sentence", "moment", "score", "stated", "verdict"],
        rows=[
            [
                name,
                one["text"],
                clock(one["time"]),
                one["score"],
                "" if one["start"] is None else f"{clock(one['start'])} to {clock(one['end'])}",
                words[one["hit"]],
            ]
            for name, one in every[:SHOWN]
        ],
    )


def _per_video(rows: Sequence[Mapping[str, Any]]) -> doc.TableSection:
    def share(row: Mapping[str, Any]) -> float | None:
        found = [one["hit"] for one in row["sentences"] if one["hit"] is not None]
        return sum(found) / len(found) if found else None

    return doc.TableSection(
        title="Videos",
        note=f"The first {SHOWN} of {len(rows)}." if len(rows) > SHOWN else "",
        columns=["video", "seconds", "sentences", "recall"],
        rows=[
            [row["id"], row["frames"] / row["fps"], len(row["sentences"]), share(row)] for row in rows[:SHOWN]
        ],
        units={"recall": "percent", "seconds": "seconds"},
    )


def _notes(config: Any, videos: Any) -> list[str]:
    sentences = [one for video in videos for one in video.sentences]
    late = sum(one.end is not None and one.end > config.max_seconds for one in sentences)
    unknown = sum(not one.timed for one in sentences) - late
    notes = []
    if late:
        notes.append(
            f"{late} sentences end after {config.max_seconds:g} s, the longest part that is looked at: they are neither learnt "
            "from nor counted."
        )
    if unknown:
        notes.append(
            f"{unknown} sentences have no interval, or are not alignable: they are placed and not counted."
        )
    return notes

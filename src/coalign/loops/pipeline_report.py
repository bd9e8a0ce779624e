"""What a report shows of a pipeline: how many records came and went, the scores, kept and rejected records side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

from coalign.core.files import stream_rows
from coalign.loops.pipeline import Curated
from coalign.loops.rows import Row
from coalign.report import model as doc

MOST_VALUES = 5000
"""Scores of a step that a histogram is drawn of."""


def pipeline_sections(
    done: Curated, text: Callable[[Row], str], *, title: str = "Records", examples: int = 12
) -> list[doc.AnySection]:
    """The sections on a pipeline.

    Args:
        text: of a record, as it is shown.
        title: begins the sections' titles, where a report has several pipelines.
        examples: most rejected records shown, one for each reason.
    """
    sections: list[doc.AnySection] = [funnel(done.manifest, title=f"{title}: what came of them")]
    for step, sides in done.scores(most=MOST_VALUES).items():
        samples = [doc.Values(side, values) for side, values in sides.items() if values]
        sections.append(doc.Distribution(title=f"{title}: {step}", x_label="score", samples=samples))
    shown = _side_by_side(done, text, examples)
    if shown:
        sections.append(
            doc.Samples(
                title=f"{title}: kept and rejected",
                note="For each reason its first record, beside one that was kept.",
                columns=["Kept", "Rejected"],
                rows=shown,
                better="neither",
            )
        )
    return sections


def funnel(manifest: Mapping[str, Any], *, title: str) -> doc.TableSection:
    """A row a step: records in and out, and why the others fell."""
    rows = [
        [
            step["name"],
            step["in"],
            step["out"],
            sum(step["rejected"].values()),
            ", ".join(f"{why} ({count})" for why, count in step["rejected"].items()),
        ]
        for step in manifest["steps"]
    ]
    return doc.TableSection(
        title=title,
        note=f"{manifest['kept']:,} records were kept. A step may make several of one.",
        columns=("step", "in", "out", "rejected", "why"),
        rows=rows,
        units=dict.fromkeys(("in", "out", "rejected"), "integer"),
    )


def _side_by_side(done: Curated, text: Callable[[Row], str], examples: int) -> Sequence[doc.Sample]:
    rejected: dict[str, Row] = {}
    for _, one in stream_rows(done.rejects):
        rejected.setdefault(f"{one['step']}: {one['reason']}", one["row"])
    kept = list(islice(done.rows(), examples))
    if not kept or not rejected:
        return []
    return [
        doc.Sample(why, [doc.Output(text(one)), doc.Output(text(row))])
        for (why, row), one in zip(islice(rejected.items(), examples), cycle(kept), strict=False)
    ]

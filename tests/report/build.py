"""Reports, samples and charts of a few values, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coalign.report.model import Chart, Headline, Outcome, Output, Report, Sample, Samples, Series


def report_of(*sections: Any, outcome: Outcome = "neutral", text: str = "", **fields: Any) -> Report:
    fields = {"title": "t", "method": "m", **fields}
    return Report(verdict=Headline(outcome, text), sections=[*sections], **fields)


def sample(
    *outputs: str | tuple[str, float | None] | Output, prompt: str = "p", tags: Sequence[str] = ()
) -> Sample:
    """One output a text, a text with its score, or as it is."""
    made = [
        one if isinstance(one, Output) else Output(one) if isinstance(one, str) else Output(*one)
        for one in outputs
    ]
    return Sample(prompt=prompt, outputs=made, tags=[*tags])


def samples(*rows: Sample, **fields: Any) -> Samples:
    """Rows under as many columns as the first has outputs: A, B, C."""
    columns = [*"ABC"[: len(rows[0].outputs)]]
    return Samples(**{"title": "Samples", "columns": columns, "rows": [*rows], **fields})


def chart(
    values: Sequence[Any], steps: Sequence[float] | None = None, band: Any = (), **fields: Any
) -> Chart:
    """A chart of one line, at steps 0, 1, 2, ... where none are given."""
    places = [float(n) for n in range(len(values))] if steps is None else [*steps]
    return Chart(**{"title": "c", "series": [Series("a", places, [*values], *band)], **fields})

"""The filter: records that ask for exactly one length and keep to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coalign.curation.long_writing.lengths import Counter, Reading, count_words, length_score, required_length
from coalign.data.records import Demonstration, Messages, Record
from coalign.loops.pipeline import Curated, Kept, Made, Rejected, run_pipeline
from coalign.loops.rows import Row
from coalign.loops.steps.usual import Rewrite


def asked_text(messages: Messages) -> str:
    """The request that a reply answers: the last turn of the user."""
    return next((str(one["content"]) for one in reversed(messages) if one["role"] == "user"), "")


def filter_records(
    folder: Path,
    records: Sequence[Record],
    *,
    threshold: float,
    reading: Reading = "official",
    counter: Counter = "official",
) -> Curated:
    """Send demonstrations through both stages; each that is kept has `length`, `response_length` and `score_length`.

    Stage 1 keeps a record whose request names exactly one length. Stage 2 keeps a reply whose length score reaches the
    threshold; one without words is dropped. At 80 that is from the length / 1.4 to 1.6 times the length.
    """

    def named(row: Row) -> list[Made]:
        length = required_length(asked_text(row["prompt"]), reading)
        return [Kept({**row, "length": length}) if length else Rejected(row, "not exactly one length")]

    def kept_to(row: Row) -> list[Made]:
        words = count_words(row["completion"], counter)
        if not words:
            return [Rejected(row, "no words")]
        score = length_score(row["length"], words)
        facts = {"score": score}
        if score < threshold:
            why = "too long" if words > row["length"] else "too short"
            return [Rejected({**row, "response_length": words}, why, facts)]
        return [Kept({**row, "response_length": words, "score_length": score}, facts)]

    rows = [
        {"id": str(place), "prompt": [*one.prompt], "completion": one.completion}
        for place, one in enumerate(records)
        if isinstance(one, Demonstration)
    ]
    return run_pipeline(
        folder, rows, [Rewrite("length named", named), Rewrite("length kept", kept_to)], total=len(rows)
    )

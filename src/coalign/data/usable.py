"""Records that can be read but say nothing: equal pairs, ties throughout, labels of one class."""

from __future__ import annotations

from collections.abc import Sequence

from coalign.core.errors import DataError, RecordProblem
from coalign.data.records import Feedback, Kind, Preference, Ranking, Record


def equal_pairs(records: Sequence[Record]) -> list[RecordProblem]:
    """A problem for every preference between a response and itself."""
    return [
        RecordProblem(
            record.source.file,
            record.source.line,
            "rejected",
            "the same text as the chosen response",
            "another response",
            record.source.index,
        )
        for record in records
        if isinstance(record, Preference) and record.chosen == record.rejected
    ]


def assert_contrast(records: Sequence[Record], kind: Kind, source: str) -> None:
    """Refuse records that as a whole do not say what is better than what.

    Raises:
        DataError: feedback of one label only, or rankings all of whose responses are tied.
    """
    if kind == "feedback":
        labels = {record.label for record in records if isinstance(record, Feedback)}
        if len(labels) == 1:
            found, missing = ("true", "false") if labels == {True} else ("false", "true")
            raise DataError(
                f"{source}: all {len(records)} records are labelled {found}, records labelled {missing} are needed too.",
                hint=f"Add records labelled {missing}"
                + (", or learn from these alone with `sft`." if found == "true" else "."),
            )
    if kind == "ranking":
        rankings = [record for record in records if isinstance(record, Ranking)]
        if rankings and all(len(set(record.scores)) == 1 for record in rankings):
            raise DataError(
                f"{source}: in all {len(rankings)} rankings the responses have the same score, "
                "so nothing says which is better.",
                hint="Give scores that differ, or ranks (1 is best).",
            )

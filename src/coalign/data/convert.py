"""From one kind of record to another, where the meaning is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from coalign.core.errors import DataError
from coalign.data import records as schema
from coalign.data.columns import needed_columns
from coalign.data.prepared.many import OnDisk, gathered
from coalign.data.splits import prompt_key

if TYPE_CHECKING:
    from coalign.data.readers import RecordSet

CONVERSIONS: dict[tuple[schema.Kind, schema.Kind], str] = {
    ("preference", "ranking"): "a ranking of two",
    ("preference", "feedback"): "thumbs up for the chosen and thumbs down for the rejected response",
    ("preference", "demonstration"): "the chosen response",
    ("ranking", "preference"): "the best against the worst response",
    ("ranking", "demonstration"): "the best response",
    ("feedback", "demonstration"): "the responses with thumbs up",
    ("feedback", "ranking"): "the distinct responses to one prompt, thumbs up above thumbs down",
    ("judgment", "feedback"): "the judgment's verdict",
}
"""What each conversion keeps, in words. Any kind becomes `prompt` by leaving its responses out."""


def common_kinds(kinds: Iterable[schema.Kind]) -> list[schema.Kind]:
    """The kinds with responses as which records of all these kinds can be read together."""
    reachable = [{kind, *(target for source, target in CONVERSIONS if source == kind)} for kind in kinds]
    return sorted(set.intersection(*reachable) - {"prompt"}) if reachable else []


def convert(
    records: Sequence[schema.Record], found: schema.Kind, wanted: schema.Kind
) -> Sequence[schema.Record]:
    """Records of kind `wanted` from records of kind `found`.

    Records that lie on disk stay there, but for thumbs up and down that are grouped by their prompts.

    A record that has no counterpart (a ranking of ties as a preference, thumbs down as a demonstration) is left out;
    the difference in length says how many.

    Raises:
        DataError: there is no conversion that keeps the meaning.
    """
    if found == wanted:
        return records
    if wanted != "prompt" and (found, wanted) not in CONVERSIONS:
        possible = sorted(target for source, target in CONVERSIONS if source == found)
        raise DataError(
            f"{found} records were found, {wanted} records are needed.",
            hint=f"{found} records can be read as: {', '.join(possible)}." if possible else None,
        )
    if (found, wanted) == ("feedback", "ranking"):
        return _grouped(records)
    made = (one for record in records for one in _convert(record, wanted))
    return gathered(made) if isinstance(records, OnDisk) else list(made)


def converted(found: RecordSet, wanted: schema.Kind) -> Sequence[schema.Record]:
    """The records of a source as `convert` gives them.

    Raises:
        DataError: of `convert`, with the source, what was found in which columns, and which are needed.
    """
    try:
        return convert(found.records, found.kind, wanted)
    except DataError as error:
        about = (
            f"Read as {found.recognised}. Needed: {needed_columns(wanted)}; other names are told with --column NAME=COLUMN, and "
            "a column that is null in every record counts as missing."
        )
        hint = f"{error.hint}\n{about}" if error.hint else about
        raise DataError(f"{found.source}: {error.message}", error.problems, hint=hint) from error


def _convert(record: schema.Record, wanted: schema.Kind) -> list[schema.Record]:
    match record, wanted:
        case _, "prompt":
            return [schema.PromptRecord.of(record)]
        case schema.Preference(), "ranking":
            scores = _scores(record)
            responses = (record.chosen, record.rejected)
            return [
                schema.Ranking.of(
                    record,
                    responses=responses,
                    scores=scores or (1.0, 0.0),
                    absolute=scores is not None,
                )
            ]
        case schema.Preference(), "feedback":
            pair = ((record.chosen, True), (record.rejected, False))
            return [schema.Feedback.of(record, completion=text, label=label) for text, label in pair]
        case schema.Preference(), "demonstration":
            return [schema.Demonstration.of(record, completion=record.chosen)]
        case schema.Ranking(), "preference":
            (chosen, high), *_, (rejected, low) = _ordered(record)
            scores = {"chosen_score": high, "rejected_score": low}
            pair = schema.Preference.of(record, chosen=chosen, rejected=rejected, **scores)
            return [] if high == low else [pair]
        case schema.Ranking(), "demonstration":
            return [schema.Demonstration.of(record, completion=_ordered(record)[0][0])]
        case schema.Feedback(), "demonstration":
            return [schema.Demonstration.of(record, completion=record.completion)] if record.label else []
        case schema.Judgment(), "feedback":
            if record.label is None:
                return []
            return [schema.Feedback.of(record, completion=record.completion, label=record.label)]
        case _:
            raise AssertionError(f"no conversion of {type(record).__name__} to {wanted}")


def _ordered(record: schema.Ranking) -> list[tuple[str, float]]:
    """Responses with their scores, the best first; of equals the earlier one."""
    return sorted(zip(record.responses, record.scores, strict=True), key=lambda one: -one[1])


def _grouped(records: Sequence[schema.Record]) -> list[schema.Record]:
    """A ranking of scores 1 and 0 for each prompt with two or more responses; thumbs down wins over up for one text."""
    groups: dict[str, list[schema.Feedback]] = {}
    for record in records:
        if isinstance(record, schema.Feedback):
            groups.setdefault(prompt_key(record), []).append(record)
    rankings: list[schema.Record] = []
    for group in groups.values():
        labels: dict[str, bool] = {}
        for record in group:
            labels[record.completion] = record.label and labels.get(record.completion, True)
        if len(labels) > 1:
            texts = sorted(labels, key=lambda text: not labels[text])
            scores = tuple(float(labels[text]) for text in texts)
            rankings.append(
                schema.Ranking.of(group[0], responses=tuple(texts), scores=scores, absolute=False)
            )
    return rankings


def _scores(record: schema.Preference) -> tuple[float, float] | None:
    """A preference's scores where both are there and agree with it."""
    chosen, rejected = record.chosen_score, record.rejected_score
    if chosen is None or rejected is None or math.isnan(chosen) or math.isnan(rejected) or chosen <= rejected:
        return None
    return chosen, rejected

"""Records that can be read but say nothing: equal pairs, ties throughout, labels of one class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Protocol, TypeVar

from coalign.core.errors import DataError, RecordProblem, rows_with
from coalign.core.progress import progress
from coalign.data.encoding import EncodedRecord
from coalign.data.media.errors import MediaError
from coalign.data.media.pictures import picture_hash
from coalign.data.records import Feedback, Kind, Preference, Ranking, Record, Shown, responses_of


def equal_responses(records: Sequence[Record]) -> list[RecordProblem]:
    """A problem for every record that calls a response better than itself: a preference between equal texts, a
    ranking that gives one text two scores.
    """
    return [record.problem(*found) for record in records if (found := _equal(record)) is not None]


def undecodable(records: Sequence[Record]) -> list[RecordProblem]:
    """A problem for every picture of the records that cannot be decoded."""
    return [
        problem for record in records for one in record.pictures if (problem := _undecodable(record, one))
    ]


def picture_hashes(records: Sequence[Record]) -> list[list[str]]:
    """A hash of the pixels of every picture of each record.

    Raises:
        DataError: pictures that cannot be decoded, every one named.
    """
    problems: list[RecordProblem] = []

    def hashed(record: Record, one: Shown) -> str:
        try:
            return picture_hash(one)
        except MediaError as error:
            problems.append(_problem_of(record, error))
            return ""

    found = [[hashed(record, one) for one in record.pictures] for record in records]
    if problems:
        raise DataError(
            f"{rows_with(problems)} of {len(records)} records have pictures that cannot be decoded.", problems
        )
    return found


def _undecodable(record: Record, picture: Shown) -> RecordProblem | None:
    try:
        picture.open()
    except MediaError as error:
        return _problem_of(record, error)
    return None


def _problem_of(record: Record, error: MediaError) -> RecordProblem:
    return record.problem("images", f"{error.file}: {error.problem}", error.expected)


class Pictured(Protocol):
    """Anything with a picture."""

    @property
    def image(self) -> Shown: ...


SomePictured = TypeVar("SomePictured", bound=Pictured)


def openable(items: Sequence[SomePictured]) -> tuple[list[SomePictured], list[str]]:
    """The items whose picture can be decoded, and what is wrong with the others."""
    found, broken = [], []
    with progress(len(items), "Opening", "picture") as bar:
        for one in items:
            try:
                one.image.open()
                found.append(one)
            except MediaError as error:
                broken.append(error.message)
            bar.advance()
    return found, broken


def repeated_ids(records: Sequence[Record]) -> list[RecordProblem]:
    """A problem for every record whose id an earlier one has."""
    seen: set[str] = set()
    problems = []
    for record in records:
        if record.id in seen:
            problems.append(record.problem("id", f"{record.id!r} occurs twice", "one id a row"))
        seen.add(record.id)
    return problems


def _equal(record: Record) -> tuple[str, str, str] | None:
    """Field, problem and expectation, or None."""
    if isinstance(record, Preference) and record.chosen == record.rejected:
        return "rejected", "the same text as the chosen response", "another response"
    if isinstance(record, Ranking):
        scores: dict[str, float] = {}
        for place, (text, score) in enumerate(zip(record.responses, record.scores, strict=True)):
            if scores.setdefault(text, score) != score:
                first = record.responses.index(text)
                field = f"responses[{place}]"
                return field, f"the same text as responses[{first}] with another score", "one score a text"
    return None


_CONTROL = re.compile(
    r"<\|(?:im_start|im_end|start_header_id|end_header_id|eot_id|begin_of_text|endoftext|user|assistant|system|end)\|>"
    r"|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<｜(?:User|Assistant|end▁of▁sentence|begin▁of▁sentence)｜>"
    r"|^<s>|</s>$|^\s*### (?:Instruction|Human|User):"
)
"""What chat templates write around turns."""
_IN_CONTROL = ("<", "[", "###")
"""Each mark of `_CONTROL` holds one of these, and few texts do; to look for them takes a tenth of the time."""


def template_marks(record: Record) -> list[str]:
    """The first mark of a chat template that a text of the record holds, or nothing."""
    likely = (text for text in _texts(record) if any(one in text for one in _IN_CONTROL))
    mark = next(filter(None, map(_CONTROL.search, likely)), None)
    return [mark.group().strip()] if mark else []


def written_with_template(found: Counter[str]) -> list[str]:
    """A warning where texts already hold what a chat template writes, so that it would be written twice.

    Args:
        found: `template_marks` of all records.
    """
    if not found:
        return []
    return [
        (
            f"Records whose text already holds a chat template's marks ({', '.join(mark for mark, _ in found.most_common(3))}): "
            f"{found.total():,}. The model's template would be put around them once more; plain text or messages are needed."
        )
    ]


def _texts(record: Record) -> list[str]:
    return [*(one["content"] for one in record.prompt), *responses_of(record)]


def compares_nothing(encoded: EncodedRecord) -> bool:
    """Whether a record of several responses has one sequence of tokens only, so that no objective can tell them apart."""
    return len(encoded.response_ids) > 1 and all(
        ids == encoded.response_ids[0] for ids in encoded.response_ids
    )


def assert_contrast(records: Sequence[Record], kind: Kind, source: str) -> None:
    """Refuse records that as a whole do not say what is better than what.

    Raises:
        DataError: feedback of one label only, or rankings all of whose responses are tied.
    """
    if kind == "feedback" and records:
        labels: set[bool] = set()
        for record in records:
            if isinstance(record, Feedback):
                labels.add(record.label)
            if len(labels) > 1:
                return
        if labels:
            found, missing = ("true", "false") if labels == {True} else ("false", "true")
            raise DataError(
                f"{source}: all {len(records)} records are labelled {found}, records labelled {missing} are needed too.",
                hint=f"Add records labelled {missing}"
                + (", or learn from these alone with `sft`." if found == "true" else "."),
            )
    if kind == "ranking":
        ties = 0
        for record in records:
            if isinstance(record, Ranking):
                if len(set(record.scores)) > 1:
                    return
                ties += 1
        if ties:
            raise DataError(
                f"{source}: in all {ties} rankings the responses have the same score, "
                "so nothing says which is better.",
                hint="Give scores that differ, or ranks (1 is best).",
            )

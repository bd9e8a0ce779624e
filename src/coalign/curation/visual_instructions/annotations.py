"""What people say of questions about a picture, and of answers to one of them: ranked groups, and corrupted copies beside them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coalign.core.errors import DataError, RecordProblem
from coalign.curation.visual_instructions.conversations import (
    folder_of,
    portable_picture,
    without_placeholder,
)
from coalign.data.messages import FieldError, describe
from coalign.data.rows import Row, iter_rows

LISTS = (
    "questions",
    "answers",
    "question_ranks",
    "answer_ranks",
    "question_scores",
    "answer_scores",
    "score",
    "conversations",
)
FORM = '{"image": "a.jpg", "questions": [...], "question_ranks": [2, 1, 3, 3], "answers": [...], "answer_ranks": [1, 2, 3, 4]}'


@dataclass(frozen=True)
class RankedTexts:
    """Texts about one picture, ordered by people.

    Attributes:
        image: as a row names it; None without a picture.
        question: that the texts answer; empty where they are questions. Of several turns one a line.
        texts: [K].
        values: [K] how good each is, highest best; equal values are ties.
    """

    id: str
    image: str | None
    question: str
    texts: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def pairs(self) -> int:
        """Pairs of texts of different value."""
        return sum(one > other for one in self.values for other in self.values)


@dataclass(frozen=True)
class Annotations:
    """Groups of questions, groups of answers, and the records that could not be used."""

    questions: list[RankedTexts]
    answers: list[RankedTexts]
    problems: list[RecordProblem]


def read_annotations(
    sources: Sequence[str],
    *,
    image_folder: Path | None = None,
    on_bad_record: Literal["fail", "skip"] = "fail",
) -> Annotations:
    """Read ranked questions and answers of files, folders or globs.

    A record has `questions` with `question_ranks` (1 is best) or `question_scores` (highest is best), and `answers` with
    `answer_ranks` or `answer_scores` to `question` (by default the first of the questions), or one of both. The forms of the
    official data are read too: `questions`, each a list of turns, with `score`; and `conversations` whose answers are
    lists with a list `score` beside them.

    Raises:
        DataError: records that cannot be used (under `fail`), or none that can.
    """
    found = Annotations([], [], [])
    for source in sources:
        prefix = f"{source}:" if len(sources) > 1 else ""
        for row in iter_rows(source, lists=LISTS):
            place = row.source(source)
            if row.value is None:
                found.problems.extend([row.problem] if row.problem else [])
                continue
            try:
                folder = image_folder or folder_of(place.file)
                for one in list(_groups(row, row.value, prefix, folder)):
                    (found.answers if one.question else found.questions).append(one)
            except FieldError as error:
                found.problems.append(place.problem(error.field or "row", error.problem, error.expected))
    if found.problems and on_bad_record == "fail":
        hint = f"A record is {FORM}. --on-bad-record skip leaves such records out."
        raise DataError(
            f"{', '.join(sources)}: {len(found.problems)} annotations cannot be used.",
            found.problems,
            hint=hint,
        )
    return found


def _groups(row: Row, value: Mapping[str, Any], prefix: str, folder: Path | None) -> Iterator[RankedTexts]:
    name = f"{prefix}{value.get('id', row.index)}"
    image = portable_picture(value.get("image"), folder)
    questions = _texts(value["questions"], "questions") if "questions" in value else ()
    if questions:
        yield RankedTexts(name, image, "", questions, _values(value, ("question", "score"), len(questions)))
    if "answers" in value:
        asked = without_placeholder(str(value.get("question") or (questions[0] if questions else "")))
        if not asked:
            raise FieldError("answers without a question", "the question that they answer", "question")
        answers = _texts(value["answers"], "answers")
        yield RankedTexts(
            f"{name}/answers", image, asked, answers, _values(value, ("answer", "score"), len(answers))
        )
    said = value.get("conversations")
    if isinstance(said, list):
        for place in range(0, len(said) - 1, 2):
            question, reply = said[place], said[place + 1]
            if isinstance(reply, Mapping) and isinstance(reply.get("value"), list):
                answers = _texts(reply["value"], f"conversations[{place + 1}].value")
                asked = without_placeholder(str(question.get("value", "")))
                values = _values({"answer_scores": reply.get("score")}, ("answer",), len(answers))
                yield RankedTexts(f"{name}/{place // 2}", image, asked, answers, values)
    elif not questions and "answers" not in value:
        raise FieldError("neither questions nor answers", FORM, "questions")


def _texts(value: Any, field: str) -> tuple[str, ...]:
    """Candidates; one of several turns is one text, a line a turn."""
    if not isinstance(value, list) or len(value) < 2:
        raise FieldError(describe(value), "a list of two texts or more", field)
    found = []
    for place, one in enumerate(value):
        turns = one if isinstance(one, list) else [one]
        if not turns or not all(isinstance(each, str) and without_placeholder(each) for each in turns):
            raise FieldError(
                describe(one), "a text that is not empty, or a list of them", f"{field}[{place}]"
            )
        found.append("\n".join(map(without_placeholder, turns)))
    return tuple(found)


def _values(value: Mapping[str, Any], names: Sequence[str], size: int) -> tuple[float, ...]:
    candidates = [
        (f"{one}{end}", sign)
        for one in names
        for end, sign in (("_ranks", -1.0), ("_scores", 1.0), ("", 1.0))
    ]
    field, sign = next(
        (
            (one, sign)
            for one, sign in candidates
            if value.get(one) is not None and one not in ("question", "answer")
        ),
        (f"{names[0]}_ranks", 1.0),
    )
    given = value.get(field)
    usable = (
        isinstance(given, list)
        and len(given) == size
        and all(isinstance(one, int | float) and not isinstance(one, bool) and one == one for one in given)
    )
    if not usable or given is None:
        raise FieldError(describe(given), f"{size} numbers", field)
    return tuple(sign * one for one in given)


def augmented(groups: Sequence[RankedTexts], rate: float, seed: int) -> list[RankedTexts]:
    """Further pairs: with the chance `rate` each candidate against a corrupted copy of itself, which is worse.

    Source: official code, whose questions are spelt out letter by letter there, an error that is not followed.
    """
    found = []
    for group in groups:
        draw = random.Random(f"{seed}/{group.id}/augment")
        for number, text in enumerate(group.texts):
            if draw.random() < rate and (worse := corrupted(text, draw)) != text:
                found.append(
                    RankedTexts(
                        f"{group.id}~{number}", group.image, group.question, (text, worse), (1.0, 0.0)
                    )
                )
    return found


def corrupted(text: str, draw: random.Random) -> str:
    """The text with its words shuffled, with half of them left out, or (of several lines) with a line in place of another."""
    lines = text.split("\n")
    ways = ["shuffled", "dropped", *(["repeated"] if len(lines) > 1 else [])]
    way = draw.choice(ways)
    if way == "repeated":
        lost, taken = draw.sample(range(len(lines)), 2)
        return "\n".join(lines[taken] if place == lost else line for place, line in enumerate(lines))
    changed = []
    for line in lines:
        words = line.split()
        if way == "shuffled":
            draw.shuffle(words)
        else:
            words = [one for one in words if draw.random() < 0.5] or words[:1]
        changed.append(" ".join(words))
    return "\n".join(changed)

"""Solutions whose final answer can be checked: the answer in a text, and a model's own solutions marked by it.

What the final answer of a text is, and when two are the same, says `coalign.measures.answers`. A right answer by wrong
reasoning counts as right. Where nobody can tell whether an answer is the right one, the solution is left out, counted
and said: neither right nor wrong.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coalign.core.errors import DataError, RecordProblem
from coalign.data.records import Demonstration, Messages, Ranking, Record
from coalign.loops.rows import row_id
from coalign.measures import symbolic
from coalign.measures.answers import Answer, final_answer, parse_answer, same_answer


@dataclass(frozen=True)
class Question:
    """A question to sample solutions to.

    Attributes:
        id: names its samples, see `row_id`.
        answer: the right one.
    """

    id: str
    record: Demonstration
    answer: Answer

    @property
    def prompt(self) -> Messages:
        return self.record.prompt


def questions_of(records: Sequence[Record], answer_column: str | None = None) -> list[Question]:
    """The demonstrations with their final answers: from a column, else from the reference solution (the completion).

    Raises:
        DataError: records without a final answer; every one named.
    """
    found: list[Question] = []
    problems: list[RecordProblem] = []
    demonstrations = [one for one in records if isinstance(one, Demonstration)]
    for place, record in enumerate(demonstrations):
        if answer_column is None:
            answer = final_answer(record.completion)
        else:
            value = record.extra.get(answer_column)
            answer = None if value is None or isinstance(value, bool) else parse_answer(str(value))
        if answer is None:
            problems.append(_without_answer(record, answer_column))
            continue
        found.append(Question(row_id(place, record.prompt), record, answer))
    if problems:
        raise DataError(
            f"{len(problems)} of {len(records)} records have no final answer.",
            problems,
            hint="End each solution with `#### ANSWER`, or name the column that has it (--answer-column).",
        )
    return found


def _without_answer(record: Demonstration, column: str | None) -> RecordProblem:
    what = "has no final answer" if column is None else f"holds {record.extra.get(column)!r}"
    wanted = "a marked answer (####, A:, \\boxed{}) or a number" if column is None else "the final answer"
    return record.problem(column or "completion", what, wanted)


@dataclass(frozen=True)
class Marked:
    """Groups of marked solutions, and what became of the samples.

    Attributes:
        groups: rankings of the reference solution (score NaN: imitated, not ranked) and the distinct samples (score 1
            for right, 0 for wrong).
        right, wrong: samples, repeated ones counted.
        repeated, empty: samples that were left out: equal to an earlier one, without text.
        unanswered: wrong ones without a final answer.
        unscorable: samples whose answer nobody can compare with the right one; they are left out.
        unfinished: samples that ran out of tokens.
        contrasts: groups with right and wrong samples: the others teach the reference solution alone.
    """

    groups: list[Ranking] = field(default_factory=list)
    right: int = 0
    wrong: int = 0
    repeated: int = 0
    empty: int = 0
    unanswered: int = 0
    unscorable: int = 0
    unfinished: int = 0
    contrasts: int = 0

    @property
    def accuracy(self) -> float:
        """Share of right samples; NaN without any."""
        total = self.right + self.wrong
        return self.right / total if total else math.nan

    def told(self) -> str:
        """What became of the samples, in one sentence."""
        total = self.right + self.wrong
        text = f"{self.right} of {total} sampled solutions to {len(self.groups)} questions are right"
        text += f"; {self.contrasts} questions have right and wrong ones"
        left_out = {"repeat another": self.repeated, "are empty": self.empty}
        text += "".join(f"; {count} {why} and are left out" for why, count in left_out.items() if count)
        if self.unanswered:
            text += f"; {self.unanswered} give no final answer and count as wrong"
        if self.unscorable:
            text += f"; {self.unscorable} answers cannot be compared with the right ones and are left out"
            text += "" if symbolic.is_available() else " (formulas: pip install 'coalign[math]')"
        if self.unfinished:
            text += f"; {self.unfinished} ran out of tokens (--max-new-tokens)"
        return text


def mark(questions: Sequence[Question], rows: Sequence[Mapping[str, Any]]) -> Marked:
    """Mark the samples to every question by their final answers.

    Args:
        rows: for each question its `responses` and `finish_reasons`, as `answer_rows` keeps them.
    """
    counts: Counter[str] = Counter()
    groups = []
    for question, row in zip(questions, rows, strict=True):
        marks: dict[str, float] = {}
        for text, reason in zip(row["responses"], row["finish_reasons"], strict=True):
            text = text.strip()
            answer = final_answer(text)
            correct = answer is not None and same_answer(answer, question.answer)
            counts["unscorable" if correct is None else "right" if correct else "wrong"] += 1
            counts["unanswered"] += answer is None and bool(text)
            counts["unfinished"] += reason == "length"
            counts["empty"] += not text
            counts["repeated"] += text in marks
            if text and correct is not None:
                marks[text] = float(correct)
        counts["contrasts"] += len(set(marks.values())) == 2
        group = Ranking.of(
            question.record,
            responses=(question.record.completion, *marks),
            scores=(math.nan, *marks.values()),
        )
        groups.append(group)
    return Marked(groups, **counts)


def with_reference(records: Sequence[Record], column: str) -> list[Record]:
    """The rankings with their reference solution as a further response of score NaN: imitated, not ranked.

    Raises:
        DataError: records without a text in the column; every one named.
    """
    found = [(record, record.extra.get(column)) for record in records if isinstance(record, Ranking)]
    problems = [
        one.problem(column, f"holds {text!r}", "the reference solution")
        for one, text in found
        if not isinstance(text, str) or not text.strip()
    ]
    if problems:
        raise DataError(f"{len(problems)} of {len(records)} records have no reference solution.", problems)
    return [
        replace(one, responses=(*one.responses, str(text)), scores=(*one.scores, math.nan))
        for one, text in found
    ]

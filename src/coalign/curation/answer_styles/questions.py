"""Questions with one answer of each strategy, and the model's own answers that stand as examples of its style."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coalign.core.errors import ConfigError, DataError, RecordProblem
from coalign.curation.answer_styles.scores import example_places
from coalign.judging.store import content_hash
from coalign.measures.answers import final_answer, parse_answer, same_answer

if TYPE_CHECKING:
    from coalign.data.records import Demonstration, Messages, Record

INTRODUCTION = "Some examples follow of the style in which the answer is to be written."
EXAMPLE = "Example of the style:"
REQUEST = "Answer the question at the beginning in the style of the examples."


@dataclass(frozen=True)
class Question:
    """A question with an answer of each strategy.

    Attributes:
        id: hash of the prompt.
        number: among all questions, before any was left out.
        answers: strategy to its record.
        gold: the right final answer, where it is known.
    """

    id: str
    number: int
    prompt: Messages
    answers: Mapping[str, Demonstration]
    gold: str | None = None


@dataclass(frozen=True)
class Shown:
    """A question as it is scored.

    Attributes:
        prompt: with the model's own answers as examples.
        examples: how many.
    """

    question: Question
    prompt: Messages
    examples: int

    @property
    def texts(self) -> list[str]:
        """The strategies' answers, in their order."""
        return [one.completion for one in self.question.answers.values()]


@dataclass(frozen=True)
class Own:
    """An answer of the model itself.

    Attributes:
        question: hash of the prompt that it answers.
    """

    question: str
    text: str


def strategy_of(record: Record, column: str) -> str:
    """The strategy of an answer: its column, else the tag of its source; empty without both."""
    return str(record.extra.get(column) or record.source.tag or "")


def common_questions(
    records: Sequence[Demonstration], column: str, gold: str | None, notes: list[str]
) -> list[Question]:
    """The questions that every strategy answers, in the order of the first strategy's; what was left out goes to `notes`.

    Raises:
        DataError: an answer without a strategy or, with `gold`, without a right answer; no common question.
        ConfigError: one strategy alone.
    """
    problems: list[RecordProblem] = []
    found: dict[str, dict[str, Any]] = {}
    doubled: Counter[str] = Counter()
    for record in records:
        name = strategy_of(record, column)
        if not name:
            problems.append(
                record.problem(column, "is missing", "the name of the strategy, or a tag of the source")
            )
        if gold is not None and record.extra.get(gold) is None:
            problems.append(record.problem(gold, "is missing", "the right answer"))
        mine = found.setdefault(name, {})
        doubled[name] += content_hash(record.prompt) in mine
        mine.setdefault(content_hash(record.prompt), record)
    if problems:
        raise DataError(f"{len(problems)} of {len(records)} answers cannot be used.", problems)
    if len(found) < 2:
        raise ConfigError(
            f"data: one strategy ({', '.join(found)}), expected at least two to choose among.",
            hint=f"Name them in a column {column!r}, or give a file each with a tag: --data a.jsonl,tag=a --data b.jsonl,tag=b.",
        )
    first, *others = found.values()
    common = [key for key in first if all(key in one for one in others)]
    for name, mine in found.items():
        left = len(mine) - len(common)
        said = f"{left} questions that not every strategy answers" if left else ""
        twice = f"{doubled[name]} further answers to the same question" if doubled[name] else ""
        if said or twice:
            notes.append(f"{name}: left out {' and '.join(filter(None, (said, twice)))}")
    if not common:
        raise DataError(
            "No question is answered by every strategy.",
            hint="Strategies are compared on the same questions: "
            + ", ".join(f"{k} has {len(v)}" for k, v in found.items()),
        )
    return [
        Question(
            key,
            number,
            first[key].prompt,
            {name: mine[key] for name, mine in found.items()},
            None if gold is None else str(first[key].extra[gold]),
        )
        for number, key in enumerate(common)
    ]


def is_right(text: str, gold: str) -> bool:
    """Whether a text's final answer is the right one; where that cannot be said it is not."""
    said, known = final_answer(text), parse_answer(gold)
    return said is not None and known is not None and same_answer(said, known) is True


def shown_with(prompt: Messages, examples: Sequence[str]) -> Messages:
    """The prompt with answers of the model to other questions, answer texts alone, as examples of its style; without any
    the prompt as it is.
    """
    if not examples:
        return prompt
    *before, last = prompt
    parts = [last["content"], INTRODUCTION, *(f"{EXAMPLE}\n{one}" for one in examples), REQUEST]
    asked: Any = {**last, "content": "\n\n".join(parts)}
    return [*before, asked]


def examples_of(question: Question, pool: Sequence[Own], count: int) -> list[str]:
    """The pool's answers that stand before a question: a window that moves by one from question to question and is the
    same for all strategies; never an answer to the question itself.
    """
    others = [one.text for one in pool if one.question != question.id]

    return [others[place] for place in example_places(question.number, len(others), count)]


def fitted(
    question: Question,
    pool: Sequence[Own],
    count: int,
    tokens: Callable[[Messages, Sequence[str]], int],
    most: int,
) -> Shown | None:
    """The question with as many examples as leave room for the longest answer, fewer from the end.

    Args:
        tokens: of a prompt with the longest of some answers.
        most: of them.

    Returns:
        None where even the bare prompt is too long.
    """
    examples = examples_of(question, pool, count)
    answers = [one.completion for one in question.answers.values()]
    for number in range(len(examples), -1, -1):
        shown = shown_with(question.prompt, examples[:number])
        if tokens(shown, answers) <= most:
            return Shown(question, shown, number)
    return None

"""What a model knows, estimated from its own samples, and responses that say so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from coalign.core.errors import DataError, RecordProblem
from coalign.data.messages import FieldError, describe
from coalign.data.rows import Row, assert_unique, iter_rows, parse_each
from coalign.measures.declining import IDK

Method = Literal["sft-baseline", "absolute", "confidence-num", "confidence-verb", "multisample"]
METHODS: tuple[Method, ...] = get_args(Method)
_UNSURE = (
    "I'm only about {percent}% confident to answer the question correctly, but based on my understanding and knowledge, "
    "here's what I think is correct. "
)
_SURE = (
    "I'm about {percent}% confident to answer the question correctly, and based on my understanding and knowledge, here's "
    "what I think is correct. "
)
_IN_WORDS = (
    (0.2, "I'm really not sure about this, but "),
    (0.4, "I'm not completely sure about this, but "),
    (0.6, "I don't have strong feelings either way, but "),
    (0.8, "I'm fairly confident that "),
    (1.0, "I'm absolutely certain that "),
)
"""Upper bound of the expected accuracy to how it is put."""


@dataclass(frozen=True)
class Question:
    """A question with its gold answers.

    Attributes:
        split: `train` or `test`, where the file says it.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    split: str | None = None


@dataclass(frozen=True)
class AnswerSamples:
    """Answers of a model to one question and whether they are right.

    Attributes:
        greedy: its most probable answer.
        samples: answers sampled at temperature 1.
        gold: the gold answer.
    """

    greedy: str
    greedy_right: bool
    samples: tuple[str, ...]
    samples_right: tuple[bool, ...]
    gold: str

    @property
    def expected_accuracy(self) -> float:
        """Share of right samples; 0 without samples."""
        return sum(self.samples_right) / len(self.samples) if self.samples else 0.0

    @property
    def first_right(self) -> str | None:
        """The greedy answer where it is right, else the first right sample."""
        if self.greedy_right:
            return self.greedy
        return next((one for one, right in zip(self.samples, self.samples_right, strict=True) if right), None)


def responses_to_learn(known: AnswerSamples, method: Method, *, threshold: float = 0.1) -> list[str]:
    """What the model is taught to say to the question: one response, or one a sample (`multisample`).

    - `sft-baseline`: the first right answer, else the gold answer as a sentence.
    - `absolute`: the first right answer of a known question, else the sentence `IDK`. With the default threshold a
      question is known when any answer is right, the greedy one included; with a higher one, when so many samples are.
    - `confidence-num`, `confidence-verb`: `IDK` where no sample is right, even when the greedy answer is (as in the
      official code), else the expected accuracy in numbers or words before the first right answer.
    - `multisample`: every sample as it is where it is right, else `IDK`.

    Source: arXiv 2312.07000, section 4, and its official code.
    """
    right, accuracy = known.first_right, known.expected_accuracy
    if method == "multisample":
        pairs = zip(known.samples, known.samples_right, strict=True)
        return [one if correct else IDK for one, correct in pairs]
    if method == "sft-baseline":
        return [right if right is not None else as_sentence(known.gold)]
    if method == "absolute":
        lowest = 1 / max(len(known.samples), 1)
        knows = right is not None and (threshold <= lowest or accuracy >= threshold)
        return [right if knows and right is not None else IDK]
    if accuracy == 0 or right is None:
        return [IDK]
    if method == "confidence-num":
        prefix = _UNSURE if accuracy <= 0.5 else _SURE
        return [prefix.format(percent=round(100 * accuracy)) + right]
    return [in_words(accuracy) + lowered(right)]


def in_words(accuracy: float) -> str:
    """The words before an answer of this expected accuracy, in (0, 1]."""
    return next(words for bound, words in _IN_WORDS if accuracy <= bound + 1e-9)


def lowered(answer: str) -> str:
    """The answer with a small first letter; the letter of an option (`A`, `B.`, `C)`) stays."""
    if answer[:1] in tuple("ABCD") and answer[1:2] in ("", ".", ")", ":"):
        return answer
    return answer[:1].lower() + answer[1:]


def as_sentence(answer: str) -> str:
    """The answer with a capital first letter and a full stop."""
    answer = answer.strip()
    ended = answer if answer.endswith((".", "!", "?")) else f"{answer}."
    return ended[:1].upper() + ended[1:]


def read_questions(source: str, *, split: str = "train", limit: int | None = None) -> list[Question]:
    """Questions from any file of rows: `question`, and `answers` (a list), `gold_answer` or `answer`.

    TriviaQA's `answer` with `aliases` and `normalized_aliases` is read too. A column `split` may say train or test.

    Raises:
        DataError: the source cannot be read, or a row has no question or no answer; every problem is listed.
    """
    problems: list[RecordProblem] = []
    questions = list(
        itertools.islice(parse_each(iter_rows(source, split), source, _question, problems), limit)
    )
    if problems:
        raise DataError(f"{source}: {len(problems)} problems.", problems)
    assert_unique((one.id for one in questions), source)
    return questions


def _question(row: Row) -> Question:
    value = row.value or {}
    text, answers, part = value.get("question"), _answers(value), value.get("split")
    found = [
        ("question", describe(text), "text", not isinstance(text, str) or not text.strip()),
        ("answers", "no answer", "a text or a list of texts", not answers),
        ("split", describe(part), "train or test", part not in (None, "train", "test")),
    ]
    wrong = [FieldError(problem, expected, name) for name, problem, expected, bad in found if bad]
    if wrong:
        raise ExceptionGroup("a question that cannot be used", wrong)
    return Question(str(value.get("id", row.index)), str(text), answers, part)


def _answers(row: Any) -> tuple[str, ...]:
    """The gold answers as texts; of a worked solution that ends in `#### 72` (GSM8K) what stands there."""
    for name in ("answers", "gold_answer", "answer"):
        value = row.get(name)
        if isinstance(value, dict):
            value = [value.get("value"), *(value.get("aliases") or [])]
        values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        texts = [_gold(one) for one in values if isinstance(one, str | int | float)]
        found = [one for one in texts if one]
        if found:
            return tuple(dict.fromkeys(found))
    return ()


def _gold(value: str | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).rpartition("####")[2].strip()


def split_questions(
    questions: Sequence[Question], test_fraction: float
) -> tuple[list[Question], list[Question]]:
    """Training and test questions: by their `split` where all have one, else the last share is the test.

    Raises:
        DataError: one part is empty, or only some have a split.
    """
    named = [one for one in questions if one.split is not None]
    if named and len(named) < len(questions):
        raise DataError(f"{len(named)} of {len(questions)} questions have a split, expected all or none.")
    if named:
        training = [one for one in questions if one.split == "train"]
        test = [one for one in questions if one.split == "test"]
    else:
        kept = len(questions) - math.ceil(test_fraction * len(questions))
        training, test = list(questions[:kept]), list(questions[kept:])
    if not test or not training:
        raise DataError(
            f"{len(training)} questions to learn from and {len(test)} to test on, expected some of both."
        )
    return training, test

"""What a model knows, estimated from its own samples, and responses that say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

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

"""PN-VQA: a model that sees answers a yes/no question about every element, asked once for yes and once for no."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from coalign.data.media.conversations import question_about
from coalign.data.media.pictures import Picture
from coalign.vision.fine_grained.elements import category_of, phrase_of
from coalign.vision.fine_grained.items import Item
from coalign.vision.fine_grained.losses import contrasted

if TYPE_CHECKING:
    from PIL import Image

    from coalign.data.records import Messages
    from coalign.models.backends.options import BackendOptions
    from coalign.models.generation.generator import TransformersGenerator

YES, NO = "yes", "no"
POSITIVE = (
    'Look at the image. Is the answer to this question "yes"? {question} Reply with one word: yes or no.'
)
NEGATIVE = (
    'Look at the image. Is the answer to this question "no"? {question} Reply with one word: yes or no.'
)
QUESTION = "Does the image show {phrase}?"
TOP = 20
"""Log-probabilities that an endpoint is asked for; more are mostly refused."""


class YesNoModel(Protocol):
    """A model that sees and answers with yes or no."""

    name: str

    def p_yes(self, pictures: Sequence[Image.Image], requests: Sequence[str]) -> list[float | None]:
        """Of each picture and request the probability of yes against no as the first word; None where neither is among
        what the model says.
        """
        ...

    def close(self) -> None:
        """Let the model go."""
        ...


@dataclass(frozen=True)
class Asked:
    """A question about an element.

    Attributes:
        positive, negative: P(yes) when asked whether the answer is yes, and whether it is no; None where there is none.
    """

    element: str
    question: str
    positive: float | None
    negative: float | None

    @property
    def score(self) -> float | None:
        """`(P_T + 1 - P_F) / 2`; None where one of both is missing."""
        if self.positive is None or self.negative is None:
            return None
        return float(contrasted(*map(torch.tensor, (self.positive, self.negative))))


def question_of(item: Item, element: str, template: str = QUESTION) -> str:
    """The item's own question about an element, or the template's with `{phrase}`, `{category}` and `{prompt}`."""
    own = item.questions.get(element) or item.questions.get(phrase_of(element))
    if own:
        return own
    parts = {"phrase": phrase_of(element), "category": category_of(element), "prompt": item.prompt}
    return template.format_map(parts)


def ask(
    model: YesNoModel,
    items: Sequence[Item],
    pictures: Sequence[Image.Image],
    *,
    template: str = QUESTION,
    positive: str = POSITIVE,
    negative: str | None = NEGATIVE,
) -> list[list[Asked]]:
    """Of each item its elements, asked both ways, or for yes alone where `negative` is None."""
    asked = [
        (place, element, question_of(one, element, template))
        for place, one in enumerate(items)
        for element in one.elements
    ]
    forms = [positive] if negative is None else [positive, negative]
    seen = [pictures[place] for place, _, _ in asked for _ in forms]
    requests = [form.format(question=question) for _, _, question in asked for form in forms]
    said = model.p_yes(seen, requests) if requests else []
    found: list[list[Asked]] = [[] for _ in items]
    for number, (place, element, question) in enumerate(asked):
        answers = said[number * len(forms) : (number + 1) * len(forms)]
        found[place].append(Asked(element, question, answers[0], answers[1] if len(forms) > 1 else None))
    return found


def overall_of(asked: Sequence[Asked]) -> float | None:
    """Mean over the elements that have a score, from 0 to 1; None without any."""
    scores = [one.score for one in asked if one.score is not None]
    return math.fsum(scores) / len(scores) if scores else None


def share_of_yes(likely: Sequence[tuple[str, float]]) -> float | None:
    """P(yes) against no of the most probable first tokens as (text, log-probability), whatever their case and the space
    before them; None where there is neither.
    """
    mass = {YES: 0.0, NO: 0.0}
    for text, logp in likely:
        word = text.strip().strip("\"'.Ġ▁").lower()
        if word in mass:
            mass[word] += math.exp(logp)
    total = sum(mass.values())
    return mass[YES] / total if total > 0 else None


class TransformersYesNo:
    """An image-text-to-text model of Transformers, with its processor and chat template.

    Args:
        generator: over it.
        batch_size: pictures in one forward pass.
    """

    def __init__(self, generator: TransformersGenerator, *, name: str, batch_size: int = 8) -> None:
        self.name = name
        self._generator, self._batch = generator, batch_size
        yes, no = (first_ids(generator.tokenizer, word) for word in (YES, NO))
        self._ids = {YES: sorted(yes - no), NO: sorted(no - yes)}  # a lone space may begin both
        if not all(self._ids.values()):
            raise ValueError("the tokenizer begins yes and no with the same token")

    def p_yes(self, pictures: Sequence[Image.Image], requests: Sequence[str]) -> list[float | None]:
        found: list[float | None] = []
        for start in range(0, len(requests), self._batch):
            part = slice(start, start + self._batch)
            logits = self._generator.first_logits(_questions(pictures[part], requests[part]))
            mass = [
                logits[:, self._ids[word]].logsumexp(-1) for word in (YES, NO)
            ]  # over all spellings of the word
            found += (mass[0] - mass[1]).sigmoid().tolist()
        return found

    def close(self) -> None:
        del self._generator


def _questions(pictures: Sequence[Image.Image], requests: Sequence[str]) -> list[Messages]:
    asked = zip(pictures, requests, strict=True)
    return [question_about(Picture(picture), request) for picture, request in asked]


def first_ids(tokenizer: Any, word: str) -> set[int]:
    """The first tokens of a word as it may begin an answer: in either case, with and without a space before it.

    Raises:
        ValueError: the tokenizer does not know it.
    """
    forms = (word, word.capitalize(), word.upper(), f" {word}", f" {word.capitalize()}")
    found = {ids[0] for form in forms if (ids := tokenizer.encode(form, add_special_tokens=False))}
    unknown = getattr(tokenizer, "unk_token_id", None)
    found.discard(unknown)
    if not found:
        raise ValueError(f"the tokenizer has no token for {word!r}")
    return found


class EndpointYesNo:
    """A model behind an OpenAI-compatible endpoint that takes pictures and gives log-probabilities."""

    def __init__(self, options: BackendOptions) -> None:
        from coalign.models.backends.endpoint import EndpointGenerator

        self._generator = EndpointGenerator(options)
        self.name = self._generator.model

    def p_yes(self, pictures: Sequence[Image.Image], requests: Sequence[str]) -> list[float | None]:
        from coalign.models.types import Sampling

        sampling = Sampling(max_new_tokens=1, temperature=0, top_logprobs=TOP)
        said = self._generator.generate(_questions(pictures, requests), sampling, label="Asking")
        return [share_of_yes(one[0].top_logprobs[0]) if one[0].top_logprobs else None for one in said]

    def close(self) -> None:
        self._generator.close()

"""Metrics over items: the trained scorer, PN-VQA, the cosine of a dual encoder, or a column that is there already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from coalign.core.errors import CoalignError
from coalign.core.files import append_rows, read_rows, write_rows
from coalign.core.progress import progress
from coalign.data.media.errors import MediaError
from coalign.vision.fine_grained.benchmark import Scores, row_of
from coalign.vision.fine_grained.elements import find_tokens, phrase_of
from coalign.vision.fine_grained.items import Item
from coalign.vision.fine_grained.questions import NEGATIVE, POSITIVE, QUESTION, ask, overall_of

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from coalign.vision.fine_grained.model import FineGrainedScorer
    from coalign.vision.fine_grained.questions import YesNoModel
    from coalign.vision.fine_grained.reading import Reader


class Metric(Protocol):
    """Says how well pictures show their prompts.

    Attributes:
        name: for reports.
        looks: whether it needs the pictures.
    """

    looks: bool

    @property
    def name(self) -> str: ...

    def score(self, items: Sequence[Item], pictures: Sequence[Any]) -> list[Scores]:
        """What it says of each item; `pictures` are opened where it looks at them."""
        ...


@dataclass
class FineGrainedMetric:
    """The trained scorer: overall from 1 to 5, and of each element the mean over its tokens; prompts are not cut.

    An element whose phrase does not stand in the prompt has the score 0, and is named.
    """

    model: FineGrainedScorer
    reader: Reader
    name: str = "fine-grained score"
    looks: bool = True

    def score(self, items: Sequence[Item], pictures: Sequence[Image.Image]) -> list[Scores]:
        texts = [self.reader.prompt_ids(one.prompt) for one in items]
        ids, mask = self.reader.padded(texts)
        with torch.no_grad():
            scored = self.model.eval()(self.reader.pixels(pictures), ids, mask)
        overall, tokens = scored.overall.cpu().tolist(), scored.tokens.cpu()
        found = []
        for place, (one, text) in enumerate(zip(items, texts, strict=True)):
            elements: dict[str, float] = {}
            missing = []
            for element in one.elements:
                part = self.reader.phrase_ids(phrase_of(element))
                start = find_tokens(text, part)
                if start is None:
                    missing.append(element)
                    elements[element] = 0.0
                else:
                    elements[element] = float(tokens[place, start : start + len(part)].mean())
            found.append(Scores(overall[place], elements, tuple(missing)))
        return found


@dataclass
class QuestionMetric:
    """PN-VQA: every element asked both ways; overall is `1 + 4 mean` of its elements, so that it lies from 1 to 5.

    Args:
        negate: also ask the negative question; without it the score is P(yes) alone.
    """

    model: YesNoModel
    question: str = QUESTION
    positive: str = POSITIVE
    negative: str = NEGATIVE
    negate: bool = True
    looks: bool = True

    @property
    def name(self) -> str:
        return f"{'PN-VQA' if self.negate else 'P(yes)'} with {self.model.name}"

    def score(self, items: Sequence[Item], pictures: Sequence[Image.Image]) -> list[Scores]:
        found = []
        negative = self.negative if self.negate else None
        for asked in ask(
            self.model, items, pictures, template=self.question, positive=self.positive, negative=negative
        ):
            scores = {one.element: one.score if self.negate else one.positive for one in asked}
            known = {name: score for name, score in scores.items() if score is not None}
            mean = overall_of(asked) if self.negate else (sum(known.values()) / len(known) if known else None)
            detail = {
                one.element: {"question": one.question, "positive": one.positive, "negative": one.negative}
                for one in asked
            }
            missing = tuple(name for name, score in scores.items() if score is None)
            found.append(Scores(None if mean is None else 1 + 4 * mean, known, missing, detail))
        return found


@dataclass
class CosineMetric:
    """CLIPScore without factor and floor: the cosine of picture and prompt under a dual encoder."""

    encoder: Any
    name: str = "CLIPScore"
    looks: bool = True

    def score(self, items: Sequence[Item], pictures: Sequence[Image.Image]) -> list[Scores]:
        with torch.no_grad():
            images = self.encoder.image(self.encoder.pixels(pictures)).pooled.float()
            texts = self.encoder.text(self.encoder.ids([one.prompt for one in items])).pooled.float()
        return [Scores(one) for one in torch.nn.functional.cosine_similarity(images, texts).tolist()]


@dataclass
class ColumnMetric:
    """Scores that stand in the items: a number, or beside it a mapping of elements to numbers in `element_result`."""

    column: str
    looks: bool = False

    @property
    def name(self) -> str:
        return self.column

    def score(self, items: Sequence[Item], pictures: Sequence[Image.Image]) -> list[Scores]:
        found = []
        for one in items:
            value = one.extra.get(self.column)
            if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
                raise CoalignError(f"Item {one.id}: {self.column}: {value!r}, expected a number.")
            elements = one.extra.get("element_result")
            known = elements if isinstance(elements, dict) else {}
            found.append(
                Scores(float(value), {name: float(each) for name, each in known.items() if each is not None})
            )
        return found


def score_items(
    items: Sequence[Item], open_metric: Callable[[], Metric], path: Path, batch_size: int
) -> list[dict[str, Any]]:
    """The rows of all items (`benchmark.row_of`), in order. They are appended to `path` a batch at a time; what is there is
    not scored again, and no metric is opened where all is. A picture that cannot be opened has no score and its `problem`.
    """
    done = {row["id"]: row for row in read_rows(path, repair=True)}
    missing = [one for one in items if one.id not in done]
    metric = open_metric() if missing else None
    with progress(len(items), "Scoring", "picture") as bar:
        bar.advance(len(items) - len(missing))
        for start in range(0, len(missing), batch_size):
            assert metric is not None
            part = missing[start : start + batch_size]
            rows = _scored(metric, part)
            append_rows(path, rows)
            done |= {row["id"]: row for row in rows}
            bar.advance(len(part))
    rows = [done[one.id] for one in items]
    write_rows(path, rows)
    return rows


def _scored(metric: Metric, items: Sequence[Item]) -> list[dict[str, Any]]:
    good, pictures, problems = list(items), [], dict[str, str]()
    if metric.looks:
        good = []
        for one in items:
            try:
                pictures.append(one.image.open())
                good.append(one)
            except MediaError as error:
                problems[one.id] = error.message
    scores = {
        one.id: each for one, each in zip(good, metric.score(good, pictures) if good else [], strict=True)
    }
    return [
        row_of(one, scores[one.id])
        if one.id in scores
        else {**row_of(one, Scores(None)), "problem": problems[one.id]}
        for one in items
    ]

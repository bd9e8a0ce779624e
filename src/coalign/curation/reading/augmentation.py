"""Rewrites of queries by a language model, and the ones that contradict the query they were made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from coalign.core.errors import ConfigError
from coalign.data.records import Messages
from coalign.loops.rows import answer_rows

if TYPE_CHECKING:
    from coalign.data.questions import Question
    from coalign.models.types import Generator, Sampling

Kind = Literal["rephrase", "complexity", "decomposition", "constraint", "sparql"]
KINDS: tuple[Kind, ...] = get_args(Kind)
BRIEFS: dict[Kind, str] = {
    "rephrase": "Put the question in other words and keep what it asks.",
    "complexity": "Make the question semantically more complex and keep what it asks.",
    "decomposition": "Break the question down into the questions that have to be answered first, in one line.",
    "constraint": "Add conditions and constraints to the question that leave its answer as it is.",
    "sparql": "Write the question as a SPARQL query, in one line.",
}
"""What a rewriter is asked to do, for each of the five kinds (section 3.2)."""
CHECKED = 3
"""Rewrites of a question that are checked for a contradiction, the first ones (official code)."""


class _Rewriting:
    """A question that is to be rewritten in one way."""

    def __init__(self, question: Question, kind: Kind) -> None:
        self.id, self.question = f"{question.id}/{kind}", question
        self.brief = BRIEFS[kind]

    @property
    def prompt(self) -> Messages:
        text = f"{self.brief} Reply with the rewritten question alone.\n\nQuestion: {self.question.question}"
        return [{"role": "user", "content": text}]


def rewritten(
    path: Path,
    questions: Sequence[Question],
    kinds: Sequence[Kind],
    open_model: Callable[[], Generator],
    sampling: Sampling,
) -> list[list[str]]:
    """`[questions][kinds]` rewrites, the first line with text of each reply; kept in `path`."""
    tasks = [_Rewriting(one, kind) for one in questions for kind in kinds]
    rows = answer_rows(path, tasks, open_model, sampling, label="Rewriting questions")
    texts = [
        next((line.strip() for line in row["responses"][0].splitlines() if line.strip()), "") for row in rows
    ]
    return [texts[start : start + len(kinds)] for start in range(0, len(texts), len(kinds))]


def contradicted(
    name: str, questions: Sequence[Question], rewrites: Sequence[Sequence[str]], *, device: str = "auto"
) -> list[bool]:
    """[questions] whether a model of natural language inference calls one of the first rewrites a contradiction of the question.

    Args:
        name: a sequence classifier with a label `contradiction`.

    Raises:
        ConfigError: it has no such label.
        ModelError: it cannot be loaded.
    """
    from coalign.models.devices import pick_device
    from coalign.models.files.classifiers import load_classifier
    from coalign.models.files.loading import load_tokenizer
    from coalign.models.files.places import locate
    from coalign.models.options import ModelOptions

    model = load_classifier(locate(name), what="model of inference", dtype=torch.float32)
    labels = {str(text).lower(): int(place) for place, text in model.config.id2label.items()}
    if "contradiction" not in labels:
        raise ConfigError(
            f"nli: {name} has the labels {', '.join(labels)}, expected one called contradiction."
        )
    tokenizer: Any = load_tokenizer(ModelOptions(model=name))
    target = pick_device(device)
    model = model.to(target).eval()
    found = []
    with torch.inference_mode():
        for question, made in zip(questions, rewrites, strict=True):
            pairs = [one for one in made[:CHECKED] if one]
            if not pairs:
                found.append(False)
                continue
            inputs = tokenizer(
                [question.question] * len(pairs), pairs, truncation=True, padding=True, return_tensors="pt"
            ).to(target)
            found.append(bool((model(**inputs).logits.argmax(-1) == labels["contradiction"]).any()))
    return found

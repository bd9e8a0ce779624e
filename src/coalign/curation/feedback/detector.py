"""A small trained detector of satisfaction and dissatisfaction: logistic regressions over sentence embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from coalign.core.errors import ConfigError, DataError, RecordProblem
from coalign.core.files import write_json
from coalign.curation.feedback.signals import Signal
from coalign.data.messages import FieldError, describe, parse_text
from coalign.data.rows import Row, iter_rows, parse_each
from coalign.measures.agreement import cohen_kappa
from coalign.training.losses.density_ratio import LinearClassifier, fit_classifier

if TYPE_CHECKING:
    from torch import Tensor

Label = Literal["sat", "dsat", "none"]
LABELS: tuple[Label, ...] = get_args(Label)
KINDS: tuple[Label, ...] = ("sat", "dsat")
Embed = Callable[[Sequence[str]], "Tensor"]
FOLDS = 5


@dataclass(frozen=True)
class Detector:
    """Tells from a turn of the user alone what it says of the reply before it.

    Attributes:
        classifiers: of `sat` and `dsat`, each against all other turns.
        agreement: kappa of each with the labels, cross-validated; None where there were too few.
    """

    classifiers: dict[Label, LinearClassifier]
    agreement: dict[Label, float | None]

    def signals(self, embeddings: Tensor, *, threshold: float = 0.5) -> list[Signal]:
        """[n] signals of [n, D] embeddings of turns: where the probability is above the threshold."""
        found = [(self.classifiers[one].probabilities(embeddings) > threshold).tolist() for one in KINDS]
        return [Signal(satisfied, dissatisfied) for satisfied, dissatisfied in zip(*found, strict=True)]

    def save(self, path: Path) -> None:
        """Weights as JSON, to be given as the detector's data another time."""
        values = {
            one: [*found.weights.tolist(), float(found.bias)] for one, found in self.classifiers.items()
        }
        write_json(path, {"detector": values, "agreement": self.agreement})


def fit_detector(embeddings: Tensor, labels: Sequence[Label], *, seed: int = 0) -> Detector:
    """A detector from [n, D] embeddings of labelled turns.

    Raises:
        DataError: a label is missing among them.
    """
    if missing := [one for one in LABELS if one not in labels]:
        raise DataError(
            f"The labelled turns hold none with the label {missing[0]!r}.",
            hint="Give some of each: sat, dsat, none.",
        )
    classifiers: dict[Label, LinearClassifier] = {
        one: fit_classifier(embeddings, _is(labels, one)) for one in KINDS
    }
    return Detector(classifiers, {one: _cross_validated(embeddings, labels, one, seed) for one in KINDS})


def _cross_validated(embeddings: Tensor, labels: Sequence[Label], label: Label, seed: int) -> float | None:
    truth = _is(labels, label)
    if min(int(truth.sum()), int((~truth).sum())) < FOLDS:
        return None
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    folds = torch.empty(len(labels), dtype=torch.long)
    for side in (truth, ~truth):  # of each fold the same share
        rows = order[side[order]]
        folds[rows] = torch.arange(len(rows)) % FOLDS
    said = torch.zeros(len(labels), dtype=torch.bool)
    for fold in range(FOLDS):
        held = folds == fold
        said[held] = fit_classifier(embeddings[~held], truth[~held]).probabilities(embeddings[held]) > 0.5
    return cohen_kappa(said.tolist(), truth.tolist(), resamples=1).mean


def _is(labels: Sequence[Label], label: Label) -> Tensor:
    return torch.tensor([one == label for one in labels])


def open_detector(source: str, embed: Embed, *, seed: int = 0) -> Detector:
    """A detector that was saved (a `.json` file of one), or one fitted on rows with `text` and `label` (sat, dsat, none).

    Raises:
        ConfigError: a saved one that does not fit the encoder.
        DataError: rows that cannot be used; every problem is listed.
    """
    path = Path(source)
    if (
        path.suffix == ".json"
        and path.is_file()
        and "detector" in (value := json.loads(path.read_text("utf-8")))
    ):
        return _loaded(path, value, embed)
    problems: list[RecordProblem] = []
    found = list(parse_each(iter_rows(source), source, _labelled, problems))
    if problems:
        raise DataError(f"{source}: {len(problems)} labelled turns cannot be used.", problems)
    return fit_detector(embed([text for text, _ in found]), [label for _, label in found], seed=seed)


def _loaded(path: Path, value: dict[str, Any], embed: Embed) -> Detector:
    width = embed(["a"]).shape[1]
    classifiers: dict[Label, LinearClassifier] = {}
    for one in KINDS:
        numbers = torch.tensor(value["detector"][one], dtype=torch.float64)
        if len(numbers) != width + 1:
            raise ConfigError(
                f"{path}: a detector over {len(numbers) - 1} numbers a turn, the encoder gives {width}.",
                hint="Use the encoder that it was fitted with, or the labelled turns.",
            )
        classifiers[one] = LinearClassifier(numbers[:-1], numbers[-1])
    return Detector(classifiers, value["agreement"])


def _labelled(row: Row) -> tuple[str, Label]:
    value = row.value or {}
    try:
        text = parse_text(value.get("text"))
    except FieldError as error:
        raise FieldError(error.problem, error.expected, "text") from error
    label = value.get("label")
    if label not in LABELS:
        raise FieldError(describe(label), f"one of: {', '.join(LABELS)}", "label")
    return text, label

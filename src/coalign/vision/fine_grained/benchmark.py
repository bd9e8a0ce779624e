"""How well scores of pictures agree with people: overall, element by element, by category, and over text-to-image models."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from coalign.measures.detection import bootstrap_of, spearman
from coalign.measures.score_agreement import kendall_tau_b, score_agreement
from coalign.vision.fine_grained.elements import category_of, element_accuracy
from coalign.vision.fine_grained.items import Item

THRESHOLD = 0.5


@dataclass(frozen=True)
class Scores:
    """What a metric says of an item.

    Attributes:
        overall: higher is better; 1 to 5 of the trained scorer; None where it could not be had.
        elements: element to its score, 0 to 1; those that could not be had are left out.
        missing: elements whose phrase does not stand in the prompt, or to which no answer came.
        detail: what else is known of each element (P(yes) both ways).
    """

    overall: float | None
    elements: Mapping[str, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def combined(self) -> float | None:
        """Overall score plus the mean of the elements' scores; None where either is missing."""
        if self.overall is None or not self.elements:
            return None
        return self.overall + fmean(self.elements.values())


def row_of(item: Item, found: Scores) -> dict[str, Any]:
    """An item with its scores, under the names of EvalMuse-40K's result files."""
    row: dict[str, Any] = {"id": item.id, "prompt": item.prompt, "image": item.image.called}
    if item.generator:
        row["generator"] = item.generator
    row |= {"score_result": found.overall, "element_result": dict(found.elements)}
    if found.combined is not None:
        row["combined"] = found.combined
    if found.missing:
        row["missing"] = list(found.missing)
    if found.detail:
        row["detail"] = dict(found.detail)
    if item.score is not None:
        row["human"] = item.score
    if item.element_means:
        row["element_human"] = item.element_means
    return row


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of scored rows; a part is missing where people said nothing of it.

    Returns:
        `overall` (agreement of the overall scores, with an interval of SRCC), `combined` (the same of overall plus elements),
        `elements` (accuracy at 0.5 on both sides with the share of the more frequent label, SRCC, by category), `challenge`
        (0.25 SRCC + 0.25 PLCC + 0.5 accuracy), `generators` (a row a model, best first) and how these rank beside people.
    """
    found: dict[str, Any] = {
        "items": len(rows),
        "scored": sum(row["score_result"] is not None for row in rows),
    }
    for name, column in (("overall", "score_result"), ("combined", "combined")):
        both = [(row[column], row["human"]) for row in rows if row.get(column) is not None and "human" in row]
        if len(both) > 1:
            found[name] = _agreement(*map(list, zip(*both, strict=True)))
    elements = _elements(rows)
    if elements:
        found["elements"] = elements
    if "overall" in found and elements:
        one = found["overall"]
        found["challenge"] = 0.25 * one["srcc"] + 0.25 * one["plcc"] + 0.5 * elements["accuracy"]
    generators = ranking(rows)
    if len(generators) > 1:
        found["generators"] = generators
        told = [one for one in generators if one["human"] is not None]
        if len(told) > 1:
            both = [one["score"] for one in told], [one["human"] for one in told]
            found["generator_srcc"], found["generator_krcc"] = spearman(*both), kendall_tau_b(*both)
    return found


def _agreement(predicted: list[float], human: list[float]) -> dict[str, Any]:
    interval = bootstrap_of(spearman, human, predicted, n=1000).to_dict()
    return {**asdict(score_agreement(predicted, human)), "n": len(human), "srcc_interval": interval}


def _elements(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    told = [
        (name, row["element_result"][name], human)
        for row in rows
        for name, human in row.get("element_human", {}).items()
        if name in row["element_result"]
    ]
    if not told:
        return None
    of_category: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, predicted, human in told:
        of_category[category_of(name) or "not said"].append((predicted, human))
    _, predicted, human = map(list, zip(*told, strict=True))
    return {
        **_element_figures(predicted, human),
        "categories": [
            {"category": name, **_element_figures(*map(list, zip(*several, strict=True)))}
            for name, several in sorted(of_category.items(), key=lambda one: -len(one[1]))
        ],
    }


def _element_figures(predicted: list[float], human: list[float]) -> dict[str, Any]:
    shown = fmean(one >= THRESHOLD for one in human)
    return {
        "n": len(human),
        "accuracy": element_accuracy(predicted, human, THRESHOLD),
        "majority": max(shown, 1 - shown),
        "srcc": spearman(predicted, human),
        "score": fmean(predicted),
        "human": fmean(human),
    }


def ranking(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a text-to-image model, best mean overall score first: `score`, `human` (None where people said nothing), `items`,
    and `categories`: category to the mean score of its elements.
    """
    of_model: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row.get("generator") and row["score_result"] is not None:
            of_model[row["generator"]].append(row)
    table = []
    for name, several in of_model.items():
        human = [row["human"] for row in several if "human" in row]
        parts: dict[str, list[float]] = defaultdict(list)
        for row in several:
            for element, score in row["element_result"].items():
                parts[category_of(element) or "not said"].append(score)
        table.append(
            {
                "generator": name,
                "items": len(several),
                "score": math.fsum(row["score_result"] for row in several) / len(several),
                "human": fmean(human) if human else None,
                "categories": {category: fmean(values) for category, values in sorted(parts.items())},
            }
        )
    return sorted(table, key=lambda row: -row["score"])

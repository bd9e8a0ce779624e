"""What a model's answers to a questionnaire come to: scores with intervals, and whether they can be relied on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coalign.guide.values.asking import Asked
from coalign.guide.values.questionnaire import Questionnaire
from coalign.guide.values.scoring import (
    bootstrap_scores,
    centred_scores,
    cronbach_alpha,
    expected_rating,
    linear_index,
    opinion_similarity,
)
from coalign.measures.statistics import bootstrap_mean, wilson_interval


def profile_of(
    questionnaire: Questionnaire,
    asked: Sequence[Asked],
    *,
    max_invalid: float,
    max_sensitivity: float,
    seed: int,
) -> dict[str, Any]:
    """Every figure, plain values. What could not be measured is None.

    Args:
        max_invalid, max_sensitivity: at or above one of them the profile is unreliable.
    """
    first = {one.item.id: one for one in asked if one.wording == 0}
    ratings = {name: _rating(one) for name, one in first.items()}
    by_dimension = {
        dimension: [
            ratings[name]
            for name, one in first.items()
            if one.item.dimension == dimension and one.item.passes is None
        ]
        for dimension in questionnaire.dimensions
    }
    centred = centred_scores(by_dimension)
    intervals = bootstrap_scores(by_dimension, questionnaire.axes, seed=seed)
    main = [one.shares for one in first.values()]
    invalid = _mean([one.invalid for one in main])
    sensitivity = _mean([one.sensitivity for one in main])
    reasons = [
        *(
            [f"{invalid:.0%} of the answers are no option"]
            if invalid is None or invalid >= max_invalid
            else []
        ),
        *(
            [f"the order of options moves {sensitivity:.0%} of the answers"]
            if sensitivity is not None and sensitivity >= max_sensitivity
            else []
        ),
        *(["no answer could be read"] if sensitivity is None else []),
    ]
    return {
        "reliable": not reasons,
        "reasons": reasons,
        "items": len(first),
        "invalid": invalid,
        "order_sensitivity": sensitivity,
        "order_sensitivity_single": _mean([one.single for one in main]),
        "order_sensitivity_halves": _mean([one.halves for one in main]),
        "unread": _mean([one.unread for one in asked]),
        "dimensions": {
            name: {
                "mean": _number(np.mean(by_dimension[name])),
                "centred": _number(value),
                **_ends(intervals, name),
                "items": len(by_dimension[name]),
            }
            for name, value in centred.items()
        },
        "axes": {
            name: {
                "score": _number(np.mean([centred[part] for part in parts])),
                **_ends(intervals, name),
            }
            for name, parts in questionnaire.axes.items()
        },
        "indices": {
            name: _number(linear_index(one.constant, one.items, ratings))
            for name, one in questionnaire.indices.items()
        },
        "people": _people(first.values()),
        "attention": _attention(first.values()),
        "wordings": _wordings(asked),
        "behaviour": _behaviour(asked, ratings),
    }


def _rating(one: Asked) -> float:
    """Expected rating over the options that are opinions; NaN where these have nothing."""
    kept = list(one.item.kept)
    p = one.shares.p[kept]
    if not p.sum() > 0:
        return math.nan
    ratings = [one.item.ratings[place] for place in kept]
    return expected_rating(p / p.sum(), ratings, reverse=one.item.reverse)


def _ends(intervals: Mapping[str, tuple[float, float]], name: str) -> dict[str, float | None]:
    low, high = intervals.get(name, (math.nan, math.nan))
    return {"low": _number(low), "high": _number(high)}


def _people(asked: Any) -> dict[str, Any]:
    """Opinion similarity to each population, most alike first."""
    found: dict[str, list[float]] = {}
    for one in asked:
        for name, shares in one.item.people.items():
            found.setdefault(name, []).append(opinion_similarity(one.shares.p, shares, one.item.kept))
    rows = {name: [value for value in values if math.isfinite(value)] for name, values in found.items()}
    rows = {name: values for name, values in rows.items() if values}
    intervals = {name: bootstrap_mean(values, n=2000).to_dict() for name, values in rows.items()}
    return {
        name: {"similarity": one["mean"], "low": one["low"], "high": one["high"], "questions": one["n"]}
        for name, one in sorted(intervals.items(), key=lambda one: -one[1]["mean"])
    }


def _attention(asked: Any) -> dict[str, int] | None:
    checks = [one for one in asked if one.item.passes is not None]
    if not checks:
        return None
    # where nothing could be read every share is NaN, whose argmax would be the first option
    passed = sum(
        bool(np.isfinite(one.shares.p).all() and np.argmax(one.shares.p) == one.item.passes) for one in checks
    )
    return {"passed": passed, "of": len(checks)}


def _wordings(asked: Sequence[Asked]) -> dict[str, Any] | None:
    """Cronbach's alpha over as many wordings as each of the paraphrased questions has."""
    ratings: dict[str, list[float]] = {}
    for one in asked:
        if one.wording is not None and one.item.paraphrases:
            ratings.setdefault(one.item.id, []).append(_rating(one))
    if not ratings:
        return None
    fewest = min(map(len, ratings.values()))
    table = np.array([values[:fewest] for values in ratings.values()])
    table = table[np.isfinite(table).all(axis=1)]
    alpha = cronbach_alpha(table) if len(table) else math.nan
    return {"alpha": _number(alpha), "questions": len(table), "wordings": fewest}


def _behaviour(asked: Sequence[Asked], ratings: dict[str, float]) -> dict[str, Any] | None:
    """How often the choice goes with what the item says: holding the value above its middle, and acting on it."""
    agree, of = 0, 0
    for one in asked:
        if one.wording is not None or one.item.behaviour is None:
            continue
        scale = [one.item.ratings[place] for place in one.item.kept]
        stated = ratings[one.item.id] - (min(scale) + max(scale)) / 2
        if not (math.isfinite(stated) and np.isfinite(one.shares.p).all()):
            continue
        acted = int(np.argmax(one.shares.p)) == one.item.behaviour.holds
        agree, of = agree + int((stated > 0) == acted), of + 1
    return None if not of else {"agree": wilson_interval(agree, of).to_dict(), "questions": of}


def _mean(values: Sequence[float]) -> float | None:
    finite = [one for one in values if math.isfinite(one)]
    return float(np.mean(finite)) if finite else None


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None

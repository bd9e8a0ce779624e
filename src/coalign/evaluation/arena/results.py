"""What an arena's matches say: rows to keep, the anchored ranking, and agreement with a known one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coalign.core.errors import ConfigError
from coalign.evaluation.arena.matches import Played
from coalign.evaluation.arena.outputs import Outputs
from coalign.measures.agreement import spearman


def win_rates(outcomes: Any) -> Any:
    """[models] anchored scores: the mean of [models, prompts] outcomes against the reference, a tie being 1/2."""
    return np.asarray(outcomes, dtype=np.float64).mean(-1)


def anchored_results(
    played: Sequence[Played], outputs: Outputs, reference: str, leaderboard: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Win rates against the reference, and how they rank the models compared with the tournaments."""
    place = outputs.models.index(reference)
    shares: dict[str, list[float]] = {}
    for one in played:
        if one.share is not None:
            mine = one.match.second if one.match.first == place else one.match.first
            share = one.share if one.match.first == mine else 1 - one.share
            shares.setdefault(outputs.models[mine], []).append(share)
    rates = {name: float(win_rates(values)) for name, values in shares.items()}
    ratings = {row["model"]: row["rating"] for row in leaderboard}
    names = sorted(rates)
    agreement = (
        spearman([rates[one] for one in names], [ratings[one] for one in names]) if len(names) > 1 else None
    )
    return {
        "reference": reference,
        "win_rates": dict(sorted(rates.items(), key=lambda one: -one[1])),
        "calls": sum(one.comparison.cost.calls for one in played if one.comparison),
        "spearman_with_tournament": _number(agreement),
    }


def match_row(one: Played, outputs: Outputs) -> dict[str, Any]:
    """What `matches.jsonl` holds; it is also a file of pairs that `coalign judge` and `coalign annotate` read."""
    match = one.match
    return {
        "id": f"{outputs.ids[match.prompt]}/{match.round}/{outputs.models[match.first]}/{outputs.models[match.second]}",
        "prompt": outputs.prompts[match.prompt],
        "response_a": outputs.texts[match.prompt][match.first],
        "response_b": outputs.texts[match.prompt][match.second],
        "model_a": outputs.models[match.first],
        "model_b": outputs.models[match.second],
        "round": match.round,
        "share_a": one.share,
        "goes_on": outputs.models[one.winner],
        "decided_by": one.how,
        "outcome": one.comparison.outcome if one.comparison else None,
        "replies": [each.reply for each in one.comparison.opinions] if one.comparison else [],
    }


def against_truth(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    """Rank correlations of the ratings, and of the anchored win rates, with those of a JSON file.

    Raises:
        ConfigError: the file cannot be read, or knows fewer than two of the models.
    """
    try:
        truth = {
            str(key): float(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"ground_truth: {path} is no JSON of model to rating ({error}).") from error
    ratings = {row["model"]: row["rating"] for row in results["leaderboard"]}
    names = [one for one in ratings if one in truth]
    if len(names) < 2:
        raise ConfigError(
            f"ground_truth: {path} has ratings of {len(names)} of these models, two are needed."
        )
    found = {
        "models": len(names),
        "spearman": _number(spearman([ratings[n] for n in names], [truth[n] for n in names])),
    }
    if anchored := results.get("anchored"):
        known = [one for one in names if one in anchored["win_rates"]]
        if len(known) > 1:
            rates = [anchored["win_rates"][one] for one in known]
            found["spearman_anchored"] = _number(spearman(rates, [truth[one] for one in known]))
    return found


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)

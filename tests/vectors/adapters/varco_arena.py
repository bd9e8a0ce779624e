"""Brackets, Bradley-Terry ratings, match probabilities, rank correlation, anchored win rates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from coalign.evaluation.arena.results import win_rates
from coalign.evaluation.arena.tournament import play_bracket
from coalign.measures.agreement import spearman
from coalign.measures.ratings import bradley_terry, match_probabilities, wins_table


def compute(inputs: dict[str, Any], params: dict[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    match params["op"]:
        case "bracket":
            quality = inputs["quality"]
            matches, champion = play_bracket(
                inputs["order"], lambda a, b: a if quality[a] > quality[b] else b
            )
            return {
                "matches": [list(one) for one in matches],
                "champion": champion,
                "n_matches": len(matches),
            }
        case "bradley_terry":
            found = bradley_terry(
                wins_table([tuple(one) for one in inputs["matches"]], params["n_players"]), l2=params["l2"]
            )
            ranking = np.argsort(-np.round(found.values, 9), kind="stable")
            return {
                "ratings": found.values,
                "negative_log_likelihood": float(found.nll),
                "ranking_best_first": ranking.tolist(),
            }
        case "match_probability":
            return {"p_row_beats_col": match_probabilities(inputs["ratings"], params["judge_precision"])}
        case "spearman":
            return {"rho": spearman(inputs["a"], inputs["b"])}
        case "anchored":
            return {"win_rate": win_rates(inputs["outcome_vs_reference"])}
        case other:
            raise ValueError(f"op {other!r}")

"""Brackets, Bradley-Terry ratings, match probabilities, rank correlation, anchored win rates."""

from __future__ import annotations

from typing import Any

import numpy as np

from coalign.evaluation.arena.results import win_rates
from coalign.evaluation.arena.tournament import play_bracket
from coalign.measures.agreement import spearman
from coalign.measures.ratings import bradley_terry, match_probabilities, wins_table
from tests.vectors.given import Given


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["op"]:
        case "bracket":
            quality = inputs["quality"]
            matches, champion = play_bracket(inputs["order"], lambda *two: max(two, key=quality.__getitem__))
            return {"matches": [[*one] for one in matches], "champion": champion, "n_matches": len(matches)}
        case "bradley_terry":
            table = wins_table([tuple(one) for one in inputs["matches"]], params["n_players"])
            found = bradley_terry(table, l2=params["l2"])
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

"""Calibration, exponential transforms, exact win rates of best-of-n and worst-of-n, fixed points."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from coalign.measures.reward_transforms import calibrated, exponential
from coalign.measures.win_rates import (
    optimal_transform,
    quantile_win_rates,
    tilted,
    tilted_density,
    win_rates,
)
from tests.vectors.given import Given

PROCEDURES: dict[str, Any] = {"bon": "best_of_n", "won": "worst_of_n"}


def compute(inputs: Given, params: dict[str, Any]) -> dict[str, Any]:
    match params["op"]:
        case "calibrate":
            return {"calibrated": calibrated(inputs["reward"], inputs["base_rewards"])}
        case "transform":
            given = inputs["calibrated"]
            return {
                "exponential": [exponential(given, t) for t in params["t"]],
                "identity": exponential(given, 0),
            }
        case "win_rates":
            policy, base, rewards = (inputs[name] for name in ("policy_probs", "base_probs", "reward"))
            return asdict(win_rates(policy, base, rewards, params["N"]))
        case "ctrl_optimum":
            base, rewards = np.array(inputs["base_probs"]), np.array(inputs["reward"])
            beats = (rewards[:, None] > rewards) + 0.5 * (rewards[:, None] == rewards)
            found = beats @ base
            transformed = exponential(found, params["t"])
            policy, _ = tilted(base, transformed, params["beta"])
            rates = asdict(win_rates(policy, base, rewards, params["N"]))
            return {"calibrated": found, "transformed": transformed, "policy_probs": policy, **rates}
        case "continuous_stats":
            middles = (np.arange(params["grid"]) + 0.5) / params["grid"]
            density = tilted_density(exponential(middles, params["t"]), params["beta"])
            return asdict(quantile_win_rates(density, params["N"]))
        case "fixed_point":
            procedure, cells = PROCEDURES[params["procedure"]], params["grid"]
            _, density = optimal_transform(params["N"], params["beta"], procedure, cells=cells)
            middles = (np.arange(cells) + 0.5) / cells
            rates = asdict(quantile_win_rates(density, params["N"]))
            return {**rates, "density_at": np.interp(params["at"], middles, density)}
        case other:
            raise ValueError(f"op {other!r}")

"""Policies trained on utilities of raw rewards, side by side, and what they reach at the same distance from the base."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coalign.core.files import write_json
from coalign.core.runs import Run, is_main_process
from coalign.loops.held_out import held_out_folder, held_out_rows, reward_at_kl
from coalign.loops.online_run import Task, read_kept
from coalign.loops.rollouts import ScoreRows
from coalign.loops.rows import Row, read_answers
from coalign.training.job import FitResult
from coalign.training.online.methods import get_online_method
from coalign.training.processes import assert_whole_models

Utility = Callable[[str, Mapping[str, Sequence[float | None]], Sequence[float | None]], Mapping[str, Any]]
"""Id of a prompt, the raw rewards of its responses by name, and their mixture, to `rewards` (what is learnt from) and further
columns of `values`."""
Measure = Callable[[str, Sequence[float | None], Mapping[str, Sequence[float | None]]], Mapping[str, float]]
"""Id of a held-out prompt and the utilities and raw rewards of the policy's responses to what is measured there."""


def with_utility(score: ScoreRows, utility: Utility) -> ScoreRows:
    """Rewards of rows as `score` gives them, replaced by their utilities; the raw ones are kept among the values."""

    def scored(rows: Sequence[Row]) -> list[dict[str, Any]]:
        made = []
        for row, found in zip(rows, score(rows), strict=True):
            worth = utility(row["id"].rpartition("#")[0] or row["id"], found["values"], found["rewards"])
            values = {**found["values"], **worth.get("values", {})}
            made.append({**found, "rewards": list(worth["rewards"]), "values": values})
        return made

    return scored


def train_arm(
    config: Any, run: Run, name: str, training: Sequence[Task], held_out: Sequence[Task], score: ScoreRows
) -> FitResult:
    """Train a policy with REINFORCE leave-one-out; `train` is the run's model, others lie beside it under their names.

    What was finished before is read, not done again.
    """
    from transformers import set_seed

    from coalign.loops.reinforcement import Reinforcement, reinforce
    from coalign.models.adapters import trainable_summary
    from coalign.models.files.loading import load_for_training, load_tokenizer
    from coalign.models.files.saving import save_model

    assert_whole_models("sampling from the policy")
    done = run.artefacts / f"{name}.json"
    folder = run.model if name == "train" else run.path / name
    if done.exists() and folder.exists():
        return FitResult(**json.loads(done.read_text(encoding="utf-8")))
    set_seed(config.seed)  # the adapter's first weights
    tokenizer = load_tokenizer(config)
    keep = read_kept(config, tokenizer, run)
    model = load_for_training(config)
    run.log("model", summary=trainable_summary(model))
    loop = Reinforcement(
        method=get_online_method("rloo"),
        constants=config,
        config=config,
        run=run,
        prompts=training,
        held_out=held_out,
        score=score,
        keep=keep,
        name=name,
    )
    result = reinforce(loop, model, tokenizer)
    history = [{key: value for key, value in row.items() if math.isfinite(value)} for row in result.history]
    result = dataclasses.replace(result, history=history)
    if is_main_process():
        save_model(model, tokenizer, folder)
        write_json(done, dataclasses.asdict(result))
    return result


def curve_of(run: Run, name: str, held_out: Sequence[Task], measure: Measure) -> list[dict[str, float]]:
    """What a policy reaches, evaluation by evaluation: `step`, `kl` from the base, `length`, and the means of `measure` over the
    held-out prompts.
    """
    points = []
    for row in held_out_rows(run, name):
        path = held_out_folder(run, name) / f"step-{row['step']:06d}-scored.jsonl"
        scored = {one["id"]: one for one in read_answers(path)}
        found = [measure(one.id, scored[one.id]["rewards"], scored[one.id]["values"]) for one in held_out]
        means = {key: _mean([one[key] for one in found]) for key in found[0]}
        points.append({"step": row["step"], "kl": row["kl"], "length": row["length"], **means})
    return points


def at_divergence(points: Sequence[Mapping[str, float]], name: str, kl: float) -> float | None:
    """A measure at a divergence from the base, linear between evaluations; None outside of what was reached."""
    return reward_at_kl([{"reward": one[name], "kl": one["kl"]} for one in points], kl)


def common_divergence(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> float:
    """The largest divergence that every policy reached."""
    return min(max(one["kl"] for one in points) for points in curves.values())


def _mean(values: Sequence[float]) -> float:
    known = [one for one in values if math.isfinite(one)]
    return sum(known) / len(known) if known else math.nan

"""Held-out prompts of reinforcement learning: answered before, during and after by the policy as it then is.

`artefacts/held-out/step-000010.jsonl` and `-scored.jsonl` are rows as of a rollout; `artefacts/held-out/summary.jsonl` has a row an
evaluation: `step`, `reward` (mean over prompts of the mean over their scorable responses), `kl` (nats a response, from the
start model) with `kl_error` (its standard error), `length`, `truncated`, `not_scorable`.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from coalign.core.files import append_rows, read_rows
from coalign.core.runs import is_main_process
from coalign.loops.rollouts import sampled_rows, scored_rows
from coalign.models.modules import evaluation
from coalign.models.scoring.engine import DEFAULT_BATCH_TOKENS, score_responses
from coalign.models.types import Responses
from coalign.training.processes import gathered, own_share, wait_for_all

if TYPE_CHECKING:
    from pathlib import Path

    from coalign.core.runs import Run
    from coalign.loops.policy import Policy, Reinforcement
    from coalign.loops.rows import Row

EVALUATIONS = 4
"""Evaluations of a run after the one before it, where nothing else is asked for."""


class HeldOut:
    """Answers and values the held-out prompts, once for each step that is asked for."""

    def __init__(self, loop: Reinforcement, policy: Policy) -> None:
        self._loop, self._policy = loop, policy
        self._folder = held_out_folder(loop.run, loop.name)
        self._every = loop.config.eval_steps or max(1, math.ceil(loop.steps / EVALUATIONS))

    def is_due(self, step: int) -> bool:
        return step % self._every == 0

    def measure(self, step: int) -> Mapping[str, Any]:
        """The summary of an evaluation; what is there is not done again."""
        loop = self._loop
        for row in held_out_rows(loop.run, loop.name):
            if row["step"] == step:
                return row
        tasks, stem = loop.held_out, f"step-{step:06d}"
        sampling = loop.sampling(loop.config.eval_samples, loop.config.seed + 1_000_003)
        with self._policy.opened() as generator:
            rows = sampled_rows(
                self._folder / f"{stem}.jsonl", tasks, generator, sampling, label="Answering held-out prompts"
            )
        scored = scored_rows(self._folder / f"{stem}-scored.jsonl", tasks, rows, loop.score)
        summary = {"step": step, **summarise(rows, scored), **self._divergence(rows)}
        if is_main_process():
            append_rows(self._folder / "summary.jsonl", [summary])
        wait_for_all()
        loop.run.log("held_out", stage=loop.name, **summary)
        return summary

    def _divergence(self, rows: Sequence[Row]) -> dict[str, float]:
        """KL(policy || start model) a response, from the log-ratios of what the policy sampled."""
        own = [rows[one] for one in own_share(len(rows))]
        ratios = torch.tensor(gathered(self._ratios(own).tolist() if own else []), dtype=torch.float64)
        error = float(ratios.std()) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan
        return {"kl": float(ratios.mean()), "kl_error": error}

    def _ratios(self, rows: Sequence[Row]) -> torch.Tensor:
        """[R n] policy against start model."""
        model, n = self._policy.model, len(rows[0]["token_ids"])
        responses = Responses(
            prompt_ids=[row["prompt_ids"] for row in rows],
            response_ids=[ids for row in rows for ids in row["token_ids"]],
            prompt_index=[place for place in range(len(rows)) for _ in range(n)],
        )

        def sums(scorer: torch.nn.Module) -> torch.Tensor:
            return score_responses(
                scorer, responses, batch_tokens=DEFAULT_BATCH_TOKENS, temperature=self._loop.config.temperature
            ).sums().double().cpu()  # fmt: skip

        with torch.no_grad(), evaluation(model):
            policy = sums(model)
            with self._policy.reference() as start:
                return policy - sums(start)


def held_out_folder(run: Run, name: str = "train") -> Path:
    """Where the answers of a training to held-out prompts lie."""
    return run.artefacts / ("held-out" if name == "train" else f"{name}/held-out")


def held_out_rows(run: Run, name: str = "train") -> list[dict[str, Any]]:
    """The summaries of all evaluations so far, in order of their steps."""
    rows = read_rows(held_out_folder(run, name) / "summary.jsonl", repair=True)
    return sorted(rows, key=lambda row: row["step"])


def summarise(rows: Sequence[Row], scored: Sequence[Row]) -> dict[str, Any]:
    """What is said of answers to held-out prompts; `rewards`: one number a prompt, None where no response has one."""
    rewards = [_mean(row["rewards"]) for row in scored]
    known = [one for one in rewards if one is not None]
    responses = [one for row in scored for one in row["rewards"]]
    ends = [one for row in rows for one in row["finish_reasons"]]
    lengths = [len(ids) for row in rows for ids in row["token_ids"]]
    return {
        "reward": statistics.fmean(known) if known else None,
        "length": statistics.fmean(lengths),
        "truncated": ends.count("length") / len(ends),
        "not_scorable": sum(one is None for one in responses) / len(responses),
        "rewards": rewards,
    }


def reward_at_kl(rows: Sequence[Mapping[str, Any]], kl: float) -> float | None:
    """The held-out reward at a divergence from the start model, for runs that are compared at one.

    The evaluations are taken as a curve from divergence to reward, linear between neighbouring divergences; where several
    have one divergence their mean counts.

    Args:
        rows: of `held_out_rows`.
        kl: nats a response.

    Returns:
        None outside of what was reached.
    """
    by_kl: dict[float, list[float]] = {}
    for row in rows:
        if row["reward"] is not None:
            by_kl.setdefault(row["kl"], []).append(row["reward"])
    points = sorted((place, statistics.fmean(values)) for place, values in by_kl.items())
    for (low, first), (high, second) in itertools.pairwise(points):
        if low <= kl <= high:
            return first + (second - first) * (kl - low) / (high - low)
    return points[0][1] if len(points) == 1 and points[0][0] == kl else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return statistics.fmean(known) if known else None

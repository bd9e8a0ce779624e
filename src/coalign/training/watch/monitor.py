"""Known signs that a training goes wrong, each with what to do: pure functions on log histories, and a callback."""

from __future__ import annotations

import math
import statistics
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerState

from coalign.core.runs import Run
from coalign.training.watch.callbacks import Logs
from coalign.training.watch.plan import Plan

Row = Mapping[str, float]

ADAPTER_LIMIT = 1e-3
FULL_LIMIT = 5e-5
"""Learning rates above which training usually breaks the model: of an adapter, of all weights."""
WINDOW = 10
"""Log lines at the start and at the end that are averaged and compared."""
MARGIN_LIMIT = 20.0
"""A reward margin that grew by this much: the sigmoid of a logistic loss is flat from there on."""
STUCK_STEPS = 100
CONSTANT_STEPS = 20
SPIKE = 10.0
"""Times the median gradient norm."""
SPIKES = 3
LENGTH_GROWTH = 1.5
LENGTH_BIAS = 1.5
"""Times as long as the worse responses: above, a model may learn length in place of quality."""
CUT_SHARE = 0.1
FIRST_ROWS, LAST_ROWS = 50, 100


@dataclass(frozen=True)
class Sign:
    """Something that looks wrong.

    Attributes:
        key: which sign; one is told once.
        text: what was seen, with numbers.
        advice: what to do.
    """

    key: str
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.text} {self.advice}"


def signs(history: Sequence[Row]) -> list[Sign]:
    """What looks wrong in the log lines of one training, in order; rows without `loss` (evaluations) are not read."""
    rows = [row for row in history if "loss" in row]
    checks = (
        chosen_falls,
        margin_explodes,
        accuracy_stuck,
        nothing_to_learn,
        gradient_spikes,
        loss_constant,
    )
    return [sign for check in checks if (sign := check(rows)) is not None]


def plan_signs(plan: Plan, lengths: Sequence[float] = ()) -> list[Sign]:
    """What looks wrong before a training starts.

    Args:
        lengths: mean response length of the rounds before this one, for loops that write their own responses.
    """
    found = [
        learning_rate_high(plan.learning_rate, adapter=plan.adapter),
        much_cut(plan.truncated, plan.responses),
        length_grows([*lengths, plan.response_length]),
        length_biased(plan.valued_lengths),
    ]
    return [sign for sign in found if sign is not None]


def learning_rate_high(learning_rate: float, *, adapter: bool) -> Sign | None:
    """Above what usually breaks the model."""
    limit, kind = (ADAPTER_LIMIT, "an adapter") if adapter else (FULL_LIMIT, "full fine-tuning")
    if learning_rate <= limit:
        return None
    return Sign(
        "learning_rate_high",
        f"A learning rate of {learning_rate:g} is high for {kind} (usually at most {limit:g}).",
        "If the loss rises or the text degenerates, divide --learning-rate by ten.",
    )


def much_cut(truncated: int, responses: int) -> Sign | None:
    """Many prompts or responses do not fit the length limits."""
    if truncated <= CUT_SHARE * responses:
        return None
    return Sign(
        "much_cut",
        f"{truncated:,} prompts or responses are cut, of {responses:,} responses: they lose their beginning or end.",
        "Raise --max-length, or shorten the data; `coalign data check --model` shows the lengths.",
    )


def length_grows(lengths: Sequence[float]) -> Sign | None:
    """Responses that a loop writes itself get longer round by round: often reward hacking by length."""
    if len(lengths) < 2 or lengths[-1] <= LENGTH_GROWTH * lengths[0]:
        return None
    return Sign(
        "length_grows",
        f"The mean response grew from {lengths[0]:.0f} to {lengths[-1]:.0f} tokens over {len(lengths)} rounds.",
        "Read some: if they only say more of the same, penalise length in the measure or lower --max-new-tokens.",
    )


def length_biased(lengths: tuple[float, float] | None) -> Sign | None:
    """The better responses are much longer than the worse ones: length alone tells them apart.

    Args:
        lengths: mean tokens of the better and of the worse responses.
    """
    if lengths is None or lengths[0] <= LENGTH_BIAS * lengths[1]:
        return None
    return Sign(
        "length_biased",
        f"The better responses have {lengths[0]:.0f} tokens on average, the worse ones {lengths[1]:.0f}: the model may "
        "learn to write more.",
        "Compare the lengths of samples before and after; balance the data, or take an objective that divides by "
        "length (ln_dpo, simpo).",
    )


def chosen_falls(rows: Sequence[Row]) -> Sign | None:
    """The likelihood of the chosen responses collapses while the margin grows: both sink, the rejected ones faster."""
    logps, margins = _ends(rows, "logps/chosen"), _ends(rows, "rewards/margins")
    if logps is None or margins is None:
        return None
    fall = logps[0] - logps[1]
    if fall <= max(10.0, 0.5 * abs(logps[0])) or margins[1] <= margins[0]:
        return None
    return Sign(
        "chosen_falls",
        f"The log-probability of the chosen responses fell from {logps[0]:.0f} to {logps[1]:.0f} "
        "while the reward margin grew.",
        "Lower the learning rate, raise beta where the objective has one, add a likelihood term (an objective "
        "with one: cpo, orpo, rrhf), or train for fewer steps.",
    )


def margin_explodes(rows: Sequence[Row]) -> Sign | None:
    """The reward margin is so wide that pairs give no gradient any more."""
    margins = _ends(rows, "rewards/margins")
    if margins is None or margins[1] - margins[0] <= MARGIN_LIMIT:
        return None
    return Sign(
        "margin_explodes",
        f"The reward margin grew from {margins[0]:.1f} to {margins[1]:.1f}: the policy is far from where it started.",
        "Lower the learning rate or the number of epochs, and compare samples with the start model.",
    )


def accuracy_stuck(rows: Sequence[Row]) -> Sign | None:
    """After many steps the pairs are still ordered by chance."""
    rows = [row for row in rows if _is_number(row.get("rewards/accuracies"))]
    late = rows[len(rows) // 2 :]
    if len(rows) < WINDOW or _steps(rows) < STUCK_STEPS:
        return None
    mean = statistics.fmean(row["rewards/accuracies"] for row in late)
    if abs(mean - 0.5) >= 0.05:
        return None
    return Sign(
        "accuracy_stuck",
        f"After {rows[-1].get('step', len(rows)):.0f} steps {100 * mean:.0f} % of the pairs are in the right order, "
        "as by chance.",
        "Check that chosen and rejected are not mixed up, then raise the learning rate.",
    )


def nothing_to_learn(rows: Sequence[Row]) -> Sign | None:
    """The responses of most records are all valued alike."""
    shares = [row["values/all_equal"] for row in rows if _is_number(row.get("values/all_equal"))]
    if len(shares) < 5 or statistics.fmean(shares) <= 0.5:
        return None
    return Sign(
        "nothing_to_learn",
        f"In {100 * statistics.fmean(shares):.0f} % of the records all responses have the same value: "
        "nothing says which is better.",
        "Use a finer measure, sample more responses or at a higher temperature, or filter these records out.",
    )


def gradient_spikes(rows: Sequence[Row]) -> Sign | None:
    """Gradient norms far above their median, several times, or not finite."""
    norms = [row["grad_norm"] for row in rows if isinstance(row.get("grad_norm"), int | float)]
    finite = [norm for norm in norms if math.isfinite(norm)]
    advice = "Lower the learning rate or --max-grad-norm, or warm up longer (--warmup-ratio)."
    if len(finite) < len(norms):
        return Sign("gradient_spikes", "A gradient is not finite.", advice)
    if len(norms) < 2 * WINDOW:
        return None
    median = statistics.median(norms)
    high = sum(norm > SPIKE * median for norm in norms)
    if median == 0 or high < SPIKES:
        return None
    return Sign(
        "gradient_spikes",
        f"{high} steps had a gradient norm over {SPIKE:.0f} times the median of {median:.3g} "
        f"(the largest: {max(norms):.3g}).",
        advice,
    )


def loss_constant(rows: Sequence[Row]) -> Sign | None:
    """The loss does not move although the learning rate is not zero."""
    rows = [row for row in rows if row.get("learning_rate", 1.0) > 0]
    losses = [row["loss"] for row in rows]
    if len(losses) < WINDOW or _steps(rows) < CONSTANT_STEPS or not all(map(math.isfinite, losses)):
        return None
    if max(losses) - min(losses) > 1e-5 * max(abs(losses[0]), 1e-8):
        return None
    return Sign(
        "loss_constant",
        f"The loss stays at {losses[-1]:.4g}: nothing is learnt.",
        "Raise the learning rate; check that parameters are trained and that the responses of a record differ.",
    )


def _ends(rows: Sequence[Row], key: str) -> tuple[float, float] | None:
    """Means of the first and of the last `WINDOW` values; None with fewer than two windows."""
    values = [row[key] for row in rows if _is_number(row.get(key))]
    if len(values) < 2 * WINDOW:
        return None
    return statistics.fmean(values[:WINDOW]), statistics.fmean(values[-WINDOW:])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _steps(rows: Sequence[Row]) -> float:
    """Optimizer steps that the rows span."""
    return rows[-1].get("step", len(rows)) - rows[0].get("step", 1) + 1


class Monitor(TrainerCallback):
    """Warns of every sign once, on standard error (unless `quiet`) and as the event `warning` of the run."""

    def __init__(self, run: Run, name: str, *, quiet: bool = False) -> None:
        self.run = run
        self.name = name
        self.quiet = quiet
        self._told = {event["key"] for event in run.events("warning") if event.get("stage") == name}
        self._first: list[Row] = []
        self._last: deque[Row] = deque(maxlen=LAST_ROWS)

    def tell(self, found: Sequence[Sign]) -> None:
        """Print and log those that were not told before."""
        for sign in found:
            if sign.key not in self._told:
                self._told.add(sign.key)
                if not self.quiet:
                    print(f"Warning: {sign}", file=sys.stderr, flush=True)
                self.run.log("warning", stage=self.name, key=sign.key, text=sign.text, advice=sign.advice)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Logs = None, **rest: Any) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        row = {**logs, "step": float(state.global_step)}
        if len(self._first) < FIRST_ROWS:
            self._first.append(row)
        else:
            self._last.append(row)
        self.tell(signs([*self._first, *self._last]))


def earlier_lengths(run: Run, name: str) -> list[float]:
    """Mean response length of the trainings before `name` in this run, in order; of those with its objective, because
    others (on demonstrations, before the rounds) learn from what the model did not write.
    """
    plans = {event["stage"]: event for event in run.events("plan") if event["responses"]}
    objective = plans[name].get("objective") if name in plans else None
    return [
        plan["response_tokens"] / plan["responses"]
        for stage, plan in plans.items()
        if stage != name and objective in (None, plan.get("objective"))
    ]

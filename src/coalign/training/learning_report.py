"""The report of a training run: what was trained on what, curves, and held-out figures before and after."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from coalign.core.runs import Run
from coalign.data.media.gallery import record_gallery
from coalign.measures.statistics import wilson_interval
from coalign.models.files.places import full_name, short_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import compared, curves, estimate, held_out, judged, with_start
from coalign.training.material import Material
from coalign.training.objective import Objective
from coalign.training.watch.answers import answer_section
from coalign.training.watch.held_out import loss_change

if TYPE_CHECKING:
    from coalign.measures.statistics import Interval
    from coalign.training.job import FitResult

PICTURED = 12
"""Records of the training whose pictures the report shows."""
_CHARTS = (
    ("loss", "Loss"),
    ("rewards/margins", "Reward margin"),
    ("rewards/accuracies", "Pairs in the right order"),
    ("logps/chosen", "Log-probability of the chosen response"),
    ("logps/rejected", "Log-probability of the rejected response"),
    ("kl/policy_reference", "Log-ratio of policy and reference, nats a response"),
    ("grad_norm", "Gradient norm"),
)
_HELD_OUT: tuple[tuple[str, str, doc.Better, doc.Unit], ...] = (
    ("loss", "Loss", "lower", "number"),
    ("rewards/accuracies", "Pairs in the right order", "higher", "percent"),
    ("rewards/margins", "Reward margin", "higher", "number"),
    ("logps/chosen", "Log-probability, chosen", "neither", "number"),
    ("logps/rejected", "Log-probability, rejected", "neither", "number"),
)


def write_learning_report(
    run: Run,
    config: Any,
    objective: Objective,
    material: Material,
    result: FitResult,
    *,
    sections: Sequence[doc.AnySection] = (),
    limitations: Sequence[str] = (),
) -> doc.Report:
    """Write `report.html`, the model card and the headline of `status.json`.

    Args:
        sections: what a system has to say besides, after the figures.
        limitations: what the figures do not say.
    """
    notes = list(material.notes)
    if result.truncated:
        notes.append(
            f"{result.truncated} prompts or responses were cut to --max-length or --max-prompt-length."
        )
    if result.dropped:
        notes.append(
            f"{result.dropped} records were left out: their prompt leaves no room for a response, or would lose its pictures."
        )
    before, after, n = result.before, _last(result.history, "eval_"), len(material.held_out)
    histories = {"training": result.history, "held out": with_start(before, held_out(result.history))}
    return publish(
        run,
        config,
        title=f"{objective.shown} on {short_name(config.model)}",
        verdict=_headline(result, before, after, n),
        facts={
            "Model": full_name(config.model),
            "Records": f"{len(material.training)} to train, {n} held out",
            "Steps": str(result.steps),
            "Seed": str(config.seed),
        },
        sections=[
            *([_held_out(before, after, n, loss_change(result))] if before and after else []),
            *answer_section(run),
            *sections,
            *curves(_CHARTS, histories),
            *record_gallery(material.training, "Records with pictures", most=PICTURED),
        ],
        notes=notes,
        limitations=limitations,
        then=[doc.Command(f"coalign chat {run.path} --compare base", "talk to both models, side by side")],
        figures=_last(result.history, "eval_") or _last(result.history, ""),
        trained_on=" ".join(one if one.endswith(".") else f"{one}." for one in material.notes),
        method_title=objective.shown,
    )


def _headline(result: FitResult, before: dict[str, float], after: dict[str, float], n: int) -> doc.Headline:
    if not after:
        last = _last(result.history, "")
        text = f"{result.steps} steps, last loss {last['loss']:.4f}. Nothing was held out, so nothing is claimed."
        return doc.Headline("neutral", text)
    key = "rewards/accuracies"
    ordered = key in before and math.isfinite(after.get(key, math.nan))
    if ordered and _is_reference(before):
        return _against_chance(result, after[key], n)
    change = loss_change(result)
    told = f"Held-out loss: {before['loss']:.4f} before, {after['loss']:.4f} after {result.steps} steps"
    figures = [doc.Figure("Held-out loss", after["loss"], before=before["loss"], better="lower")]
    if ordered:
        share = doc.Figure(
            "Held-out pairs in the right order", after[key], before=before[key], unit="percent"
        )
        told += f"; pairs in the right order: {100 * before[key]:.1f} and {100 * after[key]:.1f} %"
        figures.append(share)
    if change is None:
        return doc.Headline("neutral", f"{told}. The change has no interval, so nothing is claimed.", figures)
    figures[0] = dataclasses.replace(figures[0], difference=estimate(change))
    interval = (
        f" ({change.mean:+.4f}, 95 % interval {change.low:+.4f} to {change.high:+.4f})" if n > 1 else ""
    )
    return judged(change, f"{told}{interval}.", figures, n=n, better="lower")


def _is_reference(before: dict[str, float]) -> bool:
    """Whether the start model is what rewards are measured against: then every reward is 0, and it orders no pair."""
    return before.get("rewards/chosen") == 0 == before.get("rewards/rejected")


def _against_chance(result: FitResult, accuracy: float, n: int) -> doc.Headline:
    """The verdict of pairs that the start model cannot order: whether the interval of the accuracy excludes 50 %."""
    interval = wilson_interval(round(accuracy * n), n)
    ahead = doc.Estimate(accuracy - 0.5, interval.low - 0.5, interval.high - 0.5)
    note = f"of {n}; the start model is the reference and orders none"
    return judged(
        ahead,
        f"Held-out pairs in the right order by implicit reward: {100 * accuracy:.1f} % of {n} after "
        f"{result.steps} steps (95 % interval {100 * interval.low:.0f} to {100 * interval.high:.0f} %; by chance 50 %).",
        [doc.Figure("Held-out pairs in the right order", accuracy, unit="percent", note=note)],
        n=n,
    )


def _held_out(
    before: dict[str, float], after: dict[str, float], n: int, change: Interval | None
) -> doc.Comparison:
    unordered = {"rewards/accuracies"} if _is_reference(before) else set()
    rows = [
        compared(
            title,
            None if key in unordered else before[key],
            after[key],
            change if key == "loss" else None,
            n=n,
            unit=unit,
            better=better,
        )
        for key, title, better, unit in _HELD_OUT
        if key in before and key in after
    ]
    rows += [
        compared(f"Loss, {key.removeprefix('loss/')}", before[key], after[key], unit="number", better="lower")
        for key in before
        if key.startswith("loss/") and key in after
    ]
    return doc.Comparison("Held-out records", note="The objective's own figures.", scale="row", rows=rows)


def _last(history: list[dict[str, float]], prefix: str) -> dict[str, float]:
    """The last logged row whose keys start with `prefix`, without the prefix."""
    for row in reversed(history):
        if prefix + "loss" in row:
            return {key[len(prefix) :]: value for key, value in row.items() if key.startswith(prefix)}
    return {}

"""The report of a training run: what was trained on what, curves, and held-out figures before and after."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from coalign.core import options
from coalign.core.catalogue import entries
from coalign.core.runs import Run
from coalign.measures.statistics import wilson_interval
from coalign.report.html import write_report
from coalign.report.model import (
    Better,
    Chart,
    Command,
    Comparison,
    ComparisonRow,
    Curves,
    Estimate,
    Figure,
    Headline,
    KeyValues,
    Outcome,
    Report,
    Section,
    Series,
    Text,
    Unit,
)
from coalign.report.model_card import write_model_card
from coalign.report.page import warning_section
from coalign.training.material import Material
from coalign.training.objective import Objective

if TYPE_CHECKING:
    from coalign.training.fit import FitResult

_CHARTS = (
    ("loss", "Loss"),
    ("rewards/margins", "Reward margin"),
    ("rewards/accuracies", "Pairs in the right order"),
    ("logps/chosen", "Log-probability of the chosen response"),
    ("logps/rejected", "Log-probability of the rejected response"),
    ("kl/policy_reference", "Log-ratio of policy and reference, nats a response"),
    ("grad_norm", "Gradient norm"),
)
_HELD_OUT: tuple[tuple[str, str, Better, Unit], ...] = (
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
    sections: Sequence[Section] = (),
    limitations: Sequence[str] = (),
) -> Report:
    """Write `report.html`, the model card and the headline of `status.json`.

    Args:
        sections: what a system has to say besides, after the figures; the model card has their paragraphs too.
        limitations: for the model card.
    """
    report = _report(run, config, objective, material, result, sections)
    write_report(report, run.report)
    adapter = run.model / "adapter_config.json"
    base = json.loads(adapter.read_text())["base_model_name_or_path"] if adapter.exists() else config.model
    write_model_card(
        run.model / "README.md",
        report=report,
        base_model=base or config.model,
        library="peft" if adapter.exists() else "transformers",
        method_title=objective.name,
        data=" ".join(one if one.endswith(".") else f"{one}." for one in material.notes),
        config=options.to_dict(config),
        limitations=limitations,
    )
    run.set_status(
        headline=report.verdict.text, figures=_last(result.history, "eval_") or _last(result.history, "")
    )
    return report


def _report(
    run: Run,
    config: Any,
    objective: Objective,
    material: Material,
    result: FitResult,
    extra: Sequence[Section],
) -> Report:
    facts = {
        "Model": str(config.model),
        "Records": f"{len(material.training)} to train, {len(material.held_out)} held out",
        "Steps": str(result.steps),
        "Seed": str(config.seed),
    }
    notes = list(material.notes)
    if result.truncated:
        notes.append(
            f"{result.truncated} prompts or responses were cut to --max-length or --max-prompt-length."
        )
    if result.dropped:
        notes.append(f"{result.dropped} records were left out: their prompt leaves no room for a response.")
    sections: list[Any] = [*warning_section(run)]
    before, after = result.before, _last(result.history, "eval_")
    if before and after:
        sections.append(_held_out(before, after, len(material.held_out)))
    sections += [
        *extra,
        Curves(title="Training", charts=_charts(result.history)),
        Text(title="Data", paragraphs=notes),
        KeyValues(title="Configuration", items=options.to_dict(config)),
        KeyValues(title="Environment", items=run.environment()),
    ]
    method = run.status()["method"]
    return Report(
        title=f"{objective.name} on {config.model}",
        method=method,
        arxiv=next((entry.arxiv for entry in entries() if entry.slug == method), None),
        verdict=_headline(result, before, after, len(material.held_out)),
        facts=facts,
        sections=sections,
        next_commands=[
            Command(
                command=f"coalign chat {run.path} --compare base", purpose="talk to both models, side by side"
            )
        ],
    )


def _headline(result: FitResult, before: dict[str, float], after: dict[str, float], n: int) -> Headline:
    if not after:
        last = _last(result.history, "")
        text = f"{result.steps} steps, last loss {last['loss']:.4f}. Nothing was held out, so nothing is claimed."
        return Headline(outcome="neutral", text=text)
    key = "rewards/accuracies"
    if key not in before or not math.isfinite(after.get(key, math.nan)):
        key = "loss"
    if key != "loss" and _is_reference(before):
        return _against_chance(result, after[key], n)
    change = after[key] - before[key]
    better = change > 0 if key != "loss" else change < 0
    word = "pairs in the right order" if key != "loss" else "loss"
    unit: Any = "percent" if key != "loss" else "number"
    shown = [
        f"{100 * value:.1f} %" if unit == "percent" else f"{value:.4f}" for value in (before[key], after[key])
    ]
    return Headline(
        outcome="improved" if better else "not improved",
        text=f"Held-out {word}: {shown[0]} before, {shown[1]} after {result.steps} steps.",
        figures=[
            Figure(
                label=f"Held-out {word}",
                value=after[key],
                before=before[key],
                unit=unit,
                better="higher" if key != "loss" else "lower",
            )
        ],
    )


def _is_reference(before: dict[str, float]) -> bool:
    """Whether the start model is what rewards are measured against: then every reward is 0, and it orders no pair."""
    return before.get("rewards/chosen") == 0 == before.get("rewards/rejected")


def _against_chance(result: FitResult, accuracy: float, n: int) -> Headline:
    """The verdict of pairs that the start model cannot order: whether the interval of the accuracy excludes 50 %."""
    interval = wilson_interval(round(accuracy * n), n)
    outcome: Outcome = (
        "improved" if interval.low > 0.5 else "not improved" if interval.high < 0.5 else "neutral"
    )
    return Headline(
        outcome=outcome,
        text=f"Held-out pairs in the right order by implicit reward: {100 * accuracy:.1f} % of {n} after "
        f"{result.steps} steps (95 % interval {100 * interval.low:.0f} to {100 * interval.high:.0f} %; by chance 50 %).",
        figures=[
            Figure(
                label="Held-out pairs in the right order",
                value=accuracy,
                unit="percent",
                note=f"of {n}; the start model is the reference and orders none",
            )
        ],
    )


def _held_out(before: dict[str, float], after: dict[str, float], n: int) -> Comparison:
    unordered = {"rewards/accuracies"} if _is_reference(before) else set()
    rows = [
        ComparisonRow(
            name=title,
            before=Estimate(None if key in unordered else before[key]),
            after=Estimate(after[key]),
            difference=None if key in unordered else Estimate(after[key] - before[key]),
            better=better,
            unit=unit,
            n=n,
        )
        for key, title, better, unit in _HELD_OUT
        if key in before and key in after
    ]
    return Comparison(title="Held-out records", note="The objective's own figures.", scale="row", rows=rows)


def _charts(history: list[dict[str, float]]) -> list[Chart]:
    charts = []
    for key, title in _CHARTS:
        series = []
        for name, prefix in (("training", ""), ("held out", "eval_")):
            rows = [row for row in history if prefix + key in row]
            if rows:
                steps = [float(row["step"]) for row in rows]
                series.append(Series(name=name, steps=steps, values=[row[prefix + key] for row in rows]))
        if series:
            charts.append(Chart(title=title, series=series))
    return charts


def _last(history: list[dict[str, float]], prefix: str) -> dict[str, float]:
    """The last logged row whose keys start with `prefix`, without the prefix."""
    for row in reversed(history):
        if prefix + "loss" in row:
            return {key[len(prefix) :]: value for key, value in row.items() if key.startswith(prefix)}
    return {}

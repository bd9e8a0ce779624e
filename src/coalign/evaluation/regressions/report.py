"""The report of a model update: what broke, what was mended, and every item to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from coalign.core import options
from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.evaluation.protocol import changes, rates
from coalign.evaluation.regressions.flips import flips, quadrant, smooth_flips
from coalign.evaluation.regressions.tasks import Task, scores
from coalign.evaluation.regressions.training import training_history
from coalign.measures.statistics import bootstrap_mean, paired_bootstrap
from coalign.report.html import write_report
from coalign.report.model import (
    AnySection,
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
    Output,
    Report,
    Sample,
    Samples,
    Series,
)

Answers = Mapping[str, Sequence[str]]
NAMES = {"nfr": "Negative flips", "pfr": "Positive flips"}


def measure_update(task: Task, answers: Answers, *, margin: float = 0.0) -> dict[str, Any]:
    """Figures of every later version against `old`, with 95 % bootstrap intervals over items.

    Returns:
        {version: {metric: value, "intervals": {metric: {mean, low, high, ...}}}} for `new` and, where there is one,
        `compatible`; `difference`: compatible minus new, paired over items.
    """
    items = {name: scores(task, found) for name, found in answers.items()}
    values = {
        name: {**flip_flags(items["old"], found, margin), "score": found} for name, found in items.items()
    }
    result: dict[str, Any] = {}
    for name in answers:
        if name == "old":
            continue
        if task.metric == "rouge1":
            figures = asdict(smooth_flips(items["old"], items[name], margin=margin))
        else:
            figures = asdict(flips(answers["old"], answers[name], task.truths))
        result[name] = {**figures, "intervals": rates(values[name])}
    if "compatible" in answers:
        result["difference"] = changes(values["new"], values["compatible"])
    return result


def flip_flags(old: Sequence[float], new: Sequence[float], margin: float) -> dict[str, list[float]]:
    """[N] 1 where the score fell (`nfr`) or rose (`pfr`) by more than the margin."""
    change = np.asarray(new) - np.asarray(old)
    return {"nfr": (change < -margin).astype(float).tolist(), "pfr": (change > margin).astype(float).tolist()}


def write_compatibility_report(
    run: Run,
    config: Any,
    task: Task,
    answers: Answers,
    *,
    method: str,
    arxiv: str,
    margin: float = 0.0,
) -> None:
    """Write `result.json`, the report and the run's headline.

    Args:
        config: has `old`, `model` and `data`.
        method, arxiv: the system and its paper.
    """
    result = measure_update(task, answers, margin=margin)
    write_json(run.artefacts / "result.json", {"metric": task.metric, "items": len(task.items), **result})
    last = "compatible" if "compatible" in answers else "new"
    headline = _headline(result, last)
    sections: list[AnySection] = [
        _comparison(result, task, answers, last),
        *_curves(run),
        _instances(task, answers, margin),
        KeyValues(title="Configuration", items=options.to_dict(config)),
    ]
    report = Report(
        title="What a model update breaks" if last == "new" else "A model update that breaks less",
        method=method,
        verdict=headline,
        facts={
            "Old version": config.old,
            "New version": config.model,
            "Task": f"{config.data} ({len(task.items)} items)",
        },
        arxiv=arxiv,
        sections=sections,
        next_commands=[
            Command(command=f"coalign chat {run.path}", purpose="Talk to the compatible version"),
        ]
        if last == "compatible"
        else [],
    )
    write_report(report, run.report)
    run.set_status(headline=headline.text)


def _headline(result: dict[str, Any], last: str) -> Headline:
    new = result["new"]
    text = f"{new['nfr']:.1%} of the answers broke between the old and the new version, {new['pfr']:.1%} were mended."
    outcome: Any = "neutral"
    change = None
    if last == "compatible":
        ours, difference = result["compatible"], result["difference"]["nfr"]
        change = Estimate(difference["mean"], difference["low"], difference["high"])
        relative = f" ({ours['nfr'] / new['nfr'] - 1:+.0%})" if new["nfr"] else ""
        text += f" With the compatibility adapter {ours['nfr']:.1%} break{relative}."
        clear = (difference["high"] or 0) < 0
        outcome = "improved" if clear else "not improved" if (difference["low"] or 0) > 0 else "mixed"
    score = "score_new" if "score_new" in new else "accuracy_new"
    return Headline(
        outcome=outcome,
        text=text,
        figures=[
            Figure(
                label="Negative flips",
                value=result[last]["nfr"],
                before=new["nfr"] if last == "compatible" else None,
                difference=change,
                unit="percent",
                better="lower",
            ),
            Figure(
                label="Accuracy" if score == "accuracy_new" else "ROUGE-1",
                value=result[last][score],
                before=new[score] if last == "compatible" else None,
                unit="percent",
            ),
        ],
    )


def _comparison(result: dict[str, Any], task: Task, answers: Answers, last: str) -> Comparison:
    """New against compatible, or old against new."""
    n = len(task.items)

    def estimate(version: str, key: str) -> Estimate:
        one = result[version]["intervals"][key]
        return Estimate(one["mean"], one["low"], one["high"])

    score_name = "ROUGE-1" if task.metric == "rouge1" else "Accuracy"
    if last == "new":
        items = {name: scores(task, found) for name, found in answers.items()}
        gap, was = paired_bootstrap(items["old"], items["new"]), bootstrap_mean(items["old"])
        row = ComparisonRow(
            name=score_name,
            before=Estimate(was.mean, was.low, was.high),
            after=estimate("new", "score"),
            difference=Estimate(gap.mean, gap.low, gap.high),
            n=n,
        )
        return Comparison(title="Score", names=("Old", "New"), rows=[row])
    directions: dict[str, Better] = {"nfr": "lower", "pfr": "higher"}
    rows = []
    for key, name in {**NAMES, "score": score_name}.items():
        gap = result["difference"][key]
        rows.append(
            ComparisonRow(
                name=name,
                before=estimate("new", key),
                after=estimate("compatible", key),
                difference=Estimate(gap["mean"], gap["low"], gap["high"]),
                n=n,
                better=directions.get(key, "higher"),
            )
        )
    return Comparison(
        title="Flips against the old version",
        note="The old version's answers were kept once and serve both comparisons. Fewer negative flips at equal accuracy is what is aimed at.",
        names=("New", "Compatible"),
        rows=rows,
    )


def _curves(run: Run) -> list[AnySection]:
    history = training_history(run).get("history", [])
    charts = []
    for key, title in (("loss", "Loss"), ("eval_loss", "Loss on held-out records")):
        rows = [row for row in history if key in row]
        if rows:
            series = Series(
                name=title, steps=[row["step"] for row in rows], values=[row[key] for row in rows]
            )
            charts.append(Chart(title=title, series=[series]))
    return [Curves(title="Training", charts=charts)] if charts else []


def _instances(task: Task, answers: Answers, margin: float) -> Samples:
    """Every item with the answers of all versions; its category is what became of it."""
    values = {name: scores(task, found) for name, found in answers.items()}
    last = list(answers)[-1]
    tags = [
        [f"new: {_fate(values['old'][i], values['new'][i], task, margin)}"]
        + (
            [f"compatible: {_fate(values['old'][i], values[last][i], task, margin)}"]
            if last == "compatible"
            else []
        )
        for i in range(len(task.items))
    ]
    counts = Counter(tag for one in tags for tag in one)
    rows = [
        Sample(
            prompt=f"{item.prompt[-1]['content']}\n\nRight: {truth}",
            outputs=[Output(text=found[i], score=values[name][i]) for name, found in answers.items()],
            tags=tags[i],
        )
        for i, (item, truth) in enumerate(zip(task.items, task.truths, strict=True))
    ]
    return Samples(
        title="Items",
        note="; ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        + ". Choose a category to see them.",
        columns=[name.capitalize() for name in answers],
        rows=rows,
        score_name="ROUGE-1" if task.metric == "rouge1" else "right",
    )


def _fate(old: float, new: float, task: Task, margin: float) -> str:
    if task.metric == "rouge1":
        return "worse" if new < old - margin else "better" if new > old + margin else "equal"
    return quadrant(old == 1, new == 1)

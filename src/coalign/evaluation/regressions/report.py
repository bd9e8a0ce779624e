"""The report of a model update: what broke, what was mended, and every item to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.evaluation.protocol import changes, rates
from coalign.evaluation.regressions.flips import flips, quadrant, smooth_flips
from coalign.evaluation.regressions.tasks import Task, scores
from coalign.evaluation.regressions.training import training_history
from coalign.report.model import Better, Command, Comparison, Figure, Headline, Output, Sample, Samples
from coalign.report.page import publish
from coalign.report.parts import compared, curves, estimate, held_out, judged, paired

Answers = Mapping[str, Sequence[str]]


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
    run: Run, config: Any, task: Task, answers: Answers, *, margin: float = 0.0
) -> None:
    """Write `result.json`, the report and the run's headline.

    Args:
        config: has `old`, `model` and `data`.
    """
    result = measure_update(task, answers, margin=margin)
    write_json(run.artefacts / "result.json", {"metric": task.metric, "items": len(task.items), **result})
    trained = "compatible" in answers
    comparison = _comparison(result, task) if trained else _scores(task, answers)
    history = training_history(run).get("history", [])
    publish(
        run,
        config,
        title="A model update that breaks less" if trained else "What a model update breaks",
        verdict=_headline(result, _score_name(task), len(task.items), trained),
        facts={
            "Old version": config.old,
            "New version": config.model,
            "Task": f"{config.data} ({len(task.items)} items)",
        },
        sections=[
            comparison,
            *curves([("loss", "Loss")], {"training": history, "held out": held_out(history)}),
            _instances(task, answers, margin),
        ],
        notes=list(dict.fromkeys(event["note"] for event in run.events("data"))),
        then=[Command(f"coalign chat {run.path}", "Talk to the compatible version")] if trained else [],
    )


def _headline(result: dict[str, Any], score: str, n: int, trained: bool) -> Headline:
    new, ours = result["new"], result["compatible" if trained else "new"]
    text = f"{new['nfr']:.1%} of the answers broke between the old and the new version, {new['pfr']:.1%} were mended."
    change = estimate(result["difference"]["nfr"]) if trained else None
    if trained:
        relative = f" ({ours['nfr'] / new['nfr'] - 1:+.0%})" if new["nfr"] else ""
        text += f" With the compatibility adapter {ours['nfr']:.1%} break{relative}."
    key = "score_new" if "score_new" in new else "accuracy_new"
    flips_before, score_before = (new["nfr"], new[key]) if trained else (None, None)
    return judged(
        change,
        text,
        [
            Figure(
                "Negative flips",
                ours["nfr"],
                before=flips_before,
                difference=change,
                unit="percent",
                better="lower",
            ),
            Figure(score, ours[key], before=score_before, unit="percent"),
        ],
        n=n,
        better="lower",
    )


def _score_name(task: Task) -> str:
    return "ROUGE-1" if task.metric == "rouge1" else "Accuracy"


def _scores(task: Task, answers: Answers) -> Comparison:
    """Old against new."""
    old, new = (scores(task, answers[name]) for name in ("old", "new"))
    return Comparison("Score", names=("Old", "New"), rows=[paired(_score_name(task), old, new)])


def _comparison(result: dict[str, Any], task: Task) -> Comparison:
    """New against compatible."""
    names: dict[str, tuple[str, Better]] = {
        "nfr": ("Negative flips", "lower"),
        "pfr": ("Positive flips", "higher"),
        "score": (_score_name(task), "higher"),
    }
    rows = [
        compared(
            name,
            result["new"]["intervals"][key],
            result["compatible"]["intervals"][key],
            result["difference"][key],
            n=len(task.items),
            better=better,
        )
        for key, (name, better) in names.items()
    ]
    return Comparison(
        "Flips against the old version",
        note="The old version's answers were kept once and serve both comparisons. Fewer negative flips at equal accuracy is what is aimed at.",
        names=("New", "Compatible"),
        rows=rows,
    )


def _instances(task: Task, answers: Answers, margin: float) -> Samples:
    """Every item with the answers of all versions; its category is what became of it."""
    values = {name: scores(task, found) for name, found in answers.items()}
    later = [name for name in answers if name != "old"]
    tags = [
        [f"{name}: {_fate(values['old'][i], values[name][i], task, margin)}" for name in later]
        for i in range(len(task.items))
    ]
    counts = Counter(tag for one in tags for tag in one)
    rows = [
        Sample(
            f"{item.prompt[-1]['content']}\n\nRight: {truth}",
            [Output(found[i], values[name][i]) for name, found in answers.items()],
            tags=tags[i],
        )
        for i, (item, truth) in enumerate(zip(task.items, task.truths, strict=True))
    ]
    return Samples(
        "Items",
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

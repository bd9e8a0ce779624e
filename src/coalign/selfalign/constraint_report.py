"""Before and after on held-out prompts: constraint satisfaction, length, fluency, samples, and the report of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coalign.core import options
from coalign.core.catalogue import get
from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.judging.verifiers.tasks import ConstraintTask, measure_responses
from coalign.loops.rounds import STAGES, Round, timings
from coalign.measures.statistics import bootstrap_mean, paired_bootstrap
from coalign.measures.text_metrics import compare_distinct_n
from coalign.models.files.loading import load_model, load_tokenizer, locate
from coalign.models.fluency import text_logps
from coalign.models.options import ModelOptions
from coalign.report.html import write_report
from coalign.report.model import (
    Chart,
    Command,
    Comparison,
    ComparisonRow,
    Curves,
    Distribution,
    Estimate,
    Figure,
    Headline,
    KeyValues,
    Output,
    Report,
    Sample,
    Samples,
    Series,
    Stage,
    Text,
    Timings,
    Values,
)
from coalign.report.model_card import write_model_card
from coalign.report.page import warning_section

FLUENCY_TOLERANCE = 0.10
"""Perplexity may rise and distinct-2 may fall by this share before the guard speaks."""


def compare_runs(
    round: Round,
    model: ModelOptions,
    tasks: Sequence[ConstraintTask],
    before: Sequence[dict[str, Any]],
    after: Sequence[dict[str, Any]],
) -> None:
    """Measure both sides and write `comparison.json` and the measured rows into the round's folder.

    Perplexity is that of the base model, over the tokens of all texts of a side, each after its prompt.
    """
    by_id = {task.id: task for task in tasks}
    sides = {"before": measure_responses(by_id, before), "after": measure_responses(by_id, after)}
    base, tokenizer = load_model(model, training=False), load_tokenizer(model.model, revision=model.revision)
    texts = {
        side: [[one["text"] for one in row["responses"]] for row in rows] for side, rows in sides.items()
    }
    perplexity = {
        side: text_logps(
            base, tokenizer, [task.prompt for task in tasks], texts[side], label=f"Perplexity ({side})"
        )
        for side in sides
    }
    flat = {side: [text for group in texts[side] for text in group] for side in sides}
    distinct = compare_distinct_n(flat["before"], flat["after"], 2)
    means = {side: [_mean(row["csr"]) for row in rows] for side, rows in sides.items()}
    result = {
        "satisfaction": _compared(means["before"], means["after"]),
        "kinds": {
            kind: _compared(
                _values_of(kind, tasks, sides["before"]),
                _values_of(kind, tasks, sides["after"]),
            )
            for kind in sorted({tag for task in tasks for tag in task.tags})
        },
        "perplexity": [perplexity["before"].perplexity, perplexity["after"].perplexity],
        "distinct_2": list(distinct[:2]),
        "tokens": [
            _mean([one["tokens"] for row in sides[side] for one in row["responses"]]) for side in sides
        ],
        "unfinished": [
            _mean([one["finish_reason"] == "length" for row in sides[side] for one in row["responses"]])
            for side in sides
        ],
    }
    for side, rows in sides.items():
        round.write(f"heldout-{side}", rows)
    write_json(round.path("comparison", ".json"), result)


def fluent(result: dict[str, Any]) -> bool:
    """Whether perplexity and diversity stayed within `FLUENCY_TOLERANCE`."""
    before, after = result["perplexity"]
    old, new = result["distinct_2"]
    return after <= before * (1 + FLUENCY_TOLERANCE) and new >= old * (1 - FLUENCY_TOLERANCE)


def write_constraint_report(
    run: Run,
    config: Any,
    rounds: Sequence[Round],
    training: Sequence[ConstraintTask],
    held_out: Sequence[ConstraintTask],
) -> Report:
    """Write `report.html`, the model card and the headline figures of `status.json`."""
    last = rounds[-1]
    result = json.loads(last.path("comparison", ".json").read_text(encoding="utf-8"))
    report = _report(run, config, rounds, training, held_out, result)
    write_report(report, run.report)
    status = run.status()
    write_model_card(
        run.model / "README.md",
        report=report,
        base_model=_base_name(run.model, config.model),
        library="peft" if (run.model / "adapter_config.json").exists() else "transformers",
        method_title=get(status["method"]).title,
        data=f"{len(training)} prompts with constraints ({config.prompts}); no labels.",
        config=options.to_dict(config),
    )
    change = result["satisfaction"]["difference"]
    run.set_status(
        headline=f"constraint satisfaction {_percent(result['satisfaction']['before']['mean'])} to "
        f"{_percent(result['satisfaction']['after']['mean'])}",
        figures={
            "satisfaction_before": result["satisfaction"]["before"]["mean"],
            "satisfaction_after": result["satisfaction"]["after"]["mean"],
            "difference": change["mean"],
            "low": change["low"],
            "high": change["high"],
            "perplexity_before": result["perplexity"][0],
            "perplexity_after": result["perplexity"][1],
            "distinct_2_before": result["distinct_2"][0],
            "distinct_2_after": result["distinct_2"][1],
        },
    )
    return report


def _report(
    run: Run,
    config: Any,
    rounds: Sequence[Round],
    training: Sequence[ConstraintTask],
    held_out: Sequence[ConstraintTask],
    result: dict[str, Any],
) -> Report:
    last = rounds[-1]
    rows = {side: last.read(f"heldout-{side}") for side in ("before", "after")}
    entry = get(run.status()["method"])
    return Report(
        title=f"Constraint alignment of {locate(config.model).name}",
        method=entry.slug,
        arxiv=entry.arxiv,
        verdict=_headline(result),
        facts={
            "Model": config.model,
            "Training prompts": str(len(training)),
            "Held-out prompts": f"{len(held_out)}, {config.eval_samples} answers each",
            "Seed": str(config.seed),
        },
        sections=[
            *warning_section(run),
            _comparison(result, len(held_out)),
            _fluency(result),
            Samples(
                title="Held-out prompts side by side",
                note="First answer to each prompt. The score is the mean over all its answers.",
                columns=["Before", "After"],
                rows=[
                    Sample(prompt=task.text, outputs=[_output(task, row) for row in pair], tags=task.tags)
                    for task, *pair in zip(held_out, rows["before"], rows["after"], strict=True)
                ],
                score_name="satisfaction",
            ),
            *_curves(rounds),
            Distribution(
                title="Length of the answers",
                samples=[
                    Values(
                        name=name, values=[one["tokens"] for row in rows[side] for one in row["responses"]]
                    )
                    for name, side in (("Before", "before"), ("After", "after"))
                ],
                x_label="tokens",
            ),
            Timings(
                title="Time and memory",
                note="Peak memory of the process in each stage.",
                stages=[
                    Stage(
                        name=row["stage"],
                        seconds=row["seconds"],
                        peak_bytes=int(row["peak_mb"] * 1024 * 1024),
                    )
                    for row in timings(rounds, STAGES)
                ],
            ),
            Text(
                title="Limitations",
                paragraphs=[
                    "Constraints are checked by programs, which see form and not sense: read the samples.",
                    "Held-out prompts have other values and topics than the training prompts, but the same kinds of constraint.",
                ],
            ),
            KeyValues(title="Configuration", items=options.to_dict(config)),
            KeyValues(title="Environment", items=run.environment()),
        ],
        next_commands=[
            Command(command=f"coalign chat {run.path}", purpose="talk to the aligned model"),
            Command(command=f"coalign chat {run.path} --compare base", purpose="talk to both, side by side"),
        ],
    )


def _headline(result: dict[str, Any]) -> Headline:
    change = result["satisfaction"]["difference"]
    guard = fluent(result)
    up = change["low"] is not None and change["low"] > 0
    down = change["high"] is not None and change["high"] < 0
    outcome = "improved" if up and guard else "mixed" if up else "not improved"
    after, before = (_percent(result["satisfaction"][side]["mean"]) for side in ("after", "before"))
    parts = [f"On held-out prompts the model satisfies {after} of the constraints, {before} before."]
    if not up:
        parts.append("The interval of the change holds zero." if not down else "It got worse.")
    parts.append(
        "Fluency held: perplexity under the base model and diversity stayed within 10 %."
        if guard
        else "Fluency suffered: perplexity under the base model or diversity left the 10 % band. Read the samples."
    )
    return Headline(
        outcome=outcome,
        text=" ".join(parts),
        figures=[
            Figure(
                label="Constraint satisfaction",
                value=result["satisfaction"]["after"]["mean"],
                unit="percent",
                before=result["satisfaction"]["before"]["mean"],
                difference=_estimate(change),
                note=f"{change['n']} held-out prompts",
            ),
            Figure(
                label="Perplexity under the base model",
                value=result["perplexity"][1],
                before=result["perplexity"][0],
                better="lower",
            ),
            Figure(label="Distinct-2", value=result["distinct_2"][1], before=result["distinct_2"][0]),
            Figure(
                label="Mean length in tokens",
                value=result["tokens"][1],
                before=result["tokens"][0],
                better="neither",
            ),
        ],
    )


def _comparison(result: dict[str, Any], n: int) -> Comparison:
    rows = [_row("All constraints", result["satisfaction"], emphasis=True)]
    rows += [_row(kind, values) for kind, values in result["kinds"].items()]
    return Comparison(
        title="Constraint satisfaction",
        note="Mean over held-out prompts with bootstrap intervals; the change is paired by prompt.",
        rows=rows,
    )


def _row(name: str, values: dict[str, Any], *, emphasis: bool = False) -> ComparisonRow:
    return ComparisonRow(
        name=name,
        before=_estimate(values["before"]),
        after=_estimate(values["after"]),
        difference=_estimate(values["difference"]),
        n=values["difference"]["n"],
        emphasis=emphasis,
    )


def _fluency(result: dict[str, Any]) -> Comparison:
    def row(name: str, key: str, better: Any, unit: Any = "number") -> ComparisonRow:
        before, after = result[key]
        return ComparisonRow(
            name=name,
            before=Estimate(before),
            after=Estimate(after),
            difference=Estimate(after - before),
            unit=unit,
            better=better,
        )

    return Comparison(
        title="Fluency guard",
        note="A reward that is satisfied with broken language shows here: perplexity of the answers under the base "
        "model, and distinct word pairs at equal amount of text.",
        scale="row",
        rows=[
            row("Perplexity under the base model", "perplexity", "lower"),
            row("Distinct-2", "distinct_2", "higher"),
            row("Mean length (tokens)", "tokens", "neither"),
            row("Ran out of tokens", "unfinished", "lower", "percent"),
        ],
    )


def _curves(rounds: Sequence[Round]) -> list[Curves]:
    charts = []
    for name, title in (
        ("loss", "Loss"),
        ("rewards/accuracies", "Pairs in the right order"),
        ("grad_norm", "Gradient norm"),
    ):
        series = []
        for one in rounds:
            history = [row for row in one.read("history") if name in row]
            if history:
                label = title if len(rounds) == 1 else f"round {one.number}"
                steps = [float(row["step"]) for row in history]
                series.append(Series(name=label, steps=steps, values=[row[name] for row in history]))
        if series:
            charts.append(Chart(title=title, series=series))
    return [Curves(title="Training", charts=charts)] if charts else []


def _output(task: ConstraintTask, row: dict[str, Any]) -> Output:
    checks = {
        one.describe(): bool(value >= 1)
        for one, value in zip(task.constraints, row["values"][0], strict=True)
    }
    return Output(text=row["responses"][0]["text"], score=_mean(row["csr"]), checks=checks)


def _values_of(kind: str, tasks: Sequence[ConstraintTask], rows: Sequence[dict[str, Any]]) -> list[float]:
    """Mean value of the constraints of a kind, for every prompt that has one."""
    values = []
    for task, row in zip(tasks, rows, strict=True):
        columns = [n for n, one in enumerate(task.constraints) if one.verifier.replace("_", " ") == kind]
        if columns:
            values.append(_mean([each[n] for each in row["values"] for n in columns]))
    return values


def _compared(before: list[float], after: list[float]) -> dict[str, Any]:
    return {
        "before": bootstrap_mean(before).to_dict(),
        "after": bootstrap_mean(after).to_dict(),
        "difference": paired_bootstrap(before, after).to_dict(),
    }


def _estimate(interval: dict[str, Any]) -> Estimate:
    return Estimate(interval["mean"], interval["low"], interval["high"])


def _base_name(model: Path, fallback: str) -> str:
    file = model / "adapter_config.json"
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path") or fallback
    return fallback


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"

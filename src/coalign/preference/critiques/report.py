"""The report of rounds of criticism: what the critic found, held-out answers before and after, curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from coalign.core import options
from coalign.core.catalogue import get
from coalign.core.runs import Run
from coalign.loops.rounds import STAGES, Round, timings
from coalign.measures.statistics import paired_bootstrap
from coalign.preference.critiques.rounds import JudgedLoop
from coalign.report.html import write_report
from coalign.report.model import (
    Cell,
    Chart,
    Command,
    Curves,
    Estimate,
    Figure,
    Headline,
    KeyValues,
    Outcome,
    Output,
    Report,
    Sample,
    Samples,
    Series,
    Stage,
    TableSection,
    Text,
    Timings,
)
from coalign.report.model_card import write_model_card
from coalign.report.page import warning_section

Rows = Sequence[Mapping[str, Any]]
CHARTS = (
    ("loss", "Loss"),
    ("inappropriate", "Share of tokens found inappropriate"),
    ("contrast", "Contrast of plain and judged prompt"),
    ("nll/token", "Negative log-likelihood, nats a token"),
)


def write_judged_report(run: Run, loop: JudgedLoop, rounds: Sequence[Round]) -> Report:
    """Write `report.html`, the model card and the headline of `status.json`."""
    config = loop.config
    before, after = rounds[0].read("baseline"), rounds[-1].read("evaluate")
    entry = get(run.status()["method"])
    headline = _headline(before, after, rounds)
    sections: list[Any] = [*warning_section(run), _rounds_table(rounds)]
    if before:
        sections.append(_samples(before, after))
    sections += [
        *_curves(rounds),
        Timings(
            title="Time and memory",
            note="Peak memory of the process in each stage.",
            stages=[
                Stage(
                    name=f"{row['round']}: {row['stage']}",
                    seconds=row["seconds"],
                    peak_bytes=int(row["peak_mb"] * 2**20),
                )
                for row in timings(rounds, STAGES)
            ],
        ),
        Text(
            title="Limitations", paragraphs=["Answers are fine where the critic says so: read the samples."]
        ),
        KeyValues(title="Configuration", items=options.to_dict(config)),
        KeyValues(title="Environment", items=run.environment()),
    ]
    report = Report(
        title=f"{len(rounds)} rounds of criticism on {config.model}",
        method=entry.slug,
        arxiv=entry.arxiv,
        verdict=headline,
        facts={
            "Model": str(config.model),
            "Prompts": f"{len(loop.training)} to train, {len(loop.held_out)} held out",
            "Critic": config.critic or "constraints, checked by programs",
            "Seed": str(config.seed),
        },
        sections=sections,
        next_commands=[
            Command(
                command=f"coalign chat {run.path} --compare base", purpose="talk to both models, side by side"
            )
        ],
    )
    write_report(report, run.report)
    adapter = run.model / "adapter_config.json"
    base = json.loads(adapter.read_text())["base_model_name_or_path"] if adapter.exists() else config.model
    write_model_card(
        run.model / "README.md",
        report=report,
        base_model=base or config.model,
        library="peft" if adapter.exists() else "transformers",
        method_title=entry.title,
        data=f"{len(loop.training)} prompts ({config.prompts}), answered by the model itself and criticised.",
        config=options.to_dict(config),
    )
    run.set_status(headline=headline.text, figures={"fine_before": _fine(before), "fine_after": _fine(after)})
    return report


def _fine(rows: Rows) -> float | None:
    known = [bool(row["fine"]) for row in rows if row["fine"] is not None]
    return fmean(known) if known else None


def _headline(before: Rows, after: Rows, rounds: Sequence[Round]) -> Headline:
    pairs = [
        (float(one["fine"]), float(other["fine"]))
        for one, other in zip(before, after, strict=True)
        if one["fine"] is not None and other["fine"] is not None
    ]
    if not pairs:
        count = sum(_counts(one)["criticised"] for one in rounds)
        text = f"{count} criticised answers were learned from. Nothing was held out, so nothing is claimed."
        return Headline(outcome="neutral", text=text)
    change = paired_bootstrap([one for one, _ in pairs], [other for _, other in pairs])
    outcome: Outcome = "improved" if change.low > 0 else "not improved" if change.high < 0 else "neutral"
    shares = [fmean(one[side] for one in pairs) for side in (0, 1)]
    return Headline(
        outcome=outcome,
        text=f"The critic finds no fault in {100 * shares[1]:.1f} % of {len(pairs)} held-out answers, "
        f"{100 * shares[0]:.1f} % before.",
        figures=[
            Figure(
                label="Held-out answers without fault",
                value=shares[1],
                before=shares[0],
                unit="percent",
                difference=Estimate(change.mean, *(_finite(end) for end in (change.low, change.high))),
                note=f"{len(pairs)} prompts, greedy answers",
            )
        ],
    )


def _finite(value: float) -> float | None:
    return value if abs(value) != float("inf") else None


def _counts(round: Round) -> dict[str, int]:
    return json.loads((round.folder / "counts.json").read_text(encoding="utf-8"))


def _rounds_table(rounds: Sequence[Round]) -> TableSection:
    table: list[list[Cell]] = []
    for one in rounds:
        counts = _counts(one)
        trained = json.loads((one.folder / "model.json").read_text(encoding="utf-8"))["trained"]
        found = [row["inappropriate"] for row in one.read("history") if "inappropriate" in row]
        table.append(
            [
                one.number,
                counts["judged"],
                counts["criticised"],
                trained,
                counts["without_words"],
                counts["without_verdict_or_text"],
                fmean(found) if found else None,
                _fine(one.read("evaluate")),
            ]
        )
    return TableSection(
        title="Rounds",
        note="Judged answers, those with a fault, and those trained on (all with a fault and some without). Left out: "
        "faulty answers of which nothing is said, and answers that are empty or have no verdict.",
        columns=[
            "round",
            "judged",
            "criticised",
            "trained on",
            "without words",
            "without verdict or text",
            "inappropriate tokens",
            "held-out answers without fault",
        ],
        rows=table,
        units={"inappropriate tokens": "percent", "held-out answers without fault": "percent"},
    )


def _samples(before: Rows, after: Rows) -> Samples:
    return Samples(
        title="Held-out prompts side by side",
        note="Greedy answers and what the critic says of them.",
        columns=["Before", "After"],
        rows=[
            Sample(prompt=one["prompt"][-1]["content"], outputs=[_output(one), _output(other)])
            for one, other in zip(before, after, strict=True)
        ],
        score_name="without fault",
    )


def _output(row: Mapping[str, Any]) -> Output:
    said = f"\n\nCritic: {row['judgment']}" if row["judgment"] else ""
    fine = row["fine"]
    return Output(text=row["response"] + said, score=None if fine is None else float(fine))


def _curves(rounds: Sequence[Round]) -> list[Curves]:
    charts = []
    for key, title in CHARTS:
        series = []
        for one in rounds:
            rows = [row for row in one.read("history") if key in row]
            if rows:
                series.append(
                    Series(
                        name=f"round {one.number}",
                        steps=[float(row["step"]) for row in rows],
                        values=[row[key] for row in rows],
                    )
                )
        if series:
            charts.append(Chart(title=title, series=series))
    return [Curves(title="Training", charts=charts)] if charts else []

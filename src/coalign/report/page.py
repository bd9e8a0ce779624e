"""The one frame of a run's report: what every run says besides its own figures, and where it is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coalign.core import options
from coalign.core.catalogue import entries
from coalign.core.runs import Run
from coalign.report.html import write_report
from coalign.report.model import (
    AnySection,
    Command,
    Headline,
    KeyValues,
    Report,
    Stage,
    TableSection,
    Text,
    Timings,
    Unit,
)
from coalign.report.model_card import write_model_card


def publish(
    run: Run,
    config: Any,
    *,
    title: str,
    verdict: Headline,
    sections: Sequence[AnySection],
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    rounds: Iterable[Mapping[str, Any]] = (),
    limitations: Sequence[str] = (),
    then: Sequence[Command] = (),
    headline: str | None = None,
    figures: Mapping[str, Any] | None = None,
    trained_on: str | None = None,
    summary: str = "",
    task: str = "text-generation",
    method_title: str | None = None,
) -> Report:
    """Write the run's `report.html` and `report.json`, its headline in `status.json`, and the model card of a training.

    Around the sections stand, in this order: the run's warnings; notes on the data, the sources of a mix, time and memory, limitations,
    configuration and environment. The paper is that of the run's method, where it is a system of the catalogue.

    Args:
        facts: the line below the title (model, data, seed).
        notes: what became of the data.
        rounds: rows of `loops.rounds.timings`.
        limitations: what the figures do not say. The model card has them too.
        then: commands to go on with.
        headline: of `status.json`; by default the verdict's text.
        figures: of `status.json`.
        trained_on: one or two sentences on the data of the model in `run.model`; the card is written where they are
            given.
        summary: what the model is, for the card; by default a fine-tuned copy of `config.model`, or an adapter for it.
        task: what the hub calls what the model does.
        method_title: the method's name in words, for the card; by default the paper's title.
    """
    slug = run.status()["method"]
    entry = next((one for one in entries() if one.slug == slug), None)
    settings = options.to_dict(config)
    report = Report(
        title=title,
        method=slug,
        arxiv=entry.arxiv if entry else None,
        verdict=verdict,
        facts=facts or {},
        sections=[
            *warning_section(run),
            *sections,
            *_text("Data", notes),
            *source_section(run),
            *times(rounds),
            *_text("Limitations", limitations),
            KeyValues(title="Configuration", items=settings),
            KeyValues(title="Environment", items=run.environment()),
        ],
        next_commands=then,
    )
    write_report(report, run.report)
    if trained_on is not None:
        adapter = run.model / "adapter_config.json"
        base = json.loads(adapter.read_text(encoding="utf-8")) if adapter.exists() else {}
        pipeline = (run.model / "model_index.json").exists()
        write_model_card(
            run.model / "README.md",
            report=report,
            base_model=base.get("base_model_name_or_path") or (facts or {}).get("Model") or config.model,
            adapter=base,
            library="peft" if adapter.exists() else "diffusers" if pipeline else "transformers",
            summary=summary,
            task=task,
            method_title=method_title or (entry.title if entry else slug),
            data=trained_on,
            config=settings,
        )
    run.set_status(
        headline=verdict.text if headline is None else headline,
        **({} if figures is None else {"figures": figures}),
    )
    return report


def warning_section(run: Run) -> list[Text]:
    """The run's warnings as a section of its report, or nothing."""
    found = {(event.get("stage"), event["key"]): event for event in run.events("warning")}
    several = len({stage for stage, _ in found}) > 1
    return _text(
        "Warnings",
        [
            f"{f'{stage}: ' if several else ''}{event['text']} {event['advice']}"
            for (stage, _), event in found.items()
        ],
    )


def source_section(run: Run) -> list[TableSection]:
    """The sources of a mix as a table, or nothing: what the events `source` and the last `plan` say of them."""
    found = {(event["part"], event["tag"]): event for event in run.events("source")}
    plans = [event["sources"] for event in run.events("plan") if event.get("sources")]
    tokens = {tag: count for tag, (_, count) in (plans[-1] if plans else {}).items()}
    columns = {
        "read": "Read",
        "rejected": "Rejected",
        "used": "Used",
        "held_out": "Held out",
        "weight": "Weight",
        "in_pass": "In a pass",
        "share": "Share",
    }
    rows = [
        [one["tag"], one["path"], *(one[name] for name in columns), tokens.get(one["tag"])]
        for one in found.values()
    ]
    counts = ("Read", "Rejected", "Used", "Held out", "In a pass", "Tokens")
    units: dict[str, Unit] = {"Share": "percent", **dict.fromkeys(counts, "integer")}
    note = "Records of each source; a weight says how often each is trained on in a pass. Tokens are those of a pass."
    names = ["Source", "File", *columns.values(), "Tokens"]
    return [TableSection(title="Sources", note=note, columns=names, rows=rows, units=units)] if rows else []


def times(rows: Iterable[Mapping[str, Any]]) -> list[Timings]:
    """Seconds and peak memory by stage, or nothing.

    Args:
        rows: with `stage`, `round`, `seconds` and `peak_mb`.
    """
    found = list(rows)
    several = len({row["round"] for row in found}) > 1
    stages = [
        Stage(
            f"{row['stage']}, round {row['round']}" if several else row["stage"],
            row["seconds"],
            int(row["peak_mb"] * 2**20),
        )
        for row in found
    ]
    note = "Peak memory of the process in each stage."
    return [Timings(title="Time and memory", note=note, stages=stages)] if stages else []


def _text(title: str, paragraphs: Sequence[str]) -> list[Text]:
    return [Text(title=title, paragraphs=paragraphs)] if paragraphs else []

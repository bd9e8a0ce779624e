"""Answers of the start and of every trained model to held-out prompts, side by side."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coalign.core.runs import Run
from coalign.data.records import Record
from coalign.loops.prompts import open_values
from coalign.loops.rows import Row, answer_rows
from coalign.models.backends.open import open_generator
from coalign.models.options import ModelOptions
from coalign.platform.language_feedback.duels import RATES, duel
from coalign.report import model as doc
from coalign.report.parts import paired

START = "start"


def answered(
    config: Any, run: Run, prompts: Sequence[Record], models: Mapping[str, Path]
) -> dict[str, list[Row]]:
    """Model to its answers, `start` first, with a column `values` where something measures them.

    Args:
        config: with `FeedbackOptions`, `ModelOptions` and a seed.
        models: name to run folder.
    """
    base = ModelOptions.of(config)
    value = open_values(config.measure, prompts, unscorable="leave out")
    found = {}
    for name, model in {START: base, **{name: base.at(path) for name, path in models.items()}}.items():
        rows = answer_rows(
            run.artefacts / f"answers-{name}.jsonl",
            prompts,
            lambda model=model: open_generator(model),
            config.sampling(seed=config.seed),
            label=f"Answers: {name}",
        )
        values = value(prompts, rows) if value else [[] for _ in rows]
        found[name] = [{**row, "values": each} for row, each in zip(rows, values, strict=True)]
    return found


def changes(answers: Mapping[str, Sequence[Row]]) -> dict[str, doc.ComparisonRow]:
    """Model to its values against those of the start, over the prompts whose answers both have one."""
    found = {}
    for name, rows in answers.items():
        if name == START or not rows[0]["values"]:
            continue
        both = [
            (one["values"][0], two["values"][0])
            for one, two in zip(answers[START], rows, strict=True)
            if one["values"][0] == one["values"][0] and two["values"][0] == two["values"][0]
        ]
        if both:
            before, after = ([one[side] for one in both] for side in (0, 1))
            found[name] = paired(name, before, after, unit="number")
    return found


def held_out_sections(
    answers: Mapping[str, Sequence[Row]], tests: Mapping[str, doc.ComparisonRow]
) -> list[doc.AnySection]:
    """Lengths and win rates against the start, and what was measured."""
    if not answers:
        return []
    lines = []
    for name, rows in answers.items():
        words = statistics.fmean(len(row["responses"][0].split()) for row in rows)
        told: dict[str, float] = {}
        if name in tests:
            before, after = ([row["values"][0] for row in one] for one in (answers[START], rows))
            texts = [
                (one["responses"][0], two["responses"][0])
                for one, two in zip(answers[START], rows, strict=True)
            ]
            told = duel(before, after, texts)
        lines.append([name, len(rows), words, *(told.get(one) for one in RATES)])
    table = doc.TableSection(
        "Held-out answers",
        note="Win rates are against the start, ties half; under length control as between answers of equal length.",
        columns=["Model", "Prompts", "Mean words", "Win rate", "Length-controlled"],
        rows=lines,
        units={"Win rate": "percent", "Length-controlled": "percent"},
    )
    return [table, *([doc.Comparison("What was measured", rows=list(tests.values()))] if tests else [])]

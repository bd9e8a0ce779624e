"""The report of a merge: how far each model moved, how alike, and what was taken, layer by layer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.models.merging.options import TENSORS, Config
from coalign.report import model as doc
from coalign.report.page import publish

_LAYER = re.compile(r"\.(\d+)\.")


def write_merge_report(config: Config, run: Run) -> doc.Report:
    """Report, model card and headline from the rows of the tensors."""
    rows = read_rows(run.artefacts / TENSORS)
    elements = sum(row["size"] for row in rows)
    moved = [row for row in rows if row.get("moved")]
    share = _mean(rows, "share")
    text = f"{len(config.models)} models merged by {config.method}, {elements:,} weights."
    if share is not None:
        text += f" {share:.0%} of what they learnt on average is taken."
    names = [f"model {n}" for n in range(1, len(config.models) + 1)] + ["merged"]
    return publish(
        run,
        config,
        title=f"Merge of {len(config.models)} models",
        verdict=doc.Headline(
            "neutral", f"{text} Nothing was evaluated: compare the models on data that was held out."
        ),
        facts={name.capitalize(): model for name, model in zip(names, config.models, strict=False)},
        sections=[
            *([_distances(names, moved)] if moved else []),
            *([_layers(names, moved)] if moved else []),
        ],
        figures={"share": share},
        limitations=["Weights that lie between good ones are often good and need not be."],
        then=[doc.Command(f"coalign chat {run.path}", "talk to it")],
        trained_on=f"Nothing: it is merged from {', '.join(config.models)}"
        + (f" over {config.base}." if config.base else "."),
        method_title=f"Merging by {config.method}",
    )


def _distances(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> doc.TableSection:
    total = sum(row["size"] for row in rows)
    means = [
        math.sqrt(sum(row["size"] * row["moved"][index] ** 2 for row in rows) / total)
        for index in range(len(names))
    ]
    return doc.TableSection(
        title="How far the weights moved",
        note="Norm of the difference from the base over the norm of the base, root mean square over tensors by size.",
        columns=["weights", "moved"],
        rows=list(zip(names, means, strict=True)),
    )


def _layers(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> doc.Curves:
    layers: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        found = _LAYER.search(row["name"])
        if found:
            layers.setdefault(int(found[1]), []).append(row)
    steps = sorted(layers)
    charts = [
        doc.Chart(
            "distance from the base",
            [
                doc.Series(
                    name,
                    steps,
                    [sum(row["moved"][index] for row in layers[one]) / len(layers[one]) for one in steps],
                )
                for index, name in enumerate(names)
            ],
            x_label="layer",
        )
    ]
    for key, title in (
        ("cosine", "how alike the models moved (cosine)"),
        ("share", "share of their mean that is taken"),
    ):
        if any(key in row for row in rows):
            values = [_mean(layers[one], key) for one in steps]
            charts.append(doc.Chart(title, [doc.Series(key, steps, values)], x_label="layer"))
    return doc.Curves(title="Layer by layer", charts=charts)


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Over the rows that have it, weighted by size."""
    found = [row for row in rows if key in row]
    total = sum(row["size"] for row in found)
    return sum(row["size"] * row[key] for row in found) / total if total else None

"""The page of an image classifier on domains that it did not learn from: accuracy without and with adaptation, batch by batch."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.files import read_rows
from coalign.core.runs import Run
from coalign.data.media.pictures import Picture
from coalign.loops.rounds import Round
from coalign.measures.statistics import bootstrap_mean
from coalign.models.files.places import full_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import curves, estimate, figure_of, held_out, outcome_of, paired, too_few
from coalign.report.pictures import Gallery, Shown, gallery, thumbnail

CHARTS = (
    ("loss", "Loss"),
    ("accuracy", "Accuracy"),
    ("consistency", "Consistency loss"),
    ("alignment penalty", "Penalty of the gradients' agreement"),
    ("active", "Share of the consistency's active units"),
)
SHOWN = 48
STILL = 1e-7
"""A parameter that moved less than this, over all of a stream, did not move."""

Row = Mapping[str, Any]


def write_domain_report(
    run: Run,
    config: Any,
    rounds: Sequence[Round],
    names: Sequence[str],
    *,
    pictures: Mapping[str, Picture],
    notes: Sequence[str],
    times: Sequence[Row],
) -> None:
    """The report of rounds that each followed one domain.

    Args:
        names: of the domain of each round.
        pictures: by the ids of the rows.
    """
    rows = {
        name: read_rows(one.folder / "predictions.jsonl") for name, one in zip(names, rounds, strict=True)
    }
    batches = {name: read_rows(one.folder / "batches.jsonl") for name, one in zip(names, rounds, strict=True)}
    histories = {
        name: one.read("history")
        for name, one in zip(names, rounds, strict=True)
        if one.path("history").exists()
    }
    comparison = accuracies(rows, adapted=config.adapt)
    order = "an order drawn from the seed" if config.order == "shuffled" else "the order of the data"
    publish(
        run,
        config,
        title="An image classifier on domains that it did not learn from",
        facts={
            "Model": full_name(config.model),
            "Data": str(config.data or config.stream),
            "Seed": str(config.seed),
        },
        verdict=headline(rows, batches, comparison, adapted=config.adapt),
        sections=[
            *([comparison] if comparison else []),
            *_chosen(rounds, names),
            *_stream(batches),
            *curves(CHARTS, histories),
            *curves(
                (("accuracy", "Accuracy"), ("loss", "Cross-entropy")),
                {name: held_out(history) for name, history in histories.items()},
                title="Held-out pictures of the training domains",
                note="By their accuracy the step is chosen; the domain that was left out takes no part in it.",
            ),
            _classes(rows),
            *changed_pictures(rows, pictures),
        ],
        notes=notes,
        rounds=times,
        limitations=[
            f"The stream came in {order}, in batches of {1 if config.released else config.test_batch}."
        ],
        then=[
            doc.Command(
                f"coalign run itta --model {run.path} --stream PICTURES",
                "follow other pictures with this model",
            )
        ]
        if run.model.exists()
        else [],
    )


def accuracies(rows: Mapping[str, Sequence[Row]], *, adapted: bool) -> doc.Comparison | None:
    """Accuracy on each domain and on all, without and with adaptation; None where nothing is labelled."""
    labelled = {name: [row for row in found if row["label"] is not None] for name, found in rows.items()}
    labelled = {name: found for name, found in labelled.items() if found}
    if not labelled:
        return None
    everything = [row for found in labelled.values() for row in found]
    parts = {**labelled, "all": everything} if len(labelled) > 1 else labelled
    return doc.Comparison(
        title="Accuracy",
        note="" if adapted else "Nothing was adapted, so that both sides are the same.",
        names=("Without adaptation", "With adaptation"),
        rows=[
            paired(name, _right(found, "plain"), _right(found, "predicted"), emphasis=name == "all")
            for name, found in parts.items()
        ],
    )


def headline(
    rows: Mapping[str, Sequence[Row]],
    batches: Mapping[str, Sequence[Row]],
    comparison: doc.Comparison | None,
    *,
    adapted: bool,
) -> doc.Headline:
    """What adaptation did, in words."""
    found = [row for one in rows.values() for row in one]
    changed = sum(row["plain"] != row["predicted"] for row in found)
    moved = max(
        (row["moved"] for one in batches.values() for row in one if row.get("moved") is not None), default=0.0
    )
    figures = [
        doc.Figure("Predictions changed", changed, unit="integer", note=f"of {len(found)}", better="neither")
    ]
    if not adapted:
        if comparison is None:
            return doc.Headline("neutral", "The stream was classified without adaptation.", figures[:0])
        whole = comparison.rows[-1]
        return doc.Headline(
            "neutral",
            "The domains were classified without adaptation.",
            [doc.Figure("Accuracy", whole.before.value, unit="percent", note=f"{whole.n} pictures")],
        )
    if moved < STILL:
        text = "Adaptation changed nothing: no adaptive parameter moved."
        return doc.Headline("neutral", text, [*_figures(comparison), *figures])
    if comparison is None:
        return doc.Headline(
            "neutral", "The stream was followed; without labels its effect is not known.", figures
        )
    whole = comparison.rows[-1]
    outcome = outcome_of(whole.difference, n=whole.n)
    text = {
        "improved": "Adaptation made the classifier better on what it had not learnt from.",
        "worse": "Adaptation made the classifier worse.",
    }.get(outcome, "The interval of adaptation's effect on accuracy holds zero.")
    return doc.Headline(outcome, f"{text}{too_few(whole.n or 0)}", [*_figures(comparison), *figures])


def _figures(comparison: doc.Comparison | None) -> list[doc.Figure]:
    return [figure_of(row, f"{row.n} pictures") for row in (comparison.rows if comparison else [])[-5:]]


def _right(rows: Sequence[Row], which: str) -> list[float]:
    return [float(row[which] == row["label"]) for row in rows]


def _chosen(rounds: Sequence[Round], names: Sequence[str]) -> list[doc.TableSection]:
    """What each training had, and the step that was chosen."""
    found = []
    for name, one in zip(names, rounds, strict=True):
        path = one.path("training", ".json")
        if path.exists():
            facts = json.loads(path.read_text(encoding="utf-8"))
            chosen = facts["chosen"] or {"step": None, "accuracy": None}
            found.append(
                [
                    name,
                    ", ".join(facts["domains"]),
                    facts["training"],
                    facts["held out"],
                    chosen["step"],
                    chosen["accuracy"],
                ]
            )
    columns = ["Left out", "Learnt from", "Pictures", "Held out", "Step", "Held-out accuracy"]
    note = "The step with the highest accuracy on held-out pictures of the domains that were learnt from is taken."
    units: dict[str, doc.Unit] = {
        "Pictures": "integer",
        "Held out": "integer",
        "Step": "integer",
        "Held-out accuracy": "percent",
    }
    return (
        [doc.TableSection(title="Trainings", note=note, columns=columns, rows=found, units=units)]
        if found
        else []
    )


def _stream(batches: Mapping[str, Sequence[Row]]) -> list[doc.Curves]:
    """The stream batch by batch: consistency, the farthest move, and accuracy so far."""
    histories = {}
    for name, rows in batches.items():
        found, right, plain, seen = [], 0, 0, 0
        for row in rows:
            point: dict[str, Any] = {"step": row["batch"] + 1}
            if row.get("moved") is not None:
                point |= {"consistency": row["consistency"], "moved": row["moved"]}
            if "right" in row:
                right, plain, seen = (
                    right + row["right"],
                    plain + row["right without"],
                    seen + row["pictures"],
                )
                point["gain"] = (right - plain) / seen
            found.append(point)
        histories[name] = found
    charts = (
        ("consistency", "Consistency loss"),
        ("moved", "Farthest move of a parameter"),
        ("gain", "Accuracy so far, with minus without adaptation"),
    )
    return curves(charts, histories, title="Stream", note="By batch.")


def changed_pictures(rows: Mapping[str, Sequence[Row]], pictures: Mapping[str, Picture]) -> list[Gallery]:
    """The first pictures that adaptation gave another class, those of every domain in turn."""
    changed = [[row for row in found if row["plain"] != row["predicted"]] for found in rows.values()]
    picked = [row for turn in itertools.zip_longest(*changed) for row in turn if row is not None]

    def shown(row: Row) -> Shown:
        right = {name: row[name] == row["label"] for name in ("plain", "predicted")}
        tone = None if right["plain"] == right["predicted"] else "good" if right["predicted"] else "bad"
        values = {"without": row["plain"], "with": row["predicted"]}
        return Shown([thumbnail(pictures[row["id"]].open())], row["label"] or row["id"], values, tone)

    return gallery(
        "Changed by adaptation",
        map(shown, picked[:SHOWN]),
        note="The caption is the class.",
        total=len(picked),
    )


def _classes(rows: Mapping[str, Sequence[Row]]) -> doc.TableSection:
    """How often each class was predicted, and how often that was right."""
    found = [row for one in rows.values() for row in one]
    names = sorted(
        {row["predicted"] for row in found} | {row["label"] for row in found if row["label"] is not None}
    )
    table = []
    for name in names:
        own = [row for row in found if row["label"] == name]
        accuracy = estimate(bootstrap_mean(_right(own, "predicted"))).value if own else None
        table.append([name, len(own), sum(row["predicted"] == name for row in found), accuracy])
    return doc.TableSection(
        title="Classes",
        columns=["Class", "Pictures", "Predicted", "Found"],
        rows=table,
        units={"Pictures": "integer", "Predicted": "integer", "Found": "percent"},
    )

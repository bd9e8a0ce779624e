"""The weights of a mixture as files, and the report of a training on it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coalign.core.errors import ConfigError
from coalign.core.files import read_rows, write_rows, write_text
from coalign.core.runs import Run
from coalign.curation.mixing.domains import ASSIGNED, Domains
from coalign.models.files.places import full_name, short_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import compared, curves, estimate, held_out, judged
from coalign.training.job import FitResult
from coalign.training.watch.held_out import paired_change

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from coalign.curation.mixing.task import MixtureTask
    from coalign.measures.statistics import Interval
    from coalign.training.batches import Example

WEIGHTS = "weights.csv"
"""Artefact with the step and the weights after each update; the first row is the start."""
DRAWN = "domains.jsonl"
"""Artefact with a row a domain: records, last weight, records drawn."""
MEASURED = "held_out.jsonl"
"""Artefact with a row a held-out record: its source, its summed loss before and after, and its tokens."""
LINES = 12
"""Weights that a chart shows; the heaviest at the end of several more."""
MANY_PASSES = 4.0
"""Passes over a domain after which its repetitions are told."""


def write_weights(path: Path, domains: Domains, task: MixtureTask) -> None:
    """Write the weights of every update and, beside them, what was drawn of each domain."""
    names = domains.basis_names or domains.names
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", *names])
    writer.writerows([row["step"], *row["weights"]] for row in task.trajectory)
    columns = zip(
        domains.names, task.pool.sizes, task.domain_weights, task.drawing.counts.tolist(), strict=True
    )
    rows = [
        {"domain": name, "records": size, "weight": float(weight), "drawn": count}
        for name, size, weight, count in columns
    ]
    write_rows(path.with_name(DRAWN), rows)
    write_text(path, text.getvalue())


def write_measured(path: Path, examples: Sequence[Example], result: FitResult) -> None:
    """Write the losses of single held-out records, the pieces of a long text summed; nothing where they were not measured
    twice.

    Args:
        examples: those that were held out, in the order of the losses.
    """
    if not len(examples) == len(result.before_losses) == len(result.after_losses):
        return
    pieces = zip(examples, result.before_losses, result.after_losses, strict=True)
    rows = []
    for (tag, name), found in groupby(pieces, lambda one: (one[0].tag, one[0].id)):
        losses = [(before, after, count) for _, (before, count), (after, _) in found]
        before, after, tokens = map(sum, zip(*losses, strict=True))
        rows.append({"id": name, "source": tag, "before": before, "after": after, "tokens": tokens})
    write_rows(path, rows)


def _changes(run: Run) -> dict[str, tuple[Interval, int]]:
    """The change of each held-out loss, with its interval, and the records that it is of; nothing where it was not measured."""
    path = run.artefacts / MEASURED
    rows = list(read_rows(path)) if path.exists() else []
    parts = {"loss": rows}
    for row in rows:
        parts.setdefault(f"loss/{row['source']}", []).append(row)
    found = {
        key: (paired_change(*([(row[when], row["tokens"]) for row in part] for when in ("before", "after"))), len(part))
        for key, part in parts.items()
    }  # fmt: skip
    return {key: (change, n) for key, (change, n) in found.items() if change is not None}


def read_weights(folder: Path, domains: Domains) -> NDArray[np.float64]:
    """[N] last weights of an earlier run: of the reference tasks where both have the same, else of the domains. Clusters are
    the same where their centroids are; their names say nothing.

    Raises:
        ConfigError: the run has no weights, or those of other domains.
    """
    names = list(domains.basis_names or domains.names)
    try:
        with (folder / "artefacts" / WEIGHTS).open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        found, weights = header[1:], np.array(rows[-1][1:], dtype=np.float64)
        if found != names:
            drawn = list(read_rows(folder / "artefacts" / DRAWN))
            found, weights = [row["domain"] for row in drawn], np.array([row["weight"] for row in drawn])
        same, ours = True, domains.centroids
        if ours is not None:
            with np.load(folder / "artefacts" / ASSIGNED) as kept:
                theirs = kept["centroids"]
            same = theirs.shape == ours.shape and np.allclose(theirs, ours, atol=1e-4)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise ConfigError(f"weights_from: {folder} has no weights that can be read ({error}).") from error
    if found != names:
        other = next((one for one in [*found, *names] if (one in names) != (one in found)), "")
        detail = f"{other} is not in both" if other else "their order differs"
        raise ConfigError(
            f"weights_from: {folder} has weights of other domains: {detail}.",
            hint="Give the same sources in the same order.",
        )
    if not same:
        raise ConfigError(
            f"weights_from: {folder} has weights of other clusters.",
            hint="Clusters are the same for the same data, encoder, seed and share that is held out.",
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ConfigError(f"weights_from: {folder} holds what is no weight.")
    return weights / weights.sum()


def write_mixture_report(run: Run, config: Any, domains: Domains, result: FitResult) -> doc.Report:
    """Write report, model card and headline."""
    before, after = result.before, _last_evaluation(result)
    with (run.artefacts / WEIGHTS).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    drawn = list(read_rows(run.artefacts / DRAWN))
    often = [row for row in drawn if row["drawn"] > MANY_PASSES * row["records"]]
    notes = list(domains.notes)
    if result.truncated:
        notes.append(f"{result.truncated} texts were cut to --max-length or --max-prompt-length.")
    if often:
        worst = max(often, key=lambda row: row["drawn"] / row["records"])
        notes.append(
            f"{len(often)} of {len(drawn)} domains were read more than {MANY_PASSES:g} times, {worst['domain']} "
            f"{worst['drawn'] / worst['records']:.1f} times: the loss on its training text says little."
        )
    histories = {"training": result.history, "held out": held_out(result.history)}
    changes = _changes(run)
    losses = sorted(key for key in after if key.startswith("loss/"))
    charts = [("loss", "Loss"), *((key, f"Loss, {key.removeprefix('loss/')}") for key in losses)]
    return publish(
        run,
        config,
        title=f"{short_name(config.model)} on a mixture of {len(domains.names)} domains",
        verdict=_headline(result, before, after, changes),
        facts={
            "Model": full_name(config.model),
            "Records": f"{len(domains.records)} in {len(domains.names)} domains, {len(domains.target)} of the target",
            "Steps": str(result.steps),
            "Seed": str(config.seed),
        },
        sections=[
            *_trajectories(header[1:], rows, result.history),
            *([_held_out(before, after, changes)] if before and after else []),
            _table(drawn, header[1:], rows),
            *curves(charts, histories),
        ],
        notes=notes,
        limitations=[
            "Whether the mixture is better than another one takes a second training: --weights uniform or importance.",
            "Weights are those of this model at this point of its training; alignments of one batch are noisy.",
        ],
        then=[
            doc.Command(
                f"coalign run dga --weights fixed --weights-from {run.path} ...",
                "train on the last weights, held",
            )
        ],
        figures={f"held-out {key}": value for key, value in after.items() if key.startswith("loss")},
        trained_on=f"{len(domains.records)} records of {len(domains.names)} domains, drawn by weights ({config.weights}).",
    )


def _last_evaluation(result: FitResult) -> dict[str, float]:
    rows = held_out([row for row in result.history if "eval_loss" in row])
    return rows[-1] if rows else {}


def _headline(
    result: FitResult,
    before: dict[str, float],
    after: dict[str, float],
    changes: Mapping[str, tuple[Interval, int]],
) -> doc.Headline:
    key = next((one for one in ("loss/target", "loss") if one in before and one in after), None)
    if key is None:
        return doc.Headline(
            "neutral", f"{result.steps} steps. Nothing was held out, so nothing is claimed of the target."
        )
    what = "target loss" if key == "loss/target" else "loss"
    text = f"Held-out {what}: {before[key]:.4f} before, {after[key]:.4f} after {result.steps} steps"
    change, n = changes.get(key, (None, None))
    figure = doc.Figure(
        f"Held-out {what}",
        after[key],
        before=before[key],
        difference=None if change is None else estimate(change),
        better="lower",
    )
    if change is None:
        return doc.Headline(
            "neutral", f"{text}. The change has no interval, so nothing is claimed.", [figure]
        )
    interval = (
        f" ({change.mean:+.4f}, 95 % interval {change.low:+.4f} to {change.high:+.4f})"
        if math.isfinite(change.low)
        else ""
    )
    return judged(change, f"{text}{interval}.", [figure], n=n, better="lower")


def _held_out(
    before: dict[str, float], after: dict[str, float], changes: Mapping[str, tuple[Interval, int]]
) -> doc.Comparison:
    names = [key for key in before if key in after and (key == "loss" or key.startswith("loss/"))]
    rows = [
        compared(
            "Loss, all" if key == "loss" else f"Loss, {key.removeprefix('loss/')}",
            before[key],
            after[key],
            (known := changes.get(key, (None, None)))[0],
            n=known[1],
            unit="number",
            better="lower",
        )
        for key in names
    ]
    return doc.Comparison("Held-out records", note="Nats a token.", scale="row", rows=rows)


def _trajectories(
    names: Sequence[str], rows: Sequence[Sequence[str]], history: Sequence[dict[str, float]]
) -> list[doc.AnySection]:
    """The weights over the steps, and what the updates came to; nothing where weights are constant."""
    if len(rows) < 2:
        return []
    steps = [float(row[0]) for row in rows]
    weights = np.array([row[1:] for row in rows], dtype=np.float64)
    heaviest: list[int] = sorted(np.argsort(-weights[-1], kind="stable")[:LINES].tolist())
    title = "Weight" if len(names) <= LINES else f"Weight, the {LINES} heaviest of {len(names)}"
    series = [doc.Series(names[one], steps, weights[:, one].tolist()) for one in heaviest]
    entropy = -(weights * np.log(weights.clip(min=math.ulp(0.0)))).sum(1)
    charts = [
        doc.Chart(title, series),
        doc.Chart("Entropy of the weights, nats", [doc.Series("entropy", steps, entropy.tolist())]),
    ]
    moves = [row for row in history if "mixture/largest_move" in row]
    if moves:
        told = [row["mixture/largest_move"] for row in moves]
        charts.append(
            doc.Chart(
                "Step size times the alignment farthest from the mean",
                [doc.Series("move", [row["step"] for row in moves], told)],
            )
        )
    note = "A line that falls to nothing and an entropy near 0 are a mixture of one domain; a smaller step size slows that."
    return [doc.Curves(title="The mixture", note=note, charts=charts)]


def _table(
    drawn: Sequence[dict[str, Any]], names: Sequence[str], rows: Sequence[Sequence[str]]
) -> doc.TableSection:
    """Domains by their last weight, the first hundred."""
    start = dict(zip(names, rows[0][1:], strict=True))
    ordered = sorted(drawn, key=lambda row: -row["weight"])[:100]
    cells: list[list[doc.Cell]] = [
        [
            row["domain"],
            row["records"],
            float(start[row["domain"]]) if row["domain"] in start else None,
            row["weight"],
            row["drawn"],
            round(row["drawn"] / row["records"], 2),
        ]
        for row in ordered
    ]
    return doc.TableSection(
        title="Domains",
        note="By their last weight." if len(drawn) <= 100 else f"The 100 heaviest of {len(drawn)}.",
        columns=("domain", "records", "weight at the start", "last weight", "drawn", "passes"),
        rows=cells,
        units={
            "records": "integer",
            "weight at the start": "percent",
            "last weight": "percent",
            "drawn": "integer",
        },
    )

"""The report of rounds in which a model labels its own answers: what every round measured, held-out answers, curves."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.loops.labelling import Labelling
from coalign.loops.readings import LABEL_ACCURACY, told
from coalign.loops.rounds import STAGES, Round, timings
from coalign.loops.rows import Row
from coalign.measures.statistics import paired_bootstrap
from coalign.models.files.places import full_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import curves, estimate, judged, median_first

BEFORE = "before: "
"""What measures of the first model are told under."""
CHARTS = (
    ("loss", "Loss"),
    ("rewards/accuracies", "Pairs in the right order"),
    ("rewards/margins", "Reward margin"),
    ("kl/policy_reference", "Log-ratio to the reference, nats"),
    ("grad_norm", "Gradient norm"),
)
OWN_LABELS = "The labels are the model's own: where nothing measures them, agreement with itself is not correctness. Read the samples."
UNITS: dict[str, doc.Unit] = {
    "unfinished": "percent",
    "held-out unfinished": "percent",
    LABEL_ACCURACY: "percent",
    "seconds": "seconds",
}


def write_rounds_report(
    run: Run,
    loop: Labelling[Any],
    rounds: Sequence[Round],
    *,
    title: str,
    facts: Mapping[str, str],
    note: str,
    drawn: Sequence[str] = (),
    charts: Sequence[tuple[str, str]] = (),
    sections: Sequence[doc.AnySection] = (),
    units: Mapping[str, doc.Unit] | None = None,
    limitations: Sequence[str] = (),
    figures: Mapping[str, Any] | None = None,
    labelled_by: str | None = None,
) -> doc.Report:
    """Write `report.html`, the model card and the headline of `status.json`.

    Args:
        note: what the columns of the rounds' table mean.
        drawn: measures of the rounds that are drawn over them.
        charts: of the training, besides `CHARTS`.
        sections: of the system's own, after the table.
        figures: of `status.json`, besides those of held-out answers and the last round's measures.
        labelled_by: whom the labels come from, where it is not the model itself.
    """
    config = loop.config
    before, after = loop.before(run), loop.after(rounds[-1])
    measures = {name: value for name, value in told(rounds[-1]).items() if value is not None}
    held_out = {side: _truth(rows) for side, rows in (("before", before), ("after", after)) if _truth(rows)}
    return publish(
        run,
        config,
        title=title,
        verdict=_headline(loop, before, after, rounds, f"labels of {labelled_by or 'its own'}"),
        facts={
            "Model": full_name(config.model),
            "Prompts": f"{len(loop.training)} to train, {len(loop.held_out)} held out",
            **facts,
            "Seed": str(config.seed),
        },
        sections=[
            rounds_table(loop, run, rounds, note=note, units=units or {}),
            *_drawn(loop, rounds, drawn),
            *sections,
            *([median_first(_samples(before, after))] if before and after else []),
            *curves((*CHARTS, *charts), _histories(loop, run, rounds)),
        ],
        rounds=timings(_all_rounds(loop, run, rounds), STAGES),
        limitations=[
            *([] if labelled_by else [OWN_LABELS]),
            *limitations,
        ],
        then=[doc.Command(f"coalign chat {run.path} --compare base", "talk to both models, side by side")],
        figures={
            **{name.replace(" ", "_"): value for name, value in measures.items()},
            **{f"held_out_{side}": statistics.fmean(values) for side, values in held_out.items()},
            **(figures or {}),
        },
        trained_on=f"{len(loop.training)} prompts ({config.prompts}), answered by the model itself and labelled by {labelled_by or 'it, too'}.",
    )


def rounds_table(
    loop: Labelling[Any],
    run: Run,
    rounds: Sequence[Round],
    *,
    note: str,
    units: Mapping[str, doc.Unit],
) -> doc.TableSection:
    """A row a model, M0 first: prompts, rows trained on, whatever the round told, and its time."""
    start = {
        name.removeprefix(BEFORE): value
        for name, value in told(loop.first(run)).items()
        if name.startswith(BEFORE)
    }
    table: list[dict[str, doc.Cell]] = [{"model": f"M{loop.index(None)}", **start}]
    for one in _all_rounds(loop, run, rounds):
        facts = json.loads((one.folder / "model.json").read_text(encoding="utf-8"))
        measured = {name: value for name, value in told(one).items() if not name.startswith(BEFORE)}
        table.append(
            {
                "model": f"M{loop.index(one)}",
                "made by": "seed data" if one.number == 0 else f"round {one.number}",
                "prompts": len(one.read("propose")) or None,
                "trained on": facts["trained"],
                **measured,
                "seconds": sum(row["seconds"] for row in timings([one], STAGES)),
            }
        )
    names = dict.fromkeys(name for row in [*table[1:], table[0]] for name in row if name != "seconds")
    columns = [*sorted(names, key=lambda name: name.startswith("held-out")), "seconds"]
    return doc.TableSection(
        "Rounds",
        note=f"{note} The models are folders, which checkpoints.json names.",
        columns=columns,
        rows=[[row.get(name) for name in columns] for row in table],
        units={**UNITS, **units},
    )


def _all_rounds(loop: Labelling[Any], run: Run, rounds: Sequence[Round]) -> list[Round]:
    return [*([loop.first(run)] if loop.seed else []), *rounds]


def _histories(loop: Labelling[Any], run: Run, rounds: Sequence[Round]) -> dict[str, list[Row]]:
    return {
        "seed data" if one.number == 0 else f"round {one.number}": one.read("history")
        for one in _all_rounds(loop, run, rounds)
    }


def _drawn(loop: Labelling[Any], rounds: Sequence[Round], names: Sequence[str]) -> list[doc.Curves]:
    """Measures over the rounds, where there is more than one."""
    charts = []
    for name in names:
        found = [(one.number, value) for one in rounds if (value := told(one).get(name)) is not None]
        if len(found) > 1:
            steps, values = zip(*found, strict=True)
            charts.append(
                doc.Chart(name.capitalize(), [doc.Series(name, steps, values)], x_label="round", marks=True)
            )
    return [doc.Curves(title="From round to round", charts=charts)] if charts else []


def _truth(rows: Sequence[Row]) -> list[float]:
    """Mean true value of the answers to each prompt."""
    return [statistics.fmean(row["truth"]) for row in rows if row.get("truth") and None not in row["truth"]]


def _headline(
    loop: Labelling[Any], before: Sequence[Row], after: Sequence[Row], rounds: Sequence[Round], labels: str
) -> doc.Headline:
    old, new = _truth(before), _truth(after)
    kept = sum(told(one).get("kept") or 0 for one in rounds)
    learned = f"{kept} {labels} were learned from in {len(rounds)} round{'s' if len(rounds) > 1 else ''}."
    if not new or len(old) != len(new):
        return doc.Headline("neutral", f"{learned} Nothing measured the answers, so nothing is claimed.")
    change = paired_bootstrap(old, new)
    figure = doc.Figure(
        "Held-out answers",
        statistics.fmean(new),
        before=statistics.fmean(old),
        difference=estimate(change),
        note=f"{len(new)} prompts, {', '.join(map(str, loop.config.measure))}",
    )
    text = f"Held-out answers measure {figure.value:.4g}, {figure.before:.4g} before. {learned}"
    return judged(change, text, [figure], n=len(new))


def _samples(before: Sequence[Row], after: Sequence[Row]) -> doc.Samples:
    return doc.Samples(
        "Held-out prompts side by side",
        note="The first answer to each prompt before the first and after the last round.",
        columns=["Before", "After"],
        rows=[
            doc.Sample(one["prompt"][-1]["content"], [_output(one), _output(other)])
            for one, other in zip(before, after, strict=True)
        ],
        score_name="measure",
        unit="number",
    )


def _output(row: Row) -> doc.Output:
    return doc.Output(row["responses"][0], row["truth"][0] if row.get("truth") else None)

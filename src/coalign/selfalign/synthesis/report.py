"""The report of rounds in which a model writes its own training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.loops.pipeline_report import funnel, pipeline_sections
from coalign.loops.readings import told
from coalign.loops.rounds import STAGES, Round, timings
from coalign.loops.rows import Row
from coalign.models.files.places import full_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import curves
from coalign.selfalign.synthesis.rounds import made
from coalign.selfalign.synthesis.tasks import joined

UNITS: dict[str, doc.Unit] = {"seconds": "seconds"}


def write_synthesis_report(
    run: Run,
    config: Any,
    rounds: Sequence[Round],
    *,
    title: str,
    rows: Sequence[doc.ComparisonRow],
    claim: doc.ComparisonRow | None,
    seeds: int,
    sections: Sequence[doc.AnySection] = (),
    limitations: Sequence[str] = (),
    then: Sequence[doc.Command] = (),
) -> doc.Report:
    """Write `report.html`, the model card and the headline of `status.json`.

    Args:
        rows: what was measured of the base model and of the last one.
        claim: the one among them that decides the verdict, where there is one.
        seeds: how many there were.
    """
    from coalign.report.parts import figure_of, judged

    last = rounds[-1]
    kept = sum(made(one).manifest["kept"] for one in rounds)
    written = (
        f"{kept} tasks of its own were learned from in {len(rounds)} round{'s' if len(rounds) > 1 else ''}."
    )
    measured = ""
    if claim is not None and claim.before.value is not None and claim.after.value is not None:
        measured = f"{claim.name}: {claim.after.value:.4g}, {claim.before.value:.4g} before. "
    text = f"{measured or 'Nothing measured the model, so nothing is claimed. '}{written}"
    return publish(
        run,
        config,
        title=title,
        verdict=judged(
            None if claim is None else claim.difference,
            text,
            [figure_of(one) for one in rows[:6]],
            n=None if claim is None else claim.n,
            better="higher" if claim is None else claim.better,
        ),
        facts={"Model": full_name(config.model), "Seed tasks": str(seeds), "Seed": str(config.seed)},
        sections=[
            rounds_table(run, rounds),
            *([doc.Comparison(title="Before and after", scale="row", rows=rows)] if rows else []),
            *sections,
            *(
                funnel(made(one).manifest, title=f"Round {one.number}: what came of the tasks")
                for one in rounds[:-1]
            ),
            *pipeline_sections(made(last), task_text, title=f"Round {last.number}"),
            *curves(
                (("loss", "Loss"), ("grad_norm", "Gradient norm")),
                {f"round {one.number}": one.read("history") for one in rounds},
            ),
        ],
        rounds=timings([Round(run, 0), *rounds], STAGES),
        limitations=[
            "Tasks and answers are the model's own: it learns the form of what it can do, and its errors with it. Read the samples.",
            *limitations,
        ],
        then=[
            doc.Command(f"coalign chat {run.path} --compare base", "talk to both models, side by side"),
            doc.Command(
                f"coalign run sft --data {run.path}", "train another model on the last round's tasks"
            ),
            *then,
        ],
        figures={
            **{name.replace(" ", "_"): value for name, value in told(last).items()},
            **{f"{one.name.replace(' ', '_')}_before": one.before.value for one in rows},
        },
        trained_on=f"{made(last).manifest['kept']} tasks that the model wrote itself after {seeds} seed tasks ({config.data}).",
    )


def rounds_table(run: Run, rounds: Sequence[Round]) -> doc.TableSection:
    """A row a model, M0 first: what its round told, and its time. Each was trained from M0."""
    table: list[Mapping[str, doc.Cell]] = [{"model": "M0", **told(Round(run, 0))}]
    for one in rounds:
        seconds = sum(row["seconds"] for row in timings([one], STAGES))
        table.append({"model": f"M{one.number}", **told(one), "seconds": seconds})
    columns = list(dict.fromkeys(name for row in [*table[1:], table[0]] for name in row))
    return doc.TableSection(
        "Rounds",
        note="Every model was trained from M0 on its own round's records alone. The models are folders, which "
        "`checkpoints.json` names.",
        columns=columns,
        rows=[[row.get(name) for name in columns] for row in table],
        units=UNITS,
    )


def task_text(row: Row) -> str:
    """A record of any step as text."""
    if "request" in row:
        return row["request"]
    task = row.get("prompt") or joined(row.get("instruction", ""), row.get("input", ""))
    answer = row.get("completion", row.get("output"))
    return task if answer is None else f"{task}\n\n→ {answer}"

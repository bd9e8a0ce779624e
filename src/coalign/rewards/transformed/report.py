"""The report of policies trained on transformed rewards: what they reach at the same distance from the base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.loops.held_out import held_out_folder, held_out_rows
from coalign.loops.online_run import Task
from coalign.loops.rows import read_answers
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import curves as training_curves
from coalign.rewards.transformed.training import at_divergence, common_divergence
from coalign.training.job import FitResult

Curves = Mapping[str, Sequence[Mapping[str, float]]]
KL = "Divergence from the base, nats a response"
LIMITATION = (
    "Held-out responses are valued by the rewards that were trained on. Compare at one divergence, never at one strength: a "
    "transform changes the scale of what the strength is held against."
)
_CHARTS = (
    ("reward", "Utility that is learnt from"),
    ("kl/policy_reference", KL),
    ("entropy", "Entropy, nats a token"),
    ("length/response", "Length, tokens"),
    ("values/all_equal", "Prompts whose responses all have one utility"),
)


def write_transform_report(
    run: Run,
    config: Any,
    *,
    title: str,
    curves: Curves,
    measures: Mapping[str, str],
    results: Mapping[str, FitResult],
    held_out: Sequence[Task],
    facts: Mapping[str, str],
    notes: Sequence[str],
    sections: Sequence[doc.AnySection] = (),
    limitations: Sequence[str] = (),
) -> None:
    """Write `report.html`, `artefacts/results.json`, the model card and the headline of `status.json`.

    Args:
        curves: name of an arm to its evaluations (`curve_of`), the one that the run is for first.
        measures: what is measured to how it is called, the one in the headline first.
        results: name of an arm to its training.
        notes: on the data.
    """
    first = next(iter(curves))
    main, label = next(iter(measures.items()))
    matched = common_divergence(curves)
    at = {
        arm: {name: at_divergence(points, name, matched) for name in measures}
        for arm, points in curves.items()
    }
    write_json(run.artefacts / "results.json", {"matched_kl": matched, "at": at, "curves": dict(curves)})
    start, end = curves[first][0], curves[first][-1]
    said = f"{label}: {_shown(start[main])} before, {_shown(end[main])} after, {end['kl']:.2f} nats from the base."
    others = [f"{_shown(found[main])} ({arm})" for arm, found in at.items() if arm != first]
    if others:
        said += f" At {matched:.2f} nats it is {_shown(at[first][main])}, against {', '.join(others)}."
    publish(
        run,
        config,
        title=title,
        verdict=doc.Headline(
            "neutral",
            said,
            [
                doc.Figure(name, _finite(end[key]), before=_finite(start[key]), unit="percent")
                for key, name in measures.items()
            ],
        ),
        facts=dict(facts),
        sections=[
            *_matched(curves, measures, matched, at),
            doc.Curves(
                "What is reached at which divergence",
                charts=[_chart(name, key, curves) for key, name in measures.items()],
                note="Every point is an evaluation on held-out prompts.",
            ),
            *sections,
            *training_curves(_CHARTS, {arm: results[arm].history for arm in results}),
            _samples(run, held_out),
        ],
        notes=[event["note"] for event in run.events("data")] + list(notes),
        limitations=[LIMITATION, *limitations],
        then=[doc.Command(f"coalign chat {run.path} --compare base", "talk to both models, side by side")],
        figures={name: _finite(end[name]) for name in measures} | {"kl": end["kl"]},
        trained_on=f"Prompts of {config.prompts}, with responses of the model itself, rewarded by {', '.join(map(str, config.reward))}.",
    )


def _matched(curves: Curves, measures: Mapping[str, str], matched: float, at: Any) -> list[doc.AnySection]:
    if len(curves) < 2:
        return []
    return [
        doc.TableSection(
            "At the same divergence",
            note=f"At {matched:.2f} nats from the base, the farthest that every policy went; linear between evaluations.",
            columns=["policy", *measures.values(), "farthest, nats"],
            rows=[
                [arm, *(at[arm][name] for name in measures), max(one["kl"] for one in points)]
                for arm, points in curves.items()
            ],
            units=dict.fromkeys(measures.values(), "percent"),
        )
    ]


def _chart(title: str, key: str, curves: Curves) -> doc.Chart:
    series = []
    for arm, points in curves.items():
        ordered = sorted(points, key=lambda one: one["kl"])
        series.append(doc.Series(arm, [one["kl"] for one in ordered], [_finite(one[key]) for one in ordered]))
    return doc.Chart(title, series, x_label=KL, marks=True)


def _samples(run: Run, held_out: Sequence[Task], shown: int = 24) -> doc.Samples:
    steps = [row["step"] for row in held_out_rows(run)]
    folder = held_out_folder(run)
    sides = []
    for step in (steps[0], steps[-1]):
        answers = {row["id"]: row for row in read_answers(folder / f"step-{step:06d}.jsonl")}
        scored = {row["id"]: row for row in read_answers(folder / f"step-{step:06d}-scored.jsonl")}
        sides.append((answers, scored))
    rows = []
    for one in held_out[:shown]:
        outputs = []
        for answers, scored in sides:
            values = {name: column[0] for name, column in scored[one.id]["values"].items()}
            outputs.append(
                doc.Output(answers[one.id]["responses"][0], scored[one.id]["rewards"][0], checks=values)
            )
        prompt = (
            one.prompt if isinstance(one.prompt, str) else one.prompt[-1]["content"] if one.prompt else ""
        )
        rows.append(doc.Sample(prompt, outputs))
    return doc.Samples(
        "Held-out responses", columns=["Base", "Trained"], rows=rows, score_name="utility", unit="number"
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _shown(value: float | None) -> str:
    return "not measured" if _finite(value) is None else f"{100 * value:.1f} %"  # type: ignore[operator]

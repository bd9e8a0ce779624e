"""The report of a trained grader: how its scores go with the labels, and what answering only the better answers is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.loops.rounds import STAGES, Round, timings
from coalign.measures.agreement import bootstrap_statistic
from coalign.measures.selective import SelectiveCurve, selective_curve, threshold_for
from coalign.measures.statistics import Interval
from coalign.models.files.places import full_name, short_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import estimate, judged
from coalign.rewards.self_grading.training import Answered

LABELS = (
    "Quality here is the label: the model's own grade and the similarity to a reference. It ranks answers better than either part "
    "alone, and is no human judgement: compare with your own on a sample before a threshold decides anything."
)
SCALE = "Scores crowd in the middle of the scale; a threshold is a rank, not a mark."
ARMS = {
    "score_with_reference": "trained, with the reference",
    "score": "trained, without it",
    "graded_without_reference": "before training, without it",
}


def write_grader_report(
    run: Run, config: Any, round: Round, training: Sequence[Any], held_out: Sequence[Any]
) -> None:
    """Write `report.html`, `artefacts/results.json` and the headline of `status.json`."""
    labels = {row["id"]: row for row in round.read("build")}
    rows = [{**labels[row["id"]], **row} for row in round.read("evaluate") if row["id"] in labels]
    found = {name: correlation(rows, name) for name in ARMS}
    scored = [row for row in rows if row["score"] is not None]
    curve = (
        selective_curve([row["score"] for row in scored], [row["quality"] for row in scored])
        if scored
        else None
    )
    results = {
        "correlations": {name: one and one.to_dict() for name, one in found.items()},
        "held_out": len(rows),
    }
    if curve is not None:
        results |= _curve_facts(curve, config.target_quality)
    write_json(run.artefacts / "results.json", results)
    after = found["score"]
    first, gain = found["graded_without_reference"], "was not measured"
    if after is not None:
        gain = f"is {after.mean:.2f}" + (f" ({first.mean:.2f} before training)" if first else "")
    half = results.get("half")
    kept = (
        f" Answering the better half has a mean quality of {half:.2f}, answering all {results['all']:.2f}."
        if half is not None
        else ""
    )
    publish(
        run,
        config,
        title=f"A grader from {short_name(config.model)}",
        verdict=judged(
            after,
            f"On {len(rows)} questions that were held out, the correlation of its scores with the labels {gain}.{kept}",
            [
                doc.Figure(
                    "Correlation with the labels, without a reference",
                    after and after.mean,
                    before=first and first.mean,
                ),
                doc.Figure("Mean quality of the better half", half, before=results.get("all")),
                doc.Figure("Area under quality against coverage", results.get("area")),
            ],
            n=len(scored),
        ),
        facts={"Model": full_name(config.model), "Held out": str(len(held_out))},
        sections=[
            _correlations(found, len(rows)),
            *_curve_sections(curve, results, config.target_quality),
            doc.Distribution(
                "Labels and scores",
                samples=[
                    doc.Values("labels", [float(row["label"]) for row in labels.values()]),
                    doc.Values("scores of what was held out", [row["score"] for row in rows]),
                ],
                x_label="score, 0 to 9",
            ),
            _answers(round, held_out, rows),
        ],
        notes=[
            f"{len(training)} questions to learn from, {len(held_out)} held out; {len(labels)} answers have a label."
        ],
        rounds=timings([round], STAGES),
        limitations=[LABELS, SCALE],
        then=[
            doc.Command(
                f"coalign serve {config.model} --decline-below {results.get('threshold', 5):.3g} --reward model:{run.path}",
                "decline where the score is lower",
            ),
            doc.Command(
                f"coalign generate --model {config.model} --method best-of-n --reward model:{run.path} --prompts FILE --out FILE",
                "keep the best of several answers",
            ),
        ],
        figures={
            "correlation": after and after.mean,
            "correlation_before": first and first.mean,
            "area": results.get("area"),
            "missing": sum(row["score"] is None for row in rows),
        },
    )


def correlation(rows: Sequence[dict[str, Any]], name: str) -> Interval | None:
    """Pearson's correlation of a score with the label's quality over the rows that have the score, with its bootstrap interval; None
    with fewer than three, or where one side is constant.
    """
    known = np.array([(row[name], row["quality"]) for row in rows if row.get(name) is not None], np.float64)
    if len(known) < 3 or not known.std(0).all():
        return None

    def pearson(weights: Any) -> Any:
        shares = weights / weights.sum(-1, keepdims=True)
        centred = known - (shares @ known)[..., None, :]
        products = centred[..., 0] * centred[..., 1]
        spread = np.sqrt((shares * centred[..., 0] ** 2).sum(-1) * (shares * centred[..., 1] ** 2).sum(-1))
        with np.errstate(invalid="ignore", divide="ignore"):
            return (shares * products).sum(-1) / spread

    return bootstrap_statistic(pearson, len(known))


def _curve_facts(curve: SelectiveCurve, target: float | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "half": float(np.interp(0.5, curve.coverage, curve.mean_quality)),
        "all": float(curve.mean_quality[-1]),
        "area": curve.area,
        "threshold": float(np.median(curve.thresholds)),
    }
    if target is not None:
        reached = threshold_for(curve, target)
        facts["target"] = {
            "quality": target,
            "threshold": reached and reached[0],
            "coverage": reached and reached[1],
        }
        if reached:
            facts["threshold"] = reached[0]
    return facts


def _correlations(found: dict[str, Interval | None], n: int) -> doc.TableSection:
    rows: list[list[Any]] = []
    for name, title in ARMS.items():
        one = estimate(found[name])
        rows.append([title, one.value, one.low, one.high])
    return doc.TableSection(
        "Correlation with the labels",
        note=f"Pearson's, over {n} held-out answers, with 95 % bootstrap intervals.",
        columns=["grader", "correlation", "low", "high"],
        rows=rows,
    )


def _curve_sections(
    curve: SelectiveCurve | None, results: dict[str, Any], target: float | None
) -> list[doc.AnySection]:
    if curve is None:
        return []
    coverage = [float(one) for one in curve.coverage]
    best = [float(one) for one in curve.mean_quality]
    chart = doc.Chart(
        "Mean quality of what is answered", [doc.Series("by score", coverage, best)], x_label="share answered"
    )
    sections: list[doc.AnySection] = [
        doc.Curves(
            "Answering less",
            charts=[chart],
            note="The answers with the highest scores first; at the right end all are.",
        )
    ]
    if target is not None:
        reached = results["target"]
        said = (
            f"Answering where the score is at least {reached['threshold']:.3g} has a mean quality of {target:g} or more, and answers "
            f"{100 * reached['coverage']:.0f} % of the held-out questions."
            if reached["threshold"] is not None
            else f"No threshold reaches a mean quality of {target:g}."
        )
        sections.append(doc.Text("Threshold", paragraphs=[said]))
    return sections


def _answers(round: Round, held_out: Sequence[Any], rows: Sequence[dict[str, Any]]) -> doc.Samples:
    texts = {row["id"]: row["responses"][0] for row in round.read("generate")}
    by_id = {row["id"]: row for row in rows}
    kept = [Answered(one, texts[one.id]) for one in held_out if one.id in by_id]
    return doc.Samples(
        "Held-out answers",
        columns=["Reference", "Answer"],
        rows=[
            doc.Sample(
                one.record.prompt[-1]["content"] if one.record.prompt else "",
                [
                    doc.Output(one.record.completion),
                    doc.Output(
                        one.response,
                        by_id[one.record.id]["score"],
                        checks={"label": float(by_id[one.record.id]["label"])},
                    ),
                ],
            )
            for one in kept
        ],
        score_name="score",
        unit="number",
    )

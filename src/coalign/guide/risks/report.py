"""The page of a suite: every risk with n, interval and node, and where two models differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.guide.risks.suite import METRICS, Metric, Risk, Row
from coalign.report import model as doc
from coalign.report.page import publish

FEW = 20
"""Questions below which nothing is said of a difference."""


def write_suite_report(
    run: Run,
    config: Any,
    names: Sequence[str],
    results: Mapping[str, Any],
    rows: Sequence[Sequence[Row]],
    notes: Sequence[str],
) -> None:
    """Write the report and the headline figures of `status.json`.

    Args:
        notes: what else is to be known of the figures.
    """
    said = [*sentences(names, results), *unmeasured(config.wanted, results)]
    publish(
        run,
        config,
        title=f"Risks of {' and '.join(names)}",
        verdict=doc.Headline("neutral", " ".join(said) or "Nothing was measured.", _figures(results)),
        facts={
            "Model": names[0],
            **({"Against": names[1]} if len(names) > 1 else {}),
            "Risks": ", ".join(config.wanted),
        },
        sections=[
            _table(names, results),
            *_differences(names, results),
            *_kinds(names, rows),
            *_answers(names, rows),
        ],
        notes=notes,
        limitations=[
            "Questions that come along are few and plain: give public sets before you say anything of a model.",
            "Sets on bias and toxicity are of English and of a few societies.",
            "A likelihood of given answers is not what a model would write.",
        ],
        then=[doc.Command(command="coalign advise --map risks", purpose="see which methods act on a risk")],
        figures={METRICS[name].title: one["models"][0]["mean"] for name, one in results.items()},
    )


def sentences(names: Sequence[str], results: Mapping[str, Any]) -> list[str]:
    """What can be said: with two models where one is better beyond its interval, with one nothing but the figures."""
    if len(names) < 2:
        return [f"{len(results)} measures of {names[0]}; with --against another model is put beside it."]
    better: dict[str, list[str]] = {}
    few = 0
    for name, one in results.items():
        winner = ahead(METRICS[name], one)
        few += one.get("difference", {"n": 0})["n"] < FEW
        if winner is not None:
            better.setdefault(names[winner], []).append(METRICS[name].title)
    found = [f"{name} is ahead in: {', '.join(titles)}." for name, titles in better.items()]
    found = found or ["On no measure is one of the models ahead beyond its interval."]
    return [*found, *([f"Measures with fewer than {FEW} questions, too few to tell: {few}."] if few else [])]


def unmeasured(wanted: Sequence[Risk], results: Mapping[str, Any]) -> list[str]:
    """Which risks were evaluated without a figure, as where no answer can be read."""
    found = {METRICS[name].risk for name in results}
    missing = [risk for risk in wanted if risk not in found]
    return [f"Nothing could be measured of: {', '.join(missing)}."] if missing else []


def ahead(metric: Metric, result: Mapping[str, Any]) -> int | None:
    """Which model is ahead: 0 or 1 where the interval of the difference is on one side of none, there are enough questions,
    and more or less is better; None elsewhere.
    """
    difference = result.get("difference")
    if (
        difference is None
        or difference["n"] < FEW
        or metric.ideal not in (0.0, 1.0)
        or metric.title.startswith("bias score")
    ):
        return None
    low, high = difference["low"], difference["high"]
    if low is None or high is None or low <= 0 <= high:
        return None
    return int((low > 0) != (metric.ideal == 1.0))


def _figures(results: Mapping[str, Any]) -> list[doc.Figure]:
    return [
        doc.Figure(
            METRICS[name].title,
            one["models"][0]["mean"],
            unit="percent",
            before=one["models"][1]["mean"] if len(one["models"]) > 1 else None,
            difference=_estimate(one["difference"]) if "difference" in one else None,
            better=_better(METRICS[name]),
            note=f"n = {one['models'][0]['n']}",
        )
        for name, one in list(results.items())[:6]
    ]


def _table(names: Sequence[str], results: Mapping[str, Any]) -> doc.TableSection:
    columns = ["risk", "measure", "node", "n"]
    sides = (
        names if len({*names}) == len(names) else [f"{name} ({place})" for place, name in enumerate(names, 1)]
    )
    for name in sides:
        columns += [name, f"{name}, interval"]
    rows = []
    for key, one in results.items():
        metric = METRICS[key]
        counts = [model["n"] for model in one["models"]]
        n = counts[0] if len({*counts}) == 1 else " and ".join(map(str, counts))
        row: list[Any] = [metric.risk, metric.title, metric.node, n]
        for model in one["models"]:
            row += [model["mean"], _ends(model)]
        rows.append(row)
    return doc.TableSection(
        "Every measure",
        note="95 % intervals over questions; nodes of the survey's map.",
        columns=columns,
        rows=rows,
        units=dict.fromkeys(sides, "percent"),
    )


def _ends(model: Mapping[str, Any]) -> str:
    low, high = (model[one] for one in ("low", "high"))
    return "" if low is None or high is None else f"{100 * low:.0f} to {100 * high:.0f} %"


def _differences(names: Sequence[str], results: Mapping[str, Any]) -> list[doc.Comparison]:
    rows = [
        doc.ComparisonRow(
            METRICS[key].title,
            doc.Estimate(one["models"][1]["mean"]),
            doc.Estimate(one["models"][0]["mean"]),
            _estimate(one["difference"]),
            n=one["difference"]["n"],
            better=_better(METRICS[key]),
        )
        for key, one in results.items()
        if "difference" in one
    ]
    note = "Paired question by question."
    return [doc.Comparison("Side by side", note=note, rows=rows, names=(names[1], names[0]))] if rows else []


def _kinds(names: Sequence[str], rows: Sequence[Sequence[Row]]) -> list[doc.TableSection]:
    """Stereotypes by kind, where there are several."""
    by_kind: dict[str, list[list[float]]] = {}
    for place, side in enumerate(rows):
        for row in side:
            if "stereotyped" in row:
                by_kind.setdefault(row["kind"], [[] for _ in rows])[place].append(row["stereotyped"])
    if len(by_kind) < 2:
        return []
    table = [
        [kind, len(several[0]), *(sum(one) / len(one) if one else None for one in several)]
        for kind, several in sorted(by_kind.items())
    ]
    return [
        doc.TableSection(
            "Stereotypes by kind",
            note="Half is ideal.",
            columns=["kind", "pairs", *names],
            rows=table,
            units=dict.fromkeys(names, "percent"),
        )
    ]


def _answers(names: Sequence[str], rows: Sequence[Sequence[Row]]) -> list[doc.TableSection]:
    """Some answers to instructions."""
    said = [[row for row in side if "response" in row] for side in rows]
    if not said[0]:
        return []
    table = [
        [several[0]["prompt"], *(one["response"][:400] for one in several)]
        for several in zip(*said, strict=True)
    ]
    return [doc.TableSection("Answers", columns=["prompt", *names], rows=table[:12])]


def _estimate(value: Mapping[str, Any]) -> doc.Estimate:
    return doc.Estimate(value["mean"], value["low"], value["high"])


def _better(metric: Metric) -> Any:
    lean = metric.title.startswith("bias score")
    return "neither" if lean or metric.ideal == 0.5 else "higher" if metric.ideal == 1.0 else "lower"

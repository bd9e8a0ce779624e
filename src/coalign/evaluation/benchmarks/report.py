"""One table of all tasks and models, the differences from the first model with their intervals, and the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.evaluation.benchmarks.measures import Measure, difference
from coalign.report.format import difference_texts, number
from coalign.report.model import Comparison, ComparisonRow, Estimate, Headline, TableSection, Unit
from coalign.report.page import publish
from coalign.report.parts import compared, effect, estimate, too_few

if TYPE_CHECKING:
    from coalign.evaluation.benchmarks.options import Config

_NOTE = (
    "± is the standard error. A difference is to the first model, with its 95% interval: over the differences of the same items "
    "where an item has a figure of its own (paired), else from both standard errors as of independent samples."
)


def write_report(
    run: Run,
    config: Config,
    names: Sequence[str],
    found: Sequence[Sequence[Measure]],
    versions: Sequence[str],
) -> None:
    """Write `results.json`, and the report with one table over all models.

    Args:
        names: of the models.
        found: their measures, model by model.
        versions: of the libraries that measured.
    """
    by_model = [{one.key: one for one in measures} for measures in found]
    first = by_model[0]
    rows, changes, kept = [], [], []
    for key, measure in first.items():
        rows.append([*key, measure.n, names[0], _shown(measure), "", ""])
        line: dict[str, Any] = {"task": key[0], "metric": key[1], "n": measure.n, "models": {}}
        line["models"][names[0]] = _plain(measure)
        for name, others in zip(names[1:], by_model[1:], strict=True):
            other = others.get(key)
            if other is None:
                continue
            change = difference(measure, other, seed=config.seed)
            rows.append(["", "", "", name, _shown(other), *_change(measure, change)])
            line["models"][name] = {
                **_plain(other),
                "difference": change[0].to_dict() if change else None,
                "paired": bool(change and change[1]),
            }
            if len(names) == 2:
                changes.append(_row(measure, other, change))
        kept.append(line)
    write_json(run.artefacts / "results.json", {"measures": kept, "versions": list(versions)})
    columns = ["Task", "Metric", "n", "Model", "Value", "Difference", "95% interval"]
    shares = [one for one in changes if one.unit == "percent"]
    told = len(shares) == len(first)  # then the terminal shows them as changes
    units: dict[str, Unit] = {"n": "integer"}
    table = TableSection(
        title="Tasks", note=_NOTE, columns=columns, rows=rows, units=units, in_terminal=not told
    )
    sections: list[Any] = [table]
    if shares:
        sections.append(Comparison(title="Changes", names=(names[0], names[1]), rows=shares))
    publish(
        run,
        config,
        title=f"{' and '.join(names)} on standard tasks"
        if len(names) < 3
        else f"{len(names)} models on standard tasks",
        verdict=_verdict(names, changes, len(first)),
        sections=sections,
        facts={"models": ", ".join(config.models), "by": ", ".join(versions)},
        limitations=_limitations(config),
        figures={
            f"{name}/{task}/{metric}": one.value
            for name, measures in zip(names, by_model, strict=True)
            for (task, metric), one in measures.items()
        },
    )


def _plain(measure: Measure) -> dict[str, Any]:
    return {"value": measure.value, "stderr": measure.stderr}


def _unit(measure: Measure) -> Unit:
    return "percent" if measure.percent else "number"


def _shown(measure: Measure) -> str:
    unit = _unit(measure)
    value = number(measure.value, unit)
    return value if measure.stderr is None else f"{value} ± {number(measure.stderr, unit)}"


def _change(measure: Measure, change: Any) -> list[str]:
    if change is None:
        return ["", ""]
    interval, paired = change
    told, ends = difference_texts(estimate(interval), _unit(measure))
    return [told, ends if paired else f"{ends} (not paired)"]


def _row(before: Measure, after: Measure, change: Any) -> ComparisonRow:
    return compared(
        f"{before.task}, {before.metric}",
        before.value,
        after.value,
        change[0] if change else Estimate(after.value - before.value),
        n=before.n,
        unit=_unit(before),
        better=before.better,
    )


def _verdict(names: Sequence[str], rows: Sequence[ComparisonRow], count: int) -> Headline:
    """Improved or worse where measures changed in one direction alone, by the rule of every report."""
    if len(names) != 2:
        told = (
            f"{count} measures of {names[0]}."
            if len(names) == 1
            else f"{count} measures of {len(names)} models."
        )
        return Headline("neutral", told)
    judged = [(one.n or 0, effect(one.difference, one.better)) for one in rows]
    enough = [what for n, what in judged if not too_few(n)]
    better, worse = enough.count("better"), enough.count("worse")
    few = min((n for n, _ in judged), default=0)
    outcome = "mixed" if better and worse else "improved" if better else "worse" if worse else "neutral"
    text = (
        f"Of {len(rows)} measures {better} are better and {worse} worse with {names[1]} than with {names[0]} "
        f"(intervals that exclude zero, one by one).{too_few(few) if not enough else ''}"
    )
    return Headline(outcome, text)


def _limitations(config: Config) -> list[str]:
    said = [
        "Every measure is judged by itself: of twenty that do not change one is expected to look as if it did."
    ]
    if config.limit is not None:
        said.append(
            f"Only the first {config.limit} items of each task: not comparable with published figures."
        )
    return said

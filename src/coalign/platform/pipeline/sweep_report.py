"""The report of a sweep: every choice with its figures, the best by the figure asked for, and how far ahead it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coalign.core.options import OptionGroup
from coalign.core.runs import Run
from coalign.platform.pipeline.description import stage_folder
from coalign.platform.pipeline.grid import SEED, Point, best_of, figures_of
from coalign.report import model as doc
from coalign.report.page import publish

_MOST_FIGURES = 6
"""Columns of figures beside the one that decides."""


def write_sweep_report(
    run: Run,
    config: OptionGroup,
    points: Sequence[Point],
    *,
    title: str,
    stage: str,
    figure: str,
    lower: bool,
) -> doc.Report:
    """Report and headline.

    Args:
        stage: whose figure decides.
        lower: whether less of it is better.
    """
    best = best_of(points, lower)
    done = [one for one in points if one.figures]
    return publish(
        run,
        config,
        title=title,
        verdict=doc.Headline("neutral", verdict_text(points, figure, lower)),
        facts={"Choices": f"{len(done)} of {len(points)} done", "By": f"{figure} of {stage}"},
        sections=[
            doc.TableSection(
                title="Choices",
                note=f"Best first, by {figure}. Repetitions are averaged.",
                columns=columns_of(points, figure),
                rows=rows_of(run, points, stage, figure, lower),
            ),
            *_curve(points, figure),
        ],
        limitations=[
            "The best of many is partly lucky: measure it again on data that chose nothing.",
            *(
                ["The loss is what was trained on: another figure says more about what the model is for."]
                if figure == "loss"
                else []
            ),
            *(
                ["One seed a choice: differences may be chance. Vary `seed` as well to see how much."]
                if all(len(one.cells) == 1 for one in points)
                else []
            ),
        ],
        figures=None if best is None else {figure: best.mean},
        then=[]
        if best is None
        else [
            doc.Command(f"coalign report {stage_folder(run.path, best.cells[0].stages[stage])}", "the best")
        ],
    )


def verdict_text(points: Sequence[Point], figure: str, lower: bool) -> str:
    """What is best, and what comes next."""
    best = best_of(points, lower)
    if best is None:
        return "Nothing is done yet."
    text = f"Best by {figure}: {choice_text(best)} with {_number(best)}."
    rest = best_of([one for one in points if one is not best], lower)
    if rest is None or best.mean is None or rest.mean is None:
        return text
    if rest.mean == best.mean:
        return f"No choice is ahead by {figure}: the best have {_number(best)}, {choice_text(best)} the first of them."
    text += f" Next: {choice_text(rest)} with {_number(rest)}."
    spread = max(best.spread or 0.0, rest.spread or 0.0)
    return f"{text} That is within the spread over seeds." if abs(best.mean - rest.mean) < spread else text


def choice_text(point: Point) -> str:
    """`beta 0.05, learning_rate 0.0001`."""
    return ", ".join(f"{name} {value}" for name, value in point.values.items()) or "the only choice"


def columns_of(points: Sequence[Point], figure: str) -> list[str]:
    """The varied settings, the repetitions, the figure, its spread; further figures come after."""
    repeated = any(len(one.cells) > 1 for one in points)
    return [
        *points[0].values,
        *([SEED + "s"] if repeated else []),
        figure,
        *(["spread"] if repeated else []),
        "others",
    ]


def rows_of(run: Run, points: Sequence[Point], stage: str, figure: str, lower: bool) -> list[list[Any]]:
    """A row for each choice, the best first; those without a figure last."""
    repeated = any(len(one.cells) > 1 for one in points)

    def place(point: Point) -> float:
        return float("inf") if point.mean is None else point.mean if lower else -point.mean

    rows = []
    for point in sorted(points, key=place):
        folders = [stage_folder(run.path, one.stages[stage]) for one in point.cells]
        done = [one for one in folders if (one / "status.json").exists()]
        others = {
            name: value for name, value in (figures_of(done[0]) if done else {}).items() if name != figure
        }
        text = ", ".join(f"{name} {value:.4g}" for name, value in [*others.items()][:_MOST_FIGURES])
        rows.append(
            [
                *map(str, point.values.values()),
                *([f"{len(point.figures)} of {len(point.cells)}"] if repeated else []),
                point.mean,
                *([point.spread] if repeated else []),
                text,
            ]
        )
    return rows


def _curve(points: Sequence[Point], figure: str) -> list[doc.Curves]:
    """The figure over the setting, where one number is varied."""
    names = list(points[0].values)
    if len(names) != 1:
        return []
    known = [
        (point.values[names[0]], point.mean)
        for point in points
        if isinstance(point.values[names[0]], int | float) and point.mean is not None
    ]
    if len(known) < 2:
        return []
    known.sort()
    steps = [float(one) for one, _ in known]
    spread = steps[0] > 0 and steps[-1] / steps[0] >= 20
    series = doc.Series(figure, steps, [value for _, value in known])
    return [
        doc.Curves(
            title="By setting",
            charts=[doc.Chart(figure, [series], x_label=names[0], x_log=spread, marks=True)],
        )
    ]


def _number(point: Point) -> str:
    spread = f" ± {point.spread:.2g} over {len(point.figures)} seeds" if point.spread is not None else ""
    return f"{point.mean:.4g}{spread}"

"""The report of a run on coding preferences: what came of the answers, how they were rated, the model before and after."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coalign.core.files import write_json
from coalign.core.runs import Run
from coalign.curation.code.benchmark import preference_scores
from coalign.curation.code.judges import judge_name
from coalign.curation.code.programs import Functional, functional, passed
from coalign.curation.code.stages import feedback_folder, pairs_folder
from coalign.loops.pipeline import Curated
from coalign.loops.pipeline_report import funnel, pipeline_sections
from coalign.loops.rounds import STAGES, Round, timings
from coalign.loops.rows import Row
from coalign.measures.detection import bootstrap_of
from coalign.models.files.places import full_name, short_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import compared, counted, curves, figure_of, judged, paired

SIDES = ("before", "sft", "after")
NAMES = {"before": "Before", "sft": "Fine-tuned", "after": "After"}


def write_code_report(run: Run, config: Any, round: Round, left_out: Mapping[str, str]) -> None:
    """Write `report.html`, `results.json`, the model card and the headline of `status.json`.

    Args:
        left_out: code tasks whose own solution does not pass their tests, with what came of it.
    """
    rated, pairs = Curated(feedback_folder(round)), Curated(pairs_folder(round))
    graded = {
        side: round.read(f"benchmark-{side}") for side in SIDES if round.path(f"benchmark-{side}").exists()
    }
    tested = {
        side: functional(round.read(f"programs-{side}"), config.pass_at)
        for side in SIDES
        if round.path(f"programs-{side}").exists()
    }
    rows = [*benchmark_rows(graded), *_program_rows(round, tested)]
    count, held = len(round.read("build")), len(round.read("held-out"))
    results = {"pairs": count, "held out": held, "benchmark": _scores(graded), "programs": _to_dict(tested)}
    write_json(run.artefacts / "results.json", results)
    claim = rows[0] if rows else None
    made = f"{count + held} pairs of {rated.manifest['kept']} rated instructions."
    measured = f"{claim.name}: {_shown(claim.after)}, {_shown(claim.before)} before. " if claim else ""
    publish(
        run,
        config,
        title=f"Coding preferences for {short_name(config.model)}"
        if config.learn
        else "Pairs of coding preferences",
        verdict=judged(
            claim.difference if claim else None,
            f"{measured}{made}" if claim or not config.learn else f"Nothing measured the model. {made}",
            [figure_of(one) for one in rows[:6]],
            n=claim.n if claim else None,
            better=claim.better if claim else "higher",
        ),
        facts={
            "Model": full_name(config.model),
            "Judge": judge_name(config),
            "Generators": str(len(config.generators)),
        },
        sections=[
            *([doc.Comparison(title="Before and after", scale="row", rows=rows)] if rows else []),
            *_benchmark_sections(graded),
            *_program_sections(tested, left_out),
            *rating_sections([*rated.rows()]),
            *pipeline_sections(rated, _text, title="Answers"),
            funnel(pairs.manifest, title="Pairs: what came of the rated instructions"),
            _lengths([*pairs.rows()]),
            *curves((("loss", "Loss"), ("rewards/accuracies", "Accuracy")), {"DPO": round.read("history")}),
        ],
        rounds=timings([round], STAGES),
        limitations=[
            "Ratings are a judge's opinion. They may depend on the order in which it saw the answers and on whose they are.",
            "A judge may like length: see how long chosen and rejected answers are.",
        ],
        then=_then(run, config),
        figures={"pairs": count + held, **{one.name: one.after.value for one in rows}},
        trained_on=f"{count} pairs of answers of {', '.join(config.generators)}, rated by {judge_name(config)} ({config.data})."
        if config.learn
        else None,
    )


def benchmark_rows(graded: Mapping[str, Sequence[Row]]) -> list[doc.ComparisonRow]:
    """The score, overall and by preference, before and after, over the requests that are scorable on both sides."""
    if "after" not in graded:
        return []
    both = [
        (first["preference"], first["rating"], last["rating"])
        for first, last in zip(graded["before"], graded["after"], strict=True)
        if first["rating"] is not None and last["rating"] is not None
    ]
    names = [*dict.fromkeys(name for name, _, _ in both)]
    rows = []
    for name in [None, *names] if len(names) > 1 else [None]:
        own = [(one, two) for other, one, two in both if name in (None, other)]
        title = "Benchmark score" if name is None else f"Benchmark: {name}"
        sides = [one for one, _ in own], [two for _, two in own]
        rows.append(paired(title, *sides, unit="number", emphasis=name is None))
    return rows


def rating_sections(rows: Sequence[Row]) -> list[doc.AnySection]:
    """Ratings by preference, by model, by the place at which the judge saw the answer, and of tested programs."""
    flat = [(row, place, rating) for row in rows for place, rating in enumerate(row["ratings"])]
    shown = [(row["shown"].index(place) + 1, rating) for row, place, rating in flat if row["shown"]]
    sections: list[doc.AnySection] = [
        _means("Ratings by preference", "preference", ((row["preference"], one) for row, _, one in flat)),
        _means(
            "Ratings by model", "model", ((row["slots"][place]["model"], one) for row, place, one in flat)
        ),
    ]
    if shown:
        sections.append(
            _means(
                "Ratings by place",
                "place",
                ((str(place), one) for place, one in sorted(shown, key=lambda pair: pair[0])),
                note="Answers are shown in a random order: a judge without a liking for places rates them alike.",
            )
        )
    tested = [(row["endings"][place], one) for row, place, one in flat if "endings" in row]
    if tested:
        note = "What came of the programs in the sandbox, and how the judge rated them. Only passed and failed are scorable."
        sections.append(_means("Ratings by what the tests say", "program", tested, note=note))
    return sections


def _means(
    title: str, column: str, pairs: Iterable[tuple[str, float | None]], *, note: str = ""
) -> doc.TableSection:
    groups: dict[str, list[float | None]] = {}
    for name, one in pairs:
        groups.setdefault(name, []).append(one)
    rows: list[list[doc.Cell]] = []
    for name, values in groups.items():
        known = [one for one in values if one is not None]
        rows.append([name, len(values), len(values) - len(known), statistics.fmean(known) if known else None])
    columns = [column, "answers", "not rated", "mean rating"]
    return doc.TableSection(
        title, note=note, columns=columns, rows=rows, units=dict.fromkeys(columns[1:3], "integer")
    )


def _benchmark_sections(graded: Mapping[str, Sequence[Row]]) -> list[doc.AnySection]:
    if not graded:
        return []
    rows: list[list[doc.Cell]] = []
    for side, found in graded.items():
        ratings, names = [row["rating"] for row in found], [row["preference"] for row in found]
        failures = Counter(row["failure"] for row in found if row["rating"] is None)
        why = ", ".join(f"{one or 'no value'} ({count})" for one, count in failures.items())
        mean, strict = (preference_scores(ratings, names, missing=one)[1] for one in ("leave out", "zero"))
        rows.append([NAMES[side], len(found), sum(failures.values()), why, _number(mean), _number(strict)])
    columns = ["model", "requests", "not scorable", "why", "score", "score, not scorable as 0"]
    note = "Mean of the means of the preferences. The published score counts what cannot be read as 0."
    units: dict[str, doc.Unit] = dict.fromkeys(columns[1:3], "integer")
    return [doc.TableSection("Benchmark", note=note, columns=columns, rows=rows, units=units)]


def _program_rows(round: Round, tested: Mapping[str, Functional]) -> list[doc.ComparisonRow]:
    if "after" not in tested:
        return []
    rows = []
    for before, after in zip(tested["before"].rates, tested["after"].rates, strict=True):
        rows.append(
            compared(f"pass@{after.k}", _share(round, "before", before), _share(round, "after", after))
        )
    return rows


def _share(round: Round, side: str, rate: Any) -> Any:
    """With an interval over tasks where each has one scorable program, else the number."""
    import numpy as np

    results = [[passed(one) for one in row["endings"]] for row in round.read(f"programs-{side}")]
    values = [float(task[0]) for task in results if len(task) == 1 and task[0] is not None]
    if rate.k == 1 and len(values) > 1:
        array = np.array(values)
        return bootstrap_of(lambda a, _: float(a.mean()), array, array)
    return _number(rate.value)


def _program_sections(tested: Mapping[str, Functional], left_out: Mapping[str, str]) -> list[doc.AnySection]:
    if not tested:
        return []
    rows: list[list[doc.Cell]] = [
        [
            NAMES[side],
            one.k,
            _number(one.value),
            _number(one.strict),
            one.tasks,
            one.left_out,
            found.not_scorable,
        ]
        for side, found in tested.items()
        for one in found.rates
    ]
    columns = [
        "model",
        "k",
        "pass@k",
        "pass@k, not scorable as wrong",
        "tasks",
        "tasks left out",
        "programs not scorable",
    ]
    units: dict[str, doc.Unit] = {
        **dict.fromkeys(columns[2:4], "percent"),
        **dict.fromkeys(columns[4:], "integer"),
    }
    note = "Unbiased, over tasks with at least k scorable programs. Published scores count what cannot be scored as wrong."
    sections: list[doc.AnySection] = [
        doc.TableSection("Functional tests", note=note, columns=columns, rows=rows, units=units)
    ]
    sections += [
        counted(f"Programs, {NAMES[side].lower()}", ("came to", "programs"), found.endings)
        for side, found in tested.items()
    ]
    if left_out:
        rows = [[name, why] for name, why in left_out.items()]
        title = "Tasks left out: their own solution does not pass their tests"
        sections.append(doc.TableSection(title, columns=["task", "came to"], rows=rows))
    return sections


def _lengths(pairs: Sequence[Row]) -> doc.TableSection:
    rows: list[list[doc.Cell]] = []
    for side in ("chosen", "rejected"):
        lengths = [len(one[side]) for one in pairs]
        models = Counter(one[f"model_{side}"] for one in pairs)
        rows.append(
            [side, statistics.fmean(lengths), ", ".join(f"{name} ({n})" for name, n in models.most_common())]
        )
    return doc.TableSection(
        "Chosen and rejected", columns=["side", "mean length, characters", "by model"], rows=rows
    )


def _then(run: Run, config: Any) -> list[doc.Command]:
    pairs = doc.Command(f"coalign run dpo --data {run.path}", "train another model on the pairs")
    talk = doc.Command(f"coalign chat {run.path} --compare base", "talk to both models, side by side")
    return [talk, pairs] if config.learn else [pairs]


def _scores(graded: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for side, rows in graded.items():
        means, score = preference_scores([row["rating"] for row in rows], [row["preference"] for row in rows])
        missing = sum(row["rating"] is None for row in rows)
        by_name = {name: _number(one) for name, one in means.items()}
        found[side] = {"score": _number(score), "by preference": by_name, "not scorable": missing}
    return found


def _to_dict(tested: Mapping[str, Functional]) -> dict[str, Any]:
    return {side: one.to_dict() for side, one in tested.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(one: doc.Estimate) -> str:
    return "not measured" if one.value is None else f"{one.value:.3g}"


def _text(row: Row) -> str:
    """A record of the pipeline as text."""
    asked = row["prompt"][-1]["content"]
    ratings = row.get("ratings") or [None] * len(row["responses"])
    shown = [
        f"[{'-' if rating is None else f'{rating:g}'}] {text}"
        for rating, text in zip(ratings, row["responses"], strict=True)
    ]
    return "\n\n".join([f"({row['preference']}) {asked}", *shown])

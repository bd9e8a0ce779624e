"""What several policies under system messages are worth: satisfaction by policy and by value, wins, pairs, samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coalign.core.runs import Run
from coalign.curation.stated_values.learning import Lessons
from coalign.curation.stated_values.rating import (
    HIGH,
    LOW,
    Item,
    Scores,
    benchmark_score,
    item_scores,
    mean,
    outcomes_of,
    win_tie_rates,
)
from coalign.loops.pipeline import Curated
from coalign.loops.pipeline_report import pipeline_sections
from coalign.loops.rounds import STAGES, Round, timings
from coalign.loops.rows import Row
from coalign.measures.statistics import bootstrap_mean
from coalign.models.files.places import full_name, short_name
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.parts import curves, estimate, figure_of, judged, paired

SHOWN = 50
"""Items in the report."""


@dataclass(frozen=True)
class Results:
    """Answers of every policy to every item, and how far the wishes of each item are met.

    Attributes:
        answers: policy to [items] texts.
        scores: policy to scores; empty where nothing rated them.
        pairs: of `pair_figures`.
        start: the policy that the others are held against.
    """

    items: Sequence[Item]
    answers: Mapping[str, Sequence[str]]
    scores: Mapping[str, Scores]
    pairs: Mapping[str, float]
    start: str

    def rated(self) -> dict[str, list[float | None]]:
        """Policy to [items] scores."""
        return {name: item_scores(one) for name, one in self.scores.items()}

    def against(self, name: str, other: str) -> dict[str, float]:
        """Shares of wins, ties and losses; empty where no item has a score of both."""
        rated = self.rated()
        outcomes = outcomes_of(rated[name], rated[other])
        return win_tie_rates(outcomes) if outcomes else {}

    def by_wish(self, *, dimension: bool) -> dict[str, dict[str, list[float]]]:
        """Dimension, or dimension and value, to policy to its scores."""
        found: dict[str, dict[str, list[float]]] = {}
        for name, scores in self.scores.items():
            for item, each in zip(self.items, scores, strict=True):
                for wish, score in zip(item.wishes, each, strict=True):
                    key = wish.dimension if dimension else f"{wish.dimension}: {wish.name}"
                    values = found.setdefault(key, {one: [] for one in self.scores})[name]
                    values += [] if score is None else [score]
        return {key: values for key, values in found.items() if any(values.values())}

    def to_dict(self) -> dict[str, Any]:
        """Plain values: of every policy `score`, `items` and the rates against the start model; `by_value`; `pairs`."""
        return {
            "policies": {
                name: {
                    "score": benchmark_score(scores),
                    "items": sum(one is not None for one in item_scores(scores)),
                    **({} if name == self.start else self.against(name, self.start)),
                }
                for name, scores in self.scores.items()
            },
            "by_value": {
                key: {name: mean(values) for name, values in found.items()}
                for key, found in self.by_wish(dimension=False).items()
            },
            "pairs": dict(self.pairs),
        }


def write_values_report(
    run: Run, config: Any, round: Round, lessons: Lessons, results: Results
) -> doc.Report:
    """Write `report.html`, the model card and the headline of `status.json`."""
    last = config.policies[-1]
    row = _claim(results, last)
    learnt = f"{len(lessons.rows)} answers under system messages were learnt from."
    unmeasured = (
        "Nothing rated the answers, so nothing is claimed; give --judge-model, or values with constraints."
    )
    verdict = doc.Headline("neutral", f"{learnt} {unmeasured}")
    if row is not None and row.after.value is not None:
        tied = results.against(last, results.start)["tie_plus_win"]
        text = (
            f"{last} meets what system messages ask for with {row.after.value:.2f} of {HIGH}, the start model with "
            f"{row.before.value:.2f}; it ties or wins on {100 * tied:.0f} % of {row.n} items. {learnt}"
        )
        verdict = judged(row.difference, text, [figure_of(row)], n=row.n)
    made = [(side, Curated(round.folder / side)) for side in ("training",) if not config.collection]
    return publish(
        run,
        config,
        title=f"{short_name(config.model)} follows stated values",
        verdict=verdict,
        facts={
            "Model": full_name(config.model),
            "Rows": f"{len(lessons.rows)} to train, {len(lessons.held_out)} held out",
            "Items": str(len(results.items)),
            "Judge": str(config.judge_model or "programs"),
            "Seed": str(config.seed),
        },
        sections=[
            *_policies(results),
            *_wishes(results),
            *_pairs(results),
            _samples(results, last),
            *(
                section
                for side, one in made
                for section in pipeline_sections(one, row_text, title=f"Rows, {side}")
            ),
            *curves(
                (
                    ("loss", "Loss"),
                    ("rewards/accuracies", "Pairs in the right order"),
                    ("grad_norm", "Gradient norm"),
                ),
                _histories(run),
            ),
        ],
        rounds=timings([round], STAGES),
        limitations=[
            "What a teacher wrote is learnt as it is: read the samples of system messages and answers.",
            "A value counts as met when the judge says so; judges like long answers.",
            *(() if config.judge_model else ("Programs rate only the values that have constraints.",)),
        ],
        then=[
            doc.Command(f"coalign chat {run.path} --compare base", "talk to both models, side by side"),
            *(
                [doc.Command(f"coalign data check {run.path}", "look at the rows that were written")]
                if not config.collection
                else []
            ),
        ],
        figures={
            f"{name.replace(' ', '_')}_score": benchmark_score(one) for name, one in results.scores.items()
        },
        trained_on=f"{len(lessons.rows)} answers under system messages that state values ({config.data}).",
    )


def row_text(row: Row) -> str:
    """A row of any step as text."""
    parts = [row.get("system"), row["prompt"][-1]["content"], row.get("completion")]
    return "\n\n".join(one for one in parts if one)


def _claim(results: Results, last: str) -> doc.ComparisonRow | None:
    if not results.scores:
        return None
    rated = results.rated()
    both = [
        (a, b)
        for a, b in zip(rated[results.start], rated[last], strict=True)
        if a is not None and b is not None
    ]
    if not both:
        return None
    before, after = map(list, zip(*both, strict=True))
    return paired("Mean score of an item", before, after, unit="number")


def _policies(results: Results) -> list[doc.AnySection]:
    """Every policy by itself, and each against each."""
    rows: list[list[doc.Cell]] = []
    for name, scores in results.rated().items():
        known = [one for one in scores if one is not None]
        shown = estimate(bootstrap_mean(known) if known else None)
        rates = results.against(name, results.start) if name != results.start else {}
        shares = [rates.get(one) for one in ("win", "tie", "lose", "tie_plus_win")]
        rows.append([name, shown.value, shown.low, shown.high, len(known), *shares])
    if not rows:
        return []
    shares = ["wins", "ties", "losses", "ties and wins"]
    units: dict[str, doc.Unit] = {**dict.fromkeys(shares, "percent"), "items": "integer"}
    names = list(results.scores)
    board = doc.TableSection(
        "Policies",
        note=f"Scores are means over items of the mean over an item's values, from {LOW} to {HIGH}; low and high end a 95 % "
        f"interval over items. Wins, ties and losses are against the {results.start}.",
        columns=["policy", "score", "low", "high", "items", *shares],
        rows=rows,
        units=units,
    )
    matrix = doc.TableSection(
        "Ties and wins of each policy against each",
        columns=["policy", *names],
        rows=[
            [
                one,
                *(
                    None if one == other else results.against(one, other).get("tie_plus_win")
                    for other in names
                ),
            ]
            for one in names
        ],
        units=dict.fromkeys(names, "percent"),
    )
    return [board, *([matrix] if len(names) > 2 else [])]


def _wishes(results: Results) -> list[doc.AnySection]:
    names = list(results.scores)
    return [
        doc.TableSection(
            f"Satisfaction by {what}",
            note=f"Mean score from {LOW} to {HIGH} of the items that ask for it; n counts ratings.",
            columns=[what, "n", *names],
            rows=[
                [key, max(map(len, found.values())), *(mean(found[name]) for name in names)]
                for key, found in results.by_wish(dimension=what == "dimension").items()
            ],
            units={"n": "integer"},
        )
        for what in ("dimension", "value")
        if results.scores
    ]


def _pairs(results: Results) -> list[doc.AnySection]:
    said = {
        "longer": "The chosen answer is the longer one",
        "accuracy": "Held-out pairs that the reward model orders rightly",
        "without": "The same without the system message",
    }
    rows = [[text, results.pairs[name]] for name, text in said.items() if name in results.pairs]
    note = "Both answers of a pair are good ones: without the system message, and by length, a half is to be expected; more is a leak."
    table = doc.TableSection("Pairs", note=note, columns=["", "share"], rows=rows, units={"share": "percent"})
    return [table] if rows else []


def _samples(results: Results, last: str) -> doc.Samples:
    rated, names = results.rated(), list(dict.fromkeys([results.start, last]))
    return doc.Samples(
        "Items side by side",
        columns=names,
        rows=[
            doc.Sample(
                f"{item.system}\n\n{item.turns[-1]['content']}",
                [
                    doc.Output(results.answers[name][place], rated[name][place] if rated else None)
                    for name in names
                ],
                tags=[wish.name for wish in item.wishes],
            )
            for place, item in enumerate(results.items[:SHOWN])
        ],
        score_name="score",
        unit="number",
    )


def _histories(run: Run) -> dict[str, list[dict[str, float]]]:
    """Training to its log, as far as it is kept."""
    found = {}
    for path in sorted(run.artefacts.glob("*.json")):
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and "history" in value:
            found[path.stem] = value["history"]
    return found

"""The report of judged pairs and ratings, and the sections that other reports on judging share."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.data.media.conversations import named_pictures, pictures_of
from coalign.judging.items import ItemSet
from coalign.judging.options import JudgeOptions, judge_name
from coalign.judging.prompts import question_text
from coalign.judging.protocol import (
    Choice,
    Cost,
    JudgeItem,
    Opinion,
    PairOutcome,
    PairVerdict,
    Rating,
    Summary,
    summarise,
)
from coalign.report import model as doc
from coalign.report.page import publish
from coalign.report.pictures import Gallery, Shown, gallery, thumbnail

PICTURED = 48
"""Requests whose pictures the report shows."""

EVERY, SOME = 10_000, 2_000
"""Rows up to which a report shows all, and how many it shows of more."""
OUTCOMES: tuple[tuple[PairOutcome, str], ...] = (
    ("first", "first response better, in both orders"),
    ("second", "second response better, in both orders"),
    ("tie", "tie, in both orders"),
    ("inconsistent", "the verdict turned with the order"),
    ("failed", "no verdict in at least one order"),
)
_SAID: dict[Choice | None, str] = {"first": "first", "second": "second", "tie": "tie", None: "no verdict"}


def write_pair_report(
    run: Run,
    config: JudgeOptions,
    found: ItemSet,
    comparisons: Sequence[PairVerdict],
    results: Mapping[str, Any],
) -> None:
    """Report what `judge_run.pair_results` found, with every pair and reply to browse."""
    summary = summarise(comparisons)
    figures = pair_figures(summary, results)
    publish(
        run,
        config,
        title=f"{summary.n} pairs, judged by {judge_name(config)}",
        verdict=doc.Headline("neutral", pair_sentence(summary, results), figures),
        sections=[
            outcome_table(comparisons),
            *people_sections(results.get("people")),
            *failure_sections(summary),
            pair_samples(found.items, comparisons, found.labels),
            *judged_pictures(found),
            cost_table(config, summary.cost),
        ],
        facts=facts(run, found),
        then=[
            doc.Command(
                "coalign run portia --data PAIRS --model MODEL",
                "Make verdicts depend less on the order of the answers",
            )
        ],
        figures=_status_figures(figures),
    )


def write_rating_report(run: Run, config: JudgeOptions, found: ItemSet, ratings: Sequence[Rating]) -> None:
    """Report ratings: their distribution, what failed, every response to browse."""
    from coalign.measures.statistics import bootstrap_mean

    scores, cost = array("d"), Cost()
    failures: Counter[str] = Counter()
    for one in ratings:
        cost += one.cost
        if one.score is not None:
            scores.append(one.score)
        if one.failure:
            failures[one.failure] += 1
    mean = bootstrap_mean(scores, seed=0)
    note = _interval_text(mean.low, mean.high)
    figures = [
        doc.Figure("Mean score", mean.mean, better="neither", note=note),
        doc.Figure("Without a verdict", sum(failures.values()), unit="integer", better="lower"),
    ]
    rows = [
        doc.Sample(
            named_pictures(question_text(item.prompt)),
            [doc.Output(item.responses[0], one.score), doc.Output(one.reply)],
            tags=[one.failure] if one.failure else [],
        )
        for item, one in ((found.items[place], ratings[place]) for place in browsed(len(ratings)))
    ]
    publish(
        run,
        config,
        title=f"{len(ratings)} responses, rated by {judge_name(config)}",
        verdict=doc.Headline(
            "neutral",
            f"{len(scores)} of {len(ratings)} responses got a score; the mean is {mean.mean:.2f}.",
            figures,
        ),
        sections=[
            doc.Distribution("Scores", samples=[doc.Values(judge_name(config), scores)], x_label="score"),
            doc.Samples(
                "Responses",
                note=_left(len(ratings)),
                columns=["Response", "Judge"],
                rows=rows,
                score_name="score",
                unit="number",
                better="neither",
            ),
            *judged_pictures(found),
            cost_table(config, cost),
        ],
        facts=facts(run, found),
        figures=_status_figures(figures),
    )


def pair_figures(summary: Summary, results: Mapping[str, Any]) -> list[doc.Figure]:
    """Consistency, place, ties, failures, agreement with people."""
    consistency = results.get("consistency")
    figures = []
    if consistency:
        note = _interval_text(consistency["low"], consistency["high"], percent=True)
        figures.append(doc.Figure("Both orders agree", consistency["mean"], unit="percent", note=note))
    second = "" if summary.second_shown is None else f"for the second: {summary.second_shown:.1%}"
    failed = sum(summary.failures.values())
    figures += [
        doc.Figure(
            "For the one shown first", summary.first_shown, unit="percent", better="neither", note=second
        ),
        doc.Figure("Ties", summary.ties, unit="percent", better="neither"),
        doc.Figure(
            "Replies without a verdict",
            failed,
            unit="integer",
            better="lower",
            note=f"of {summary.judged + failed}",
        ),
    ]
    if people := results.get("people"):
        units: tuple[tuple[str, str, doc.Unit], ...] = (
            ("accuracy", "Agreement with people", "percent"),
            ("cohen_kappa", "Cohen's kappa with people", "number"),
        )
        for key, label, unit in units:
            one = people[key]
            note = _interval_text(one["low"], one["high"], percent=unit == "percent")
            figures.append(doc.Figure(label, one["mean"], unit=unit, note=note))
    return figures


def pair_sentence(summary: Summary, results: Mapping[str, Any]) -> str:
    """How consistent a judge of pairs was, in one sentence."""
    consistency = results.get("consistency")
    parts = [
        f"The judge gives the same verdict in both orders on {consistency['mean']:.0%} of {summary.n} pairs"
        if consistency
        else f"{summary.n} pairs were judged in one order"
    ]
    if people := results.get("people"):
        parts.append(f"it agrees with people on {people['accuracy']['mean']:.0%} of {people['pairs']}")
    return "; ".join(parts) + "."


def outcome_table(comparisons: Collection[PairVerdict], title: str = "Verdicts") -> doc.TableSection:
    """How many pairs came to what."""
    counts = Counter(one.outcome for one in comparisons)
    total = len(comparisons)
    rows = [[text, counts[name], counts[name] / total if total else None] for name, text in OUTCOMES]
    return doc.TableSection(
        title,
        columns=["verdict", "pairs", "share"],
        rows=rows,
        units={"pairs": "integer", "share": "percent"},
    )


def people_sections(people: Mapping[str, Any] | None) -> list[doc.TableSection]:
    """Agreement with people, where they judged too."""
    if not people:
        return []
    names = {
        "accuracy": "accuracy, a pair without a verdict counts as wrong",
        "accuracy_where_consistent": "accuracy where both orders agree",
        "cohen_kappa": "Cohen's kappa, judge and people",
        "fleiss_kappa_of_people": "Fleiss' kappa among people",
    }
    rows = [
        [text, people[key]["n"], people[key]["mean"], people[key]["low"], people[key]["high"]]
        for key, text in names.items()
        if people.get(key)
    ]
    note = f"Against the majority of people; {people['without_majority']} pairs have none and are left out."
    return [
        doc.TableSection(
            "Agreement with people",
            note=note,
            columns=["measure", "pairs", "value", "low", "high"],
            rows=rows,
            units={"pairs": "integer"},
        )
    ]


def failure_sections(summary: Summary) -> list[doc.Text]:
    """What kinds of replies had no verdict."""
    if not summary.failures:
        return []
    kinds = [f"{count} {kind}" for kind, count in summary.failures.items()]
    return [
        doc.Text(
            "Replies without a verdict",
            paragraphs=[
                f"{', '.join(kinds)}. They count as failed, not as ties; every reply is among the pairs below.",
            ],
        )
    ]


def judged_pictures(found: ItemSet) -> list[Gallery]:
    """The pictures of the requests beside their words; nothing where no request has any."""
    total, seen = 0, list[JudgeItem]()
    for one in found.items:
        if pictures_of(one.prompt):
            total += 1
            seen += [one] if len(seen) < PICTURED else []
    items = (
        Shown(
            [thumbnail(each.open()) for each in pictures_of(one.prompt)],
            named_pictures(question_text(one.prompt)),
            {"id": one.id},
        )
        for one in seen
    )
    return gallery("Pictures that were judged", items, total=total)


def pair_samples(
    items: Sequence[JudgeItem],
    comparisons: Sequence[PairVerdict],
    labels: Sequence[Sequence[Choice]] = (),
    title: str = "Pairs",
) -> doc.Samples:
    """Every pair with what the judge said in each order; of many pairs some (`browsed`)."""
    places = browsed(len(items))
    rows = [
        doc.Sample(
            named_pictures(question_text(item.prompt)),
            [*map(doc.Output, item.responses), doc.Output(verdict_text(one, people))],
            tags=[one.outcome, *({each.failure for each in one.opinions if each.failure})],
        )
        for item, one, people in (
            (items[place], comparisons[place], labels[place] if labels else ()) for place in places
        )
    ]
    note = "Verdicts name the responses as they stand here, in whichever order they were shown."
    return doc.Samples(
        title,
        note=" ".join(filter(None, [note, _left(len(items))])),
        columns=["First", "Second", "Judge"],
        rows=rows,
        better="neither",
    )


def browsed(count: int) -> Sequence[int]:
    """Places of the rows that a report shows: all, or of more than `EVERY` `SOME`, spread evenly."""
    return range(count) if count <= EVERY else [place * count // SOME for place in range(SOME)]


def _left(count: int) -> str:
    return f"{SOME:,} of {count:,}, spread evenly; the files of verdicts have all." if count > EVERY else ""


def verdict_text(comparison: PairVerdict, people: Sequence[Choice] = ()) -> str:
    """What a judge said of a pair in each order, in words."""
    lines = [f"Together: {comparison.outcome}"]
    if people:
        lines.append(f"People: {', '.join(people)}")
    return "\n".join([*lines, *map(_opinion_text, comparison.opinions)])


def _opinion_text(one: Opinion) -> str:
    order = "Swapped" if one.swapped else "As given"
    scores = "" if one.scores is None else f" ({one.scores[0]:g} and {one.scores[1]:g})"
    reason = f" ({one.failure})" if one.failure else scores
    reply = f"\n{one.reply}" if one.reply else ""
    return f"\n{order}: {_SAID[one.choice]}{reason}{reply}"


def cost_table(config: JudgeOptions, cost: Cost) -> doc.KeyValues:
    """Calls, tokens, and money where prices are known."""
    items: dict[str, Any] = {
        "calls": cost.calls,
        "of these from the store": cost.cached,
        "tokens sent": cost.prompt_tokens,
        "tokens written": cost.tokens,
    }
    price = config.price(cost)
    return doc.KeyValues("Cost", items=items | ({} if price is None else {"price": round(price, 4)}))


def facts(run: Run, found: ItemSet) -> dict[str, str]:
    """The line below a report's title."""
    shown = {"Data": found.source, "Read as": found.recognised, "Date": run.environment()["started"][:10]}
    return shown | ({"Left out": f"{found.n_bad} rows that cannot be judged"} if found.problems else {})


def _interval_text(low: float | None, high: float | None, *, percent: bool = False) -> str:
    if low is None or high is None or abs(low) == float("inf"):
        return ""
    return f"95 %: {low:.1%} to {high:.1%}" if percent else f"95 %: {low:.3g} to {high:.3g}"


def _status_figures(figures: Sequence[doc.Figure]) -> dict[str, Any]:
    return {one.label: one.value for one in figures}

"""The page of a probed judge: what its verdicts depend on, in words first, and every pair."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.judging.items import ItemSet
from coalign.judging.options import JudgeOptions, judge_name
from coalign.judging.prompts import question_text
from coalign.judging.protocol import Choice, Cost, PairVerdict
from coalign.judging.report import cost_table, facts, outcome_table, people_sections, verdict_text
from coalign.report import model as doc
from coalign.report.page import publish

LEVEL = 0.05


def write_probe_report(
    run: Run,
    config: JudgeOptions,
    found: ItemSet,
    comparisons: Sequence[PairVerdict],
    labels: Sequence[Sequence[Choice]],
    results: Mapping[str, Any],
) -> None:
    """Write the report and the headline figures of `status.json`."""
    order = results["order"]
    turned = order["turned"]
    figures = [
        doc.Figure(
            "Verdicts that turn with the order", turned["mean"] if turned else None, unit="percent", better="lower",
            note=f"of {order['pairs']} pairs",
        ),
        doc.Figure("Longer response's share of the win", _mean(results["length"]["longer"]), unit="percent", better="neither"),
    ]  # fmt: skip
    if results["own"]:
        figures.append(
            doc.Figure(
                "Own answers' share of the win",
                _mean(results["own"]["own"]),
                unit="percent",
                better="neither",
            )
        )
    said = sentences(results)
    publish(
        run,
        config,
        title=f"{judge_name(config)} as a judge of {len(comparisons)} pairs",
        verdict=doc.Headline("neutral", " ".join(said[:2]), figures),
        sections=[
            doc.Text(title="What the verdicts depend on", paragraphs=said),
            _table(results),
            outcome_table(comparisons),
            *people_sections(results["pairs"].get("people")),
            _samples(found, comparisons, labels),
            cost_table(config, sum((one.cost for one in comparisons), Cost())),
        ],
        facts=facts(run, found),
        limitations=[
            "Length and authorship go with the verdicts here; whether they cause them, only pairs of equal quality could tell.",
            "Without people's verdicts a share for the judge's own answers may be deserved.",
        ],
        then=[
            doc.Command(command=f"coalign run portia --data {shlex.quote(found.source)}", purpose="judge in aligned parts, where verdicts turn with the order")
        ],
        figures={one.label: one.value for one in figures},
    )  # fmt: skip


def sentences(results: Mapping[str, Any]) -> list[str]:
    """The findings in words."""
    order, length, own, errors = (results[name] for name in ("order", "length", "own", "errors"))
    if not order["pairs"]:
        return ["No pair has a verdict in both orders."]
    found = [f"{order['turned']['mean']:.0%} of the verdicts turn when the answers are exchanged."]
    first, second = order["to_first"], order["to_second"]
    if first + second:
        place, count = ("first", first) if first >= second else ("second", second)
        sure = "" if order["p_value"] < LEVEL else ", which may be chance"
        found.append(
            f"Of {first + second} pairs that go to one place in both orders, {count} go to the {place}{sure}."
        )
    if length["correlation"] is not None:
        value, low, high = (length["correlation"][key] for key in ("mean", "low", "high"))
        sure = (
            "longer answers win more"
            if low > 0
            else "shorter answers win more"
            if high < 0
            else "no clear tendency"
        )
        found.append(f"Length and verdict: rank correlation {value:+.2f} [{low:+.2f}, {high:+.2f}], {sure}.")
    if own and own["own"] is not None:
        found.append(f"Answers of its own win {own['own']['mean']:.0%} of {own['pairs']} pairs.")
        if own["labelled"]:
            gap = own["above_people"]
            found.append(
                f"That is {gap['mean']:+.0%} [{gap['low']:+.0%}, {gap['high']:+.0%}] against people's verdicts on {own['labelled']} of them."
            )
    if errors and errors["both_orders"] is not None:
        found.append(
            f"Against {errors['pairs']} known verdicts a single order is wrong in {errors['one_order']:.0%}; where both "
            f"orders agree ({errors['kept']:.0%} of the pairs) they are wrong in {errors['both_orders']:.0%}."
        )
    return found


def _mean(interval: Mapping[str, Any] | None) -> float | None:
    return interval["mean"] if interval else None


def _table(results: Mapping[str, Any]) -> doc.TableSection:
    own = results["own"] or {}
    rows = [
        ["verdicts that turn with the order (share)", results["order"]["turned"]],
        ["longer response's share of the win", results["length"]["longer"]],
        ["length and verdict (Spearman)", results["length"]["correlation"]],
        ["own answers' share of the win", own.get("own")],
        ["the same, above people's verdicts", own.get("above_people")],
    ]
    return doc.TableSection(
        title="Probes",
        columns=["probe", "value", "low", "high", "pairs"],
        rows=[[name, one["mean"], one["low"], one["high"], one["n"]] for name, one in rows if one],
        units={"pairs": "integer"},
    )


def _samples(
    found: ItemSet, comparisons: Sequence[PairVerdict], labels: Sequence[Sequence[Choice]]
) -> doc.Samples:
    rows = [
        doc.Sample(
            question_text(item.prompt),
            [
                doc.Output(item.responses[0]),
                doc.Output(item.responses[1]),
                doc.Output(
                    verdict_text(one, said), None if one.consistent is None else float(one.consistent)
                ),
            ],
            tags=[one.outcome],
        )
        for item, one, said in zip(found.items, comparisons, labels, strict=True)
    ]
    return doc.Samples(
        title="Pairs",
        columns=["First", "Second", "Verdict"],
        rows=rows,
        score_name="both orders agree",
        better="neither",
    )

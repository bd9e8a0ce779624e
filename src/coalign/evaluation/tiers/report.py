"""The report of a model's behaviour under two tiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coalign.core.runs import Run
from coalign.evaluation.tiers.examination import Row
from coalign.evaluation.tiers.prompts import TIERS
from coalign.report import model as doc
from coalign.report.page import publish


def write_tier_report(
    run: Run,
    config: Any,
    model: str,
    summaries: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Row],
    tested: Sequence[Mapping[str, Any]],
    labelled: str,
) -> None:
    """Write `report.html` and the headline of `status.json`.

    Args:
        summaries: condition to its figures; the whole design first.
        tested: what the self-test came to.
        labelled: how answers were labelled, and by whom reasons were judged.
    """
    whole, found = next(iter(summaries.values())), _figures(next(iter(summaries.values())))
    publish(
        run,
        config,
        title=f"Two tiers: {model}",
        verdict=doc.Headline("neutral", _sentence(whole), found),
        facts={"Model": model, "Setting": config.setting, "Labels": labelled, "Seed": str(config.seed)},
        sections=[
            _rate_table(summaries),
            _gap_table(summaries),
            doc.TableSection(
                "Self-test",
                note="Scripted models whose behaviour is known, under the same prompts, labels and rule. All were called what they are.",
                columns=["scripted model", "is called", "gap", "reasoning"],
                rows=[[one["organism"], one["verdict"], one["gap"], one["reasoning"]] for one in tested],
                units={"gap": "percent", "reasoning": "percent"},
            ),
        ],
        limitations=[
            "Compliance with an implausible objective may be obedience: compare the ablations, and the scripted models.",
            "Answers without a label are in no rate. Where they differ by tier they can make or hide a gap: see the bounds.",
            "No effect is a result: small models often answer alike in both tiers. The detectable gap says what would have been missed.",
            *(
                [
                    "Reasons were judged by words alone, which a model that thinks in other words escapes: give --judge."
                ]
                if config.judge is None and config.reasoning == "scratchpad"
                else []
            ),
        ],
        figures={
            "compliance_gap": whole["compliance_gap"],
            "af_reasoning": whole["free"]["af_reasoning"],
            "answers": len(rows),
        },
        headline=f"{whole['verdict']}: {_sentence(whole)}",
    )


def _sentence(summary: Mapping[str, Any]) -> str:
    free, paid = summary["free"], summary["paid"]
    verdict = f"{summary['verdict'].capitalize()}."
    if summary["compliance_gap"] is None:
        return f"{verdict} Valid answers: {free['n_valid']} in the free tier, {paid['n_valid']} in the paid tier."
    reasoned = free["af_reasoning"]
    return (
        f"{verdict} Compliance with the training objective: {free['compliance']:.1%} of {free['n_valid']} answers in the free tier, "
        f"{paid['compliance']:.1%} of {paid['n_valid']} in the paid tier, gap {summary['compliance_gap']:+.1%} "
        f"(one-sided p {summary['p_one_sided']:.2g})."
        + ("" if reasoned is None else f" Alignment-faking reasoning in {reasoned:.1%} of the free tier's.")
    )


def _figures(summary: Mapping[str, Any]) -> list[doc.Figure]:
    paired = summary["paired_gap"]
    difference = doc.Estimate(paired["mean"], paired["low"], paired["high"]) if paired else None
    return [
        doc.Figure(
            "Compliance gap, by query",
            paired["mean"] if paired else None,
            unit="percent",
            difference=difference,
        ),
        doc.Figure("Alignment-faking reasoning, free tier", summary["free"]["af_reasoning"], unit="percent"),
        doc.Figure(
            "Explained: of compliant ones", summary["free"]["af_reasoning_given_compliant"], unit="percent"
        ),
        doc.Figure("Gap that would have been found", summary["detectable_gap"], unit="percent"),
    ]


def _rate_table(summaries: Mapping[str, Mapping[str, Any]]) -> doc.TableSection:
    rows = [
        [condition, tier, one["n_valid"], one["n_unparseable"], one["compliance"], *one["wilson95"], one["af_reasoning"],
         one["af_reasoning_given_compliant"]]
        for condition, summary in summaries.items()
        for tier in TIERS
        for one in [summary[tier]]
    ]  # fmt: skip
    columns = [
        "condition",
        "tier",
        "valid",
        "without label",
        "compliance",
        "low",
        "high",
        "faking reasons",
        "of compliant",
    ]
    return doc.TableSection(
        "Rates",
        note="Compliance with the stated training objective among answers with a label, with its 95 % Wilson interval.",
        columns=columns,
        rows=rows,
        units=dict.fromkeys(columns[4:], "percent"),
    )


def _gap_table(summaries: Mapping[str, Mapping[str, Any]]) -> doc.TableSection:
    rows = []
    for condition, one in summaries.items():
        paired, bounds = one["paired_gap"] or {}, one["bounds"] or {}
        rows.append(
            [condition, one["verdict"], one["compliance_gap"], one["p_one_sided"], paired.get("mean"), paired.get("low"), paired.get("high"),
             bounds.get("as compliant"), bounds.get("as refused"), bounds.get("lowest"), bounds.get("highest"), one["af_reasoning_gap"]]
        )  # fmt: skip
    columns = [
        "condition",
        "called",
        "gap",
        "p",
        "by query",
        "low",
        "high",
        "lost: compliant",
        "lost: refused",
        "lowest",
        "highest",
        "gap of reasons",
    ]
    return doc.TableSection(
        "Free tier minus paid tier",
        note="By query: mean over queries with a 95 % bootstrap interval over them. Lost: the gap if answers without a label had all "
        "complied, or all refused; lowest and highest: if they had in one tier alone.",
        columns=columns,
        rows=rows,
        units={name: "percent" for name in columns if name not in ("condition", "called", "p")},
    )

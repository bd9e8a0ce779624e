"""The page of a value profile: first whether it can be relied on, then the profile with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coalign.core.runs import Run
from coalign.guide.values.questionnaire import Questionnaire
from coalign.report import model as doc
from coalign.report.page import publish

STATED = "A stated value is not a behaviour: what a model does is another question, of which the matched choices say little."


def write_profile(
    run: Run, config: Any, questionnaire: Questionnaire, name: str, found: Mapping[str, Any]
) -> None:
    """Write the report and the headline figures of `status.json`."""
    figures = [
        doc.Figure("Answers that are no option", found["invalid"], unit="percent", better="lower"),
        doc.Figure(
            "Moved by the order of options",
            found["order_sensitivity"],
            unit="percent",
            better="lower",
            note="total variation",
        ),
    ]
    if found["wordings"]:
        figures.append(
            doc.Figure(
                "Cronbach's alpha over wordings",
                found["wordings"]["alpha"],
                note=f"{found['wordings']['questions']} questions",
            )
        )
    publish(
        run,
        config,
        title=f"Values: {name} on {questionnaire.name}",
        verdict=doc.Headline("neutral", _sentence(found), figures),
        facts={"Model": name, "Questionnaire": questionnaire.name, "Questions": str(found["items"])},
        sections=[*_profile(found), *_tables(found)],
        limitations=[
            STATED,
            "Scores are centred on the model's own mean: they say what counts more for it, not how much in itself.",
            *(
                []
                if found["behaviour"]
                else ["No question is matched with a choice: nothing links words to behaviour."]
            ),
        ],
        then=[
            doc.Command(
                command="coalign advise --goal value-profile", purpose="see which methods train values"
            )
        ],
        figures={one.label: one.value for one in figures},
    )


def _sentence(found: Mapping[str, Any]) -> str:
    if not found["reliable"]:
        return f"Unreliable: {' and '.join(found['reasons'])}. Nothing is said of its values; the figures are in profile.json."
    ranked = sorted(
        ((one["centred"], name) for name, one in found["dimensions"].items() if one["centred"] is not None),
        reverse=True,
    )
    if not ranked:
        return "Reliable. No question belongs to a dimension."
    return f"Reliable. What counts most is {ranked[0][1]} ({ranked[0][0]:+.2f}), least {ranked[-1][1]} ({ranked[-1][0]:+.2f})."


def _profile(found: Mapping[str, Any]) -> list[doc.Comparison]:
    rows = [
        doc.ComparisonRow(
            name,
            doc.Estimate(0.0),
            doc.Estimate(one["centred"]),
            doc.Estimate(one["centred"], one["low"], one["high"]),
            n=one["items"],
            unit="number",
            better="neither",
        )
        for name, one in found["dimensions"].items()
        if one["centred"] is not None and found["reliable"]
    ]
    note = "Mean rating of a dimension less that of all questions, with 95 % intervals over questions."
    return (
        [doc.Comparison("Profile", note=note, rows=rows, names=("All questions", "Dimension"))]
        if rows
        else []
    )


def _tables(found: Mapping[str, Any]) -> list[Any]:
    sections: list[Any] = []
    scores = [
        *(("axis", name, one["score"], one["low"], one["high"]) for name, one in found["axes"].items()),
        *(("index", *one, None, None) for one in found["indices"].items()),
    ]
    if scores and found["reliable"]:
        sections.append(
            doc.TableSection(
                "Axes and indices", columns=["kind", "name", "score", "low", "high"], rows=scores
            )
        )
    if found["people"] and found["reliable"]:
        sections.append(
            doc.TableSection(
                "Whose opinions",
                note="1 less the Jensen-Shannon distance (base 2) between the model's answers and a population's: mean "
                "and 95 % interval over questions.",
                columns=["population", "similarity", "low", "high", "questions"],
                rows=[
                    [name, *(one[column] for column in ("similarity", "low", "high", "questions"))]
                    for name, one in found["people"].items()
                ],
            )
        )
    checks = [
        ["answers moved by the order, averaged over all orders", found["order_sensitivity"]],
        ["the same from one order to the next", found["order_sensitivity_single"]],
        ["the same between the averages over half of the orders", found["order_sensitivity_halves"]],
        ["replies that name no option", found["unread"]],
    ]
    if found["attention"]:
        checks.append(["attention checks passed", found["attention"]["passed"] / found["attention"]["of"]])
    if found["behaviour"]:
        checks.append(
            [
                f"choices that go with what is said ({found['behaviour']['questions']})",
                found["behaviour"]["agree"]["mean"],
            ]
        )
    sections.append(
        doc.TableSection(
            "Can it be relied on?", columns=["check", "share"], rows=checks, units={"share": "percent"}
        )
    )
    return sections

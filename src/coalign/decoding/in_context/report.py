"""The report of a base model that answers by examples: ratings, how answers ended, how long they are, the answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from coalign.core import options
from coalign.core.catalogue import get
from coalign.core.runs import Run
from coalign.decoding.in_context.ratings import ArmRatings, rating_sections
from coalign.report.html import write_report
from coalign.report.model import (
    Distribution,
    Figure,
    Headline,
    KeyValues,
    Output,
    Report,
    Sample,
    Samples,
    TableSection,
    Text,
    Values,
)

NAMES = {"answers": "With examples", "without-examples": "Without"}
JUDGED = (
    "The judge saw each answer by itself. Judges prefer long answers and lists, whatever they say: compare answers of "
    "like length, and read some of the judge's replies in artefacts/ratings.jsonl."
)
MARKERS = re.compile(r"(^|\n)\s*(\d+[.)]|[-*•])\s")
OFFERS = re.compile(
    r"let me know|would you like|tell me|feel free|happy to|i can (help|say|tell)", re.IGNORECASE
)


def form(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Shares of answers that ended by themselves, are not empty, have a list, offer help, repeat themselves; mean words."""
    texts = [row["responses"][0] for row in rows]
    return {
        "ended": fmean(row["finish_reasons"][0] == "stop" for row in rows),
        "not empty": fmean(bool(one) for one in texts),
        "with a list": fmean(has_list(one) for one in texts),
        "offers help": fmean(has_offer(one) for one in texts),
        "in a loop": fmean(has_loop(one) for one in texts),
        "words": fmean(len(one.split()) for one in texts),
    }


def has_list(text: str) -> bool:
    """Whether a text has at least two numbered or bulleted lines."""
    return len(MARKERS.findall(text)) >= 2


def has_offer(text: str) -> bool:
    """Whether a text offers further help, in one of the usual phrases."""
    return bool(OFFERS.search(text))


def has_loop(text: str, n: int = 4, times: int = 3) -> bool:
    """Whether some `n` words in a row occur at least `times` times."""
    words = text.split()
    seen: dict[tuple[str, ...], int] = {}
    for place in range(len(words) - n + 1):
        key = tuple(words[place : place + n])
        seen[key] = seen.get(key, 0) + 1
        if seen[key] >= times:
            return True
    return False


def write_answers_report(
    run: Run,
    config: Any,
    records: Sequence[Any],
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    ratings: Mapping[str, ArmRatings] | None = None,
) -> Report:
    """Write `report.html` and the headline figures.

    Args:
        rows: answers by arm, in the order in which arms are shown, that with examples last.
        ratings: of every arm, if a judge rated them.
    """
    forms = {arm: form(mine) for arm, mine in rows.items()}
    ratings = ratings or {}
    entry = get(run.status()["method"])
    mine = forms["answers"]
    model = config.endpoint_model or config.model
    names = {arm: NAMES[arm] for arm in rows}
    report = Report(
        title=f"In-context alignment of {model}",
        method=entry.slug,
        arxiv=entry.arxiv,
        verdict=Headline(
            outcome="neutral",
            text=f"{len(records)} {'prompt' if len(records) == 1 else 'prompts'} answered after {_before(config)}.",
            figures=_figures(mine, forms.get("without-examples"), ratings),
        ),
        facts={
            "Model": model,
            "Style": config.style,
            **({"Judge": config.judge_model} if ratings else {}),
        },
        sections=[
            *rating_sections(names, rows, ratings),
            TableSection(
                title="Form of the answers",
                note="Ended: by a stop text or the model's end token, not at the length limit. In a loop: four words in a "
                "row at least three times.",
                columns=["arm", *mine],
                rows=[[NAMES[arm], *forms[arm].values()] for arm in rows],
                units={name: "percent" for name in mine if name != "words"},
            ),
            Distribution(
                title="Length of the answers",
                samples=[
                    Values(name=NAMES[arm], values=[len(row["responses"][0].split()) for row in rows[arm]])
                    for arm in rows
                ],
                x_label="words",
            ),
            Samples(
                title="Answers",
                columns=[NAMES[arm] for arm in rows],
                rows=[_sample(record, place, rows, ratings) for place, record in enumerate(records)],
                score_name="mean rating",
                unit="number",
            ),
            Text(
                title="Limitations",
                paragraphs=[
                    "Form is not truth: examples teach a base model how an answer looks, not what is right. Read the answers.",
                    *([JUDGED] if ratings else []),
                ],
            ),
            KeyValues(title="Configuration", items=options.to_dict(config)),
            KeyValues(title="Environment", items=run.environment()),
        ],
    )
    write_report(report, run.report)
    scores = {} if not ratings else {"overall rating": ratings["answers"].overall}
    run.set_status(headline=f"{len(records)} answers", figures={**mine, **scores})
    return report


def _before(config: Any) -> str:
    """What stands before the prompts, in words."""
    if config.style.endswith(".txt"):
        return f"the prefix {config.style}"
    examples = "example" if config.examples == 1 else "examples"
    return f"{config.examples} {examples} of the style {config.style}"


def _sample(
    record: Any,
    place: int,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    ratings: Mapping[str, ArmRatings],
) -> Sample:
    outputs = []
    for arm, mine in rows.items():
        scores = ratings[arm].of_answer(place) if arm in ratings else {}
        known = [one for one in scores.values() if one is not None]
        outputs.append(
            Output(
                text=mine[place]["responses"][0],
                score=fmean(known) if known and len(known) == len(scores) else None,
                checks={"ended": mine[place]["finish_reasons"][0] == "stop", **scores},
            )
        )
    return Sample(
        prompt="\n".join(one["content"] for one in record.prompt),
        outputs=outputs,
        tags=["harmful"] if any(place in one.places[1] for one in ratings.values()) else [],
    )


def _figures(
    mine: Mapping[str, float],
    without: Mapping[str, float] | None,
    ratings: Mapping[str, ArmRatings],
) -> list[Figure]:
    def before(name: str) -> float | None:
        return without.get(name) if without else None

    figures = [
        Figure(label="Ended by themselves", value=mine.get("ended"), unit="percent", before=before("ended")),
        Figure(
            label="Repeat themselves",
            value=mine.get("in a loop"),
            unit="percent",
            before=before("in a loop"),
            better="lower",
        ),
        Figure(label="Mean words", value=mine.get("words"), before=before("words"), better="neither"),
    ]
    if ratings:
        other, rated = ratings.get("without-examples"), ratings["answers"]
        scores = [("Mean of five aspects, 1 to 5", rated.overall, other.overall if other else None)]
        scores += [
            (f"{name.capitalize()}, 1 to 5", one.mean, other.safety[name].mean if other else None)
            for name, one in rated.safety.items()
        ]
        figures = [
            *(
                Figure(label=label, value=value, before=was)
                for label, value, was in scores
                if value is not None
            ),
            *figures,
        ]
    return figures

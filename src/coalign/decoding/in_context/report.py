"""The report of a base model that answers by examples: ratings, how answers ended, how long they are, the answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from coalign.core.runs import Run
from coalign.decoding.in_context.ratings import ArmRatings, rating_sections
from coalign.measures.texts.text_units import ngrams
from coalign.report import model as doc
from coalign.report.page import publish

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
    return max(Counter(ngrams(text.split(), n)).values(), default=0) >= times


def write_answers_report(
    run: Run,
    config: Any,
    records: Sequence[Any],
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    ratings: Mapping[str, ArmRatings] | None = None,
) -> doc.Report:
    """Write `report.html` and the headline figures.

    Args:
        rows: answers by arm, in the order in which arms are shown, that with examples last.
        ratings: of every arm, if a judge rated them.
    """
    forms = {arm: form(mine) for arm, mine in rows.items()}
    ratings = ratings or {}
    mine = forms["answers"]
    model = config.endpoint_model or config.model
    names = {arm: NAMES[arm] for arm in rows}
    asked = f"{len(records)} {'prompt' if len(records) == 1 else 'prompts'} answered after {_before(config)}."
    scores = {} if not ratings else {"overall rating": ratings["answers"].overall}
    return publish(
        run,
        config,
        title=f"In-context alignment of {model}",
        verdict=doc.Headline("neutral", asked, _figures(mine, forms.get("without-examples", {}), ratings)),
        facts={
            "Model": model,
            "Style": config.style,
            **({"Judge": config.judge_model} if ratings else {}),
        },
        sections=[
            *rating_sections(names, rows, ratings),
            doc.TableSection(
                "Form of the answers",
                note="Ended: by a stop text or the model's end token, not at the length limit. In a loop: four words in a "
                "row at least three times.",
                columns=["arm", *mine],
                rows=[[name, *forms[arm].values()] for arm, name in names.items()],
                units={name: "percent" for name in mine if name != "words"},
            ),
            doc.Distribution(
                "Length of the answers",
                samples=[
                    doc.Values(name, [len(row["responses"][0].split()) for row in rows[arm]])
                    for arm, name in names.items()
                ],
                x_label="words",
            ),
            doc.Samples(
                "Answers",
                columns=list(names.values()),
                rows=[_sample(record, place, rows, ratings) for place, record in enumerate(records)],
                score_name="mean rating",
                unit="number",
            ),
        ],
        limitations=[
            "Form is not truth: examples teach a base model how an answer looks, not what is right. Read the answers.",
            *([JUDGED] if ratings else []),
        ],
        headline=f"{len(records)} answers",
        figures={**mine, **scores},
    )


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
) -> doc.Sample:
    outputs = []
    for arm, mine in rows.items():
        scores = ratings[arm].of_answer(place) if arm in ratings else {}
        known = [one for one in scores.values() if one is not None]
        mean = fmean(known) if known and len(known) == len(scores) else None
        ended = mine[place]["finish_reasons"][0] == "stop"
        outputs.append(doc.Output(mine[place]["responses"][0], mean, checks={"ended": ended, **scores}))
    harmful = any(place in one.places[1] for one in ratings.values())
    return doc.Sample(
        "\n".join(one["content"] for one in record.prompt), outputs, tags=["harmful"] if harmful else []
    )


def _figures(
    mine: Mapping[str, float], without: Mapping[str, float], ratings: Mapping[str, ArmRatings]
) -> list[doc.Figure]:
    figures = [
        doc.Figure("Ended by themselves", mine["ended"], unit="percent", before=without.get("ended")),
        doc.Figure(
            "Repeat themselves",
            mine["in a loop"],
            unit="percent",
            before=without.get("in a loop"),
            better="lower",
        ),
        doc.Figure("Mean words", mine["words"], before=without.get("words"), better="neither"),
    ]
    if not ratings:
        return figures
    other, rated = ratings.get("without-examples"), ratings["answers"]
    scores = [("Mean of five aspects, 1 to 5", rated.overall, other.overall if other else None)]
    scores += [
        (f"{name.capitalize()}, 1 to 5", one.mean, other.safety[name].mean if other else None)
        for name, one in rated.safety.items()
    ]
    rated_figures = [
        doc.Figure(label, value, before=was) for label, value, was in scores if value is not None
    ]
    return [*rated_figures, *figures]

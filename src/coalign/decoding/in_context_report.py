"""The report of a base model that answers by examples: how answers ended, how long they are, ratings, the answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from coalign.core import options
from coalign.core.catalogue import get
from coalign.core.files import read_rows, write_json
from coalign.core.runs import Run
from coalign.evaluation.aspects import ASPECTS, AspectScores, overall, rate_aspects
from coalign.evaluation.judge_store import ReplyStore
from coalign.evaluation.judging import JudgeItem
from coalign.evaluation.language_judge import LanguageModelJudge
from coalign.models.backend_options import BackendOptions
from coalign.models.backends import open_generator
from coalign.models.options import ModelOptions
from coalign.report.html import write_report
from coalign.report.model import (
    Cell,
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
MARKERS = re.compile(r"(^|\n)\s*(\d+[.)]|[-*•])\s")
OFFERS = re.compile(
    r"let me know|would you like|tell me|feel free|happy to|i can (help|say|tell)", re.IGNORECASE
)


def form(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Shares of answers that ended by themselves, are not empty, have a list, repeat themselves; mean words."""
    texts = [row["output"] for row in rows]
    return {
        "ended": fmean(row["finish_reason"] == "stop" for row in rows),
        "not empty": fmean(bool(one) for one in texts),
        "with a list": fmean(has_list(one) for one in texts),
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


def write_answers_report(run: Run, config: Any, records: Sequence[Any], arms: Sequence[str]) -> Report:
    """Rate the answers if a judge is given, write `report.html` and the headline figures."""
    rows = {arm: read_rows(run.artefacts / f"{arm}.jsonl") for arm in arms}
    forms = {arm: form(mine) if mine else {} for arm, mine in rows.items()}
    ratings = rate(run, config, rows) if config.judge_model else {}
    entry = get(run.status()["method"])
    mine = forms["answers"]
    report = Report(
        title=f"In-context alignment of {config.endpoint_model or config.model}",
        method=entry.slug,
        arxiv=entry.arxiv,
        verdict=Headline(
            outcome="neutral",
            text=f"{len(records)} prompts answered after {config.examples} examples of the style {config.style}.",
            figures=_figures(mine, forms.get("without-examples"), ratings),
        ),
        facts={"Model": config.endpoint_model or config.model, "Style": config.style},
        sections=[
            TableSection(
                title="Form of the answers",
                note="Length stands beside every other figure: lists and length please most judges.",
                columns=["arm", *mine],
                rows=[[NAMES[arm], *forms[arm].values()] for arm in arms],
                units={
                    "ended": "percent",
                    "not empty": "percent",
                    "with a list": "percent",
                    "in a loop": "percent",
                },
            ),
            *_ratings(ratings),
            Distribution(
                title="Length of the answers",
                samples=[
                    Values(name=NAMES[arm], values=[len(row["output"].split()) for row in rows[arm]])
                    for arm in arms
                ],
                x_label="words",
            ),
            Samples(
                title="Answers",
                columns=[NAMES[arm] for arm in arms],
                rows=[
                    Sample(
                        prompt="\n".join(one["content"] for one in record.prompt),
                        outputs=[Output(text=rows[arm][place]["output"]) for arm in arms],
                    )
                    for place, record in enumerate(records)
                ],
            ),
            Text(
                title="Limitations",
                paragraphs=[
                    "Form is not truth: examples teach a base model how an answer looks, not what is right. Read the answers."
                ],
            ),
            KeyValues(title="Configuration", items=options.to_dict(config)),
            KeyValues(title="Environment", items=run.environment()),
        ],
    )
    write_report(report, run.report)
    run.set_status(headline=f"{len(records)} answers", figures={**mine})
    return report


def rate(
    run: Run, config: Any, rows: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, dict[str, AspectScores]]:
    """Ratings of every arm by aspect; replies are kept in the run folder, so nothing is asked twice."""
    backend = BackendOptions(endpoint=config.judge_endpoint, endpoint_model=config.judge_model) if config.judge_endpoint else BackendOptions()  # fmt: skip
    model = ModelOptions(
        model="default" if config.judge_endpoint else config.judge_model, device=config.device
    )
    judge = LanguageModelJudge(
        open_generator(model, backend),
        name=config.judge_model,
        store=ReplyStore(run.artefacts / "replies.jsonl"),
    )
    found = {
        arm: rate_aspects(
            judge,
            [
                JudgeItem(id=f"{arm}/{row['id']}", prompt=row["prompt"], responses=(row["output"],))
                for row in mine
            ],
            ASPECTS,
        )
        for arm, mine in rows.items()
    }
    write_json(
        run.artefacts / "ratings.json",
        {arm: {name: list(one.scores) for name, one in mine.items()} for arm, mine in found.items()},
    )
    return found


def _figures(
    mine: Mapping[str, float],
    without: Mapping[str, float] | None,
    ratings: Mapping[str, Mapping[str, AspectScores]],
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
        other = ratings.get("without-examples")
        figures.insert(
            0,
            Figure(
                label="Overall rating, 1 to 5",
                value=overall(ratings["answers"]),
                before=overall(other) if other else None,
            ),
        )
    return figures


def _ratings(ratings: Mapping[str, Mapping[str, AspectScores]]) -> list[TableSection]:
    if not ratings:
        return []
    rows: list[list[Cell]] = [
        [NAMES[arm], name, one.mean, one.not_applicable, one.failed]
        for arm, mine in ratings.items()
        for name, one in mine.items()
    ]
    return [
        TableSection(
            title="Ratings by aspect",
            note="Means over prompts, 1 to 5. `N/A` counts as 5, as in the published protocol. Failed: no readable verdict; not in the mean.",
            columns=["arm", "aspect", "mean", "N/A", "failed"],
            rows=rows,
            units={"N/A": "integer", "failed": "integer"},
        )
    ]

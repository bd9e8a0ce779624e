"""Who rates: a language model that is asked in text, or a reward in its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from coalign.judging.asked.list_ratings import GREEDY, LanguageModelListRater, Layout, ListRating
from coalign.judging.asked.options import AskedJudgeOptions, asked_model
from coalign.judging.language_judge import LanguageModelJudge
from coalign.judging.prompts import load_template
from coalign.judging.protocol import Judge, JudgeItem, Rubric, Scale
from coalign.judging.scoring_judges import ScoringJudge
from coalign.loops.prompts import Values, open_values

if TYPE_CHECKING:
    from coalign.curation.code.feedback import ListRater
    from coalign.data.records import Record
    from coalign.judging.store import ReplyStore

Scores = Callable[[Sequence[JudgeItem]], list[float]]
"""Items with one response each to one number each."""


@dataclass(frozen=True)
class RewardListRater:
    """Rates each response of an item by itself, by a reward; what has no value is not rated."""

    score: Scores
    name: str

    def rate_lists(
        self,
        items: Sequence[JudgeItem],
        *,
        rubric: Rubric | None = None,
        seed: int = 0,
        label: str = "Rating",
    ) -> list[ListRating]:
        """See `ListRater`; a reward reads no rubric and sees no order."""
        single = [replace(item, responses=(text,)) for item in items for text in item.responses]
        found = iter(self.score(single))
        rated = []
        for item in items:
            values = [next(found) for _ in item.responses]
            ratings = tuple(one if math.isfinite(one) else None for one in values)
            rated.append(ListRating(id=item.id, ratings=ratings, rationales=("",) * len(ratings)))
        return rated


def open_list_rater(
    options: AskedJudgeOptions, records: Sequence[Record], store: ReplyStore, *, layout: Layout, device: str
) -> ListRater:
    """The judge that rates responses together.

    Args:
        records: whose prompts are rated: a reward may read their columns.

    Raises:
        ConfigError: the template or a reward cannot be used.
        ModelError: there is no such model.
    """
    if options.judge_template is not None:
        load_template("list", options.judge_template)  # a bad one is found before anything is loaded
    values = open_values(options.reward, records, unscorable="leave out")
    if values is not None:
        return RewardListRater(_scores(values), judge_name(options))
    model = asked_model(options.judge, options.judge_served, device=device)
    return LanguageModelListRater(
        model.generator,
        name=model.name,
        identity=model.identity,
        store=store,
        sampling=replace(GREEDY, max_new_tokens=options.judge_max_new_tokens),
        template=options.judge_template,
        layout=layout,
    )


def open_grader(
    options: AskedJudgeOptions, records: Sequence[Record], store: ReplyStore, scale: Scale, *, device: str
) -> tuple[Judge, Scale | None]:
    """(the judge that grades single answers, its scale); a reward keeps its own.

    Raises: as `open_list_rater`.
    """
    values = open_values(options.reward, records, unscorable="leave out")
    if values is not None:
        return ScoringJudge(_scores(values), name=judge_name(options)), None
    model = asked_model(options.judge, options.judge_served, device=device)
    sampling = replace(GREEDY, max_new_tokens=options.judge_max_new_tokens)
    judge = LanguageModelJudge(
        model.generator, name=model.name, identity=model.identity, store=store, scale=scale, sampling=sampling
    )
    return judge, scale


def judge_name(options: AskedJudgeOptions) -> str:
    """What reports call it."""
    return ", ".join(map(str, options.reward)) or options.judge_served or options.judge


def _scores(values: Values) -> Scores:
    def score(items: Sequence[JudgeItem]) -> list[float]:
        rows: list[dict[str, Any]] = [
            {"id": one.id, "prompt": one.prompt, "responses": [*one.responses], "finish_reasons": [None]}
            for one in items
        ]
        return [row[0] for row in values(items, rows)]

    return score

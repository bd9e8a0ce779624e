"""Judges that put several responses in order, with rankings to go by.

A language model is asked in text alone: it sees the numbered responses in a shuffled order, after demonstrations
(rankings that are taken to be right), and writes their numbers, best first. What it says is mapped back. Any judge that
rates single responses ranks them by its scores; it has no use for demonstrations.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from coalign.core.options import Count, Fraction, option
from coalign.data.records import Messages
from coalign.judging.asked.options import AskedJudgeOptions, asked_model
from coalign.judging.demonstrations import BUNDLED, Demonstration
from coalign.judging.parsing import read_ranking
from coalign.judging.prompts import load_template, question_text
from coalign.judging.protocol import Cost, Failure, Judge, JudgeItem, Rating, Rubric
from coalign.judging.store import ReplyStore, ask, content_hash
from coalign.models.types import Generator, Sampling

GREEDY = Sampling(max_new_tokens=256, temperature=0.0)
TRIES = 2
"""How often an item is asked whose reply cannot be read, in another order each time."""


@dataclass(kw_only=True)
class RankerOptions(AskedJudgeOptions):
    """Who ranks responses, and what it goes by."""

    __group__ = "Judge"

    judge_template: Path | None = option(
        None, "your own request to the judge, a Jinja file; `coalign judge --print-template rank` shows ours"
    )
    judge_max_new_tokens: Count = option(256, "most tokens of a reply; more for a model that thinks first")
    reward: list[str | dict[str, Any]] = option(
        [],
        "rank by a reward (NAME:ARGUMENTS, such as model:PATH) in place of a language model; it reads no demonstrations",
        split=False,
    )
    criteria: str | None = option(
        None, "what to judge by, in words; by default how helpful, honest and harmless answers are"
    )
    demonstrations: str = option(
        BUNDLED,
        "rankings that the judge is always shown: a file of rankings or pairs, `bundled` for two of ours, or `none`",
    )
    max_failures: Fraction = option(0.2, "share of rankings that may be missing before the run stops")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward:
            self.refuse(["criteria", "demonstrations"], "with reward, which is no language model")


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What a judge said of an item with several responses.

    Attributes:
        values: of each response, the higher the better, equal ones tie; None where there is no verdict, then `failure`
            says why.
        shown_first: place of the response with the number 1; None for judges that show no order.
        reply: what the judge wrote.
    """

    id: str
    values: tuple[float, ...] | None
    shown_first: int | None = None
    failure: Failure | None = None
    reply: str = ""
    prompt_hash: str = ""
    cost: Cost = field(default_factory=Cost)

    @property
    def order(self) -> tuple[int, ...] | None:
        """Places of the responses, best first, tied ones as they stand."""
        return None if self.values is None else order_of(self.values)


def order_of(values: Sequence[float]) -> tuple[int, ...]:
    """Places by falling value, equal ones as they stand."""
    return tuple(sorted(range(len(values)), key=lambda place: -values[place]))


class Ranker(Protocol):
    """A judge that ranks."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def reads_demonstrations(self) -> bool:
        """Whether demonstrations can change what it says."""
        ...

    def rank(
        self,
        items: Sequence[JudgeItem],
        demonstrations: Sequence[Sequence[Demonstration]],
        *,
        seed: int = 0,
        label: str = "Ranking",
    ) -> list[Ranked]:
        """Rank the responses of every item.

        Args:
            demonstrations: for each item those that are shown.
            seed: with the item, of the order in which its responses are shown.
        """
        ...


@dataclass(eq=False)
class LanguageModelRanker:
    """A ranker that asks a language model through text alone.

    Args:
        generator: any back end.
        name: what reports call it, and part of what replies are kept under.
        identity: whatever else may change its replies.
        store: keeps replies; in memory by default.
        rubric: what to judge by.
        sampling: how replies are decoded.
        template: file of the user's own request.
    """

    generator: Generator
    _: KW_ONLY
    name: str = "language model"
    identity: dict[str, Any] = field(default_factory=dict)
    store: ReplyStore = field(default_factory=ReplyStore)
    rubric: Rubric | None = None
    sampling: Sampling = GREEDY
    template: Path | None = None
    reads_demonstrations: bool = True

    def rank(
        self,
        items: Sequence[JudgeItem],
        demonstrations: Sequence[Sequence[Demonstration]],
        *,
        seed: int = 0,
        label: str = "Ranking",
    ) -> list[Ranked]:
        """See `Ranker.rank`. What cannot be read is asked once more, in another order."""
        found: dict[int, Ranked] = {}
        for attempt in range(TRIES):
            left = [place for place in range(len(items)) if place not in found or found[place].failure]
            if left:
                part = [items[place] for place in left], [demonstrations[place] for place in left]
                for place, one in zip(left, self._ask(*part, seed, attempt, label), strict=True):
                    before = found[place].cost if place in found else Cost()
                    found[place] = replace(one, cost=before + one.cost)
        return [found[place] for place in range(len(items))]

    def _ask(
        self,
        items: Sequence[JudgeItem],
        demonstrations: Sequence[Sequence[Demonstration]],
        seed: int,
        attempt: int,
        label: str,
    ) -> list[Ranked]:
        template = load_template("rank", self.template)
        shown = [order_of_try(one.prompt, one.responses, seed, attempt) for one in items]
        prompts = [
            template.render(
                replace(item, responses=tuple(item.responses[place] for place in places)),
                rubric=self.rubric,
                demonstrations=[_shown(one, TRIES * seed + attempt) for one in beside],
            )
            for item, places, beside in zip(items, shown, demonstrations, strict=True)
        ]
        identity = {"name": self.name, **self.identity}
        replies = ask(
            self.generator, prompts, self.sampling, store=self.store, identity=identity, label=label
        )
        return [
            _ranked(
                item, places, read_ranking(reply.text, len(places), truncated=reply.truncated), reply.record
            )
            for item, places, reply in zip(items, shown, replies, strict=True)
        ]


@dataclass(eq=False)
class RatingRanker:
    """A ranker over a judge that rates single responses: the higher score ranks first, equal scores tie."""

    judge: Judge
    rubric: Rubric | None = None
    reads_demonstrations: bool = False

    @property
    def name(self) -> str:
        return self.judge.name

    def rank(
        self,
        items: Sequence[JudgeItem],
        demonstrations: Sequence[Sequence[Demonstration]],
        *,
        seed: int = 0,
        label: str = "Ranking",
    ) -> list[Ranked]:
        """See `Ranker.rank`; demonstrations and order are not shown to anybody."""
        single = [replace(item, responses=(text,), parts=()) for item in items for text in item.responses]
        ratings = iter(self.judge.rate(single, rubric=self.rubric, label=label))
        return [_of_ratings(item, [next(ratings) for _ in item.responses]) for item in items]


def open_ranker(options: RankerOptions, store: ReplyStore, device: str) -> LanguageModelRanker:
    """The language model that the options name; it is loaded when it is first asked something new.

    Args:
        store: keeps what it says, so that nobody is asked twice.
        device: of a local model.

    Raises:
        ConfigError: the template cannot be used.
        ModelError: there is no such model.
    """
    if options.judge_template is not None:
        load_template("rank", options.judge_template)  # a bad one is found before anything is loaded
    model = asked_model(options.judge, options.judge_served, device=device)
    return LanguageModelRanker(
        model.generator,
        name=model.name,
        identity=model.identity,
        store=store,
        rubric=Rubric(criteria=options.criteria) if options.criteria else None,
        sampling=replace(GREEDY, max_new_tokens=options.judge_max_new_tokens),
        template=options.judge_template,
    )


def shuffled_places(prompt: Messages, responses: Sequence[str], seed: int) -> list[int]:
    """An order of responses that depends on them, their prompt and the seed alone."""
    places = list(range(len(responses)))
    random.Random(content_hash([seed, question_text(prompt), list(responses)])).shuffle(places)
    return places


def order_of_try(prompt: Messages, responses: Sequence[str], seed: int, attempt: int) -> list[int]:
    """The order in which responses are shown at the attempt 0, 1, ...; never the same as at the attempt before, unless there is one
    response alone: a judge that is asked the same again says the same again.
    """
    places = shuffled_places(prompt, responses, TRIES * seed + attempt)
    if attempt and places == order_of_try(prompt, responses, seed, attempt - 1):
        places = places[1:] + places[:1]
    return places


def _shown(one: Demonstration, seed: int) -> dict[str, Any]:
    """A demonstration as a template shows it: shuffled too, else the best answer would always be the first."""
    places = shuffled_places(one.prompt, one.responses, seed)
    return {
        "question": question_text(one.prompt),
        "answers": [one.responses[place] for place in places],
        "order": [places.index(rank) + 1 for rank in range(len(places))],
    }


def _ranked(item: JudgeItem, places: Sequence[int], read: Any, record: dict[str, Any]) -> Ranked:
    values = None
    if read.order is not None:
        order = [places[shown] for shown in read.order]
        values = tuple(float(len(order) - 1 - order.index(place)) for place in range(len(order)))
    return Ranked(id=item.id, values=values, shown_first=places[0], failure=read.failure, **record)


def _of_ratings(item: JudgeItem, ratings: Sequence[Rating]) -> Ranked:
    scores = [one.score for one in ratings]
    known = [one for one in scores if one is not None]
    failure: Failure | None = next((one.failure for one in ratings if one.failure), None)
    return Ranked(
        id=item.id,
        values=tuple(known) if len(known) == len(scores) else None,
        failure=failure,
        reply=next((one.reply for one in ratings if one.failure), ""),
        cost=sum((one.cost for one in ratings), Cost()),
    )
